"""unregister: rows are removed at once, even while they are held."""

import asyncio

from pyncette.repository import Extend, Fail, Key, Outcome, Settlement
from pyncette_conformance.builders import FAR, T0, after, claim_one, commit, poll, register, registration, release, settle
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestUnregister"]


class TestUnregister(Conformance):
    @scenario()
    async def test_it_says_for_each_key_whether_there_was_a_row(self, store: Store) -> None:
        present, absent, other = store.keys(3)
        await register(store.repository, present, other)
        assert list(await store.repository.unregister(T0, [absent, present, Key(store.partition(), present.name)])) == [
            False,
            True,
            False,
        ]
        assert [row and row.key for row in await store.rows([present, absent, other])] == [None, None, other]
        assert list(await store.repository.unregister(T0, [present])) == [False]

    @scenario()
    async def test_each_answer_is_in_the_place_of_its_key(self, store: Store) -> None:
        """Also where keys of several partitions take turns."""
        keys = store.mixed_keys(20)
        present = [key for number, key in enumerate(keys) if number % 3]
        for asked in (keys, keys[::-1]):
            await register(store.repository, *present)
            assert list(await store.repository.unregister(T0, asked)) == [key in present for key in asked]

    @scenario()
    async def test_rows_are_removed_in_whatever_state(self, store: Store) -> None:
        keys = store.keys(6)
        await register(store.repository, *keys)
        claims = [await claim_one(store.repository, key) for key in keys[1:]]
        await settle(
            store.repository, T0, commit(claims[0]), release(claims[1]), Fail(claims[2], "it broke"), Extend(claims[3], FAR)
        )
        await store.repository.register(T0, [registration(keys[5], 9, schedule="every 90 s")])
        assert list(await store.repository.unregister(T0, keys)) == [True] * len(keys)
        assert list(await store.rows(keys)) == [None] * len(keys)
        assert await all_rows(store.repository, keys[0].partition) == []

    @scenario()
    async def test_a_removed_row_is_neither_claimed_nor_listed(self, store: Store) -> None:
        first, second = store.keys(2)
        await register(store.repository, first, second)
        await store.repository.unregister(T0, [first])
        result = await poll(store.repository, first.partition)
        assert [claim.key for claim in result.claims] == [second]
        assert [row.key for row in await all_rows(store.repository, first.partition)] == [second]
        named = await poll(store.repository, first.partition, names=[first.name])
        assert (named.claims, named.missing) == ([], [first.name])

    @scenario()
    async def test_the_holder_of_a_removed_row_finds_it_gone(self, store: Store) -> None:
        """I3. Nothing that a former holder sends brings the row back."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        assert list(await store.repository.unregister(T0, [key])) == [True]
        settlements: list[Settlement] = [commit(claim), release(claim), Fail(claim, "late"), Extend(claim, FAR)]
        for settlement in settlements:
            assert await settle(store.repository, after(1), settlement) == [Outcome.GONE]
            assert await store.rows([key]) == [None]
        assert (await poll(store.repository, key.partition, FAR)).claims == []

    @scenario()
    async def test_the_holder_of_a_removed_row_can_not_touch_the_new_one(self, store: Store) -> None:
        """I1, I3. A row created again under the same key, with the same schedule and revision, is not the old one."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await store.repository.unregister(T0, [key])
        await register(store.repository, key)
        row = await store.row(key)
        assert_has(row, lease=None, locked_until=None, revision=0, attempt=0)
        settlements: list[Settlement] = [commit(claim), release(claim), Fail(claim, "late"), Extend(claim, FAR)]
        for settlement in settlements:
            assert await settle(store.repository, after(1), settlement) == [Outcome.LOST]
        assert await store.row(key) == row
        await claim_one(store.repository, key, after(1))
        assert await settle(store.repository, after(2), commit(claim)) == [Outcome.LOST]

    @scenario()
    async def test_a_removed_row_leaves_nothing_behind(self, store: Store) -> None:
        """A row that is created again begins like any other, also after a failure."""
        key = store.key()
        await register(store.repository, key)
        await settle(store.repository, T0, Fail(await claim_one(store.repository, key), "it broke"))
        await store.repository.unregister(T0, [key])
        fresh = store.key()
        await store.repository.register(after(1), [registration(key, 9), registration(fresh, 9)])
        assert await store.row(key) == (await store.row(fresh))._replace(key=key)

    @scenario()
    async def test_a_batch_may_be_large_or_empty(self, store: Store) -> None:
        keys = store.many_keys()
        assert list(await store.repository.unregister(T0, [])) == []
        await register(store.repository, *keys[::2])
        assert list(await store.repository.unregister(T0, keys)) == [True, False] * (len(keys) // 2)
        assert await all_rows(store.repository, keys[0].partition) == []

    @scenario()
    async def test_of_many_that_remove_a_row_at_once_one_did_it(self, store: Store) -> None:
        keys = store.keys(10)
        workers = await store.workers(4)
        await register(store.repository, *keys)
        answers = await asyncio.gather(*[worker.unregister(T0, keys) for worker in workers])
        assert [sum(answer) for answer in zip(*answers, strict=True)] == [1] * len(keys)

    @scenario()
    async def test_a_removal_in_a_race_with_a_commit_wins(self, store: Store) -> None:
        """I3. Whichever is first, the row is gone at the end: a commit never brings it back."""
        keys = store.keys(20)
        first, second = await store.workers(2)
        await register(store.repository, *keys)
        result = await poll(first, keys[0].partition)
        outcomes, removed = await asyncio.gather(
            first.settle(after(1), [commit(claim) for claim in result.claims]), second.unregister(after(1), keys)
        )
        assert list(removed) == [True] * 20
        assert set(outcomes) <= {Outcome.APPLIED, Outcome.GONE}
        assert list(await store.rows(keys)) == [None] * 20
