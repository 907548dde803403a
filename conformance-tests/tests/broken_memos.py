"""Stores that forget what core remembers of a row, or write it where it does not belong."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from broken_values import cut_after, keeping

from broken_stores import caught_by
from pyncette.repository import Claim, Commit, Extend, Fail, Key, Outcome, Registration, Release, Row, Settlement, State
from tiny_store import TinyStore

WRITTEN = "TestMemo::test_a_settlement_replaces_it"
REGISTERED = "TestMemo::test_registering_keeps_it"
OPAQUE = "TestMemo::test_it_is_not_looked_into"
NOTED = "TestMemo::test_pausing_and_resuming_replace_it_where_they_are_told_to"


def settling(memo: Callable[[Row, Row, Settlement, Outcome], str]) -> type[TinyStore]:
    """A store that leaves another memo after a settlement: given the row before and after it, and its outcome."""

    class Store(TinyStore):
        def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
            after, outcome = super().settled(row, now, settlement)
            return after and after._replace(memo=memo(row or after, after, settlement, outcome)), outcome

    return Store


def told(row: Row, settlement: Settlement) -> str:
    """What comes with the settlement, if anything."""
    memo = None if isinstance(settlement, Extend) else settlement.memo
    return row.memo if memo is None else memo


SETTLEMENTS: dict[str, tuple[type[TinyStore], str]] = {
    f"ForgetsItIn{kind.__name__}": (
        settling(lambda before, after, settlement, _, kind=kind: before.memo if isinstance(settlement, kind) else after.memo),  # type: ignore[misc]
        WRITTEN,
    )
    for kind in (Commit, Release, Fail)
} | {
    "WipesItWithNone": (settling(lambda _, after, settlement, __: after.memo if getattr(settlement, "memo", "") is not None else ""), WRITTEN),
    "TakesAnEmptyOneForNone": (settling(lambda before, after, *_: after.memo or before.memo), WRITTEN),
    "WipesItInExtend": (
        settling(lambda _, after, settlement, __: "" if isinstance(settlement, Extend) else after.memo),
        "TestMemo::test_an_extension_keeps_it",
    ),
    "WritesItThoughLost": (
        settling(lambda _, after, settlement, outcome: told(after, settlement) if outcome is Outcome.LOST else after.memo),
        "TestMemo::test_a_settlement_that_is_over_writes_none",
    ),
    "WritesItInAResend": (
        settling(lambda _, after, settlement, outcome: told(after, settlement) if outcome is Outcome.ALREADY else after.memo),
        "TestMemo::test_the_memo_of_a_resend_is_not_written",
    ),
    "ForgetsItOfTheSuperseded": (
        settling(lambda before, after, _, outcome: before.memo if outcome is Outcome.SUPERSEDED else after.memo),
        "TestMemo::test_a_superseded_settlement_replaces_it",
    ),
    "OverwritesThatOfAPause": (
        settling(lambda _, after, settlement, __: told(after, settlement)),
        "TestMemo::test_a_paused_row_keeps_it",
    ),
}  # fmt: skip
VALUES: dict[str, tuple[type[TinyStore], str]] = {
    "CutsMemosAt255": (keeping("memo", lambda memo: memo[:255]), OPAQUE),
    "CutsMemosAt4000Bytes": (keeping("memo", cut_after(4000)), OPAQUE),
    "StripsMemos": (keeping("memo", str.strip), OPAQUE),
    "LetsEncodingErrorsOutOfMemos": (
        keeping("memo", lambda memo: memo.encode().decode()),
        "TestMemo::test_one_that_can_not_be_encoded_is_refused_or_kept",
    ),
}
for _name, (_store, _test) in (SETTLEMENTS | VALUES).items():
    _store.__name__ = _name
    caught_by(_test)(_store)


@caught_by("TestMemo::test_a_claim_carries_it")
class ClaimsWithoutIt(TinyStore):
    def claimed(self, row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
        taken = super().claimed(row, now, lease_duration, lease)
        return taken and (taken[0], taken[1]._replace(memo=""))


@caught_by("TestMemo::test_a_claim_carries_it")
class WipesItInAClaim(TinyStore):
    def claimed(self, row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
        taken = super().claimed(row, now, lease_duration, lease)
        return taken and (taken[0]._replace(memo=""), taken[1])


def registering(wipes: Callable[[Row, Row, bool], bool]) -> type[TinyStore]:
    class Store(TinyStore):
        def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
            after = super().registered(row, now, registration, force)
            return after._replace(memo="") if row is not None and wipes(row, after, force) else after

    return Store


for _name, _wipes in {
    "WipesItInEachRegistration": lambda before, after, force: after.revision == before.revision,
    "WipesItForAnotherSchedule": lambda before, after, force: before.schedule != after.schedule,
    "WipesItByForce": lambda before, after, force: force,
    "WipesThatOfTheRevived": lambda before, after, force: before.state is State.FAILED and after.state is State.SCHEDULED,
}.items():
    _store = registering(_wipes)
    _store.__name__ = _name
    caught_by(REGISTERED)(_store)


@caught_by("TestMemo::test_it_goes_with_its_row")
class RemembersThatOfTheRemoved(TinyStore):
    def __init__(self) -> None:
        super().__init__()
        self.memos: dict[Key, str] = {}

    def write(self, key: Key, row: Row | None) -> None:
        if row is None and (old := self.rows.get(key)) is not None:
            self.memos[key] = old.memo
        super().write(key, row if row is None or key in self.rows else row._replace(memo=self.memos.get(key, "")))


@caught_by("TestCancellation::test_of_settle")
class WritesItLater(TinyStore):
    """In a write of its own: whoever is cut off between them has moved the row, and left the old memo."""

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        outcomes = await super().settle(
            now, [each if isinstance(each, Extend) else replace(each, memo=None) for each in settlements]
        )
        await asyncio.sleep(0)
        for each, outcome in zip(settlements, outcomes, strict=True):
            row = self.read(each.claim.key)
            if row is not None and outcome is Outcome.APPLIED:
                self.write(row.key, row._replace(memo=told(row, each)))
        return outcomes


@caught_by("TestCancellation::test_of_pause_and_resume")
class NotesThePauseLater(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        await super().pause(now, keys)
        await asyncio.sleep(0)
        return await super().pause(now, keys, memos)


@caught_by(NOTED)
class NotesNothing(TinyStore):
    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await super().resume(now, keys)


@caught_by(NOTED)
class NotesByPlace(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await super().pause(now, keys, dict(zip(keys, (memos or {}).values(), strict=False)))


@caught_by(NOTED)
class NotesTheSameOfAll(TinyStore):
    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await super().pause(now, keys, dict.fromkeys(keys, next(iter((memos or {}).values()), "")))


@caught_by("TestMemo::test_they_replace_it_also_where_the_state_stays")
class NotesOnlyWhatChanges(TinyStore):
    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        away = {key: memo for key, memo in (memos or {}).items() if (row := self.read(key)) and row.state is not State.SCHEDULED}
        return await super().resume(now, keys, away)


@caught_by("TestMemo::test_each_settlement_of_a_batch_has_one_of_its_own")
class SettlesWithTheSameMemo(TinyStore):
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        memo = next((each.memo for each in settlements if not isinstance(each, Extend)), None)
        return await super().settle(now, [each if isinstance(each, Extend) else replace(each, memo=memo) for each in settlements])
