"""Joining a user's transaction: the part of a repository that runs on a user's connection.

A store that :class:`SupportsTransactions` puts its own statements on a :class:`UserConnection`, one short class for each
driver. No driver is imported: a program that has a connection has already imported its driver.
"""

import abc
import asyncio
import contextlib
import functools
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, runtime_checkable

from pyncette.errors import ConfigurationError, PyncetteError, RepositoryError
from pyncette.store.contract import ClaimResult, Key, Outcome, Page, Registration, Repository, Row, Settlement, SupportsPause
from pyncette.store.hints import Hint, SupportsWakeUp

__all__ = [
    "JoinedRepository",
    "Statements",
    "UserConnection",
    "begun",
    "cause_of",
    "in_format",
    "is_a",
    "name_of",
    "unknown",
]

_T = TypeVar("_T")

#: Rows that are ready later than this are found by polls, without a hint.
_SOON = timedelta(minutes=1)


@runtime_checkable
class SupportsTransactions(Protocol):
    """A store that can take part in a user's open transaction, on the user's connection to the same database."""

    def within(self, connection: object) -> Repository:
        """Return a repository that works on ``connection``; sends nothing yet.

        Its ``register``, ``unregister``, ``get``, ``list``, ``pause`` and ``resume`` run on ``connection`` and follow the same
        rules. What they write is stored when the owner commits the transaction: nothing is begun, committed or rolled back
        here, even when a call fails. ``claim`` and ``settle`` are refused with a :class:`~pyncette.errors.RepositoryError`.
        Calls wait for each other.

        After a :class:`~pyncette.errors.TransientRepositoryError`, the whole transaction must be repeated. A row that the
        transaction has changed is locked until its end, and claims and settlements of others wait for it or skip it; so keep
        the transaction short.

        Where ``connection`` is synchronous, the repository has a true attribute ``blocking``, and its coroutines never suspend.

        :raises ConfigurationError: the store does not support this kind of connection; or, from each call: it is closed, is in
            no transaction, so that each statement would be committed separately, or leads to another database. Nothing has been
            written then.
        """
        ...


class Statements(Protocol):
    """An object that executes single statements, like :class:`sqlite3.Connection`."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Returns a cursor, or an iterable object with its ``fetchall`` and ``fetchone``."""

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Any:
        """Execute the statement once for each element."""


class UserConnection(abc.ABC):
    """A user's connection with an open transaction. Never begins, commits, rolls back or closes anything."""

    #: Whether calls block the thread. If so, their coroutines never suspend, and need no event loop.
    blocking = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """The rows of one statement, as plain sequences whatever the user has configured; empty if it returns none."""
        return await self.run(lambda statements: statements.execute(sql, parameters).fetchall())

    async def run(self, work: Callable[[Statements], _T]) -> _T:
        """The result of ``work``, for drivers whose statements are not awaited."""
        raise NotImplementedError

    @abc.abstractmethod
    def check(self) -> None:
        """Raise :class:`ConfigurationError` if the connection is closed, or would commit each write at once. Sends nothing."""

    def in_transaction(self) -> bool:
        """Whether the transaction of the last write is still open."""
        try:
            self.check()
        except ConfigurationError:
            return False
        return True

    async def pause(self, seconds: float) -> None:
        """Wait before a retry."""
        if self.blocking:
            time.sleep(seconds)  # noqa: ASYNC251 - a thread of the user's, without an event loop
        else:
            await asyncio.sleep(seconds)


def begun(connection: object, *, is_open: bool, in_transaction: bool, how: str) -> None:
    """Raise :class:`ConfigurationError` unless ``connection`` is in a transaction; ``how`` says how to begin one."""
    what = name_of(type(connection))
    if not is_open:
        raise ConfigurationError(f"This {what} is closed; pass one that is open, and use within() as long as its transaction lasts")
    if not in_transaction:
        raise ConfigurationError(f"This {what} is not in a transaction, so each call would be committed at once; begin one: {how}")


def is_a(connection: object, module: str, *names: str) -> bool:
    """Whether an object is an instance of one of the classes ``names`` of ``module``. Imports nothing."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(connection, tuple(filter(None, (getattr(loaded, name, None) for name in names))))


def unknown(connection: object, store: str, welcome: str) -> ConfigurationError:
    """The error for a connection that can't be joined."""
    return ConfigurationError(
        f"within() got an object of the type {name_of(type(connection))}, but the tasks are in {store}; pass {welcome}, "
        "SQLAlchemy's AsyncConnection or AsyncSession, or, for app.blocking(), their synchronous counterparts or Django's connection"
    )


