"""The store that all workers share, which logs what happens to every row, and each worker's unreliable way to it."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar

from pyncette.clock import Clock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.memory import MemoryRepository
from pyncette.partitions import LAYOUTS, WORKERS
from pyncette.repository import ClaimResult, Hint, Key, Outcome, Page, Registration, Repository, Row, Settlement
from pyncette.store.history import Entry, Position
from pyncette.testing import VirtualClock
from simulation.log import Changed, Delivered, Event, Failed, Recorded, Run, Sent
from simulation.loop import OUTSIDE, ProcessLoop

__all__ = ["Faults", "Log", "Outage", "Remote", "RemoteWithClock", "RemoteWithHistory", "Store"]

_T = TypeVar("_T")

#: What can befall a call, and how often, relative to each other:
_FAULTS = {
    "refused": 3,  # an error, nothing is applied
    "lost": 4,  # applied, then an error
    "part": 2,  # a part of the batch is applied, then an error
    "late": 2,  # the store does not answer in time, and applies the call later, perhaps after several leases
    "hung": 1,  # the store does not answer, and never applies the call
    "doubled": 3,  # applied and answered, and applied again later
    "slow": 3,  # answered late, but in time
}


#: What can befall a call that appends to the history: none, or with the same names.
_FAULTS_OF_HISTORY = ("refused", "refused", "refused", "lost", "lost", "hung", "slow", "bad", "cancelled")


class Log:
    """Append-only, until it is closed."""

    def __init__(self, clock: VirtualClock) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._clock = clock

    @property
    def now(self) -> float:
        return self._clock.elapsed

    def append(self, event: Event) -> None:
        if not self.closed:
            self.events.append(event)


@dataclass(frozen=True, slots=True)
class Outage:
    """From ``begin`` to ``end``, calls fail with ``fault``: all, or those of one method, partition or worker's machine."""

    begin: float
    end: float
    fault: str
    method: str | None = None
    partition: str | None = None
    machine: str | None = None

    def hits(self, at: float, machine: str, method: str, partition: str | None) -> bool:
        return (
            self.begin <= at < self.end
            and self.method in (None, method)
            and self.partition in (None, partition)
            and self.machine in (None, machine)
        )


@dataclass(slots=True)
class Faults:
    """What goes wrong between workers and store, and how often."""

    random: Random
    #: The share of calls that are hit, until healed.
    rate: float = 0.0
    #: After how many seconds a call that is not answered raises.
    timeout: float = 2.0
    #: By how much the delivery of a call can be delayed (seconds).
    delay: float = 10.0
    outages: list[Outage] = field(default_factory=list)
    #: Rows whose settlements the store refuses for good.
    refused: set[Key] = field(default_factory=set)
    #: Called in the middle of a call, with the worker and the rows that it is about.
    failpoint: Callable[[str, Sequence[Key]], None] | None = None

    def draw(self, at: float, machine: str, method: str, partition: str | None) -> str | None:
        for outage in self.outages:
            if outage.hits(at, machine, method, partition):
                return outage.fault
        # Workers that can't even start show nothing.
        rate = (
            self.rate / 4
            if partition == LAYOUTS or method in ("server_time", "list", "register")
            else 3 * self.rate
            if method == "settle"
            else self.rate
        )
        if self.random.random() >= rate:
            return None
        return self.random.choices(list(_FAULTS), list(_FAULTS.values()))[0]

    def heal(self) -> None:
        self.rate = 0.0
        self.outages.clear()
        self.refused.clear()
        self.failpoint = None


