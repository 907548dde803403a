"""The embedded store: one SQLite file, shared by any number of processes of one machine.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call reads its rows, applies the rules and writes them back inside one
write transaction. It uses WAL with ``synchronous=FULL``: readers and the writer don't block each other, and acknowledged writes
survive a power cut. SQLite has one writer at a time; a call waits for others, up to a timeout.
"""

import contextlib
import copy
import json
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pyncette.clock import to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError
from pyncette.store import lifecycle
from pyncette.store.codec import name_in_bytes
from pyncette.store.contract import ClaimResult, Key, Page, Repository, Row, State, Stats
from pyncette.store.hints import Hint
from pyncette.store.joining import JoinedRepository
from pyncette.store.lifecycle import Settled
from pyncette.store.rowwise import Change, RowwiseRepository
from pyncette.store.sqlite_connection import Connection
from pyncette.store.sqlite_history import SQLiteHistory
from pyncette.store.sqlite_joining import JoinedConnection, user_connection
from pyncette.store.sqlite_looking import looking
from pyncette.store.sqlite_rows import (
    ADVANCE,
    CLAIM,
    DELETE,
    DELETE_UNREADABLE,
    FIELDS,
    FINISH,
    FORMAT,
    LIST,
    LOCK,
    NEXT,
    OLD_FIELDS,
    PARTITIONS,
    PEEK,
    PEEK_NAMED,
    PUT,
    PUT_OFF,
    READY,
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
    times,
)
from pyncette.store.urls import Backend, BackendURL

__all__ = ["SQLiteRepository", "backend", "schema", "sqlite_repository"]

T = TypeVar("T")


