"""An event loop in a separate thread, for code without one: any thread passes it coroutines and waits for their results.

A signal handler or a finalizer may make a call in the middle of another call, so calls take no lock.

All of these threads end before a fork, and restart on both sides at the next call. A child can't simply ignore what it inherits: its
sockets are registered in an epoll that it shares with its parent, and SQLite tracks file locks per process, in memory.
"""

import asyncio
import atexit
import contextlib
import contextvars
import copy
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from pyncette.errors import PyncetteError, TransientRepositoryError

__all__ = ["Background", "NotBegunError", "starting"]

logger: logging.Logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")

#: How long closing waits for calls in progress before it cancels them (seconds).
_GRACE = 5.0
#: The same at the end of the process, and how long that may take in total.
_GRACE_AT_EXIT, _LONGEST_EXIT = 1.0, 5.0

#: The open ones of this process.
_alive: "set[Background[Any]]" = set()
#: Those that the parent could not close before the fork: deleting them would disturb what is shared with the parent.
_inherited: "list[Background[Any]]" = []
#: Held while a thread is started, and during a fork.
_starting = threading.RLock()


class NotBegunError(PyncetteError):
    """The call came after the end."""


def starting() -> threading.RLock:
    """The lock for starting a thread. Re-entrant, because a signal handler may start one too."""
    return _starting


class _Call(Generic[_T, _R]):
    """A call that a thread waits for."""

    __slots__ = ("answered", "context", "error", "function", "result", "task")

    def __init__(self, function: Callable[[_T], Coroutine[Any, Any, _R]]) -> None:
        self.function = function
        self.context = contextvars.copy_context()  # so that a trace continues in the thread
        self.answered = threading.Lock()
        self.answered.acquire()
        self.task: asyncio.Task[None] | None = None
        self.result: _R
        self.error: BaseException | None = None

    def answer(self, error: BaseException | None = None) -> None:
        self.error = error
        with contextlib.suppress(RuntimeError):  # it is already answered
            self.answered.release()


