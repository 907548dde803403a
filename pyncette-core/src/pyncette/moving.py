"""Moving the instances of a template to another template, or to another layout of the same one.

Each row is registered at its destination before it is removed from its source, so it always exists somewhere. Meanwhile it is claimed at
the source, so that nobody runs it there. If it is changed at the source in between, settling the claim fails, and the copy is withdrawn.

An interrupted call leaves rows in both places, or held at the source until the lease expires. Another call completes the move; until
then, an occurrence that becomes due may run in either place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pyncette import partitions
from pyncette.batches import cut
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError
from pyncette.extra import place
from pyncette.layout import NEVER, Layout, agree_on_layouts, forget_layout, overwrite_layout, stored_layout
from pyncette.memo import carried
from pyncette.store.contract import (
    Claim,
    Commit,
    Fail,
    Key,
    Outcome,
    Registration,
    Repository,
    Row,
    State,
    SupportsPartitions,
    SupportsPause,
    Target,
)
from pyncette.tasks import Template

__all__ = ["Moved", "move"]

#: The number of rows moved together.
_BULK = 500
#: How long a row can't run at its source. If the move is interrupted at that moment, the row is late by this and by the next value.
_LEASE = timedelta(seconds=60)
#: Rows claimed together become ready within this time. If the move is interrupted, no row waits longer.
_TOGETHER = timedelta(seconds=60)


@dataclass(slots=True)
class Moved:
    """The outcome of a move, by rows."""

    #: Rows that were moved to where they belong.
    moved: int = 0
    #: Rows that stay because they are running, or somebody else has just changed them. They can be moved later.
    busy: int = 0
    #: Rows that stay because they can't be read.
    unreadable: int = 0
    #: Instances that stay because the destination has one of the same name with another schedule. One of the two must be removed.
    conflicts: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is left behind, and the stored layout is that of the destination."""
        return not (self.busy or self.unreadable or self.conflicts)


async def move(
    repository: Repository,
    clock: AlignedClock,
    source: str,
    destination: Template,
    *,
    progress: Callable[[int], None] = lambda moved: None,
) -> Moved:
    """Move all stored instances of the template ``source`` to ``destination``.

    ``source`` may be the name of ``destination`` itself: then the instances move from the stored layout to the declared one. In that
    case, create the application with ``layouts="ignore"``; otherwise it would be refused.

    An instance keeps its name, arguments, schedule and occurrence, and stays paused or failed. Its attempts start from zero, and
    receivers of fencing tokens may see a smaller one. Running instances stay behind, and so do instances for which the destination has
    one of the same name with another schedule. If nothing stays behind, the stored layout is updated, and a ``source`` of another name
    is forgotten.

    You can repeat the call, even after an interruption, and must repeat it if the result is not ``complete``. Stop all processes that use
    the template as it was: what they schedule meanwhile may be left behind.

    :param progress: called repeatedly with the number of rows moved so far.
    :raises ConfigurationError: nothing is stored for ``source``, or ``destination`` itself is stored under another layout.
    """
    same = source == destination.name
    if not same:
        await agree_on_layouts(repository, clock, [destination])
    among, fact = await _partitions(repository, source)
    if same:
        among = list(dict.fromkeys([*among, *destination.all_partitions()]))
    elif fact is None and not among:
        raise ConfigurationError(f"The store has no instances of a template {source!r}; nothing was changed")
    total = 0
    while True:
        result = await _sweep(repository, clock, among, destination, total, progress)
        total += result.moved
        if not result.moved:
            break
    if result.complete:
        if same:
            await overwrite_layout(repository, clock.now(), source, Layout.of(destination))
        else:
            await forget_layout(repository, clock.now(), source)
        # rows that were stored last, before the layout refused them
        result = await _sweep(repository, clock, among, destination, total, progress)
        total += result.moved
    result.moved = total
    return result


async def _partitions(repository: Repository, name: str) -> tuple[Sequence[str], Layout | None]:
    layout = await stored_layout(repository, name)
    if not isinstance(repository, SupportsPartitions):
        return ([] if layout is None else layout.partitions(name)), layout
    owned = [(owner, partition) for partition in await repository.partitions() if (owner := partitions.owner_of(partition))]
    return [partition for owner, partition in owned if owner.name == name], layout


async def _sweep(
    repository: Repository,
    clock: AlignedClock,
    among: Sequence[str],
    destination: Template,
    before: int,
    progress: Callable[[int], None],
) -> Moved:
    result = Moved()
    for partition in among:
        token = None
        while True:
            page = await repository.list(partition, limit=_BULK, token=token)
            away = []
            for row in page.rows:
                place = _place(row, destination)
                if place is None:
                    result.unreadable += 1
                elif place != row.key:
                    away.append(row)
            for start in range(0, len(away), _BULK):  # a store may return more than the limit
                await _move(repository, clock, away[start : start + _BULK], destination, result)
                progress(before + result.moved)
            token = page.token
            if token is None:
                break
    return result


def _place(row: Row, destination: Template) -> Key | None:
    """The key that ``row`` gets; None if it can't be read, or no instance can have its name."""
    if row.state is State.UNREADABLE:
        return None
    try:
        return place(destination, row)
    except ConfigurationError:
        return None


