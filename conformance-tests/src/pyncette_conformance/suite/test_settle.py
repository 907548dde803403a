"""settle: what happens to a claim's row, and the outcome of a settlement that comes late, twice, or to no effect."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from pyncette.repository import Claim, Commit, Extend, Fail, Outcome, Release, Row, Settlement, State, SupportsPause, Target
from pyncette_conformance.builders import (
    FAR,
    LEASE,
    SCHEDULE,
    T0,
    TICK,
    after,
    claim_one,
    commit,
    poll,
    register,
    registration,
    release,
    settle,
)
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestSettle"]

OTHER = "every 90 s"
GONE, LOST, ALREADY, SUPERSEDED, APPLIED = Outcome.GONE, Outcome.LOST, Outcome.ALREADY, Outcome.SUPERSEDED, Outcome.APPLIED

KINDS: Mapping[str, Callable[[Claim], Settlement]] = {
    "commit": lambda claim: commit(claim, 500),
    "last commit": lambda claim: Commit(claim, None),
    "release": lambda claim: release(claim, 30),
    "unstarted release": lambda claim: release(claim, 30, started=False),
    "fail": lambda claim: Fail(claim, "it broke"),
    "extend": lambda claim: Extend(claim, after(900)),
}


async def removed(store: Store, claim: Claim) -> None:
    await store.repository.unregister(T0, [claim.key])


async def made_anew(store: Store, claim: Claim) -> None:
    await removed(store, claim)
    await register(store.repository, claim.key)


async def made_anew_and_claimed(store: Store, claim: Claim) -> None:
    await made_anew(store, claim)
    await claim_one(store.repository, claim.key)


async def taken_over(store: Store, claim: Claim) -> None:
    await claim_one(store.repository, claim.key, T0 + LEASE)


async def taken_over_and_settled(store: Store, claim: Claim) -> None:
    await settle(store.repository, T0 + LEASE, commit(await claim_one(store.repository, claim.key, T0 + LEASE), 70))


async def forced(store: Store, claim: Claim) -> None:
    await store.repository.register(T0, [registration(claim.key, 9)], force=True)


async def held(store: Store, claim: Claim) -> None:
    pass


async def rescheduled(store: Store, claim: Claim) -> None:
    await store.repository.register(T0, [registration(claim.key, 9, schedule=OTHER)])


async def rescheduled_and_back(store: Store, claim: Claim) -> None:
    await rescheduled(store, claim)
    await store.repository.register(T0, [registration(claim.key, 0)])


async def committed(store: Store, claim: Claim) -> None:
    await settle(store.repository, T0, commit(claim, 500))


async def released(store: Store, claim: Claim) -> None:
    await settle(store.repository, T0, release(claim, 30))


async def failed(store: Store, claim: Claim) -> None:
    await settle(store.repository, T0, Fail(claim, "it broke"))


async def superseded(store: Store, claim: Claim) -> None:
    await rescheduled(store, claim)
    await settle(store.repository, T0, commit(claim, 500))


async def committed_and_rescheduled(store: Store, claim: Claim) -> None:
    await committed(store, claim)
    await rescheduled(store, claim)


#: What happens between the claim and its settlement, and what a Commit, Release or Fail, and an Extend are told then.
SITUATIONS: Mapping[Callable[[Store, Claim], Awaitable[None]], tuple[Outcome, Outcome]] = {
    removed: (GONE, GONE),
    made_anew: (LOST, LOST),
    made_anew_and_claimed: (LOST, LOST),
    taken_over: (LOST, LOST),
    taken_over_and_settled: (LOST, LOST),
    forced: (LOST, LOST),
    held: (APPLIED, APPLIED),
    rescheduled: (SUPERSEDED, APPLIED),
    rescheduled_and_back: (SUPERSEDED, APPLIED),
    committed: (ALREADY, LOST),
    released: (ALREADY, LOST),
    failed: (ALREADY, LOST),
    superseded: (SUPERSEDED, LOST),
    committed_and_rescheduled: (SUPERSEDED, LOST),
}
#: Where the row is the claim's no longer, nothing may be written.
OVER = [situation for situation in SITUATIONS if situation not in (held, rescheduled, rescheduled_and_back)]


def claimed(claim: Claim, **changes: object) -> Row:
    """The row of a claim made at T0, with ``changes``."""
    row = Row(
        key=claim.key,
        spec=claim.spec,
        schedule=claim.schedule,
        occurrence=claim.occurrence,
        execute_after=claim.execute_after,
        ready_at=T0 + LEASE,
        lease=claim.lease,
        locked_until=T0 + LEASE,
        epoch=claim.epoch,
        revision=claim.revision,
        attempt=claim.attempt,
        state=State.SCHEDULED,
    )
    return row._replace(**changes)  # type: ignore[arg-type]


async def claim_new(store: Store, seconds: float = 0) -> Claim:
    """A claim made at T0 on a new row."""
    key = store.key()
    await register(store.repository, key, seconds=seconds)
    return await claim_one(store.repository, key)


class TestSettle(Conformance):
    @pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__.replace("_", " "))
    @scenario()
    async def test_the_outcome_tells_what_happened_since_the_claim(
        self, store: Store, situation: Callable[[Store, Claim], Awaitable[None]]
    ) -> None:
        """I1, I3, I5. The whole table. Where the row is the claim's no longer, nothing is written, however often it is sent."""
        claims = {kind: await claim_new(store) for kind in KINDS}
        keys = [claim.key for claim in claims.values()]
        for claim in claims.values():
            await situation(store, claim)
        before = await store.rows(keys)
        outcome, of_extend = SITUATIONS[situation]
        expected = {kind: of_extend if kind == "extend" else outcome for kind in KINDS}
        told = {kind: (await settle(store.repository, after(70), KINDS[kind](claim)))[0] for kind, claim in claims.items()}
        assert told == expected
        if situation in OVER:
            for now in [T0, after(70), FAR]:
                await settle(store.repository, now, *[KINDS[kind](claim) for kind, claim in claims.items()])
            assert await store.rows(keys) == before

    @scenario()
    async def test_a_commit_goes_on_to_the_next_occurrence(self, store: Store) -> None:
        claim = await claim_new(store)
        await settle(store.repository, after(5), commit(claim, 500, jitter=7))
        assert await store.row(claim.key) == claimed(
            claim, occurrence=after(500), execute_after=after(507), ready_at=after(507), locked_until=None, attempt=0
        )

    @pytest.mark.parametrize(("following", "ready"), [(-100, 5), (4, 5), (5, 5), (6, 6)])
    @scenario()
    async def test_a_commit_makes_the_row_ready_no_sooner_than_now(self, store: Store, following: float, ready: float) -> None:
        """I11. So a backlog of one row waits behind all that is due; its occurrence keeps its own time."""
        claim = await claim_new(store, seconds=-1000)
        await settle(store.repository, after(5), commit(claim, following))
        row = await store.row(claim.key)
        assert_has(row, occurrence=after(following), execute_after=after(following), ready_at=after(ready))

    @scenario()
    async def test_the_last_commit_removes_the_row(self, store: Store) -> None:
        """I8."""
        claim, other = await claim_new(store), await claim_new(store)
        assert await settle(store.repository, after(5), Commit(claim, None)) == [APPLIED]
        assert await store.rows([claim.key]) == [None]
        assert await store.row(other.key) == claimed(other)
        assert await settle(store.repository, after(5), Commit(claim, None)) == [GONE]

    @scenario()
    async def test_the_last_commit_of_a_replaced_schedule_removes_nothing(self, store: Store) -> None:
        """I3, I8. A once-off that was scheduled again while it ran, with other arguments."""
        claim = await claim_new(store)
        await store.repository.register(after(1), [registration(claim.key, 20, spec="[]", schedule="once")])
        assert await settle(store.repository, after(5), Commit(claim, None)) == [SUPERSEDED]
        again = await claim_one(store.repository, claim.key, after(20))
        assert_has(again, spec="[]", occurrence=after(20), attempt=1)

    @pytest.mark.parametrize("started", [True, False])
    @pytest.mark.parametrize(("retry", "ready"), [(-10, 0), (0, 0), (30, 30), (600, 600)])
    @scenario()
    async def test_a_release_gives_the_occurrence_back(self, store: Store, retry: float, ready: float, started: bool) -> None:
        """I7. It is ready at retry_at, not before execute_after; a run that never started is not an attempt."""
        claim = await claim_new(store)
        await settle(store.repository, after(5), release(claim, retry, started=started))
        assert await store.row(claim.key) == claimed(claim, ready_at=after(ready), locked_until=None, attempt=int(started))

    @scenario()
    async def test_unstarted_releases_take_back_their_own_attempt_only(self, store: Store) -> None:
        claim = await claim_new(store)
        await settle(store.repository, T0, release(claim))
        claim = await claim_one(store.repository, claim.key)
        assert claim.attempt == 2
        await settle(store.repository, T0, release(claim, started=False))
        assert (await store.row(claim.key)).attempt == 1
        assert (await claim_one(store.repository, claim.key)).attempt == 2

    @scenario()
    async def test_a_failed_row_is_kept_with_its_error(self, store: Store) -> None:
        """I10. Out of claims, and visible."""
        error = "ValueError: ‘ß’ — \U0001f4a5\n\tline 2 \"'\\ %s {} \x7f"
        claim = await claim_new(store)
        await settle(store.repository, after(5), Fail(claim, error))
        assert await store.row(claim.key) == claimed(claim, ready_at=None, locked_until=None, state=State.FAILED, error=error)
        assert (await poll(store.repository, claim.key.partition, FAR)).claims == []

    @pytest.mark.parametrize(("until", "end"), [(30, 60), (60, 60), (61, 61), (900, 900)])
    @scenario()
    async def test_an_extension_never_shortens_a_lease(self, store: Store, until: float, end: float) -> None:
        """I2. Two that overtake each other leave the later end; a resend changes nothing."""
        claim = await claim_new(store)
        for now in [after(5), after(6)]:
            assert await settle(store.repository, now, Extend(claim, after(until))) == [APPLIED]
            assert await store.row(claim.key) == claimed(claim, locked_until=after(end), ready_at=after(end))

    @scenario()
    async def test_an_extension_is_exact(self, store: Store) -> None:
        claim = await claim_new(store)
        await settle(store.repository, T0, Extend(claim, T0 + LEASE + TICK))
        assert (await store.row(claim.key)).locked_until == T0 + LEASE + TICK

    @scenario()
    async def test_an_extension_of_a_rescheduled_row_keeps_its_new_time(self, store: Store) -> None:
        """I2, I4. The body still runs, so the row is still its own; but not ready before the new occurrence."""
        claim = await claim_new(store)
        await store.repository.register(after(1), [registration(claim.key, 500, schedule=OTHER)])
        before = await store.row(claim.key)
        assert await settle(store.repository, after(5), Extend(claim, after(300))) == [APPLIED]
        assert await store.row(claim.key) == before._replace(locked_until=after(300), ready_at=after(500))
        assert await settle(store.repository, after(5), Extend(claim, after(600))) == [APPLIED]
        assert await store.row(claim.key) == before._replace(locked_until=after(600), ready_at=after(600))

    @pytest.mark.parametrize("due", [9, 250, 1000], ids=["due", "during the lease", "later"])
    @scenario()
    async def test_an_extension_never_shortens_the_lease_of_a_rescheduled_row(self, store: Store, due: float) -> None:
        """I2. One that was sent long ago, and arrives after the schedule was replaced."""
        claim = await claim_new(store)
        await settle(store.repository, after(1), Extend(claim, after(300)))
        await store.repository.register(after(2), [registration(claim.key, due, schedule=OTHER)])
        before = await store.row(claim.key)
        assert_has(before, locked_until=after(300), ready_at=after(max(due, 300)))
        for until in (after(30), T0 + LEASE, after(299), after(300)):
            assert await settle(store.repository, after(5), Extend(claim, until)) == [APPLIED]
            assert await store.row(claim.key) == before

    @scenario("supports_pause")
    async def test_an_extension_of_a_paused_row_only_lengthens_its_lease(self, store: Store) -> None:
        claim = await claim_new(store)
        assert isinstance(store.repository, SupportsPause)
        await store.repository.pause(T0, [claim.key])
        for until, end in [(300, 300), (100, 300), (400, 400)]:
            assert await settle(store.repository, after(5), Extend(claim, after(until))) == [APPLIED]
            assert_has(await store.row(claim.key), state=State.PAUSED, locked_until=after(end), ready_at=None)

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "extend"])
    @pytest.mark.parametrize(("due", "ready"), [(9, 70), (70, 70), (500, 500)], ids=["overdue", "due", "later"])
    @scenario()
    async def test_a_superseded_settlement_frees_the_row_and_changes_nothing_else(
        self, store: Store, kind: str, due: float, ready: float
    ) -> None:
        """I3, I9. The new schedule stays as it is, and runs as soon as it is due."""
        claim = await claim_new(store)
        await store.repository.register(after(1), [registration(claim.key, due, spec="[]", schedule=OTHER)])
        before = await store.row(claim.key)
        assert await settle(store.repository, after(70), KINDS[kind](claim)) == [SUPERSEDED]
        assert await store.row(claim.key) == before._replace(locked_until=None, ready_at=after(ready))

    @pytest.mark.parametrize("kind", KINDS)
    @scenario()
    async def test_a_late_holder_may_settle_until_somebody_else_claims(self, store: Store, kind: str) -> None:
        """I7. The work is done, so it had better count."""
        claim = await claim_new(store)
        assert await settle(store.repository, after(800), KINDS[kind](claim)) == [APPLIED]
        result = await poll(store.repository, claim.key.partition, after(899))
        if kind == "extend":
            assert (result.claims, result.next_ready_at) == ([], after(900))

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("last commit", "extend")])
    @scenario()
    async def test_a_resend_answers_already_until_the_next_claim(self, store: Store, kind: str) -> None:
        """I5, I6. At most once: an answer that was lost is asked for again, and must not be taken for a failure."""
        claim = await claim_new(store)
        assert await settle(store.repository, T0, KINDS[kind](claim)) == [APPLIED]
        before = await store.row(claim.key)
        for now in [T0, after(1), FAR]:
            assert await settle(store.repository, now, KINDS[kind](claim)) == [ALREADY]
            assert await store.row(claim.key) == before
        if kind == "fail":
            return
        await claim_one(store.repository, claim.key, FAR)
        assert await settle(store.repository, FAR, KINDS[kind](claim)) == [LOST]

    @scenario()
    async def test_a_commit_counts_also_after_a_new_registration_of_the_same_schedule(self, store: Store) -> None:
        """I3. An application that starts registers its tasks; that must not supersede what others run."""
        claim = await claim_new(store)
        await store.repository.register(after(1), [registration(claim.key, 500, spec="[]")])
        assert await settle(store.repository, after(2), commit(claim, 60)) == [APPLIED]
        row = await store.row(claim.key)
        assert_has(row, occurrence=after(60), spec="[]")

    @pytest.mark.parametrize("kind", KINDS)
    @scenario("supports_pause")
    async def test_a_row_that_was_paused_meanwhile_stays_paused(self, store: Store, kind: str) -> None:
        """The run in progress continues and is settled as ever, but the row is in no claim after it."""
        claim = await claim_new(store)
        assert isinstance(store.repository, SupportsPause)
        await store.repository.pause(T0, [claim.key])
        paused = claimed(claim, state=State.PAUSED, ready_at=None)
        assert await store.row(claim.key) == paused
        assert await settle(store.repository, after(5), KINDS[kind](claim)) == [APPLIED]
        free = paused._replace(locked_until=None)
        assert await store.rows([claim.key]) == [
            {
                "commit": free._replace(occurrence=after(500), execute_after=after(500), attempt=0),
                "last commit": None,
                "release": free,
                "unstarted release": free._replace(attempt=0),
                "fail": free._replace(state=State.FAILED, error="it broke"),
                "extend": paused._replace(locked_until=after(900)),
            }[kind]
        ]

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "extend"])
    @scenario("supports_pause")
    async def test_a_row_that_was_paused_and_rescheduled_stays_so(self, store: Store, kind: str) -> None:
        claim = await claim_new(store)
        assert isinstance(store.repository, SupportsPause)
        await store.repository.pause(T0, [claim.key])
        await store.repository.register(after(1), [registration(claim.key, 3, schedule=OTHER)])
        before = await store.row(claim.key)
        assert_has(before, state=State.PAUSED, ready_at=None, locked_until=T0 + LEASE)
        assert await settle(store.repository, after(5), KINDS[kind](claim)) == [SUPERSEDED]
        assert await store.row(claim.key) == before._replace(locked_until=None)

    @scenario()
    async def test_a_batch_may_be_empty(self, store: Store) -> None:
        assert await settle(store.repository, T0) == []

    @scenario()
    async def test_the_outcomes_of_a_batch_are_in_order(self, store: Store) -> None:
        """I10. One that comes too late, is superseded or finds nothing takes nothing from the others."""
        keys = store.keys(7)
        await register(store.repository, *keys)
        claims = {claim.key: claim for claim in (await poll(store.repository, keys[0].partition)).claims}
        gone, done, lost, commits, releases, changed, extends = [claims[key] for key in keys]
        await store.repository.unregister(T0, [gone.key])
        await settle(store.repository, T0, commit(done))
        await store.repository.register(T0, [registration(lost.key)], force=True)
        await store.repository.register(T0, [registration(changed.key, 7, schedule=OTHER)])
        batch: list[Settlement] = [
            commit(gone),
            commit(commits),
            commit(lost),
            release(releases),
            commit(changed),
            commit(done),
            Extend(extends, FAR),
        ]
        outcomes = [GONE, APPLIED, LOST, APPLIED, SUPERSEDED, ALREADY, APPLIED]
        assert await settle(store.repository, after(1), *batch) == outcomes
        assert [row and row.ready_at for row in await store.rows(keys)] == [
            None,
            after(60),
            T0,
            after(60),
            after(0),
            after(7),
            FAR,
        ]

    @scenario()
    async def test_each_outcome_is_in_the_place_of_its_settlement(self, store: Store) -> None:
        """Where partitions, kinds of settlements and situations take turns, an outcome has nothing but its place to go by."""
        keys = store.mixed_keys(30)
        await register(store.repository, *keys)
        claims = [await claim_one(store.repository, key) for key in keys]
        situations: list[Callable[[Store, Claim], Awaitable[None]]] = [removed, held, forced, rescheduled, committed, taken_over]
        kinds = list(KINDS)
        batch, expected = [], []
        for number, claim in enumerate(claims):
            situation, kind = situations[number * 5 % 7 % 6], kinds[number * 5 % 11 % 6]
            await situation(store, claim)
            batch.append(KINDS[kind](claim))
            expected.append(SITUATIONS[situation][kind == "extend"])
        assert set(expected) == set(Outcome)
        assert await settle(store.repository, after(70), *batch) == expected

    @scenario()
    async def test_each_settlement_of_a_batch_has_values_of_its_own(self, store: Store) -> None:
        """I4, I9. Several of each kind, no two of which say the same."""
        keys = store.mixed_keys(24)
        await register(store.repository, *keys)
        claims = [await claim_one(store.repository, key) for key in keys]
        batch: list[Settlement] = []
        expected: list[Row | None] = []
        for number, claim in enumerate(claims):
            free = claimed(claim, locked_until=None)
            time = after(100 + 7 * number % 24)
            of_kind: list[tuple[Settlement, Row | None]] = [
                (
                    Commit(claim, Target(time, time + number * TICK)),
                    free._replace(occurrence=time, execute_after=time + number * TICK, ready_at=time + number * TICK, attempt=0),
                ),
                (Release(claim, time, started=number % 8 == 1), free._replace(ready_at=time, attempt=int(number % 8 == 1))),
                (
                    Fail(claim, f"it broke {number} times"),
                    free._replace(ready_at=None, state=State.FAILED, error=f"it broke {number} times"),
                ),
                (Extend(claim, time), claimed(claim, locked_until=time, ready_at=time)),
            ]
            if number == 12:
                of_kind[0] = Commit(claim, None), None
            settlement, row = of_kind[number % 4]
            batch.append(settlement)
            expected.append(row)
        assert await settle(store.repository, after(5), *batch) == [APPLIED] * len(keys)
        assert list(await store.rows(keys)) == expected

    @scenario()
    async def test_a_batch_may_span_partitions(self, store: Store) -> None:
        claims = [await claim_new(store) for _ in range(5)]
        assert await settle(store.repository, T0, *[commit(claim) for claim in claims]) == [APPLIED] * 5
        for claim in claims:
            assert (await store.row(claim.key)).occurrence == after(60)

    @scenario()
    async def test_a_batch_may_be_large(self, store: Store) -> None:
        keys = store.many_keys()
        await register(store.repository, *keys)
        claims = (await poll(store.repository, keys[0].partition)).claims
        kinds = list(KINDS.values())
        batch = [kinds[number % len(kinds)](claim) for number, claim in enumerate(claims)]
        assert await settle(store.repository, T0, *batch) == [APPLIED] * len(keys)
        again = {Commit: ALREADY, Release: ALREADY, Fail: ALREADY, Extend: APPLIED}
        expected = [GONE if isinstance(each, Commit) and each.next is None else again[type(each)] for each in batch]
        assert await settle(store.repository, T0, *batch) == expected

    @pytest.mark.parametrize("kind", KINDS)
    @scenario()
    async def test_what_is_delivered_several_times_at_once_is_applied_once(self, store: Store, kind: str) -> None:
        """I5."""
        workers = await store.workers(4)
        claims = [await claim_new(store) for _ in range(5)]
        batch = [KINDS[kind](claim) for claim in claims]
        outcomes = await asyncio.gather(*[settle(worker, after(1), *batch) for worker in workers])
        second = {"last commit": GONE, "extend": APPLIED}.get(kind, ALREADY)
        for told in zip(*outcomes, strict=True):
            assert sorted(told, key=str) == sorted([APPLIED, second, second, second], key=str)
        row = (await store.rows([claims[0].key]))[0]
        assert row is None or row.schedule == SCHEDULE
        if kind == "unstarted release":
            assert row is not None
            assert row.attempt == 0

    @scenario()
    async def test_a_commit_in_a_race_with_a_new_schedule_never_moves_it(self, store: Store) -> None:
        """I3, I9. Whichever is first, the new schedule's occurrence is the one that is left."""
        keys = store.keys(20)
        first, second = await store.workers(2)
        await register(store.repository, *keys)
        claims = (await poll(first, keys[0].partition)).claims
        outcomes, _ = await asyncio.gather(
            settle(first, after(1), *[commit(claim, 60) for claim in claims]),
            second.register(after(1), [registration(key, 500, schedule=OTHER) for key in keys]),
        )
        assert set(outcomes) <= {APPLIED, SUPERSEDED}
        for row in await store.rows(keys):
            assert row is not None
            assert_has(row, schedule=OTHER, occurrence=after(500), ready_at=after(500), locked_until=None)
