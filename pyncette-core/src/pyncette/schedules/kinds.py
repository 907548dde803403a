"""Schedules: when a task occurs next.

The rules of daylight saving are applied here, on top of a calendar without time zones, so no release of another library changes them.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import count
from typing import Protocol

from pyncette.errors import ScheduleError
from pyncette.schedules import cron as cronexpr
from pyncette.schedules.zones import find_zone, first_second, instant_of, set_back_at, wall_of
from pyncette.values import EARLIEST, LATEST, plain_duration, plain_instant, plain_text, shown

__all__ = ["EXTRA_KINDS", "Cron", "Extra", "Interval", "Once", "Schedule", "next_on_clock"]

_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
# Calendars repeat after 28 years, or 40 around the end of a century: a time that the clock has skipped in all of them is always
# skipped. Contradictory zone rules may skip single times, so the search continues with the next day.
_ATTEMPTS_NEARBY = 5
_ATTEMPTS = _ATTEMPTS_NEARBY + 40
_LONGEST_FOLD = timedelta(days=2)  # an offset is less than a day in either direction
_DIGEST = re.compile(r"[A-Za-z0-9_+/=.:-]{0,200}")


class Schedule(ABC):
    """When a task occurs. Immutable; two schedules are equal exactly when their texts are.

    All instants passed in are aware, and all returned ones are aware UTC. ``timezone`` is the name of the zone as it was given.
    """

    __slots__ = ()

    timezone: str
    # attributes rather than properties, because each run reads some of them
    #: The longest delay of a run after its occurrence.
    jitter: timedelta = timedelta()
    #: The bounds of the occurrences.
    start_at: datetime | None = None
    end_at: datetime | None = None
    #: The number of runs after which the schedule ends.
    max_runs: int | None = None

    @property
    def plain(self) -> "Schedule":
        """The schedule itself, without bounds and jitter."""
        return self

    def execute_after(self, occurrence: datetime, key: tuple[str, str]) -> datetime:
        """The time from which the occurrence of the row with this ``key`` may run: its own time plus a part of the jitter."""
        return occurrence

    @property
    def timezone_name(self) -> str:
        """The name of the time zone, as it was given."""
        return self.timezone

    @property
    def zone(self) -> tzinfo:
        """The time zone itself."""
        return find_zone(self.timezone)

    @property
    @abstractmethod
    def text(self) -> str:
        """The canonical text, from which :func:`pyncette.schedules.text.parse` rebuilds the schedule. It is stored, so it is the same in every release."""

    @abstractmethod
    def first(self, now: datetime) -> datetime | None:
        """The first occurrence of a task that is registered at ``now``, or ``None`` if there is none."""

    @abstractmethod
    def next(self, last: datetime) -> datetime | None:
        """The occurrence that follows the one at ``last``, or ``None`` if that was the last one."""

    @abstractmethod
    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        """The first occurrence after both ``last`` and ``now``, in the rhythm of ``last``: skips missed ones.

        :returns: ``None`` if there is none. The time this takes does not depend on how many were missed.
        """


@dataclass(frozen=True, slots=True)
class Cron(Schedule):
    """Occurs when the clock of a time zone matches a cron expression.

    A time of the day, such as ``30 1 * * *``, occurs once a day: at the end of the gap if the clock skips it, and at
    the first of the two if the clock shows it twice. An expression whose minute or hour begins with ``*`` follows
    elapsed time: it occurs in both passes of a repeated hour, and a gap adds nothing. These are the rules of Debian's
    cron, and so is the rule for the two day fields: a day must match both if either begins with ``*``, and otherwise one.

    :param expression: minute, hour, day of month, month, day of week and, optionally, second; or an alias such as
        ``@daily``. Kept in upper case (an alias in lower case), with single blanks.
    :param timezone: the name of a time zone, see :func:`pyncette.timezones.find_zone`.
    :raises ScheduleError: either can't be understood, or no day ever matches.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise ScheduleError(f"A cron expression must be a string such as '0 9 * * *', not {shown(self.expression)}")
        object.__setattr__(self, "expression", cronexpr.normalise(self.expression))
        cronexpr.read(self.expression)
        _check_zone(self)

    @property
    def text(self) -> str:
        return f"cron {self.expression} @{self.timezone}"

    def first(self, now: datetime) -> datetime | None:
        return self.next(now)

    def next(self, last: datetime) -> datetime | None:
        # To the second, so that registrations within a second share a computation: occurrences are on whole seconds.
        return _next_cron(self.expression, self.timezone, plain_instant(last).replace(microsecond=0))

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        return self.next(max(last, now))


