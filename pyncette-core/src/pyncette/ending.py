"""The shutdown of a program: bounded, whatever hangs, and logged while it lasts."""

import asyncio
import concurrent.futures.thread
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pyncette.app_context import PyncetteContext
from pyncette.signals import ONE_REQUEST

__all__ = ["Ending"]

logger: logging.Logger = logging.getLogger(__name__)

#: How often the log says what the shutdown is waiting for (seconds).
_TELL_EVERY = 5.0
#: After the shutdown timeout (seconds): when fixtures that still run are cancelled, how often, and when everything is left behind.
_CANCEL_AFTER, _CANCEL_EVERY, _CUT_AFTER = 0.2, 0.1, 0.75
#: How long writing the last log lines may take (seconds), since their reader may have stopped reading.
_LAST_LINES = 0.2
#: How many names are logged in one line.
_MOST_NAMES = 10
#: How long the loop has to log a line (seconds) before a thread does.
_LOOP_PATIENCE = 0.2
#: How often to check whether threads have ended (seconds).
_LOOK_EVERY = 0.02
#: The name of the main task, for which the shutdown does not wait, and the prefix of the threads of ``asyncio.to_thread``.
MAIN, _POOL = "pyncette-main", "asyncio_"


class Ending:
    """A shutdown, which begins once, and ends at most a second after the timeout.

    A thread keeps the time, because a body may block the event loop. Another one writes the log, because that may block too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: timedelta | None, *, with_process: bool) -> None:
        """
        :param timeout: the application's ``shutdown_timeout``.
        :param with_process: whether the whole process ends when time is up; otherwise, the shutdown only stops waiting.
        """
        self._loop = loop
        self._timeout = None if timeout is None else timeout.total_seconds()
        self._with_process = with_process
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._teller: threading.Thread | None = None
        self._threads_before = set(threading.enumerate())
        self.begun: bool = False
        #: Done when the shutdown no longer waits for what is left.
        self.given_up: asyncio.Future[None] = loop.create_future()
        #: The task that runs the application, and the application itself, once it is created.
        self.running: asyncio.Task[None] | None = None
        self.app_context: PyncetteContext | None = None
        #: The application's exception, and the exception with which another task of the loop ended the program.
        self.error: BaseException | None = None
        self.exit: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """The exception with which the program ends, if any."""
        return self.error or self.exit

    def begin(self, why: str = "") -> None:
        """Start the shutdown, its timeout and its log lines; ``why`` is logged. May be called repeatedly, from any thread."""
        with self._lock:
            if self.begun:
                return
            self.begun = True
        self._in_loop(self._shut_down)  # first, because a process at its limits may have no thread left
        self._teller = _start("pyncette-teller", self._tell, why)
        if self._timeout is not None:
            _start("pyncette-limit", self._limit, time.monotonic() + self._timeout)

    async def clear(self) -> None:
        """Cancel the remaining tasks of the loop, and wait until they and the threads have ended."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await self._until(lambda: all(task.done() for task in tasks))
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                what = {"message": "A task failed when it was cancelled at shutdown", "exception": error, "task": task}
                self._loop.call_exception_handler(what)
        await self._until(asyncio.ensure_future(self._loop.shutdown_asyncgens()).done)
        await self._until(lambda: not self._threads())

    async def end(self) -> None:
        """Everything has ended."""
        self._over.set()
        limit = time.monotonic() + _LAST_LINES
        await self._until(lambda: self._teller is None or not self._teller.is_alive() or time.monotonic() > limit)

    async def _until(self, done: Callable[[], bool]) -> None:
        while not (done() or self.given_up.done()):  # noqa: ASYNC110 - threads set no event when they end
            await asyncio.sleep(_LOOK_EVERY)

    def _shut_down(self) -> None:
        if self.app_context is not None:
            self.app_context.shutdown()
        elif self.running is not None:
            self.running.cancel()

    def _in_loop(self, callback: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *args)

    # --- what is waited for -----------------------------------------------------------------------------------------------

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks(self._loop) if task is not self.running and task.get_name() != MAIN]

    def _threads(self) -> list[threading.Thread]:
        """Threads that were started since, are busy, and keep the process from ending."""
        started = [thread for thread in threading.enumerate() if thread not in self._threads_before and not thread.daemon]
        if self._timeout is None or not self._with_process:
            # A program may end children that it started itself after main().
            started = [thread for thread in started if thread.name.startswith(_POOL)]
        return [thread for thread in started if not _is_idle(thread)]

    def _names(self) -> str:
        for _ in range(10):
            with contextlib.suppress(RuntimeError):  # another thread has just changed the collection
                names = self._list()
                more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
                return ", ".join(names[:_MOST_NAMES] + more)
        return "?"

    def _list(self) -> list[str]:
        names = [] if self.app_context is None else list(self.app_context.running_bodies())
        threads = self._threads()
        if self.running is not None and not self.running.done():
            threads = [
                thread for thread in threads if thread.name.startswith(_POOL)
            ]  # other threads may be the store's, and end with it
            if not names:
                names = ["the start" if self.app_context is None else self.app_context.leaving or "outcomes to be stored"]
        elif not names:
            names = [f"task {task.get_name()!r} ({getattr(task.get_coro(), '__qualname__', '?')})" for task in self._tasks()]
        return names + [f"thread {thread.name!r}" for thread in threads]

    # --- in separate threads ----------------------------------------------------------------------------------------------

    def _tell(self, why: str) -> None:
        self._over.wait(ONE_REQUEST)  # only now is it true, and a shutdown that ends at once needs no line
        if why:
            self._log(logging.INFO, "%s: shutting down; send it again to stop immediately", why)
        while not self._over.is_set():
            if names := self._names():
                limit = "" if self._timeout is None else f" (at most {self._timeout:g} s)"
                self._log(logging.INFO, "Still waiting%s: %s", limit, names)
            self._over.wait(_TELL_EVERY)

    def _log(self, level: int, message: str, *args: object) -> None:
        """Log from the loop, so that the line can't come between two things that a body prints, unless the loop is blocked."""
        unsaid, said = threading.Lock(), threading.Event()

        def log() -> None:
            if unsaid.acquire(blocking=False):
                logger.log(level, message, *args)
                said.set()

        self._in_loop(log)
        if not said.wait(_LOOP_PATIENCE):
            log()

    def _limit(self, limit: float) -> None:
        wait = limit + _CANCEL_AFTER - time.monotonic()
        told = False
        while not self._over.wait(wait):
            if time.monotonic() >= limit + _CUT_AFTER:
                _start("pyncette-last-lines", self._last_lines).join(_LAST_LINES)
                if self._with_process:
                    os._exit(_exit_code(self.failure))
                self._in_loop(self.given_up.set_result, None)
                return
            # Runs have their own limits, and release what they hold.
            if self.running is not None and not (self.running.done() or (self.app_context and self.app_context.running)):
                if not told:
                    told = True
                    message = "The shutdown timeout has passed; cancelling: %s"
                    _start("pyncette-teller", self._log, logging.WARNING, message, self._names())
                self._in_loop(self.running.cancel)  # so that fixtures behind the one that hangs are torn down too
            wait = _CANCEL_EVERY

    def _last_lines(self) -> None:
        if self.error is not None:
            logger.error("The application failed", exc_info=self.error)
        logger.warning("The shutdown timeout has passed; left behind: %s", self._names())
        if not self._with_process:
            return
        if "multiprocessing" in sys.modules:
            import multiprocessing

            for child in multiprocessing.active_children():  # otherwise they would wait for their parent forever
                child.terminate()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()


def _start(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def _is_idle(thread: threading.Thread) -> bool:
    """Whether this thread of a pool is idle: the interpreter ends such threads at exit."""
    if not getattr(thread, "pending_work_items", True):  # of concurrent.futures.process
        return True
    frame = None if thread.ident is None else sys._current_frames().get(thread.ident)
    code = None if frame is None else frame.f_code
    return code is not None and code.co_name == "_worker" and code.co_filename == concurrent.futures.thread.__file__


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 0 if error is None else 1
