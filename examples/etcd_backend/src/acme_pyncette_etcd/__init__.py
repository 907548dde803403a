"""Tasks of Pyncette in etcd: a key-value store with conditional writes, spoken to through its JSON gateway.

etcd changes keys on a condition, several at once if need be, so the repository is a :class:`CompareAndSetRepository`, and keeps its
index itself: a separate key in the order of time, written in the same transaction as the row. What is stored, below a prefix:

- ``rows/`` + partition + ``/`` + name: when the row is ready, in 20 characters, and a JSON object of all of it;
- ``ready/`` + partition + ``/`` + the same 20 characters + ``/`` + name: empty; in the order in which rows get ready;
- ``format``: the version of all this.

In a partition, what is not a letter or digit is percent-encoded. The time is also before the object, so that a row whose object
is not valid can be put off, and nothing else of it has to be understood or written.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

from pyncette.backends import Backend, BackendURL
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import from_json, name_of_bytes, to_json, unreadable
from pyncette.compare_and_set import CompareAndSetRepository, Stored, Write
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import Key, Page, Row, State

__all__ = ["EtcdRepository", "backend", "etcd_repository"]

#: Raised whenever what is stored changes its meaning.
FORMAT = 1

#: Operations in a transaction, of which etcd takes 128 with those of the transactions within, and their bytes, of 1.5 million.
_TOGETHER, _BYTES = 60, 1_000_000
#: Codes of gRPC that no waiting will change: invalid, not found, forbidden, failed precondition, not there, not logged in.
_PERMANENT = {3, 5, 7, 9, 12, 16}
_WIDTH = 20
_NEVER = b"-" * _WIDTH
#: Years before 1970 are in order, too.
_ZERO = 10**19
_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))


class _Version(NamedTuple):
    """What a row was when it was read."""

    #: The revision of the whole store in which it was written: never the same for two states of a key.
    revision: str
    #: Its key in the index, if it has one.
    entry: bytes | None
    value: bytes


class EtcdRepository(CompareAndSetRepository):
    """Rows in etcd. Opened by :func:`etcd_repository`."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, prefix: str, timeout: float) -> None:
        self._session = session
        self._endpoint = endpoint
        self._prefix = prefix.encode() + b"/"
        self._timeout = timeout
        self._where = f"etcd at {endpoint}"

    async def read(self, key: Key) -> Stored | None:
        [stored] = await self.read_many([key])
        if isinstance(stored, Exception):
            raise stored
        return stored

    async def write(self, write: Write) -> bool:
        [written] = await self.write_many([write])
        if isinstance(written, Exception):
            raise written
        return written

    async def read_many(self, keys: Sequence[Key]) -> Sequence[Stored | Exception | None]:
        def planned(key: Key) -> dict[str, Any] | Exception:
            try:
                return {"request_range": {"key": _text(self._row(key))}}
            except UnicodeEncodeError as error:
                return _no_text(error)

        def found(key: Key, answer: Mapping[str, Any]) -> Stored | None:
            kvs = answer["response_range"].get("kvs")
            return self._stored(key, kvs[0]) if kvs else None

        answers = await self._together([planned(key) for key in keys])
        return [answer if isinstance(answer, Exception) else found(key, answer) for key, answer in zip(keys, answers, strict=True)]

    async def write_many(self, writes: Sequence[Write]) -> Sequence[bool | Exception]:
        """One transaction within which each write is a transaction of its own, on its own condition."""

        def planned(write: Write) -> dict[str, Any] | Exception:
            try:
                return {"request_txn": self._transaction(write)}
            except UnicodeEncodeError as error:
                return _no_text(error)

        answers = await self._together([planned(write) for write in writes])
        return [answer if isinstance(answer, Exception) else answer["response_txn"].get("succeeded", False) for answer in answers]

    def _transaction(self, write: Write) -> dict[str, Any]:
        key, before, after = write
        row = self._row(key)
        if before is None:
            was, condition = None, {"target": "VERSION", "version": "0"}
        else:
            version = before.version
            assert isinstance(version, _Version)
            was, condition = version, {"target": "MOD", "mod_revision": version.revision}
        changes = []
        entry = None
        if after is None:
            changes.append({"request_delete_range": {"key": _text(row)}})
        else:
            time = _time(after.ready_at)
            entry = None if after.ready_at is None else self._entry(key, time)
            kept = was is not None and after.state is State.UNREADABLE  # nothing but its time is ours to write
            value = was.value[_WIDTH:] if kept and was is not None else to_json(after).encode()
            changes.append({"request_put": {"key": _text(row), "value": _text(time + value)}})
        if was is not None and was.entry is not None and was.entry != entry:
            changes.append({"request_delete_range": {"key": _text(was.entry)}})
        if entry is not None and (was is None or was.entry != entry):
            changes.append({"request_put": {"key": _text(entry)}})
        return {"compare": [{"key": _text(row), "result": "EQUAL", **condition}], "success": changes}

    async def ready(self, partition: str, limit: int) -> Sequence[Stored]:
        first = self._partition("ready", partition)
        found: list[Stored] = []
        start = first
        while len(found) < limit:
            page = await self._range(start, _after(first), limit - len(found))
            entries = [base64.b64decode(kv["key"]) for kv in page.get("kvs", ())]
            if not entries:
                break
            start = entries[-1] + b"\0"
            due = []
            for entry in entries:
                time, _, name = entry[len(first) :].partition(b"/")
                with contextlib.suppress(UnicodeDecodeError):  # not one of our entries
                    due.append((entry, time, Key(partition, name.decode())))
            for (entry, time, _), stored in zip(due, await self.read_many([key for _, _, key in due]), strict=True):
                if isinstance(stored, Exception):
                    raise stored
                if stored is None:
                    continue  # it has just been removed, or leads nowhere
                row, version = stored
                assert isinstance(version, _Version)
                if row.state is State.UNREADABLE and version.entry is None:
                    with contextlib.suppress(ValueError, OverflowError):
                        at = from_microseconds(max(int(time) - _ZERO, _EARLIEST))
                        found.append(Stored(row._replace(ready_at=at), version._replace(entry=entry)))
                elif version.entry == entry:
                    found.append(stored)
        return found

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        first = self._partition("rows", partition)
        try:
            start = bytes.fromhex(token or "")
        except ValueError:
            raise RepositoryError(f"{token!r:.100} is not a continuation token; start again without one") from None
        page = (await self._range(first + start, _after(first), limit + 1)).get("kvs", ())
        names = [base64.b64decode(kv["key"])[len(first) :] for kv in page]
        rows = [self._listed(partition, name, kv) for name, kv in zip(names, page, strict=True)]
        return Page(rows[:limit], names[limit].hex() if len(names) > limit else None)

    def _listed(self, partition: str, name: bytes, kv: Mapping[str, Any]) -> Row:
        try:
            return self._stored(Key(partition, name.decode()), kv).row
        except UnicodeDecodeError:
            return unreadable(Key(partition, name_of_bytes(name)), "the name is not text")

    def _stored(self, key: Key, kv: Mapping[str, Any]) -> Stored:
        value = base64.b64decode(kv.get("value", ""))
        time = value[:_WIDTH]
        row = from_json(key, value[_WIDTH:])
        if row.state is not State.UNREADABLE and time != _time(row.ready_at):
            row = unreadable(key, "it is ready at two times")
        entry = None
        if len(time) == _WIDTH and time.isdigit():
            entry = self._entry(key, time)
            if row.state is State.UNREADABLE:
                with contextlib.suppress(OverflowError):
                    row = row._replace(ready_at=from_microseconds(max(int(time) - _ZERO, _EARLIEST)))
        elif row.state is State.UNREADABLE:
            row = row._replace(ready_at=None)
        return Stored(row, _Version(kv["mod_revision"], entry, value))

    def _partition(self, kind: str, partition: str) -> bytes:
        try:
            return self._prefix + f"{kind}/{quote(partition, safe='')}/".encode()
        except UnicodeEncodeError as error:
            raise _no_text(error) from None

    def _row(self, key: Key) -> bytes:
        return self._partition("rows", key.partition) + key.name.encode()

    def _entry(self, key: Key, time: bytes) -> bytes:
        return self._partition("ready", key.partition) + time + b"/" + key.name.encode()

    async def _range(self, start: bytes, end: bytes, limit: int) -> Mapping[str, Any]:
        return await self._call("range", {"key": _text(start), "range_end": _text(end), "limit": str(limit)})

    async def _together(self, operations: Sequence[dict[str, Any] | Exception]) -> Sequence[Mapping[str, Any] | Exception]:
        """The answer to each operation, as many as possible in one request; what was wrong with it before stays."""
        results: dict[int, Mapping[str, Any] | Exception] = {}
        batches: list[list[int]] = [[]]
        room = _BYTES
        for index, operation in enumerate(operations):
            if isinstance(operation, Exception):
                results[index] = operation
                continue
            room -= len(str(operation))
            if batches[-1] and (room < 0 or len(batches[-1]) == _TOGETHER):
                batches.append([])
                room = _BYTES - len(str(operation))
            batches[-1].append(index)

        async def send(batch: Sequence[int]) -> None:
            answer = await self._call("txn", {"success": [operations[index] for index in batch]})
            results.update(zip(batch, answer["responses"], strict=True))

        batches = [batch for batch in batches if batch]
        for batch, error in zip(batches, await self._side_by_side(send, batches), strict=True):
            if error is not None:
                results.update(dict.fromkeys(batch, error))
        return [results[index] for index in range(len(operations))]

    async def _call(self, what: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.post(f"{self._endpoint}/v3/kv/{what}", json=body) as response,
            ):
                answer: Mapping[str, Any] = await response.json(content_type=None)
        except TimeoutError as error:
            raise TransientRepositoryError(f"{self._where} did not answer within {self._timeout:g} s; is it running?") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientRepositoryError(f"{self._where} can't be reached ({error}); is it running?") from error
        except ValueError as error:
            raise RepositoryError(f"{self._where} does not speak JSON; is it the address of etcd's clients?") from error
        except RuntimeError as error:
            raise RepositoryError(f"{self._where} is closed; use the repository within its context") from error
        if response.status != 200:
            message, code = str(answer.get("message") or answer.get("error"))[:200], answer.get("code")
            if code in _PERMANENT or "larger than max" in message or "too large" in message:
                raise RepositoryError(f"{self._where} refused: {message}")
            raise TransientRepositoryError(f"{self._where} can't be used now: {message}")
        return answer

    async def _open(self, *, create: bool) -> None:
        key = _text(self._prefix + b"format")
        if create:
            absent = {"key": key, "result": "EQUAL", "target": "VERSION", "version": "0"}
            put = {"request_put": {"key": key, "value": _text(b"%d" % FORMAT)}}
            await self._call("txn", {"compare": [absent], "success": [put]})
        found = (await self._call("range", {"key": key})).get("kvs")
        if not found:
            raise StoreMissingError(f"There is nothing in {self._where} yet; the application creates it when it first runs")
        version = base64.b64decode(found[0].get("value", ""))
        if not version.isdigit():
            raise RepositoryError(f"What is in {self._where} is not Pyncette's; choose another etcd_prefix")
        if int(version) > FORMAT:
            raise RepositoryError(
                f"{self._where} has the stored format {int(version)}, but this program knows only {FORMAT}; upgrade acme-pyncette-etcd"
            )


