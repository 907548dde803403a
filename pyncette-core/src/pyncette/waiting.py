"""Ways to wait that several modules need: growing pauses, waiting to the end despite cancellation, and waiting for a turn."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pyncette.errors import TransientRepositoryError

__all__ = ["Backoff", "Turns", "fault", "finished", "to_the_end"]

_T = TypeVar("_T")


class Backoff:
    """Pauses in seconds, each twice as long as the one before, up to a limit."""

    __slots__ = ("_first", "_jitter", "_last", "_next")

    def __init__(self, first: float, last: float, *, jitter: bool = False) -> None:
        """``jitter``: the random fraction of each pause, which keeps rivals apart."""
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


class Turns:
    """Turns at the ``size`` connections to a server; a call may take ``timeout`` seconds.

    Any number of calls may wait, for as long as the server answers others: a call has all of its time when its turn comes. If
    the server answers no call for that long, all calls that have waited as long fail together, rather than one timeout after
    another.

    If one connection is dead without showing it, so are the others, and each would cost a call to find out. So when a call
    fails during its turn with an error of ``dead``, ``drop`` is called once for all calls that began before.
    """

    def __init__(
        self,
        size: int,
        timeout: float,
        drop: Callable[[], Awaitable[object]] | None = None,
        dead: tuple[type[BaseException], ...] = (TimeoutError,),
    ) -> None:
        self._size = size
        self._timeout = timeout
        self._drop, self._dead = drop, dead
        #: How many times the connections were dropped.
        self._dropped = 0
        self._all = asyncio.Semaphore(size)
        # However many calls wait, an urgent one waits at most for one call in progress.
        self._others = asyncio.Semaphore(max(1, size - 1))
        self._answered = float("-inf")

    @contextlib.asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """The right to one connection, and the time to use it. Leaving the block without an exception means that the server has
        answered.

        :param urgent: use the connection that is reserved for urgent calls; the others share the rest.
        :raises TimeoutError: the time has passed, perhaps before the turn came.
        """
        time = asyncio.get_running_loop().time
        began = time()
        async with contextlib.nullcontext() if urgent else self._others, self._all:
            now = time()
            if now - max(began, self._answered) >= self._timeout:
                raise TimeoutError
            dropped = self._dropped
            try:
                async with asyncio.timeout_at((now if self._answered > began else began) + self._timeout):
                    yield
            except self._dead:
                if self._drop is not None and dropped == self._dropped:
                    self._dropped += 1
                    await self._drop()
                raise
            self._answered = time()

    async def ended(self) -> None:
        """Wait until the calls that have their turn now have ended, but no longer than the timeout."""
        acquired = 0
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    while acquired < self._size:
                        await self._all.acquire()
                        acquired += 1
        finally:
            for _ in range(acquired):
                self._all.release()


def fault(error: BaseException) -> Exception:
    """The error to report for ``error`` from a call to a store; raises it again if the caller itself was cancelled.

    Any other cancellation is a fault of the driver: it cancelled one of its futures, for example when it closed a connection, and with it
    every task that awaits that future.
    """
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if not isinstance(error, asyncio.CancelledError) or (task is not None and task.cancelling()):
        raise error
    return TransientRepositoryError("The driver of the store cancelled the call")


async def finished(task: "asyncio.Future[Any]") -> bool:
    """Wait until ``task`` is done, however often the caller is cancelled meanwhile. Returns whether it was."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def to_the_end(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Return the result of ``call()``, which runs to its end however often the caller is cancelled; the cancellation is raised
    afterwards.

    If the call itself is cancelled, as all tasks are when a loop ends, it is made again.
    """
    task = asyncio.ensure_future(call())
    cancelled = await finished(task)
    while task.cancelled():
        task = asyncio.ensure_future(call())
        cancelled = await finished(task) or cancelled
    if cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()
