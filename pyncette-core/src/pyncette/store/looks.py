"""How much of the index of times a claim scans, where that has become expensive.

Some stores can't remove dead index entries of past runs while a transaction with an older snapshot is open, and a claim that starts at the
earliest time must pass all of them. But nothing is ready before the ``next_ready_at`` of the previous claim, unless somebody has since
written a row with a time in the past.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["Look", "Looks"]

#: A full scan that takes no longer than this (seconds) may run at every claim.
_EXPENSIVE = 0.01
#: The share of the time that longer full scans may take, and the longest pause between two of them (seconds).
_SHARE, _AT_LEAST_EVERY = 0.05, 60.0
#: How late rows of others may appear: their calls take a while, and their clocks differ a little.
_BEFORE = timedelta(seconds=5)
#: How far ahead to search for what is ready next. If nothing is found, the search is repeated then.
_AHEAD = timedelta(seconds=1)
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class _Known:
    """What this process knows about a partition."""

    def __init__(self) -> None:
        #: The durations of the last two full scans (seconds). Both must be long, because one may be an accident.
        self.took: tuple[float, float] = 0.0, 0.0
        #: No row is ready before this.
        self.since: datetime = _LATEST
        #: The earliest time that this process has written since the last claim began, which the claim may have missed.
        self.written: datetime = _LATEST
        #: When the next full scan is due.
        self.again: float = float("-inf")


class Look:
    """The scan of one claim: times from ``since`` (None: the earliest) to ``until``, both inclusive. Created by :meth:`Looks.begin`."""

    def __init__(self, now: datetime, known: _Known, clock: Callable[[], float], expensive: float) -> None:
        self._now, self._known, self._clock, self._expensive = now, known, clock, expensive
        self._everything = clock() >= known.again or known.since > now
        known.written = _LATEST
        self.since: datetime | None = None
        self.until: datetime = _LATEST
        if self._everything:
            self._plan()  # in advance, in case the scan fails because it takes too long
        else:
            self.since, self.until = known.since, min(now, _LATEST - _AHEAD) + _AHEAD

    def end(self, next_ready_at: datetime | None, seconds: float) -> datetime | None:
        """The ``next_ready_at`` that the claim returns.

        :param next_ready_at: the earliest time within the scan of a row that was not claimed.
        :param seconds: the duration of the scan, without the wait for a connection.
        """
        if self._everything:
            self._known.took = self._known.took[-1], seconds
            self._plan()
        elif next_ready_at is None:
            next_ready_at = self.until
        earliest = min(self._now, next_ready_at or _LATEST, self._known.written)
        self._known.since = max(earliest, _EARLIEST + _BEFORE) - _BEFORE
        return next_ready_at

    def _plan(self) -> None:
        took = min(self._known.took)
        self._known.again = self._clock() + (min(took / _SHARE, _AT_LEAST_EVERY) if took > self._expensive else 0)


class Looks:
    """The scans of the claims of one repository.

    Usually each is a full scan. If that takes too long, because dead entries have piled up, most claims scan only from the ``next_ready_at``
    of the previous claim on. Rows that another process meanwhile registers or resumes with a time more than five seconds in the past wait
    for the next full scan: twenty times as long as such a scan takes, and at most a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, expensive: float = _EXPENSIVE) -> None:
        self._clock, self._expensive = clock, expensive
        self._known: dict[str, _Known] = {}

    def begin(self, partition: str, now: datetime) -> Look:
        """The scan for a claim on ``partition``. Call this before sending its statements."""
        return Look(now, self._known.setdefault(partition, _Known()), self._clock, self._expensive)

    def written(self, partition: str, ready_at: datetime = _EARLIEST) -> None:
        """Call this when a call may have written a row that is ready at ``ready_at``; None: at an unknown time."""
        if (known := self._known.get(partition)) is not None:
            known.since, known.written = min(known.since, ready_at), min(known.written, ready_at)
