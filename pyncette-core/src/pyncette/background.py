"""An event loop in a thread of its own, for code that has none: any thread hands it coroutines and waits for what happens to them.

A call may come in the middle of another one, from the handler of a signal or from a finalizer: so it takes no lock.

Before a fork all of them end, and restarts on both sides when they are next called. A child could not leave alone what it inherits: its
sockets are registered in an epoll that it shares with its parent, and SQLite keeps the locks of a file by process, in memory.
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

#: How long calls in progress are waited for when all ends, before they are cancelled (seconds).
_GRACE = 5.0
#: The same when the process ends, and how long that may take in all.
_GRACE_AT_EXIT, _LONGEST_EXIT = 1.0, 5.0

#: Those of this process that have not ended.
_alive: "set[Background[Any]]" = set()
#: Those that the process that forked this one did not get to an end: to delete them would disturb what is shared with it.
_inherited: "list[Background[Any]]" = []
#: Held while one is started, and during a fork.
_starting = threading.RLock()


class NotBegunError(PyncetteError):
    """The call came too late to be made."""


def starting() -> threading.RLock:
    """To be held in order to start one. Re-entrant, for the sake of signals."""
    return _starting


class _Call(Generic[_T, _R]):
    """What one thread waits for."""

    __slots__ = ("answered", "context", "error", "function", "result", "task")

    def __init__(self, function: Callable[[_T], Coroutine[Any, Any, _R]]) -> None:
        self.function = function
        self.context = contextvars.copy_context()  # a trace continues in the thread
        self.answered = threading.Lock()
        self.answered.acquire()
        self.task: asyncio.Task[None] | None = None
        self.result: _R
        self.error: BaseException | None = None

    def answer(self, error: BaseException | None = None) -> None:
        self.error = error
        with contextlib.suppress(RuntimeError):  # it has an answer
            self.answered.release()


class Background(Generic[_T]):
    """A thread that opens something when it is first called, calls coroutine functions with it, and closes it at the end.

    At the end of the process, it is closed if nobody has done so.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self._open = opened
        #: The process that it works in.
        self.pid: int = os.getpid()
        # Neither uvloop's loop nor that of a policy: of this one it is known how it is left behind in a child.
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
        # What it starts is a daemon as well, such as SQLite's threads: the end of the process waits for none of them, but see _at_exit().
        self._thread = threading.Thread(target=self._work, name="pyncette-blocking", daemon=True)

    def start(self) -> None:
        for each in [each for each in _alive if each.pid != self.pid]:  # a fork without Python's knowledge, such as uWSGI's
            each.abandon()
        _alive.add(self)
        try:
            self._thread.start()
        except RuntimeError:  # there are too many
            _alive.discard(self)
            self._loop.close()
            raise
        except BaseException:  # from the handler of a signal: whether it was started is not known
            self.begin_to_end()
            raise

    def abandon(self) -> None:
        """Leave it alone in a child of its process, which has no such thread, but the same sockets."""
        _alive.discard(self)
        _inherited.append(self)
        # What is deleted here would else be taken out of the epoll that the child shares with its parent.
        self._selector.close()

    @property
    def usable(self) -> bool:
        """Whether it takes calls of this process."""
        return self.pid == os.getpid() and not self._ending.is_set()

    # --- in any thread ----------------------------------------------------------------------------------------------

    def call(self, function: Callable[[_T], Coroutine[Any, Any, _R]], timeout: float | None) -> _R:
        """What ``function`` returns or raises in the event loop; it is cancelled if that takes longer than ``timeout`` seconds."""
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
        except BaseException:  # also what the handler of a signal raises
            self._calls.discard(call)
            with contextlib.suppress(NotBegunError):
                self._soon(self._cancel, call)
            raise
        error, call.error = call.error, None  # or it would hold itself, by the frames of its traceback
        if error is None:
            return call.result
        try:
            raise error
        finally:
            del error

    def _wake(self) -> None:
        """Have the queue emptied. Once for all that comes into it until then: it costs a write, in which other threads have their turn."""
        self._woken = True
        try:
            self._soon(self._begin_all)
        except NotBegunError:
            self._refuse_all()  # others may rely on this one
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
        """Take no more calls, and end when those in progress have ended, or after ``grace`` seconds."""
        self._grace = grace
        with contextlib.suppress(NotBegunError):
            self._soon(self._ending.set)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end; not in its own thread, where a finalizer may run."""
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
        """Answer all that waits for an event loop that is closed."""
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
        elif call in self._queue:  # it was interrupted before anybody was woken
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
        """The open client, or the one that is being opened for all waiting callers; a failure goes to them, and the next call retries."""
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = self._loop.create_future()
            self._holder = self._loop.create_task(self._hold(self._opened), name="pyncette-open", context=contextvars.Context())
        try:
            return await asyncio.shield(self._opened)
        except Exception as error:  # each thread raises one of its own
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
# When all threads have ended that are not daemons.
atexit.register(_end_all, _GRACE_AT_EXIT, _LONGEST_EXIT)
