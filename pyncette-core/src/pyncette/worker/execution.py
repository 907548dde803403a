"""One run: from a claim, through context, middlewares and body, to its settlement."""

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pyncette.clock import AlignedClock
from pyncette.errors import LeaseLostException
from pyncette.schedules import text as schedules
from pyncette.store.contract import Claim, Commit, Extend, Fail, Outcome, Release, Settlement, Target
from pyncette.tasks import ExecutionMode, FailureMode, Task
from pyncette.worker.settlement import Answer, Settler

if TYPE_CHECKING:
    from pyncette.app_context import AppContext
    from pyncette.schedules.kinds import Schedule

__all__ = ["Context", "Execution", "Middleware", "Runner"]

logger = logging.getLogger(__name__)

#: ``(context, next)``: wraps every run; ``await next()`` goes on to the next middleware and at last to the body.
Middleware: TypeAlias = Callable[["Context", Callable[[], Awaitable[None]]], Awaitable[None]]

_EXECUTION_NAMESPACE = uuid.UUID("5cbbd8f2-6e66-4d5c-8f3e-8a5a3f6f0f0b")
_MAX_ERROR_CHARACTERS = 2000


class Context:
    """What a body is given of its run. Fixtures are further attributes, by their names; middlewares may add their own."""

    def __init__(
        self, task: Task, args: dict[str, Any], scheduled_at: datetime, app_context: "AppContext", execution: "Execution"
    ) -> None:
        #: The task that runs, or the template of the instance that does.
        self.task = task
        #: The arguments of the declaration and of the instance; a copy of this run's own.
        self.args = args
        #: The time of the occurrence, in the task's time zone.
        self.scheduled_at = scheduled_at
        #: For scheduling other tasks from here, and for shutting the application down.
        self.app_context = app_context
        self._execution = execution

    @property
    def name(self) -> str:
        """The name of the instance, or of the static task."""
        return self._execution.claim.key.name

    @property
    def attempt(self) -> int:
        """1 when the occurrence is first run; counts claims, also those of workers that died."""
        return self._execution.claim.attempt

    @property
    def fencing_token(self) -> int:
        """Strictly greater at every claim of the task. A resource that remembers the greatest it has seen can refuse a late worker."""
        return self._execution.claim.epoch

    @property
    def execution_id(self) -> str:
        """A UUID of task and ``scheduled_at``: the same at every attempt, so that side effects can be made idempotent."""
        claim = self._execution.claim
        partition, name = claim.key
        return str(uuid.uuid5(_EXECUTION_NAMESPACE, f"{len(partition)}:{partition}{name}@{claim.occurrence.isoformat()}"))

    @property
    def lease_expires_at(self) -> datetime:
        """Until when nobody else runs this occurrence, on the store's clock (UTC); a heartbeat moves it on."""
        return self._execution.lease_expires_at

    @property
    def lease_remaining(self) -> timedelta:
        """How much of the lease is left, measured here on a clock that can't be stepped; not below zero."""
        return timedelta(seconds=max(0.0, self._execution.remaining()))

    async def heartbeat(self) -> None:
        """Extend the lease to a full ``lease_duration`` from now. Does nothing for AT_MOST_ONCE, which holds no lease.

        Raises :class:`LeaseLostException` if the lease is over, or the store could not be reached until it was. Another worker
        may run the same occurrence then, and what this run returns no longer counts.
        """
        await self._execution.heartbeat()

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not found elsewhere: fixtures are looked up, not copied into every context.
        try:
            return self.__dict__["app_context"].values[name]
        except KeyError:
            raise AttributeError(f"The context has no {name!r}; a fixture of that name would provide it") from None

    if TYPE_CHECKING:
        # Middlewares may set attributes of their own.
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        return f"Context({self.task.name!r}, {self.name!r}, scheduled_at={self.scheduled_at}, attempt={self.attempt})"


