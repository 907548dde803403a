"""Cron expressions on a calendar without time zones: which wall-clock times match.

croniter does the arithmetic, and only that. Its releases read ``JAN-JAN``, ``59/15``, ``SAT-SUN`` or a day of month
beside ``5#2`` in different ways, so expressions are read here, and croniter gets plain lists of numbers.
"""

import copy
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from croniter import croniter

from pyncette.errors import ScheduleError

__all__ = ["Calendar", "normalise", "read"]


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day-of-month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day-of-week", 0, 7, _WEEKDAYS)
_SECOND = _Field("second", 0, 59)

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
_LAST_WEEKDAY = re.compile(r"L([0-7])|([0-7])L", re.ASCII)

# Fixed, so that an expression that is accepted today is accepted for ever. Whatever matches at all matches within the
# fifty years that croniter looks ahead: the longest pause is 40 years, of a 29 February on a certain day of the week.
_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001


class Calendar:
    """The naive times that match an expression, from one croniter for each way to match the day.

    ``elapsed`` says that the minute or the hour begins with ``*``.
    """

    __slots__ = ("_alternatives", "elapsed")

    def __init__(self, alternatives: Sequence[croniter], elapsed: bool) -> None:
        self._alternatives = alternatives
        self.elapsed = elapsed

    def after(self, wall: datetime) -> datetime | None:
        """The first match after ``wall``, on a whole second; ``None`` if there is none before the year 10000."""
        matches = [match for alternative in self._alternatives if (match := _next(alternative, wall)) is not None]
        return min(matches, default=None)


def _next(alternative: croniter, wall: datetime) -> datetime | None:
    # croniter keeps its position in itself: a copy for each call leaves nothing to share between threads.
    iterator = copy.copy(alternative)
    try:
        iterator.set_current(wall.replace(microsecond=0), force=True)
        return iterator.get_next(datetime)
    except (ValueError, OverflowError):  # nothing in fifty years, or a step past the year 9999
        return None


def normalise(expression: str) -> str:
    """The expression in capitals (an alias in small letters), with single blanks."""
    words = " ".join(expression.split())
    return words.lower() if words.startswith("@") else words.upper()


@lru_cache(maxsize=1024)
def read(expression: str) -> Calendar:
    """Read an expression that is normalised.

    :returns: its calendar, which is shared.
    :raises ScheduleError: it can't be understood, or never matches.
    """
    try:
        fields = _ALIASES.get(expression, expression).split()
        if len(fields) not in (5, 6):
            raise ScheduleError(
                f"it has {len(fields)} field{'' if len(fields) == 1 else 's'}: write minute, hour, day of month, month, day of week and,"
                f" if needed, second, or one of {', '.join(_ALIASES)}"
            )
        return _calendar(fields)
    except ScheduleError as error:
        raise ScheduleError(f"cron expression {expression[:100]!r}: {error}") from None


def _calendar(fields: list[str]) -> Calendar:
    minute, hour, day, month, weekday = fields[:5]
    day, weekday = ("*" if field == "?" else field for field in (day, weekday))
    days, weekdays = _ways(_DAY, day), _ways(_WEEKDAY, weekday)
    if day.startswith("*") or weekday.startswith("*"):
        dates = list(product(days, weekdays))
    else:
        dates = [(way, "*") for way in days] + [("*", way) for way in weekdays]
    before = f"{_listed(_MINUTE, minute)} {_listed(_HOUR, hour)}"
    months = _listed(_MONTH, month)
    after = f" {_listed(_SECOND, fields[5])}" if len(fields) == 6 else ""

    texts = [f"{before} {day} {months} {weekday}{after}" for day, weekday in dates]
    alternatives = [croniter(text, _EPOCH, day_or=False) for text in texts]
    # One that never matches is searched for fifty years, in vain, and must not be searched again for each occurrence.
    possible = [alternative for alternative in alternatives if _next(alternative, _EPOCH) is not None]
    if not possible:
        raise ScheduleError("no day ever matches it: check the days against the months")
    return Calendar(possible, elapsed=minute.startswith("*") or hour.startswith("*"))


def _ways(field: _Field, text: str) -> list[str]:
    """The ways in which a day field can match, each of a kind that every croniter gets right by itself."""
    ways: list[str] = []
    plain: list[str] = []
    for term in text.split(","):
        if field is _DAY and term == "L":
            ways.append("l")
        elif field is _WEEKDAY and (match := _NTH_WEEKDAY.fullmatch(term)):
            ways.append(f"{_number(field, match[1], term) % 7}#{match[2]}")
        elif field is _WEEKDAY and (match := _LAST_WEEKDAY.fullmatch(term)):
            ways.append(f"l{int(match[1] or match[2]) % 7}")
        else:
            plain.append(term)
    numbers = _numbers(field, plain)
    if field is _DAY and len(numbers) < 31:
        # Before croniter 7, a 30th that February lacks leads to 2 March, past any earlier day of the same list.
        groups = [{day for day in numbers if day < 29}, {day for day in numbers if day >= 29}]
    else:
        groups = [numbers]
    return ways + [_text(field, group) for group in groups if group]


def _numbers(field: _Field, terms: Sequence[str]) -> set[int]:
    numbers = {number for term in terms for number in _range(field, term)}
    return {number % 7 for number in numbers} if field is _WEEKDAY else numbers  # both 0 and 7 are Sunday


def _text(field: _Field, numbers: set[int]) -> str:
    everything = 7 if field is _WEEKDAY else field.high - field.low + 1
    return "*" if len(numbers) == everything else ",".join(map(str, sorted(numbers)))


def _listed(field: _Field, text: str) -> str:
    return _text(field, _numbers(field, text.split(",")))


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
        if field is _WEEKDAY and high == "SUN" and first > 0:  # MON-SUN, as everyone writes it: Sunday is 7 as well
            last = 7
        if first >= last:
            raise ScheduleError(f"the range of {field.name} {term!r} must go up: write two ranges, or a list")
    elif match[3] is None:
        last = first
    elif field is _WEEKDAY:  # whether it goes on to 6 or to 7 differs from cron to cron
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
    what = f"{field.name} {term[:100]!r} is not understood"
    if term[:1] in {"H", "R"}:
        return ScheduleError(f"{what}: write a number; a hashed or random one would differ between workers")
    names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
    return ScheduleError(f"{what}: write numbers {field.low}-{field.high}{names}, ranges, lists or steps")
