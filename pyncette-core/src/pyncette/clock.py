"""Clocks: those of the process, and one that is aligned with the store's."""

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["AlignedClock", "Clock", "SystemClock", "from_microseconds", "to_microseconds"]

logger: logging.Logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(instant: datetime) -> int:
    """The microseconds from 1970-01-01T00:00Z to an aware ``instant``: the exact form in which stores keep times."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The aware UTC instant that :func:`to_microseconds` turned into ``microseconds``."""
    return _EPOCH + timedelta(
        0, 0, microseconds
    )  # positional arguments are a third faster, and this runs for each row that is read


class Clock(Protocol):
    """A source of time. Sleeping is left to the event loop."""

    def now(self) -> datetime:
        """The wall clock: an aware datetime in UTC. It may be stepped by an operator or NTP."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point. Never goes back, and runs on while the machine is suspended."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    # CLOCK_MONOTONIC stops while a laptop or a virtual machine sleeps, but leases don't.
    monotonic: "staticmethod[[], float]" = staticmethod(
        functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
    )


class AlignedClock:
    """A clock that follows the store's, so that workers with wrong clocks neither steal leases nor run early.

    Until :meth:`align` is first called, and for stores without a clock of their own, it is the wall clock.
    """

    #: Skews beyond this are worth a warning: they are larger than what NTP leaves.
    WARN_ABOVE = timedelta(seconds=1)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: See :class:`Clock`.
        self.monotonic: Callable[[], float] = clock.monotonic
        self._anchor: tuple[datetime, float] | None = None
        self._asked_at = float("-inf")
        #: How far the local wall clock is ahead of the store's; zero where the store has no clock.
        self.skew: timedelta = timedelta()
        #: Half the round trip of the measurement: how far off the alignment can be.
        self.error: timedelta = timedelta()

    @property
    def is_system(self) -> bool:
        """Whether this is the operating system's time, not a test's."""
        return isinstance(self._clock, SystemClock)

    def now(self) -> datetime:
        if self._anchor is None:
            return self._clock.now()
        instant, measured_at = self._anchor
        return instant + timedelta(seconds=self._clock.monotonic() - measured_at)

    @property
    def aligned_for(self) -> float:
        """How many seconds ago the store's clock was last read; infinity if never."""
        return self._clock.monotonic() - self._asked_at

    async def align(self, server_time: Callable[[], Awaitable[datetime]], *, samples: int = 3) -> None:
        """Measure the offset to the store's clock, as NTP does: the sample with the shortest round trip counts.

        Errors of ``server_time`` are raised and leave the previous alignment in force.
        """
        best: tuple[float, datetime, float] | None = None
        for _ in range(samples):
            sent = self._clock.monotonic()
            instant = await server_time()
            received = self._clock.monotonic()
            if best is None or received - sent < best[0]:
                best = (received - sent, instant, (sent + received) / 2)
        assert best is not None
        self._asked_at = self._clock.monotonic()
        round_trip, instant, measured_at = best
        error = timedelta(seconds=round_trip / 2)
        if self._anchor is not None and error > self.error:
            known = self._anchor[0] + timedelta(seconds=measured_at - self._anchor[1])
            if abs(known - instant) <= error:
                return  # The network is slow now: the earlier measurement agrees, and is more accurate.
        self._anchor, self.error = (instant, measured_at), error
        previous, self.skew = self.skew, self._clock.now() - self.now()
        if abs(self.skew - previous) > self.WARN_ABOVE:
            logger.warning("The local clock is %+.3f s off the store's clock; the store's is used", self.skew.total_seconds())
