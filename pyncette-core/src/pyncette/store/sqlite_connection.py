"""A connection to SQLite, in a separate thread that runs whole functions on it, one after another.

A call is one hop to the thread and back, however many statements it executes. So nothing can happen between two of its
statements: neither a cancellation nor another call finds an open transaction.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

import aiosqlite

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.store.sqlite_errors import is_busy, is_no_text, translated
from pyncette.waiting import Backoff, to_the_end

__all__ = ["Connection"]

T = TypeVar("T")

#: The longest pauses before retrying a function that found the database locked (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.02


class _Result(Generic[T]):
    """The result of a function, in the form that :meth:`aiosqlite.Connection.execute_fetchall` expects."""

    def __init__(self, result: T) -> None:
        self.fetchall = lambda: result


class _Functions(sqlite3.Connection):
    """A connection that also executes functions, so that aiosqlite runs them in its thread in one hop."""

    def execute(self, statement: Any, parameters: Any = (), /) -> Any:
        return _Result(statement(self)) if callable(statement) else super().execute(statement, parameters)


class Connection:
    """A connection to the database at ``address``, a URI, opened at the first call; error messages name ``where`` and ``table``."""

    def __init__(self, address: str, where: str, table: str, timeout: float) -> None:
        self._address = address
        self._where = where
        self._table = table
        self._timeout = timeout
        self._db: aiosqlite.Connection | None = None
        self._closed = False
        # One call that is not urgent waits for its turn, and the others wait for that call. So an urgent call waits for two at most.
        self._queue = asyncio.Lock()
        self._turn = asyncio.Lock()
        #: The number of committed transactions, and whether a call has timed out since the last one.
        self._commits = 0
        self._stuck = False
        #: Whether the thread is running a function.
        self._working = False

    async def run(self, work: Callable[[sqlite3.Connection], T], *, urgent: bool = False) -> T:
        """The result of ``work``, which is called in the thread, and again while other connections hold locks.

        Leaves no transaction open. ``work`` may have been called even if this raises, including :class:`asyncio.CancelledError`.
        An ``urgent`` call goes ahead of waiting ones.
        """
        try:
            async with self._turns(urgent=urgent) as is_late:
                db = await to_the_end(self._connect) if self._db is None else self._db
                pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
                while not (is_late and self._working):
                    try:
                        return await self._in_thread(db, work)
                    except sqlite3.OperationalError as error:
                        if not is_busy(error):
                            raise
                        if is_late:
                            break
                    await asyncio.sleep(pauses.next())
                    self._check_open()
                raise TimeoutError
        except TimeoutError as error:
            raise TransientRepositoryError(
                f"The SQLite database {self._where} was busy for {self._timeout:g} s; "
                "find the connection that keeps it locked, or raise sqlite_timeout"
            ) from error
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise translated(error, self._where, self._table) from error

    @contextlib.asynccontextmanager
    async def _turns(self, *, urgent: bool) -> AsyncIterator[bool]:
        """The turn of a call. Yields whether the call is late: then it may try once, without waiting.

        As long as earlier calls make progress, their number is no reason to fail. But if the wait for a turn never counted, the calls
        would wait for a connection that keeps the database locked, one after another.
        """
        time = asyncio.get_running_loop().time
        began = time()
        async with contextlib.nullcontext() if urgent else self._queue, self._turn:
            self._check_open()
            commits = self._commits
            try:
                async with asyncio.timeout(self._timeout):
                    yield self._stuck and time() - began >= self._timeout
            except TimeoutError:
                self._stuck = True
                raise
            if self._commits != commits:
                self._stuck = False

    @contextlib.contextmanager
    def transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """For use in the thread: commit everything written inside, or nothing."""
        # IMMEDIATE, because a transaction that begins with a read can't be upgraded once somebody else has written.
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
            self._commits += 1
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()  # does nothing if SQLite has already rolled back
            raise

    async def _in_thread(self, db: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        awaited = True

        def attempt(db: sqlite3.Connection) -> T | None:
            if not awaited:  # the caller gave up while this waited behind a long call
                return None
            self._working = True
            try:
                return _worked(work, db)
            finally:
                self._working = False

        try:
            return await db.execute_fetchall(attempt)  # type: ignore[return-value, unused-ignore]
        finally:
            awaited = False

    async def _connect(self) -> aiosqlite.Connection:
        """Must run to its end: an unknown connection can't be closed, and its thread would outlive this process's event loop."""
        # Try without aiosqlite first: if that fails to connect, its thread outlives the event loop and ends with a traceback.
        sqlite3.connect(self._address, uri=True).close()
        # No waiting inside SQLite (timeout=0), because a thread that sleeps there can't be stopped. No implicit transactions.
        self._db = await aiosqlite.connect(self._address, uri=True, timeout=0, isolation_level=None, factory=_Functions)
        return self._db

    async def close(self) -> None:
        """Let the current call end, refuse all others, and end the thread."""
        self._closed = True

        async def close() -> None:
            async with self._turn:
                if self._db is not None:
                    await self._db.close()

        await to_the_end(close)

    def _check_open(self) -> None:
        if self._closed:
            raise RepositoryError(f"The repository of {self._where} is closed; use it within its context")


def _worked(work: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    try:
        return work(db)
    except sqlite3.OperationalError as error:
        if not is_no_text(error):
            raise
    # Some text is not valid UTF-8. As bytes it does no harm.
    db.text_factory = _text_or_bytes
    try:
        return work(db)
    finally:
        db.text_factory = str


def _text_or_bytes(value: bytes) -> str | bytes:
    """A text from SQLite, as bytes if it is not valid UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
