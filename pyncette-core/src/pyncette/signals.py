"""SIGINT and SIGTERM for a program with an event loop: the first asks it to end, the second ends it at once.

This works on all platforms and loops. A handler runs in the main thread, and only between two of its instructions. Two things compensate
for that: soon after the first signal the handler is removed, so that the system itself ends the process at the next one; and a thread reads
the wake-up descriptor, to which the interpreter writes as soon as a signal arrives. It wakes the loop, which may be about to sleep, and acts
if the main thread can't because a call outside of Python blocks it.
"""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

__all__ = ["ONE_REQUEST", "Signals", "request_end"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
#: Signals closer together than this (seconds) count as one: timeout(1), for example, signals both the process and its group.
ONE_REQUEST = 0.05
#: How long the main thread has to end the process at the second signal (seconds) before the other thread does.
_PATIENCE = 0.1

#: The object that handles signals in this process.
_active: "Signals | None" = None


def request_end() -> None:
    """Act as on SIGTERM, unless this process is already ending."""
    if _active is None or not _active.begun:
        os.kill(os.getpid(), signal.SIGTERM)


class Signals:
    """Handles signals while it is entered, in the main thread of a running event loop, and restores the previous handlers afterwards.

    Leaves SIGINT alone if it is ignored, as under nohup and in the background of a shell script. A child that is forked meanwhile gets
    the previous handlers.
    """

    def __init__(self, first: Callable[[signal.Signals], None], last: Callable[[], None] | None = None) -> None:
        """
        :param first: called at the first signal, in a separate thread.
        :param last: called at the second, in any thread, before the process ends.
        """
        self._first, self._last = first, last
        #: Whether the first signal has arrived.
        self.begun: bool = False
        self._number: int | None = None
        self._handled_at: float | None = None

    def __enter__(self) -> Self:
        global _active
        self._loop = asyncio.get_running_loop()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._before = {number: signal.getsignal(number) for number in _NUMBERS}
        if self._before[signal.SIGINT] is signal.SIG_IGN:
            del self._before[signal.SIGINT]
        self._thread = threading.Thread(target=self._watch, name="pyncette-signals", daemon=True)
        self._thread.start()
        _hook_forks()
        _active = self
        # uvloop has its own descriptor, to which bytes from this one are forwarded.
        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        self._sender.shutdown(socket.SHUT_WR)  # closing it is not enough, because a child may have a copy
        self._thread.join(1.0)
        self._close()

    def _restore(self) -> None:
        global _active
        _active = None
        current = signal.set_wakeup_fd(-1)
        if current == self._sender.fileno():
            current = self._wakeup_before
        if current != -1:
            signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def in_child(self) -> None:
        """Undo everything in a forked process: it shares the descriptor with its parent, and must not trigger its shutdown."""
        self._restore()
        signal.set_wakeup_fd(-1)
        self._close()

    # --- in the main thread -----------------------------------------------------------------------------------------------

    def _handle(self, number: int, _: FrameType | None) -> None:
        # Don't log here: the handler may have interrupted code that holds the log's lock.
        if self._handled_at is None:
            self._handled_at = time.monotonic()
            self._number = number
            with contextlib.suppress(OSError):
                self._sender.send(b"\0")  # in case somebody else has set a wake-up descriptor
        elif time.monotonic() - self._handled_at > ONE_REQUEST:
            if self._last is not None:
                self._last()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
            os._exit(128 + number)  # PID 1 of a container, which no signal ends by default

    def _leave_to_system(self) -> None:
        if _active is self and self._last is None and os.getpid() != 1:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    # --- in the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        began = float("-inf")
        with contextlib.suppress(OSError):
            while data := self._receiver.recv(64):
                self._forward(data)
                for number in data:
                    now = time.monotonic()
                    if number not in self._before and not (number == 0 and self._number):
                        continue
                    if not self.begun:
                        self.begun = True
                        began = now
                        self._first(signal.Signals(number or self._number or 0))
                        self._call(functools.partial(self._loop.call_later, ONE_REQUEST, self._leave_to_system))
                    elif number and now - began > ONE_REQUEST:
                        time.sleep(_PATIENCE)  # by then, the main thread has ended the process if it can
                        if self._last is not None:
                            self._last()
                        os._exit(128 + number)

    def _forward(self, data: bytes) -> None:
        if self._wakeup_before != -1:
            with contextlib.suppress(OSError):
                os.write(self._wakeup_before, data)
        self._call(_nothing)

    def _call(self, callback: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(callback)


def _nothing() -> None: ...


@functools.cache
def _hook_forks() -> None:
    """Runs once per process, because fork hooks can't be removed."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


_mask = threading.local()


def _before_fork() -> None:
    # A signal for the child that arrives before it has its own handlers would be taken for one for this process.
    if _active is not None:
        _mask.value = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def _after_fork() -> None:
    mask = _mask.__dict__.pop("value", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    if _active is not None:
        _active.in_child()
    _after_fork()
