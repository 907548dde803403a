"""A client whose calls are part of a user's transaction."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pyncette import partitions
from pyncette.batches import cut
from pyncette.client.base import Opened
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.store.contract import Key, Registration, Repository
from pyncette.store.hints import SupportsWakeUp
from pyncette.store.joining import SupportsTransactions
from pyncette.tasks import Template
from pyncette.waiting import Backoff

__all__ = ["Ask", "Joined", "asked", "driven", "repository_within"]

_T = TypeVar("_T")

#: The pause before checking whether a transaction has ended (seconds), doubled up to the limit; and when to stop checking.
_FIRST_LOOK, _LAST_LOOK, _LONGEST = 0.002, 0.1, 60.0

#: Distinguishes a database from others that have a table of the same name, for each open store. See :meth:`Joined._now`.
_MARKS: "WeakKeyDictionary[Repository, int | None]" = WeakKeyDictionary()


class Ask(Protocol):
    """Calls a function with the client outside the transaction, in the event loop of that client."""

    async def __call__(self, function: Callable[[Opened], Coroutine[Any, Any, _T]]) -> _T: ...


class Joined(Opened):
    """The client ``outside``, but with ``repository``, which is joined to a transaction.

    Workers learn nothing before the commit. If the store sends hints, they arrive with the commit; otherwise the engine of this process
    polls when the transaction has ended.
    """

    def __init__(self, outside: Opened, repository: Repository, ask: Ask) -> None:
        vars(self).update(vars(outside), _registrar=_Registrar(repository, outside.clock, self._announce))
        self.repository = repository
        self._outside = outside
        self._ask = ask
        self._blocking: bool = getattr(repository, "blocking", False)
        #: Whether the connection is known to lead to the database of the tasks; a store may check that itself.
        self._checked: bool = getattr(repository, "in_same_database", False)
        self._in_transaction: Callable[[], bool] | None = getattr(repository, "in_transaction", None)
        if self._blocking or isinstance(outside.repository, SupportsWakeUp):
            self._in_transaction = None
        #: The hints to send when the transaction has ended, and the task that waits for its end.
        self._ready: dict[str, datetime] = {}
        self._waiting: asyncio.Task[None] | None = None

    def _announce(self, partition: str, ready_at: datetime, count: int = 1) -> None:
        if self._in_transaction is not None:
            self._ready[partition] = min(ready_at, self._ready.get(partition, ready_at))
            if self._waiting is None:
                self._waiting = asyncio.create_task(self._announce_at_end(self._in_transaction), name="pyncette-transaction")

    async def _announce_at_end(self, in_transaction: Callable[[], bool]) -> None:
        """Wait for the end of the transaction. No driver reports it, but each knows whether a transaction is open. An extra poll does no harm."""
        pauses = Backoff(_FIRST_LOOK, _LAST_LOOK)
        until = self.clock.monotonic() + _LONGEST
        while in_transaction() and self.clock.monotonic() < until:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(pauses.next())
        self._waiting = None
        for partition, ready_at in self._ready.items():
            self._outside._announce(partition, ready_at)
        self._ready.clear()

    def _check_open(self) -> None:
        if not self._blocking:
            self._outside._check_open()

    async def _now(self) -> datetime:
        """The store's time, read before each call that writes. The first time, also check that the connection leads to the same database.

        The layout row of the first template has a token that came from a clock and never changes. So it identifies the database: replicas have
        the same token, and other databases don't.
        """
        template = next((task for task in self.tasks if isinstance(task, Template)), None)
        if template is not None and not self._checked:
            key = Key(partitions.LAYOUTS, template.name)
            # In this order: once rows are locked here, a call outside might wait for a call that waits for these locks.
            known = await self._ask(functools.partial(_known_mark, key=key, anew=False))
            found = await _mark(self.repository, key)
            if found != known and found != await self._ask(functools.partial(_known_mark, key=key, anew=True)):
                raise ConfigurationError(
                    "This connection leads to another database than that of the tasks, where nobody would run its tasks; "
                    "pass one to the database in the application's URL"
                )
            self._checked = True
        return await self._ask(_time)


class _Registrar:
    """Registers immediately and separately, because registrations of others must not join the transaction."""

    def __init__(self, repository: Repository, clock: AlignedClock, announce: Callable[[str, datetime], None]) -> None:
        self._repository = repository
        self._clock = clock
        self._announce = announce

    async def register(self, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for batch in cut(registrations):
            await self._repository.register(self._clock.now(), batch, force=force)
            for registration in batch:
                self._announce(registration.key.partition, registration.target.execute_after)

    async def close(self) -> None:
        """Does nothing: no registration ever waits."""


def repository_within(repository: Repository, connection: object, *, blocking: bool) -> Repository:
    """``repository`` on the user's ``connection``, which must be synchronous if ``blocking``.

    Raises RepositoryError if the store has no transactions, ConfigurationError if the connection is of the wrong kind.
    """
    if not isinstance(repository, SupportsTransactions):
        raise RepositoryError(
            "The store of the tasks has no transactions that a database connection could share; schedule after your commit, "
            "or keep the tasks in the database of your data: PostgreSQL, MySQL, MariaDB or SQLite"
        )
    joined = repository.within(connection)
    if getattr(joined, "blocking", False) is not blocking:
        kind, way_out = ("asynchronous", "app_context or app.client()") if blocking else ("synchronous", "app.blocking()")
        raise ConfigurationError(
            f"within() got an {kind} connection".replace("an s", "a s") + f"; use within() of {way_out} for it"
        )
    return joined


async def asked(client: Opened, function: Callable[[Opened], Coroutine[Any, Any, _T]]) -> _T:
    """How to call a client in its own event loop."""
    return await function(client)


def driven(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that awaits only synchronous calls, without an event loop; returns its result."""
    try:
        while coroutine.send(None) is None:
            pass  # a turn for other coroutines, of which there are none
    except StopIteration as ended:
        result: _T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("A call on a synchronous connection has waited for something asynchronous")


async def _time(client: Opened) -> datetime:
    return await client._now()


async def _known_mark(client: Opened, key: Key, *, anew: bool) -> int | None:
    if anew or client.repository not in _MARKS:
        _MARKS[client.repository] = await _mark(client.repository, key)
    return _MARKS[client.repository]


async def _mark(repository: Repository, key: Key) -> int | None:
    [row] = await repository.get([key])
    return None if row is None else row.epoch
