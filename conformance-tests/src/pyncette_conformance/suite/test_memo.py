"""The memo: what core remembers about a row, opaque to the store, and written only together with the change that it describes."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from pyncette.repository import Claim, Commit, Extend, Fail, Key, Outcome, Settlement, State, SupportsPause
from pyncette_conformance.builders import (
    FAR,
    LEASE,
    SCHEDULE,
    T0,
    after,
    claim_one,
    commit,
    poll,
    refused,
    register,
    registration,
    release,
    settle,
)
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.suite.test_settle import OVER, rescheduled
from pyncette_conformance.suite.test_values import TEXT

__all__ = ["TestMemo"]

OTHER = "every 90 s"
KINDS: Mapping[str, Callable[[Claim, str | None], Settlement]] = {
    "commit": lambda claim, memo: commit(claim, 500, memo=memo),
    "release": lambda claim, memo: release(claim, 30, memo=memo),
    "unstarted release": lambda claim, memo: release(claim, 30, started=False, memo=memo),
    "fail": lambda claim, memo: Fail(claim, "it broke", memo),
}
MEMOS = {
    "empty": "",
    "a blank": " ",
    "JSON": '{"last": {"started": "2041-02-03T04:05:06Z", "outcome": null}}',
    "null": "null",
    "a number": "007",
    "quotes": "'\"`\\\\",
    "every character": TEXT.replace("\0", ""),
    "4,000 characters": "x" * 4_000,
    "4,000 characters of two bytes": "é" * 4_000,
    "4,000 characters of four bytes": "\U0001f600" * 3_999 + "\U0010ffff",
    "4,000 characters to be escaped": "\\" * 2_000 + "\x01" * 2_000,
}
each_kind: pytest.MarkDecorator = pytest.mark.parametrize("kind", KINDS)


async def noted(store: Store, key: Key, memo: str = "old") -> Claim:
    """A claim made at T0 to a new row that has a memo."""
    await register(store.repository, key, seconds=-60)
    claim = await claim_one(store.repository, key, after(-60))
    assert await settle(store.repository, after(-60), commit(claim, 0, memo=memo)) == [Outcome.APPLIED]
    return await claim_one(store.repository, key)


class TestMemo(Conformance):
    @scenario()
    async def test_a_new_row_has_none(self, store: Store) -> None:
        """None is an empty one."""
        key = store.key()
        await register(store.repository, key)
        assert_has(await store.row(key), memo="")
        assert_has(await claim_one(store.repository, key), memo="")
        assert_has(await store.row(key), memo="")

    @each_kind
    @scenario()
    async def test_a_settlement_replaces_it(self, store: Store, kind: str) -> None:
        """In the same write; all else is as without it."""
        keys = store.keys(3)
        claims = [await noted(store, key) for key in keys]
        batch = [KINDS[kind](claim, memo) for claim, memo in zip(claims, ("new", "", None), strict=True)]
        assert await settle(store.repository, after(5), *batch) == [Outcome.APPLIED] * 3
        rows = [await store.row(key) for key in keys]
        assert [row.memo for row in rows] == ["new", "", "old"]
        expected = [rows[2]._replace(key=row.key, lease=row.lease, memo=row.memo) for row in rows]
        assert rows == expected

    @each_kind
    @scenario()
    async def test_a_superseded_settlement_replaces_it(self, store: Store, kind: str) -> None:
        """The run has taken place, whatever the schedule is now."""
        keys = store.keys(3)
        claims = [await noted(store, key) for key in keys]
        for claim in claims:
            await rescheduled(store, claim)
        batch = [KINDS[kind](claim, memo) for claim, memo in zip(claims, ("new", "", None), strict=True)]
        assert await settle(store.repository, after(5), *batch) == [Outcome.SUPERSEDED] * 3
        for key, memo in zip(keys, ("new", "", "old"), strict=True):
            assert_has(await store.row(key), memo=memo, schedule=OTHER, revision=1, locked_until=None, ready_at=after(9))

    @pytest.mark.parametrize("situation", OVER, ids=lambda situation: situation.__name__.replace("_", " "))
    @scenario()
    async def test_a_settlement_that_is_over_writes_none(
        self, store: Store, situation: Callable[[Store, Claim], Awaitable[None]]
    ) -> None:
        """I1, I5. A resend says what its first delivery said; a late one says nothing."""
        keys = store.keys(len(KINDS) + 1)
        await register(store.repository, *keys)
        claims = [await claim_one(store.repository, key) for key in keys]
        for claim in claims:
            await situation(store, claim)
        before = await store.rows(keys)
        batch = [KINDS[kind](claim, "late") for kind, claim in zip(KINDS, claims, strict=False)]
        for now in (after(70), FAR):
            await settle(store.repository, now, *batch, Commit(claims[-1], None, "late"))
            assert await store.rows(keys) == before

    @scenario()
    async def test_the_memo_of_a_resend_is_not_written(self, store: Store) -> None:
        """I5."""
        claim = await noted(store, store.key())
        for memo, outcome in [("first", Outcome.APPLIED), ("second", Outcome.ALREADY), ("", Outcome.ALREADY)]:
            assert await settle(store.repository, T0, commit(claim, 500, memo=memo)) == [outcome]
            assert_has(await store.row(claim.key), memo="first")

    @scenario()
    async def test_an_extension_keeps_it(self, store: Store) -> None:
        claim = await noted(store, store.key())
        assert await settle(store.repository, after(5), Extend(claim, after(300))) == [Outcome.APPLIED]
        assert_has(await store.row(claim.key), memo="old", locked_until=after(300))

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_a_claim_carries_it(self, store: Store, by_name: bool) -> None:
        """Also one that takes over, and each its own."""
        keys = store.keys(3)
        for number, key in enumerate(keys):
            await settle(store.repository, T0, release(await noted(store, key), memo=f"of {number}"))
        names = [key.name for key in keys[::-1]] if by_name else None
        for now in (T0, T0 + LEASE):
            claims = (await poll(store.repository, keys[0].partition, now, names=names)).claims
            assert sorted((claim.key, claim.memo) for claim in claims) == [(key, f"of {number}") for number, key in enumerate(keys)]
        assert [row and row.memo for row in await store.rows(keys)] == ["of 0", "of 1", "of 2"]

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("schedule", [SCHEDULE, OTHER], ids=["same schedule", "other schedule"])
    @scenario()
    async def test_registering_keeps_it(self, store: Store, schedule: str, force: bool) -> None:
        """Whatever happens to the row: what it remembers has taken place."""
        held, free, failed, overdue = store.keys(4)
        await noted(store, held)
        await settle(store.repository, T0, commit(await noted(store, free)))
        await settle(store.repository, T0, Fail(await noted(store, failed), "it broke", "why"))
        await settle(store.repository, T0, release(await noted(store, overdue), memo="late"))
        batch = [
            registration(key, 500, spec="[1]", schedule=schedule, keep_overdue=key == overdue)
            for key in (failed, overdue, held, free)
        ]
        await store.repository.register(after(1), batch, force=force)
        rows = await store.rows([held, free, failed, overdue])
        assert [row and (row.spec, row.memo) for row in rows] == [("[1]", "old"), ("[1]", "old"), ("[1]", "why"), ("[1]", "late")]

    @scenario()
    async def test_it_goes_with_its_row(self, store: Store) -> None:
        """I8. A row that is created again remembers nothing."""
        removed, ended = store.keys(2)
        await noted(store, removed)
        await settle(store.repository, T0, Commit(await noted(store, ended), None, "the last"))
        await store.repository.unregister(T0, [removed])
        assert list(await store.rows([removed, ended])) == [None, None]
        await register(store.repository, removed, ended)
        for key in (removed, ended):
            assert_has(await claim_one(store.repository, key), memo="")

    @each_kind
    @pytest.mark.parametrize("superseded", [False, True], ids=["current", "superseded"])
    @scenario("supports_pause")
    async def test_a_paused_row_keeps_it(self, store: Store, kind: str, superseded: bool) -> None:
        """The note of the pause is in it, of which the run in progress knows nothing."""
        assert isinstance(store.repository, SupportsPause)
        claim = await noted(store, store.key())
        await store.repository.pause(T0, [claim.key], {claim.key: "paused by hand"})
        if superseded:
            await rescheduled(store, claim)
        outcome = Outcome.SUPERSEDED if superseded else Outcome.APPLIED
        assert await settle(store.repository, after(5), KINDS[kind](claim, "the run")) == [outcome]
        assert_has(await store.row(claim.key), memo="paused by hand", locked_until=None)

    @scenario("supports_pause")
    async def test_pausing_and_resuming_replace_it_where_they_are_told_to(self, store: Store) -> None:
        """For each key separately, in any order; keys that are not named keep theirs."""
        assert isinstance(store.repository, SupportsPause)
        keys = store.mixed_keys(9)
        for key in keys[:-1]:
            await noted(store, key, f"old {key.name}")
        for change in (store.repository.pause, store.repository.resume):
            before = [row and row.memo for row in await store.rows(keys)]
            notes = {key: f"{change.__name__} {key}" if number % 6 else "" for number, key in enumerate(keys) if number % 3 != 1}
            assert list(await change(after(1), keys, dict(reversed(notes.items())))) == [True] * 8 + [False]
            expected = [notes.get(key, memo) for key, memo in zip(keys, before, strict=True)]
            assert [row and row.memo for row in await store.rows(keys)] == [*expected[:-1], None]
            nothing: Sequence[Mapping[Key, str] | None] = (None, {})
            for none in nothing:
                await change(after(1), keys, none)
                assert [row and row.memo for row in await store.rows(keys)] == [*expected[:-1], None]

    @scenario("supports_pause")
    async def test_they_replace_it_also_where_the_state_stays(self, store: Store) -> None:
        """A pause whose note is changed; a resumption of what was never paused."""
        assert isinstance(store.repository, SupportsPause)
        scheduled, paused, held, failed = store.keys(4)
        for key in (scheduled, paused):
            await settle(store.repository, T0, commit(await noted(store, key)))
        await noted(store, held)
        await settle(store.repository, T0, Fail(await noted(store, failed), "it broke"))
        await store.repository.pause(T0, [paused])
        before = await store.rows([scheduled, paused, held])
        await store.repository.pause(after(1), [paused], {paused: "new"})
        await store.repository.resume(after(1), [scheduled, held, failed], dict.fromkeys([scheduled, held, failed], "new"))
        assert await store.rows([scheduled, paused, held]) == [row and row._replace(memo="new") for row in before]
        assert_has(await store.row(failed), memo="new", state=State.SCHEDULED, error=None)
        await store.repository.resume(after(2), [paused])
        assert_has(await store.row(paused), memo="new", state=State.SCHEDULED)

    @scenario()
    async def test_each_settlement_of_a_batch_has_one_of_its_own(self, store: Store) -> None:
        keys = store.mixed_keys(24)
        claims = [await noted(store, key) for key in keys]
        kinds = list(KINDS.values())
        memos = [None if number % 5 == 2 else f"{number}" for number in range(len(keys))]
        batch = [kinds[number * 7 % 11 % 4](claim, memo) for number, (claim, memo) in enumerate(zip(claims, memos, strict=True))]
        assert await settle(store.repository, T0, *batch) == [Outcome.APPLIED] * len(keys)
        assert [row and row.memo for row in await store.rows(keys)] == ["old" if memo is None else memo for memo in memos]

    @pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
    @scenario()
    async def test_it_is_not_looked_into(self, store: Store, memo: str) -> None:
        """By no call that writes it, and by none that returns it."""
        keys: Sequence[Key] = store.keys(5)
        claims = [await noted(store, key) for key in keys]
        written: list[Settlement] = [kind(claim, memo) for kind, claim in zip(KINDS.values(), claims, strict=False)]
        await settle(store.repository, T0, *written)
        if isinstance(store.repository, SupportsPause):
            await store.repository.pause(T0, keys[3:], dict.fromkeys(keys[3:], memo))
            assert_has(await store.row(keys[4]), memo=memo)
            await store.repository.resume(T0, keys[3:], dict.fromkeys(keys[3:], memo))
        else:
            await settle(store.repository, T0, commit(claims[4], memo=memo))
        for row in (*await store.rows(keys), *await all_rows(store.repository, keys[0].partition)):
            assert_has(row, memo=memo)
        for claim in (await poll(store.repository, keys[0].partition, FAR)).claims:
            assert_has(claim, memo=memo)

    @scenario()
    async def test_one_that_can_not_be_encoded_is_refused_or_kept(self, store: Store) -> None:
        """I10. One of Pyncette's errors, and nothing is written; or the very same text."""
        good, bad = store.keys(2)
        claims = [await noted(store, key) for key in (good, bad)]
        before = await store.row(bad)
        if await refused(settle(store.repository, T0, commit(claims[1], 500, memo="a\ud83d"))):
            assert await store.row(bad) == before
        else:
            assert_has(await store.row(bad), memo="a\ud83d")
        assert await settle(store.repository, T0, commit(claims[0], memo="good")) == [Outcome.APPLIED]