class Background(Generic[_T]):
    """A thread that opens a resource at the first call, calls coroutine functions with it, and closes it at the end.

    It closes automatically at the end of the process.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self._open = opened
        #: The process that it belongs to.
        self.pid: int = os.getpid()
        # Not uvloop's loop, nor a policy's: of this one we know how to abandon it safely in a child.
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._ending = asyncio.Event()
        self._grace = _GRACE
        self._queue: deque[_Call[_T, Any]] = deque()
        self._woken = False
        self._calls: set[_Call[_T, Any]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: asyncio.Future[_T] | None = None
        self._holder: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        # Threads that it starts, such as SQLite's, are daemons too, so the end of the process does not wait for them; see _at_exit().
        self._thread = threading.Thread(target=self._work, name="pyncette-blocking", daemon=True)

    def start(self) -> None:
        for each in [each for each in _alive if each.pid != self.pid]:  # a fork that Python does not notice, such as uWSGI's
            each.abandon()
        _alive.add(self)
        try:
            self._thread.start()
        except RuntimeError:  # too many threads
            _alive.discard(self)
            self._loop.close()
            raise
        except BaseException:  # raised by a signal handler, so we don't know whether the thread has started
            self.begin_to_end()
            raise

    def abandon(self) -> None:
        """Abandon it in a child process, which has the same sockets but not the thread."""
        _alive.discard(self)
        _inherited.append(self)
        # Otherwise deleting it here would remove it from the epoll that the child shares with its parent.
        self._selector.close()

    @property
    def usable(self) -> bool:
        """Whether it accepts calls from this process."""
        return self.pid == os.getpid() and not self._ending.is_set()

    # --- in any thread ----------------------------------------------------------------------------------------------

    def call(self, function: Callable[[_T], Coroutine[Any, Any, _R]], timeout: float | None) -> _R:
        """Return or raise the result of ``function`` in the event loop; it is cancelled after ``timeout`` seconds."""
        call = _Call(function)
        self._calls.add(call)
        try:
            self._queue.append(call)
            if not self._woken:
                self._wake()
            if not call.answered.acquire(timeout=-1 if timeout is None else timeout):
                raise TransientRepositoryError(
                    f"The call exceeded its timeout of {timeout:g} s, and may have been applied; repeat it, or raise timeout="
                )
        except BaseException:  # including exceptions raised by a signal handler
            self._calls.discard(call)
            with contextlib.suppress(NotBegunError):
                self._soon(self._cancel, call)
            raise
        error, call.error = call.error, None  # breaks the reference cycle through the traceback
        if error is None:
            return call.result
        try:
            raise error
        finally:
            del error

    def _wake(self) -> None:
        """Wake the event loop to empty the queue. Once for everything that arrives meanwhile, because waking costs a write."""
        self._woken = True
        try:
            self._soon(self._begin_all)
        except NotBegunError:
            self._refuse_all()  # other threads may rely on this wake-up
        except BaseException:  # from the handler of a signal
            self._woken = False
            with contextlib.suppress(NotBegunError):
                self._soon(self._begin_all)
            raise

    def _soon(self, callback: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # from a closed event loop
            raise NotBegunError from None

    def begin_to_end(self, grace: float = _GRACE) -> None:
        """Accept no more calls, and end once those in progress have ended, or after ``grace`` seconds."""
        self._grace = grace
        with contextlib.suppress(NotBegunError):
            self._soon(self._ending.set)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, except in its own thread, where a finalizer may run."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            _alive.discard(self)
            self._refuse_all()

    def _refuse_all(self) -> None:
        """Answer the calls that wait for an event loop that has been closed."""
        self._woken = False  # first: later callers then wake it again
        for call in list(self._calls):
            call.answer(NotBegunError())

    async def _serve(self) -> None:
        await self._ending.wait()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace)
        if self._opened is not None and not self._opened.done() and self._holder is not None:
            self._holder.cancel()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=self._grace)
        self._leaving.set()
        if self._holder is not None:
            await asyncio.wait([self._holder])

    def _begin_all(self) -> None:
        self._woken = False  # first: later callers then wake it again
        while self._queue:
            self._begin(self._queue.popleft())

    def _begin(self, call: _Call[_T, Any]) -> None:
        if self._ending.is_set():
            call.answer(NotBegunError())
        else:
            call.task = self._loop.create_task(self._answer(call), context=call.context)
            self._tasks.add(call.task)
            call.task.add_done_callback(self._tasks.discard)

    def _cancel(self, call: _Call[_T, Any]) -> None:
        if call.task is not None:
            call.task.cancel()
        elif call in self._queue:  # interrupted before it woke anybody
            self._queue.remove(call)

    async def _answer(self, call: _Call[_T, Any]) -> None:
        try:
            call.result = await call.function(await self._resource())
        except asyncio.CancelledError:
            call.answer(TransientRepositoryError("The client was closed before this call ended; the call may have been applied"))
        except BaseException as error:
            call.answer(error)
        else:
            call.answer()
        finally:
            self._calls.discard(call)

    async def _resource(self) -> _T:
        """The open client, or the one being opened for all waiting callers. If that fails, they all get the error, and the next call retries."""
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = self._loop.create_future()
            self._holder = self._loop.create_task(self._hold(self._opened), name="pyncette-open", context=contextvars.Context())
        try:
            return await asyncio.shield(self._opened)
        except Exception as error:  # each thread raises a separate exception
            raise copy.copy(error).with_traceback(error.__traceback__) from error.__cause__

    async def _hold(self, opened: "asyncio.Future[_T]") -> None:
        try:
            async with self._open() as resource:
                opened.set_result(resource)
                await self._leaving.wait()
        except asyncio.CancelledError:
            opened.cancel()
        except BaseException as error:
            if opened.done():
                logger.warning("The store could not be closed cleanly: %s", error)
            else:
                opened.set_exception(error)


def _end_all(grace: float, longest: float) -> None:
    mine = [each for each in _alive if each.pid == os.getpid()]
    for each in mine:
        each.begin_to_end(grace)
    end = time.monotonic() + longest
    for each in mine:
        each.join(max(0.0, end - time.monotonic()))


def _before_fork() -> None:
    _starting.acquire()
    _end_all(_GRACE, 2 * _GRACE)


def _in_parent() -> None:
    _starting.release()


def _in_child() -> None:
    global _starting
    _starting = threading.RLock()
    for each in list(_alive):
        each.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
# after all threads that are not daemons have ended
atexit.register(_end_all, _GRACE_AT_EXIT, _LONGEST_EXIT)
