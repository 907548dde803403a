"""Heartbeats that a body does not have to think of."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from pyncette.context import Context
from pyncette.errors import ConfigurationError, LeaseLostException
from pyncette.signatures import check_coroutine_function
from pyncette.tasks import ExecutionMode, Task

__all__ = ["with_heartbeat"]


def with_heartbeat(
    body: None = None, /, *, lease_remaining_ratio: float = 0.5, cancel_on_lease_lost: bool = False
) -> Callable[[Callable[[Context], Awaitable[Any]]], Callable[[Context], Awaitable[Any]]]:
    """A decorator, below ``@app.task``: extends the lease in the background for as long as the body runs.

    :param lease_remaining_ratio: the share of the lease duration that is left when it is extended; between 0 and 1.
    :param cancel_on_lease_lost: cancel the body when the lease is over, also because the store could not be reached until
        then; the run fails with :class:`LeaseLostException`. Otherwise the body goes on, although another worker may run too.
    """
    if body is not None:
        raise ConfigurationError(
            "A decorator needs its parentheses, and takes options by name; write @with_heartbeat(lease_remaining_ratio=...)"
        )
    if not isinstance(lease_remaining_ratio, int | float) or not 0 < lease_remaining_ratio < 1:
        raise ConfigurationError(f"The lease_remaining_ratio is {lease_remaining_ratio!r}; it must be between 0 and 1")

    def decorate(body: Callable[[Context], Awaitable[Any]]) -> Callable[[Context], Awaitable[Any]]:
        if isinstance(body, Task):
            raise ConfigurationError(
                f"with_heartbeat() of task {body.name!r} comes too late; write it below the declaration of the task"
            )

        check_coroutine_function(body, "The body given to with_heartbeat()", "context")

        @functools.wraps(body)
        async def with_heartbeat(context: Context) -> Any:
            if context.task.execution_mode is ExecutionMode.AT_MOST_ONCE:
                return await body(context)
            running = asyncio.ensure_future(body(context))
            beating = asyncio.create_task(_beat(context, lease_remaining_ratio))
            try:
                await asyncio.wait([running, beating], return_when=asyncio.FIRST_COMPLETED)
                if cancel_on_lease_lost and not running.done():
                    running.cancel()
                    await asyncio.wait([running])
                    beating.result()  # raises why the lease was lost
                return await running
            finally:
                for task in (running, beating):
                    task.cancel()
                await asyncio.gather(running, beating, return_exceptions=True)

        return with_heartbeat

    return decorate


async def _beat(context: Context, lease_remaining_ratio: float) -> None:
    """Extend the lease again and again; raises LeaseLostException when it is over."""
    spare = context.task.lease_duration.total_seconds() * lease_remaining_ratio
    while True:
        await asyncio.sleep(max(0.0, context.lease_remaining.total_seconds() - spare))
        try:
            # A store that hangs must not keep the body running beyond its lease.
            async with asyncio.timeout(max(0.0, context.lease_remaining.total_seconds())):
                await context.heartbeat()
        except TimeoutError:
            raise LeaseLostException(f"The lease of {context!r} ended before the store could be reached") from None
