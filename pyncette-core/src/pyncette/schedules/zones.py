"""Time zones: finding one by its name, and the instants behind what its clock shows."""

import bisect
import difflib
import re
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from dateutil import tz

from pyncette.errors import ScheduleError

__all__ = ["find_zone", "instant_of", "set_back_at", "wall_of"]

# Every zone of the IANA database begins with a capital. What does not ("localtime", "posixrules", "right/UTC",
# "zone.tab") depends on the machine, counts leap seconds or is no zone at all.
_IANA = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", re.ASCII)

_OFFSET = r"[-+]?[01]?\d(:?\d\d)?"
_RULE = r",(J?\d{1,3}|M\d{1,2}\.\d\.\d)(/\d{1,2}(:\d\d){0,2})?"
_POSIX = re.compile(rf"[A-Za-z]{{3,}}{_OFFSET}([A-Za-z]{{3,}}({_OFFSET})?({_RULE}{_RULE})?)?", re.ASCII)

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


def find_zone(name: str) -> tzinfo:
    """Find a time zone by its name.

    :param name: a name of the IANA database (``Europe/London``), which is looked up in :mod:`zoneinfo`; otherwise an
        offset (``UTC+12`` is twelve hours ahead of UTC, as for ``dateutil.tz.gettz()``) or rules in the form of POSIX
        (``EST5EDT,M3.2.0,M11.1.0``), which is read by ``dateutil``.
    :returns: the zone. ``UTC`` needs no database.
    :raises ScheduleError: the name is none of these. It is never taken for the path of a file.
    """
    if not isinstance(name, str) or not name:
        raise ScheduleError(f"timezone must be the name of a zone such as 'Europe/London', not {name!r}")
    return _load(name)


@lru_cache(maxsize=1024)
def _load(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    if _IANA.fullmatch(name):
        # Not for a region ("Europe"), a file that is no zone, a name that no file can have.
        with suppress(OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
            return zoneinfo.ZoneInfo(name)
    if _POSIX.fullmatch(name):
        with suppress(Exception):  # whatever dateutil makes of numbers that mean nothing
            rules = tz.tzstr(name)
            datetime(2000, 1, 1, tzinfo=rules).utcoffset()  # a month 13 fails only when it is used
            return rules
    raise ScheduleError(f"unknown time zone {name[:100]!r}{_suggestion(name)}")


def _suggestion(name: str) -> str:
    known = _known_zones()
    if not known:
        return ": no time zone database is installed here; install one with: pip install tzdata"
    close = difflib.get_close_matches(name[:100].lower(), known, n=1)
    return f": did you mean {known[close[0]]!r}?" if close else ": write the name of a zone such as 'Europe/London'"


@lru_cache(maxsize=1)
def _known_zones() -> dict[str, str]:
    return {name.lower(): name for name in sorted(zoneinfo.available_timezones())}


def wall_of(instant: datetime, zone: tzinfo) -> datetime:
    """What the clock of ``zone`` shows at ``instant`` (aware), as a naive datetime."""
    return instant.astimezone(zone).replace(tzinfo=None)


def instant_of(wall: datetime, zone: tzinfo) -> datetime:
    """The instant at which the clock of ``zone`` first shows ``wall`` (naive) or, where it skips that, a later time.

    :returns: aware UTC. A time that is skipped gives the end of the gap; of a time that is shown twice ``fold``
        chooses (0, the default: the first).
    """
    instant = wall.replace(tzinfo=zone).astimezone(UTC)
    if wall_of(instant, zone) == wall:
        return instant
    # Offsets are less than a day, so the gap lies within a day of the same digits read as UTC.
    middle = wall.replace(tzinfo=UTC, microsecond=0)
    return _first_second(middle - _DAY, middle + _DAY, lambda at: wall_of(at, zone) >= wall)


def set_back_at(local: datetime) -> datetime | None:
    """The instant at which the clock is set back, if it shows ``local`` (aware, in its own zone) twice.

    :returns: aware UTC, the beginning of the second pass; ``None`` for a time that is shown once.
    """
    first, second = (local.replace(fold=fold, microsecond=0).astimezone(UTC) for fold in (0, 1))
    if first >= second:
        return None
    offset = first.astimezone(local.tzinfo).utcoffset()
    return _first_second(first, second, lambda at: at.astimezone(local.tzinfo).utcoffset() != offset)


def _first_second(low: datetime, high: datetime, reached: Callable[[datetime], bool]) -> datetime:
    """The first whole second after ``low`` at which ``reached``, which stays true until ``high``, is true."""
    seconds = range(1, round((high - low) / _SECOND))
    index = bisect.bisect_left(seconds, True, key=lambda count: reached(low + count * _SECOND))
    return low + (index + 1) * _SECOND
