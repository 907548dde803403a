"""Stores that take a batch for something else than its elements, each by itself and in its place; and calls that overwrite others'."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from broken_stores import caught_by
from pyncette.repository import (
    ClaimResult,
    Commit,
    Extend,
    Fail,
    Key,
    Outcome,
    Page,
    Registration,
    Release,
    Row,
    Settlement,
    Stats,
)
from tiny_store import TinyStore

T = TypeVar("T")
A = TypeVar("A")

OUTCOMES = "TestSettle::test_each_outcome_is_in_the_place_of_its_settlement"
REMOVALS = "TestUnregister::test_each_answer_is_in_the_place_of_its_key"
ROWS = "TestGet::test_each_row_is_in_the_place_of_its_key"
PAUSES = "TestPause::test_each_answer_is_in_the_place_of_its_key"
REGISTRATIONS = "TestRegister::test_each_registration_of_a_batch_has_values_of_its_own"
SETTLEMENTS = "TestSettle::test_each_settlement_of_a_batch_has_values_of_its_own"
RACES = "TestRaces::test_either_of_two_calls_is_first"


# -- answers in another order than asked --


def by_partition(keys: Iterable[Key]) -> list[Key]:
    """The partitions in the order in which they come, and within each its keys."""
    partitions: dict[str, list[Key]] = {}
    for key in keys:
        partitions.setdefault(key.partition, []).append(key)
    return list(itertools.chain.from_iterable(partitions.values()))


@caught_by(OUTCOMES)
class SettlesByPartition(TinyStore):
    order_of: Callable[[Iterable[Key]], list[Key]] = staticmethod(by_partition)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        of = {each.claim.key: each for each in settlements}
        return await super().settle(now, [of[key] for key in self.order_of(of)])


@caught_by(OUTCOMES)
class SettlesInOrderOfKeys(SettlesByPartition):
    order_of = staticmethod(sorted)


@caught_by(OUTCOMES)
class SettlesByKind(TinyStore):
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        return await super().settle(now, sorted(settlements, key=lambda each: type(each).__name__))


@caught_by(OUTCOMES)
class TellsOneOutcomeForAPartition(TinyStore):
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        outcomes = await super().settle(now, settlements)
        of = {each.claim.key.partition: outcome for each, outcome in zip(settlements, outcomes, strict=True)}
        return [of[each.claim.key.partition] for each in settlements]


@caught_by(REMOVALS)
class UnregistersByPartition(TinyStore):
    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await super().unregister(now, by_partition(keys))


@caught_by(REMOVALS)
class UnregistersInOrderOfKeys(TinyStore):
    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await super().unregister(now, sorted(keys))


@caught_by(REMOVALS)
class TellsTheFirstRemovals(TinyStore):
    """As many as a server says that it has removed, but not which."""

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return sorted(await super().unregister(now, keys), reverse=True)


@caught_by(REMOVALS)
class RemovesByNameAlone(TinyStore):
    """`DELETE WHERE partition IN (...) AND name IN (...)`."""

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        partitions, names = {key.partition for key in keys}, {key.name for key in keys}
        found = {key for key in self.rows if key.partition in partitions and key.name in names}
        await super().unregister(now, sorted(found))
        return [key in found for key in keys][::-1]


@caught_by(ROWS)
class GetsByPartition(TinyStore):
    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await super().get(by_partition(keys))


@caught_by(ROWS)
class GetsInOrderOfKeys(TinyStore):
    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await super().get(sorted(keys))


@caught_by("TestGet::test_rows_come_in_the_order_of_the_keys")
class GetsWhatIsThere(TinyStore):
    """The absent at the end."""

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return sorted(await super().get(keys), key=lambda row: row is None)


@caught_by(PAUSES)
class PausesByPartition(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await super().pause(now, by_partition(keys), memos)


@caught_by(PAUSES)
class ResumesInOrderOfKeys(TinyStore):
    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await super().resume(now, sorted(keys), memos)


# -- one value for all --


def of_all(take: Callable[[Sequence[Registration]], dict[str, Any]]) -> type[TinyStore]:
    class Store(TinyStore):
        async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
            await super().register(now, [replace(each, **take(registrations)) for each in registrations], force=force)

    return Store


@caught_by(REGISTRATIONS)
class KeepsOverdueAsTheFirst(of_all(lambda batch: {"keep_overdue": batch[0].keep_overdue} if batch else {})):  # type: ignore[misc]
    pass


@caught_by(REGISTRATIONS)
class KeepsOverdueIfAny(of_all(lambda batch: {"keep_overdue": any(each.keep_overdue for each in batch)})):  # type: ignore[misc]
    pass


@caught_by(REGISTRATIONS)
class KeepsOverdueIfAll(of_all(lambda batch: {"keep_overdue": all(each.keep_overdue for each in batch)})):  # type: ignore[misc]
    pass


@caught_by(REGISTRATIONS)
class TargetsAsTheLast(of_all(lambda batch: {"target": batch[-1].target} if batch else {})):  # type: ignore[misc]
    pass


@caught_by(REGISTRATIONS)
class RegistersByPartition(TinyStore):
    """The keys are sorted, and what belongs to them is not."""

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        keys = by_partition(each.key for each in registrations)
        await super().register(now, [replace(each, key=key) for key, each in zip(keys, registrations, strict=True)], force=force)


@caught_by(REGISTRATIONS)
class RegistersTheLastOfAPartition(TinyStore):
    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        last = {(each.key.partition, each.key.name[:6]): each for each in registrations}
        await super().register(now, list(last.values()), force=force)


def same_in_all(kind: type[Settlement], field: str) -> type[TinyStore]:
    class Store(TinyStore):
        async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
            values = [getattr(each, field) for each in settlements if isinstance(each, kind)]
            changed = [replace(each, **{field: values[0]}) if isinstance(each, kind) else each for each in settlements]
            return await super().settle(now, changed)

    return Store


@caught_by(SETTLEMENTS)
class CommitsToTheSameNext(same_in_all(Commit, "next")):  # type: ignore[misc]
    pass


@caught_by(SETTLEMENTS)
class ReleasesToTheSameTime(same_in_all(Release, "retry_at")):  # type: ignore[misc]
    pass


@caught_by(SETTLEMENTS)
class ReleasesAllAsStarted(same_in_all(Release, "started")):  # type: ignore[misc]
    pass


@caught_by(SETTLEMENTS)
class FailsWithTheSameError(same_in_all(Fail, "error")):  # type: ignore[misc]
    pass


@caught_by(SETTLEMENTS)
class ExtendsToTheSameEnd(same_in_all(Extend, "until")):  # type: ignore[misc]
    pass


# -- large batches --

CUT = 1000


@caught_by("TestClaim::test_a_batch_may_be_large")
class ClaimsAThousandNames(TinyStore):
    async def claim(self, now: datetime, partition: str, *, names: Sequence[str] | None = None, **options: Any) -> ClaimResult:
        return await super().claim(now, partition, names=names and names[:CUT], **options)


@caught_by("TestClaim::test_a_batch_may_be_large")
class ClaimsAThousandRows(TinyStore):
    async def claim(self, now: datetime, partition: str, *, limit: int, **options: Any) -> ClaimResult:
        return await super().claim(now, partition, limit=min(limit, CUT), **options)


@caught_by("TestRegister::test_a_batch_may_be_large_or_empty")
class RegistersAThousand(TinyStore):
    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        await super().register(now, registrations[:CUT], force=force)


@caught_by("TestUnregister::test_a_batch_may_be_large_or_empty")
class UnregistersAThousand(TinyStore):
    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return [*await super().unregister(now, keys[:CUT]), *[key in self.rows for key in keys[CUT:]]]


@caught_by("TestSettle::test_a_batch_may_be_large")
class SettlesAThousand(TinyStore):
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        return await super().settle(now, settlements[:CUT])


@caught_by("TestGet::test_a_batch_may_be_large_or_empty")
class GetsAThousand(TinyStore):
    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [*await super().get(keys[:CUT]), *[None] * len(keys[CUT:])]


@caught_by("TestPause::test_a_batch_may_be_large")
class PausesAThousand(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return [*await super().pause(now, keys[:CUT], memos), *[True] * len(keys[CUT:])]


@caught_by("TestList::test_a_large_partition_is_listed_whole")
class ListsAThousand(TinyStore):
    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        page = await super().list(partition, limit=limit, token=token)
        first = self.of(partition)[:CUT]
        return Page([row for row in page.rows if row in first], page.token)


@caught_by("TestStats::test_many_rows_are_counted")
class CountsAThousand(TinyStore):
    async def stats(self, now: datetime, partition: str) -> Stats:
        counted = await super().stats(now, partition)
        return replace(counted, rows=min(counted.rows, CUT))


@caught_by("TestPartitions::test_many_partitions_are_told")
class TellsAHundredPartitions(TinyStore):
    async def partitions(self) -> Sequence[str]:
        return (await super().partitions())[:100]


# -- what is asked for, and how many --


@caught_by("TestClaim::test_the_limit_is_one_of_named_rows")
class LimitsBeforeItLooksAtNames(TinyStore):
    async def claim(
        self, now: datetime, partition: str, *, limit: int, names: Sequence[str] | None = None, **options: Any
    ) -> ClaimResult:
        first = sorted((row for row in self.of(partition) if row.ready_at is not None), key=self.order)[:limit]
        asked = None if names is None else [row.key.name for row in first if row.key.name in names]
        result = await super().claim(now, partition, limit=limit, names=asked, **options)
        return replace(result, missing=[name for name in names or () if self.read(Key(partition, name)) is None])


@caught_by("TestClaim::test_the_limit_is_one_of_named_rows")
class CountsTheMissing(TinyStore):
    """Looks at no more names than the limit."""

    async def claim(
        self, now: datetime, partition: str, *, limit: int, names: Sequence[str] | None = None, **options: Any
    ) -> ClaimResult:
        return await super().claim(now, partition, limit=limit, names=names and names[:limit], **options)


@caught_by("TestClaim::test_named_rows_come_in_the_same_order")
class ClaimsInTheOrderOfNames(TinyStore):
    async def claim(self, now: datetime, partition: str, *, names: Sequence[str] | None = None, **options: Any) -> ClaimResult:
        result = await super().claim(now, partition, names=names, **options)
        return replace(result, claims=sorted(result.claims, key=lambda claim: (names or ()).index(claim.key.name) if names else 0))


@caught_by("TestUnregister::test_rows_are_removed_in_whatever_state")
class SparesTheHeld(TinyStore):
    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        held = {key for key in keys if (row := self.read(key)) is not None and row.locked_until is not None}
        await super().unregister(now, [key for key in keys if key not in held])
        return [True] * len(keys)


@caught_by("TestPause::test_a_held_row_stays_held")
class PauseSparesTheHeld(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        free = [key for key in keys if (row := self.read(key)) is None or row.locked_until is None]
        await super().pause(now, free, memos)
        return [self.read(key) is not None for key in keys]


@caught_by("TestSettle::test_an_extension_never_shortens_the_lease_of_a_rescheduled_row")
class ShortensAfterAReschedule(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        after, outcome = super().settled(row, now, settlement)
        if after is not None and isinstance(settlement, Extend) and after.revision != settlement.claim.revision:
            after = after._replace(locked_until=settlement.until, ready_at=max(after.execute_after, settlement.until))
        return after, outcome


@caught_by("TestSettle::test_an_extension_of_a_paused_row_only_lengthens_its_lease")
class ShortensInAPause(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        after, outcome = super().settled(row, now, settlement)
        if after is not None and after.ready_at is None and isinstance(settlement, Extend) and outcome is Outcome.APPLIED:
            after = after._replace(locked_until=settlement.until)
        return after, outcome


# -- read, waited, written back --


def overwriting(*calls: str) -> type[TinyStore]:
    """A store in which ``calls`` read all rows, and write back those that they change without looking at them again."""

    class Store(TinyStore):
        async def apart(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
            before = dict(self.rows)
            await asyncio.sleep(0)
            meanwhile, self.rows = self.rows, dict(before)
            answer = await call(*args, **options)
            after, self.rows = self.rows, meanwhile
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key):
                    self.write(key, after.get(key))
            return answer

    def apart(name: str) -> Any:
        async def call(self: Any, *args: Any, **options: Any) -> Any:
            return await self.apart(getattr(TinyStore, name).__get__(self), *args, **options)

        return call

    for name in calls:
        setattr(Store, name, apart(name))
    return Store


for _call in ("register", "unregister", "claim", "settle", "pause", "resume"):
    _store = overwriting(_call)
    _store.__name__ = f"OverwritesIn{_call.title()}"
    caught_by(RACES)(_store)


@caught_by(RACES)
class ClaimPutsBackWhatWasRemoved(TinyStore):
    """It takes care of rows that were changed meanwhile, but not of those that are gone."""

    async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
        before = {row.key: row for row in self.of(partition)}
        await asyncio.sleep(0)
        removed = {key: row for key, row in before.items() if key not in self.rows}
        self.rows |= removed
        return await super().claim(now, partition, **options)


@caught_by(RACES)
class ExtendPutsBackWhatWasRemoved(TinyStore):
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        before = {each.claim.key: self.read(each.claim.key) for each in settlements if isinstance(each, Extend)}
        await asyncio.sleep(0)
        for key, row in before.items():
            if key not in self.rows:
                self.write(key, row)
        return await super().settle(now, settlements)


@caught_by(RACES)
class TellsWhatItReadBefore(TinyStore):
    """Two that remove a row at once are both told that they did."""

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        found = [key in self.rows for key in keys]
        await asyncio.sleep(0)
        await super().unregister(now, keys)
        return found
