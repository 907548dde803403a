"""The embedded store: one SQLite file, shared by any number of processes of one machine.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call reads its rows, applies the rules and writes them back inside one
write transaction. WAL with ``synchronous=FULL``: readers and the writer don't block each other, and what was acknowledged
survives a power cut. SQLite has one writer at a time; a call that meets another one waits for it, up to a timeout.
"""

# ruff: noqa: S608 - nothing gets into a statement but the text here and quoted identifiers; values are parameters

import asyncio
import contextlib
import json
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.store import lifecycle
from pyncette.store.contract import ClaimResult, Key, Page, Row, State, Stats
from pyncette.store.rowwise import Change, RowwiseRepository
from pyncette.store.urls import Backend, BackendURL

__all__ = ["SQLiteRepository", "backend", "schema", "sqlite_repository"]

T = TypeVar("T")

#: Raised whenever what is stored changes its meaning; kept in a table beside ours, because ``PRAGMA user_version`` is the user's.
FORMAT = 1

_SCHEMA = (
    # Not WITHOUT ROWID: measured, its rows of a kilobyte and more spill to overflow pages, at half the speed or less.
    """CREATE TABLE IF NOT EXISTS {table} (
    partition TEXT NOT NULL COLLATE BINARY,
    name TEXT NOT NULL COLLATE BINARY,
    spec TEXT NOT NULL,
    schedule TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    execute_after INTEGER NOT NULL,
    ready_at INTEGER,
    lease TEXT,
    locked_until INTEGER,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    PRIMARY KEY (partition, name)
)""",
    "CREATE INDEX IF NOT EXISTS {index} ON {table} (partition, ready_at)",
    "CREATE TABLE IF NOT EXISTS {format} (version INTEGER NOT NULL)",
    f"INSERT INTO {{format}} SELECT {FORMAT} WHERE NOT EXISTS (SELECT * FROM {{format}})",
)

