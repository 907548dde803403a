"""Schedules as text: what users write, and the canonical text that is stored."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import cast

from pyncette.errors import ScheduleError
from pyncette.schedules.kinds import Cron, Interval, Once, Schedule
from pyncette.schedules.zones import find_zone, instant_of

__all__ = ["from_options", "parse"]


def parse(text: str) -> Schedule:
    """Rebuild a schedule from its canonical text. Cached, for it is called with every claim.

    :raises ScheduleError: the text is not the canonical text of a schedule.
    """
    if not isinstance(text, str):
        raise ScheduleError(f"a stored schedule must be text, not {text!r}")
    return _parse(text)


@lru_cache(maxsize=1 << 14)
def _parse(text: str) -> Schedule:
    kind, _, rest = text.partition(" ")
    body, _, tail = rest.rpartition(" @")
    zone, _, digest = tail.partition(" #")
    schedule: Schedule
    try:
        if kind == "cron":
            schedule = Cron(body, zone)
        elif kind == "interval":
            seconds, _, fraction = body.partition(".")
            schedule = Interval(timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0"))), zone)
        elif kind == "once":
            schedule = Once(datetime.fromisoformat(body), zone, digest)
        else:
            raise ScheduleError("it begins with neither 'cron', 'interval' nor 'once'")
        if schedule.text != text:  # the store compares texts, so one schedule must not have two
            raise ScheduleError(f"its canonical text would be {schedule.text!r}")
    except (ValueError, OverflowError) as error:
        raise ScheduleError(f"stored schedule {text[:200]!r} can't be read: {error}") from error
    return schedule


def from_options(
    *,
    schedule: str | None = None,
    interval: timedelta | None = None,
    execute_at: datetime | None = None,
    timezone: str | None = None,
    digest: str = "",
) -> Schedule:
    """Make a schedule from what a user gives. Exactly one of the first three must be given.

    :param schedule: a cron expression, see :class:`Cron`.
    :param interval: the time from one occurrence to the next, see :class:`Interval`.
    :param execute_at: the instant of the one occurrence, see :class:`Once`. A naive one is what the clock of
        ``timezone`` shows then or, without ``timezone``, the clock of this machine.
    :param timezone: the name of the time zone; UTC if not given.
    :param digest: of the task's arguments; only the text of a :class:`Once` carries it.
    :raises ScheduleError: none or several are given, or one of them can't be understood.
    """
    options = {"schedule": schedule, "interval": interval, "execute_at": execute_at}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ScheduleError(f"give exactly one of {', '.join(options)}; given: {' and '.join(given) or 'none'}")
    zone = "UTC" if timezone is None else timezone
    if schedule is not None:
        return Cron(schedule, zone)
    if interval is not None:
        return Interval(interval, zone)
    if isinstance(execute_at, datetime) and execute_at.tzinfo is None:
        execute_at = _localised(execute_at, None if timezone is None else find_zone(timezone))
    return Once(cast(datetime, execute_at), zone, digest)


def _localised(wall: datetime, zone: tzinfo | None) -> datetime:
    try:
        return wall.astimezone(UTC) if zone is None else instant_of(wall, zone)
    except (OverflowError, OSError, ValueError) as error:
        raise ScheduleError(f"execute_at {wall!r} is not within the years 1 to 9999 of UTC") from error
