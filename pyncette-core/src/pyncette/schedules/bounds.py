"""Bounds of a schedule of any kind: its start and end, the number of runs, and jitter."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette.clock import to_microseconds
from pyncette.errors import ScheduleError
from pyncette.schedules.kinds import Interval, Once, Schedule
from pyncette.values import LATEST, plain_duration, plain_instant, shown

__all__ = ["Bounded", "bounded", "split"]

_MICROSECOND = timedelta(microseconds=1)
_LONGEST = timedelta(days=36_500)
_MOST_RUNS = 10**12
_INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_WORDS = re.compile(
    rf"(.+?)(?: jitter=(\d{{1,10}}(?:\.\d{{1,6}})?))?(?: start=({_INSTANT}))?(?: end=({_INSTANT}))?(?: runs=(\d{{1,13}}))?",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Bounded(Schedule):
    """A schedule with a start, an end, a number of runs, or jitter.

    :param schedule: the schedule itself.
    :param jitter: each run starts later than its occurrence by less than this. The delay depends only on the name of the row and the time
        of the occurrence, so each attempt and each process computes the same.
    :param start_at: aware. No occurrence is before it. An interval counts from it.
    :param end_at: aware. No occurrence is after it.
    :param max_runs: the schedule ends after this many runs. The worker that runs the task counts them.
    :raises ScheduleError: one of them is invalid, or they can't be combined.
    """

    schedule: Schedule
    jitter: timedelta = timedelta()
    start_at: datetime | None = None
    end_at: datetime | None = None
    max_runs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.jitter, timedelta):
            raise ScheduleError(f"The jitter must be a timedelta such as timedelta(seconds=30), not {shown(self.jitter)}")
        object.__setattr__(self, "jitter", plain_duration(self.jitter))
        if not timedelta() <= self.jitter <= _LONGEST:
            raise ScheduleError(f"The jitter must be from zero to {_LONGEST.days} days, not {self.jitter!r}")
        for name in ("start_at", "end_at"):
            if (instant := getattr(self, name)) is not None:
                object.__setattr__(self, name, _checked(instant, name))
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise ScheduleError(f"The schedule ends at {self.end_at}, before it starts, at {self.start_at}: swap them")
        runs = self.max_runs
        if runs is not None and (not isinstance(runs, int) or isinstance(runs, bool) or not 1 <= runs <= _MOST_RUNS):
            raise ScheduleError(f"max_runs must be a whole number of at least 1, not {shown(runs)}")
        if isinstance(self.schedule, Once) and (self.start_at, self.end_at, runs) != (None, None, None):
            raise ScheduleError("An instant has no start_at, end_at or max_runs, since it occurs once: leave them out")

    @property
    def timezone(self) -> str:  # type: ignore[override]
        return self.schedule.timezone

    @property
    def plain(self) -> Schedule:
        return self.schedule

    @property
    def text(self) -> str:
        words = [self.schedule.text]
        if self.jitter:
            seconds, microseconds = divmod(self.jitter // _MICROSECOND, 10**6)
            words.append(f"jitter={seconds}" + f".{microseconds:06}".rstrip("0").rstrip("."))
        words += [f"{word}={_written(at)}" for word, at in (("start", self.start_at), ("end", self.end_at)) if at is not None]
        if self.max_runs is not None:
            words.append(f"runs={self.max_runs}")
        return " ".join(words)

    def execute_after(self, occurrence: datetime, key: tuple[str, str]) -> datetime:
        if not self.jitter:
            return occurrence
        partition, name = key
        named = f"{len(partition)}:{partition}{name}@{to_microseconds(occurrence)}".encode("utf-8", "surrogatepass")
        part = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest())
        microseconds = part * (self.jitter // _MICROSECOND) >> 64
        return occurrence + min(microseconds * _MICROSECOND, LATEST - occurrence)

    def first(self, now: datetime) -> datetime | None:
        now, start = plain_instant(now), self.start_at
        if start is None:
            return self._unless_over(self.schedule.first(now))
        if isinstance(self.schedule, Interval):
            return self._unless_over(start if now <= start else self.schedule.next_after(start, now))
        return self._unless_over(self.schedule.first(max(now, start - _MICROSECOND)))

    def next(self, last: datetime) -> datetime | None:
        if self._begins_after(last):
            return self.first(last)
        return self._unless_over(self.schedule.next(last))

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        if self._begins_after(last):
            return self.first(max(last, now))
        return self._unless_over(self.schedule.next_after(last, now))

    def _begins_after(self, last: datetime) -> bool:
        return self.start_at is not None and last < self.start_at

    def _unless_over(self, occurrence: datetime | None) -> datetime | None:
        over = occurrence is None or (self.end_at is not None and occurrence > self.end_at)
        return None if over else occurrence


def bounded(schedule: Schedule, **options: Any) -> Schedule:
    """``schedule`` with the given options of :class:`Bounded`."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return schedule
    narrowed = Bounded(schedule, **given)
    return schedule if narrowed == Bounded(schedule) else narrowed


def split(text: str) -> tuple[str, dict[str, Any]]:
    """The text of a schedule without its bounds, and the bounds."""
    match = _WORDS.fullmatch(text)
    if match is None:
        return text, {}
    plain, jitter, start, end, runs = match.groups()
    options: dict[str, Any] = {}
    if jitter is not None:
        seconds, _, fraction = jitter.partition(".")
        options["jitter"] = timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0")))
    for name, instant in (("start_at", start), ("end_at", end)):
        if instant is not None:
            options[name] = datetime.fromisoformat(instant)
    if runs is not None:
        options["max_runs"] = int(runs)
    return plain, options


def _checked(instant: object, name: str) -> datetime:
    if not isinstance(instant, datetime):
        raise ScheduleError(f"The instant {name} must be a datetime, not {shown(instant)} ({type(instant).__name__})")
    plain = plain_instant(instant)
    if plain.tzinfo is not UTC:
        raise ScheduleError(f"The instant {name} must be aware, not {shown(instant)}: give it a tzinfo")
    return plain


def _written(instant: datetime) -> str:
    return f"{instant.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
