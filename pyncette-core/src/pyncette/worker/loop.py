"""The loop: claim what is due, run it, settle it, sleep until something is due again, shut down."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.errors import TransientRepositoryError
from pyncette.hooks import Instrumentation
from pyncette.store.contract import ClaimResult, Repository, SupportsServerTime
from pyncette.tasks import STATIC_PARTITION, StaticTask, Task
from pyncette.worker.execution import Execution, Runner
from pyncette.worker.executors import Executor
from pyncette.worker.settlement import Settler

__all__ = ["Engine", "Settings"]

logger = logging.getLogger(__name__)

#: Two polls of one partition are at least this far apart (seconds), unless the first brought all it could; farther, while rows
#: are due that can't be had, since somebody else has them in hand.
_FLOOR = 0.005
#: Timers of the event loop and the store-aligned clock differ by less than this (seconds); waking early would cost a poll.
_TIMER_SLACK = 0.0005
#: After an error of the store the next try comes after this long (seconds), then twice as long, up to the limit.
_FIRST_RETRY_AFTER, _LAST_RETRY_AFTER = 0.1, 2.0
#: How often the offset to the store's clock is measured (seconds).
_ALIGN_EVERY = 30.0
#: How often a store that nobody else writes is polled (seconds): its changes are known, but not those of the wall clock.
_POLL_UNSHARED_EVERY = 10.0
#: How long cancelled bodies, and what they leave to be stored, are waited for (seconds).
_CANCELLATION_GRACE = 5.0


class _PassFailed(Exception):
    """An error of the store, which has been dealt with: for those who measure."""


@dataclass(slots=True, eq=False)
class _Lane:
    """Something to claim from: a partition of a template, or static tasks that share a lease duration."""

    partition: str
    lease_duration: timedelta
    tasks: Mapping[str, Task] | Task
    #: When it is to be polled next, and when it was polled last, on the monotonic clock.
    due: float = 0.0
    polled: float = float("-inf")
    #: The next poll comes no sooner than this (seconds) after the last, unless that brought all it could.
    pause: float = _FLOOR

    @property
    def names(self) -> Sequence[str] | None:
        return None if isinstance(self.tasks, Task) else list(self.tasks)

    def task(self, name: str) -> Task:
        return self.tasks if isinstance(self.tasks, Task) else self.tasks[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an application runs; the parameters of :class:`~pyncette.Pyncette`."""

    poll_interval: timedelta
    batch_size: int
    concurrency_limit: int
    shutdown_timeout: timedelta | None
    executor_cls: Callable[[int, Callable[[], None]], Executor]
    instrumentation: Instrumentation