_FIELDS = (
    *("partition", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error"),
)
_READY_AT = _FIELDS.index("ready_at")
_COLUMNS = ", ".join(f"t.{field}" for field in _FIELDS)

# The cross joins and `json_each` over one parameter: the statement, and so its plan, is one for any number of keys.
_ROWS = f"""SELECT {_COLUMNS} FROM json_each(?) AS k CROSS JOIN {{table}} AS t
ON t.partition = json_extract(k.value, '$[0]') AND t.name = json_extract(k.value, '$[1]')"""
_NAMED = "FROM json_each(:names) AS n CROSS JOIN {table} AS t ON t.partition = :partition AND t.name = n.value"
_PEEK_NAMED = f"SELECT t.name, t.ready_at {_NAMED}"
_TAKE_NAMED = f"SELECT {_COLUMNS} {_NAMED}"
_PEEK = "SELECT name, ready_at FROM {table} WHERE partition = :partition AND ready_at IS NOT NULL ORDER BY ready_at LIMIT 1"
# One due row more than can be taken, and the first that is not due: the one or the other is ready next.
_TAKE = f"""SELECT * FROM (SELECT {_COLUMNS} FROM {{table}} AS t
WHERE partition = :partition AND ready_at <= :now ORDER BY ready_at LIMIT :limit + 1)
UNION ALL SELECT * FROM (SELECT {_COLUMNS} FROM {{table}} AS t
WHERE partition = :partition AND ready_at > :now ORDER BY ready_at LIMIT 1)"""
_PUT = f"""INSERT INTO {{table}} ({", ".join(_FIELDS)}) VALUES ({", ".join("?" * len(_FIELDS))})
ON CONFLICT (partition, name) DO UPDATE SET {", ".join(f"{field} = excluded.{field}" for field in _FIELDS[2:])}"""
_DELETE = "DELETE FROM {table} WHERE partition = ? AND name = ?"
_LIST = f"SELECT {_COLUMNS} FROM {{table}} AS t WHERE partition = ? AND name >= ? ORDER BY name LIMIT ? + 1"
_STATS = """SELECT (SELECT count(*) FROM {table} WHERE partition = :partition),
(SELECT count(*) FROM {table} WHERE partition = :partition AND ready_at <= :now),
(SELECT min(ready_at) FROM {table} WHERE partition = :partition AND ready_at <= :now),
(SELECT count(*) FROM {table} WHERE partition = :partition AND ready_at IS NULL AND state = 'failed')"""
# One search for each partition; DISTINCT would read every row.
_PARTITIONS = """WITH RECURSIVE p (partition) AS (SELECT min(partition) FROM {table}
UNION ALL SELECT (SELECT min(t.partition) FROM {table} AS t WHERE t.partition > p.partition) FROM p WHERE p.partition IS NOT NULL)
SELECT partition FROM p WHERE partition IS NOT NULL"""

_STATES = {state.value: state for state in State}

#: Another connection is in the way, and soon won't be. These are not raised but tried again until the timeout.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
#: Nothing is wrong with the call, and all the other calls fail alike until somebody helps: so they are to be repeated.
_TRANSIENT = {
    sqlite3.SQLITE_FULL: "has no room left; free some space on its disk",
    sqlite3.SQLITE_IOERR: "can't be read or written; check its disk",
}
_PERMANENT = {
    sqlite3.SQLITE_CANTOPEN: "can't be opened; check that its directory exists, that it is a file, and the permissions of both",
    sqlite3.SQLITE_READONLY: "can't be written to; check the permissions of the file and of its directory",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; choose another file",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
}


class SQLiteRepository(RowwiseRepository):
    """Rows in a table of a SQLite database, through one connection. Opened by :func:`sqlite_repository`."""

    def __init__(self, database: str, table: str, timeout: float) -> None:
        self._database = database
        self._where = repr(database if database == ":memory:" else str(Path(database).absolute()))
        self._table = table
        self._timeout = timeout
        self._names = _identifiers(table)
        # A read of one call must not see what another call has written but not committed: they take turns.
        self._turn = asyncio.Lock()
        self._closed = False
        self._db: aiosqlite.Connection | None = None

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        at = to_microseconds(now)
        among = {"partition": partition, "now": at, "limit": limit, "names": _json(names)}
        peek, take = (_PEEK, _TAKE) if names is None else (_PEEK_NAMED, _TAKE_NAMED)

        def missing(found: set[str]) -> Sequence[str]:
            return () if names is None else [name for name in names if name not in found]

        async with self._turns():
            # An idle poll ends here: it has taken no write lock, and waits for nobody's.
            seen = await self._fetch(peek, among)
            first = min((ready_at for _, ready_at in seen if ready_at is not None), default=None)
            if first is None or first > at:
                return ClaimResult([], _instant(first), missing({name for name, _ in seen}))
            async with self._transaction():
                found = await self._fetch(take, among)
                ready = sorted((row for row in found if row[_READY_AT] is not None), key=lambda row: row[_READY_AT])
                due = [_decode(row) for row in ready[:limit] if row[_READY_AT] <= at]
                lease = lifecycle.new_lease()
                taken = [claimed for row in due if (claimed := lifecycle.claim(row, now, lease_duration, lease)) is not None]
                await self._write([(row.key, row) for row, _ in taken])
        left = ready[len(taken) :]
        return ClaimResult(
            [claim for _, claim in taken], _instant(left[0][_READY_AT]) if left else None, missing({row[1] for row in found})
        )

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        if not keys:
            return []
        async with self._turns():
            rows = await self._rows(keys)
        return [rows.get(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        async with self._turns():
            rows = [_decode(row) for row in await self._fetch(_LIST, (partition, token or "", limit))]
        # The token is the name that the next page begins with: at once or, if it is removed meanwhile, with the one after it.
        return Page(rows[:limit], rows[limit].key.name if len(rows) > limit else None)

    async def stats(self, now: datetime, partition: str) -> Stats:
        async with self._turns():
            [[rows, due, oldest, failed]] = await self._fetch(_STATS, {"partition": partition, "now": to_microseconds(now)})
        return Stats(rows=rows, due=due, oldest_due=_instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        async with self._turns():
            return [partition for (partition,) in await self._fetch(_PARTITIONS)]

    async def _open(self, *, create: bool) -> None:
        async def connect() -> None:
            # First without aiosqlite: where it fails to connect, its thread outlives the event loop and ends with a traceback.
            sqlite3.connect(self._database).close()
            # No waiting in SQLite (timeout=0): a thread that sleeps there can't be cancelled. No implicit transactions.
            self._db = await aiosqlite.connect(self._database, timeout=0, isolation_level=None)

        async with self._turns():
            # To the end even if cancelled: only a connection that is known can be closed, and its thread would outlive us.
            await _to_the_end(connect)
            await self._fetch("PRAGMA journal_mode = WAL")
            await self._fetch("PRAGMA synchronous = FULL")
            async with self._transaction():
                for statement in _SCHEMA if create else ():
                    await self._fetch(statement)
                [[version]] = await self._fetch("SELECT max(version) FROM {format}")
                if version is not None and version > FORMAT:
                    raise RepositoryError(
                        f"The table {self._table!r} in {self._where} has the stored format {version}, "
                        f"but this Pyncette knows only {FORMAT}; upgrade pyncette-core"
                    )
                # Fails unless there are our columns and our key.
                await self._fetch(f"EXPLAIN {_PUT}", (None,) * len(_FIELDS))

    async def _close(self) -> None:
        """Let the call that has its turn end, refuse all others, and close the connection."""
        self._closed = True

        async def close() -> None:
            async with self._turn:
                if self._db is not None:
                    await self._db.close()

        await _to_the_end(close)

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
            raise self._translate(error) from error

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
        return {row.key: row for row in map(_decode, await self._fetch(_ROWS, (_json(keys),)))}

    async def _write(self, rows: Sequence[tuple[Key, Row | None]]) -> None:
        if kept := [_encode(row) for _, row in rows if row is not None]:
            await self._patiently(lambda db: db.executemany(_PUT.format_map(self._names), kept))
        if removed := [key for key, row in rows if row is None]:
            await self._patiently(lambda db: db.executemany(_DELETE.format_map(self._names), removed))

    async def _fetch(self, sql: str, parameters: Any = ()) -> Any:
        return await self._patiently(lambda db: db.execute_fetchall(sql.format_map(self._names), parameters))

    async def _patiently(self, statement: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """The result of a statement, again and again while other connections are in its way; only a timeout or closing ends it."""
        assert self._db is not None
        pause = 0.001
        while True:
            try:
                return await statement(self._db)
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY:
                    raise
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, 0.02)
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise RepositoryError(f"The repository of {self._where} is closed; use it within its context")

    def _translate(self, error: Exception) -> RepositoryError:
        what = f"The SQLite database {self._where}"
        code = _code(error)
        if code in _TRANSIENT:
            return TransientRepositoryError(f"{what} {_TRANSIENT[code]} ({error})")
        if code in _PERMANENT:
            return RepositoryError(f"{what} {_PERMANENT[code]} ({error})")
        if code == sqlite3.SQLITE_ERROR:
            return RepositoryError(
                f"The table {self._table!r} in {self._where} is missing or not one of Pyncette's ({error}); "
                "let Pyncette create it, or choose another sqlite_table_name"
            )
        return RepositoryError(f"{what} refused ({type(error).__name__}: {error})")


def schema(table: str) -> Sequence[str]:
    """The statements that create the table called ``table`` and what belongs to it, for those who use ``sqlite_skip_table_create``.

    Raises :class:`ConfigurationError` if a table can't be called so.
    """
    names = _identifiers(table)
    return [statement.format_map(names) for statement in _SCHEMA]


@contextlib.asynccontextmanager
async def sqlite_repository(
    *,
    sqlite_database: str = ":memory:",
    sqlite_table_name: str = "pyncette_tasks",
    sqlite_timeout: float = 30.0,
    sqlite_skip_table_create: bool = False,
) -> AsyncIterator[SQLiteRepository]:
    """Tasks in a SQLite database.

    :param sqlite_database: path of the file, which is created if it is absent; ``":memory:"`` is gone when it is closed.
    :param sqlite_table_name: name of the table. Two more are derived from it: ``NAME_format`` and the index ``NAME_ready``.
    :param sqlite_timeout: seconds that a call may take, most of which it waits for other processes to end their writes.
    :param sqlite_skip_table_create: the table exists, created by the statements of :func:`schema`; don't try to create it.
    :raises ConfigurationError: an option makes no sense.
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


async def _to_the_end(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Await ``call()`` however often the caller is cancelled meanwhile; a cancellation is raised after it."""
    cancelled = False
    task = asyncio.ensure_future(call())
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
        if task.cancelled():  # itself: when a loop ends, all its tasks are cancelled
            task = asyncio.ensure_future(call())
    error = task.exception()
    if cancelled:
        raise asyncio.CancelledError from error
    if error is not None:
        raise error


def _identifiers(table: str) -> Mapping[str, str]:
    if not table or "\0" in table or table.lower().startswith("sqlite_"):
        raise ConfigurationError(
            f"sqlite_table_name={table!r} can't be the name of a table; it must not be empty, contain NUL or begin with 'sqlite_'"
        )
    names = {"table": table, "index": f"{table}_ready", "format": f"{table}_format"}
    return {role: '"' + name.replace('"', '""') + '"' for role, name in names.items()}


def _encode(row: Row) -> tuple[Any, ...]:
    key, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error = row
    times = to_microseconds(occurrence), to_microseconds(execute_after), None if ready_at is None else to_microseconds(ready_at)
    until = None if locked is None else to_microseconds(locked)
    return *key, spec, schedule, *times, lease, until, epoch, revision, attempt, state.value, error


def _decode(values: Sequence[Any]) -> Row:
    # Positional and without detours: of all that a claim or a settlement does in Python, this takes the most time.
    partition, name, spec, schedule, occurrence, after, ready, lease, locked, epoch, revision, attempt, state, error = values
    times = from_microseconds(occurrence), from_microseconds(after), None if ready is None else from_microseconds(ready)
    until = None if locked is None else from_microseconds(locked)
    return Row(Key(partition, name), spec, schedule, *times, lease, until, epoch, revision, attempt, _STATES[state], error)


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 for errors of other origin."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


backend = Backend(contract_version=1, factory=sqlite_repository, prefix="sqlite_", from_url=_from_url)
