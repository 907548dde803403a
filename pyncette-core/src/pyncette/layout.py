"""The layout of a template's instances in the store: a stored fact on which all processes must agree.

The fact is a separate row, keyed by the template's name. It is created in two steps, of which only the second decides anything:

1. ``register`` inserts it *undecided*. Every process may do so repeatedly: an existing row stays as it is.
2. ``claim`` by name gives it to one process at a time, whose ``Commit`` writes the layout into the row's occurrence, with a time
   that never comes. From then on nobody can claim it, so the first layout that is written stays.

The store accepts the Commit only under the lease of the claim. So whatever is late, duplicated or lost, and whichever process stops:

- a process that dies before its Commit leaves an undecided row, which excludes nobody and is free again when the lease expires;
- a Commit that arrives after another process claimed the row is LOST, and its sender reads the decision instead;
- a call that was applied although it failed does no harm: an undecided row can be registered and claimed again, and a decision
  stays.

A process continues only once it has read or written the fact. If processes with different layouts start at the same time, only those
with one of the layouts continue, and that one is stored.

The fact stays when the last instance is gone. The store can't show whether anybody still relies on it: a running process may be about to
store the next instance where a process with another layout would never look for it. So only an operator changes it, see
:mod:`pyncette.moving`.
"""

import asyncio
import itertools
import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar

from pyncette import partitions
from pyncette.clock import AlignedClock, from_microseconds, to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.store.contract import (
    Claim,
    Commit,
    Key,
    Outcome,
    Registration,
    Release,
    Repository,
    Row,
    Settlement,
    State,
    SupportsPartitions,
    Target,
)
from pyncette.store.paging import pages
from pyncette.tasks import PartitionedTask, Task, Template
from pyncette.waiting import Backoff

__all__ = [
    "NEVER",
    "Layout",
    "agree_on_layouts",
    "forget_layout",
    "overwrite_layout",
    "paused_templates",
    "stored_layout",
    "stored_layouts",
]

