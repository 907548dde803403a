"""For testing your own tasks: a clock that you set, and an event loop in which hours pass in milliseconds.

In :meth:`VirtualClock.run`, nothing ever waits: whenever all code is waiting for time to pass, time jumps to the next moment at
which something happens. So ``await asyncio.sleep(3600)`` returns at once, after everything due within that hour has happened,
in order. A body that is a plain function takes no virtual time either, however long its thread runs; use
:meth:`VirtualClock.sleep` in place of ``time.sleep``. Other threads and the network still take real time, and virtual time does
not wait for them.
"""

import asyncio
import contextlib
import math
import selectors
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.checks import check_duration
from pyncette.errors import ConfigurationError
from pyncette.worker.threads import busy_threads, calls_from_thread

__all__ = ["VirtualClock", "running"]

_T = TypeVar("_T")

#: How long a body in a thread may really take (seconds) before time passes anyway: it may hang.
_PATIENCE = 5.0


class VirtualClock:
    """A clock that stands still while code runs, and jumps when all code waits.

    :param start: the first instant, aware.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._origin = _in_utc(start)
        #: Seconds that have passed in the event loop.
        self.elapsed: float = 0.0

    def now(self) -> datetime:
        return self._origin + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def advance(self, duration: timedelta) -> None:
        """Let ``duration`` pass, and everything in it happen."""
        check_duration(duration, "duration to advance", zero=True)
        await asyncio.sleep(duration.total_seconds())

    def sleep(self, seconds: float) -> None:
        """Let time pass in a body that is a plain function, where ``time.sleep()`` would take real time."""
        calls_from_thread(lambda: asyncio.sleep(seconds))

    def set(self, now: datetime) -> None:
        """Step the wall clock to ``now`` without letting time pass, as an operator or NTP would."""
        self._origin = _in_utc(now) - timedelta(seconds=self.elapsed)

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run ``main`` to its end in an event loop that uses this clock, and return its result."""
        with asyncio.Runner(loop_factory=self.loop_factory) as runner:
            return runner.run(main)

    def loop_factory(self) -> asyncio.AbstractEventLoop:
        """Create an event loop that uses this clock."""
        return _VirtualLoop(self)


def _in_utc(instant: datetime) -> datetime:
    if instant.utcoffset() is None:
        raise ConfigurationError(f"{instant!r}, has no time zone; set the clock to, for example, datetime(..., tzinfo=UTC)")
    return instant.astimezone(UTC)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        selector = _JumpingSelector(clock)
        super().__init__(selector)
        selector.loop = self
        self._virtual_clock = clock

    def time(self) -> float:
        # Timers due at this instant must run, even after a year, when rounding swallows asyncio's nanosecond of tolerance and it would loop
        # forever. And none may run early: code that waits for an instant in small steps would never reach it.
        self._clock_resolution = math.ulp(self._virtual_clock.elapsed)
        return self._virtual_clock.elapsed


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting ``timeout`` seconds for input, check for input once and let the clock jump."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self.loop: asyncio.AbstractEventLoop | None = None
        self._patient = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(None if timeout is None else 0)
        if events:
            self._patient = True
        elif timeout and self._patient and self.loop is not None and busy_threads(self.loop):
            if events := super().select(_PATIENCE):
                return events
            self._patient = False  # the body hangs, perhaps waiting for time to pass
        if not events and timeout:
            self._clock.elapsed += timeout
        return events


@contextlib.asynccontextmanager
async def running(app: Pyncette, clock: VirtualClock | None = None) -> AsyncIterator[PyncetteContext]:
    """Create ``app`` and run it in the background until the end of the block, on ``clock`` if one is given."""
    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        try:
            yield app_context
        finally:
            app_context.shutdown()
            await run
