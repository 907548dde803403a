"""``pyncette next``: the occurrences between two instants."""

import argparse
import asyncio
import functools
import heapq
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, tzinfo

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.output import note, print_json, print_table
from pyncette.cli.stored import Group, find, groups, locate, opened, rows
from pyncette.errors import ConfigurationError, ScheduleError
from pyncette.extra import is_extra
from pyncette.memo import Memo
from pyncette.schedules.kinds import Schedule
from pyncette.schedules.text import parse
from pyncette.schedules.wording import in_words
from pyncette.schedules.zones import instant_of
from pyncette.store.contract import Key, Row, State
from pyncette.tasks import StaticTask

__all__ = ["Moment", "duration", "instant_meant", "next_occurrences", "parse_moment"]

#: An instant on the command line: aware, naive (wall time), or an offset from another instant.
Moment = datetime | timedelta

_RELATIVE = re.compile(r"([+-])(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MICROSECOND = timedelta(microseconds=1)
#: How many of the rows that are left out are named.
_EXAMPLES = 5
#: How many lines are computed between checks for Ctrl-C.
_BREATH = 1000


def parse_moment(text: str) -> Moment:
    """Parse ``2026-07-01``, ``2026-07-01T09:00``, the same with an offset, ``now``, ``+12h`` or ``-12h``."""
    if text == "now":
        return timedelta()
    relative = _RELATIVE.fullmatch(text)
    try:
        return duration(relative[2], relative[3]) * (-1 if relative[1] == "-" else 1) if relative else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 2026-07-01, 2026-07-01T09:00, now or +12h") from None


def duration(number: str, unit: str) -> timedelta:
    """``number`` seconds, minutes, hours, days or weeks; the unit is the first letter."""
    return timedelta(**{_UNITS[unit]: int(number)})


def instant_meant(moment: Moment, since: datetime, zone: tzinfo) -> datetime:
    """The instant: an offset counts from ``since``, and a naive time is wall time in ``zone``."""
    try:
        if isinstance(moment, timedelta):
            instant = since + moment
        else:
            instant = moment.astimezone(UTC) if moment.utcoffset() is not None else instant_of(moment, zone)
        for near in (instant - _MICROSECOND, instant + _MICROSECOND):
            near.astimezone(zone)  # raises near the ends of the calendar
        return instant
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"{moment} is not within the years 1 to 9999") from error


class _Upcoming:
    """One occurrence, ordered by time. It computes the next occurrence of its task."""

    __slots__ = ("at", "instance", "key", "left", "schedule", "task")

    def __init__(
        self, at: datetime, task: str, instance: str | None, schedule: Schedule, key: Key, left: int | None = None
    ) -> None:
        self.at = at
        self.task = task
        self.instance = instance
        self.schedule = schedule
        self.key = key
        #: The number of remaining runs, including this one, if it is limited.
        self.left = left

    def following(self) -> "_Upcoming | None":
        at = None if self.left == 1 else _after(self.schedule.next, self.at)
        left = self.left and self.left - 1
        return None if at is None else _Upcoming(at, self.task, self.instance, self.schedule, self.key, left)

    def __lt__(self, other: "_Upcoming") -> bool:
        return (self.at, self.task, self.instance or "") < (other.at, other.task, other.instance or "")


async def next_occurrences(app: Pyncette, arguments: argparse.Namespace) -> int:
    """List the occurrences from one instant up to, but not including, another, in order."""
    zone: tzinfo = arguments.timezone
    async with opened(app) as app_context:
        now = app_context.clock.now()
        start = instant_meant(arguments.start, now, zone)
        end = instant_meant(arguments.end, start, zone)
        if end < start:
            raise ConfigurationError(f"--to is {end}, before --from, which is {start}; swap them")
        keep = arguments.limit + 1 if arguments.limit else None  # one more, to find out whether there are more
        heap: list[_Upcoming] = []
        async for first in _firsts(app_context, arguments, start, now):
            if first.at < end:
                heapq.heappush(heap, first)
                if keep is not None and len(heap) > 2 * keep:
                    heap = heapq.nsmallest(keep, heap)  # a sorted list is a heap; the occurrences left out come too late anyway
    fired: list[_Upcoming] = []
    last: set[int] = set()
    while heap and len(fired) != keep:
        if len(fired) % _BREATH == 0:
            await asyncio.sleep(0)
        upcoming = heap[0]
        fired.append(upcoming)
        following = upcoming.following()
        if following is not None and following.at < end:
            heapq.heapreplace(heap, following)
        else:
            heapq.heappop(heap)
        if following is None:
            last.add(len(fired))
    shown = fired[: arguments.limit or None]
    if arguments.json:
        for number, each in enumerate(shown, 1):
            said = {"in_words": in_words(each.schedule)} if arguments.words else {}
            print_json(_described(each, zone, number in last) | said)
    else:
        cells = [_cells(each, zone, number in last) for number, each in enumerate(shown, 1)]
        # Without jitter and end, there is nothing to add.
        columns = 4 if not any(row[4] for row in cells) else 5
        headings = ["at", "day", "task", "instance", "note"][:columns]
        words = [[in_words(each.schedule)] if arguments.words else [] for each in shown]
        print_table(
            headings + ["schedule"] * arguments.words, [[*row[:columns], *extra] for row, extra in zip(cells, words, strict=True)]
        )
        if shown and arguments.name is not None and len(kinds := {each.schedule for each in shown}) == 1 and not arguments.words:
            note(f"{arguments.name!r} is scheduled: {in_words(kinds.pop())}")
    if len(shown) < len(fired):
        note(f"there are more than these {arguments.limit}; list all with --limit 0")
    return 0


