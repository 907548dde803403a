"""``pyncette next``: what fires between two instants."""

import argparse
import heapq
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.output import note, print_json, print_table
from pyncette.cli.tasks import find_task, opened, stored_instances
from pyncette.errors import ConfigurationError, ScheduleError
from pyncette.scheduled import ScheduledTask
from pyncette.schedules.kinds import Schedule
from pyncette.schedules.zones import instant_of
from pyncette.store.contract import State
from pyncette.tasks import StaticTask, Task

__all__ = ["Moment", "next_occurrences", "parse_moment"]

#: What stands for an instant on the command line: an instant, what a clock shows, or a time from another instant on.
Moment = datetime | timedelta

_RELATIVE = re.compile(r"\+(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MICROSECOND = timedelta(microseconds=1)


def parse_moment(text: str) -> Moment:
    """Parse ``2026-07-01``, ``2026-07-01T09:00``, the same with an offset, ``now`` or ``+12h``."""
    if text == "now":
        return timedelta()
    relative = _RELATIVE.fullmatch(text)
    try:
        return timedelta(**{_UNITS[relative[2]]: int(relative[1])}) if relative else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no instant; write 2026-07-01, 2026-07-01T09:00, now or +12h") from None


def _instant(moment: Moment, since: datetime, zone: tzinfo) -> datetime:
    try:
        if isinstance(moment, timedelta):
            instant = since + moment
        else:
            instant = moment.astimezone(UTC) if moment.utcoffset() is not None else instant_of(moment, zone)
        for near in (instant - _MICROSECOND, instant + _MICROSECOND):
            near.astimezone(zone)  # raises where what is around could not be shown
        return instant
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"{moment} is not within the years 1 to 9999") from error


class _Upcoming:
    """One occurrence, ordered by time; the next one of its task can be had from it."""

    __slots__ = ("at", "instance", "schedule", "task")

    def __init__(self, at: datetime, task: str, instance: str | None, schedule: Schedule) -> None:
        self.at = at
        self.task = task
        self.instance = instance
        self.schedule = schedule

    def __lt__(self, other: "_Upcoming") -> bool:
        return (self.at, self.task, self.instance or "") < (other.at, other.task, other.instance or "")


async def next_occurrences(app: Pyncette, arguments: argparse.Namespace) -> int:
    """What fires from one instant until before another, in order."""
    zone: tzinfo = arguments.timezone
    async with opened(app) as app_context:
        now = app_context.clock.now()
        start = _instant(arguments.start, now, zone)
        end = _instant(arguments.end, start, zone)
        if end < start:
            raise ConfigurationError(f"--to is {end}, before --from, which is {start}; exchange them")
        keep = arguments.limit + 1 if arguments.limit else None  # one more, to know whether there are more
        heap: list[_Upcoming] = []
        async for first in _firsts(app, app_context, arguments, start, now):
            if first.at < end:
                heapq.heappush(heap, first)
                if keep is not None and len(heap) > 2 * keep:
                    heap = heapq.nsmallest(keep, heap)  # sorted, and so a heap; what is left out comes too late in any case
    rows: list[tuple[datetime, str, str | None]] = []
    while heap and len(rows) != keep:
        upcoming = heap[0]
        rows.append((upcoming.at.astimezone(zone), upcoming.task, upcoming.instance))
        following = upcoming.schedule.next(upcoming.at)
        if following is not None and following < end:
            heapq.heapreplace(heap, _Upcoming(following, upcoming.task, upcoming.instance, upcoming.schedule))
        else:
            heapq.heappop(heap)
    shown = rows[: arguments.limit or None]
    if arguments.json:
        for at, task, instance in shown:
            print_json({"at": at.isoformat(), "task": task, "instance": instance})
    else:
        cells = [(at.isoformat(sep=" ", timespec="seconds"), f"{at:%a}", task, instance) for at, task, instance in shown]
        print_table(["at", "day", "task", "instance"], cells)
    if len(shown) < len(rows):
        note(f"there are more than these {arguments.limit}; --limit 0 lists all")
    return 0


async def _firsts(
    app: Pyncette, app_context: PyncetteContext, arguments: argparse.Namespace, start: datetime, now: datetime
) -> AsyncIterator[_Upcoming]:
    """The first occurrence from ``start`` on of each task or instance that is asked for."""
    tasks = app.tasks if arguments.name is None else [find_task(app, arguments.name)]
    due = 0
    for task in tasks:
        static = isinstance(task, StaticTask)
        missing = True
        async for stored in _stored(app_context, task, arguments.instance):
            missing = False
            if stored.state is not State.SCHEDULED:
                continue
            due += stored.row.ready_at is not None and stored.row.ready_at <= now
            try:
                schedule = stored.schedule
            except ScheduleError as error:
                note(f"{stored.name!r} of {task.name!r} is left out: {error}")
                continue
            occurrence = stored.row.occurrence
            at = occurrence if occurrence >= start else schedule.next_after(occurrence, start - _MICROSECOND)
            if at is not None:
                yield _Upcoming(at, task.name, None if static else stored.name, schedule)
        if missing and isinstance(task, StaticTask) and task.enabled:
            first = task.schedule.first(max(now, start - _MICROSECOND))  # as if the app were started now
            if first is not None:
                yield _Upcoming(first, task.name, None, task.schedule)
        elif missing and arguments.instance is not None:
            raise ConfigurationError(f"Task {task.name!r} has no instance {arguments.instance!r} in the store")
    if due and start <= now:
        note(f"{due} {'is' if due == 1 else 'are'} due already, and {'starts' if due == 1 else 'start'} once a process has room")


async def _stored(app_context: PyncetteContext, task: Task, instance: str | None) -> AsyncIterator[ScheduledTask]:
    if instance is None and not isinstance(task, StaticTask):
        async for stored in stored_instances(app_context, task):
            yield stored
    elif (one := await app_context.get_task(task, instance)) is not None:
        yield one
