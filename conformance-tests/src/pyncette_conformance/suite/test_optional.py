"""What a store may offer beyond the contract: counting, its partitions, its clock."""

import time
from datetime import timedelta

from pyncette.clock import to_microseconds
from pyncette.repository import Fail, Stats, SupportsPartitions, SupportsPause, SupportsServerTime, SupportsStats
from pyncette_conformance.builders import LEASE, T0, TICK, after, claim_one, poll, register, settle
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestPartitions", "TestServerTime", "TestStats"]


class TestStats(Conformance):
    @scenario("supports_stats")
    async def test_an_empty_partition_counts_nothing(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsStats)
        assert await store.repository.stats(T0, store.partition()) == Stats(rows=0, due=0, oldest_due=None, failed=0)

    @scenario("supports_stats")
    async def test_rows_due_rows_and_failed_rows_are_counted(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsStats)
        keys = store.keys(8)
        partition = keys[0].partition
        await register(store.repository, *keys[:3], store.key(), seconds=5)
        await register(store.repository, *keys[3:5], seconds=-7)
        await register(store.repository, *keys[5:], seconds=-100)
        assert await store.repository.stats(T0, partition) == Stats(rows=8, due=5, oldest_due=after(-100), failed=0)
        for key in keys[5:7]:
            await settle(store.repository, T0, Fail(await claim_one(store.repository, key), "it broke"))
        await store.repository.unregister(T0, keys[7:])
        assert await store.repository.stats(T0, partition) == Stats(rows=7, due=2, oldest_due=after(-7), failed=2)

    @scenario("supports_stats")
    async def test_a_row_is_due_from_its_very_instant_on(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsStats)
        key = store.key()
        await register(store.repository, key, seconds=5)
        counts = [await store.repository.stats(now, key.partition) for now in (after(5) - TICK, after(5))]
        assert counts == [Stats(rows=1, due=0, oldest_due=None, failed=0), Stats(rows=1, due=1, oldest_due=after(5), failed=0)]

    @scenario("supports_stats")
    async def test_a_held_row_is_due_when_its_lease_ends(self, store: Store) -> None:
        """I7. A row whose worker has died is work that waits."""
        assert isinstance(store.repository, SupportsStats)
        key = store.key()
        await register(store.repository, key)
        await claim_one(store.repository, key)
        end = T0 + LEASE
        counts = [await store.repository.stats(now, key.partition) for now in (end - TICK, end)]
        assert [(count.due, count.oldest_due) for count in counts] == [(0, None), (1, end)]

    @scenario("supports_stats", "supports_pause")
    async def test_paused_rows_are_not_due(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsStats)
        assert isinstance(store.repository, SupportsPause)
        key = store.key()
        await register(store.repository, key)
        await store.repository.pause(T0, [key])
        assert await store.repository.stats(T0, key.partition) == Stats(rows=1, due=0, oldest_due=None, failed=0)

    @scenario("supports_stats")
    async def test_many_rows_are_counted(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsStats)
        keys = store.many_keys()
        await register(store.repository, *keys)
        await poll(store.repository, keys[0].partition, limit=5)
        count = await store.repository.stats(T0, keys[0].partition)
        assert count == Stats(rows=len(keys), due=len(keys) - 5, oldest_due=T0, failed=0)


class TestPartitions(Conformance):
    @scenario("supports_partitions")
    async def test_partitions_with_rows_are_told_once_each(self, store: Store) -> None:
        """Whatever state their rows are in. Others may have rows in the store, too."""
        assert isinstance(store.repository, SupportsPartitions)
        several, single, held, failed, empty = *[store.keys(3) for _ in range(4)], store.partition()
        await register(store.repository, *several, single[0], held[0], failed[0])
        await claim_one(store.repository, held[0])
        await settle(store.repository, T0, Fail(await claim_one(store.repository, failed[0]), "it broke"))
        found = list(await store.repository.partitions())
        assert len(found) == len(set(found))
        assert {keys[0].partition for keys in (several, single, held, failed)} <= set(found)
        assert empty not in found

    @scenario("supports_partitions")
    async def test_many_partitions_are_told(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsPartitions)
        keys = [store.key() for _ in range(120)]
        await register(store.repository, *keys)
        assert {key.partition for key in keys} <= set(await store.repository.partitions())

    @scenario("supports_partitions")
    async def test_a_partition_ends_with_its_last_row(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsPartitions)
        one, other = store.keys(2)
        await register(store.repository, one, other)
        found = []
        for key in (one, other):
            await store.repository.unregister(T0, [key])
            found.append(one.partition in await store.repository.partitions())
        assert found == [True, False]

    @scenario("supports_partitions")
    async def test_names_of_partitions_come_back_as_they_were_given(self, store: Store) -> None:
        """I13."""
        assert isinstance(store.repository, SupportsPartitions)
        base = store.partition()
        names = [
            store.adopt(base + suffix) for suffix in ("", ":", ":a", " ", "é", "e\u0301", "É", "{a}", "%", "'\"\\", "\n", "🙂")
        ]
        for name in names:
            await register(store.repository, store.key()._replace(partition=name))
        assert sorted(name for name in await store.repository.partitions() if name.startswith(base)) == sorted(names)


class TestServerTime(Conformance):
    @scenario("supports_server_time")
    async def test_it_is_aware_and_in_utc(self, store: Store) -> None:
        assert isinstance(store.repository, SupportsServerTime)
        now = await store.repository.server_time()
        assert now.utcoffset() == timedelta()
        # A zone mistaken for another is off by a quarter of an hour or more, a unit by years; a server's clock hardly.
        assert abs(to_microseconds(now) / 1e6 - time.time()) < 600

    @scenario("supports_server_time")
    async def test_it_goes_forward_as_time_does(self, store: Store) -> None:
        """I2, I4. Workers align themselves with it, so it must not be the time of a transaction or a cached one."""
        assert isinstance(store.repository, SupportsServerTime)
        began = time.monotonic()
        first = last = await store.repository.server_time()
        for _ in range(20):
            now = await store.repository.server_time()
            assert now >= last
            last = now
            await register(store.repository, store.key())
        elapsed = time.monotonic() - began
        assert last > first
        assert last - first <= timedelta(seconds=elapsed + 1)

    @scenario("supports_server_time")
    async def test_all_workers_see_one_clock(self, store: Store) -> None:
        """I2."""
        clocks = [worker for worker in await store.workers(3) if isinstance(worker, SupportsServerTime)]
        began = time.monotonic()
        readings = [await clock.server_time() for clock in clocks]
        assert abs(readings[-1] - readings[0]) <= timedelta(seconds=time.monotonic() - began + 1)