class Store:
    """The reference store, logging every change of a row together with who asked for it."""

    def __init__(self, log: Log, clock: VirtualClock, *, shared: bool, server_time: bool) -> None:
        self.log = log
        self.clock = clock
        self.shared = shared
        self.server_time = server_time
        self.calls = 0
        #: Those who listen for hints, and how many were told.
        self.listeners: list[asyncio.Queue[Sequence[Hint]]] = []
        self.hints = 0
        self._memory = MemoryRepository()
        self._known: dict[Key, Row] = {}

    async def register(self, worker: str, call: int, now: datetime, registrations: Sequence[Registration], *, force: bool) -> None:
        for registration in registrations:
            await self._memory.register(now, [registration], force=force)
            self._changed(worker, call, "force" if force else "register", now, registration.key)

    async def unregister(self, worker: str, call: int, now: datetime, keys: Sequence[Key]) -> list[bool]:
        found = list(await self._memory.unregister(now, keys))
        for key in keys:
            self._changed(worker, call, "unregister", now, key)
        return found

    async def claim(
        self,
        worker: str,
        call: int,
        now: datetime,
        partition: str,
        lease_duration: timedelta,
        limit: int,
        names: Sequence[str] | None,
    ) -> ClaimResult:
        result = await self._memory.claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
        for claim in result.claims:
            self._changed(worker, call, "claim", now, claim.key)
        return result

    async def settle(self, worker: str, call: int, now: datetime, settlements: Sequence[Settlement]) -> list[Outcome]:
        outcomes = []
        for settlement in settlements:
            outcomes += await self._memory.settle(now, [settlement])
            self._changed(worker, call, "settle", now, settlement.claim.key, settlement, outcomes[-1])
        return outcomes

    async def pause(
        self, worker: str, call: int, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None, *, resume: bool
    ) -> list[bool]:
        found = list(await (self._memory.resume if resume else self._memory.pause)(now, keys, memos))
        for key in keys:
            self._changed(worker, call, "resume" if resume else "pause", now, key)
        return found

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await self._memory.get(keys)

    @property
    def history(self) -> MemoryRepository:
        return self._memory

    async def list(self, partition: str, *, limit: int, token: str | None) -> Page:
        return await self._memory.list(partition, limit=limit, token=token)

    def poison(self, row: Row | None, key: Key) -> None:
        """Write, or lose, a row past the contract."""
        self._memory._put(key, row)
        self._changed(OUTSIDE, 0, "poison", self.clock.now(), key)

    @property
    def rows(self) -> Sequence[Row]:
        return list(self._known.values())

    def _changed(
        self,
        worker: str,
        call: int,
        operation: str,
        now: datetime,
        key: Key,
        settlement: Settlement | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        if key.partition in (LAYOUTS, WORKERS):
            return  # not a task: remembers how a template is laid out, or who runs
        before, after = self._known.get(key), self._memory._get(key)
        if after is None:
            self._known.pop(key, None)
        else:
            self._known[key] = after
        self.log.append(Changed(self.log.now, worker, call, operation, now, key, before, after, settlement, outcome))


class Remote(Repository):
    """The store as one worker sees it: through a network, and with a timeout for every call."""

    def __init__(
        self, store: Store, faults: Faults, random: Random, worker: str, machine: str, clock: Clock, distance: float
    ) -> None:
        self.shared = store.shared
        self._store = store
        self._faults = faults
        self._random = random
        self._worker = worker
        self._machine = machine
        self._clock = clock
        self._distance = distance
        self._underway: set[asyncio.Task[None]] = set()
        #: For the row that the worker keeps of itself: so that it changes nothing of what befalls tasks.
        self._aside = Random(worker)
        self._heard: asyncio.Queue[Sequence[Hint]] = asyncio.Queue()

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        def carry_out(call: int, partly: bool) -> Awaitable[None]:
            return self._store.register(self._worker, call, now, self._part(registrations, partly), force=force)

        # A user's late call would undo a later one of the same user, which no scheduler can help.
        await self._call("register", now, registrations[0].key.partition, carry_out, never="late doubled")

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        def carry_out(call: int, partly: bool) -> Awaitable[list[bool]]:
            return self._store.unregister(self._worker, call, now, keys)

        return await self._call("unregister", now, keys[0].partition, carry_out, never="late doubled part")

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        def carry_out(call: int, partly: bool) -> Awaitable[ClaimResult]:
            most = self._random.randint(1, limit) if partly else limit
            return self._store.claim(self._worker, call, now, partition, lease_duration, most, names)

        return await self._call("claim", now, partition, carry_out)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        async def carry_out(call: int, partly: bool) -> list[Outcome]:
            if all(each.claim.key not in self._faults.refused for each in settlements):
                return await self._store.settle(self._worker, call, now, self._part(settlements, partly))
            taken = [each for each in settlements if each.claim.key not in self._faults.refused]
            await self._store.settle(self._worker, call, now, self._part(taken, True))
            raise RepositoryError("a row can't be written")

        runs = tuple((each.claim.key, each.claim.lease) for each in settlements if each.claim.key.partition != LAYOUTS)
        return await self._call("settle", now, settlements[0].claim.key.partition, carry_out, runs)

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        def carry_out(call: int, partly: bool) -> Awaitable[list[bool]]:
            return self._store.pause(self._worker, call, now, keys, memos, resume=False)

        return await self._call("pause", now, keys[0].partition, carry_out, never="late doubled part")

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        def carry_out(call: int, partly: bool) -> Awaitable[list[bool]]:
            return self._store.pause(self._worker, call, now, keys, memos, resume=True)

        return await self._call("resume", now, keys[0].partition, carry_out, never="late doubled part")

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await self._call("get", None, keys[0].partition, lambda call, partly: self._store.get(keys))

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await self._call("list", None, partition, lambda call, partly: self._store.list(partition, limit=limit, token=token))

    async def wake(self, hints: Sequence[Hint]) -> None:
        """Hints are lost, doubled, late or right, whatever happens to calls."""
        self._store.hints += len(hints)
        for listener in self._store.listeners:
            if listener is not self._heard:
                for _ in range(self._aside.choice((0, 1, 1, 2))):
                    late = self._aside.choice((0.0, 0.01, self._faults.delay)) * self._aside.random()
                    self._deliver_later(0, functools.partial(_hear, listener, hints), late, 0.0)
        if self._aside.random() < self._faults.rate:
            raise TransientRepositoryError("no hints")

    async def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        self._store.listeners.append(self._heard)
        try:
            yield []
            while True:
                yield await self._heard.get()
                if self._aside.random() < self._faults.rate:
                    raise TransientRepositoryError("the connection was lost")
        finally:
            self._store.listeners.remove(self._heard)

    def _part(self, batch: Sequence[_T], partly: bool) -> Sequence[_T]:
        return [each for each in batch if self._random.random() < 0.5] if partly else batch

    async def _latency(self) -> None:
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.random() * (0.003 + self._distance))
        else:
            await asyncio.sleep(0)

    async def _call(
        self,
        method: str,
        now: datetime | None,
        partition: str | None,
        carry_out: Callable[[int, bool], Awaitable[_T]],
        runs: tuple[Run, ...] = (),
        *,
        never: str = "",
    ) -> _T:
        log, random = self._store.log, self._random
        if log.closed:
            raise RepositoryError("the simulation is over")
        if partition == WORKERS:
            await asyncio.sleep(self._aside.choice((0, self._faults.timeout)))
            if self._aside.random() < 0.5:
                raise TransientRepositoryError("refused")
            return await carry_out(0, False)
        self._store.calls += 1
        call = self._store.calls
        time = self._store.clock.now() if self._store.server_time else self._clock.now()
        # Layouts are claimed at the end of another's lease, however far its clock is ahead.
        stale = 0.0 if now is None or partition == LAYOUTS else (time - now).total_seconds()
        log.append(Sent(log.now, self._worker, call, method, stale, runs))
        fault = self._faults.draw(log.now, self._machine, method, partition)
        if fault is not None and fault in never:
            fault = "lost"
        if fault is not None:
            log.append(Failed(log.now, self._worker, call, method, fault))
        try:
            self._pass_failpoint([key for key, _ in runs])
            await self._latency()
            if fault == "slow":
                await asyncio.sleep(random.random() * self._faults.timeout)
            if fault == "doubled":
                self._deliver_later(call, carry_out)
            if fault == "late":
                self._deliver_later(call, carry_out, self._faults.timeout)
            if fault in ("late", "hung"):
                await asyncio.sleep(self._faults.timeout)
            if fault in ("refused", "late", "hung"):
                raise TransientRepositoryError(fault)
            result = await carry_out(call, fault == "part")
            self._pass_failpoint(
                [claim.key for claim in result.claims] if isinstance(result, ClaimResult) else [key for key, _ in runs]
            )
            await self._latency()
            if fault == "slow" and random.random() < 0.5:
                await asyncio.sleep(random.random() * self._faults.timeout)
            if fault in ("lost", "part"):
                raise TransientRepositoryError(fault)
        except RepositoryError as error:
            log.append(
                Delivered(log.now, self._worker, call, error=str(error), refused=not isinstance(error, TransientRepositoryError))
            )
            raise
        claims = tuple(result.claims) if isinstance(result, ClaimResult) and partition != LAYOUTS else ()
        outcomes = tuple(result) if method == "settle" and isinstance(result, list) and partition != LAYOUTS else ()
        log.append(Delivered(log.now, self._worker, call, claims, outcomes))
        return result

    def _pass_failpoint(self, keys: Sequence[Key]) -> None:
        if self._faults.failpoint is not None:
            self._faults.failpoint(self._worker, keys)

    def _deliver_later(
        self, call: int, carry_out: Callable[[int, bool], Awaitable[object]], after: float = 0.0, delay: float | None = None
    ) -> None:
        async def deliver() -> None:
            await asyncio.sleep(after + (self._random.random() * self._faults.delay if delay is None else delay))
            if not self._store.log.closed:
                try:
                    await carry_out(call, False)
                except RepositoryError:
                    pass

        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        task = loop.spawn(OUTSIDE, deliver())
        self._underway.add(task)
        task.add_done_callback(self._underway.discard)


