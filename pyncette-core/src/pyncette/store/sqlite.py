"""The embedded store: one SQLite file, shared by any number of processes of one machine.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call reads its rows, applies the rules and writes them back inside one
write transaction. WAL with ``synchronous=FULL``: readers and the writer don't block each other, and what was acknowledged
survives a power cut. SQLite has one writer at a time; a call that meets another one waits for it, up to a timeout.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from pyncette.clock import to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.store import lifecycle
from pyncette.store.codec import name_in_bytes
from pyncette.store.contract import ClaimResult, Key, Page, Row, State, Stats
from pyncette.store.rowwise import Change, RowwiseRepository
from pyncette.store.sqlite_errors import is_busy, is_no_text, translated
from pyncette.store.sqlite_rows import (
    DELETE,
    DELETE_UNREADABLE,
    FIELDS,
    FORMAT,
    LIST,
    PARTITIONS,
    PEEK,
    PEEK_NAMED,
    PUT,
    PUT_OFF,
    READY_AT,
    ROWS,
    SCHEMA,
    STATS,
    TAKE,
    TAKE_NAMED,
    encode,
    identifiers,
    instant,
    is_time,
    row_of,
    schema,
    text_or_bytes,
)
from pyncette.store.urls import Backend, BackendURL
from pyncette.waiting import Backoff, to_the_end

__all__ = ["SQLiteRepository", "backend", "schema", "sqlite_repository"]

T = TypeVar("T")


#: The pauses before a statement is tried again that met another connection (seconds), the longest that they can be.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.02


class SQLiteRepository(RowwiseRepository):
    """Rows in a table of a SQLite database, through one connection. Opened by :func:`sqlite_repository`."""

    def __init__(self, database: str, table: str, timeout: float) -> None:
        self._database = database
        self.shared = database != ":memory:"
        self._where = repr(database if database == ":memory:" else str(Path(database).absolute()))
        self._table = table
        self._timeout = timeout
        self._names = identifiers(table)
        # A read of one call must not see what another call has written but not committed: they take turns.
        self._turn = asyncio.Lock()
        self._closed = False
        self._db: aiosqlite.Connection | None = None

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        at = to_microseconds(now)
        among = {"partition": partition, "now": at, "limit": limit, "names": _json(names)}
        peek, take = (PEEK, TAKE) if names is None else (PEEK_NAMED, TAKE_NAMED)

        def missing(found: set[str]) -> Sequence[str]:
            return () if names is None else [name for name in names if name not in found]

        async with self._turns():
            # An idle poll ends here: it has taken no write lock, and waits for nobody's.
            seen = await self._fetch(peek, among)
            first = min((ready_at for _, ready_at in seen if ready_at is not None), default=None)
            if first is None or first > at:
                return ClaimResult([], instant(first), missing({name for name, _ in seen}))
            async with self._transaction():
                found = await self._fetch(take, among)
                ready = sorted((row for row in found if is_time(row[READY_AT])), key=lambda row: row[READY_AT])
                due = [row for row in ready[:limit] if row[READY_AT] <= at]
                rows = [row_of(values) for values in due]
                taken = lifecycle.take(rows, now, lease_duration)
                await self._write([(row.key, row) for row in taken.rows])
                if taken.unreadable:
                    until = to_microseconds(lifecycle.lease_end(now, lease_duration))
                    keys = [values[:2] for values, row in zip(due, rows, strict=True) if row.state is State.UNREADABLE]
                    await self._many(PUT_OFF, [(until, partition, name, name) for partition, name in keys])
        left = ready[len(due) :]
        return ClaimResult(
            taken.claims, instant(left[0][READY_AT]) if left else None, missing({row[1] for row in found}), taken.unreadable
        )

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        if not keys:
            return []
        async with self._turns():
            rows = await self._rows(keys)
        return [rows.get(key) for key in keys]

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await super().unregister(now, keys))
        for index, key in enumerate(keys):
            if not removed[index] and (name := name_in_bytes(key.name)) is not None:
                async with self._turns():
                    removed[index] = bool(await self._fetch(DELETE_UNREADABLE, (key.partition, name, name)))
        return removed

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        async with self._turns():
            while True:
                found = await self._fetch(LIST, (partition, token or "", limit))
                if len(found) <= limit or type(found[limit][1]) is str:
                    break
                limit *= 2  # no page can begin with a name that is no text
        rows = [row_of(values) for values in found]
        # The token is the name that the next page begins with: at once or, if it is removed meanwhile, with the one after it.
        return Page(rows[:limit], rows[limit].key.name if len(rows) > limit else None)

    async def stats(self, now: datetime, partition: str) -> Stats:
        async with self._turns():
            [[rows, due, oldest, failed]] = await self._fetch(STATS, {"partition": partition, "now": to_microseconds(now)})
        return Stats(rows=rows, due=due, oldest_due=instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        async with self._turns():
            return [partition for (partition,) in await self._fetch(PARTITIONS) if type(partition) is str]

    async def _open(self, *, create: bool) -> None:
        address = self._address(create=create)

        async def connect() -> None:
            # First without aiosqlite: where it fails to connect, its thread outlives the event loop and ends with a traceback.
            sqlite3.connect(address, uri=True).close()
            # No waiting in SQLite (timeout=0): a thread that sleeps there can't be cancelled. No implicit transactions.
            self._db = await aiosqlite.connect(address, uri=True, timeout=0, isolation_level=None)

        async with self._turns():
            # To the end even if cancelled: only a connection that is known can be closed, and its thread would outlive us.
            await to_the_end(connect)
            if not create:
                await self._check_table()  # before the first thing that may write
            await self._fetch("PRAGMA journal_mode = WAL")
            await self._fetch("PRAGMA synchronous = FULL")
            if create:
                async with self._transaction():
                    for statement in SCHEMA:
                        await self._fetch(statement)
                    await self._check_table()

    def _address(self, *, create: bool) -> str:
        """The URI of the file, which exists from now on; SQLite itself would let everybody read one that it creates."""
        if not self.shared:
            return "file::memory:"
        path = Path(self._database).absolute()
        if create:
            with contextlib.suppress(OSError):  # what it may be, opening it tells
                # Only if it is new: closing it would take away the locks of this process's connections.
                os.close(os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        elif not path.exists():
            raise StoreMissingError(f"There is no SQLite database {self._where} yet; the application creates it when it first runs")
        return f"{path.as_uri()}?mode=rw"

    async def _check_table(self) -> None:
        [[version]] = await self._fetch("SELECT max(version) FROM {format}")
        if version is not None and (type(version) is not int or version > FORMAT):
            raise RepositoryError(
                f"The table {self._table!r} in {self._where} has the stored format {version!r}, "
                f"but this Pyncette knows only {FORMAT}; upgrade pyncette-core"
            )
        # Fails unless there are our columns and our key.
        await self._fetch(f"EXPLAIN {PUT}", (None,) * len(FIELDS))

    async def _close(self) -> None:
        """Let the call that has its turn end, refuse all others, and close the connection."""
        self._closed = True

        async def close() -> None:
            async with self._turn:
                if self._db is not None:
                    await self._db.close()

        await to_the_end(close)

    @contextlib.asynccontextmanager
    async def _turns(self) -> AsyncIterator[None]:
        """The connection for the caller alone, with no transaction open before or after, however the caller ends."""
        try:
            async with asyncio.timeout(self._timeout), self._turn:
                self._check_open()
                try:
                    yield
                except BaseException:
                    # Handed over at once, however often the caller is cancelled, and aiosqlite's thread works in order: after
                    # the statement that the caller was cancelled in, and before any of whoever has the next turn.
                    if self._db is not None:
                        with contextlib.suppress(sqlite3.Error):
                            await self._db.rollback()  # does nothing where no transaction is open
                    raise
        except TimeoutError as error:
            raise TransientRepositoryError(
                f"The SQLite database {self._where} was busy for {self._timeout:g} s; "
                "look for a connection that keeps it locked, or raise sqlite_timeout"
            ) from error
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise translated(error, self._where, self._table) from error

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        # IMMEDIATE: a transaction that begins with a read can't be raised to a write once somebody else has written.
        await self._fetch("BEGIN IMMEDIATE")
        yield
        await self._fetch("COMMIT")

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        if not changes:
            return []
        async with self._turns(), self._transaction():
            before = await self._rows([key for key, _ in changes])
            after: dict[Key, Row | None] = dict(before)
            answers = []
            for key, change in changes:
                after[key], answer = change(after.get(key))
                answers.append(answer)
            await self._write([(key, row) for key, row in after.items() if row != before.get(key)])
        return answers

    async def _rows(self, keys: Sequence[Key]) -> dict[Key, Row]:
        return {row.key: row for row in map(row_of, await self._fetch(ROWS, (_json(keys),)))}

    async def _write(self, rows: Sequence[tuple[Key, Row | None]]) -> None:
        if kept := [encode(row) for _, row in rows if row is not None]:
            await self._many(PUT, kept)
        if removed := [key for key, row in rows if row is None]:
            await self._many(DELETE, removed)

    async def _many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        await self._patiently(lambda db: db.executemany(sql.format_map(self._names), parameters))

    async def _fetch(self, sql: str, parameters: Any = ()) -> Any:
        def fetch(db: aiosqlite.Connection) -> Awaitable[Any]:
            return db.execute_fetchall(sql.format_map(self._names), parameters)

        try:
            return await self._patiently(fetch)
        except sqlite3.OperationalError as error:
            if not is_no_text(error):
                raise
        # Some text is no UTF-8. As bytes it is in nobody's way.
        assert self._db is not None
        self._db.text_factory = text_or_bytes
        try:
            return await self._patiently(fetch)
        finally:
            self._db.text_factory = str

    async def _patiently(self, statement: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """The result of a statement, again and again while other connections are in its way; only a timeout or closing ends it."""
        assert self._db is not None
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
        while True:
            try:
                return await statement(self._db)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            await asyncio.sleep(pauses.next())
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise RepositoryError(f"The repository of {self._where} is closed; use it within its context")


@contextlib.asynccontextmanager
async def sqlite_repository(
    *,
    sqlite_database: str,
    sqlite_table_name: str = "pyncette_tasks",
    sqlite_timeout: float = 30.0,
    sqlite_skip_table_create: bool = False,
) -> AsyncIterator[SQLiteRepository]:
    """Tasks in a SQLite database.

    :param sqlite_database: path of the file, which is created if it is absent, for its owner alone; ``":memory:"`` is gone when it is closed.
    :param sqlite_table_name: name of the table. Two more are derived from it: ``NAME_format`` and the index ``NAME_ready``.
    :param sqlite_timeout: seconds that a call may take, most of which it waits for other processes to end their writes.
    :param sqlite_skip_table_create: file and table exist, created by the statements of :func:`schema`; don't try to create them.
    :raises ConfigurationError: an option makes no sense.
    :raises StoreMissingError: file or table don't exist, and are not to be created.
    :raises RepositoryError: the file can't be used, or has another table of this name.
    """
    database = os.fspath(sqlite_database)  # a path object is as welcome
    if not database or "\0" in database:
        raise ConfigurationError(f"sqlite_database={database!r} is not the path of a file; write for example 'pyncette.db'")
    if not sqlite_timeout > 0:
        raise ConfigurationError(f"sqlite_timeout={sqlite_timeout!r} is not a number of seconds above 0")
    repository = SQLiteRepository(database, sqlite_table_name, sqlite_timeout)
    try:
        await repository._open(create=not sqlite_skip_table_create)
        yield repository
    finally:
        await repository._close()


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.hosts or url.username is not None or url.password is not None:
        raise ConfigurationError(
            f"A SQLite URL has no host, but {url} has; write sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    return {"sqlite_database": url.path[1:] or ":memory:"}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


backend = Backend(contract_version=1, factory=sqlite_repository, prefix="sqlite_", from_url=_from_url)
