"""Runs bodies that are plain functions in a limited number of threads, outside the event loop."""

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

#: All instances that have run a body, for virtual clocks, which must not jump while one runs.
_all: "weakref.WeakSet[Threads]" = weakref.WeakSet()
#: The job of a thread, and its instance.
_own = threading.local()


class _Running(Protocol):
    @property
    def task(self) -> Task: ...


class _Job:
    """A call of a body in a thread."""

    __slots__ = ("abandoned", "awaiting", "ended", "error", "function", "name", "result", "started")

    def __init__(self, name: str, function: Callable[[], Any], ended: "asyncio.Future[None]") -> None:
        self.name = name
        self.function = function
        #: Done when the thread has finished the call.
        self.ended = ended
        self.result: Any = None
        self.error: BaseException | None = None
        #: Whether nobody waits for the call any more although the thread continues; and whether the thread waits for the event loop.
        self.abandoned = self.awaiting = False
        self.started = time.monotonic()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error


class Threads:
    """At most ``limit`` threads, started on demand. They are daemons, so the process does not wait for them at exit."""

    def __init__(self, limit: int, running: Iterable[_Running], freed: Callable[[], None]) -> None:
        """``running`` contains the executions with a slot; ``freed`` is called when a thread becomes available without a slot becoming free."""
        self._limit = limit
        self._running = running
        self._freed = freed
        #: Limits the running bodies even if more were claimed than ``room`` allowed, for example by retries of old runs.
        self._slots = asyncio.Semaphore(limit)
        self._jobs: dict[_Job, None] = {}
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = self._started = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def room(self) -> int:
        """How many more bodies may be claimed for threads, so that no lease expires in a queue."""
        taken = sum(execution.task.in_thread for execution in self._running)
        return self._limit - taken - sum(job.abandoned for job in self._jobs)

    def busy(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a body that somebody waits for is running in a thread of ``loop``, without waiting for the loop itself."""
        return self._loop is loop and any(not job.abandoned and not job.awaiting for job in self._jobs)

    def close(self) -> None:
        """End idle threads now, and the others once they are idle."""
        for _ in range(self._started):
            self._queue.put(None)

    # --- in the event loop ------------------------------------------------------------------------------------------

    async def run(self, name: str, body: Callable[[Any], Any], context: Any) -> Any:
        """Call ``body`` in a thread, and return or raise its result.

        If this is cancelled, the thread continues, because threads can't be stopped: ``context.cancelled`` is set, and the end of the thread
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
        except BaseException:  # the process has too many threads
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
        error, job.error = job.error, None  # breaks the reference cycle through the traceback
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
            except RuntimeError:  # the loop is closed, and nobody waits
                return
            del job

    def call(self, function: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """Return or raise the result of the coroutine function ``function`` in the event loop. Called from a body in a thread."""
        job: _Job | None = getattr(_own, "job", None)  # None in a thread that a body started itself

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
    """The result of ``function`` in the event loop of the application whose body calls this."""
    threads: Threads | None = getattr(_own, "threads", None)
    if threads is None:
        raise PyncetteError("Only a body that is a plain function, and so runs in a thread, can call this; elsewhere, 'await' it")
    return threads.call(function)


def busy_threads(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a body runs in a thread of ``loop``, so that virtual time must not jump."""
    return any(threads.busy(loop) for threads in _all)


def _plain(result: Any) -> Any:
    """``result`` of a body; raises an error if that is a coroutine or generator, which nothing has run."""
    kind = "generator" if inspect.isgenerator(result) or inspect.isasyncgen(result) else "awaitable"
    if kind == "awaitable" and not inspect.isawaitable(result):
        return result
    with contextlib.suppress(AttributeError):
        result.close()
    raise TypeError(f"The body returned a {type(result).__name__}, which nothing runs; write it as 'async def' without a 'yield'")
