"""Recurrence rules of RFC 5545 (iCalendar): a schedule on a calendar that dateutil computes.

dateutil has no limit: it goes through all times since ``DTSTART``, and searches for 30 February until the year 9999. So it gets checked numbers,
a start near the time in question, and an interval that counts the steps.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

from dateutil import rrule

from pyncette.errors import ScheduleError
from pyncette.schedules.kinds import Schedule, next_on_clock
from pyncette.schedules.rulewords import Words, read_words
from pyncette.schedules.zones import find_zone, instant_of
from pyncette.values import LATEST, plain_instant, plain_text, shown

__all__ = ["RRule"]

#: The start of a rule without DTSTART: midnight of a Monday, the first day of a month and of a year.
_BEGINNING = datetime(2001, 1, 1)  # noqa: DTZ001 - as a clock shows it
_FREQUENCIES = {name: getattr(rrule, name) for name in ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")}
#: How many periods are searched for the next match. The longest gap of a rule without INTERVAL is 40 years, between two
#: 29 Februaries that are Fridays.
_PATIENCE = {"YEARLY": 2_000, "MONTHLY": 20_000, "WEEKLY": 30_000, "DAILY": 100_000, "HOURLY": 1_000, "MINUTELY": 1_000}
_MINUTES = {"HOURLY": 60, "MINUTELY": 1}
_MOST_TIMES, _MOST_MINUTES = 100, 1440  # the maximum number of times per day; the second for hourly and minutely rules
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RRule(Schedule):
    """Occurs by a recurrence rule of RFC 5545, on the clock of a time zone.

    A daily, weekly, monthly or yearly rule has times of day: each occurs once a day, at the end of the gap if the clock skips it, and at the
    first of the two if the clock shows it twice. An hourly or minutely rule follows elapsed time, like a :class:`Cron` whose hour is ``*``.

    :param expression: such as ``FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17``, with or without ``RRULE:`` before it and, if needed, with ``DTSTART:``
        and ``EXDATE:``. Kept in a canonical form. Without ``DTSTART`` it counts from midnight of Monday, 1 January 2001.
    :param timezone: the name of a time zone, see :func:`pyncette.timezones.find_zone`.
    :raises ScheduleError: either can't be understood, no time ever matches, or finding one takes too long.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        find_zone(self.timezone)
        object.__setattr__(self, "timezone", plain_text(self.timezone))
        words = read_words(self.expression, find_zone(self.timezone), self.timezone)
        try:
            _read(words.text, self.timezone)
        except ScheduleError as error:
            raise ScheduleError(f"In rrule {shown(words.text)}, {error}") from None
        object.__setattr__(self, "expression", words.text)

    @property
    def text(self) -> str:
        return f"rrule {self.expression} @{self.timezone}"

    def first(self, now: datetime) -> datetime | None:
        return self.next(now)

    def next(self, last: datetime) -> datetime | None:
        return _next(self.expression, self.timezone, plain_instant(last).replace(microsecond=0))

    def next_after(self, last: datetime, now: datetime) -> datetime | None:
        return self.next(max(last, now))


@lru_cache(maxsize=1 << 14)
def _next(expression: str, timezone: str, last: datetime) -> datetime | None:
    calendar, end = _read(expression, timezone)
    found = next_on_clock(calendar, find_zone(timezone), last)
    return found if found is not None and found <= end else None


@lru_cache(maxsize=1024)
def _read(expression: str, timezone: str) -> "tuple[_Recurrence, datetime]":
    """The calendar of a rule, and the last instant at which it may occur."""
    zone = find_zone(timezone)
    words = read_words(expression, zone, timezone)
    end = LATEST
    if words.until is not None:
        # a time that the clock shows twice ends with its second pass
        end = words.until if words.until.tzinfo is not None else instant_of(words.until.replace(fold=1), zone)
    if words.count is not None:
        # COUNT counts instants, and clock changes add or remove some; excluded ones count, too.
        everything = _Recurrence(words, frozenset())
        last: datetime | None = plain_instant(instant_of(everything.start, zone) - _SECOND)
        for _ in range(words.count):
            if last is not None:
                last = next_on_clock(everything, zone, last)
        end = LATEST if last is None else last
    calendar = _Recurrence(words, words.excluded)
    first = next_on_clock(calendar, zone, instant_of(calendar.start, zone) - _SECOND)
    if first is None or first > end:
        raise ScheduleError("no time ever matches: check the days against the months, INTERVAL against DTSTART, and the end")
    return calendar, end


class _Impatient(Exception):
    pass


