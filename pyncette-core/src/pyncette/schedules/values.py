"""What comes in becomes plain: texts, durations and instants, of whatever class they are."""

import reprlib
from datetime import UTC, datetime, timedelta

from pyncette.errors import ScheduleError

__all__ = ["EARLIEST", "LATEST", "plain_duration", "plain_instant", "plain_text", "shown"]

# What the clock of every zone can show, with room for the searches around its changes and for rules that reach into another year.
EARLIEST = datetime(10, 1, 1, tzinfo=UTC)
LATEST = datetime(9990, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 100


def shown(value: object) -> str:
    """``value`` as a message shows it: on one line, and short, however large it is."""
    return " ".join(_repr.repr(value).split("\n"))


def plain_text(text: str) -> str:
    """``text`` as a str of no subclass: a member of an enumeration prints as something else."""
    return str.__str__(text)


def plain_duration(duration: timedelta) -> timedelta:
    """``duration`` as a timedelta of no subclass."""
    return timedelta.__add__(timedelta(0), duration)


def plain_instant(instant: datetime) -> datetime:
    """``instant`` as a datetime of no subclass, in UTC if it is aware; what is out of the years 10 to 9990 is their first or last instant.

    :raises ScheduleError: it is no instant, such as pandas' NaT, or its tzinfo fails.
    """
    if type(instant) is datetime and instant.tzinfo is UTC and EARLIEST <= instant <= LATEST:
        return instant
    try:
        # Field by field: the methods of a subclass return the subclass.
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
        if EARLIEST.year <= plain.year <= LATEST.year:  # elsewhere it may have no UTC
            if not aware:
                return plain
            return min(max(plain.astimezone(UTC), EARLIEST), LATEST)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ScheduleError(f"The instant {shown(instant)} can't be understood: {error}") from error
    end = EARLIEST if plain.year < EARLIEST.year else LATEST
    return end if aware else end.replace(tzinfo=None)
