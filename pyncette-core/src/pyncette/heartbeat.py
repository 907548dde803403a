"""Automatic heartbeats."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, TypeVar, overload

from pyncette.checks import check_type
from pyncette.context import Body, Context, in_thread
from pyncette.errors import ConfigurationError, LeaseLostException
from pyncette.signatures import IN_THREAD, check_body, is_coroutine_function, runs_in_thread
from pyncette.tasks import Task
from pyncette.values import shown
from pyncette.waiting import finished

__all__ = ["with_heartbeat"]

_R = TypeVar("_R")


class _WithHeartbeat(Protocol):
    """Keeps the return type of a body: the result is a coroutine function, even for a plain function."""

    @overload
    def __call__(self, body: Callable[[Context], Awaitable[_R]], /) -> Callable[[Context], Coroutine[Any, Any, _R]]: ...

    @overload
    def __call__(self, body: Callable[[Context], _R], /) -> Callable[[Context], Coroutine[Any, Any, _R]]: ...


def with_heartbeat(
    body: None = None, /, *, lease_remaining_ratio: float = 0.5, cancel_on_lease_lost: bool = False
) -> "_WithHeartbeat":
    """A decorator, placed below ``@app.task``, that extends the lease in the background while the body runs.

    :param lease_remaining_ratio: extend the lease when this fraction of it is left; between 0 and 1.
    :param cancel_on_lease_lost: cancel the body when its lease is lost, including when the store was unreachable until it
        expired; the run then fails with :class:`LeaseLostException`. Otherwise the body continues, although another worker may
        run the same occurrence.
    """
    if body is not None:
        ratio = body if isinstance(body, float) else "..."
        raise ConfigurationError(
            f"A decorator needs its parentheses, and takes options by name; write @with_heartbeat(lease_remaining_ratio={ratio})"
        )
    if not isinstance(lease_remaining_ratio, int | float) or not 0 < lease_remaining_ratio < 1:
        raise ConfigurationError(f"The lease_remaining_ratio is {shown(lease_remaining_ratio)}; it must be between 0 and 1")
    check_type(cancel_on_lease_lost, bool, "cancel_on_lease_lost")

    def decorate(body: Body, /) -> Callable[[Context], Coroutine[Any, Any, Any]]:
        if isinstance(body, Task):
            raise ConfigurationError(
                f"with_heartbeat() of task {body.name!r} is applied too late; write it below the declaration of the task"
            )

        check_body(body, "The body given to with_heartbeat()")
        run = body if is_coroutine_function(body) else in_thread(body)

        @functools.wraps(body)
        async def with_heartbeat(context: Context) -> Any:
            if context.task.commits_first:
                return await run(context)
            beating = asyncio.create_task(_beat(context, lease_remaining_ratio))
            try:
                # The body stays in the task that runs it: exceptions and cancellations pass through as they do without heartbeats.
                with _Interruption(beating) if cancel_on_lease_lost else contextlib.nullcontext():
                    return await run(context)
            finally:
                beating.cancel()
                await finished(beating)
                if not beating.cancelled():
                    beating.exception()  # already logged

        setattr(with_heartbeat, IN_THREAD, runs_in_thread(body))
        return with_heartbeat

    return decorate


class _Interruption:
    """Cancels the code inside when the lease is lost, and raises that error instead."""

    def __init__(self, beating: "asyncio.Task[None]") -> None:
        self._beating = beating
        self._lost = self._ended = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._beating.add_done_callback(self._interrupt)

    def _interrupt(self, beating: "asyncio.Task[None]") -> None:
        if not self._ended and not beating.cancelled():
            self._lost = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended = True
        if self._lost:
            cancelled_otherwise = self._task.uncancel() > self._cancelling
            if not (cancelled_otherwise and isinstance(error, asyncio.CancelledError)):
                self._beating.result()


async def _beat(context: Context, lease_remaining_ratio: float) -> None:
    """Extend the lease repeatedly; raises LeaseLostException when it is lost."""
    spare = context.task.lease_duration.total_seconds() * lease_remaining_ratio
    while True:
        await asyncio.sleep(max(0.0, context.lease_remaining.total_seconds() - spare))
        try:
            # A store that hangs must not keep the body running beyond its lease.
            async with asyncio.timeout(max(0.0, context.lease_remaining.total_seconds())):
                await context.heartbeat()
        except TimeoutError:
            raise LeaseLostException(f"The lease of {context!r} expired before the store could be reached") from None
