"""What is in the store, grouped by the names that operators use: declared tasks, and all others."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyncette import partitions
from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.checks import did_you_mean
from pyncette.cli.output import note
from pyncette.errors import ConfigurationError, ScheduleError, StoreMissingError
from pyncette.extra import is_extra
from pyncette.layout import Layout, paused_templates, stored_layouts
from pyncette.memo import Memo
from pyncette.scheduled import state_of
from pyncette.schedules import text as schedules
from pyncette.schedules.bounds import Bounded
from pyncette.schedules.kinds import Cron, Extra, Interval, Schedule
from pyncette.schedules.rules import RRule
from pyncette.schedules.wording import in_words
from pyncette.store.contract import Key, Repository, Row, State, SupportsPartitions, SupportsStats
from pyncette.store.paging import pages
from pyncette.tasks import StaticTask, Task, Template

__all__ = [
    "Budget",
    "Group",
    "Totals",
    "count",
    "describe_schedule",
    "expressed",
    "find",
    "find_all",
    "groups",
    "locate",
    "opened",
    "rows",
    "state_of",
    "when",
]

#: The number of rows requested in one call.
_PAGE = 1000
#: More partitions than any template has.
_MOST = 100_000
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Group:
    """Everything stored or declared under one name."""

    name: str
    #: "static", "dynamic", "partitioned", or "unknown" for a partition that Pyncette does not recognise.
    kind: str
    #: The declared task; None if the application does not declare it.
    task: Task | None
    #: The partitions of its rows, even if there are none.
    partitions: Sequence[str]
    #: The stored layout of the instances; None for a static task, and for a template that is not stored yet.
    layout: Layout | None = None
    #: The row of the layout, if the template is paused as a whole.
    paused: Row | None = None

    @property
    def pause(self) -> str | None:
        """When, by whom and why the template was paused as a whole; None if it is not paused."""
        if self.paused is None:
            return None
        note = Memo.read(self.paused.memo).note
        if note is None:
            return "paused as a whole"
        by = "" if note.by is None else f" by {note.by}"
        return f"paused as a whole since {note.at:%Y-%m-%d %H:%M:%S}Z{by}" + ("" if note.text is None else f": {note.text}")

    @property
    def mismatch(self) -> str | None:
        """The stored kind and layout, if they differ from the declared ones."""
        differs = isinstance(self.task, Template) and self.layout not in (None, Layout.of(self.task))
        return str(self.layout) if differs else None


@contextlib.asynccontextmanager
async def opened(app: Pyncette, *, changing: bool = False) -> AsyncIterator[PyncetteContext]:
    """The application with its store open, without running, setting up, creating or comparing anything. A missing store counts as empty.

    :param changing: the command changes something, so the store must exist and be visible to other processes.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            app_context = await stack.enter_async_context(app.create(fixtures=False, layouts="ignore", looking=True))
        except StoreMissingError as error:
            if changing:
                raise
            # Leave out the advice in the error: starting the app is enough.
            note(f"{str(error).partition('; ')[0]}; showing what is declared")
            app.use_repository("memory://")
            app_context = await stack.enter_async_context(app.create(fixtures=False, layouts="ignore"))
        else:
            if changing and not app_context.repository.shared:
                raise ConfigurationError(
                    "The app keeps its tasks in memory, where only the process that runs it can change them; pass another store with --url"
                )
            if not app_context.repository.shared:
                note(
                    "the app keeps its tasks in memory, where only the process that runs it sees them; pass another store with --url"
                )
        yield app_context


