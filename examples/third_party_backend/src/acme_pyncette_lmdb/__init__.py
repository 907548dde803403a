"""Tasks of Pyncette in an LMDB environment: a directory on a local disk, shared by the processes of one machine.

LMDB has one writer at a time and durable transactions over any number of keys. So each call of the contract is one transaction, in
which rows are read, changed by the rules of :mod:`pyncette.lifecycle`, and written back. What is stored, all keys being bytes:

- ``t`` + digest of the partition + digest of the name: a row, as its name, NUL, and a JSON object of the rest;
- ``r`` + digest of the partition + ready_at + digest of the name: empty; in the order in which rows get ready;
- ``format``: the version of all this.

Digests, because a key of LMDB has 511 bytes at most, and a name may have 1,000. The name is not within the object, so that a row can be
shown and removed whatever has become of that.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import lmdb

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import from_json, to_json, unreadable
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import ClaimResult, Key, Page, Row, State
from pyncette.rowwise import Change, RowwiseRepository

__all__ = ["LMDBRepository", "backend", "lmdb_repository"]

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

#: Raised whenever what is stored changes its meaning.
FORMAT = 1

#: Nothing is wrong with the call, and it will succeed once somebody has helped: so it is to be repeated.
_TRANSIENT = (lmdb.MapFullError, lmdb.MapResizedError, lmdb.DiskError, lmdb.ReadersFullError, lmdb.LockError, lmdb.MemoryError)


class LMDBRepository(RowwiseRepository):
    """Rows in an LMDB environment. Opened by :func:`lmdb_repository`."""

    def __init__(self, environment: lmdb.Environment, thread: ThreadPoolExecutor, timeout: float) -> None:
        self._environment = environment
        # One, so that a call which was cancelled ends before the next begins.
        self._thread = thread
        self._timeout = timeout
        self._where = f"The LMDB environment {environment.path()!r}"

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        def ready(txn: Transaction, count: int) -> tuple[Sequence[tuple[datetime, Row]], Sequence[str]]:
            if names is None:
                return list(itertools.islice(_ready(txn, partition), count)), ()
            rows = {name: _get(txn, Key(partition, name)) for name in names}
            found = [(row.ready_at, row) for row in rows.values() if row is not None and row.ready_at is not None]
            return sorted(found, key=lambda pair: pair[0]), [name for name, row in rows.items() if row is None]

        def take(txn: Transaction) -> ClaimResult:
            found, missing = ready(txn, limit + 1)  # the one more is what comes next
            due = {row.key: row for at, row in found[:limit] if at <= now}
            taken = lifecycle.take(due.values(), now, lease_duration)
            for row in taken.rows:
                _put(txn, row.key, due[row.key], row)
            for row in taken.unreadable:
                _move(txn, row)
            return ClaimResult(taken.claims, found[len(due)][0] if len(found) > len(due) else None, missing, taken.unreadable)

        # An idle poll ends here: it only reads, and waits for nobody.
        found, missing = await self._run(lambda txn: ready(txn, 1))
        if not found or found[0][0] > now:
            return ClaimResult([], found[0][0] if found else None, missing)
        return await self._run(take, write=True)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await self._run(lambda txn: [_get(txn, key) for key in keys])

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        def page(txn: Transaction) -> Page:
            found = list(itertools.islice(_scan(txn, b"t" + _digest(partition), bytes.fromhex(token or "")), limit + 1))
            rows = [_listed(partition, digest, value) for digest, value in found[:limit]]
            return Page(rows, found[limit][0].hex() if len(found) > limit else None)

        return await self._run(page)

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        def update(txn: Transaction) -> Sequence[T]:
            answers = []
            for key, change in changes:
                before = _get(txn, key)
                after, answer = change(before)
                if after != before:
                    _put(txn, key, before, after)
                answers.append(answer)
            return answers

        return await self._run(update, write=True)

    async def _open(self) -> None:
        def check(txn: Transaction) -> None:
            version = txn.get(b"format")
            if version is None and not txn.stat()["entries"]:
                txn.put(b"format", b"%d" % FORMAT)
            elif version is None or not version.isdigit():
                raise RepositoryError(f"{self._where} is not one of Pyncette's; choose another lmdb_path")
            elif int(version) > FORMAT:
                raise RepositoryError(
                    f"{self._where} has the stored format {int(version)}, but this program knows only {FORMAT}; upgrade acme-pyncette-lmdb"
                )

        await self._run(check, write=True)

    async def _run(self, work: Callable[[Transaction], T], *, write: bool = False) -> T:
        def transaction() -> T:
            with self._environment.begin(write=write) as txn:  # committed if `work` returns, undone if it raises
                return work(txn)

        try:
            job = self._thread.submit(transaction)
        except RuntimeError as error:
            raise RepositoryError(f"{self._where} is closed; use it within its context") from error
        ended = asyncio.wrap_future(job)
        ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may be left to ask for it
        try:
            await asyncio.wait([ended], timeout=self._timeout)
        except asyncio.CancelledError:
            if not job.cancel():
                # A thread can't be interrupted, and when this call has ended nothing of it must be going on.
                await asyncio.wait([ended], timeout=self._timeout)
            raise
        if not ended.done():
            job.cancel()
            raise TransientRepositoryError(f"{self._where} was busy for {self._timeout:g} s; look for a process that hangs in it")
        try:
            return ended.result()
        except _TRANSIENT as error:
            raise TransientRepositoryError(
                f"{self._where} can't be used now ({error}); raise lmdb_map_size or free space"
            ) from error
        except (lmdb.Error, ValueError) as error:  # a damaged row or a name that is no UTF-8 is a ValueError
            raise RepositoryError(f"{self._where} refused ({type(error).__name__}: {error})") from error


@contextlib.asynccontextmanager
async def lmdb_repository(
    *, lmdb_path: str, lmdb_map_size: int = 2**30, lmdb_timeout: float = 30.0, lmdb_skip_table_create: bool = False
) -> AsyncIterator[LMDBRepository]:
    """Tasks in an LMDB environment.

    :param lmdb_path: path of a directory on a local disk. It is created, in one that exists.
    :param lmdb_map_size: how many bytes it may grow to; the same in all processes.
    :param lmdb_timeout: seconds that a call may take, most of which it waits for other processes to end their writes.
    :param lmdb_skip_table_create: the directory exists; don't try to create it.
    :raises ConfigurationError: an option is not valid.
    :raises StoreMissingError: the directory doesn't exist, and is not to be created.
    :raises RepositoryError: the directory can't be used.
    """
    if not lmdb_path or "\0" in lmdb_path:
        raise ConfigurationError(f"lmdb_path={lmdb_path!r} is not the path of a directory; write for example 'tasks.lmdb'")
    if lmdb_map_size < 2**20:
        raise ConfigurationError(f"lmdb_map_size={lmdb_map_size!r} is not a number of bytes above a million")
    if not lmdb_timeout > 0:
        raise ConfigurationError(f"lmdb_timeout={lmdb_timeout!r} is not a number of seconds above 0")
    path, environment = _acquire(lmdb_path, lmdb_map_size, create=not lmdb_skip_table_create)
    thread = ThreadPoolExecutor(1, thread_name_prefix="lmdb")
    try:
        repository = LMDBRepository(environment, thread, lmdb_timeout)
        await repository._open()
        yield repository
    finally:
        # By the thread, after all that it has begun: closing an environment in use would end the process.
        released = asyncio.wrap_future(thread.submit(_release, path))
        thread.shutdown(wait=False)
        await asyncio.wait([released], timeout=lmdb_timeout)


#: LMDB must not open an environment twice in one process, so that repositories share it. And how many do.
_environments: dict[str, tuple[lmdb.Environment, int]] = {}
_guard = threading.Lock()


def _acquire(path: str, map_size: int, *, create: bool) -> tuple[str, lmdb.Environment]:
    path = os.path.realpath(path)
    if not create and not Path(path, "data.mdb").exists():
        raise StoreMissingError(f"There is no LMDB environment {path!r} yet; the application creates it when it first runs")
    with _guard:
        try:
            environment, users = _environments.get(path) or (lmdb.open(path, map_size=map_size), 0)
            environment.reader_check()  # forget the readers that were killed
        except (lmdb.Error, OSError) as error:
            raise RepositoryError(f"The LMDB environment {path!r} can't be opened ({error}); check lmdb_path") from error
        _environments[path] = environment, users + 1
        return path, environment


def _release(path: str) -> None:
    with _guard:
        environment, users = _environments.pop(path)
        if users > 1:
            _environments[path] = environment, users - 1
        else:
            environment.close()


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.hosts or url.username is not None or url.password is not None or not url.path[1:]:
        raise ConfigurationError(
            f"An LMDB URL is a path and no host, but not {url}; write lmdb:///relative/path or lmdb:////absolute/path"
        )
    return {"lmdb_path": url.path[1:]}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _row_key(key: Key) -> bytes:
    return b"t" + _digest(key.partition) + _name_digest(key.name)


def _name_digest(name: str) -> bytes:
    return bytes.fromhex(name[1:]) if name[:1] == "\0" else _digest(name)


def _ready_key(key: Key, ready_at: datetime | None) -> bytes | None:
    if ready_at is None:
        return None
    at = to_microseconds(ready_at) + 2**63  # years before 1970, too, in the order of their bytes
    return b"r" + _digest(key.partition) + at.to_bytes(8, "big") + _name_digest(key.name)


def _get(txn: Transaction, key: Key) -> Row | None:
    value = txn.get(_row_key(key))
    row = None if value is None else _decode(key, value)
    if row is not None and row.state is State.UNREADABLE:  # only the index can say when it is ready
        return next((each for _, each in _ready(txn, key.partition) if each.key == key), row._replace(ready_at=None))
    return row


def _put(txn: Transaction, key: Key, before: Row | None, after: Row | None) -> None:
    if before is not None and before.state is State.UNREADABLE:
        _move(txn, before._replace(ready_at=None))
        before = None
    was, is_now = before and _ready_key(key, before.ready_at), after and _ready_key(key, after.ready_at)
    if was is not None and was != is_now:
        txn.delete(was)
    if is_now is not None and was != is_now:
        txn.put(is_now, b"")
    if after is None:
        txn.delete(_row_key(key))
    else:
        txn.put(_row_key(key), _encode(after))


def _move(txn: Transaction, row: Row) -> None:
    """Have the index say ``row.ready_at`` of an unreadable row, whatever it says now: the row does not tell."""
    prefix, name = b"r" + _digest(row.key.partition), _name_digest(row.key.name)
    for entry in [entry for entry, _ in _scan(txn, prefix) if entry[8:] == name]:
        txn.delete(prefix + entry)
    if (now := _ready_key(row.key, row.ready_at)) is not None:
        txn.put(now, b"")


def _ready(txn: Transaction, partition: str) -> Iterator[tuple[datetime, Row]]:
    digest = _digest(partition)
    for entry, _ in _scan(txn, b"r" + digest):
        value = txn.get(b"t" + digest + entry[8:])
        if len(entry) == 8 + 32 and value is not None:
            row = _listed(partition, entry[8:], value)
            with contextlib.suppress(OverflowError):
                at = from_microseconds(int.from_bytes(entry[:8], "big") - 2**63)
                if row.state is State.UNREADABLE:
                    yield at, row._replace(ready_at=at)
                elif row.ready_at == at:
                    yield at, row
        # Whatever else is there is not one of our entries.


def _scan(txn: Transaction, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Entries that begin with ``prefix``, from ``start`` on, without the prefix, ascending."""
    cursor = txn.cursor()
    if cursor.set_range(prefix + start):
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], value


def _encode(row: Row) -> bytes:
    return row.key.name.encode() + b"\0" + to_json(row).encode()


def _listed(partition: str, digest: bytes, value: bytes) -> Row:
    """A row whose name is known by its digest only, and by what is stored."""
    name = value.partition(b"\0")[0].decode(errors="replace")
    # One whose name is damaged, too, goes by the digest: no task is called so.
    return _decode(Key(partition, name if _digest(name) == digest else "\0" + digest.hex()), value)


def _decode(key: Key, value: bytes) -> Row:
    name, _, text = value.partition(b"\0")
    return from_json(key, text) if name == key.name.encode() else unreadable(key, "it has another name")


backend = Backend(contract_version=1, factory=lmdb_repository, prefix="lmdb_", from_url=_from_url)
