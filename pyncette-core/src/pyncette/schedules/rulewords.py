"""Recurrence rules of RFC 5545 as text: what users write, and the canonical text that is stored."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

from pyncette.errors import ScheduleError
from pyncette.schedules.zones import wall_of
from pyncette.values import EARLIEST, LATEST, plain_text, shown

__all__ = ["Words", "read_words", "zone_of"]

_LONGEST = 1000  # characters
_MOST = 5_000  # the maximum of COUNT, since occurrences are counted from the first one
_LARGEST = 100_000  # the maximum of INTERVAL

_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")
#: The numeric parts in the order in which they are stored: their lowest and highest number, and whether negative ones count from the end.
_RANGES = {
    "BYMONTH": (1, 12, False),
    "BYWEEKNO": (1, 53, True),
    "BYYEARDAY": (1, 366, True),
    "BYMONTHDAY": (1, 31, True),
    "BYHOUR": (0, 23, False),
    "BYMINUTE": (0, 59, False),
    "BYSECOND": (0, 59, False),
    "BYSETPOS": (1, 366, True),
}
#: The frequencies with which a part can't be combined, according to the RFC.
_WITHOUT = {
    "BYWEEKNO": ("MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"),
    "BYYEARDAY": ("MONTHLY", "WEEKLY", "DAILY"),
    "BYMONTHDAY": ("WEEKLY",),
    "BYSETPOS": ("HOURLY", "MINUTELY"),
}
_PARTS = ("FREQ", "INTERVAL", "COUNT", "UNTIL", *_RANGES, "BYDAY", "WKST")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_BYDAY = re.compile(rf"([+-]?\d{{1,2}})?({'|'.join(_WEEKDAYS)})", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,6}", re.ASCII)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?", re.ASCII)
_PROPERTY = re.compile(r"(?:(RRULE|DTSTART|EXDATE)((?:;[A-Z]+=[^;:\s]+)*):)?(\S+)", re.ASCII | re.IGNORECASE)
_ZONE = re.compile(r";TZID=([^;:]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """A parsed rule, with all parts checked."""

    text: str
    frequency: str
    interval: int
    count: int | None
    #: Wall time, or an instant.
    until: datetime | None
    numbers: Mapping[str, tuple[int, ...]]
    #: Pairs: which one within the month or the year (0: each), and which weekday.
    weekdays: tuple[tuple[int, str], ...]
    wkst: int
    start: datetime | None
    #: Excluded times and whole days.
    excluded: frozenset[datetime | date]


def zone_of(expression: object) -> str | None:
    """The time zone that a rule names with ``TZID``; None if it names none."""
    found = _ZONE.search(expression[:_LONGEST]) if isinstance(expression, str) else None
    return None if found is None else found[1]


def read_words(expression: str, zone: tzinfo, timezone: str) -> Words:
    """Parse a rule, with or without ``RRULE:`` before it, and with optional ``DTSTART:`` and ``EXDATE:``.

    :param zone: the zone called ``timezone``, for times that are given in UTC.
    :raises ScheduleError: it can't be understood.
    """
    if not isinstance(expression, str):
        raise ScheduleError(f"An rrule must be a string such as 'FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17', not {shown(expression)}")
    if len(expression) > _LONGEST:
        raise ScheduleError(f"An rrule has at most {_LONGEST} characters, but {shown(expression)} has {len(expression)}")
    try:
        return _words(plain_text(expression), zone, timezone)
    except ScheduleError as error:
        raise ScheduleError(f"In rrule {shown(expression)}, {error}") from None


def _words(expression: str, zone: tzinfo, timezone: str) -> Words:
    rule, start, excluded = None, None, set[datetime | date]()
    for word in expression.split():
        match = _PROPERTY.fullmatch(word)
        if match is None or (match[1] is None and "=" not in word):
            raise ScheduleError(
                f"{shown(word)} is not understood: write a rule, and if needed DTSTART:... and EXDATE:... beside it"
            )
        name, value = (match[1] or "RRULE").upper(), match[3].upper()
        if (named := zone_of(match[2] or "")) is not None and named != timezone:
            raise ScheduleError(f"TZID={named} is not the time zone of the task, which is {timezone!r}: leave one of them out")
        if name == "EXDATE":
            excluded |= {_on_clock(_moment(each), zone) for each in value.split(",")}
        elif name == "RRULE":
            if rule is not None:
                raise ScheduleError("there are two rules: schedule an instance for each")
            rule = _parts(value)
        else:
            if start is not None:
                raise ScheduleError("DTSTART is given twice: leave one out")
            moment = _on_clock(_moment(value), zone)
            start = moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001
    if rule is None:
        raise ScheduleError("there is no rule: write FREQ=... beside what is there")
    return _checked(rule, start, frozenset(excluded))


def _parts(value: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in value.rstrip(";").split(";"):
        name, sign, given = part.partition("=")
        if name not in _PARTS or not sign or not given:
            raise ScheduleError(f"{shown(part)} is not understood: write {', '.join(_PARTS[:-1])} or WKST, '=' and a value")
        if name in parts:
            raise ScheduleError(f"{name} is given twice: give it once")
        parts[name] = given
    return parts


def _checked(parts: Mapping[str, str], start: datetime | None, excluded: frozenset[datetime | date]) -> Words:
    frequency = parts.get("FREQ")
    if frequency == "SECONDLY":
        raise ScheduleError("FREQ=SECONDLY is not supported: use an interval, or a cron expression with seconds")
    if frequency not in _FREQUENCIES:
        raise ScheduleError(f"FREQ is {shown(frequency) if frequency else 'missing'}: write one of {', '.join(_FREQUENCIES)}")
    numbers = {part: _numbers(part, parts[part]) for part in _RANGES if part in parts}
    weekdays = _weekdays(parts["BYDAY"], frequency, parts.keys()) if "BYDAY" in parts else ()
    for part in numbers:
        if frequency in _WITHOUT.get(part, ()):
            raise ScheduleError(
                f"{part} can't be combined with FREQ={frequency}: use FREQ={'YEARLY' if part != 'BYMONTHDAY' else 'MONTHLY'}"
            )
    if numbers.keys() == {"BYSETPOS"} and not weekdays:
        raise ScheduleError("BYSETPOS selects from the results of other BY parts: add one, such as BYDAY")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ScheduleError("both COUNT and UNTIL are given: leave one out")
    if "COUNT" in parts and start is None:
        raise ScheduleError(
            "COUNT counts from DTSTART, which is missing: add one, such as DTSTART:20260101T090000, or use max_runs"
        )
    interval = _count(parts, "INTERVAL", _LARGEST)
    count = _count(parts, "COUNT", _MOST) if "COUNT" in parts else None
    until = None if "UNTIL" not in parts else _end(_moment(parts["UNTIL"]))
    wkst = parts.get("WKST", "MO")
    if wkst not in _WEEKDAYS:
        raise ScheduleError(f"WKST is {shown(wkst)}: write one of {', '.join(_WEEKDAYS)}")
    told = {
        "FREQ": frequency,
        "INTERVAL": str(interval) if interval != 1 else "",
        "COUNT": str(count or ""),
        "UNTIL": "" if until is None else _written(until),
        **{part: ",".join(map(str, values)) for part, values in numbers.items()},
        "BYDAY": ",".join(f"{nth or ''}{day}" for nth, day in weekdays),
        "WKST": wkst if wkst != "MO" else "",
    }
    text = ";".join(f"{part}={told[part]}" for part in _PARTS if told.get(part))
    if start is not None:
        text += f" DTSTART:{_written(start)}"
    if excluded:
        text += f" EXDATE:{','.join(sorted(map(_written, excluded)))}"
    if len(text) > _LONGEST:
        raise ScheduleError(f"it has more than {_LONGEST} characters when it is written out: leave some of EXDATE out")
    return Words(text, frequency, interval, count, until, numbers, weekdays, _WEEKDAYS.index(wkst), start, excluded)


def _numbers(part: str, value: str) -> tuple[int, ...]:
    low, high, backwards = _RANGES[part]
    found = set()
    for text in value.split(","):
        number = int(text) if _NUMBER.fullmatch(text) else None
        if number is None or not (low <= number <= high or (backwards and low <= -number <= high)):
            raise ScheduleError(
                f"{part} has {shown(text)}: write numbers {low} to {high}{', or negative ones' if backwards else ''}"
            )
        found.add(number)
    return tuple(sorted(found))


def _weekdays(value: str, frequency: str, others: Collection[str]) -> tuple[tuple[int, str], ...]:
    most = 53 if frequency == "YEARLY" and "BYMONTH" not in others else 5
    found = set()
    for text in value.split(","):
        match = _BYDAY.fullmatch(text)
        nth = int(match[1]) if match and match[1] else 0
        if match is None or (match[1] and not 1 <= abs(nth) <= most):
            raise ScheduleError(
                f"BYDAY has {shown(text)}: write {', '.join(_WEEKDAYS)}, or with a number such as -1FR, the last Friday"
            )
        if nth and (frequency not in ("YEARLY", "MONTHLY") or "BYWEEKNO" in others):
            raise ScheduleError(f"BYDAY has {shown(text)}: a number needs FREQ=MONTHLY or YEARLY, without BYWEEKNO")
        found.add((nth, match[2]))
    return tuple(sorted(found, key=lambda day: (day[0], _WEEKDAYS.index(day[1]))))


def _count(parts: Mapping[str, str], part: str, most: int) -> int:
    text = parts.get(part, "1")
    if not text.isdecimal() or not text.isascii() or len(text) > 9 or not 1 <= int(text) <= most:
        raise ScheduleError(f"{part} is {shown(text)}: write a number from 1 to {most}")
    return int(text)


def _moment(text: str) -> datetime | date:
    """Parse a date, a wall time or an instant."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day = date(int(match[1]), int(match[2]), int(match[3]))
        if not EARLIEST.year <= day.year <= LATEST.year:
            raise ValueError
        if match[4] is None:
            return day
        return datetime(day.year, day.month, day.day, int(match[4]), int(match[5]), int(match[6]), tzinfo=UTC if match[7] else None)
    except ValueError:
        raise ScheduleError(f"{shown(text)} is not a time: write 20260131T090000, 20260131T090000Z or 20260131") from None


def _on_clock(moment: datetime | date, zone: tzinfo) -> datetime | date:
    return wall_of(moment, zone) if isinstance(moment, datetime) and moment.tzinfo is not None else moment


def _end(moment: datetime | date) -> datetime:
    """A date means the last second of the day."""
    if isinstance(moment, datetime):
        return moment
    return datetime(moment.year, moment.month, moment.day, 23, 59, 59)  # noqa: DTZ001


def _written(moment: datetime | date) -> str:
    if not isinstance(moment, datetime):
        return moment.strftime("%Y%m%d").rjust(8, "0")
    return f"{moment.year:04}{moment:%m%dT%H%M%S}" + ("Z" if moment.tzinfo is not None else "")
