"""How the instances of a template are laid out in the store: one stored fact for each, which all processes have to agree on.

The fact is a separate row, keyed by the template's name. It is made in two steps, of which only the second says anything:

1. ``register`` inserts it *undecided*. Every process may do so, and repeat it: a row that is there stays as it is.
2. ``claim`` by name gives it to one process at a time, whose ``Commit`` writes the layout into the row's occurrence and puts the
   row off forever. From then on nobody can claim it, so the first layout that is written stays.

The store fences the Commit by the lease of the claim. So whatever is late, doubled or lost, and whichever process stops in between:

- a process that dies before its Commit leaves an undecided row, which refuses nobody; it is free again when the lease expires;
- a Commit that comes after another process claimed the row is LOST, and its sender reads what was decided instead;
- a call that was applied although it failed has done no more than that: what is undecided can be registered and claimed
  again, and what is decided is decided.

A process continues only once it has read the fact, or written it itself. Of processes that start at once with different layouts,
those of one layout continue, and that one is stored.

The fact stays when the last instance is gone. Whether nobody relies on it any more can't be told from the store: a process that
runs with it may be about to store the next instance, where a process with another layout would never look for it. So it is an
operator who changes it, see :mod:`pyncette.moving`.
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

#: Rows that are asked for in one call.
_BULK = 1000
#: For how long a process has an undecided fact to itself. One that dies with it costs the others this long.
_LEASE = timedelta(seconds=1)
#: The first and the longest pause before another look at what another process has to itself (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.4
#: For how long errors of the store are caught up on by trying again (seconds).
_PATIENCE = 3.0
_SCHEDULE = "layout"
#: When a fact is due: undecided, so that it can be claimed, and decided.
_UNDECIDED = Target(from_microseconds(0), from_microseconds(0))
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Layout:
    """Over which partitions the instances of a template are spread."""

    #: None for a dynamic task, which has one partition.
    partition_count: int | None = None

    @classmethod
    def of(cls, template: Template) -> "Layout":
        """The layout that ``template`` is declared with."""
        return cls(template.partition_count if isinstance(template, PartitionedTask) else None)

    def partitions(self, name: str) -> Sequence[str]:
        """The partitions of the template ``name``."""
        if self.partition_count is None:
            return [partitions.dynamic(name)]
        return [partitions.partitioned(index, name) for index in range(self.partition_count)]

    def __str__(self) -> str:
        return "dynamic_task()" if self.partition_count is None else f"partitioned_task(partition_count={self.partition_count})"

    def target(self) -> Target:
        """What a fact's row has for its times."""
        return Target(from_microseconds(1 + (self.partition_count or 0)), NEVER)

    @classmethod
    def read(cls, row: Row | None) -> "Layout | None":
        """What a fact's row says; None if nothing is decided."""
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
    """Refuse ``tasks`` that are declared with another layout than their rows are stored with: these would never be found.

    Costs one call to the store, as long as nothing is new. A static task's own row says that it is static.

    :param write: False: only compare, and leave undecided what nobody has decided yet.
    :raises ConfigurationError: a task has another layout in the store; it says what to do.
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
    """All facts that are decided, by the name of the template. Those that can't be read are left out."""
    rows = [row async for page in pages(repository, partitions.LAYOUTS) for row in page if row.state is not State.UNREADABLE]
    return {row.key.name: layout for row in rows if (layout := Layout.read(row)) is not None}


async def paused_templates(repository: Repository) -> Mapping[str, Row]:
    """The facts of templates that are paused as a whole, by the name of the template; workers read them before they poll."""
    return {row.key.name: row async for page in pages(repository, partitions.LAYOUTS) for row in page if row.state is State.PAUSED}


async def stored_layout(repository: Repository, name: str) -> Layout | None:
    """The fact of the template ``name``; None if there is none that can be read."""
    [row] = await repository.get([Key(partitions.LAYOUTS, name)])
    return None if row is None or row.state is State.UNREADABLE else Layout.read(row)


async def overwrite_layout(repository: Repository, now: datetime, name: str, layout: Layout) -> None:
    """Make ``layout`` the fact of the template ``name``, whatever it was. For operators, when no process relies on the old one."""
    await repository.register(now, [Registration(Key(partitions.LAYOUTS, name), "{}", _SCHEDULE, layout.target())], force=True)


async def forget_layout(repository: Repository, now: datetime, name: str) -> bool:
    """Remove the fact of the template ``name``, so that the name is free for any task; whether there was one."""
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
    """Write the layouts of ``templates``, or find that others did; returns when each is decided."""
    pending = {Key(partitions.LAYOUTS, template.name): template for template in sorted(templates, key=lambda each: each.name)}
    began = since = clock.monotonic()
    pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    rows: Mapping[Key, Row] = {}
    while True:
        not_before = _UNDECIDED.execute_after
        if clock.monotonic() - since > _LEASE.total_seconds():
            # The process that claimed it is dead, or waits for longer than its lease. Its clock may be far ahead: what was seen here counts.
            undecided = [rows[key].ready_at for key in pending if key in rows]  # what is decided must stay out of reach
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
        await asyncio.sleep(pauses.next())  # another process is just about to decide


async def _write(
    repository: Repository, clock: AlignedClock, pending: dict[Key, Template], missing: Sequence[Key], not_before: datetime
) -> None:
    """Try to write the layouts of ``pending``; those that were written are taken out of it."""
    for batch in _batches(Registration(key, "{}", _SCHEDULE, _UNDECIDED) for key in missing):
        await repository.register(clock.now(), batch)
    claims: dict[Key, Claim] = {}
    for keys in _batches(pending):
        names = [key.name for key in keys]
        now = max(clock.now(), not_before)
        result = await repository.claim(now, partitions.LAYOUTS, lease_duration=_LEASE, limit=len(names), names=names)
        claims.update((claim.key, claim) for claim in result.claims)
    # All processes go by one order, and release what comes after a fact that another one holds. Otherwise each of two could
    # decide a part, and both be refused forever.
    first = dict.fromkeys(itertools.takewhile(claims.__contains__, pending))
    settling: list[Settlement] = [Commit(claims[key], Layout.of(pending[key]).target()) for key in first]
    settling += [Release(claim, _UNDECIDED.execute_after, started=False) for key, claim in claims.items() if key not in first]
    for settlements in _batches(settling):
        outcomes = await repository.settle(clock.now(), settlements)
        for settlement, outcome in zip(settlements, outcomes, strict=True):
            if isinstance(settlement, Commit) and outcome in (Outcome.APPLIED, Outcome.ALREADY):
                del pending[settlement.claim.key]


async def _check_rows(repository: Repository, templates: Sequence[Template]) -> None:
    """Refuse templates that have instances where their layout has no place, and no fact that says why."""
    if isinstance(repository, SupportsPartitions):
        occupied = await repository.partitions()
    else:
        # Where some would be if the template had the other kind of layout.
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
    pending = iter(list(items))  # which may lose some in between
    while batch := list(itertools.islice(pending, _BULK)):
        yield batch