logger: logging.Logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: The number of rows requested in one call.
_BULK = 1000
#: How long a process may hold an undecided fact. If it dies, the others wait this long.
_LEASE = timedelta(seconds=1)
#: The first and the longest pause before checking a fact again that another process holds (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.4
#: For how long store errors are retried (seconds).
_PATIENCE = 3.0
_SCHEDULE = "layout"
#: When a fact is due: while undecided, so that it can be claimed, and once decided.
_UNDECIDED = Target(from_microseconds(0), from_microseconds(0))
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a template: the number of partitions over which its instances are spread."""

    #: None for a dynamic task, which has a single partition.
    partition_count: int | None = None

    @classmethod
    def of(cls, template: Template) -> "Layout":
        """The declared layout of ``template``."""
        return cls(template.partition_count if isinstance(template, PartitionedTask) else None)

    def partitions(self, name: str) -> Sequence[str]:
        """The partitions of the template ``name``."""
        if self.partition_count is None:
            return [partitions.dynamic(name)]
        return [partitions.partitioned(index, name) for index in range(self.partition_count)]

    def __str__(self) -> str:
        return "dynamic_task()" if self.partition_count is None else f"partitioned_task(partition_count={self.partition_count})"

    def target(self) -> Target:
        """The times in the row of a fact."""
        return Target(from_microseconds(1 + (self.partition_count or 0)), NEVER)

    @classmethod
    def read(cls, row: Row | None) -> "Layout | None":
        """The layout in the row of a fact; None if it is undecided."""
        if row is None:
            return None
        number = to_microseconds(row.occurrence)
        if row.state is State.UNREADABLE or number < 0:
            raise RepositoryError(
                f"The stored layout of {row.key.name!r} can't be read ({row.error}); "
                f"set it again with: pyncette move APP {shlex.quote(row.key.name)} {shlex.quote(row.key.name)}"
            )
        return cls(number - 1 or None) if number else None


async def agree_on_layouts(repository: Repository, clock: AlignedClock, tasks: Sequence[Task], *, write: bool = True) -> None:
    """Refuse ``tasks`` whose declared layout differs from the stored one, because their rows would never be found.

    Takes one call to the store if nothing is new. The row of a static task says that the task is static.

    :param write: False: only compare, and leave undecided facts undecided.
    :raises ConfigurationError: a task has another layout in the store; the message says what to do.
    """
    templates = [task for task in tasks if isinstance(task, Template)]
    facts = {task.name: Key(partitions.LAYOUTS, task.name) for task in tasks}
    static = {template.name: Key(partitions.STATIC, template.name) for template in templates}
    rows = await _get(repository, [*facts.values(), *static.values()])
    undecided = []
    for task in tasks:
        stored = Layout.read(rows.get(facts[task.name]))
        if stored is not None:
            _compare(task, stored)
        elif isinstance(task, Template):
            if static[task.name] in rows:
                _refuse(task, str(Layout.of(task)), "task()")
            undecided.append(task)
    if undecided:
        await _check_rows(repository, undecided)
        if write:
            await _decide(repository, clock, undecided)


async def stored_layouts(repository: Repository) -> Mapping[str, Layout]:
    """All decided facts, by the name of the template. Unreadable ones are left out."""
    rows = [row async for page in pages(repository, partitions.LAYOUTS) for row in page if row.state is not State.UNREADABLE]
    return {row.key.name: layout for row in rows if (layout := Layout.read(row)) is not None}


async def paused_templates(repository: Repository) -> Mapping[str, Row]:
    """The facts of templates that are paused as a whole, by the name of the template; workers read them before they poll."""
    return {row.key.name: row async for page in pages(repository, partitions.LAYOUTS) for row in page if row.state is State.PAUSED}


async def stored_layout(repository: Repository, name: str) -> Layout | None:
    """The fact of the template ``name``; None if there is none, or if it can't be read."""
    [row] = await repository.get([Key(partitions.LAYOUTS, name)])
    return None if row is None or row.state is State.UNREADABLE else Layout.read(row)


async def overwrite_layout(repository: Repository, now: datetime, name: str, layout: Layout) -> None:
    """Replace the fact of the template ``name`` by ``layout``. For operators, when no process relies on the old one."""
    await repository.register(now, [Registration(Key(partitions.LAYOUTS, name), "{}", _SCHEDULE, layout.target())], force=True)


async def forget_layout(repository: Repository, now: datetime, name: str) -> bool:
    """Remove the fact of the template ``name``, which makes the name free for any task. Returns whether there was one."""
    return (await repository.unregister(now, [Key(partitions.LAYOUTS, name)]))[0]


def _compare(task: Task, stored: Layout) -> None:
    if not isinstance(task, Template):
        _refuse(task, "task()", str(stored))
    elif stored != Layout.of(task):
        _refuse(task, str(Layout.of(task)), str(stored))


def _refuse(task: Task, declared: str, stored: str) -> NoReturn:
    name = shlex.quote(task.name)
    way_out = (
        f"use another name, or stop all processes that declare it that way and remove it: pyncette unschedule APP {name}"
        if "task()" in (declared, stored)
        else f"declare it that way again, or stop all processes that do and run: pyncette move APP {name} {name}"
    )
    raise ConfigurationError(f"Task {task.name!r} is declared as {declared}, but the store has it as {stored}; {way_out}")


