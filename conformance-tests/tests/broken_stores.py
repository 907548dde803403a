"""Stores with one mistake each, every one of which somebody has made, and the tests that have to find it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pyncette.repository import (
    Claim,
    ClaimResult,
    Commit,
    Extend,
    Key,
    Outcome,
    Page,
    Registration,
    Row,
    Settlement,
    State,
    Stats,
)
from tiny_store import ArrivesLate, TinyStore

MODEL = "TestModel::test_any_history_agrees_with_the_reference"
#: By name of the store: what has to fail.
CAUGHT_BY: dict[str, tuple[str, ...]] = {}
STORES: dict[str, type[TinyStore]] = {"TinyStore": TinyStore, "ArrivesLate": ArrivesLate}


def caught_by(*tests: str) -> Callable[[type[TinyStore]], type[TinyStore]]:
    def remember(store: type[TinyStore]) -> type[TinyStore]:
        STORES[store.__name__] = store
        CAUGHT_BY[store.__name__] = tests
        return store

    return remember


@caught_by("TestClaimInParallel::test_no_row_is_claimed_twice_and_none_is_forgotten")
class ClaimsTwice(TinyStore):
    """Reads what is due, then writes it, and lets others in between."""

    async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
        before = dict(self.rows)
        await asyncio.sleep(0)
        meanwhile, self.rows = self.rows, before
        result = await super().claim(now, partition, **options)
        self.rows = {**meanwhile, **{claim.key: self.rows[claim.key] for claim in result.claims}}
        return result


@caught_by("TestSettle::test_the_outcome_tells_what_happened_since_the_claim")
class IgnoresTheLease(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if row is not None and row.lease is not None:
            settlement = replace(settlement, claim=settlement.claim._replace(lease=row.lease))
        return super().settled(row, now, settlement)


@caught_by("TestSettle::test_an_extension_never_shortens_a_lease")
class ExtendsByAsMuch(TinyStore):
    """Not idempotent: a resend extends again."""

    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if isinstance(settlement, Extend) and row is not None and row.locked_until is not None:
            settlement = Extend(settlement.claim, row.locked_until + (settlement.until - now))
        return super().settled(row, now, settlement)


@caught_by("TestRegister::test_a_schedule_that_was_changed_and_changed_back_is_another")
class LosesTheRevision(TinyStore):
    def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
        return super().registered(row, now, registration, force)._replace(revision=0)


@caught_by("TestNames::test_names_are_told_apart_byte_by_byte")
class IgnoresCase(TinyStore):
    def read(self, key: Key) -> Row | None:
        return next((row for other, row in self.rows.items() if _folded(other) == _folded(key)), None)

    def write(self, key: Key, row: Row | None) -> None:
        for other in [other for other in self.rows if _folded(other) == _folded(key)]:
            del self.rows[other]
        super().write(key, row)


@caught_by("TestNames::test_names_come_back_as_they_were_given")
class StripsBlanks(TinyStore):
    def read(self, key: Key) -> Row | None:
        return super().read(Key(key.partition, key.name.rstrip()))

    def write(self, key: Key, row: Row | None) -> None:
        stripped = Key(key.partition, key.name.rstrip())
        super().write(stripped, row and row._replace(key=stripped))


@caught_by("TestNames::test_a_key_is_its_parts_and_not_their_concatenation")
class JoinsPartitionAndName(TinyStore):
    def read(self, key: Key) -> Row | None:
        return next((row for other, row in self.rows.items() if ":".join(other) == ":".join(key)), None)

    def write(self, key: Key, row: Row | None) -> None:
        for other in [other for other in self.rows if ":".join(other) == ":".join(key)]:
            del self.rows[other]
        super().write(key, row)


@caught_by("TestNames::test_a_key_is_its_parts_and_not_their_concatenation")
class ListsByPrefix(TinyStore):
    def of(self, partition: str) -> list[Row]:
        return sorted(row for key, row in self.rows.items() if key.partition.startswith(partition))


@caught_by("TestValues::test_instants_are_exact_to_the_microsecond")
class KeepsMilliseconds(TinyStore):
    def write(self, key: Key, row: Row | None) -> None:
        for field in ("occurrence", "execute_after", "ready_at", "locked_until"):
            value = row and getattr(row, field)
            if row is not None and value is not None:
                row = row._replace(**{field: value.replace(microsecond=value.microsecond // 1000 * 1000)})
        super().write(key, row)


@caught_by("TestValues::test_epochs_are_exact_beyond_53_bits")
class KeepsNumbersAsDoubles(TinyStore):
    def write(self, key: Key, row: Row | None) -> None:
        super().write(key, row and row._replace(epoch=int(float(row.epoch))))


@caught_by("TestClaim::test_what_is_ready_next_was_not_claimed_now")
class DoesNotTellWhatIsNext(TinyStore):
    async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
        return replace(await super().claim(now, partition, **options), next_ready_at=None)


@caught_by("TestClaim::test_nothing_is_next_once_all_is_claimed")
class CountsItsOwnClaimsAsNext(TinyStore):
    async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
        result = await super().claim(now, partition, **options)
        ready = [row.ready_at for row in self.of(partition) if row.ready_at is not None]
        return replace(result, next_ready_at=min(ready, default=None))


@caught_by("TestRegister::test_force_takes_the_lease_away")
class ForceKeepsTheLease(TinyStore):
    def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
        after = super().registered(row, now, registration, force)
        return after if row is None else after._replace(lease=row.lease, locked_until=row.locked_until)


@caught_by("TestSettle::test_the_outcome_tells_what_happened_since_the_claim")
class AnswersAlreadyForSuperseded(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        after, outcome = super().settled(row, now, settlement)
        return after, Outcome.ALREADY if after == row and outcome is Outcome.SUPERSEDED else outcome


@caught_by("TestSettle::test_the_outcome_tells_what_happened_since_the_claim")
class ExtendsWhatIsOver(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if isinstance(settlement, Extend) and row is not None and row.locked_until is None:
            row = row._replace(locked_until=now)
        return super().settled(row, now, settlement)


@caught_by("TestClaim::test_attempts_count_the_claims_of_an_occurrence")
class KeepsAttempts(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        after, outcome = super().settled(row, now, settlement)
        if after is not None and row is not None and isinstance(settlement, Commit):
            after = after._replace(attempt=row.attempt)
        return after, outcome


@caught_by("TestList::test_no_row_is_skipped_while_rows_move")
class ListsByOffset(TinyStore):
    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        rows = sorted(self.of(partition), key=lambda row: (row.ready_at is None, row.ready_at))
        begin = int(token or 0)
        return Page(rows[begin : begin + limit], str(begin + limit) if len(rows) > begin + limit else None)


@caught_by("TestRegister::test_the_same_schedule_replaces_the_spec_and_nothing_else")
class KeepsOldArguments(TinyStore):
    def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
        after = super().registered(row, now, registration, force)
        return row if row is not None and row.revision == after.revision else after


@caught_by("TestUnregister::test_the_holder_of_a_removed_row_finds_it_gone")
class CommitResurrects(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        claim = settlement.claim
        if row is not None or not isinstance(settlement, Commit) or settlement.next is None:
            return super().settled(row, now, settlement)
        values = claim.key, claim.spec, claim.schedule, *settlement.next, settlement.next.execute_after, claim.lease
        return Row(*values, None, claim.epoch, claim.revision, 0, State.SCHEDULED), Outcome.APPLIED


@caught_by("TestUnregister::test_a_removed_row_leaves_nothing_behind")
class RemembersRemovedRows(TinyStore):
    def __init__(self) -> None:
        super().__init__()
        self.removed: dict[Key, Row] = {}

    def write(self, key: Key, row: Row | None) -> None:
        if row is None and key in self.rows:
            self.removed[key] = self.rows[key]
        super().write(key, row)

    def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
        after = super().registered(row, now, registration, force)
        old = self.removed.get(registration.key)
        return after._replace(lease=old.lease) if row is None and old is not None else after


@caught_by("TestClaim::test_the_longest_ready_come_first")
class ClaimsByName(TinyStore):
    def order(self, row: Row) -> object:
        return row.key.name


@caught_by("TestClaim::test_no_names_are_not_all_names")
class TakesNoNamesForAll(TinyStore):
    async def claim(self, now: datetime, partition: str, *, names: Sequence[str] | None = None, **options: Any) -> ClaimResult:
        return await super().claim(now, partition, names=names or None, **options)


@caught_by("TestClaim::test_names_without_a_row_are_missing")
class MissesWhatIsNotDue(TinyStore):
    async def claim(self, now: datetime, partition: str, *, names: Sequence[str] | None = None, **options: Any) -> ClaimResult:
        result = await super().claim(now, partition, names=names, **options)
        claimed = {claim.key.name for claim in result.claims}
        return replace(result, missing=[name for name in names or () if name not in claimed])


@caught_by("TestClaim::test_an_expired_lease_is_taken_over_with_a_greater_token")
class DoesNotRaiseTheEpoch(TinyStore):
    def claimed(self, row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
        taken = super().claimed(row, now, lease_duration, lease)
        return taken and (taken[0]._replace(epoch=row.epoch), taken[1]._replace(epoch=row.epoch))


@caught_by("TestSettle::test_a_commit_makes_the_row_ready_no_sooner_than_now")
class JumpsTheQueue(TinyStore):
    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        after, outcome = super().settled(row, now, settlement)
        if after is not None and after.ready_at is not None and isinstance(settlement, Commit) and outcome is Outcome.APPLIED:
            after = after._replace(ready_at=after.execute_after)
        return after, outcome


@caught_by("TestCancellation::test_of_register_in_place_of_another_schedule")
class WritesInTwoSteps(TinyStore):
    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for registration in registrations:
            before = self.read(registration.key)
            if before is not None:
                self.write(registration.key, before._replace(spec=registration.spec))
            await asyncio.sleep(0)
            self.write(registration.key, self.registered(before, now, registration, force))


@caught_by("TestPause::test_a_held_row_stays_held")
class ResumesDuringTheLease(TinyStore):
    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        paused = [key for key in keys if (row := self.read(key)) and row.state is State.PAUSED]
        answer = await super().resume(now, keys, memos)
        self.change(paused, lambda row: row._replace(ready_at=row.execute_after))
        return answer


@caught_by("TestStats::test_rows_due_rows_and_failed_rows_are_counted")
class CountsTheFuture(TinyStore):
    async def stats(self, now: datetime, partition: str) -> Stats:
        return await super().stats(datetime.max.replace(tzinfo=now.tzinfo), partition)


@caught_by("TestSharing::test_a_store_that_says_that_nobody_else_writes_is_right")
class IsSharedAfterAll(TinyStore):
    everybodys: dict[Key, Row] = {}

    def __init__(self) -> None:
        self.rows = self.everybodys


def _folded(key: Key) -> tuple[str, str]:
    return key.partition, key.name.casefold()
