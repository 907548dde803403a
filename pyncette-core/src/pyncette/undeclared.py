"""Rows that no task of an application declares: of tasks that were renamed or removed, or of another application (I18)."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyncette import partitions
from pyncette.clock import AlignedClock
from pyncette.layout import forget_layout, stored_layouts
from pyncette.store.contract import Key, Repository, SupportsPartitions, SupportsStats
from pyncette.store.paging import pages
from pyncette.tasks import StaticTask, Task, Template

__all__ = ["Undeclared", "discard_undeclared", "find_undeclared", "warn_of_undeclared"]

#: A separate logger, so that an application that shares its table with another one can turn it off.
logger: logging.Logger = logging.getLogger(__name__)

#: How many names a log line contains.
_SHOWN = 10
#: The maximum number of partitions whose rows are counted.
_COUNTED = 100


@dataclass(slots=True)
class Undeclared:
    """The rows stored under a name that is not declared, or is declared differently."""

    #: "static task", "template", "extra runs of the static task", or "partition" for one that has no owner.
    kind: str
    name: str
    #: The number of rows; None: not counted.
    rows: int | None = 0
    due: int = 0
    oldest_due: datetime | None = None

    def add(self, rows: int, due: int, oldest_due: datetime | None) -> None:
        self.rows = (self.rows or 0) + rows
        self.due += due
        if oldest_due is not None:
            self.oldest_due = oldest_due if self.oldest_due is None else min(self.oldest_due, oldest_due)

    def __str__(self) -> str:
        rows = "" if self.rows is None or self.kind == "static task" else f"{self.rows} row{'' if self.rows == 1 else 's'}, "
        since = "" if self.oldest_due is None else f" since {self.oldest_due:%Y-%m-%d %H:%M:%S}Z"
        due = (
            ""
            if self.rows is None
            else "not due"
            if not self.due
            else f"due{since}"
            if self.rows == 1
            else f"{self.due} due{since}"
        )
        return f"{self.kind} {self.name!r}" + (f" ({rows}{due})" if due else "")


async def find_undeclared(repository: Repository, now: datetime, tasks: Sequence[Task]) -> Sequence[Undeclared]:
    """The rows that none of ``tasks`` would find: static tasks, then templates, then partitions without an owner.

    If a store can't list its partitions, templates are found by their layouts, and no other partitions are found.
    """
    found: dict[tuple[str, str], Undeclared] = {}
    static = {task.name for task in tasks if isinstance(task, StaticTask)}
    async for rows in pages(repository, partitions.STATIC):
        for row in rows:
            if row.key.name not in static:
                due = row.ready_at is not None and row.ready_at <= now
                what = Undeclared("static task", row.key.name, 1, int(due), row.ready_at if due else None)
                found[what.kind, what.name] = what
    counted = 0
    async for kind, name, partition in _partitions(repository, tasks):
        what = found.setdefault((kind, name), Undeclared(kind, name, None))
        if isinstance(repository, SupportsStats) and counted < _COUNTED:
            counted += 1
            stats = await repository.stats(now, partition)
            what.add(stats.rows, stats.due, stats.oldest_due)
    return [what for what in found.values() if what.rows != 0]


async def discard_undeclared(
    repository: Repository, now: Callable[[], datetime], tasks: Sequence[Task], what: Undeclared
) -> AsyncIterator[int]:
    """Remove everything stored under ``what``, unless it is declared. Yields the number of rows so far after each page."""
    if what.kind == "static task":
        if not any(isinstance(task, StaticTask) and task.name == what.name for task in tasks):
            yield sum(await repository.unregister(now(), [Key(partitions.STATIC, what.name)]))
        return
    removed = 0
    async for kind, name, partition in _partitions(repository, tasks):
        if (kind, name) == (what.kind, what.name):
            async for rows in pages(repository, partition):
                removed += sum(await repository.unregister(now(), [row.key for row in rows])) if rows else 0
                yield removed
    if what.kind == "template" and not any(task.name == what.name for task in tasks):
        # Remove the layout last: if this is interrupted, it still says where the remaining rows are.
        await forget_layout(repository, now(), what.name)


async def warn_of_undeclared(repository: Repository, clock: AlignedClock, tasks: Sequence[Task]) -> None:
    """Log one line about all rows that no task declares, with advice; nothing if there are none."""
    try:
        found = await find_undeclared(repository, clock.now(), tasks)
    except Exception as error:
        logger.debug("Rows that no task declares could not be counted: %s", error)
        return
    if found:
        shown = ", ".join(map(str, found[:_SHOWN])) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        logger.warning(
            "The store has rows that no task of this application declares, so nobody runs them, unless another application does: %s. "
            "Move instances with 'pyncette move APP OLD NEW', or remove rows you no longer need with 'pyncette unschedule APP NAME'",
            shown,
        )


async def _partitions(repository: Repository, tasks: Sequence[Task]) -> AsyncIterator[tuple[str, str, str]]:
    """The partitions that belong to no task, each with a kind and a name, except the shared one of static tasks."""
    declared = {partition for task in tasks if isinstance(task, Template) for partition in task.all_partitions()}
    declared |= {partitions.STATIC, *(partitions.extra_runs(task.name) for task in tasks if isinstance(task, StaticTask))}
    for partition in await _occupied(repository):
        if partition in declared or partition.startswith(partitions.NO_TASKS):
            continue
        owner = partitions.owner_of(partition)
        triggered = partitions.extra_of(partition)
        if triggered is not None:
            yield "extra runs of the static task", triggered, partition
        elif owner is not None:
            yield "template", owner.name, partition
        else:
            yield "partition", partition, partition


async def _occupied(repository: Repository) -> Sequence[str]:
    if isinstance(repository, SupportsPartitions):
        return sorted(await repository.partitions())
    layouts = await stored_layouts(repository)
    return [partition for name, layout in layouts.items() for partition in layout.partitions(name)]