class Engine:
    """Runs the tasks of one application until told to stop."""

    def __init__(
        self,
        invoke: Callable[[Execution], Awaitable[Any]],
        repository: Repository,
        clock: AlignedClock,
        settings: Settings,
        *,
        tasks: Sequence[Task],
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._settler = Settler(repository, clock, settings.batch_size, self._capacity_changed)
        self._runner = Runner(
            invoke,
            settler=self._settler,
            clock=clock,
            retry_delay=settings.poll_interval,
            ready=self.ready,
            lease_lost=settings.instrumentation.lease_lost,
        )
        self._instrumentation = settings.instrumentation
        self._executor = settings.executor_cls(settings.concurrency_limit, self._capacity_changed)
        self._tick_interval = settings.poll_interval.total_seconds()
        self._poll_interval = self._tick_interval if repository.shared else max(self._tick_interval, _POLL_UNSHARED_EVERY)
        self._batch_size = settings.batch_size
        timeout = settings.shutdown_timeout
        self._shutdown_timeout = None if timeout is None else timeout.total_seconds()
        self._tasks = tasks
        self._static_tasks: list[StaticTask] = []
        self._static: list[_Lane] = []
        self._dynamic: deque[_Lane] = deque()
        self._lanes: dict[str, list[_Lane]] = {}
        self._wakeup = asyncio.Event()
        self._capacity_event = asyncio.Event()
        self._stopping = False
        self._unstarted: dict[Execution, None] = {}
        #: The partitions whose last poll failed: for the time being, and for another reason.
        self._failing: set[str] = set()
        self._broken: set[str] = set()
        self._retry_after = 0.0
        #: When the last pass over all that was due ended well, or all slots were taken, on the store's clock.
        self.last_tick: datetime | None = None

    def stop(self) -> None:
        """Claim nothing more; :meth:`run` returns when the bodies have ended."""
        self._stopping = self._runner.draining = True
        self._wakeup.set()
        self._capacity_event.set()

    def ready(self, partition: str, ready_at: datetime) -> None:
        """A row of ``partition`` is known to be ready at ``ready_at``: poll no later than that."""
        now = self._clock.monotonic()
        for lane in self._lanes.get(partition, ()):
            if lane.due > now:
                wait = (ready_at - self._clock.now()).total_seconds()
                due = now + (wait + _TIMER_SLACK if wait > 0 else 0.0)
                due = max(due, lane.polled + _FLOOR)
                if due < lane.due:
                    lane.due = due
                    self._wakeup.set()

    async def run(self) -> None:
        """Run until :meth:`stop`, then drain. Cancelling it cancels the bodies and gives back what they were running."""
        self._set_up_lanes()
        settling = asyncio.create_task(self._settler.run(), name="pyncette-settler")
        settling.add_done_callback(lambda _: self.stop())  # it ends before it is closed only by a bug: don't hang, raise
        aligning = asyncio.create_task(self._keep_aligned(), name="pyncette-clock")
        try:
            await self._register(self._static_tasks)
            while not self._stopping:
                await self._tick()
                await self._sleep()
            if not await self._executor.drain(self._shutdown_timeout):
                logger.warning("Not all bodies ended within the shutdown timeout; cancelling them")
                await self._cancel_bodies()
            self._settler.close(give_up_at=self._settle_until())
            await asyncio.wait([settling])  # if this is cancelled, what is to be stored is not
            settling.result()
        except BaseException:
            self.stop()
            await self._cancel_bodies()
            self._settler.close(give_up_at=self._clock.monotonic() + _CANCELLATION_GRACE)
            await asyncio.wait([settling])
            raise
        finally:
            settling.cancel()
            aligning.cancel()
            await asyncio.gather(settling, aligning, return_exceptions=True)

    def _set_up_lanes(self) -> None:
        """For the tasks that are enabled by now, and the partitions of them that are."""
        tasks = [task for task in self._tasks if task.enabled]
        self._static_tasks = [task for task in tasks if isinstance(task, StaticTask)]
        self._static, self._dynamic = _lanes(tasks)
        for lane in (*self._static, *self._dynamic):
            self._lanes.setdefault(lane.partition, []).append(lane)

    def _settle_until(self) -> float:
        if self._shutdown_timeout is None:
            return float("inf")  # each outcome is given up when its own lease ends
        return self._clock.monotonic() + max(self._shutdown_timeout, _CANCELLATION_GRACE)

    async def _cancel_bodies(self) -> None:
        self._runner.draining = self._runner.cancelling = True
        self._executor.cancel()
        if not await self._executor.drain(_CANCELLATION_GRACE):
            logger.error("Some bodies did not end when they were cancelled; they are left behind")
        for execution in self._unstarted:  # cancelled before their first step
            execution.release_unstarted()
        self._unstarted.clear()

    async def _keep_aligned(self) -> None:
        if not isinstance(self._repository, SupportsServerTime):
            return
        while True:
            await asyncio.sleep(_ALIGN_EVERY)
            try:
                await self._clock.align(self._repository.server_time)
            except Exception as error:
                logger.debug("The store's clock could not be read: %s", error)

    # --- one pass ---------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        with contextlib.suppress(_PassFailed), self._instrumentation.tick():
            await self._pass()

    async def _pass(self) -> None:
        """Poll each lane that is due, once; the static ones come first and in between, so that no backlog starves them."""
        errors: list[Exception] = []
        failures = 0
        for lane in self._turns(self._clock.monotonic()):
            if not await self._slot():
                return
            try:
                await self._poll(lane)
            except TransientRepositoryError as error:
                errors.append(error)
                failures += 1
                self._back_off(lane, error, everywhere=failures > 1)
                if failures > 1:
                    break
            except Exception as error:
                errors.append(error)
                # No other partition is to suffer for this one.
                logger.exception("Partition %r can't be polled", lane.partition)
                lane.due = min(lane.due, self._clock.monotonic() + self._tick_interval)
                self._broken.add(lane.partition)
                failures = 0
            else:
                self._succeeded(lane)
                failures = 0
        if errors:
            raise _PassFailed from errors[0]
        if not self._failing and not self._broken:
            self.last_tick = self._clock.now()

    def _turns(self, started: float) -> Iterator[_Lane]:
        def due_static() -> Iterator[_Lane]:
            now = self._clock.monotonic()
            return (lane for lane in self._static if lane.due <= now)

        yield from due_static()
        for _ in range(len(self._dynamic)):
            lane = self._dynamic[0]
            self._dynamic.rotate(-1)  # when a pass ends early, the next one goes on behind the last lane served
            if lane.due <= started:
                yield lane
                yield from due_static()

    async def _slot(self) -> bool:
        """Wait until something may be claimed; False if the engine is to stop instead."""
        while not self._stopping:
            if self._capacity() > 0:
                return True
            self._capacity_event.clear()
            try:
                async with asyncio.timeout(self._tick_interval):
                    await self._capacity_event.wait()
            except TimeoutError:
                if not self._executor.free_slots and not self._failing and not self._broken:
                    self.last_tick = self._clock.now()  # busy, but well
        return False

    @property
    def free_slots(self) -> int:
        return self._executor.free_slots

    @property
    def stopping(self) -> bool:
        return self._stopping

    def _capacity_changed(self) -> None:
        self._capacity_event.set()

    def _capacity(self) -> int:
        """How much may be claimed: what can start at once, while at most one batch waits to be settled."""
        if self._settler.pending >= self._batch_size:
            return 0
        return min(self._batch_size, self._executor.free_slots)

    async def _poll(self, lane: _Lane) -> None:
        limit = self._capacity()
        sent, now = self._clock.monotonic(), self._clock.now()
        # If the claim fails, it may still have been applied: its rows come back when the lease ends.
        lane.due, lane.polled = sent + self._poll_interval, sent
        result = await self._claim(lane, now, sent, limit)
        self._plan(lane, result, limit, sent, now)
        await self._start(self._executions(lane, result, now, sent))
        if result.missing and not self._stopping:
            logger.debug("Registering static tasks that the store does not have: %s", result.missing)
            missing = set(result.missing)
            await self._register([task for task in self._static_tasks if task.name in missing])

    async def _claim(self, lane: _Lane, now: datetime, sent: float, limit: int) -> ClaimResult:
        call = asyncio.ensure_future(
            self._repository.claim(now, lane.partition, lease_duration=lane.lease_duration, limit=limit, names=lane.names)
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            # What it brings has to be given back, or it would stay leased without a body.
            try:
                await asyncio.wait([call], timeout=_CANCELLATION_GRACE)
            finally:
                call.cancel()
            await asyncio.wait([call], timeout=_CANCELLATION_GRACE)  # for a driver to throw its connection away
            if call.done() and not call.cancelled() and call.exception() is None:
                self._unstarted.update(dict.fromkeys(self._executions(lane, call.result(), now, sent)))
            raise

    def _executions(self, lane: _Lane, result: ClaimResult, claimed_at: datetime, sent: float) -> list[Execution]:
        deadline = sent + lane.lease_duration.total_seconds()
        executions = []
        for claim in result.claims:
            try:
                executions.append(Execution(self._runner, lane.task(claim.key.name), claim, claimed_at, deadline))
            except KeyError:
                logger.error("The store gave %s, which was not asked for; it is left alone", claim.key)  # noqa: TRY400
        return executions

    async def _start(self, executions: Sequence[Execution]) -> None:
        self._unstarted.update(dict.fromkeys(executions))
        for execution in executions:
            await self._executor.spawn(self._execute(execution))

    async def _execute(self, execution: Execution) -> None:
        self._unstarted.pop(execution, None)
        await execution.run()

    def _plan(self, lane: _Lane, result: ClaimResult, limit: int, sent: float, now: datetime) -> None:
        """When to poll the lane again."""
        if len(result.claims) >= limit:
            lane.due, lane.pause = sent, _FLOOR
            return
        # A claim that is neither settled nor extended becomes ready when its lease ends.
        ready = lane.lease_duration.total_seconds() if result.claims else self._poll_interval
        if result.next_ready_at is not None:
            ready = min(ready, (result.next_ready_at - now).total_seconds())
        lane.pause = _FLOOR if result.claims or ready > 0 else min(2 * lane.pause, self._tick_interval)
        lane.due = max(sent + lane.pause, min(lane.due, sent + ready + _TIMER_SLACK))

    async def _register(self, tasks: Sequence[StaticTask]) -> None:
        if tasks:
            now = self._clock.now()
            registrations = [task.registration(now) for task in tasks]
            await self._repository.register(now, registrations)
            for registration in registrations:
                self.ready(STATIC_PARTITION, registration.target.execute_after)

    # --- between passes -----------------------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        """Until a lane is due, or somebody wakes the loop."""
        while not self._stopping:
            self._wakeup.clear()
            lanes = (*self._static, *self._dynamic)
            delay = min((lane.due for lane in lanes), default=float("inf")) - self._clock.monotonic()
            if delay <= 0:
                await asyncio.sleep(0)  # let bodies start, also if no claim ever suspends
                return
            try:
                async with asyncio.timeout(min(delay, self._tick_interval)):
                    await self._wakeup.wait()
            except TimeoutError:
                return

    def _back_off(self, lane: _Lane, error: Exception, *, everywhere: bool) -> None:
        """Try ``lane`` again later; if the one before it failed, too, the whole store seems to be away: not worth a timeout each."""
        if not self._failing:
            logger.warning("The store can't be reached; trying again until it can: %s", error)
        self._failing.add(lane.partition)
        self._retry_after = min(2 * self._retry_after or _FIRST_RETRY_AFTER, _LAST_RETRY_AFTER)
        due = self._clock.monotonic() + self._retry_after
        for each in self._lanes[lane.partition]:
            each.due = due
        if everywhere:
            for each in (*self._static, *self._dynamic):
                each.due = max(each.due, due)

    def _succeeded(self, lane: _Lane) -> None:
        self._broken.discard(lane.partition)
        if lane.partition in self._failing:
            self._failing.discard(lane.partition)
            if not self._failing:
                logger.warning("The store is back")
                self._retry_after = 0.0
        if not self._failing and not self._broken:
            self.last_tick = self._clock.now()  # not only at the end of a pass: with many partitions that may take long


def _lanes(tasks: Sequence[Task]) -> tuple[list[_Lane], deque[_Lane]]:
    static: dict[timedelta, dict[str, Task]] = {}
    dynamic: deque[_Lane] = deque()
    for task in tasks:
        if isinstance(task, StaticTask):
            static.setdefault(task.lease_duration, {})[task.name] = task
        else:
            dynamic.extend(_Lane(partition, task.lease_duration, task) for partition in task.partitions())
    return [_Lane(STATIC_PARTITION, lease, names) for lease, names in static.items()], dynamic
