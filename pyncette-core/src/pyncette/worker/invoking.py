"""Runs a body within its limits: its timeout, and its lease if runs must not overlap."""

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
    """Run ``body``, and cancel it when the ``timeout`` has passed. In that case it has failed, even if it ignores the cancellation.

    :param heartbeat: called every ``every`` seconds while the body runs. If it raises LeaseLostException, the body is cancelled, too.
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
                    return  # already cancelled because of its timeout
                limit.reschedule(asyncio.get_running_loop().time())
                return

    beating = None
    try:
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()) as limit:
            beating = None if heartbeat is None else asyncio.create_task(beat(heartbeat))
            await body()
    except TimeoutError:
        if not limit.expired():
            raise  # raised by the body itself
    finally:
        if beating is not None:
            beating.cancel()
    if lost is not None:
        raise lost
    if limit.expired():
        raise TimeoutError(f"it ran longer than its timeout of {timeout}")


def is_being_closed() -> bool:
    """Whether the calling coroutine is being closed from outside, for example at interpreter exit, rather than run by a loop."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return True
