"""Cron expressions on a calendar without time zones: which wall-clock times match.

croniter only computes times of day. Its releases read ``JAN-JAN``, ``59/15``, ``SAT-SUN`` or a day of the month next to ``5#2`` in
different ways, so expressions are parsed here, and croniter gets plain lists of numbers. Days are found here as well: croniter takes a
second or more for some days that never come.
"""

import copy
import re
from calendar import monthrange
from collections.abc import Sequence
from datetime import MAXYEAR, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple

from croniter import croniter

from pyncette.errors import ScheduleError
from pyncette.values import plain_text, shown

__all__ = ["LIMITS", "Calendar", "normalise", "plain_fields", "read"]


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY_OF_MONTH = _Field("day-of-month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day-of-week", 0, 7, _WEEKDAYS)
_SECOND = _Field("second", 0, 59)

#: The name of each field, and its lowest and highest number, in the order in which they are written.
LIMITS = tuple((field.name, field.low, field.high) for field in (_MINUTE, _HOUR, _DAY_OF_MONTH, _MONTH, _WEEKDAY, _SECOND))

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_TERM = re.compile(r"(?:\*|(\w{1,9})(?:-(\w{1,9}))?)(?:/(\d{1,9}))?", re.ASCII)
_NTH_WEEKDAY = re.compile(r"(\w+)#([1-5])", re.ASCII)
_L_FIRST = re.compile(r"L([0-7])", re.ASCII)
_TO_SUNDAY = re.compile(r"^([A-Z1-6]+)-SUN(/\d+)?$", re.ASCII)
_LAST_WEEKDAY = re.compile(r"L([0-7])|([0-7])L", re.ASCII)

_LONGEST = 1000  # characters: more than all numbers of all fields take

# what the fields look like if the seconds come first, as in Quartz and Spring
_QUARTZ_WEEKDAY = re.compile(rf".*([?#]|{'|'.join(_WEEKDAYS)}).*")

_SOME_DAY = date(2000, 1, 1)
_DAY = timedelta(days=1)


