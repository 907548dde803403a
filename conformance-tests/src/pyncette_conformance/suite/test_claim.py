"""claim: which rows a caller gets, in which order, and what it learns about the others."""

from datetime import UTC, datetime, timedelta

import pytest

from pyncette.repository import Claim, ClaimResult, Extend, Fail, Key, Outcome, Registration, Row, State, SupportsPause, Target
from pyncette_conformance.builders import (
    FAR,
    LEASE,
    SCHEDULE,
    T0,
    TICK,
    advanced,
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

__all__ = ["TestClaim"]


def names_of(result: ClaimResult) -> list[str]:
    """Whose claims they are, in order."""
    return [claim.key.name for claim in result.claims]


class TestClaim(Conformance):
    @scenario()
    async def test_a_claim_carries_the_row_and_the_row_the_claim(self, store: Store) -> None:
        """I1, I9. Every field of both."""
        key = store.key()
        await store.repository.register(after(-20), [registration(key, -10, jitter=3, spec='{"a": 1}')])
        result = await poll(store.repository, key.partition)
        [claim] = result.claims
        epoch = advanced(0, T0)
        assert claim == Claim(
            key=key,
            spec='{"a": 1}',
            schedule=SCHEDULE,
            occurrence=after(-10),
            execute_after=after(-7),
            lease=claim.lease,
            epoch=epoch,
            attempt=1,
            revision=0,
        )
        assert isinstance(claim, Claim)
        assert isinstance(claim.key, Key)
        assert isinstance(claim.lease, str)
        assert claim.lease
        assert await store.row(key) == Row(
            key=key,
            spec='{"a": 1}',
            schedule=SCHEDULE,
            occurrence=after(-10),
            execute_after=after(-7),
            ready_at=T0 + LEASE,
            lease=claim.lease,
            locked_until=T0 + LEASE,
            epoch=epoch,
            revision=0,
            attempt=1,
            state=State.SCHEDULED,
            error=None,
        )

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_a_row_is_ready_from_its_very_instant_on(self, store: Store, by_name: bool) -> None:
        """I4. Not a microsecond before execute_after, but at it; the occurrence before the jitter does not count."""
        key = store.key()
        names = [key.name] if by_name else None
        await store.repository.register(after(-60), [registration(key, -5, jitter=5)])
        assert await poll(store.repository, key.partition, T0 - TICK, names=names) == ClaimResult([], T0, [])
        assert names_of(await poll(store.repository, key.partition, T0, names=names)) == [key.name]

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_a_lease_ends_at_its_very_instant(self, store: Store, by_name: bool) -> None:
        """I2. Until then the row is its holder's, from then on anybody's."""
        key = store.key()
        names = [key.name] if by_name else None
        await register(store.repository, key)
        await claim_one(store.repository, key)
        end = T0 + LEASE
        assert await poll(store.repository, key.partition, end - TICK, names=names) == ClaimResult([], end, [])
        assert names_of(await poll(store.repository, key.partition, end, names=names)) == [key.name]

    @scenario()
    async def test_an_expired_lease_is_taken_over_with_a_greater_token(self, store: Store) -> None:
        """I1, I7. The same occurrence, one more attempt, a new lease; the former holder is out."""
        key = store.key()
        await register(store.repository, key)
        claims = [await claim_one(store.repository, key)]
        for minute in range(1, 4):
            now = after(60 * minute)
            claims.append(await claim_one(store.repository, key, now))
            before, claim = claims[-2:]
            assert claim == before._replace(lease=claim.lease, epoch=advanced(before.epoch, now), attempt=before.attempt + 1)
            assert await settle(store.repository, now, commit(before)) == [Outcome.LOST]
            row = await store.row(key)
            assert_has(row, lease=claim.lease, epoch=claim.epoch, attempt=claim.attempt, locked_until=now + LEASE)
        assert len({claim.lease for claim in claims}) == len(claims)

    @scenario()
    async def test_tokens_rise_within_one_instant_and_when_time_goes_back(self, store: Store) -> None:
        """I1."""
        key = store.key()
        await store.repository.register(after(-100), [registration(key, -100)])
        epoch = 0
        for now in [T0, T0, T0, after(-50), after(-50), after(1)]:
            claim = await claim_one(store.repository, key, now)
            assert claim.epoch == advanced(epoch, now) > epoch
            epoch = claim.epoch
            await settle(store.repository, now, release(claim, -100))

    @scenario()
    async def test_attempts_count_the_claims_of_an_occurrence(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        for attempt in range(1, 4):
            claim = await claim_one(store.repository, key, after(attempt))
            assert claim.attempt == attempt
            await settle(store.repository, after(attempt), release(claim))
        claim = await claim_one(store.repository, key, after(9))
        await settle(store.repository, after(9), commit(claim, 10))
        assert (await claim_one(store.repository, key, after(10))).attempt == 1

    @scenario()
    async def test_the_longest_ready_come_first(self, store: Store) -> None:
        """I11. By ready_at, not by name, by age or by occurrence."""
        partition = store.partition()
        seconds = {"a": -30, "b": -10, "c": -50, "d": -20, "e": -40}
        await store.repository.register(
            after(-100), [registration(Key(partition, name), second) for name, second in seconds.items()]
        )
        order = [names_of(await poll(store.repository, partition, limit=2)) for _ in range(4)]
        assert order == [["c", "e"], ["a", "d"], ["b"], []]

    @scenario()
    async def test_what_is_ready_again_counts_from_then(self, store: Store) -> None:
        """I11. A row whose backlog is long goes to the end of the queue after each occurrence."""
        behind, other = store.keys(2)
        await register(store.repository, behind, seconds=-3600)
        await register(store.repository, other, seconds=-10)
        [claim] = (await poll(store.repository, behind.partition, limit=1)).claims
        assert claim.key == behind
        await settle(store.repository, T0, commit(claim, -3540))
        order = [names_of(await poll(store.repository, behind.partition, limit=1)) for _ in range(2)]
        assert order == [[other.name], [behind.name]]

    @scenario()
    async def test_named_rows_come_in_the_same_order(self, store: Store) -> None:
        partition = store.partition()
        await store.repository.register(
            after(-100), [registration(Key(partition, name), second) for name, second in {"a": -1, "b": -3, "c": -2}.items()]
        )
        assert names_of(await poll(store.repository, partition, limit=2, names=["c", "a", "b"])) == ["b", "c"]

    @pytest.mark.parametrize(("limit", "expected"), [(1, 1), (4, 4), (5, 5), (6, 5), (1000, 5)])
    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_no_more_than_the_limit_and_no_fewer_than_are_due(
        self, store: Store, limit: int, expected: int, by_name: bool
    ) -> None:
        keys = store.keys(5)
        await register(store.repository, *keys)
        names = [key.name for key in keys] if by_name else None
        assert len((await poll(store.repository, keys[0].partition, limit=limit, names=names)).claims) == expected

    @scenario()
    async def test_only_named_rows_are_claimed(self, store: Store) -> None:
        one, two, three = store.keys(3)
        await register(store.repository, one, two, three)
        result = await poll(store.repository, one.partition, names=[three.name, one.name])
        assert sorted(names_of(result)) == [one.name, three.name]
        assert names_of(await poll(store.repository, one.partition)) == [two.name]

    @scenario()
    async def test_the_limit_is_one_of_named_rows(self, store: Store) -> None:
        """Those that have been ready longer, but were not asked for, take no place."""
        *others, one, two, three = store.keys(8)
        await register(store.repository, *others, seconds=-100)
        await register(store.repository, one, two, three)
        names = [three.name, "absent", two.name, one.name]
        found = []
        for _ in range(2):
            result = await poll(store.repository, one.partition, limit=2, names=names)
            found += names_of(result)
            assert result.missing == ["absent"]
        assert sorted(found) == [one.name, two.name, three.name]

    @scenario()
    async def test_no_names_are_not_all_names(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        assert await poll(store.repository, key.partition, names=[]) == ClaimResult([], None, [])
        assert (await store.row(key)).lease is None

    @scenario()
    async def test_names_without_a_row_are_missing(self, store: Store) -> None:
        """I3. From this the engine puts back what a store has lost. Rows that can't be claimed now are not missing."""
        due, later, held, failed, removed = store.keys(5)
        elsewhere = store.key("elsewhere")
        await register(store.repository, due, held, failed, removed, elsewhere)
        await register(store.repository, later, seconds=10)
        await claim_one(store.repository, held)
        await settle(store.repository, T0, Fail(await claim_one(store.repository, failed), "it broke"))
        await store.repository.unregister(T0, [removed])
        names = ["never", due.name, later.name, held.name, failed.name, removed.name, elsewhere.name]
        for limit in [1, 1, 100]:
            result = await poll(store.repository, due.partition, limit=limit, names=names)
            assert sorted(result.missing) == sorted(["never", removed.name, elsewhere.name])

    @scenario()
    async def test_without_names_nothing_is_missing(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        assert (await poll(store.repository, key.partition)).missing == []
        assert (await poll(store.repository, store.partition())).missing == []

    @scenario()
    async def test_nothing_is_next_in_an_empty_partition(self, store: Store) -> None:
        partition = store.partition()
        assert await poll(store.repository, partition) == ClaimResult([], None, [])
        assert await poll(store.repository, partition, names=["a"]) == ClaimResult([], None, ["a"])

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_what_is_ready_next_was_not_claimed_now(self, store: Store, by_name: bool) -> None:
        """The ends of the leases of this very call don't count, those of earlier ones do; a rest of the backlog does."""
        keys = store.keys(4)
        partition = keys[0].partition
        names = [key.name for key in keys] if by_name else None
        await store.repository.register(
            after(-10), [registration(key, second) for key, second in zip(keys, [-3, -2, -1, 100], strict=True)]
        )
        seen = []
        for limit in [1, 1, 1, 1]:
            result = await poll(store.repository, partition, limit=limit, names=names)
            seen.append((names_of(result), result.next_ready_at))
        assert seen == [
            ([keys[0].name], after(-2)),
            ([keys[1].name], after(-1)),
            ([keys[2].name], T0 + LEASE),
            ([], T0 + LEASE),
        ]
        last = await poll(store.repository, partition, T0 + LEASE, limit=3, names=names)
        assert (len(last.claims), last.next_ready_at) == (3, after(100))

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_nothing_is_next_once_all_is_claimed(self, store: Store, by_name: bool) -> None:
        keys = store.keys(3)
        await register(store.repository, *keys)
        result = await poll(store.repository, keys[0].partition, limit=3, names=[key.name for key in keys] if by_name else None)
        assert (len(result.claims), result.next_ready_at) == (3, None)

    @scenario()
    async def test_what_is_ready_next_is_exact(self, store: Store) -> None:
        """I4. The engine sleeps until then; a microsecond less and it would poll too early, more and it would be late."""
        for now in [T0, datetime.fromisoformat("8999-12-31T23:59:59.999999+00:00")]:
            key = store.key()
            await store.repository.register(now, [Registration(key, "{}", SCHEDULE, Target(now + TICK, now + TICK))])
            assert await poll(store.repository, key.partition, now) == ClaimResult([], now + TICK, [])

    @scenario()
    async def test_only_named_rows_are_next(self, store: Store) -> None:
        soon, named = store.keys(2)
        await register(store.repository, soon, seconds=5)
        await register(store.repository, named, seconds=50)
        result = await poll(store.repository, soon.partition, names=[named.name, "absent"])
        assert (result.claims, result.next_ready_at) == ([], after(50))
        assert (await poll(store.repository, soon.partition)).next_ready_at == after(5)

    @scenario()
    async def test_failed_rows_are_neither_claimed_nor_next(self, store: Store) -> None:
        failed, later = store.keys(2)
        await register(store.repository, failed)
        await register(store.repository, later, seconds=86_500)
        await settle(store.repository, T0, Fail(await claim_one(store.repository, failed), "it broke"))
        for names in [None, [failed.name, later.name]]:
            assert await poll(store.repository, failed.partition, FAR, names=names) == ClaimResult([], after(86_500), [])
        assert await poll(store.repository, failed.partition, FAR, names=[failed.name]) == ClaimResult([], None, [])

    @scenario("supports_pause")
    async def test_paused_rows_are_neither_claimed_nor_next(self, store: Store) -> None:
        paused, later = store.keys(2)
        assert isinstance(store.repository, SupportsPause)
        await register(store.repository, paused)
        await register(store.repository, later, seconds=86_500)
        await store.repository.pause(T0, [paused])
        for names in [None, [paused.name, later.name]]:
            assert await poll(store.repository, paused.partition, FAR, names=names) == ClaimResult([], after(86_500), [])

    @scenario()
    async def test_an_extended_lease_is_respected(self, store: Store) -> None:
        """I2."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        assert await settle(store.repository, after(30), Extend(claim, after(300))) == [Outcome.APPLIED]
        assert await poll(store.repository, key.partition, after(300) - TICK) == ClaimResult([], after(300), [])
        assert (await claim_one(store.repository, key, after(300))).attempt == 2

    @scenario()
    async def test_a_caller_behind_the_times_gets_what_was_ready_then(self, store: Store) -> None:
        """I2, I4. A clock that is slow neither breaks a lease nor makes a row due."""
        held, due, later = store.keys(3)
        await register(store.repository, held, due, seconds=-100)
        await register(store.repository, later, seconds=-20)
        await claim_one(store.repository, held)
        result = await poll(store.repository, held.partition, after(-50))
        assert (names_of(result), result.next_ready_at) == ([due.name], after(-20))
        assert (await store.row(due)).locked_until == after(-50) + LEASE

    @pytest.mark.parametrize("lease_duration", [TICK, timedelta(days=365), timedelta(seconds=1, microseconds=1)], ids=str)
    @scenario()
    async def test_leases_are_of_any_length(self, store: Store, lease_duration: timedelta) -> None:
        key = store.key()
        await register(store.repository, key)
        await claim_one(store.repository, key, lease_duration=lease_duration)
        row = await store.row(key)
        assert_has(row, locked_until=T0 + lease_duration, ready_at=T0 + lease_duration)

    @scenario()
    async def test_a_lease_ends_with_time_at_the_latest(self, store: Store) -> None:
        """As :func:`pyncette.lifecycle.lease_end` says."""
        last = datetime.max.replace(tzinfo=UTC)
        now = last - timedelta(seconds=30)
        key = store.key()
        await store.repository.register(now, [Registration(key, "{}", SCHEDULE, Target(now, now))])
        await claim_one(store.repository, key, now)
        assert_has(await store.row(key), locked_until=last, ready_at=last)

    @scenario()
    async def test_leases_are_not_repeated(self, store: Store) -> None:
        """I1. Equality of the lease guards every write, so no two claims of a row may share one, in a life or the next."""
        key = store.key()
        leases = []
        for _ in range(3):
            await register(store.repository, key)
            for _ in range(3):
                claim = await claim_one(store.repository, key)
                leases.append(claim.lease)
                await settle(store.repository, T0, release(claim))
            await store.repository.unregister(T0, [key])
        assert len(set(leases)) == 9

    @scenario()
    async def test_a_batch_may_be_large(self, store: Store) -> None:
        keys = store.many_keys()
        await register(store.repository, *keys)
        result = await poll(store.repository, keys[0].partition, limit=len(keys))
        assert sorted(names_of(result)) == [key.name for key in keys]
        assert result.next_ready_at is None
        named = await poll(store.repository, keys[0].partition, T0 + LEASE, limit=len(keys), names=[key.name for key in keys])
        assert sorted(names_of(named)) == [key.name for key in keys]
        assert {claim.attempt for claim in named.claims} == {2}
        await store.repository.unregister(T0, keys[::2])
        names = [key.name for key in keys]
        assert sorted((await poll(store.repository, keys[0].partition, names=names)).missing) == names[::2]

    @scenario()
    async def test_rows_of_other_partitions_are_left_alone(self, store: Store) -> None:
        """I10."""
        one, other = store.key(), store.key()
        await register(store.repository, one, other)
        before = await store.row(other)
        assert [claim.key for claim in (await poll(store.repository, one.partition)).claims] == [one]
        assert await store.row(other) == before
