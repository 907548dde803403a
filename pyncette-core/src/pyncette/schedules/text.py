"""Schedules as text: what users write, and the canonical text that is stored."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any

from pyncette.errors import ScheduleError
from pyncette.schedules.bounds import bounded, split
from pyncette.schedules.kinds import EXTRA_KINDS, Cron, Extra, Interval, Once, Schedule
from pyncette.schedules.rules import RRule
from pyncette.schedules.rulewords import zone_of
from pyncette.schedules.spread import spread
from pyncette.schedules.zones import find_zone, instant_of
from pyncette.values import plain_instant, shown

__all__ = ["from_options", "origin_of", "parse"]

#: Texts that are canonical by their form alone, except for times that don't exist.
_ONCE = re.compile(
    r"once (\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d\.\d{6}Z) @([^ @#]+)(?: #([A-Za-z0-9_+/=.:-]{1,200}))?", re.ASCII
)
_EXTRA = re.compile(rf"({'|'.join(EXTRA_KINDS)}) @([^ @#]+) (.+)", re.DOTALL)
_LONGEST = 1500  # characters: the longest expression, time zone and digest, and some more


def parse(text: str) -> Schedule:
    """Rebuild a schedule from its canonical text. Cached, because it is called for every claim.

    :raises ScheduleError: the text is not the canonical text of a schedule.
    """
    if not isinstance(text, str):
        raise ScheduleError(f"A stored schedule must be text, not {shown(text)}")
    if len(text) > _LONGEST:
        raise ScheduleError(
            f"Stored schedule {shown(text)} can't be read: It has {len(text)} characters, and {_LONGEST} are enough for any"
        )
    if text.startswith("once "):
        return _once(text)
    extra = _EXTRA.fullmatch(text) if text.startswith(EXTRA_KINDS) else None
    return _parse(text) if extra is None else Extra(extra[1], extra[3], extra[2])


def origin_of(text: str) -> str | None:
    """The name of the task of which a stored schedule is an extra run; None for any other schedule."""
    extra = _EXTRA.fullmatch(text)
    return None if extra is None else extra[3]


def _once(text: str) -> Schedule:
    """Parse a once-off schedule without the cache: nearly every text is different, and canonical as it is."""
    parts = _ONCE.fullmatch(text)
    if parts is not None:
        body, zone, digest = parts.groups("")
        with suppress(ValueError):
            return Once.canonical(datetime.fromisoformat(body), zone, digest)
    return _parse(text)  # the general parser says what is wrong


@lru_cache(maxsize=1 << 14)
def _parse(text: str) -> Schedule:
    schedule: Schedule
    try:
        plain, bounds = split(text)
        kind, _, rest = plain.partition(" ")
        body, _, tail = rest.rpartition(" @")
        zone, _, digest = tail.partition(" #")
        if kind == "cron":
            schedule = Cron(body, zone)
        elif kind == "interval":
            seconds, _, fraction = body.partition(".")
            schedule = Interval(timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0"))), zone)
        elif kind == "once":
            schedule = Once(datetime.fromisoformat(body), zone, digest)
        elif kind == "rrule":
            schedule = RRule(body, zone)
        else:
            raise ScheduleError("It begins with neither 'cron', 'interval', 'once', 'rrule', 'trigger' nor 'backfill'")
        schedule = bounded(schedule, **bounds)
        if schedule.text != text:  # stores compare texts, so a schedule must have only one
            raise ScheduleError(f"Its canonical text would be {schedule.text!r}")
    except (ValueError, OverflowError) as error:
        raise ScheduleError(f"Stored schedule {shown(text)} can't be read: {error}") from error
    return schedule


def from_options(
    *,
    schedule: str | None = None,
    interval: timedelta | None = None,
    execute_at: datetime | None = None,
    rrule: str | None = None,
    timezone: str | None = None,
    jitter: timedelta | None = None,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    max_runs: int | None = None,
    name: str = "",
    digest: str = "",
) -> Schedule:
    """Create a schedule from a user's options. Exactly one of the first four must be given.

    :param schedule: a cron expression, see :class:`Cron`; it may have ``H``, see :func:`spread`.
    :param interval: the time from one occurrence to the next, see :class:`Interval`.
    :param execute_at: the instant of the only occurrence, see :class:`Once`. A naive one is wall time in ``timezone`` or, without
        ``timezone``, local time on this machine. The same goes for ``start_at`` and ``end_at``.
    :param rrule: a recurrence rule, see :class:`RRule`.
    :param timezone: the name of the time zone; by default the one in ``rrule``, or else UTC.
    :param jitter: for this and the following three, see :class:`Bounded`.
    :param name: the name of the task or the instance, which determines the numbers for ``H``.
    :param digest: a digest of the task's arguments, which only the text of a :class:`Once` contains.
    :raises ScheduleError: none or several are given, or one of them can't be understood.
    """
    options = {"schedule": schedule, "interval": interval, "execute_at": execute_at, "rrule": rrule}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ScheduleError(
            f"Give exactly one of schedule, interval, execute_at and rrule, not {' and '.join(given) or 'none of them'}"
        )
    if timezone is None and rrule is not None:
        timezone = zone_of(rrule)
    zone = "UTC" if timezone is None else timezone
    plain: Schedule
    if schedule is not None:
        plain = Cron(spread(schedule, name), zone)
    elif interval is not None:
        plain = Interval(interval, zone)
    elif rrule is not None:
        plain = RRule(rrule, zone)
    else:
        plain = Once(_aware(execute_at, "execute_at", timezone), zone, digest)
    if (jitter, start_at, end_at, max_runs) == (None, None, None, None):
        return plain
    start_at, end_at = _aware(start_at, "start_at", timezone), _aware(end_at, "end_at", timezone)
    return bounded(plain, jitter=jitter, start_at=start_at, end_at=end_at, max_runs=max_runs)


def _aware(instant: datetime | None, name: str, timezone: str | None) -> Any:
    """The instant ``name`` as an aware datetime; a naive one is wall time in ``timezone``."""
    if not isinstance(instant, datetime) or instant.tzinfo is not None:
        return instant
    return _localised(plain_instant(instant), None if timezone is None else find_zone(timezone), name)


def _localised(wall: datetime, zone: tzinfo | None, name: str) -> datetime:
    try:
        return wall.astimezone(UTC) if zone is None else instant_of(wall, zone)
    except (OverflowError, OSError, ValueError) as error:  # before 1970 on some systems
        raise ScheduleError(f"The instant {name} {shown(wall)} has no local time here: give it a timezone") from error