async def _hear(listener: asyncio.Queue[Sequence[Hint]], hints: Sequence[Hint], call: int, partly: bool) -> None:
    listener.put_nowait(hints)


class RemoteWithClock(Remote):
    """The same for a store that has a clock of its own."""

    async def server_time(self) -> datetime:
        async def carry_out(call: int, partly: bool) -> datetime:
            return self._store.clock.now()

        return await self._call("server_time", None, None, carry_out, never="late doubled part")


class RemoteWithHistory(RemoteWithClock):
    """The same for a store that keeps a history, to which calls fail independently of all others."""

    async def append(self, entries: Sequence[Entry]) -> None:
        sent_at, random, history = self._store.log.now, self._aside, self._store.history
        fault = random.choice(_FAULTS_OF_HISTORY) if self._faults.rate and random.random() < 0.5 else ""
        applied, error = False, "cancelled"
        try:
            await asyncio.sleep(random.random() * 0.01)
            if fault == "slow":
                await asyncio.sleep(random.random() * self._faults.timeout)
            if fault == "hung":
                await asyncio.sleep(3600)
            if fault == "cancelled":
                raise asyncio.CancelledError  # by a driver that mixes it up
            if fault == "bad":
                error = "refused"
                raise RepositoryError("an entry can't be stored")
            error = "transient"
            if fault == "refused":
                raise TransientRepositoryError("the history is away")
            await history.append(entries)
            applied = True
            if fault == "lost":
                raise TransientRepositoryError("the answer was lost")
            error = ""
        finally:
            self._store.log.append(Recorded(self._store.log.now, self._worker, sent_at, tuple(entries), applied, error, fault))

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        return await self._store.history.runs(partition, name, limit=limit, before=before)

    async def prune(self, now: datetime, *, limit: int) -> int:
        if self._aside.random() < self._faults.rate:
            raise TransientRepositoryError("the history is away")
        return await self._store.history.prune(now, limit=limit)

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        return await self._store.history.trim(partition, name, keep=keep, limit=limit)