async def groups(app_context: PyncetteContext) -> Sequence[Group]:
    """All declared tasks, in order, then all other stored ones: renamed, removed, or from another application."""
    repository = app_context.repository
    occupied, nobodys = await _occupied(repository)
    # A stored layout counts; without one, derive it from the rows.
    paused = await paused_templates(repository)
    layouts = {name: _least_layout(found) for name, found in occupied.items()} | dict(await stored_layouts(repository))

    def template(name: str, task: Template | None) -> Group:
        layout = layouts.get(name)
        declared = () if task is None else task.all_partitions()
        stored: Sequence[str] = ()
        # An invalid count would produce an endless list.
        if layout is not None and not isinstance(repository, SupportsPartitions) and (layout.partition_count or 0) <= _MOST:
            stored = layout.partitions(name)
        shape = Layout.of(task) if task is not None else layout or Layout()
        kind = "dynamic" if shape.partition_count is None else "partitioned"
        among = dict.fromkeys([*declared, *stored, *occupied.get(name, ())])
        return Group(name, kind, task, list(among), layout, paused.get(name))

    def static(name: str, task: StaticTask | None) -> Group:
        return Group(name, "static", task, [partitions.STATIC])

    found = [
        template(task.name, task) if isinstance(task, Template) else static(task.name, task)
        for task in app_context.tasks
        if isinstance(task, Template | StaticTask)
    ]
    templates = {group.name for group in found if group.kind != "static"}
    known = {group.name for group in found if group.kind == "static"}
    names = [row.key.name async for row in rows(repository, [partitions.STATIC])]
    found += [static(name, None) for name in names if name not in known]
    found += [template(name, None) for name in sorted(layouts) if name not in templates]
    static_names = known.union(names)
    nobodys = [partition for partition in nobodys if partitions.extra_of(partition) not in static_names]
    return found + [Group(partition, "unknown", None, [partition]) for partition in nobodys]


async def _occupied(repository: Repository) -> tuple[Mapping[str, Sequence[str]], Sequence[str]]:
    """The partitions that have rows: those of templates by name, and unknown ones."""
    found: dict[str, list[str]] = {}
    nobodys = []
    for partition in sorted(await repository.partitions()) if isinstance(repository, SupportsPartitions) else ():
        owner = partitions.owner_of(partition)
        if owner is not None:
            found.setdefault(owner.name, []).append(partition)
        elif partition != partitions.STATIC and not partition.startswith(partitions.NO_TASKS):
            nobodys.append(partition)
    return found, nobodys


def _least_layout(occupied: Sequence[str]) -> Layout:
    indices = [index for _, index in filter(None, map(partitions.owner_of, occupied)) if index is not None]
    return Layout(max(indices) + 1 if indices else None)


def find_all(known: Iterable[Group], name: str) -> Sequence[Group]:
    """The groups called ``name``: more than one only if the store and the application disagree about its kind."""
    known = list(known)
    found = [group for group in known if group.name == name]
    if not found:
        names = [group.name for group in known]
        close = did_you_mean(name, names)
        if close:
            hint = f"did you mean {close!r}?"
        elif names:
            hint = f"known tasks are {', '.join(names[:20])}{' and more' if len(names) > 20 else ''}"
        else:
            hint = "nor any other"
        raise ConfigurationError(f"Neither the app nor its store has a task {_shortened(name)!r}; {hint}")
    return found


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}…"


def find(known: Iterable[Group], name: str, *, instances: bool = False) -> Group:
    """The group called ``name``, preferably the declared one. With ``instances``, one that has instances."""
    found = find_all(known, name)
    if not instances:
        return found[0]
    templates = [group for group in found if group.kind != "static"]
    if not templates:
        raise ConfigurationError(f"{name!r} is a static task and has no instances")
    return templates[0]


async def rows(repository: Repository, among: Iterable[str], limit: int = 0) -> AsyncIterator[Row]:
    """The rows of these partitions, at most ``limit`` unless that is 0."""
    left = limit
    for partition in among:
        async for page in pages(repository, partition, limit=min(left, _PAGE) if limit else _PAGE):
            for row in page:
                yield row
            left -= len(page)
            if limit and left <= 0:
                return


async def locate(repository: Repository, group: Group, instance: str) -> Sequence[Row]:
    """The rows of the instance in all partitions; the one in its proper partition comes first."""
    among = dict.fromkeys(group.partitions)
    if isinstance(group.task, Template):
        key = group.task.key(instance)
        among = dict.fromkeys([key.partition, *among])
    keys = [Key(partition, instance) for partition in among]
    found: list[Row] = []
    for start in range(0, len(keys), _PAGE):
        found += [row for row in await repository.get(keys[start : start + _PAGE]) if row is not None]
    return found