@contextlib.asynccontextmanager
async def etcd_repository(
    *,
    etcd_endpoint: str = "http://localhost:2379",
    etcd_prefix: str = "pyncette",
    etcd_timeout: float = 10.0,
    etcd_max_connections: int = 16,
    etcd_skip_table_create: bool = False,
) -> AsyncIterator[EtcdRepository]:
    """Tasks in etcd 3.4 or newer.

    :param etcd_endpoint: URL at which it listens to clients.
    :param etcd_prefix: what all keys begin with, so that several applications can share it.
    :param etcd_timeout: seconds that a request may take.
    :param etcd_max_connections: how many may be open at once.
    :param etcd_skip_table_create: create nothing.
    :raises ConfigurationError: an option is not valid.
    :raises StoreMissingError: there is nothing yet, and nothing is to be created.
    :raises RepositoryError: etcd refused; :class:`TransientRepositoryError` if it could not be reached.
    """
    if not etcd_endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(f"etcd_endpoint={etcd_endpoint!r} is not an address; write http://HOST:PORT or https://HOST:PORT")
    if not etcd_timeout > 0:
        raise ConfigurationError(f"etcd_timeout={etcd_timeout!r} is not a number of seconds above 0")
    if etcd_max_connections < 1:
        raise ConfigurationError(f"etcd_max_connections={etcd_max_connections!r} is not a number above 0")
    # A POST is never sent again by aiohttp, so that no write is made twice.
    connector = aiohttp.TCPConnector(limit=etcd_max_connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        repository = EtcdRepository(session, etcd_endpoint.rstrip("/"), etcd_prefix, etcd_timeout)
        await repository._open(create=not etcd_skip_table_create)
        yield repository


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.username is not None or url.password is not None:
        raise ConfigurationError(f"A URL of etcd has no credentials, but {url} has; let a network or certificates keep others out")
    prefix = {"etcd_prefix": url.path[1:]} if url.path[1:] else {}
    tls = url.options.get("tls", "false")
    if tls not in ("true", "false"):
        raise ConfigurationError(f"The option tls={tls!r} of the URL is neither true nor false")
    return {"etcd_endpoint": f"http{'s' * (tls == 'true')}://{url.hostname()}:{url.port(2379)}", **prefix}


def _time(ready_at: datetime | None) -> bytes:
    return _NEVER if ready_at is None else b"%0*d" % (_WIDTH, to_microseconds(ready_at) + _ZERO)


def _after(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``, which ends with a slash."""
    return prefix[:-1] + b"0"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _no_text(error: UnicodeEncodeError) -> RepositoryError:
    return RepositoryError(f"A partition or name can't be stored as UTF-8 ({error.reason})")


backend = Backend(contract_version=1, factory=etcd_repository, prefix="etcd_", from_url=_from_url, url_options=["tls"])
