"""The loop: claim what is due, run it, settle it, sleep until something is due again, shut down."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from pyncette.batches import cut
from pyncette.clock import AlignedClock
from pyncette.errors import TransientRepositoryError
from pyncette.listeners import Telling
from pyncette.store.contract import ClaimResult, Repository
from pyncette.tasks import STATIC_PARTITION, StaticTask, Task
from pyncette.waiting import fault, finished
from pyncette.worker.attempt import Lease
from pyncette.worker.ending import GRACE, Ending
from pyncette.worker.execution import Execution, Runner
from pyncette.worker.lanes import Lane, Lanes
from pyncette.worker.listening import Listening
from pyncette.worker.looking import Looking, look_every
from pyncette.worker.presence import Outage, Presence
from pyncette.worker.recording import Recorder
from pyncette.worker.settings import Settings
from pyncette.worker.settlement import Settler
from pyncette.worker.threads import Threads
from pyncette.worker.told import described
from pyncette.worker.watch import Watch

__all__ = ["Engine"]

logger: logging.Logger = logging.getLogger(__name__)

#: How often a store that no other process writes is polled (seconds): its changes are known, but steps of the wall clock are not.
_POLL_UNSHARED_EVERY = 10.0


class _PassFailed(Exception):
    """A store error that has been handled, for instrumentation."""


class Engine:
    """Runs the tasks of one application until told to stop."""

    #: The row of this worker in the store.
    presence: Presence

    def __init__(
        self,
        invoke: Callable[[Execution], Awaitable[Any]],
        repository: Repository,
        clock: AlignedClock,
        settings: Settings,
        *,
        tasks: Sequence[Task],
        worker_id: str,
        tell: Callable[[str, datetime], None],
    ) -> None:
        """``tell`` is called with a partition and the ready time of a row that this worker releases to others."""
        self._repository, self._clock = repository, clock
        self._wakeup = asyncio.Event()
        self._wake = self._wakeup.set
        self._settler = Settler(repository, clock, settings.batch_size, self._wake)
        self._recorder = Recorder(repository, clock)
        self._telling = Telling(settings.listeners, log_runs=settings.log_runs)
        self._grace = 5.0 if settings.shutdown_timeout is None else GRACE  # seconds for listeners at shutdown
        self._runner = Runner(
            invoke,
            clock,
            worker_id,
            self._telling,
            self._recorder,
            repository=repository,
            settler=self._settler,
            poll_interval=settings.poll_interval,
            expect=self.expect,
            lease_lost=settings.instrumentation.lease_lost,
        )
        self._leave, self._listening = tell, Listening(repository, clock, self.expect)
        self._instrumentation = settings.instrumentation
        self._executor = settings.executor_cls(settings.concurrency_limit, self._wake)
        self.threads: Threads = Threads(settings.sync_workers, self._runner.executions, self._wake)
        self._poll_interval = settings.poll_interval.total_seconds()
        #: The longest time without a poll, depending on whether other processes can change the store.
        self._poll_every = self._poll_interval if repository.shared else max(self._poll_interval, _POLL_UNSHARED_EVERY)
        self._batch_size, self._tasks = settings.batch_size, tasks
        self._static_tasks, self._lanes = list[StaticTask](), Lanes([])
        self._looking: Looking
        self._polls: set[asyncio.Task[None]] = set()
        self._reserved = 0  # slots reserved for polls in progress
        self._errors: list[Exception] = []  # errors of the current pass
        self._outage = Outage(clock)
        self.presence = Presence(worker_id, repository, clock, self._runner, self._outage, slots=self._executor.free_slots)
        self._ending = Ending(self._runner, self._executor, self._settler, clock, settings.shutdown_timeout)
        #: When the last pass succeeded, or found all slots taken, on the store's clock.
        self.last_tick: datetime | None = None

    # --- for others ---------------------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> int:
        return self._executor.free_slots

    @property
    def stopping(self) -> bool:
        return self._ending.begun

    @property
    def stuck(self) -> bool:
        """Whether bodies that have outlasted their leases hold all slots, so that nothing else can run."""
        held = self._runner.executions  # a slot becomes free a moment after its execution has ended
        return self._executor.free_slots <= 0 and bool(held) and all(execution.remaining() < 0 for execution in held)

    def running(self) -> Sequence[Execution]:
        """The executions in progress, oldest first."""
        return [execution for execution in self._runner.executions if execution.started_at is not None]

    def stop(self) -> None:
        """Claim nothing more; :meth:`run` returns when the bodies have ended, or ``shutdown_timeout`` has passed."""
        self._ending.begin()
        self._runner.expecting.tell = self._leave  # hints for rows released from now on
        self._wake()

    def expect(self, partition: str | None, ready_at: datetime, *, hinted: bool = False) -> None:
        """A row of ``partition`` (None: of any) can be claimed at ``ready_at``, as this process or a hint says: poll no later than that."""
        for lane in self._lanes if partition is None else self._lanes.of(partition):
            self._expect(lane, ready_at, hinted=hinted)

    def takes(self, partition: str, count: int) -> bool:
        """Whether this worker will run ``count`` ready rows of ``partition``, so that there is no need to wake others."""
        lanes = self._lanes.of(partition)
        takes = any(not lane.looks and not lane.paused and self._lanes.room(lane) >= count for lane in lanes)
        return takes and not self.stopping and count <= self._free()

    def _expect(self, lane: Lane, ready_at: datetime, *, hinted: bool = False) -> None:
        now = self._clock.monotonic()
        if lane.due > now:  # otherwise others poll it anyway
            ready_in = (ready_at - self._clock.now()).total_seconds()
            if self._lanes.expect(lane, now, ready_in, hinted=hinted):
                self._wake()

    async def run(self) -> None:
        """Run until :meth:`stop`, then drain. Cancelling it cancels the bodies and releases their occurrences.

        However often it is cancelled, the order stays the same: bodies, outcomes, and only then the caller.
        """
        tasks = [task for task in self._tasks if task.enabled]  # by now
        self._static_tasks = [task for task in tasks if isinstance(task, StaticTask)]
        facts_every = look_every(self._poll_every) if self._repository.shared else float("inf")
        self._lanes = Lanes(tasks, facts_every, lambda: self.threads.room)
        facts = (tasks, self._lanes, self._poll_every, self._expect, self._runner.resumed)
        self._looking = Looking(self._repository, self._clock, *facts)
        self.presence.begin(tasks)
        self._telling.start()
        work = asyncio.create_task(self._work(), name="pyncette-engine")
        if self._clock.is_system:  # not virtual time, in which nothing takes time
            self._runner.watch = Watch(described)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._ending.cancel()
            self.stop()
            await finished(work)
            if not work.cancelled() and (error := work.exception()) is not None:
                logger.error("The worker failed while being cancelled", exc_info=error)  # noqa: TRY400
            raise
        finally:
            if self._runner.watch is not None:
                self._runner.watch.stop()
            await self._telling.end(self._grace, virtual=not self._clock.is_system)

    async def _work(self) -> None:
        settling = asyncio.create_task(self._settler.run(), name="pyncette-settler")
        settling.add_done_callback(lambda _: self.stop())  # only a bug ends it before it is closed: raise instead of hanging
        present = asyncio.create_task(self.presence.run(), name="pyncette-presence")
        self._listening.start()
        try:
            try:
                await self._register(self._static_tasks)
                while not self.stopping:
                    await self._tick()
                    await self._sleep()
            except BaseException:
                self._ending.cancel()
                raise
            finally:
                self.stop()
                await self._ending.drain(self._polls, self._runner.executions)
                self.presence.close()
                await self._ending.settle(settling)
                await self._ending.record(self._recorder)
                await self._ending.take_leave(present)
            if not settling.cancelled():
                settling.result()
        finally:
            settling.cancel()
            present.cancel()
            await asyncio.gather(asyncio.wait([settling, present], timeout=GRACE), self._listening.stop(GRACE))

    # --- one pass ---------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        with contextlib.suppress(_PassFailed), self._instrumentation.tick():
            await self._pass()

    async def _pass(self) -> None:
        """Poll everything that is due, concurrently, until nothing is due; for at most a poll interval, so that passes are comparable."""
        self._errors = []
        began = self._clock.monotonic()
        while not self.stopping:
            self._wakeup.clear()
            self._begin_polls()
            now = self._clock.monotonic()
            left = began + self._poll_interval - now
            if not self._polls or left <= 0:
                break
            due_in = self._lanes.due_at() - now
            await self._woken(min(left, due_in) if due_in > 0 else left)
        if self._errors:
            raise _PassFailed from self._errors[0]
        if not self._polls:
            self._note_health()

    def _note_health(self) -> None:
        # All slots busy counts as healthy; waiting for a store that does not settle does not.
        settles = self._settler.pending < self._batch_size or self._settler.stalled_for <= self._poll_interval
        if settles and not self._lanes.failing and not self._lanes.overdue(self._clock.monotonic(), self._poll_interval):
            self.last_tick = self._clock.now()

    def _free(self) -> int:
        """How many rows may be claimed: those that can start at once, while one batch is being settled and another waits."""
        if self._settler.pending >= 2 * self._batch_size:
            return 0
        return min(self._batch_size, self._executor.free_slots - self._reserved)

    def _begin_polls(self) -> bool:
        """Poll everything that is due, as far as there are slots. Returns whether anything is."""
        begun = False
        while not self.stopping and (turn := self._lanes.next(self._clock.monotonic(), self._free(), self._poll_interval)):
            self._begin_poll(*turn)
            begun = True
        return begun

    def _begin_poll(self, lane: Lane, limit: int) -> None:
        self._lanes.begin(lane, self._clock.monotonic(), self._poll_every)
        self._reserved += limit
        poll = asyncio.create_task(self._poll(lane, limit))
        self._polls.add(poll)

        def ended(poll: "asyncio.Task[None]") -> None:
            self._polls.discard(poll)
            self._reserved -= limit
            if lane.looks:
                self._lanes.end(lane)
            self._wake()

        poll.add_done_callback(ended)

    async def _poll(self, lane: Lane, limit: int) -> None:
        try:
            missing = await (self._looking.look(lane) if lane.looks else self._take(lane, limit))
            if missing and not self.stopping:
                logger.debug("Registering static tasks that the store does not have: %s", missing)
                await self._register([task for task in self._static_tasks if task.name in missing])
            self._recovered()
            self._note_health()  # not only at the end of a pass, which other polls may delay
        except (Exception, asyncio.CancelledError) as error:
            self._failed(lane, fault(error))

    async def _take(self, lane: Lane, limit: int) -> Collection[str]:
        """Claim and start due rows; returns the static tasks that are missing in the store."""
        sent, now = self._clock.monotonic(), self._clock.now()
        try:
            result = await self._claim(lane, now, limit)
            ready_in = None if result.next_ready_at is None else (result.next_ready_at - now).total_seconds()
            self._lanes.succeeded(lane, len(result.claims), limit, ready_in, self._poll_every)
            self._report(result)
            executions = await self._accept(lane, result, now, sent)
        finally:
            self._lanes.end(lane)
        # Start only a few before the next claim is sent; a store in this process works at no other time.
        if len(executions) > 9 and self._repository.shared and self._begin_polls():
            await asyncio.sleep(0)  # let the calls be sent first, so that the store works while bodies run here
        for execution in executions:
            await self._executor.spawn(execution.run())
        return result.missing

    async def _claim(self, lane: Lane, now: datetime, limit: int) -> ClaimResult:
        return await self._repository.claim(now, lane.partition, lease_duration=lane.lease_duration, limit=limit, names=lane.names)

    async def _accept(self, lane: Lane, result: ClaimResult, claimed_at: datetime, sent: float) -> Sequence[Execution]:
        """The claims to start. Runs in progress adopt some of the others; the rest are released."""
        lease = Lease.of(claimed_at, sent, lane.lease_duration)
        executions, holding = [], self._runner.holding
        for claim in result.claims:
            try:
                task = lane.task(claim.key.name)
            except KeyError:
                logger.error("The store returned %s, which was not asked for; leaving it alone", claim.key)  # noqa: TRY400
                continue
            if claim.key not in holding or not self._runner.adopt(claim, lease):
                executions.append(Execution(self._runner, task, claim, lease))
        if lease.deadline <= self._clock.monotonic() and (late := [execution for execution in executions if execution.is_late]):
            await asyncio.gather(*(execution.return_late() for execution in late))
            executions = [execution for execution in executions if execution not in late]
        self._runner.executions.update(dict.fromkeys(executions))
        return executions

    async def _register(self, tasks: Sequence[StaticTask]) -> None:
        now = self._clock.now()
        for batch in cut(task.registration(now) for task in tasks if not task.has_ended(now)):
            await self._repository.register(now, batch)
            for registration in batch:
                self.expect(STATIC_PARTITION, registration.target.execute_after)

    # --- errors ---------------------------------------------------------------------------------------------------------

    def _report(self, result: ClaimResult) -> None:
        for row in result.unreadable:
            if self._runner.is_news(row.key):
                logger.error("%s %s; skipping it until it is repaired or removed", row.key, row.error)

    def _failed(self, lane: Lane, error: Exception) -> None:
        self._errors.append(error)
        self._lanes.failed(lane, self._clock.monotonic())
        if not isinstance(error, TransientRepositoryError):
            logger.error("Partition %r can't be polled", lane.partition, exc_info=error)
        else:
            self._outage.begin(error)

    def _recovered(self) -> None:
        if not self._lanes.failing:
            self._outage.end()

    # --- between passes -----------------------------------------------------------------------------------------------

    async def _woken(self, seconds: float) -> None:
        """Wait until the loop is woken, at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()

    async def _sleep(self) -> None:
        """The time until a lane is due and has a slot, at most a poll interval; the loop may be woken earlier."""
        self._wakeup.clear()
        if not self.stopping:
            delay = self._lanes.due_at() - self._clock.monotonic() if self._free() > 0 else self._poll_interval
            if delay > 0:
                await self._woken(min(delay, self._poll_interval))
