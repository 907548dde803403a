"""Runs calls within a user's transaction on the SQLite file."""

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from pyncette.errors import ConfigurationError, StoreMissingError, TransientRepositoryError
from pyncette.store.frameworks import of_a_framework
from pyncette.store.joining import Statements, UserConnection, begun, cause_of, unknown
from pyncette.store.sqlite_connection import Connection
from pyncette.store.sqlite_errors import is_busy, translated
from pyncette.waiting import Backoff

__all__ = ["JoinedConnection", "user_connection"]

T = TypeVar("T")

#: The longest pauses before requesting a lock again (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.05
#: The value of ``autocommit`` that equals sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 lacks.
_LEGACY = -1
#: The error for a lock that no waiting can obtain.
_SNAPSHOT = sqlite3.SQLITE_BUSY_SNAPSHOT


class JoinedConnection(Connection):
    """Replaces the store's own connection: whole functions run on the user's connection.

    Their first statement takes the write lock, as BEGIN IMMEDIATE would, because a transaction that begins with a read can't be upgraded
    once somebody else has written.
    """

    def __init__(self, user: UserConnection, file: str, where: str, table: str, lock: str, timeout: float) -> None:
        """``file``: the file of our rows, as SQLite names it. ``lock``: a statement that takes the write lock and writes nothing."""
        self._user = user
        self._file = file
        self._lock = lock
        self._where = where
        self._table = table
        self._timeout = timeout

    async def run(self, work: Callable[[sqlite3.Connection], T], *, urgent: bool = False) -> T:
        """The result of ``work``. Waits while another connection writes."""
        began, pauses = time.monotonic(), Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
        while True:
            locked: list[bool] = []
            try:
                return await self._user.run(functools.partial(self._worked, work, locked))
            except Exception as error:
                cause = cause_of(error)
                if not isinstance(cause, (sqlite3.Error, UnicodeEncodeError, OverflowError)):
                    raise
                if not isinstance(cause, sqlite3.OperationalError) or not is_busy(cause):
                    raise self._explained(cause) from cause
                if locked or getattr(cause, "sqlite_errorcode", None) == _SNAPSHOT:
                    raise TransientRepositoryError(
                        f"Others have written to the SQLite database {self._where} since this transaction began with a read; "
                        "roll it back, and start it again with BEGIN IMMEDIATE"
                    ) from cause
                if time.monotonic() - began >= self._timeout:
                    raise TransientRepositoryError(
                        f"The SQLite database {self._where} was busy for {self._timeout:g} s; roll back, and repeat the transaction"
                    ) from cause
            await self._user.pause(pauses.next())

    @contextlib.contextmanager
    def transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """The user's connection."""
        yield

    def _worked(self, work: Callable[[Any], T], locked: list[bool], statements: Statements) -> T:
        self._check_file(statements)
        statements.execute(self._lock)
        locked.append(True)
        return work(statements)

    def _check_file(self, statements: Statements) -> None:
        file = next((path for _, name, path in statements.execute("PRAGMA database_list") if name == "main"), "")
        if not file or not Path(file).samefile(self._file):
            raise ConfigurationError(
                f"This connection leads to {file or 'a database in memory'!r}, but the tasks are in {self._where}; pass one to that file"
            )

    def _explained(self, cause: Exception) -> Exception:
        error = translated(cause, self._where, self._table)
        return error if not isinstance(error, StoreMissingError) else StoreMissingError(f"{error}, and roll this transaction back")


def user_connection(connection: Any, where: str) -> UserConnection:
    """Wrap a user's connection. Raises :class:`ConfigurationError` if it is not a connection to SQLite."""
    if isinstance(connection, aiosqlite.Connection):
        return _Aiosqlite(connection)
    if isinstance(connection, sqlite3.Connection):
        return _Sqlite3(connection)
    found = of_a_framework(connection, dialects=["sqlite"])
    if found is None:
        raise unknown(connection, f"SQLite at {where}", "an aiosqlite.Connection")
    return found


class _Sqlite3(UserConnection):
    blocking = True

    def check(self) -> None:
        _check(self.connection, self.connection)

    async def run(self, work: Callable[[Statements], T]) -> T:
        return work(_Plain(self.connection))


class _Aiosqlite(UserConnection):
    #: Only the connection's own thread may read this, so it is known after the first call there.
    _autocommit = _LEGACY

    def check(self) -> None:
        _check(self.connection, self.connection._connection, lambda db: self._autocommit)

    async def run(self, work: Callable[[Statements], T]) -> T:
        def there() -> T:
            self._autocommit = _autocommit(self.connection._conn)
            self.check()
            return work(_Plain(self.connection._conn))

        # the only method that runs a function in its thread, so that a read and its write are not separated
        result: T = await self.connection._execute(there)
        return result


class _Plain:
    """Returns rows as tuples with sqlite3's default types, whatever factories the user has set."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> sqlite3.Cursor:
        return self._cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> sqlite3.Cursor:
        return self._cursor().executemany(sql, parameters)

    def _cursor(self) -> sqlite3.Cursor:
        if self._db.text_factory is not str:
            raise ConfigurationError("The text_factory of this connection is not str; pass one with the default")
        cursor = self._db.cursor(sqlite3.Cursor)
        cursor.row_factory = None
        return cursor


def _autocommit(db: sqlite3.Connection) -> bool | int:
    """How Python 3.12 and later begin transactions."""
    mode: bool | int = getattr(db, "autocommit", _LEGACY)
    return mode


def _check(
    given: object, db: sqlite3.Connection | None, autocommit_of: Callable[[sqlite3.Connection], bool | int] = _autocommit
) -> None:
    is_open = db is not None
    waits = False
    if db is not None:
        try:
            # Python begins a transaction automatically before the first statement that writes, unless configured otherwise.
            autocommit = autocommit_of(db)
            waits = autocommit is False or (autocommit is not True and db.isolation_level is not None)
            waits = waits or db.in_transaction
            db.total_changes  # noqa: B018 - raises if it is closed
        except sqlite3.ProgrammingError as error:
            if "thread" in str(error):
                raise ConfigurationError("This sqlite3.Connection belongs to another thread; use within() in that one") from error
            is_open = False
    begun(given, is_open=is_open, in_transaction=waits, how="""await connection.execute("BEGIN IMMEDIATE")""")
