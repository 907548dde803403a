"""claim by several at once: a row is never two callers', and none is forgotten."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from pyncette.repository import Claim, Commit, Key, Outcome, Repository, Target
from pyncette_conformance.builders import LEASE, T0, after, claim_one, commit, poll, register, settle
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestClaimInParallel"]

BACKLOG = 300
#: What a caller that always loses the race may see in a row before it gives up.
PATIENCE = 20


async def drain(repository: Repository, keys: Sequence[Key], limit: int, *, by_name: bool) -> list[Claim]:
    """Claim until nothing is left. A caller that meets another may get fewer than are due, even none."""
    claims: list[Claim] = []
    names = [key.name for key in keys] if by_name else None
    in_vain = 0
    while in_vain < PATIENCE:
        result = await poll(repository, keys[0].partition, limit=limit, names=names)
        assert len(result.claims) <= limit
        claims += result.claims
        if not result.claims and (result.next_ready_at is None or result.next_ready_at > T0):
            break
        in_vain = 0 if result.claims else in_vain + 1
    return claims


class TestClaimInParallel(Conformance):
    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_no_row_is_claimed_twice_and_none_is_forgotten(self, store: Store, by_name: bool) -> None:
        """I2, I3. A backlog, and more claimers than connections."""
        keys = store.keys(BACKLOG)
        workers = await store.workers(4)
        await register(store.repository, *keys)
        drained = await asyncio.gather(
            *[drain(workers[number % 4], keys, limit, by_name=by_name) for number, limit in enumerate([7, 1, 50, 13, 5, 20])]
        )
        claims = [claim for part in drained for claim in part]
        # What all of them passed over because another had its hand on it is there for the next.
        claims += await drain(store.repository, keys, BACKLOG, by_name=by_name)
        assert {key: count for key, count in Counter(claim.key for claim in claims).items() if count > 1} == {}
        assert {claim.key for claim in claims} == set(keys)
        by_key = {claim.key: claim for claim in claims}
        for row in await store.rows(keys):
            assert row is not None
            assert_has(row, lease=by_key[row.key].lease, epoch=by_key[row.key].epoch, attempt=1)
            assert row.locked_until == row.ready_at == T0 + LEASE

    @scenario()
    async def test_of_many_that_want_one_row_one_gets_it(self, store: Store) -> None:
        """I2."""
        keys = [store.key(f"task {number}") for number in range(10)]
        workers = await store.workers(4)
        await register(store.repository, *keys)
        for key in keys:
            results = await asyncio.gather(*[poll(worker, key.partition, limit=1) for worker in workers for _ in range(2)])
            claims = [claim for result in results for claim in result.claims]
            assert len(claims) == 1, f"{len(claims)} claims of one row"
            assert (await store.row(key)).lease == claims[0].lease

    @scenario()
    async def test_of_many_that_want_an_expired_row_one_gets_it(self, store: Store) -> None:
        """I1, I2."""
        keys = store.keys(10)
        workers = await store.workers(4)
        await register(store.repository, *keys)
        before = {claim.key: claim for claim in (await poll(store.repository, keys[0].partition)).claims}
        results = await asyncio.gather(*[poll(worker, keys[0].partition, T0 + LEASE) for worker in workers])
        claims = [claim for result in results for claim in result.claims]
        claims += (await poll(store.repository, keys[0].partition, T0 + LEASE)).claims
        assert sorted(claim.key for claim in claims) == list(keys)
        assert all(claim.epoch > before[claim.key].epoch for claim in claims)

    @scenario()
    async def test_a_late_commit_in_a_race_with_the_next_claim_has_one_winner(self, store: Store) -> None:
        """I1, I5. Either the commit moves the row and the claim finds nothing due, or it is lost and the claim has the row."""
        keys = store.keys(30)
        first, second = await store.workers(2)
        await register(store.repository, *keys)
        claims = (await poll(first, keys[0].partition)).claims
        now = T0 + LEASE
        outcomes, taken = await asyncio.gather(
            settle(first, now, *[commit(claim, 500) for claim in claims]), poll(second, keys[0].partition, now)
        )
        taken_over = {claim.key: claim for claim in taken.claims}
        for claim, outcome in zip(claims, outcomes, strict=True):
            row = await store.row(claim.key)
            if claim.key in taken_over:
                assert outcome is Outcome.LOST
                assert_has(row, lease=taken_over[claim.key].lease, occurrence=T0)
            else:
                assert outcome is Outcome.APPLIED
                assert_has(row, lease=claim.lease, occurrence=after(500), locked_until=None)

    @scenario()
    async def test_a_crowd_runs_every_occurrence_once(self, store: Store) -> None:
        """I2, I5, I7. Several workers go through the occurrences of several rows; each commit is sent twice at once."""
        keys = store.keys(12)
        last = 5
        workers = await store.workers(4)
        await register(store.repository, *keys)
        applied: Counter[tuple[Key, float]] = Counter()

        async def deliver(worker: Repository, now: float, commits: Sequence[Commit]) -> None:
            outcomes = await asyncio.gather(*[settle(worker, after(now), *commits) for _ in range(2)])
            for each, pair in zip(commits, zip(*outcomes, strict=True), strict=True):
                # LOST, if somebody has claimed the next occurrence between the two.
                assert pair.count(Outcome.APPLIED) == 1
                assert set(pair) <= {Outcome.APPLIED, Outcome.ALREADY, Outcome.LOST}
                applied[each.claim.key, (each.claim.occurrence - T0).total_seconds()] += 1

        async def work(worker: Repository) -> None:
            for now in range(last + 1):
                for _ in range(3):
                    claims = (await poll(worker, keys[0].partition, after(now), limit=5)).claims
                    commits = [
                        Commit(claim, Target(claim.occurrence + (after(1) - T0), claim.execute_after + (after(1) - T0)))
                        for claim in claims
                    ]
                    await deliver(worker, now, commits)

        await asyncio.gather(*[work(worker) for worker in workers])
        for now in range(last + 1):
            for _ in range(last + 1):
                rest = (await poll(store.repository, keys[0].partition, after(now))).claims
                await deliver(store.repository, now, [commit(claim, (claim.occurrence - T0).total_seconds() + 1) for claim in rest])
        assert applied == {(key, float(occurrence)): 1 for key in keys for occurrence in range(last + 1)}
        assert (await claim_one(store.repository, keys[0], after(last + 1))).occurrence == after(last + 1)
