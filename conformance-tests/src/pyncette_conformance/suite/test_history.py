"""The history: entries about keys, in the order of time, whatever became of the rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest

from pyncette.repository import Entry, Key, Position, SupportsHistory
from pyncette_conformance.builders import FAR, T0, TICK, after, refused, register
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.suite.test_memo import MEMOS
from pyncette_conformance.suite.test_names import FAMILIES, distinct

__all__ = ["TestHistory"]

#: Long ago: what expires by now may be anybody's, and is removed by anybody.
OLD = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
#: In the order of their bytes, which is that of no collation.
IDS = ("-", "-a", "0", "00", "9", "A", "B" * 64, "Z", "Za", "a", "a-", "b", "z")


def history(store: Store) -> SupportsHistory:
    return cast("SupportsHistory", store.repository)


def entry(key: Key, seconds: float = 0, id_: str = "a", *, expires_at: datetime = FAR, text: str = "{}") -> Entry:
    return Entry(key, Position(after(seconds), id_), expires_at, text)


async def append(store: Store, *entries: Entry) -> None:
    store.histories.update(each.key.partition for each in entries)
    await history(store).append(entries)


async def newest(store: Store, key: Key, limit: int = 2000, before: Position | None = None) -> Sequence[Entry]:
    """Of the key."""
    return list(await history(store).runs(key.partition, key.name, limit=limit, before=before))


async def newest_of_all(store: Store, partition: str, limit: int = 2000, before: Position | None = None) -> Sequence[Entry]:
    return list(await history(store).runs(partition, None, limit=limit, before=before))


class TestHistory(Conformance):
    @scenario("supports_history")
    async def test_there_is_none_at_first(self, store: Store) -> None:
        key = store.key()
        assert await newest(store, key) == []
        assert await newest_of_all(store, key.partition) == []
        assert await history(store).trim(key.partition, None, keep=0, limit=5) == 0
        await append(store)

    @scenario("supports_history")
    async def test_entries_come_back_the_newest_first(self, store: Store) -> None:
        """Whatever the order in which they were appended, those of one key and those of all."""
        one, other = store.keys(2)
        entries = [entry((one, other)[number % 2], number * 7 % 10, f"{number}", text=f"{number}") for number in range(10)]
        await append(store, *entries[:6])
        await append(store, *entries[6:])
        expected = sorted(entries, key=lambda each: each.position, reverse=True)
        assert await newest(store, one) == [each for each in expected if each.key == one]
        assert await newest(store, other) == [each for each in expected if each.key == other]
        assert await newest_of_all(store, one.partition) == expected

    @scenario("supports_history")
    async def test_those_of_one_instant_are_in_the_order_of_their_ids(self, store: Store) -> None:
        key = store.key()
        entries = [entry(key, 0, id_) for id_ in IDS]
        await append(store, *entries[::2])
        await append(store, *entries[1::2])
        assert await newest(store, key) == entries[::-1]
        for index in range(len(IDS)):
            assert await newest(store, key, before=entries[index].position) == entries[:index][::-1]
        assert await newest_of_all(store, key.partition, 2, entries[5].position) == [entries[4], entries[3]]

    @scenario("supports_history")
    async def test_instants_are_told_apart_to_the_microsecond(self, store: Store) -> None:
        key = store.key()
        entries = [Entry(key, Position(at, id_), FAR, "{}") for at, id_ in ((T0, "z"), (T0 + TICK, "a"), (T0 + 2 * TICK, "m"))]
        await append(store, *entries)
        assert await newest(store, key) == entries[::-1]
        assert await newest(store, key, before=Position(T0 + TICK, "")) == entries[:1]

    @scenario("supports_history")
    async def test_an_entry_that_is_appended_again_is_one(self, store: Store) -> None:
        """After a timeout nobody knows whether it arrived."""
        key = store.key()
        entries = [entry(key, number) for number in range(4)]
        await append(store, *entries[:2])
        await append(store, *entries)
        await append(store, *entries[:3])
        assert await newest(store, key) == entries[::-1]
        assert await newest_of_all(store, key.partition) == entries[::-1]
        assert await history(store).trim(key.partition, None, keep=0, limit=10) == 4

    @scenario("supports_history")
    async def test_a_listing_goes_on_where_it_was(self, store: Store) -> None:
        """Though entries were appended and removed since, also the one where it was."""
        one, other = store.keys(2)
        entries = [entry((one, other)[number % 2], number) for number in range(8)]
        await append(store, *entries)
        assert await newest_of_all(store, one.partition, 3) == [entries[7], entries[6], entries[5]]
        assert await newest(store, one, 2) == [entries[6], entries[4]]
        await append(store, entry(one, 100), entry(one, 3.5, "late"))
        assert await history(store).trim(one.partition, other.name, keep=0, limit=10) == 4
        assert await newest_of_all(store, one.partition, 2, entries[5].position) == [entries[4], entry(one, 3.5, "late")]
        assert await newest(store, one, 9, entries[4].position) == [entry(one, 3.5, "late"), entries[2], entries[0]]

    @scenario("supports_history")
    async def test_it_is_independent_of_the_rows(self, store: Store) -> None:
        """Once-offs are gone when they have run. Nor is there a row because of an entry."""
        gone, absent = store.keys(2)
        await register(store.repository, gone)
        await append(store, entry(gone), entry(absent, 1))
        await store.repository.unregister(T0, [gone])
        assert await newest_of_all(store, gone.partition) == [entry(absent, 1), entry(gone)]
        assert await all_rows(store.repository, gone.partition) == []
        assert list(await store.rows([gone, absent])) == [None, None]

    @pytest.mark.parametrize("family", ["case", "blanks", "quotes", "patterns", "beyond the basic plane", "longest"])
    @scenario("supports_history")
    async def test_names_and_partitions_are_told_apart_byte_by_byte(self, store: Store, family: str) -> None:
        """I13."""
        base = store.partition()
        names = distinct(FAMILIES[family])
        keys = [Key(base, name) for name in names]
        keys += [Key(base + name[:50], "task") for name in names if name]
        entries = [entry(key, number, f"{number}") for number, key in enumerate(dict.fromkeys(keys))]
        await append(store, *entries)
        for each in entries:
            assert await newest(store, each.key) == [each]
            assert await newest_of_all(store, each.key.partition, 1) == [
                max((other for other in entries if other.key.partition == each.key.partition), key=lambda other: other.position)
            ]

    @scenario("supports_history")
    async def test_texts_are_not_looked_into(self, store: Store) -> None:
        key = store.key()
        entries = [entry(key, number, text=text) for number, text in enumerate(MEMOS.values())]
        await append(store, *entries)
        assert await newest(store, key) == entries[::-1]
        assert await newest_of_all(store, key.partition) == entries[::-1]

    @scenario("supports_history")
    async def test_what_can_not_be_encoded_is_refused_or_kept(self, store: Store) -> None:
        """I10. One of Pyncette's errors; and the others can be appended anyway."""
        key = store.key()
        bad = entry(key, 1, text="a\ud83d")
        kept = not await refused(append(store, bad))
        await append(store, entry(key))
        assert await newest(store, key) == ([bad] if kept else []) + [entry(key)]
        await refused(history(store).runs(key.partition, "\ud83d", limit=5))

    @scenario("supports_history")
    async def test_expired_entries_are_removed_and_no_others(self, store: Store) -> None:
        """From their very instant on, of all partitions, so many at a time."""
        keys = [*store.keys(2), store.key()]
        expired = [Entry(keys[number % 3], Position(OLD, f"{number}"), OLD - number * TICK, "{}") for number in range(7)]
        kept = [
            Entry(keys[0], Position(OLD - TICK, "a"), OLD + TICK, "{}"),
            *[entry(key, number) for number, key in enumerate(keys)],
        ]
        await append(store, *expired[:4], *kept, *expired[4:])
        repository, left = history(store), len(expired)
        while removed := await repository.prune(OLD, limit=3):
            assert removed <= 3
            left -= removed
        assert left <= 0  # others may have been met with
        assert await newest(store, keys[0]) == [kept[1], kept[0]]
        assert [await newest(store, key) for key in keys[1:]] == [[kept[2]], [kept[3]]]
        assert await newest_of_all(store, keys[0].partition) == [kept[2], kept[1], kept[0]]
        assert await repository.prune(OLD, limit=3) == 0

    @scenario("supports_history")
    async def test_of_a_key_the_newest_are_kept(self, store: Store) -> None:
        one, other = store.keys(2)
        entries = [entry(key, number) for number in range(9) for key in (one, other)]
        await append(store, *[each._replace(position=Position(each.position.at, each.key.name)) for each in entries])
        repository = history(store)
        assert await repository.trim(one.partition, one.name, keep=9, limit=5) == 0
        assert await repository.trim(one.partition, one.name, keep=2, limit=4) == 4
        assert len(await newest(store, one)) == 5
        assert await repository.trim(one.partition, one.name, keep=2, limit=4) == 3
        assert [each.position.at for each in await newest(store, one)] == [after(8), after(7)]
        assert len(await newest(store, other)) == 9
        assert len(await newest_of_all(store, one.partition)) == 11

    @scenario("supports_history")
    async def test_of_a_partition_the_newest_are_kept(self, store: Store) -> None:
        """Whichever keys they are about; and nothing of another partition is touched."""
        one, other = store.keys(2)
        elsewhere = store.key()
        entries = [entry((one, other)[number % 2], number) for number in range(9)]
        await append(store, *entries, entry(elsewhere))
        assert await history(store).trim(one.partition, None, keep=3, limit=100) == 6
        assert await newest_of_all(store, one.partition) == [entries[8], entries[7], entries[6]]
        assert await newest(store, other) == [entries[7]]
        assert await newest(store, elsewhere) == [entry(elsewhere)]

    @scenario("supports_history")
    async def test_many_entries(self, store: Store) -> None:
        keys = store.many_keys()
        entries = [entry(key, number // 3, f"{number:05}", text="x" * 300) for number, key in enumerate(keys)]
        await append(store, *entries)
        page = 2 * len(keys) // 3
        found = await newest_of_all(store, keys[0].partition, page)
        assert found == entries[::-1][:page]
        assert await newest_of_all(store, keys[0].partition, page, found[-1].position) == entries[::-1][page:]

    @scenario("supports_history")
    async def test_all_workers_see_it(self, store: Store) -> None:
        """Also when several append at once, and the same."""
        workers = [cast("SupportsHistory", worker) for worker in await store.workers(3)]
        key = store.key()
        store.histories.add(key.partition)
        for number, worker in enumerate(workers):
            await worker.append([entry(key), entry(key, 1 + number, f"{number}")])
        for worker in workers:
            assert [each.position.id for each in await worker.runs(key.partition, key.name, limit=9)] == ["2", "1", "0", "a"]
