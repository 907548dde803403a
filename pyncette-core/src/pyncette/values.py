"""Converts instances of subclasses to plain texts, durations and instants."""

import reprlib
from datetime import UTC, datetime, timedelta

from pyncette.errors import ScheduleError

__all__ = ["EARLIEST", "LATEST", "plain_duration", "plain_instant", "plain_text", "shown"]

# Times that the clock of every zone can show, with room for searches around its changes and for rules that reach into another year.
EARLIEST = datetime(10, 1, 1, tzinfo=UTC)
LATEST = datetime(9990, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 100


def shown(value: object) -> str:
    """``value`` for a message: short, on one line, and without control characters."""
    try:
        text = _repr.repr(value[:100] if isinstance(value, bytes) else value)
    except ValueError:  # an int with more digits than Python prints
        text = f"<{type(value).__name__}>"
    return _printable(text)[:150]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def plain_text(text: str) -> str:
    """``text`` as a plain str: a member of an enumeration would print differently."""
    return str.__str__(text)


def plain_duration(duration: timedelta) -> timedelta:
    """``duration`` as a plain timedelta."""
    return timedelta.__add__(timedelta(0), duration)


def plain_instant(instant: datetime) -> datetime:
    """``instant`` as a plain datetime, in UTC if it is aware; outside the years 10 to 9990, their first or last instant.

    :raises ScheduleError: it is not an instant, like pandas' NaT, or its tzinfo fails.
    """
    if type(instant) is datetime and instant.tzinfo is UTC and EARLIEST <= instant <= LATEST:
        return instant
    try:
        # field by field, because methods of a subclass return the subclass
        plain = datetime(
            instant.year,
            instant.month,
            instant.day,
            instant.hour,
            instant.minute,
            instant.second,
            instant.microsecond,
            tzinfo=instant.tzinfo,
            fold=instant.fold,
        )
        aware = plain.utcoffset() is not None
        if EARLIEST.year <= plain.year <= LATEST.year:  # outside this range, conversion to UTC may fail
            if not aware:
                return plain
            return min(max(plain.astimezone(UTC), EARLIEST), LATEST)
    except Exception as error:  # a tzinfo may raise anything
        raise ScheduleError(f"The instant {shown(instant)} can't be understood: {_printable(str(error)[:200])}") from error
    end = EARLIEST if plain.year < EARLIEST.year else LATEST
    return end if aware else end.replace(tzinfo=None)
