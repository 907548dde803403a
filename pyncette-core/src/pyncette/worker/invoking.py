"""The body of a run, as long as it may run: within its timeout, and under its lease where its runs must not overlap."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pyncette.errors import LeaseLostException

__all__ = ["invoke_bounded", "is_being_closed"]


async def invoke_bounded(
    body: Callable[[], Awaitable[Any]],
    timeout: timedelta | None,
    heartbeat: Callable[[], Awaitable[None]] | None = None,
    every: timedelta = timedelta(),
) -> None:
    """Run ``body``, and cancel it when the ``timeout`` has passed: then it has failed, even if it ignores that.

    :param heartbeat: called ``every`` so often while it runs. Once that raises LeaseLostException the body is cancelled likewise.
    """
    lost: LeaseLostException | None = None

    async def beat(heartbeat: Callable[[], Awaitable[None]]) -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(every.total_seconds())
            try:
                await heartbeat()
            except LeaseLostException as error:
                lost = error
                if limit.expired():
                    return  # cancelled already, for its timeout
                limit.reschedule(asyncio.get_running_loop().time())
                return

    beating = None
    try:
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()) as limit:
            beating = None if heartbeat is None else asyncio.create_task(beat(heartbeat))
            await body()
    except TimeoutError:
        if not limit.expired():
            raise  # the body's own
    finally:
        if beating is not None:
            beating.cancel()
    if lost is not None:
        raise lost
    if limit.expired():
        raise TimeoutError(f"it ran longer than its timeout of {timeout}")


def is_being_closed() -> bool:
    """Whether the coroutine that asks is being closed from outside, as at the end of the interpreter, and not run by a loop."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return True