def cause_of(error: BaseException) -> BaseException:
    """The driver's error inside an ``error`` of SQLAlchemy or Django, without the values of the statement, which may be secret."""
    module = type(error).__module__
    if module.startswith("sqlalchemy."):
        error = getattr(error, "orig", None) or error
        # SQLAlchemy's layer over asynchronous drivers wraps it again
        return error.__cause__ or error if type(error).__module__.startswith("sqlalchemy.") else error
    return error.__cause__ or error if module.startswith("django.") else error


@functools.lru_cache(maxsize=256)
def in_format(sql: str) -> tuple[str, Sequence[int]]:
    """The statement with ``%s`` in place of ``$1`` or ``?``, and the index of the parameter for each."""
    order: list[int] = []

    def replaced(match: re.Match[str]) -> str:
        found = match[0]
        if found == "?":
            order.append(len(order))
        elif found[0] == "$":
            order.append(int(found[1:]) - 1)
        else:
            return found.replace("%", "%%")
        return "%s"

    return _TOKENS.sub(replaced, sql), order


#: Quoted names and texts, which stay; parameter placeholders; percent signs, which must be doubled.
_TOKENS = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|\$\d+|\?|%""")


class JoinedRepository(Repository):
    """The part of a repository that is useful within a user's transaction."""

    def __init__(self, joined: Repository, user: UserConnection, outside: Repository, *, in_same_database: bool = False) -> None:
        """Offer a part of ``joined``.

        :param joined: runs all of its calls on the ``user``'s connection.
        :param outside: the repository with separate connections.
        :param in_same_database: whether each call checks that the database is the same. Otherwise core compares the layout of a template.
        """
        assert isinstance(joined, SupportsPause)
        self.in_same_database = in_same_database
        self.blocking: bool = user.blocking
        self.shared: bool = outside.shared
        self._joined = joined
        self._pausing: SupportsPause = joined
        self._user = user
        #: Whether the transaction is still open.
        self.in_transaction: Callable[[], bool] = user.in_transaction
        # one call at a time, because no driver runs two statements of a transaction concurrently
        self._turn: AbstractAsyncContextManager[Any] = contextlib.nullcontext() if user.blocking else asyncio.Lock()

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        async with self._call():
            await self._joined.register(now, registrations, force=force)
            ready: dict[str, datetime] = {}
            for each in registrations:
                at = each.target.execute_after
                ready[each.key.partition] = min(at, ready.get(each.key.partition, at))
            await self._tell(now, ready)

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        async with self._call():
            return await self._joined.unregister(now, keys)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        async with self._call():
            return await self._joined.get(keys)

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        async with self._call():
            return await self._joined.list(partition, limit=limit, token=token)

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        async with self._call():
            return await self._pausing.pause(now, keys, memos)

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        async with self._call():
            found = await self._pausing.resume(now, keys, memos)
            await self._tell(now, {key.partition: now for key in keys})
            return found

    async def _tell(self, now: datetime, ready: Mapping[str, datetime]) -> None:
        """Send hints about these partitions to other processes when the transaction is committed."""
        hints = [Hint(partition, at) for partition, at in ready.items() if at - now < _SOON]
        if hints and isinstance(self._joined, SupportsWakeUp):
            await self._joined.wake(hints)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        """Refused: a rollback must not undo the claim of a running task."""
        raise RepositoryError("Nothing can be claimed within a transaction; run tasks with the application itself")

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        """Refused, see :meth:`claim`."""
        raise RepositoryError("Nothing can be settled within a transaction; run tasks with the application itself")

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        async with self._turn:
            self._user.check()
            try:
                yield
            except PyncetteError:
                raise
            except Exception as error:
                if type(error).__module__.startswith(("sqlalchemy.", "django.")):  # the session is at fault, not the statement
                    what = f"{name_of(type(self._user.connection))} can't be used now"
                    raise ConfigurationError(f"This {what}: {_line(error)}") from cause_of(error)
                raise


def name_of(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__


def _line(error: BaseException) -> str:
    text = str(cause_of(error))
    return text.splitlines()[0] if text else type(error).__name__
