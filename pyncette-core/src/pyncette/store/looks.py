"""How far a claim looks into the index of times, where that has become expensive.

Some stores can't remove what runs leave behind while a transaction with an older snapshot is open, and a claim that begins with the
earliest time passes all of it. But nothing is ready before the ``next_ready_at`` of the claim before, unless somebody has written it
since, with a time that was past already.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["Look", "Looks"]

#: Seconds that a look at everything may take, however often there is one.
_EXPENSIVE = 0.01
#: The share of the time that more expensive ones may take; and the longest pause between two of them (seconds).
_SHARE, _AT_LEAST_EVERY = 0.05, 60.0
#: How late rows of others may appear: their calls take a while, and their clocks differ a little.
_BEFORE = timedelta(seconds=5)
#: How far ahead to search for what is ready next. If nothing is found, the search is repeated then.
_AHEAD = timedelta(seconds=1)
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class _Known:
    """What this process knows of a partition."""

    def __init__(self) -> None:
        #: Seconds that the last two looks at everything have taken. Both have to be expensive: one may be an accident.
        self.took: tuple[float, float] = 0.0, 0.0
        #: No row is ready before.
        self.since: datetime = _LATEST
        #: The earliest time that this process has written since the last claim began, which may not have seen it.
        self.written: datetime = _LATEST
        #: When the next full scan is due.
        self.again: float = float("-inf")


class Look:
    """What one claim looks at: the times from ``since`` (None: the earliest) to ``until``, both included. Made by :meth:`Looks.begin`."""

    def __init__(self, now: datetime, known: _Known, clock: Callable[[], float], expensive: float) -> None:
        self._now, self._known, self._clock, self._expensive = now, known, clock, expensive
        self._everything = clock() >= known.again or known.since > now
        known.written = _LATEST
        self.since: datetime | None = None
        self.until: datetime = _LATEST
        if self._everything:
            self._plan()  # also for the case that it fails, because it takes too long
        else:
            self.since, self.until = known.since, min(now, _LATEST - _AHEAD) + _AHEAD

    def end(self, next_ready_at: datetime | None, seconds: float) -> datetime | None:
        """What the claim answers as its ``next_ready_at``.

        :param next_ready_at: the earliest time, among those looked at, of a row that was not taken.
        :param seconds: what the look has taken, without the wait for a connection.
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
    """What the claims of one repository look at.

    Usually that is everything. Where it takes too long, because dead entries have piled up, most claims look only at the times from the
    ``next_ready_at`` of the claim before on. What another process has registered or resumed meanwhile, with a time more than five
    seconds ago, waits for the next look at everything: twenty times as long as such a look takes, and no more than a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, expensive: float = _EXPENSIVE) -> None:
        self._clock, self._expensive = clock, expensive
        self._known: dict[str, _Known] = {}

    def begin(self, partition: str, now: datetime) -> Look:
        """What a claim of ``partition`` looks at. To be called before its statements are sent."""
        return Look(now, self._known.setdefault(partition, _Known()), self._clock, self._expensive)

    def written(self, partition: str, ready_at: datetime = _EARLIEST) -> None:
        """To be called when a call of this process has perhaps written a row that is ready then; without ``ready_at``: who knows when."""
        if (known := self._known.get(partition)) is not None:
            known.since, known.written = min(known.since, ready_at), min(known.written, ready_at)
