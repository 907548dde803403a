"""One run: from a claim, through context, middlewares and body, to its settlement."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.errors import LeaseLostException
from pyncette.schedules import text as schedules
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Extend, Fail, Outcome, Release, Settlement, Target
from pyncette.tasks import ExecutionMode, FailureMode, Task
from pyncette.worker.settlement import Answer, Settler

__all__ = ["Execution", "Runner"]

logger = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 2000


class Runner:
    """What all executions of one application share."""

    def __init__(
        self,
        invoke: "Callable[[Execution], Awaitable[Any]]",
        *,
        settler: Settler,
        clock: AlignedClock,
        retry_delay: timedelta,
        ready: Callable[[str, datetime], None],
        lease_lost: Callable[[Task], None],
    ) -> None:
        #: Runs the body of an execution, within whatever belongs around it.
        self.invoke = invoke
        self.settler = settler
        self.clock = clock
        #: The pause before a retry where the task names none.
        self.retry_delay = retry_delay
        #: Called with a partition, and when a row of it is ready next.
        self.ready = ready
        #: Called with the task whose run was overtaken.
        self.lease_lost = lease_lost
        #: Set when no new body is to be started.
        self.draining = False
        #: Set when bodies are being cancelled.
        self.cancelling = False


class Execution:
    """One claim on its way."""

    def __init__(self, runner: Runner, task: Task, claim: Claim, claimed_at: datetime, deadline: float) -> None:
        self.claim = claim
        #: On the monotonic clock, counted from before the claim was sent: the store's own end of the lease is later.
        self.deadline = deadline
        self.lease_expires_at = claimed_at + task.lease_duration
        self._runner = runner
        self.task = task
        #: The time of the occurrence in the schedule's time zone, and the arguments; known once it runs.
        self.scheduled_at = claim.occurrence
        self.args: dict[str, Any] = {}
        self._lost = False

    def remaining(self) -> float:
        """Seconds left of the lease; negative once it is over."""
        return self.deadline - self._runner.clock.monotonic()

    async def run(self) -> None:
        """Run the occurrence in the order its mode demands, and report the outcome. Raises nothing but cancellation."""
        task, claim = self.task, self.claim
        at_most_once = task.execution_mode is ExecutionMode.AT_MOST_ONCE
        if self._runner.draining:
            self.release_unstarted()
            return
        if task.max_attempts is not None and claim.attempt > task.max_attempts:
            # Its last worker died, or overran its lease: nobody else will report that.
            logger.error("%s is given up: its last attempt did not end in its lease; it is kept as failed", self)
            self._settle(Fail(claim, f"given up: attempt {task.max_attempts} of {task.max_attempts} did not end in its lease"))
            return
        try:
            schedule = schedules.parse(claim.schedule)
            self.scheduled_at = claim.occurrence.astimezone(schedule.zone)
            self.args = task.arguments(claim.spec)
        except Exception as error:
            # A newer version of the code may understand the row, so it stays as it is.
            logger.exception("%s can't be run: what is stored of it can't be understood", self)
            self._give_up(error)
            return
        if at_most_once:
            target = self._target(schedule)
            answer = await self._runner.settler.submit(Commit(claim, target), self.deadline)
            self._log(answer)
            self._settled(answer, target)
            if answer.outcome is not Outcome.APPLIED and not (answer.outcome is Outcome.ALREADY and answer.resent):
                return
        elif self.remaining() <= 0:
            logger.warning("%s is not started: its lease ended before", self)
            self._runner.lease_lost(task)
            return
        try:
            await self._runner.invoke(self)
        except asyncio.CancelledError as error:
            if self._runner.cancelling:
                if not at_most_once:
                    self._settle(Release(claim, self._runner.clock.now()))
                raise
            self._failed(error, schedule)
        except Exception as error:
            self._failed(error, schedule)
        else:
            logger.debug("%s ran", self)
            if not at_most_once:
                target = self._target(schedule)
                self._settle(Commit(claim, target), target)

    def release_unstarted(self) -> None:
        """Give the claim back as if it had not been made."""
        self._settle(Release(self.claim, self._runner.clock.now(), started=False))

    async def heartbeat(self) -> None:
        if self.task.execution_mode is ExecutionMode.AT_MOST_ONCE:
            return
        if not self._lost:
            clock = self._runner.clock
            # Read before the call is sent, so that this end of the lease comes before the store's.
            until, deadline = clock.now() + self.task.lease_duration, clock.monotonic() + self.task.lease_duration.total_seconds()
            answer = await self._runner.settler.submit(Extend(self.claim, until), self.deadline)
            if answer.outcome is Outcome.APPLIED:
                self.lease_expires_at, self.deadline = until, deadline
                return
            self._lost = True
            logger.warning("%s lost its lease: %s", self, answer.error or answer.outcome)
            self._runner.lease_lost(self.task)
        raise LeaseLostException(f"The lease of {self} is over; another worker may run it now")

    def _target(self, schedule: Schedule) -> Target | None:
        occurrence = self.claim.occurrence
        if self.task.fast_forward:
            following = schedule.next_after(occurrence, self._runner.clock.now())
        else:
            following = schedule.next(occurrence)
        return None if following is None else Target(following, following)

    def _failed(self, error: BaseException, schedule: Schedule) -> None:
        level = logging.WARNING if isinstance(error, LeaseLostException) else logging.ERROR
        task = self.task
        message = "%s failed, and is given up: %s" if self._is_last_attempt else "%s failed: %s"
        logger.log(level, message, self, type(error).__name__, exc_info=error)
        if task.execution_mode is ExecutionMode.AT_MOST_ONCE:
            return
        if task.failure_mode is FailureMode.COMMIT:
            target = self._target(schedule)
            self._settle(Commit(self.claim, target), target)
        elif not self._give_up(error) and task.failure_mode is FailureMode.UNLOCK:
            delay = self._runner.retry_delay if task.retry_delay is None else task.retry_delay
            retry_at = self._runner.clock.now() + delay
            self._settle(Release(self.claim, retry_at), Target(retry_at, retry_at))

    @property
    def _is_last_attempt(self) -> bool:
        return self.task.max_attempts is not None and self.claim.attempt >= self.task.max_attempts

    def _give_up(self, error: BaseException) -> bool:
        """Keep the row as failed if this was its last attempt."""
        if not self._is_last_attempt:
            return False
        self._settle(Fail(self.claim, f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]))
        return True

    def _settle(self, settlement: Settlement, target: Target | None = None) -> None:
        """Report an outcome. If the store refuses, the lease runs out and the occurrence is run again."""

        def done(answer: Answer) -> None:
            self._log(answer)
            self._settled(answer, target)

        self._runner.settler.put(settlement, self.deadline, done)

    def _settled(self, answer: Answer, target: Target | None) -> None:
        """Say when the row is ready next, if that is known."""
        partition = self.claim.key.partition
        if answer.outcome is Outcome.SUPERSEDED:  # by a schedule whose time may have come while the row was held
            self._runner.ready(partition, self._runner.clock.now())
        elif target is not None and answer.outcome in (Outcome.APPLIED, Outcome.ALREADY):
            self._runner.ready(partition, target.execute_after)

    def _log(self, answer: Answer) -> None:
        if answer.outcome is Outcome.APPLIED or answer.outcome is Outcome.ALREADY:
            return
        if answer.outcome is Outcome.LOST:
            logger.warning("%s ended after its lease was taken over; it may have run twice", self)
            if not self._lost:
                self._runner.lease_lost(self.task)
        elif answer.outcome is None:
            logger.error("The outcome of %s could not be stored; it may run again: %s", self, answer.error)
        else:
            logger.debug("%s was %s meanwhile", self, "unscheduled" if answer.outcome is Outcome.GONE else "re-scheduled")

    def __str__(self) -> str:
        claim = self.claim
        instance = "" if claim.key.name == self.task.name else f" {claim.key.name!r}"
        return f"task {self.task.name!r}{instance} of {claim.occurrence.isoformat()} (attempt {claim.attempt})"
