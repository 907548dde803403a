"""Several processes in one event loop and one virtual time.

A callback belongs to the process whose context it runs in. Callbacks of one process keep their order, as asyncio promises;
those of different processes are interleaved at random, as on different machines. So a process can be frozen (SIGSTOP), thawed
and killed (SIGKILL) at any await, without the code in it taking part.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar

from pyncette.testing import VirtualClock, _VirtualLoop

__all__ = ["OUTSIDE", "ProcessClock", "ProcessLoop"]

_T = TypeVar("_T")

#: The process that belongs to no worker: the network, the store, and whoever directs the scenario.
OUTSIDE = ""

_process: contextvars.ContextVar[str] = contextvars.ContextVar("process", default=OUTSIDE)


class ProcessLoop(_VirtualLoop):
    """An event loop of many processes."""

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        super().__init__(clock)
        self._random = random
        self._queue = self._ready = _Ready(random)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        # Timers of one moment may fire in any order.
        return super().call_at(when + self._random.random() * 1e-6, callback, *args, context=context)

    def spawn(self, process: str, main: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task of ``process``, as is whatever it creates."""
        context = contextvars.copy_context()
        context.run(_process.set, process)
        return self.create_task(main, context=context)

    def freeze(self, process: str) -> None:
        """Let nothing of ``process`` run until it is thawed, while time continues."""
        self._queue.stop(process)

    def thaw(self, process: str) -> None:
        """Let ``process`` continue with all that became due meanwhile."""
        self._queue.go_on(process)


class _Ready:
    """The queue of callbacks, in place of the event loop's deque."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._running: dict[str, deque[asyncio.Handle]] = {}
        self._stopped: dict[str, deque[asyncio.Handle]] = {}
        self._length = 0
        self._nothing = asyncio.Handle(print, (), _NoLoop())  # type: ignore[arg-type]
        self._nothing.cancel()

    def stop(self, process: str) -> None:
        if process not in self._stopped:
            self._stopped[process] = self._running.pop(process, deque())
            self._length -= len(self._stopped[process])

    def go_on(self, process: str) -> None:
        if process in self._stopped:
            self._running[process] = self._stopped.pop(process)
            self._length += len(self._running[process])

    def append(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(_process, OUTSIDE)  # type: ignore[attr-defined]
        if process in self._stopped:
            self._stopped[process].append(handle)
            return
        if process not in self._running:
            self._running[process] = deque()
        self._running[process].append(handle)
        self._length += 1

    def popleft(self) -> asyncio.Handle:
        runnable = [queue for queue in self._running.values() if queue]
        if not runnable:
            return self._nothing  # a process was stopped by a callback before
        self._length -= 1
        return (runnable[int(self._random.random() * len(runnable))] if len(runnable) > 1 else runnable[0]).popleft()

    def clear(self) -> None:
        self._running.clear()
        self._stopped.clear()
        self._length = 0

    def __len__(self) -> int:
        return self._length


class _NoLoop:
    def get_debug(self) -> bool:
        return False


class ProcessClock:
    """The clocks of one machine: the wall clock may be wrong, and the monotonic one begins anywhere."""

    def __init__(self, clock: VirtualClock, wrong_by: timedelta, booted: float) -> None:
        self.wrong_by = wrong_by
        self._clock = clock
        self._booted = booted

    def now(self) -> datetime:
        return self._clock.now() + self.wrong_by

    def monotonic(self) -> float:
        return self._clock.monotonic() + self._booted
