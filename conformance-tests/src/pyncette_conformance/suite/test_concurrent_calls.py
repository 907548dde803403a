"""Many calls of one repository object at once: each is answered for itself, however few connections there are."""

import asyncio

from pyncette.repository import Extend, Key, Outcome, Repository
from pyncette_conformance.builders import LEASE, T0, after, claim_one, commit, poll, register, registration, settle
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestConcurrentCalls"]

CALLS = 60


class TestConcurrentCalls(Conformance):
    @scenario()
    async def test_answers_are_not_mixed_up(self, store: Store) -> None:
        """I13. Each call gets its own answer, though all of them run concurrently."""
        keys = store.keys(CALLS)
        await store.repository.register(T0, [registration(key, number, spec=str(number)) for number, key in enumerate(keys)])
        rows = await asyncio.gather(*[store.row(key) for key in keys])
        assert [(row.key, row.spec) for row in rows] == [(key, str(number)) for number, key in enumerate(keys)]
        answers = await asyncio.gather(
            *[store.repository.unregister(T0, [key]) if number % 2 else store.rows([key]) for number, key in enumerate(keys)]
        )
        assert [list(answer) for answer in answers] == [[True] if number % 2 else [row] for number, row in enumerate(rows)]

    @scenario()
    async def test_whole_lives_of_rows_run_side_by_side(self, store: Store) -> None:
        """I14. Every kind of call in flight at once with every other."""

        async def live(repository: Repository, key: Key, number: int) -> None:
            await repository.register(T0, [registration(key, spec=str(number))])
            claim = await claim_one(repository, key)
            assert_has(claim, key=key, spec=str(number), attempt=1)
            assert await settle(repository, after(1), Extend(claim, after(100 + number))) == [Outcome.APPLIED]
            assert (await poll(repository, key.partition)).next_ready_at == after(100 + number)
            assert await settle(repository, after(2), commit(claim, 500 + number)) == [Outcome.APPLIED]
            assert [(row.key, row.occurrence) for row in await all_rows(repository, key.partition)] == [(key, after(500 + number))]
            assert list(await repository.unregister(T0, [key])) == [True]

        keys = [store.key() for _ in range(CALLS)]
        await asyncio.gather(*[live(store.repository, key, number) for number, key in enumerate(keys)])

    @scenario()
    async def test_batches_over_the_same_rows_do_not_block_each_other_for_good(self, store: Store) -> None:
        """I14. In opposite orders, so that stores which lock rows one by one meet in the middle."""
        keys = store.keys(40)
        workers = await store.workers(3)
        registrations = [registration(key) for key in keys]
        await store.repository.register(T0, registrations)
        claims = (await poll(store.repository, keys[0].partition)).claims
        extensions = [Extend(claim, after(90)) for claim in claims]
        for _ in range(3):
            outcomes = await asyncio.gather(
                *[worker.settle(T0, extensions) for worker in workers],
                *[worker.settle(T0, extensions[::-1]) for worker in workers],
            )
            assert [list(each) for each in outcomes] == [[Outcome.APPLIED] * len(keys)] * 6
            await asyncio.gather(
                *[worker.register(T0, registrations) for worker in workers],
                *[worker.register(T0, registrations[::-1]) for worker in workers],
            )
        for row in await store.rows(keys):
            assert row is not None
            assert_has(row, locked_until=after(90), revision=0)

    @scenario()
    async def test_a_listing_or_a_count_does_not_wait_for_a_backlog(self, store: Store) -> None:
        """I10. Reads and claims of one partition, and of another, continue together and all end."""
        busy, idle = store.keys(200), store.keys(3)
        await register(store.repository, *busy, *idle)
        claimed, listed, other = await asyncio.gather(
            asyncio.gather(*[poll(store.repository, busy[0].partition, limit=10) for _ in range(20)]),
            asyncio.gather(*[all_rows(store.repository, busy[0].partition, 50) for _ in range(3)]),
            poll(store.repository, idle[0].partition),
        )
        claims = [claim.key for result in claimed for claim in result.claims]
        claims += [claim.key for claim in (await poll(store.repository, busy[0].partition)).claims]
        assert sorted(claims) == list(busy)
        assert [sorted(row.key for row in rows) for rows in listed] == [list(busy)] * 3
        assert sorted(claim.key for claim in other.claims) == list(idle)
        assert (await poll(store.repository, busy[0].partition)).next_ready_at == T0 + LEASE