class Runner:
    """What all executions of one application share."""

    def __init__(
        self,
        app_context: "AppContext",
        middlewares: Sequence[Middleware],
        *,
        settler: Settler,
        clock: AlignedClock,
        retry_delay: timedelta,
        ready: Callable[[str, datetime], None],
        lease_lost: Callable[[Task], None],
    ) -> None:
        self.app_context = app_context
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
        self._middlewares = middlewares
        self._chains: dict[Task, Callable[[Context], Awaitable[Any]]] = {}

    def chain(self, task: Task) -> Callable[[Context], Awaitable[Any]]:
        """The body of ``task`` within all middlewares, in the order in which they were defined."""
        chain = self._chains.get(task)
        if chain is None:
            chain = task.body
            for middleware in reversed(self._middlewares):
                chain = functools.partial(_call, middleware, chain)
            self._chains[task] = chain
        return chain


async def _call(middleware: Middleware, following: Callable[[Context], Awaitable[Any]], context: Context) -> None:
    async def following_with_context() -> None:
        await following(context)

    await middleware(context, following_with_context)


class Execution:
    """One claim on its way."""

    def __init__(self, runner: Runner, task: Task, claim: Claim, claimed_at: datetime, deadline: float) -> None:
        self.claim = claim
        #: On the monotonic clock, counted from before the claim was sent: the store's own end of the lease is later.
        self.deadline = deadline
        self.lease_expires_at = claimed_at + task.lease_duration
        self._runner = runner
        self._task = task
        self._lost = False

    def remaining(self) -> float:
        """Seconds left of the lease; negative once it is over."""
        return self.deadline - self._runner.clock.monotonic()

    async def run(self) -> None:
        """Run the occurrence in the order its mode demands, and report the outcome. Raises nothing but cancellation."""
        task, claim = self._task, self.claim
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
            context = Context(
                task, task.arguments(claim.spec), claim.occurrence.astimezone(schedule.zone), self._runner.app_context, self
            )
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
            await self._runner.chain(task)(context)
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
        if self._task.execution_mode is ExecutionMode.AT_MOST_ONCE:
            return
        if not self._lost:
            clock = self._runner.clock
            # Read before the call is sent, so that this end of the lease comes before the store's.
            until, deadline = clock.now() + self._task.lease_duration, clock.monotonic() + self._task.lease_duration.total_seconds()
            answer = await self._runner.settler.submit(Extend(self.claim, until), self.deadline)
            if answer.outcome is Outcome.APPLIED:
                self.lease_expires_at, self.deadline = until, deadline
                return
            self._lost = True
            logger.warning("%s lost its lease: %s", self, answer.error or answer.outcome)
            self._runner.lease_lost(self._task)
        raise LeaseLostException(f"The lease of {self} is over; another worker may run it now")

    def _target(self, schedule: "Schedule") -> Target | None:
        occurrence = self.claim.occurrence
        if self._task.fast_forward:
            following = schedule.next_after(occurrence, self._runner.clock.now())
        else:
            following = schedule.next(occurrence)
        return None if following is None else Target(following, following)

    def _failed(self, error: BaseException, schedule: "Schedule") -> None:
        level = logging.WARNING if isinstance(error, LeaseLostException) else logging.ERROR
        task = self._task
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
        return self._task.max_attempts is not None and self.claim.attempt >= self._task.max_attempts

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
                self._runner.lease_lost(self._task)
        elif answer.outcome is None:
            logger.error("The outcome of %s could not be stored; it may run again: %s", self, answer.error)
        else:
            logger.debug("%s was %s meanwhile", self, "unscheduled" if answer.outcome is Outcome.GONE else "re-scheduled")

    def __str__(self) -> str:
        claim = self.claim
        instance = "" if claim.key.name == self._task.name else f" {claim.key.name!r}"
        return f"task {self._task.name!r}{instance} of {claim.occurrence.isoformat()} (attempt {claim.attempt})"