@dataclass(frozen=True, slots=True)
class Interval(Schedule):
    """Occurs every ``duration`` of elapsed time, the first time one ``duration`` after its registration.

    :param duration: more than zero.
    :param timezone: the name of a time zone; it does not move an occurrence.
    :raises ScheduleError: the duration is not positive, or the zone is unknown.
    """

    duration: timedelta
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.duration, timedelta):
            given = f"{shown(self.duration)} ({type(self.duration).__name__})"
            raise ScheduleError(f"An interval must be a timedelta such as timedelta(seconds=10), not {given}")
        object.__setattr__(self, "duration", plain_duration(self.duration))
        if self.duration <= timedelta(0):
            raise ScheduleError(f"An interval must be more than zero, not {self.duration!r}")
        _check_zone(self)

    @property
    def text(self) -> str:
        seconds, microseconds = divmod(self.duration // _MICROSECOND, 10**6)
        return f"interval {seconds}.{microseconds:06}".rstrip("0").rstrip(".") + f" @{self.timezone}"

    def first(self, now: datetime) -> datetime | None:
        return self.next(now)

    def next(self, last: datetime) -> datetime | None:
        return _unless_too_late(plain_instant(last), self.duration)

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        last, now = plain_instant(last), plain_instant(now)
        missed = max((now - last) // self.duration, 0)
        try:
            return _unless_too_late(last, (missed + 1) * self.duration)
        except OverflowError:
            return None


@dataclass(frozen=True, slots=True)
class Once(Schedule):
    """Occurs once, at an instant; at once if that is past.

    :param at: aware, of any zone; kept as UTC. Those before the year 10 and after the year 9990, which not every clock can
        show, become the first or the last instant of this range.
    :param timezone: the name of a time zone; it does not move the occurrence.
    :param digest: a digest of the task's arguments, in letters, digits and ``_+/=.:-``: another digest is another
        occurrence. At most 200 characters.
    :raises ScheduleError: the instant is naive, the zone is unknown, or the digest is wrong.
    """

    at: datetime
    timezone: str = "UTC"
    digest: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.at, datetime):
            raise ScheduleError(f"The instant execute_at must be a datetime, not {shown(self.at)} ({type(self.at).__name__})")
        at = plain_instant(self.at)
        if at.tzinfo is not UTC:
            raise ScheduleError(f"The instant execute_at must be aware, not {shown(self.at)}: give it a tzinfo")
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise ScheduleError(f"A digest consists of at most 200 letters, digits and _+/=.:-, not {shown(self.digest)}")
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "digest", plain_text(self.digest))
        _check_zone(self)

    @classmethod
    def canonical(cls, at: datetime, timezone: str, digest: str) -> "Once":
        """A schedule from parts of a known form; raises ScheduleError for an invalid instant or time zone."""
        if not EARLIEST <= at <= LATEST:
            raise ScheduleError(f"The instant {shown(at)} is out of range: not every zone's clock can show it")
        find_zone(timezone)
        once = object.__new__(cls)
        for name, value in (("at", at), ("timezone", timezone), ("digest", digest)):
            object.__setattr__(once, name, value)
        return once

    @property
    def text(self) -> str:
        at = self.at.replace(tzinfo=None).isoformat(timespec="microseconds")
        return f"once {at}Z @{self.timezone}" + (f" #{self.digest}" if self.digest else "")

    def first(self, now: datetime) -> datetime | None:
        return self.at

    def next(self, last: datetime) -> datetime | None:
        return None

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        return None


#: The reasons for an extra run: a request to run now, or for past times.
EXTRA_KINDS = ("trigger", "backfill")


