"""Two ways to wait that are needed in many places: pauses that grow, and waiting to the end although cancelled."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["Backoff", "finished", "to_the_end"]

_T = TypeVar("_T")


class Backoff:
    """Pauses in seconds, each twice as long as the one before, up to a limit."""

    __slots__ = ("_first", "_jitter", "_last", "_next")

    def __init__(self, first: float, last: float, *, jitter: bool = False) -> None:
        """``jitter``: a random part of each pause, so that those who met do not meet again."""
        self._first, self._last, self._jitter = first, last, jitter
        self._next = first

    def next(self) -> float:
        """How long to pause now."""
        pause = self._next
        self._next = min(2 * pause, self._last)
        return random.uniform(0, pause) if self._jitter else pause

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._next = self._first


async def finished(task: "asyncio.Future[Any]") -> bool:
    """Wait until ``task`` is done, however often the caller is cancelled meanwhile; whether it was."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def to_the_end(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """The result of ``call()``, which is run to its end however often the caller is cancelled; that is raised afterwards.

    A call that is cancelled itself, as all tasks are when a loop ends, is made once more.
    """
    task = asyncio.ensure_future(call())
    cancelled = await finished(task)
    while task.cancelled():
        task = asyncio.ensure_future(call())
        cancelled = await finished(task) or cancelled
    if cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()