async def _move(repository: Repository, clock: AlignedClock, rows: Sequence[Row], destination: Template, result: Moved) -> None:
    """Move rows of one partition."""
    now = clock.now()
    found = await repository.get([place(destination, row) for row in rows])
    at_rest: list[Row] = []
    waiting: list[Row] = []
    #: Names that already exist at the destination from an interrupted call.
    there: set[str] = set()
    for row, other in zip(rows, found, strict=True):
        if row.locked_until is not None and row.locked_until > now and row.execute_after <= now:
            # Held before it is due: an interrupted call was about to move it.
            result.busy += 1
            continue
        if other is not None and (other.schedule != row.schedule or other.state is State.UNREADABLE):
            result.conflicts.append(row.key.name)
            continue
        if other is not None and not _half_done(row, other):
            there.add(row.key.name)
        (waiting if row.state is State.SCHEDULED else at_rest).append(row)
    for batch in _ready_together(waiting, now):
        await _move_waiting(repository, clock, batch, there, destination, result)
    if at_rest:
        await _copy_paused(repository, clock, [row for row in at_rest if row.key.name not in there], destination)
        held = await _copy_failed(repository, clock, [row for row in at_rest if row.key.name not in there], destination)
        result.busy += len(held)
        result.moved += sum(await repository.unregister(clock.now(), [row.key for row in at_rest if row not in held]))


def _half_done(row: Row, copy: Row) -> bool:
    """Whether ``copy`` is the copy of a paused or failed row, left by a call that was interrupted before it paused or failed the copy."""
    if row.state is State.PAUSED:
        return copy.execute_after == NEVER
    return row.state is State.FAILED and copy.state is State.SCHEDULED


def _ready_together(rows: Sequence[Row], now: datetime) -> Iterator[Sequence[Row]]:
    def ready_at(row: Row) -> datetime:
        return row.execute_after if row.ready_at is None else max(row.ready_at, now)

    batch: list[Row] = []
    for row in sorted(rows, key=ready_at):
        if batch and ready_at(row) - ready_at(batch[0]) > _TOGETHER:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


async def _move_waiting(
    repository: Repository, clock: AlignedClock, rows: Sequence[Row], there: set[str], destination: Template, result: Moved
) -> None:
    # Claim a row that is not due as of its own time, so that it is not ready too early if the lease expires.
    now = max([clock.now(), *(row.ready_at for row in rows if row.ready_at is not None)])
    names = [row.key.name for row in rows]
    claimed = await repository.claim(now, rows[0].key.partition, lease_duration=_LEASE, limit=len(names), names=names)
    claims: Sequence[Claim] = claimed.claims
    copies = {claim.key: _copy(claim, destination) for claim in claims if claim.key.name not in there}
    for batch in cut(copies.values()):
        await repository.register(clock.now(), batch)
    memos = {copies[claim.key].key: carried(claim.memo) for claim in claims if claim.memo and claim.key in copies}
    if memos and isinstance(repository, SupportsPause):
        await repository.resume(clock.now(), list(memos), memos)
    outcomes = await repository.settle(clock.now(), [Commit(claim, None) for claim in claims]) if claims else []
    done = [outcome in (Outcome.APPLIED, Outcome.ALREADY) for outcome in outcomes]
    withdrawn = [copies[claim.key].key for claim, well in zip(claims, done, strict=True) if not well and claim.key in copies]
    if withdrawn:
        await repository.unregister(clock.now(), withdrawn)
    result.moved += sum(done)
    result.busy += len(rows) - sum(done)


async def _copy_paused(repository: Repository, clock: AlignedClock, rows: Sequence[Row], destination: Template) -> None:
    paused = [row for row in rows if row.state is State.PAUSED]
    copies = [_copy(row, destination) for row in paused]
    if not copies:
        return
    assert isinstance(repository, SupportsPause)
    # not due before it is paused, and then moved to its right time
    far = [Registration(copy.key, copy.spec, copy.schedule, Target(NEVER, NEVER)) for copy in copies]
    for batch in cut(far):
        await repository.register(clock.now(), batch)
    memos = {copy.key: carried(row.memo) for copy, row in zip(copies, paused, strict=True)}
    await repository.pause(clock.now(), list(memos), memos)
    for batch in cut(copies):
        await repository.register(clock.now(), batch, force=True)


async def _copy_failed(repository: Repository, clock: AlignedClock, rows: Sequence[Row], destination: Template) -> Sequence[Row]:
    """The rows whose copy could not be marked as failed, because it is held."""
    held = []
    for row in rows:
        if row.state is not State.FAILED:
            continue
        copy = _copy(row, destination)
        await repository.register(clock.now(), [copy])
        # Only a claimed row can be marked as failed. If a worker claims it first, it gets the attempt that `resume` would give it.
        now = max(clock.now(), copy.target.execute_after)
        claimed = await repository.claim(now, copy.key.partition, lease_duration=_LEASE, limit=1, names=[copy.key.name])
        for claim in claimed.claims:
            await repository.settle(clock.now(), [Fail(claim, row.error or "", carried(row.memo))])
        if not claimed.claims:
            held.append(row)
    return held


def _copy(row: Row | Claim, destination: Template) -> Registration:
    return Registration(place(destination, row), row.spec, row.schedule, Target(row.occurrence, row.execute_after))
