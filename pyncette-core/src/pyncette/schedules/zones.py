"""Time zones: finding a zone by its name, and converting between wall times and instants."""

import bisect
import os
import re
import time
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path

from dateutil import tz

from pyncette.errors import ScheduleError
from pyncette.schedules.suggestions import advice
from pyncette.values import EARLIEST, LATEST, plain_text, shown

__all__ = ["find_zone", "first_second", "instant_of", "set_back_at", "wall_of"]

_LONGEST = 100  # characters; zone rules with all their times take about 50

# Every name in the IANA database begins with a capital; some systems have two more copies of it in folders. Nothing else is looked up:
# neither files that are not zones nor, on case-insensitive file systems, names in another case.
_IANA = re.compile(r"((posix|right)/)?[A-Z][A-Za-z0-9_+ -]*(/[A-Za-z0-9_+ -]+)*|posixrules", re.ASCII)

# An abbreviation, an offset, and perhaps those of daylight saving and its rules. A slash is part of a time: "Europe/London2" is
# a typo, although dateutil takes it for a zone with that abbreviation.
_RULES = re.compile(r"[A-Za-z]+[-+]?\d[-+:\dA-Za-z]*([,;][-+:;,./\dJM]*)?", re.ASCII)

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


def find_zone(name: str) -> tzinfo:
    """Find a time zone by any name that ``dateutil.tz.gettz()`` accepts, except the path of a file.

    :param name: a name of the IANA database (``Europe/London``), which is looked up in :mod:`zoneinfo`; otherwise an
        offset (``UTC+12`` is twelve hours ahead of UTC) or rules in the form of POSIX (``EST5EDT,M3.2.0,M11.1.0``), which
        is read by ``dateutil``; or ``localtime``, the zone of this machine.
    :returns: the zone. ``UTC`` needs no database.
    :raises ScheduleError: the name is none of these.
    """
    if type(name) is str and 0 < len(name) <= _LONGEST:  # called for every claim
        return _load(name)
    if not isinstance(name, str) or not name:
        key = getattr(name, "key", None) if isinstance(name, tzinfo) else None
        what = f"{shown(name)}: write {key!r}" if isinstance(key, str) else shown(name)
        raise ScheduleError(f"A timezone must be the name of a zone such as 'Europe/London', not {what}")
    if len(name) > _LONGEST:
        raise ScheduleError(f"The name of a time zone has at most {_LONGEST} characters, but {shown(name)} has {len(name)}")
    return _load(plain_text(name))


@lru_cache(maxsize=1024)
def _load(name: str) -> tzinfo:
    zone = _named(name)
    if zone is None and (name == "localtime" or name in time.tzname):
        zone = _local()
    if zone is None:
        raise ScheduleError(f"Unknown time zone {shown(name)}{advice(name, lambda other: _named(other) is not None)}")
    return zone


def _named(name: str) -> tzinfo | None:
    if name == "UTC":
        return UTC
    if _IANA.fullmatch(name):
        # for a region ("Europe"), a file that is not a zone, or an impossible file name
        with suppress(OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
            return zoneinfo.ZoneInfo(name.replace(" ", "_"))
    if _RULES.fullmatch(name):
        with suppress(Exception):  # whatever dateutil raises for meaningless numbers
            rules = tz.tzstr(name)
            # A month 13, an offset of 30 hours or a change in another century fails only when it is used.
            for year in (EARLIEST.year - 1, 2000, LATEST.year + 1):
                for change in rules.transitions(year) or [datetime(year, 1, 1)]:  # noqa: DTZ001
                    if abs(change.year - year) > 1:
                        return None
                    for fold in (0, 1):
                        change.replace(tzinfo=rules, fold=fold).utcoffset()
            return rules
    return None


def _local() -> tzinfo:
    name = os.environ.get("TZ", "").removeprefix(":") or "/etc/localtime"
    if (zone := _named(name)) is not None:
        return zone
    if (path := Path(name)).is_absolute():
        with suppress(OSError, ValueError), path.open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, key="localtime")
    return tz.tzlocal()


def wall_of(instant: datetime, zone: tzinfo) -> datetime:
    """The wall time in ``zone`` at ``instant`` (aware), as a naive datetime."""
    return instant.astimezone(zone).replace(tzinfo=None)


def instant_of(wall: datetime, zone: tzinfo) -> datetime:
    """The instant at which the clock of ``zone`` first shows ``wall`` (naive) or, if it skips that, a later time.

    :returns: aware UTC. A skipped time gives the end of the gap; of a time that the clock shows twice, ``fold`` chooses the first
        (0, the default) or the second.
    """
    instant = wall.replace(tzinfo=zone).astimezone(UTC)
    if wall_of(instant, zone) == wall:
        return instant
    # Offsets are less than a day, so the gap lies within a day of the same digits read as UTC.
    middle = wall.replace(tzinfo=UTC, microsecond=0)
    return first_second(middle - _DAY, middle + _DAY, lambda at: wall_of(at, zone) >= wall)


def set_back_at(local: datetime) -> datetime | None:
    """The instant at which the clock is set back, if it shows ``local`` (aware, in its own zone) twice.

    :returns: aware UTC, the beginning of the second pass; ``None`` for a time that the clock shows once.
    """
    first, second = (local.replace(fold=fold, microsecond=0).astimezone(UTC) for fold in (0, 1))
    if first >= second:
        return None
    offset = first.astimezone(local.tzinfo).utcoffset()
    return first_second(first, second, lambda at: at.astimezone(local.tzinfo).utcoffset() != offset)


def first_second(low: datetime, high: datetime, reached: Callable[[datetime], bool]) -> datetime:
    """The first whole second after ``low`` at which ``reached``, which stays true until ``high``, is true."""
    seconds = range(1, round((high - low) / _SECOND))
    index = bisect.bisect_left(seconds, True, key=lambda count: reached(low + count * _SECOND))
    return low + (index + 1) * _SECOND
