"""A store for tests of one thing: it remembers its calls, and a test says what befalls them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pyncette.memory import MemoryRepository
from pyncette.partitions import LAYOUTS
from pyncette.repository import ClaimResult, Key, Outcome, Registration, Row, Settlement, Target
from pyncette.testing import VirtualClock

__all__ = ["Call", "ScriptedStore", "TimedStore", "cancelled_at", "registration"]

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Call:
    """One call to the store."""

    method: str
    #: In seconds of the event loop.
    at: float
    now: datetime
    partition: str = ""
    settlements: Sequence[Settlement] = ()
    registrations: Sequence[Registration] = ()
    force: bool = False
    limit: int = 0
    #: Claims, outcomes: what was answered.
    result: Any = None


Hook = Callable[[Call], Awaitable[None]]


class ScriptedStore(MemoryRepository):
    """The reference store. ``before`` and ``after`` are awaited around every call about tasks, and may wait or raise."""

    def __init__(self, *, shared: bool = True) -> None:
        super().__init__()
        self.shared = shared
        self.calls: list[Call] = []
        self.before: Hook | None = None
        self.after: Hook | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["ScriptedStore"]:
        yield self

    def called(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def rows(self) -> dict[str, Row]:
        """The rows of all tasks and instances, by name."""
        return {name: row for partition, rows in self._partitions.items() if partition != LAYOUTS for name, row in rows.items()}

    def held(self) -> list[str]:
        """The names of the rows that somebody has a lease of."""
        return [name for name, row in self.rows().items() if row.locked_until is not None]

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        call = self._call("register", now, registrations[0].key.partition)
        call.registrations, call.force = registrations, force
        await self._carry_out(call, super().register(now, registrations, force=force))

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        call = self._call("claim", now, partition)
        call.limit = limit
        return await self._carry_out(call, super().claim(now, partition, lease_duration=lease_duration, limit=limit, names=names))

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        call = self._call("settle", now, settlements[0].claim.key.partition)
        call.settlements = settlements
        return await self._carry_out(call, super().settle(now, settlements))

    def _call(self, method: str, now: datetime, partition: str = "") -> Call:
        call = Call(method, asyncio.get_running_loop().time(), now, partition)
        if partition != LAYOUTS:
            self.calls.append(call)
        return call

    async def _carry_out(self, call: Call, operation: Coroutine[Any, Any, _T]) -> _T:
        try:
            if self.before is not None and call.partition != LAYOUTS:
                await self.before(call)
            call.result = result = await operation
            if self.after is not None and call.partition != LAYOUTS:
                await self.after(call)
            return result
        finally:
            operation.close()


class TimedStore(ScriptedStore):
    """The same, with a clock of its own."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._store_clock = clock

    async def server_time(self) -> datetime:
        return self._store_clock.now()


def registration(partition: str, name: str, at: datetime, *, schedule: str = "interval 1 @UTC", spec: str = "{}") -> Registration:
    return Registration(Key(partition, name), spec, schedule, Target(at.astimezone(UTC), at.astimezone(UTC)))


class cancelled_at:  # noqa: N801 - reads as a verb
    """``await cancelled_at([k], coroutine)`` cancels the running task as it waits for the ``k``-th time in ``coroutine``.

    With ``rounds``, only after the event loop has gone round that often.
    """

    def __init__(self, moments: Sequence[int], coroutine: Coroutine[Any, Any, Any], *, rounds: int = 0) -> None:
        self._moments = moments
        self._coroutine = coroutine
        self._rounds = rounds
        #: How often it has waited.
        self.waited = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        inner = self._coroutine.__await__()
        value, error = None, None
        while True:
            try:
                future = inner.send(value) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            self.waited += 1
            if self.waited in self._moments:
                _cancel(task, self._rounds)
            value, error = None, None
            try:
                value = yield future
            except BaseException as raised:
                error = raised


def _cancel(task: "asyncio.Task[Any]", rounds: int) -> None:
    if rounds:
        asyncio.get_running_loop().call_soon(_cancel, task, rounds - 1)
    else:
        task.cancel()