class _Days(NamedTuple):
    """The days of a month that match. Days of the week count from 0, Sunday."""

    numbers: frozenset[int]
    last: bool  # the last day of the month
    weekdays: frozenset[int]
    nth_weekdays: frozenset[tuple[int, int]]
    last_weekdays: frozenset[int]
    both: bool  # whether a day must match both by its number and by its weekday

    def of(self, first: int, length: int) -> tuple[int, ...]:
        """The matching days of a month that begins on the weekday ``first`` and has ``length`` days."""
        return tuple(day for day in range(1, length + 1) if self._matches(day, (first + day - 1) % 7, length))

    def _matches(self, day: int, weekday: int, length: int) -> bool:
        by_number = day in self.numbers or (self.last and day == length)
        by_weekday = (
            weekday in self.weekdays
            or (weekday, (day + 6) // 7) in self.nth_weekdays
            or (weekday in self.last_weekdays and day > length - 7)
        )
        return by_number and by_weekday if self.both else by_number or by_weekday


class Calendar:
    """The naive times that match an expression.

    ``elapsed`` says that the minute or the hour begins with ``*``.
    """

    __slots__ = ("_clock", "_midnight", "_months", "elapsed")

    def __init__(self, clock: croniter, months: dict[tuple[int, int, int], tuple[int, ...]], elapsed: bool) -> None:
        """``months`` has the matching days by the number of the month, its first weekday and its length, if there are any."""
        self._clock = clock
        self._months = months
        self.elapsed: bool = elapsed
        midnight = _later(clock, datetime.combine(_SOME_DAY, time()) - timedelta(seconds=1))
        assert midnight is not None
        self._midnight = midnight

    def after(self, wall: datetime) -> datetime | None:
        """The first match after ``wall``, on a whole second; ``None`` if there is none before the year 10000."""
        day = wall.date()
        if day.day in self._days(day.year, day.month):
            later = _later(self._clock, datetime.combine(_SOME_DAY, wall.time().replace(microsecond=0)))
            if later is not None:
                return datetime.combine(day, later)
        following = self._day_after(day)
        return None if following is None else datetime.combine(following, self._midnight)

    def _day_after(self, last: date) -> date | None:
        # Every match comes within 40 years: the longest gap is between two 29 Februaries on the same day of the week.
        year, month, number = last.year, last.month, last.day
        while year <= MAXYEAR:
            for day in self._days(year, month):
                if day > number:
                    return date(year, month, day)
            year, month, number = (year, month + 1, 0) if month < 12 else (year + 1, 1, 0)
        return None

    def _days(self, year: int, month: int) -> tuple[int, ...]:
        monday_first, length = monthrange(year, month)
        return self._months.get((month, (monday_first + 1) % 7, length), ())


def _later(clock: croniter, wall: datetime) -> time | None:
    """The first matching time of day after ``wall``, on the same day or the next."""
    # croniter is stateful: with a copy for each call, threads share nothing.
    iterator = copy.copy(clock)
    iterator.set_current(wall, force=True)
    found: datetime = iterator.get_next(datetime)
    return found.time() if found.date() == _SOME_DAY else None


def normalise(expression: str) -> str:
    """The expression in upper case (an alias in lower case), with single blanks.

    :raises ScheduleError: it is too long.
    """
    if len(expression) > _LONGEST:
        raise ScheduleError(f"A cron expression has at most {_LONGEST} characters, but {shown(expression)} has {len(expression)}")
    words = " ".join(plain_text(expression).split())
    return words.lower() if words.startswith("@") else words.upper()


def plain_fields(expression: str) -> list[str]:
    """The fields of a normalised expression, in the notation that other libraries understand."""
    fields = _ALIASES.get(expression, expression).split()
    fields[2], fields[4] = ("*" if fields[place] == "?" else fields[place] for place in (2, 4))
    fields[4] = ",".join(
        f"{match[1]}L" if (match := _L_FIRST.fullmatch(term)) else _TO_SUNDAY.sub(r"\1-7\2", term) for term in fields[4].split(",")
    )
    return fields


@lru_cache(maxsize=1024)
def read(expression: str) -> Calendar:
    """Parse a normalised expression.

    :returns: its calendar, which is cached and shared.
    :raises ScheduleError: it can't be understood, or never matches.
    """
    fields = _ALIASES.get(expression, expression).split()
    what = f"ron expression {shown(expression)}"
    if len(fields) in (6, 7) and (fields[3] == "?" or _QUARTZ_WEEKDAY.fullmatch(fields[5])):
        raise ScheduleError(
            f"C{what} has its seconds first, as in Quartz: write them last, use names for days of the week, and leave out years"
        )
    if len(fields) not in (5, 6):
        raise ScheduleError(
            f"C{what} has {len(fields)} field{'' if len(fields) == 1 else 's'}: write minute, hour, day of month, month, day of"
            f" week and, if needed, second, or one of {', '.join(_ALIASES)}"
        )
    try:
        calendar = _calendar(fields)
    except ScheduleError as error:
        raise ScheduleError(f"In c{what}, {error}") from None
    if calendar is None:
        raise ScheduleError(f"No day ever matches c{what}: check the days against the months")
    return calendar


def _calendar(fields: list[str]) -> Calendar | None:
    minute, hour, day, month, weekday = fields[:5]
    day, weekday = ("*" if field == "?" else field for field in (day, weekday))
    second = fields[5] if len(fields) == 6 else "0"
    times = f"{_listed(_MINUTE, minute)} {_listed(_HOUR, hour)} * * * {_listed(_SECOND, second)}"
    days = _days(day, weekday)
    pattern = {(first, length): days.of(first, length) for first in range(7) for length in (28, 29, 30, 31)}
    months = {
        (number, first, length): matching
        for number in _numbers(_MONTH, month.split(","))
        for (first, length), matching in pattern.items()
        if matching and length in ((28, 29) if number == 2 else (monthrange(2000, number)[1],))
    }
    if not months:
        return None
    return Calendar(croniter(times, datetime.combine(_SOME_DAY, time())), months, minute.startswith("*") or hour.startswith("*"))


def _days(day: str, weekday: str) -> _Days:
    plain, nth, last = [], set(), set()
    for term in weekday.split(","):
        if match := _NTH_WEEKDAY.fullmatch(term):
            nth.add((_number(_WEEKDAY, match[1], term) % 7, int(match[2])))
        elif match := _LAST_WEEKDAY.fullmatch(term):
            last.add(int(match[1] or match[2]) % 7)
        else:
            plain.append(term)
    return _Days(
        numbers=frozenset(_numbers(_DAY_OF_MONTH, [term for term in day.split(",") if term != "L"])),
        last="L" in day.split(","),
        weekdays=frozenset(number % 7 for number in _numbers(_WEEKDAY, plain)),  # both 0 and 7 are Sunday
        nth_weekdays=frozenset(nth),
        last_weekdays=frozenset(last),
        both=day.startswith("*") or weekday.startswith("*"),
    )


def _numbers(field: _Field, terms: Sequence[str]) -> set[int]:
    return {number for term in terms for number in _range(field, term)}


def _listed(field: _Field, text: str) -> str:
    numbers = _numbers(field, text.split(","))
    return "*" if len(numbers) == field.high - field.low + 1 else ",".join(map(str, sorted(numbers)))


def _range(field: _Field, term: str) -> range:
    match = _TERM.fullmatch(term)
    if match is None:
        raise _refused(field, term)
    low, high, step = match[1], match[2], int(match[3] or 1)
    if step == 0:
        raise ScheduleError(f"the step of {field.name} {term!r} must be at least 1")
    if low is None:
        return range(field.low, field.high + 1, step)
    first = _number(field, low, term)
    if high is not None:
        last = _number(field, high, term)
        if field is _WEEKDAY and high == "SUN" and first > 0:  # MON-SUN, as everybody writes it: Sunday is 7, too
            last = 7
        if first >= last:
            raise ScheduleError(f"the range of {field.name} {term!r} must go up: write two ranges, or a list")
    elif match[3] is None:
        last = first
    elif field is _WEEKDAY:  # crons differ on whether this ends at 6 or at 7
        raise ScheduleError(f"{field.name} {term!r} has a step without a range: write {low}-6/{step}")
    else:
        last = field.high
    return range(first, last + 1, step)


def _number(field: _Field, text: str, term: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if not text.isdigit() or not field.low <= int(text) <= field.high:
        raise _refused(field, term)
    return int(text)


def _refused(field: _Field, term: str) -> ScheduleError:
    what = f"{field.name} {shown(term)} is not understood"
    if term[:1] == "H":
        return ScheduleError(f"{what}: H is derived from the name of a task; there is no name here, so write a number")
    if term[:1] == "R":
        return ScheduleError(
            f"{what}: a random number would differ between workers; write H, which is derived from the task's name"
        )
    names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
    return ScheduleError(f"{what}: write numbers {field.low}-{field.high}{names}, ranges, lists or steps")