# --- in words -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Totals:
    """The numbers of rows of a group."""

    instances: int
    due: int
    failed: int
    #: When the first row becomes ready.
    ready: datetime | None
    #: The number of rows in each state; None for a template with too many rows to count.
    states: Mapping[str, int] | None = None
    #: The number of extra runs, if they were counted.
    extra: int = 0


@dataclass(slots=True)
class Budget:
    """How many rows a command reads to count their states: enough for most stores, and few enough to take seconds."""

    rows: int = 100_000


async def count(app_context: PyncetteContext, group: Group, budget: Budget | None = None) -> Totals | None:
    """None if the store can't count. With a ``budget``, states are counted until it is used up."""
    repository, now = app_context.repository, app_context.clock.now()
    if not isinstance(repository, SupportsStats):
        return None
    instances = due = failed = extra = 0
    ready: datetime | None = None
    for partition in group.partitions:
        # at the end of time, so that the first one is found even if it is not due
        stats = await repository.stats(_LAST, partition)
        instances += stats.rows
        failed += stats.failed
        if stats.oldest_due is not None:
            ready = stats.oldest_due if ready is None else min(ready, stats.oldest_due)
            if stats.oldest_due <= now:
                due += (await repository.stats(now, partition)).due
    states: Counter[str] | None = None
    if budget is not None and instances <= budget.rows:
        budget.rows -= instances
        states, extra, ready = Counter(), 0, None
        async for row in rows(repository, group.partitions):
            if is_extra(row):
                extra += 1
                continue
            states[state_of(row, now)] += 1
            if row.ready_at is not None and (ready is None or row.ready_at < ready):
                ready = row.ready_at
        instances, due, failed = states.total(), states["due"] + states["lease expired"], states["failed"]
    return Totals(instances, due, failed, ready, states, extra)


def describe_schedule(row: Row) -> dict[str, Any]:
    """Schedule, time zone and time of the occurrence; an invalid one as it is stored, or None."""
    if row.state is State.UNREADABLE:
        return {"schedule": None, "timezone": None, "next": None}
    try:
        schedule = schedules.parse(row.schedule)
    except ScheduleError:  # perhaps from a later release
        return {"schedule": row.schedule, "timezone": None, "next": when(row.occurrence)}
    try:
        occurrence = row.occurrence.astimezone(schedule.zone)
    except (OverflowError, ValueError):  # at one of the ends of the calendar
        occurrence = row.occurrence
    described = {**expressed(schedule), "next": when(occurrence)}
    if schedule.max_runs is not None:
        described["runs_left"] = Memo.read(row.memo).runs_left(schedule.max_runs, row.revision)
    return described


def expressed(schedule: Schedule) -> dict[str, Any]:
    """The schedule as it was written, its zone, and the schedule as a sentence."""
    plain = schedule.plain
    if isinstance(plain, Cron | RRule):
        text = plain.expression
    elif isinstance(plain, Extra):
        text = f"once, {plain.kind}"
    else:
        text = f"every {plain.duration}" if isinstance(plain, Interval) else "once"
    if isinstance(schedule, Bounded):
        text += "".join(f", {words}" for words in _bounds(schedule))
    return {"schedule": text, "timezone": schedule.timezone, "in_words": in_words(schedule)}


def _bounds(schedule: Bounded) -> Iterator[str]:
    for word, instant in (("from", schedule.start_at), ("until", schedule.end_at)):
        if instant is not None:
            yield f"{word} {instant.astimezone(schedule.zone).isoformat(sep=' ')}"
    if schedule.max_runs is not None:
        yield f"{schedule.max_runs} run{'' if schedule.max_runs == 1 else 's'}"
    if schedule.jitter:
        yield f"jitter {schedule.jitter}"


def when(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
