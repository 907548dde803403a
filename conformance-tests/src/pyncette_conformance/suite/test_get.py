"""get: the rows as they are stored."""

from pyncette.repository import Key, Row
from pyncette_conformance.builders import T0, after, claim_one, register, registration
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestGet"]


class TestGet(Conformance):
    @scenario()
    async def test_rows_come_in_the_order_of_the_keys(self, store: Store) -> None:
        one, two, three = store.keys(3)
        elsewhere = store.key(two.name)
        await store.repository.register(T0, [registration(key, number) for number, key in enumerate([one, three, elsewhere])])
        rows = await store.rows([elsewhere, three, two, one])
        assert [row and (row.key, row.ready_at) for row in rows] == [(elsewhere, after(2)), (three, after(1)), None, (one, T0)]

    @scenario()
    async def test_each_row_is_in_the_place_of_its_key(self, store: Store) -> None:
        """Also where keys of several partitions take turns, and some have no row."""
        keys = store.mixed_keys(20)
        present = {key: number for number, key in enumerate(keys) if number % 3}
        await store.repository.register(T0, [registration(key, number) for key, number in present.items()])
        for asked in (keys, keys[::-1]):
            found = [row and (row.key, row.ready_at) for row in await store.rows(asked)]
            assert found == [(key, after(present[key])) if key in present else None for key in asked]

    @scenario()
    async def test_an_absent_row_is_none(self, store: Store) -> None:
        key = store.key()
        assert list(await store.rows([key])) == [None]
        await register(store.repository, key)
        assert list(await store.rows([Key(key.partition, "other"), Key(store.partition(), key.name)])) == [None, None]

    @scenario()
    async def test_a_row_is_made_of_the_types_it_says(self, store: Store) -> None:
        """A plain tuple or a string in place of a key or a state would compare equal, and fail later."""
        key = store.key()
        await register(store.repository, key)
        await claim_one(store.repository, key)
        row = await store.row(key)
        assert type(row) is Row
        assert type(row.key) is Key
        for value, kind in zip(row, Row.__annotations__.values(), strict=True):
            assert isinstance(value, kind), f"{value!r} is not {kind}"
        for instant in (row.occurrence, row.execute_after, row.ready_at, row.locked_until):
            assert instant is not None
            assert instant.utcoffset() == T0.utcoffset(), "times are aware, in UTC"

    @scenario()
    async def test_reading_changes_nothing(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        await claim_one(store.repository, key)
        before = await store.row(key)
        await store.repository.list(key.partition, limit=10)
        assert await store.row(key) == before

    @scenario()
    async def test_a_batch_may_be_large_or_empty(self, store: Store) -> None:
        assert list(await store.rows([])) == []
        keys = store.many_keys()
        await register(store.repository, *keys[::2])
        rows = await store.rows(keys)
        assert [row and row.key for row in rows] == [key if number % 2 == 0 else None for number, key in enumerate(keys)]
