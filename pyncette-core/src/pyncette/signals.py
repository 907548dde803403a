"""SIGINT and SIGTERM for a program with an event loop: the first asks it to end, the second ends it at once.

One way for all platforms and loops. A handler runs in the main thread, and only between two of its steps. Two things compensate for that:
soon after the first signal there is no handler any more, so that the system itself ends the process at the next; and a thread reads the
wake-up descriptor, to which the interpreter writes the moment a signal comes. It wakes the loop, which may be about to
sleep, and acts where the main thread can't, since a call outside of Python holds it.
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
#: Signals that are no farther apart (seconds) ask once: timeout(1), for one, sends its signal to the process and to its group.
ONE_REQUEST = 0.05
#: How long the main thread has to end the process at the second signal (seconds), before the other thread does.
_PATIENCE = 0.1

#: Who handles signals in this process.
_active: "Signals | None" = None


def request_end() -> None:
    """As SIGTERM, unless this process is ending already."""
    if _active is None or not _active.begun:
        os.kill(os.getpid(), signal.SIGTERM)


class Signals:
    """Handles signals while it is entered, in the main thread and in a running event loop. What handled them before does so afterwards.

    SIGINT is left alone where it is ignored, as under nohup and in the background of a shell script. A child that is forked
    meanwhile has the handlers that were there before.
    """

    def __init__(self, first: Callable[[signal.Signals], None], last: Callable[[], None] | None = None) -> None:
        """
        :param first: called at the first signal, in a thread of its own.
        :param last: called at the second, in any thread, before the process ends.
        """
        self._first, self._last = first, last
        #: Whether the first has come.
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
        # uvloop has one of its own, which gets what is read from this one.
        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        self._sender.shutdown(socket.SHUT_WR)  # a child may have a copy, so that closing it is not enough
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
        """Undo it all in a process that was forked: it shares the descriptor with its parent, whose end it must not begin."""
        self._restore()
        signal.set_wakeup_fd(-1)
        self._close()

    # --- in the main thread -----------------------------------------------------------------------------------------------

    def _handle(self, number: int, _: FrameType | None) -> None:
        # Nothing may be logged here: it may have interrupted code that holds the log's lock.
        if self._handled_at is None:
            self._handled_at = time.monotonic()
            self._number = number
            with contextlib.suppress(OSError):
                self._sender.send(b"\0")  # for the case that somebody else has set a wake-up descriptor
        elif time.monotonic() - self._handled_at > ONE_REQUEST:
            if self._last is not None:
                self._last()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
            os._exit(128 + number)  # init of a container, which no signal ends

    def _leave_to_system(self) -> None:
        if _active is self and self._last is None and os.getpid() != 1:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    # --- in the other -----------------------------------------------------------------------------------------------------

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
                        time.sleep(_PATIENCE)  # if the main thread can, it has ended the process by then
                        if self._last is not None:
                            self._last()
                        os._exit(128 + number)

    def _forward(self, data: bytes) -> None:
        if self._wakeup_before != -1:
            with contextlib.suppress(OSError):
                os.write(self._wakeup_before, data)
        self._call(_nothing)

    def _call(self, callback: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)


def _nothing() -> None: ...


@functools.cache
def _hook_forks() -> None:
    """Once in a process: hooks can't be taken back."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


_mask = threading.local()


def _before_fork() -> None:
    # A signal for the child that comes before it has its own handlers would be taken for one for this process.
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