class SQLiteRepository(SQLiteHistory, RowwiseRepository):
    """Rows in a table of a SQLite database. Opened by :func:`sqlite_repository`."""

    def __init__(
        self,
        connection: Connection,
        counting: Connection,
        address: str,
        where: str,
        table: str,
        names: Mapping[str, str],
        timeout: float,
    ) -> None:
        self.shared: bool = counting is not connection
        self._connection = connection
        # With a million rows this takes a tenth of a second, for which nothing else should wait.
        self._counting = counting
        self._address = address
        self._where = where
        self._table = table
        self._sql = _Statements(names)
        self._timeout = timeout
        #: The file as SQLite names it; empty in memory.
        self._file = ""

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        at = to_microseconds(now)
        among = {"partition": partition, "now": at, "limit": limit, "names": _json(names)}
        peek, take = (PEEK, TAKE) if names is None else (PEEK_NAMED, TAKE_NAMED)

        def missing(found: set[str]) -> Sequence[str]:
            return () if names is None else [name for name in names if name not in found]

        def work(db: sqlite3.Connection) -> ClaimResult:
            # an idle poll ends here, without taking or waiting for the write lock
            seen = db.execute(self._sql[peek], among).fetchall()
            first = min((ready_at for _, ready_at in seen if ready_at is not None), default=None)
            if first is None or first > at:
                return ClaimResult([], instant(first), missing({name for name, _ in seen}))
            with self._connection.transaction(db):
                found = db.execute(self._sql[take], among).fetchall()
                ready = sorted((row for row in found if is_time(row[READY_AT])), key=lambda row: row[READY_AT])
                due = [row for row in ready[:limit] if row[READY_AT] <= at]
                left = [row[READY_AT] for row in ready[len(due) :]]
                if names is None and not left:  # computed before the claimed rows become ready at the end of their lease
                    left = [ready_at for (ready_at,) in db.execute(self._sql[NEXT], among)]
                rows = [row_of(values[:-1]) for values in due]
                taken = lifecycle.take(rows, now, lease_duration)
                until = to_microseconds(lifecycle.lease_end(now, lease_duration))
                sound: list[int] = []
                damaged: list[int] = []
                for row, values in zip(rows, due, strict=True):
                    (damaged if row.state is State.UNREADABLE else sound).append(values[-1])
                # sends no other fields of the row, such as its arguments
                claimed = zip(taken.claims, sound, strict=True)
                db.executemany(
                    self._sql[CLAIM], [(until, each.lease, until, each.epoch, each.attempt, rowid) for each, rowid in claimed]
                )
                db.executemany(self._sql[PUT_OFF], [(until, rowid) for rowid in damaged])
            next_ready_at = instant(left[0] if left else None)
            return ClaimResult(taken.claims, next_ready_at, missing({row[1] for row in found}), taken.unreadable)

        return await self._connection.run(work, urgent=True)

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        return await self._update(changes, urgent=False)

    async def update_settled(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        return await self._update(changes, urgent=True)

    async def _update(self, changes: Sequence[tuple[Key, Change[T]]], *, urgent: bool) -> Sequence[T]:
        def work(db: sqlite3.Connection) -> Sequence[T]:
            with self._connection.transaction(db):
                before = self._rows(db, [key for key, _ in changes])
                answers = []
                kept, removed = [], []
                for key, change in changes:
                    old = before.get(key)
                    row, answer = change(old)
                    answers.append(answer)
                    if row is None and old is not None:
                        removed.append(key)
                    elif row is not None and row != old:
                        kept.append(encode(row))
                db.executemany(self._sql[PUT], kept)
                db.executemany(self._sql[DELETE], removed)
            return answers

        return await self._connection.run(work, urgent=urgent) if changes else []

    async def write_expected(self, expected: Sequence[Settled]) -> Collection[Key]:
        def work(db: sqlite3.Connection) -> Collection[Key]:
            advance, finish = self._sql[ADVANCE], self._sql[FINISH]
            written = set()
            with self._connection.transaction(db):
                for each in expected:
                    guard = *each.key, each.lease, each.revision
                    if each.removed:
                        cursor = db.execute(finish, guard)
                    else:
                        cursor = db.execute(advance, (*times(each), each.attempt, each.memo, *guard))
                    if cursor.rowcount:
                        written.add(each.key)
            return written

        return await self._connection.run(work, urgent=True)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        rows = await self._connection.run(lambda db: self._rows(db, keys)) if keys else {}
        return [rows.get(key) for key in keys]

    def _rows(self, db: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, Row]:
        return {row.key: row for row in map(row_of, db.execute(self._sql[ROWS], (_json(keys),)))}

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await super().unregister(now, keys))
        for index, key in enumerate(keys):
            if not removed[index] and (name := name_in_bytes(key.name)) is not None:
                removed[index] = bool(await self._fetch(DELETE_UNREADABLE, (key.partition, name, name)))
        return removed

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        def work(db: sqlite3.Connection) -> Page:
            size = limit
            while True:
                found = db.execute(self._sql[LIST], (partition, token or "", size)).fetchall()
                if len(found) <= size or type(found[size][1]) is str:
                    break
                size *= 2  # a page can't begin with a name that is not text
            rows = [row_of(values) for values in found]
            # The token is the first name of the next page; if that row is removed meanwhile, the page begins with the following one.
            return Page(rows[:size], rows[size].key.name if len(rows) > size else None)

        return await self._connection.run(work)

    async def stats(self, now: datetime, partition: str) -> Stats:
        among = {"partition": partition, "now": to_microseconds(now)}
        found = await self._counting.run(lambda db: db.execute(self._sql[STATS], among).fetchall())
        [[rows, due, oldest, failed]] = found
        return Stats(rows=rows, due=due, oldest_due=instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        return [partition for (partition,) in await self._fetch(PARTITIONS) if type(partition) is str]

    def within(self, connection: object) -> Repository:
        """Join a transaction of aiosqlite, sqlite3, SQLAlchemy or Django on the same file. The first call takes the write lock."""
        if not self._file:
            raise RepositoryError("The tasks are in memory, out of reach of other connections; use a file: sqlite:///pyncette.db")
        user = user_connection(connection, self._where)
        joined = copy.copy(self)
        joined._connection = JoinedConnection(user, self._file, self._where, self._table, self._sql[LOCK], self._timeout)
        return JoinedRepository(joined, user, self, in_same_database=True)

    async def wake(self, hints: Sequence[Hint]) -> None:
        """Does nothing: listeners notice that something was written."""

    def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        return looking(self._address if self.shared else None, self._sql[READY], self._where, self._table)

    async def _fetch(self, statement: str, parameters: Any = ()) -> Any:
        return await self._connection.run(lambda db: db.execute(self._sql[statement], parameters).fetchall())

    async def _open(self, *, create: bool) -> None:
        def work(db: sqlite3.Connection) -> None:
            self._file = next(path for _, name, path in db.execute("PRAGMA database_list") if name == "main")
            # before the first statement that may write
            if {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (self._table,))} >= OLD_FIELDS:
                raise RepositoryError(
                    f"The table {self._table!r} in {self._where} belongs to Pyncette 1, whose tasks can't be read; "
                    "choose another sqlite_table_name, and schedule them again"
                )
            if not create or self._is_there(db):
                self._check_table(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if create and not self._is_there(db):
                with self._connection.transaction(db):
                    for statement in SCHEMA:
                        db.execute(self._sql[statement])
                    self._check_table(db)

        await self._connection.run(work)

    def _is_there(self, db: sqlite3.Connection) -> bool:
        """Whether everything exists. Writing anyway would wait for a current writer, who may be waiting for this process."""
        names = {name[1:-1].replace('""', '"') for name in identifiers(self._table).values()}
        stored = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')")}
        return names <= stored and bool(db.execute(self._sql["SELECT 1 FROM {format}"]).fetchall())

    def _check_table(self, db: sqlite3.Connection) -> None:
        [version] = db.execute(self._sql["SELECT max(version) FROM {format}"]).fetchone()
        if version is not None and (type(version) is not int or version > FORMAT):
            raise RepositoryError(
                f"The table {self._table!r} in {self._where} has the stored format {version!r}, "
                f"but this Pyncette knows only {FORMAT}; upgrade pyncette-core"
            )
        # fails unless our columns and our key exist
        db.execute(self._sql[f"EXPLAIN {PUT}"], (None,) * len(FIELDS))


@contextlib.asynccontextmanager
async def sqlite_repository(
    *,
    sqlite_database: str,
    sqlite_table_name: str = "pyncette_tasks",
    sqlite_timeout: float = 30.0,
    sqlite_skip_table_create: bool = False,
) -> AsyncIterator[SQLiteRepository]:
    """Tasks in a SQLite database.

    :param sqlite_database: path of the file, created if missing, for its owner only; ``":memory:"`` is lost when closed.
    :param sqlite_table_name: name of the table. Others derive from it: ``NAME_format``, ``NAME_history`` and their indexes.
    :param sqlite_timeout: seconds that a call may take, mostly spent waiting for the writes of other processes.
    :param sqlite_skip_table_create: file and table exist already, created with :func:`schema`; don't create them.
    :raises ConfigurationError: an option is invalid.
    :raises StoreMissingError: the file or table doesn't exist, and may not be created.
    :raises RepositoryError: the file can't be used, or has another table of this name.
    """
    database = os.fspath(sqlite_database)  # path objects are accepted, too
    if not database or "\0" in database:
        raise ConfigurationError(f"sqlite_database={database!r} is not the path of a file; write for example 'pyncette.db'")
    if not sqlite_timeout > 0:
        raise ConfigurationError(f"sqlite_timeout={sqlite_timeout!r} is not a number of seconds above 0")
    names = identifiers(sqlite_table_name)
    where, address = _located(database, create=not sqlite_skip_table_create)
    async with contextlib.AsyncExitStack() as stack:

        def connection() -> Connection:
            connection = Connection(address, where, sqlite_table_name, sqlite_timeout)
            stack.push_async_callback(connection.close)
            return connection

        first = connection()
        # each connection to :memory: has a separate database
        counting = first if database == ":memory:" else connection()
        repository = SQLiteRepository(first, counting, address, where, sqlite_table_name, names, sqlite_timeout)
        await repository._open(create=not sqlite_skip_table_create)
        yield repository


def _located(database: str, *, create: bool) -> tuple[str, str]:
    """The name of the file for error messages, and its URI. Creates the file, because SQLite would create one that everybody can read."""
    if database == ":memory:":
        return repr(database), "file::memory:"
    path = Path(database).absolute()
    if create:
        with contextlib.suppress(OSError):  # opening it will show whether it is valid
            # only if it is new: closing an existing file would release the locks of this process's connections
            os.close(os.open(path.resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    elif not path.exists():
        raise StoreMissingError(f"There is no SQLite database {str(path)!r} yet; the application creates it when it first runs")
    return repr(str(path)), f"{path.as_uri()}?mode=rw"


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.hosts or url.username is not None or url.password is not None:
        raise ConfigurationError(
            f"A SQLite URL has no host, but {url} has one; write sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    return {"sqlite_database": url.path[1:] or ":memory:"}


class _Statements(dict[str, str]):
    """The statements with the names of our tables, formatted once."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, statement: str) -> str:
        self[statement] = statement.format_map(self._names)
        return self[statement]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


backend: Backend = Backend(contract_version=1, factory=sqlite_repository, prefix="sqlite_", from_url=_from_url)