def _described(upcoming: _Upcoming, zone: tzinfo, last: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "at": upcoming.at.astimezone(zone).isoformat(),
        "task": upcoming.task,
        "instance": upcoming.instance,
    }
    if (runs_at := upcoming.schedule.execute_after(upcoming.at, upcoming.key)) != upcoming.at:
        values["runs_at"] = runs_at.astimezone(zone).isoformat()
    return values | {"last": True} if last else values


def _cells(upcoming: _Upcoming, zone: tzinfo, last: bool) -> tuple[str | None, ...]:
    at = upcoming.at.astimezone(zone)
    notes = ["the last"] if last else []
    if (runs_at := upcoming.schedule.execute_after(upcoming.at, upcoming.key)) != upcoming.at:
        notes.insert(0, f"runs at {runs_at.astimezone(zone):%H:%M:%S}, for its jitter")
    return at.isoformat(sep=" ", timespec="seconds"), f"{at:%a}", upcoming.task, upcoming.instance, ", ".join(notes)


async def _firsts(
    app_context: PyncetteContext, arguments: argparse.Namespace, start: datetime, now: datetime
) -> AsyncIterator[_Upcoming]:
    """The first occurrence from ``start`` on of each requested task or instance."""
    known = await groups(app_context)
    if arguments.name is None:
        asked = [group for group in known if group.task is not None]
    else:
        asked = [find(known, arguments.name, instances=arguments.instance is not None)]
        if asked[0].task is None:
            raise ConfigurationError(f"{arguments.name!r} is stored, but the app does not declare it, so nothing runs it")
    due = 0
    left_out: list[str] = []
    for group in asked:
        if group.pause is not None:
            note(f"{group.name!r} is {group.pause}; its instances are left out")
            continue
        missing = True
        async for row in _rows(app_context, group, arguments.instance):
            missing = False
            if row.state is State.UNREADABLE:
                left_out.append(f"{row.key.name!r} of {group.name!r} is left out: {row.error}")
            if row.state is not State.SCHEDULED or is_extra(row):
                continue
            due += row.ready_at is not None and row.ready_at <= now
            try:
                schedule = parse(row.schedule)
            except ScheduleError as error:
                left_out.append(f"{row.key.name!r} of {group.name!r} is left out: {error}")
                continue
            instance = None if group.kind == "static" else row.key.name
            left = Memo.read(row.memo).runs_left(schedule.max_runs, row.revision)
            upcoming: _Upcoming | None = _Upcoming(row.occurrence, group.name, instance, schedule, row.key, left)
            if left is None and row.occurrence < start:
                later = functools.partial(schedule.next_after, row.occurrence)
                at = _after(later, start - _MICROSECOND)
                upcoming = None if at is None else _Upcoming(at, group.name, instance, schedule, row.key)
            while upcoming is not None and upcoming.at < start:  # each counts
                upcoming = upcoming.following()
            if upcoming is not None:
                yield upcoming
        if missing and isinstance(group.task, StaticTask) and group.task.enabled:
            # as if the app started now
            first = _after(group.task.schedule.first, max(now, start - _MICROSECOND))
            if first is not None:
                yield _Upcoming(first, group.name, None, group.task.schedule, group.task.key)
        elif missing and arguments.instance is not None:
            raise ConfigurationError(f"Task {group.name!r} has no instance {arguments.instance!r} in the store")
    for text in left_out[:_EXAMPLES]:
        note(text)
    if len(left_out) > _EXAMPLES:
        note(f"{len(left_out) - _EXAMPLES} more rows are left out for similar reasons; see: pyncette check --help")
    if due and start <= now:
        note(f"{due} {'is' if due == 1 else 'are'} already due, and {'starts' if due == 1 else 'start'} once a slot is free")


async def _rows(app_context: PyncetteContext, group: Group, instance: str | None) -> AsyncIterator[Row]:
    repository = app_context.repository
    if instance is not None:
        for row in (await locate(repository, group, instance))[:1]:
            yield row
    elif group.kind == "static":
        for found in await repository.get([Key(group.partitions[0], group.name)]):
            if found is not None:
                yield found
    else:
        async for row in rows(repository, group.partitions):
            yield row


def _after(occurrence: Callable[[datetime], datetime | None], instant: datetime) -> datetime | None:
    try:
        return occurrence(instant)
    except (OverflowError, ValueError):  # beyond either end of the calendar
        return None
