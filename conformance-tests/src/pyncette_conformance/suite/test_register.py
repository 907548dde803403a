"""register: what happens to a row that is absent, present with the same schedule, or present with another one."""

import asyncio

import pytest

from pyncette.repository import Extend, Fail, Key, Outcome, Registration, Row, Settlement, State, SupportsPause
from pyncette_conformance.builders import (
    FAR,
    LEASE,
    SCHEDULE,
    T0,
    TICK,
    after,
    claim_one,
    commit,
    epoch_at,
    poll,
    register,
    registration,
    release,
    settle,
    target,
)
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestRegister"]

OTHER = "every 90 s"


def hash_of(key: Key) -> int:
    """A number that has nothing to do with the place of ``key`` in a batch."""
    return sum(map(ord, key.partition + key.name))


class TestRegister(Conformance):
    @scenario()
    async def test_an_absent_task_becomes_a_row(self, store: Store) -> None:
        """I3. Every field of a new row."""
        key = store.key()
        await store.repository.register(T0, [registration(key, 10, jitter=3, spec='{"a": 1}')])
        assert await store.row(key) == Row(
            key=key,
            spec='{"a": 1}',
            schedule=SCHEDULE,
            occurrence=after(10),
            execute_after=after(13),
            ready_at=after(13),
            lease=None,
            locked_until=None,
            epoch=epoch_at(T0),
            revision=0,
            attempt=0,
            state=State.SCHEDULED,
            error=None,
        )

    @scenario()
    async def test_an_absent_task_may_be_overdue(self, store: Store) -> None:
        """A once-off in the past is stored as it is, and runs at once."""
        key = store.key()
        await register(store.repository, key, seconds=-3600)
        assert (await store.row(key)).ready_at == after(-3600)
        assert (await claim_one(store.repository, key)).occurrence == after(-3600)

    @scenario()
    async def test_force_and_keep_overdue_make_no_difference_to_an_absent_task(self, store: Store) -> None:
        plain, forced, kept = store.keys(3)
        await store.repository.register(T0, [registration(plain, 5), registration(kept, 5, keep_overdue=True)])
        await store.repository.register(T0, [registration(forced, 5)], force=True)
        expected = await store.row(plain)
        assert await store.row(forced) == expected._replace(key=forced)
        assert await store.row(kept) == expected._replace(key=kept)

    @pytest.mark.parametrize("seconds", [-10, 0, 5, 100], ids=["overdue", "now", "sooner", "later"])
    @pytest.mark.parametrize("keep_overdue", [False, True])
    @scenario()
    async def test_the_same_schedule_replaces_the_spec_and_nothing_else(
        self, store: Store, seconds: float, keep_overdue: bool
    ) -> None:
        """I3, I9. Registering at every start neither postpones nor hastens."""
        key = store.key()
        await register(store.repository, key, seconds=10)
        before = await store.row(key)
        again = registration(key, seconds, jitter=1, spec='{"new": true}', keep_overdue=keep_overdue)
        await store.repository.register(after(1), [again])
        assert await store.row(key) == before._replace(spec='{"new": true}')

    @scenario()
    async def test_the_same_schedule_leaves_a_due_row_due(self, store: Store) -> None:
        """I3. A restart after the occurrence's time does not skip it."""
        key = store.key()
        await register(store.repository, key)
        await store.repository.register(after(30), [registration(key, 60)])
        assert (await claim_one(store.repository, key, after(30))).occurrence == T0

    @scenario()
    async def test_the_same_schedule_leaves_a_held_row_to_its_holder(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        before = await store.row(key)
        await store.repository.register(after(1), [registration(key, spec="[]")])
        assert await store.row(key) == before._replace(spec="[]")
        assert await settle(store.repository, after(2), commit(claim)) == [Outcome.APPLIED]
        assert (await store.row(key)).spec == "[]"
        assert (await claim_one(store.repository, key, after(60))).spec == "[]"

    @scenario("supports_pause")
    async def test_the_same_schedule_leaves_a_paused_row_paused(self, store: Store) -> None:
        key = store.key()
        assert isinstance(store.repository, SupportsPause)
        await register(store.repository, key)
        await store.repository.pause(T0, [key])
        before = await store.row(key)
        await store.repository.register(after(1), [registration(key, 5, spec="[]")])
        assert await store.row(key) == before._replace(spec="[]")

    @scenario()
    async def test_the_same_schedule_leaves_a_failed_row_failed(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await settle(store.repository, T0, Fail(claim, "it broke"))
        before = await store.row(key)
        await store.repository.register(after(1), [registration(key, 5, spec="[]")])
        assert await store.row(key) == before._replace(spec="[]")

    @pytest.mark.parametrize("seconds", [-10, 0, 5, 100], ids=["overdue", "now", "sooner", "later"])
    @scenario()
    async def test_another_schedule_replaces_everything(self, store: Store, seconds: float) -> None:
        """I9. Spec, schedule, occurrence and execute_after change together, as the revision shows."""
        key = store.key()
        await register(store.repository, key, seconds=10)
        before = await store.row(key)
        await store.repository.register(after(1), [registration(key, seconds, jitter=2, spec="[]", schedule=OTHER)])
        assert await store.row(key) == before._replace(
            spec="[]",
            schedule=OTHER,
            occurrence=after(seconds),
            execute_after=after(seconds + 2),
            ready_at=after(seconds + 2),
            revision=before.revision + 1,
        )

    @scenario()
    async def test_another_schedule_starts_with_no_attempts(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await settle(store.repository, after(1), release(claim, 30))
        assert (await store.row(key)).attempt == 1
        await store.repository.register(after(2), [registration(key, 90, schedule=OTHER)])
        row = await store.row(key)
        assert_has(row, attempt=0, ready_at=after(90), locked_until=None)
        assert row.epoch == claim.epoch

    @pytest.mark.parametrize(("seconds", "ready"), [(5, 60), (60, 60), (90, 90)], ids=["sooner", "equal", "later"])
    @scenario()
    async def test_another_schedule_leaves_a_held_row_held(self, store: Store, seconds: float, ready: float) -> None:
        """I2, I4. It is ready neither before the lease expires nor before its own time."""
        key = store.key()
        await register(store.repository, key)
        await claim_one(store.repository, key)
        before = await store.row(key)
        await store.repository.register(after(1), [registration(key, seconds, spec="[]", schedule=OTHER)])
        assert await store.row(key) == before._replace(
            spec="[]",
            schedule=OTHER,
            occurrence=after(seconds),
            execute_after=after(seconds),
            ready_at=after(ready),
            revision=before.revision + 1,
            attempt=0,
        )

    @scenario()
    async def test_another_schedule_regards_an_extended_lease(self, store: Store) -> None:
        """I2. Of a held row, the end of the lease counts as it is by now."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await settle(store.repository, after(30), Extend(claim, after(300)))
        await store.repository.register(after(31), [registration(key, 40, schedule=OTHER)])
        row = await store.row(key)
        assert_has(row, locked_until=after(300), ready_at=after(300))

    @scenario()
    async def test_another_schedule_finds_a_row_held_past_the_end_of_its_lease(self, store: Store) -> None:
        """Nobody has claimed it since, so its holder may still settle, and learns that it is superseded."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.register(after(100), [registration(key, 80, schedule=OTHER)])
        row = await store.row(key)
        assert_has(row, lease=claim.lease, locked_until=T0 + LEASE, ready_at=after(80))
        assert await settle(store.repository, after(101), commit(claim)) == [Outcome.SUPERSEDED]

    @scenario("supports_pause")
    async def test_another_schedule_leaves_a_paused_row_paused(self, store: Store) -> None:
        key = store.key()
        assert isinstance(store.repository, SupportsPause)
        await register(store.repository, key)
        await store.repository.pause(T0, [key])
        await store.repository.register(after(1), [registration(key, 5, schedule=OTHER)])
        row = await store.row(key)
        assert_has(row, state=State.PAUSED, ready_at=None, schedule=OTHER, execute_after=after(5))

    @scenario()
    async def test_another_schedule_revives_a_failed_row(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await settle(store.repository, T0, Fail(claim, "it broke"))
        await store.repository.register(after(1), [registration(key, 5, schedule=OTHER)])
        row = await store.row(key)
        assert_has(row, state=State.SCHEDULED, error=None, attempt=0, ready_at=after(5))
        assert (await claim_one(store.repository, key, after(5))).attempt == 1

    @pytest.mark.parametrize("seconds", [-10, 0], ids=["overdue", "due now"])
    @pytest.mark.parametrize("force", [False, True])
    @scenario()
    async def test_keep_overdue_keeps_an_occurrence_that_is_due(self, store: Store, seconds: float, force: bool) -> None:
        """I7. A deployment that changes a schedule does not drop the run that is due; the rest changes."""
        key = store.key()
        await store.repository.register(after(-60), [registration(key, seconds - 1, jitter=1)])
        changed = registration(key, 500, spec="[]", schedule=OTHER, keep_overdue=True)
        await store.repository.register(T0, [changed], force=force)
        row = await store.row(key)
        assert_has(row, occurrence=after(seconds - 1), execute_after=after(seconds), ready_at=after(seconds))
        assert_has(row, spec="[]", schedule=OTHER, revision=1, attempt=0)

    @pytest.mark.parametrize("force", [False, True])
    @scenario()
    async def test_keep_overdue_replaces_an_occurrence_that_is_not_due(self, store: Store, force: bool) -> None:
        key = store.key()
        await store.repository.register(T0, [Registration(key, "{}", SCHEDULE, target(0)._replace(execute_after=T0 + TICK))])
        changed = registration(key, 500, schedule=OTHER, keep_overdue=True)
        await store.repository.register(T0, [changed], force=force)
        row = await store.row(key)
        assert_has(row, occurrence=after(500), execute_after=after(500), ready_at=after(500))

    @scenario()
    async def test_keep_overdue_leaves_a_held_row_held(self, store: Store) -> None:
        """I2. The occurrence that is kept is the one that is running: ready no sooner than the lease expires."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.register(after(1), [registration(key, 500, schedule=OTHER, keep_overdue=True)])
        row = await store.row(key)
        assert_has(row, execute_after=T0, locked_until=T0 + LEASE, ready_at=T0 + LEASE)
        assert await settle(store.repository, after(2), commit(claim)) == [Outcome.SUPERSEDED]

    @pytest.mark.parametrize("schedule", [SCHEDULE, OTHER], ids=["same schedule", "other schedule"])
    @scenario()
    async def test_force_takes_the_lease_away(self, store: Store, schedule: str) -> None:
        """I1. The former holder can't write any more, and the next one's token is greater."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.register(after(1), [registration(key, 5, spec="[]", schedule=schedule)], force=True)
        row = await store.row(key)
        assert row.epoch > claim.epoch
        assert row == Row(
            key=key,
            spec="[]",
            schedule=schedule,
            occurrence=after(5),
            execute_after=after(5),
            ready_at=after(5),
            lease=None,
            locked_until=None,
            epoch=epoch_at(after(1)),
            revision=claim.revision + 1,
            attempt=0,
            state=State.SCHEDULED,
            error=None,
        )
        settlements: list[Settlement] = [commit(claim), release(claim), Fail(claim, "late"), Extend(claim, FAR)]
        for settlement in settlements:
            assert await settle(store.repository, after(2), settlement) == [Outcome.LOST]
        assert await store.row(key) == row
        assert (await claim_one(store.repository, key, after(5))).epoch > row.epoch

    @scenario()
    async def test_force_replaces_the_occurrence_of_the_same_schedule(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key, seconds=10)
        await store.repository.register(after(1), [registration(key, 500)], force=True)
        row = await store.row(key)
        assert_has(row, occurrence=after(500), ready_at=after(500), revision=1)

    @scenario()
    async def test_force_raises_the_epoch_even_when_time_goes_back(self, store: Store) -> None:
        """I1."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.register(after(-600), [registration(key, -600)], force=True)
        assert (await store.row(key)).epoch == claim.epoch + 1
        assert (await claim_one(store.repository, key, after(-600))).epoch == claim.epoch + 2

    @scenario("supports_pause")
    async def test_force_leaves_a_paused_row_paused(self, store: Store) -> None:
        key = store.key()
        assert isinstance(store.repository, SupportsPause)
        await register(store.repository, key)
        await store.repository.pause(T0, [key])
        await store.repository.register(after(1), [registration(key, 5)], force=True)
        row = await store.row(key)
        assert_has(row, state=State.PAUSED, ready_at=None, revision=1)

    @scenario()
    async def test_force_revives_a_failed_row(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await settle(store.repository, T0, Fail(claim, "it broke"))
        await store.repository.register(after(1), [registration(key, 5)], force=True)
        row = await store.row(key)
        assert_has(row, state=State.SCHEDULED, error=None, attempt=0, ready_at=after(5))

    @scenario()
    async def test_a_schedule_that_was_changed_and_changed_back_is_another(self, store: Store) -> None:
        """I3, I9. A, B, A: the claim of the first A must not move the second."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.register(after(1), [registration(key, 200, schedule=OTHER)])
        await store.repository.register(after(2), [registration(key, 300)])
        assert (await store.row(key)).revision == claim.revision + 2
        assert await settle(store.repository, after(3), commit(claim)) == [Outcome.SUPERSEDED]
        row = await store.row(key)
        assert_has(row, occurrence=after(300), ready_at=after(300), locked_until=None)

    @scenario()
    async def test_repeating_a_registration_changes_nothing(self, store: Store) -> None:
        """I5. A resend, its answer having been lost."""
        key = store.key()
        await register(store.repository, key)
        for _ in range(2):
            await store.repository.register(after(1), [registration(key, 5, schedule=OTHER)])
            assert (await store.row(key)).revision == 1

    @scenario()
    async def test_the_epoch_does_not_fall_when_a_row_is_removed_and_made_anew(self, store: Store) -> None:
        """I1. A resource that has seen the old row's token must not refuse the new row's."""
        key = store.key()
        await register(store.repository, key)
        claims = []
        for second in range(3):
            claims.append(await claim_one(store.repository, key, after(second)))
            await settle(store.repository, after(second), release(claims[-1]))
        await store.repository.unregister(after(3), [key])
        await store.repository.register(after(4), [registration(key)])
        assert (await store.row(key)).epoch > claims[-1].epoch
        assert (await claim_one(store.repository, key, after(4))).epoch > claims[-1].epoch

    @scenario()
    async def test_a_batch_may_mix_new_and_present_rows(self, store: Store) -> None:
        new, same, other, elsewhere = *store.keys(3), store.key()
        await register(store.repository, same, other)
        await store.repository.register(
            after(1),
            [
                registration(new, 5),
                registration(same, 5, spec="[]"),
                registration(other, 5, schedule=OTHER),
                registration(elsewhere, 7),
            ],
        )
        rows = [await store.row(key) for key in (new, same, other, elsewhere)]
        assert [(row.ready_at, row.revision, row.spec) for row in rows] == [
            (after(5), 0, "{}"),
            (T0, 0, "[]"),
            (after(5), 1, "{}"),
            (after(7), 0, "{}"),
        ]

    @pytest.mark.parametrize("force", [False, True])
    @scenario()
    async def test_each_registration_of_a_batch_has_values_of_its_own(self, store: Store, force: bool) -> None:
        """I9. Of several partitions that take turns, of new rows and present ones, with what is overdue kept for some."""
        keys = store.mixed_keys(24)
        await store.repository.register(T0, [registration(key, 5) for key in keys if hash_of(key) % 2])
        before = {key: row for key, row in zip(keys, await store.rows(keys), strict=True) if row is not None}
        batch = [
            registration(
                *(key, 100 + number),
                jitter=number,
                spec=f"[{number}]",
                schedule=SCHEDULE if number % 4 == 0 else f"every {number} h",
                keep_overdue=hash_of(key) % 3 == 0,
            )
            for number, key in enumerate(keys)
        ]
        await store.repository.register(after(50), batch, force=force)
        for each, row in zip(batch, await store.rows(keys), strict=True):
            assert_has(row, key=each.key, spec=each.spec, schedule=each.schedule)
            same = each.key in before and each.schedule == SCHEDULE and not force
            target = before[each.key] if same or (each.key in before and each.keep_overdue) else each.target
            assert_has(row, occurrence=target.occurrence, execute_after=target.execute_after, ready_at=target.execute_after)
            assert_has(row, revision=int(each.key in before and not same))

    @scenario()
    async def test_a_batch_may_be_large_or_empty(self, store: Store) -> None:
        keys = store.many_keys()
        await store.repository.register(T0, [])
        for revision, schedule in enumerate([SCHEDULE, SCHEDULE, OTHER]):
            await store.repository.register(T0, [registration(key, schedule=schedule) for key in keys])
            rows = await store.rows(keys)
            assert [row and row.key for row in rows] == list(keys)
            assert {row.revision for row in rows if row} == {max(0, revision - 1)}

    @scenario()
    async def test_many_may_register_the_same_at_once(self, store: Store) -> None:
        """Every process of an application registers its static tasks when it starts."""
        keys = store.keys(20)
        workers = await store.workers(4)
        registrations = [registration(key, 5) for key in keys]
        await asyncio.gather(*[worker.register(T0, registrations) for worker in workers for _ in range(2)])
        for key in keys:
            row = await store.row(key)
            assert_has(row, revision=0, attempt=0, ready_at=after(5), epoch=epoch_at(T0))

    @scenario()
    async def test_of_many_that_register_one_key_at_once_each_is_counted(self, store: Store) -> None:
        """I3. Either may be last; none is lost half-way."""
        keys = [store.key(f"task {number}") for number in range(5)]
        workers = await store.workers(4)
        schedules = [f"every {number} s" for number in range(1, 9)]
        await asyncio.gather(
            *[
                workers[number % 4].register(
                    T0, [registration(key, 10 * number, spec=str(number), schedule=schedule) for key in keys]
                )
                for number, schedule in enumerate(schedules)
            ]
        )
        for key in keys:
            row = await store.row(key)
            number = schedules.index(row.schedule)
            assert_has(row, spec=str(number), occurrence=after(10 * number), ready_at=after(10 * number))
            assert row.revision == len(schedules) - 1

    @scenario()
    async def test_a_registration_in_a_race_with_a_claim_loses_neither(self, store: Store) -> None:
        """I3, I9. A claim has the old spec and time, or the new; the row has the new and is held if it was claimed."""
        keys = store.keys(20)
        first, second = await store.workers(2)
        await register(store.repository, *keys)
        changed = [registration(key, -5, spec="[]", schedule=OTHER) for key in keys]
        result, _ = await asyncio.gather(poll(first, keys[0].partition), second.register(T0, changed))
        claims = {claim.key: claim for claim in result.claims}
        for key in keys:
            row, claim = await store.row(key), claims.get(key)
            assert_has(row, spec="[]", schedule=OTHER, occurrence=after(-5), revision=1)
            if claim is None:
                assert row.locked_until is None
                continue
            assert (claim.spec, claim.schedule, claim.occurrence, claim.revision) in [
                ("{}", SCHEDULE, T0, 0),
                ("[]", OTHER, after(-5), 1),
            ]
            assert_has(row, lease=claim.lease, locked_until=T0 + LEASE, ready_at=T0 + LEASE)

    @scenario()
    async def test_a_race_of_force_and_commit_has_one_winner(self, store: Store) -> None:
        """I3. A forced registration is never undone by the commit of the claim that it took away."""
        keys = store.keys(10)
        first, second = await store.workers(2)
        await register(store.repository, *keys)
        result = await poll(first, keys[0].partition)
        outcomes, _ = await asyncio.gather(
            first.settle(after(1), [commit(claim) for claim in result.claims]),
            second.register(after(1), [registration(key, 500) for key in keys], force=True),
        )
        assert set(outcomes) <= {Outcome.APPLIED, Outcome.LOST}
        for key in keys:
            row = await store.row(key)
            assert_has(row, occurrence=after(500), ready_at=after(500), locked_until=None, revision=1)

    @scenario()
    async def test_rows_of_other_partitions_are_left_alone(self, store: Store) -> None:
        """I10."""
        one, other = store.key(), store.key()
        await register(store.repository, one, other)
        before = await store.row(other)
        await store.repository.register(T0, [registration(Key(one.partition, other.name), 5, schedule=OTHER)], force=True)
        assert await store.row(other) == before