@dataclass(frozen=True, slots=True)
class Extra(Schedule):
    """An extra run of another task, in addition to its schedule: occurs once, at the time of its row.

    :param kind: one of :data:`EXTRA_KINDS`.
    :param origin: the name of the instance or static task that runs.
    :param timezone: the name of the time zone in which the body sees ``scheduled_at``.
    """

    kind: str
    origin: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.kind not in EXTRA_KINDS or not self.origin:
            raise ScheduleError(f"An extra run has a kind and an origin, not {shown(self.kind)} and {shown(self.origin)}")
        _check_zone(self)

    @property
    def text(self) -> str:
        return f"{self.kind} @{self.timezone} {self.origin}"

    def first(self, now: datetime) -> datetime | None:
        return plain_instant(now)

    def next(self, last: datetime) -> datetime | None:
        return None

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        return None


def _unless_too_late(last: datetime, wait: timedelta) -> datetime | None:
    try:
        found = last + wait
    except OverflowError:
        return None
    return found if found <= LATEST else None


def _check_zone(schedule: Schedule) -> None:
    find_zone(schedule.timezone)
    object.__setattr__(schedule, "timezone", plain_text(schedule.timezone))


@lru_cache(maxsize=1 << 14)
def _next_cron(expression: str, timezone: str, last: datetime) -> datetime | None:
    """Cached, so that each occurrence is computed once for all tasks with the same schedule."""
    return next_on_clock(cronexpr.read(expression), find_zone(timezone), last)


class _Calendar(Protocol):
    """The matching times of a clock, see :class:`pyncette.schedules.cron.Calendar`."""

    elapsed: bool

    def after(self, wall: datetime, /) -> datetime | None: ...


def next_on_clock(calendar: _Calendar, zone: tzinfo, last: datetime) -> datetime | None:
    """The first instant after ``last`` at which the clock of ``zone`` shows a match, by the rules of daylight saving."""
    found = (_next_elapsed if calendar.elapsed else _next_of_day)(calendar, zone, last)
    return found if found is not None and found <= LATEST else None


def _next_of_day(calendar: _Calendar, zone: tzinfo, last: datetime) -> datetime | None:
    wall = wall_of(last, zone)
    for attempt in count():
        match = calendar.after(wall)
        if match is None or match.year > LATEST.year:
            return None
        instant = instant_of(match, zone)
        if instant > last:
            return instant
        # in the second pass of a fold, where each match has already occurred in the first
        wall = match + _LONGEST_FOLD
        if attempt == 0:
            wall = first_second(match, wall, lambda later: instant_of(later, zone) > last) - _SECOND
    raise AssertionError  # pragma: no cover


def _next_elapsed(calendar: _Calendar, zone: tzinfo, last: datetime) -> datetime | None:
    found = _next_shown(calendar, zone, wall_of(last, zone), last)
    local = last.astimezone(zone)
    changed = None if local.fold else set_back_at(local)
    if changed is not None:
        # in the first pass of a fold, whose second pass begins with earlier times than `last` shows
        before = changed - _SECOND
        again = _next_shown(calendar, zone, wall_of(changed, zone) - _SECOND, before)
        found = min((instant for instant in (found, again) if instant is not None), default=None)
    return found


def _next_shown(calendar: _Calendar, zone: tzinfo, wall: datetime, last: datetime) -> datetime | None:
    """The first instant after ``last`` at which the clock shows a match that is later than ``wall``."""
    for attempt in range(_ATTEMPTS):
        match = calendar.after(wall)
        if match is None or match.year > LATEST.year:
            return None
        for fold in (0, 1):
            instant = match.replace(tzinfo=zone, fold=fold).astimezone(UTC)
            if instant > last and wall_of(instant, zone) == match:
                return instant
        wall = max(match, wall_of(instant_of(match, zone), zone) - _SECOND)  # skipped by the clock: continue after the gap
        if attempt >= _ATTEMPTS_NEARBY:
            wall = max(wall, match + _DAY)
    return None  # skipped every year, like the hour in which clocks go forward
