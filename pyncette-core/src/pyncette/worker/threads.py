"""Where bodies run that are plain functions: in a limited number of threads, beside the event loop."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from pyncette.errors import PyncetteError
from pyncette.tasks import Task

__all__ = ["Threads", "busy_threads", "calls_from_thread"]

logger: logging.Logger = logging.getLogger(__name__)

_R = TypeVar("_R")

#: All that have run a body, for clocks that may not jump while one runs.
_all: "weakref.WeakSet[Threads]" = weakref.WeakSet()
#: What a thread does, and for which of them.
_own = threading.local()


class _Running(Protocol):
    @property
    def task(self) -> Task: ...


class _Job:
    """One call of a body in a thread."""

    __slots__ = ("abandoned", "awaiting", "ended", "error", "function", "name", "result", "started")

    def __init__(self, name: str, function: Callable[[], Any], ended: "asyncio.Future[None]") -> None:
        self.name = name
        self.function = function
        #: Done when the thread is.
        self.ended = ended
        self.result: Any = None
        self.error: BaseException | None = None
        #: Whether nobody waits for it any more, although the thread continues; and whether the thread itself waits for the event loop.
        self.abandoned = self.awaiting = False
        self.started = time.monotonic()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error


class Threads:
    """At most ``limit`` threads, which are started when they are needed. They are daemons: the end of the process waits for none."""

    def __init__(self, limit: int, running: Iterable[_Running], freed: Callable[[], None]) -> None:
        """``running`` is all that has a slot or is given one; ``freed`` is called when there is room that no slot became free for."""
        self._limit = limit
        self._running = running
        self._freed = freed
        #: Bounds what runs, also where more was claimed than ``room`` said, as a run of long ago that is taken up again.
        self._slots = asyncio.Semaphore(limit)
        self._jobs: dict[_Job, None] = {}
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = self._started = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def room(self) -> int:
        """How many more bodies may be claimed for threads: as for other slots, so that no lease ticks in a queue."""
        taken = sum(execution.task.in_thread for execution in self._running)
        return self._limit - taken - sum(job.abandoned for job in self._jobs)

    def busy(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a body that is waited for runs beside ``loop``, and does not itself wait for that."""
        return self._loop is loop and any(not job.abandoned and not job.awaiting for job in self._jobs)

    def close(self) -> None:
        """Let idle threads end; the others do once they are idle."""
        for _ in range(self._started):
            self._queue.put(None)

    # --- in the event loop ------------------------------------------------------------------------------------------

    async def run(self, name: str, body: Callable[[Any], Any], context: Any) -> Any:
        """Call ``body`` in a thread, and return or raise what it does.

        When this is cancelled the thread continues, since none can be stopped: then ``context.cancelled`` is set, and what happens to it
        is logged.
        """
        await self._slots.acquire()
        loop = self._loop = asyncio.get_running_loop()
        _all.add(self)
        variables = contextvars.copy_context()
        job = _Job(name, lambda: variables.run(body, context), loop.create_future())
        self._jobs[job] = None
        try:
            self._put(job)
        except BaseException:  # there are too many threads in the process
            del self._jobs[job]
            self._slots.release()
            raise
        try:
            await job.ended
        except asyncio.CancelledError:
            if job in self._jobs:
                job.abandoned = context.cancelled = True
                logger.warning(
                    "%s was cancelled, but a thread can't be stopped: it continues, and keeps one of %d threads until it ends. Let the "
                    "body check context.cancelled regularly",
                    name,
                    self._limit,
                )
            raise
        error, job.error = job.error, None  # or it would hold itself, by the frames of its traceback
        try:
            if error is not None:
                raise error
        finally:
            del error
        return _plain(job.result)

    def _put(self, job: _Job) -> None:
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._work, name=f"pyncette-body-{self._started + 1}", daemon=True).start()
            self._started += 1
        self._queue.put(job)

    def _ended(self, job: _Job) -> None:
        del self._jobs[job]
        self._idle += 1
        self._slots.release()
        if job.abandoned:
            how = "" if job.error is None else f", by {type(job.error).__name__}"
            logger.info(
                "The thread of %s has ended after %.1f s%s", job.name, time.monotonic() - job.started, how, exc_info=job.error
            )
            self._freed()
        elif not job.ended.done():
            job.ended.set_result(None)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            _own.job, _own.threads = job, self
            job.run()
            _own.job = _own.threads = None
            try:
                job.ended.get_loop().call_soon_threadsafe(self._ended, job)
            except RuntimeError:  # it is closed, and nobody asks
                return
            del job

    def call(self, function: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """What the coroutine function ``function`` returns or raises in the event loop; called by a body in a thread, or by what it started."""
        job: _Job | None = getattr(_own, "job", None)  # None in a thread that a body has started

        async def call() -> _R:
            if job is not None:
                job.awaiting = True
            try:
                return await function()
            finally:
                if job is not None:
                    job.awaiting = False

        coroutine = call()
        try:
            if self._loop is None:
                raise RuntimeError
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except concurrent.futures.CancelledError as error:
            raise PyncetteError("The application has ended, and accepts no more calls from its bodies") from error
        except RuntimeError as error:
            if self._loop is not None and not self._loop.is_closed():
                raise
            coroutine.close()
            raise PyncetteError("The application has ended, and accepts no more calls from its bodies") from error


def calls_from_thread(function: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
    """What ``function`` returns in the event loop beside which the body runs that calls this."""
    threads: Threads | None = getattr(_own, "threads", None)
    if threads is None:
        raise PyncetteError("Only a body that is a plain function, and so runs in a thread, can call this; elsewhere, 'await' it")
    return threads.call(function)


def busy_threads(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a body in a thread runs beside ``loop``: time that is virtual may not jump then."""
    return any(threads.busy(loop) for threads in _all)


def _plain(result: Any) -> Any:
    """``result`` of a body, unless that is something that still wants to be run: then nothing of it has been."""
    kind = "generator" if inspect.isgenerator(result) or inspect.isasyncgen(result) else "awaitable"
    if kind == "awaitable" and not inspect.isawaitable(result):
        return result
    with contextlib.suppress(AttributeError):
        result.close()
    raise TypeError(f"The body returned a {type(result).__name__}, which nothing runs; write it as 'async def' without a 'yield'")
