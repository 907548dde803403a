"""What an acknowledged call wrote is in the store for every reader, even after the writer is gone."""

import asyncio

from pyncette.repository import Entry, Extend, Fail, Outcome, Position, SupportsHistory
from pyncette_conformance.builders import LEASE, T0, after, claim_one, commit, poll, register, registration, release, settle
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestDurability", "TestSharing"]


class TestDurability(Conformance):
    @scenario("durable")
    async def test_rows_outlive_the_repository_that_wrote_them(self, store: Store) -> None:
        """I3. Every kind of row, just as it was."""
        async with store.factory() as writer:
            keys = store.keys(6)
            await register(writer, *keys)
            await settle(writer, T0, commit(await claim_one(writer, keys[1]), memo="kept"))
            await settle(writer, T0, release(await claim_one(writer, keys[2])))
            await settle(writer, T0, Fail(await claim_one(writer, keys[3]), "it broke"))
            await settle(writer, T0, Extend(await claim_one(writer, keys[4]), after(500)))
            await writer.unregister(T0, keys[5:])
            before = list(await writer.get(keys))
        async with store.factory() as reader:
            assert list(await reader.get(keys)) == before
            assert len(await all_rows(reader, keys[0].partition)) == 5
            await reader.unregister(T0, keys)

    @scenario("durable", "supports_history")
    async def test_the_history_outlives_the_repository_that_wrote_it(self, store: Store) -> None:
        key = store.key()
        entry = Entry(key, Position(T0, "a"), after(500), "{}")
        store.histories.add(key.partition)
        async with store.factory() as writer:
            assert isinstance(writer, SupportsHistory)
            await writer.append([entry])
        async with store.factory() as reader:
            assert isinstance(reader, SupportsHistory)
            assert list(await reader.runs(*key, limit=5)) == [entry]

    @scenario("durable")
    async def test_a_claim_can_be_settled_after_a_restart(self, store: Store) -> None:
        """I5. By a claim's values alone; nothing of it is kept in the repository that made it."""
        key = store.key()
        async with store.factory() as first:
            await register(first, key)
            claim = await claim_one(first, key)
        async with store.factory() as second:
            assert await settle(second, after(1), commit(claim)) == [Outcome.APPLIED]
        async with store.factory() as third:
            assert await settle(third, after(1), commit(claim)) == [Outcome.ALREADY]
            await third.unregister(T0, [key])

    @scenario("durable")
    async def test_closing_during_calls_loses_nothing_that_was_acknowledged(self, store: Store) -> None:
        """I3, I14. A call during closing may fail; what was acknowledged is stored, and the store opens again."""
        keys = store.keys(50)
        async with store.factory() as writer:
            calls = [asyncio.create_task(register(writer, key)) for key in keys]
            await asyncio.wait([calls[0]])
        await asyncio.wait(calls)
        acknowledged = [key for key, call in zip(keys, calls, strict=True) if not call.cancelled() and call.exception() is None]
        async with store.factory() as reader:
            stored = {row.key for row in await all_rows(reader, keys[0].partition)}
            await reader.unregister(T0, keys)
        assert set(acknowledged) <= stored


class TestSharing(Conformance):
    @scenario("shared")
    async def test_repositories_see_each_others_rows(self, store: Store) -> None:
        """I3. As soon as a call has returned, and for every kind of call."""
        first, second = store.repository, await store.open()
        key = store.key()
        await register(first, key)
        assert await second.get([key]) == await first.get([key]) != [None]
        claim = await claim_one(second, key)
        assert (await poll(first, key.partition)).next_ready_at == T0 + LEASE
        assert await settle(first, after(1), Extend(claim, after(90))) == [Outcome.APPLIED]
        assert await second.get([key]) == await first.get([key])
        assert await settle(second, after(1), commit(claim)) == [Outcome.APPLIED]
        assert (await claim_one(first, key, after(60))).attempt == 1
        await first.unregister(T0, [key])
        assert list(await second.get([key])) == [None]
        assert (await second.list(key.partition, limit=10)).rows == []

    @scenario("shared")
    async def test_many_may_open_at_once(self, store: Store) -> None:
        """All processes of an application start together, each looking for its tables first."""
        repositories = await asyncio.gather(*[store.open() for _ in range(5)])
        keys = store.keys(5)
        await asyncio.gather(*[register(repository, key) for repository, key in zip(repositories, keys, strict=True)])
        for repository in repositories:
            assert [row and row.key for row in await repository.get(keys)] == list(keys)

    @scenario("shared")
    async def test_closing_one_repository_leaves_the_others_open(self, store: Store) -> None:
        key = store.key()
        async with store.factory() as other:
            await register(other, key)
        claim = await claim_one(store.repository, key)
        assert await settle(store.repository, T0, commit(claim)) == [Outcome.APPLIED]

    @scenario()
    async def test_a_store_that_says_that_nobody_else_writes_is_right(self, store: Store) -> None:
        """I7. Where a repository has ``shared = False`` the engine does not poll for what others have stored."""
        if store.repository.shared:
            return
        other = await store.open()
        key = store.key()
        await other.register(T0, [registration(key)])
        assert await store.rows([key]) == [None], "another repository's row is here, so shared must be True"
