"""Listening to the hints of a repository (:class:`~pyncette.repository.SupportsWakeUp`) in a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pyncette.repository import Hint, SupportsWakeUp

#: For how many seconds a test waits for a hint.
SOON = 30.0


@contextlib.asynccontextmanager
async def listening(repository: SupportsWakeUp) -> AsyncIterator[Callable[[], Awaitable[Sequence[Hint]]]]:
    """Subscribe to hints; the value is a function that waits for the next ones.

    That function returns the hints that arrived together. It raises what ended the subscription, if it has ended, and
    :class:`AssertionError` after :data:`SOON` without a hint. So does entering the block, which waits until the subscription stands.
    """
    heard: asyncio.Queue[Sequence[Hint]] = asyncio.Queue()

    async def listen() -> None:
        async with contextlib.aclosing(repository.wakeups()) as wakeups:
            async for hints in wakeups:
                heard.put_nowait(hints)

    async def next_heard() -> Sequence[Hint]:
        getting = asyncio.create_task(heard.get())
        await asyncio.wait([getting, task], timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            getting.cancel()
            assert task.done(), f"no hint arrived for {SOON:g} s"
            task.result()  # raises what ended the subscription
        return await getting

    task = asyncio.create_task(listen())
    try:
        assert await next_heard() == []
        yield next_heard
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
