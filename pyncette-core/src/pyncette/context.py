"""The context of a run, and the middlewares around it."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pyncette.app_context import PyncetteContext
from pyncette.bodies import CallsFromBody
from pyncette.errors import LeaseLostException
from pyncette.policies import FailureMode, RetryAfter
from pyncette.signatures import is_coroutine_function
from pyncette.tasks import Task, TaskInstance, Template
from pyncette.worker.execution import Execution

__all__ = ["RESERVED", "Body", "Context", "Middleware", "chained", "in_thread"]

#: ``(context, next)``: wraps every run; ``await next()`` continues to the next middleware and at last to the body.
Middleware: TypeAlias = Callable[["Context", Callable[[], Awaitable[None]]], Awaitable[None]]
#: A function of one :class:`Context`: ``async def``, or ``def``, which may block and runs in a thread.
Body: TypeAlias = Callable[["Context"], Any]


class Context:
    """The context of a run, which its body receives. Fixtures are further attributes, by name; middlewares may add more."""

    #: Whether a timeout or a shutdown has ended this run. A body in a thread can't be cancelled, so it should check this regularly; an
    #: asynchronous body gets a CancelledError.
    cancelled = False

    def __init__(self, app_context: PyncetteContext, execution: Execution) -> None:
        #: The running application: schedule and look up tasks, or shut it down.
        self.app_context = app_context
        self._execution = execution

    # These are computed on access, because few bodies use all of them.

    @functools.cached_property
    def args(self) -> dict[str, Any]:
        """The arguments of the declaration and of the instance; a separate copy for each run."""
        return self._execution.arguments()

    @functools.cached_property
    def scheduled_at(self) -> datetime:
        """The time of the occurrence, in the task's time zone."""
        return self._execution.scheduled_at

    @functools.cached_property
    def task(self) -> Task | TaskInstance:
        """The running static task or instance, with its ``template`` and the template's options."""
        task = self._execution.task
        return TaskInstance(self.name, task) if isinstance(task, Template) else task

    @property
    def name(self) -> str:
        """The name of the instance, or of the static task."""
        return self._execution.name

    @property
    def triggered(self) -> bool:
        """Whether this is an extra run, from :meth:`trigger_task` or :meth:`backfill_task`, rather than one from the
        schedule.
        """
        return self._execution.triggered

    @property
    def attempt(self) -> int:
        """1 for the first run of an occurrence; counts claims, including those of workers that died."""
        return self._execution.attempt

    @property
    def is_last_attempt(self) -> bool:
        """Whether the occurrence is given up if this attempt fails."""
        task = self._execution.task
        never_again = task.commits_first or (task.failure_mode is FailureMode.COMMIT and task.retry is None)
        return never_again or self._execution.is_last

    def retry_after(self, delay: timedelta) -> RetryAfter:
        """The exception to raise for another attempt after ``delay``: ``raise context.retry_after(timedelta(minutes=5))``.

        It counts as a failed attempt; after the last one the occurrence is given up anyway. Under AT_MOST_ONCE there is no
        other attempt, so it is an ordinary failure.
        """
        return RetryAfter(delay)

    @property
    def fencing_token(self) -> int:
        """A number that grows with every claim of the task. A resource that remembers the highest it has seen can reject a late
        worker.
        """
        return self._execution.claim.epoch

    @property
    def execution_id(self) -> str:
        """A UUID of task and ``scheduled_at``: the same at every attempt, so that side effects can be made idempotent."""
        return self._execution.execution_id

    @property
    def lease_expires_at(self) -> datetime:
        """The time until which no other worker runs this occurrence, on the store's clock (UTC); a heartbeat extends it."""
        return self._execution.lease.expires_at

    @property
    def lease_remaining(self) -> timedelta:
        """How much of the lease is left, measured on this machine's monotonic clock; never below zero."""
        return timedelta(seconds=max(0.0, self._execution.remaining()))

    async def heartbeat(self) -> None:
        """Extend the lease to a full ``lease_duration`` from now. Does nothing for AT_MOST_ONCE, which holds no lease.

        Raises :class:`LeaseLostException` if the lease has expired, or the store was unreachable until it had. Another worker
        may then run the same occurrence, and the result of this run no longer counts.
        """
        await self._execution.heartbeat()

    def heartbeat_from_thread(self) -> None:
        """The same for a body that is a plain function; also raises LeaseLostException once the run is :attr:`cancelled`."""
        if not self.cancelled:
            self.blocking.run(self.heartbeat)
        if self.cancelled:
            raise LeaseLostException(f"{self._execution} was cancelled, and what it returns no longer counts")

    @functools.cached_property
    def blocking(self) -> CallsFromBody:
        """The calls of :attr:`app_context` for a body that is a plain function: ``context.blocking.schedule_task(...)``."""
        return CallsFromBody(self.app_context)

    def __getattr__(self, name: str) -> Any:
        # Only called for attributes that are not found elsewhere: fixtures are looked up here, not copied into each context.
        try:
            return self.__dict__["app_context"].values[name]
        except KeyError:
            raise AttributeError(f"The context has no {name!r}; a fixture of that name would provide it") from None

    if TYPE_CHECKING:
        # middlewares may set attributes
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        return f"Context({self._execution.task.name!r}, {self.name!r}, scheduled_at={self.scheduled_at}, attempt={self.attempt})"


def chained(middlewares: Sequence[Middleware]) -> Callable[[PyncetteContext, Execution], Awaitable[Any]]:
    """A function that runs the body of an execution inside all ``middlewares``, the first one outermost."""
    chains: dict[Task, Body] = {}

    def invoke(app_context: PyncetteContext, execution: Execution) -> Awaitable[Any]:
        task = execution.task
        chain = chains.get(task)
        if chain is None:
            chain = task.body if is_coroutine_function(task.body) else in_thread(task.body)
            for middleware in reversed(middlewares):
                chain = functools.partial(_call, middleware, chain)
            chains[task] = chain
        return chain(Context(app_context, execution))

    return invoke


def in_thread(body: Body) -> Callable[[Context], Awaitable[Any]]:
    """The plain function ``body`` as a coroutine function that runs it in one of the application's threads."""

    def run(context: Context) -> Awaitable[Any]:
        return context.app_context.threads.run(str(context._execution), body, context)

    return run


async def _call(middleware: Middleware, following: Body, context: Context) -> None:
    async def following_with_context() -> None:
        await following(context)

    await middleware(context, following_with_context)


#: Names that fixtures and added values can't have.
RESERVED = frozenset({"app_context"} | {name for name in dir(Context) if not name.startswith("_")})