async def _decide(repository: Repository, clock: AlignedClock, templates: Sequence[Template]) -> None:
    """Write the layouts of ``templates``, or read those that others wrote; returns when all are decided."""
    pending = {Key(partitions.LAYOUTS, template.name): template for template in sorted(templates, key=lambda each: each.name)}
    began = since = clock.monotonic()
    pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    rows: Mapping[Key, Row] = {}
    while True:
        not_before = _UNDECIDED.execute_after
        if clock.monotonic() - since > _LEASE.total_seconds():
            # The process that claimed it is dead, or has waited longer than its lease. Its clock may be far ahead, so only our own observation counts.
            undecided = [rows[key].ready_at for key in pending if key in rows]  # a decided fact must never become due
            not_before = max(filter(None, undecided), default=not_before)
            since = clock.monotonic()
            logger.warning("Waiting for another process to decide the layout of %s", ", ".join(key.name for key in pending))
        try:
            await _write(repository, clock, pending, [key for key in pending if key not in rows], not_before)
            rows = await _get(repository, pending)
        except TransientRepositoryError as error:
            if clock.monotonic() - began >= _PATIENCE:
                raise
            logger.debug("Deciding layouts failed; retrying: %s", error)
        for key in [key for key in pending if key in rows]:
            stored = Layout.read(rows[key])
            if stored is not None:
                _compare(pending.pop(key), stored)
        if not pending:
            return
        await asyncio.sleep(pauses.next())  # another process is about to decide


async def _write(
    repository: Repository, clock: AlignedClock, pending: dict[Key, Template], missing: Sequence[Key], not_before: datetime
) -> None:
    """Try to write the layouts of ``pending``, and remove the written ones from it."""
    for batch in _batches(Registration(key, "{}", _SCHEDULE, _UNDECIDED) for key in missing):
        await repository.register(clock.now(), batch)
    claims: dict[Key, Claim] = {}
    for keys in _batches(pending):
        names = [key.name for key in keys]
        now = max(clock.now(), not_before)
        result = await repository.claim(now, partitions.LAYOUTS, lease_duration=_LEASE, limit=len(names), names=names)
        claims.update((claim.key, claim) for claim in result.claims)
    # All processes use the same order, and release everything after a fact that another process holds. Otherwise two processes
    # could each decide a part, and both would be refused forever.
    first = dict.fromkeys(itertools.takewhile(claims.__contains__, pending))
    settling: list[Settlement] = [Commit(claims[key], Layout.of(pending[key]).target()) for key in first]
    settling += [Release(claim, _UNDECIDED.execute_after, started=False) for key, claim in claims.items() if key not in first]
    for settlements in _batches(settling):
        outcomes = await repository.settle(clock.now(), settlements)
        for settlement, outcome in zip(settlements, outcomes, strict=True):
            if isinstance(settlement, Commit) and outcome in (Outcome.APPLIED, Outcome.ALREADY):
                del pending[settlement.claim.key]


async def _check_rows(repository: Repository, templates: Sequence[Template]) -> None:
    """Refuse templates without a fact that have instances in partitions outside their layout."""
    if isinstance(repository, SupportsPartitions):
        occupied = await repository.partitions()
    else:
        # where instances would be under the other kind of layout
        others = [
            partitions.dynamic(template.name) if isinstance(template, PartitionedTask) else partitions.partitioned(0, template.name)
            for template in templates
        ]
        occupied = [partition for partition in others if (await repository.list(partition, limit=1)).rows]
    found: dict[str, list[int | None]] = {}
    for owner in filter(None, map(partitions.owner_of, occupied)):
        found.setdefault(owner.name, []).append(owner.number)
    for template in templates:
        indices = found.get(template.name, [])
        last = max((index for index in indices if index is not None), default=-1)
        count = Layout.of(template).partition_count
        if last >= (count or 0):
            _refuse(template, str(Layout.of(template)), f"partitioned_task(partition_count={last + 1}) or with more")
        if count is not None and None in indices:
            _refuse(template, str(Layout.of(template)), str(Layout()))


async def _get(repository: Repository, keys: Iterable[Key]) -> Mapping[Key, Row]:
    rows: dict[Key, Row] = {}
    for batch in _batches(keys):
        rows.update((key, row) for key, row in zip(batch, await repository.get(batch), strict=True) if row is not None)
    return rows


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    pending = iter(list(items))  # which may lose some rows meanwhile
    while batch := list(itertools.islice(pending, _BULK)):
        yield batch