class _Interval(int):
    """The interval of a rule, which counts dateutil's steps, because dateutil has no limit if nothing matches."""

    left: int

    def _spend(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise _Impatient
        return int(self)

    def __radd__(self, other: int) -> int:
        return other + self._spend()

    def __mul__(self, other: int) -> int:
        return self._spend() * other


class _Recurrence:
    """The naive times that match a rule, without its end, which is an instant.

    ``elapsed`` says that the rule is hourly or minutely.
    """

    __slots__ = ("_excluded", "_interval", "_patience", "_rule", "_unit", "_wkst", "elapsed", "start")

    def __init__(self, words: Words, excluded: frozenset[datetime | date]) -> None:
        """:raises ScheduleError: the parts can't be combined."""
        self.start = start = words.start or _BEGINNING
        self._excluded = excluded
        numbers = {part: list(values) for part, values in words.numbers.items()}
        unit, interval = words.frequency, words.interval
        self.elapsed = unit in _MINUTES
        if self.elapsed and (numbers or words.weekdays):
            unit, interval = "DAILY", _by_the_day(unit, interval, start, numbers)
        self._unit, self._interval, self._patience = unit, interval, _PATIENCE[unit]
        self._wkst = words.wkst
        weekdays = [getattr(rrule, day)(nth) if nth else getattr(rrule, day) for nth, day in words.weekdays]
        _implied(unit, numbers, weekdays, start)
        if unit not in _MINUTES:
            times = len(numbers["BYHOUR"]) * len(numbers["BYMINUTE"]) * len(numbers["BYSECOND"])
            if times > (most := _MOST_MINUTES if self.elapsed else _MOST_TIMES):
                raise ScheduleError(
                    f"there are {times} times on each day, and {most} are the most: use an interval, or FREQ=MINUTELY"
                )
        self._rule = {
            "freq": _FREQUENCIES[unit],
            "wkst": self._wkst,
            "byweekday": weekdays or None,
            **{part.lower(): values for part, values in numbers.items()},
        }

    def after(self, wall: datetime, /) -> datetime | None:
        """The first match after ``wall``, on a whole second; ``None`` if there is none."""
        interval = _Interval(self._interval)
        interval.left = self._patience
        try:
            for match in rrule.rrule(dtstart=self._near(wall), interval=interval, **self._rule):
                if match.year > LATEST.year:
                    return None
                if match > wall and match not in self._excluded and match.date() not in self._excluded:
                    return match
        except (_Impatient, OverflowError):
            return None
        except ValueError as error:
            raise ScheduleError(f"its parts can't be combined: {error}") from error
        return None

    def _near(self, wall: datetime) -> datetime:
        """The start of the period that contains ``wall``, or else of the rule."""
        start, interval = self.start, self._interval
        if wall <= start:
            return start
        midnight = datetime(1, 1, 1)  # noqa: DTZ001 - the time of day is in the rule by now
        if self._unit == "YEARLY":
            periods = (wall.year - start.year) // interval
            near = midnight.replace(year=start.year + periods * interval)
        elif self._unit == "MONTHLY":
            periods = ((wall.year - start.year) * 12 + wall.month - start.month) // interval
            year, month = divmod(start.year * 12 + start.month - 1 + periods * interval, 12)
            near = midnight.replace(year=year, month=month + 1)
        elif self._unit == "WEEKLY":
            first = self._week(start)
            periods = (self._week(wall) - first) // (7 * interval * _DAY)
            near = first + periods * 7 * interval * _DAY
        else:
            unit = timedelta(minutes=_MINUTES[self._unit]) if self._unit in _MINUTES else _DAY
            begin = start if self._unit in _MINUTES else start.replace(hour=0, minute=0, second=0)
            periods = (wall - begin) // (interval * unit)
            near = begin + periods * interval * unit
        return near if periods else start

    def _week(self, wall: datetime) -> datetime:
        return wall.replace(hour=0, minute=0, second=0, microsecond=0) - (wall.weekday() - self._wkst) % 7 * _DAY


def _by_the_day(unit: str, interval: int, start: datetime, numbers: dict[str, list[int]]) -> int:
    """Convert an hourly or minutely rule with other parts to a daily one that lists its times.

    Going through all hours or minutes to find the days would be slow.
    """
    if unit == "MINUTELY":
        if 60 % interval and interval % 60:
            raise ScheduleError(
                f"INTERVAL={interval} of FREQ=MINUTELY can't be combined with other BY parts, because it does not divide the hour: use 5, 10, 20 or 60, for example"
            )
        minutes = range(start.minute % interval, 60, interval) if interval < 60 else range(start.minute, start.minute + 1)
        numbers["BYMINUTE"] = [number for number in numbers.get("BYMINUTE", minutes) if number in minutes]
        interval = interval // 60 or 1
    if 24 % interval:
        raise ScheduleError(
            f"INTERVAL={interval} can't be combined with other BY parts, because it does not divide the day: use 2, 3, 4 or 6, for example"
        )
    hours = range(start.hour % interval, 24, interval)
    numbers["BYHOUR"] = [number for number in numbers.get("BYHOUR", hours) if number in hours]
    if not numbers["BYHOUR"] or not numbers.get("BYMINUTE", [0]):
        raise ScheduleError("no time ever matches: check INTERVAL against BYHOUR, BYMINUTE and DTSTART")
    return 1


def _implied(unit: str, numbers: dict[str, list[int]], weekdays: list[Any], start: datetime) -> None:
    """Add the parts that a rule takes from its start, so that the start can be moved."""
    if not weekdays and not numbers.keys() & {"BYYEARDAY", "BYMONTHDAY"}:
        if unit == "WEEKLY" or "BYWEEKNO" in numbers:
            weekdays.append(getattr(rrule, _WEEKDAYS[start.weekday()]))
        elif unit in ("MONTHLY", "YEARLY"):
            numbers["BYMONTHDAY"] = [start.day]
            if unit == "YEARLY":
                numbers.setdefault("BYMONTH", [start.month])
    if unit not in _MINUTES:
        numbers.setdefault("BYHOUR", [start.hour])
    if unit != "MINUTELY":
        numbers.setdefault("BYMINUTE", [start.minute])
    numbers.setdefault("BYSECOND", [start.second])
