"""What MySQL and MariaDB make of damaged rows: the shared tests, and what only they let one do."""

import contextlib
import functools

import aiomysql
import pytest

from pyncette.mysql import mysql_repository
from pyncette.repository import Key, State
from pyncette_conformance.builders import T0, poll, register
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows, claim_all
from pyncette_conformance.store import all_rows, scenario


@pytest.fixture
def repository_factory(server, table):
    return functools.partial(mysql_repository, **server, mysql_table_name=table)


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self, connect, table):
        async def damage(repository, key, field, junk):
            if field in (RECORD, INDEX) or junk is MISSING:
                return False
            literal = "%s" if not isinstance(junk, bytes) else f"x'{junk.hex()}'"
            values = [] if isinstance(junk, bytes) else [junk]
            # Columns have types: what they refuse can't be there, and of what they turn into something else we know nothing.
            with contextlib.suppress(aiomysql.MySQLError):
                async with connect() as run:
                    await run(f"UPDATE {table} SET `{field}` = {literal} WHERE `partition` = %s AND name = %s", *values, *key)
                    [[found]] = await run(f"SELECT `{field}` FROM {table} WHERE `partition` = %s AND name = %s", *key)
                return type(found) is type(junk) and found == junk
            return False

        return damage

    @scenario()
    async def test_a_name_that_is_no_text_goes_by_another(self, store, connect, table):
        """I10, I15."""
        [*_, key] = store.keys(3)
        await register(store.repository, key)
        columns = (
            "spec, schedule, occurrence, execute_after, ready_at, lease, locked_until, epoch, revision, attempt, state, error, memo"
        )
        async with connect() as run:
            for name in ("FF01", "FF02"):
                await run(
                    f"INSERT INTO {table} SELECT `partition`, UNHEX('{name}'), {columns} FROM {table} "
                    "WHERE `partition` = %s AND name = %s",
                    *key,
                )
        names = {"x'ff01'", "x'ff02'"}
        for limit in (1, 2, 9):
            listed = await all_rows(store.repository, key.partition, limit)
            assert sorted(row.key.name for row in listed) == sorted({*names, key.name})
        claims, unreadable = await claim_all(store.repository, key.partition)
        assert list(claims) == [key]
        assert {row.key.name for row in unreadable} == names
        assert {row.state for row in unreadable} == {State.UNREADABLE}
        again = await poll(store.repository, key.partition)
        assert (again.claims, list(again.unreadable)) == ([], [])
        keys = [Key(key.partition, name) for name in (*names, "x'ff03'", "x'no'")]
        assert await store.repository.unregister(T0, keys) == [True, True, False, False]
        assert [row.key for row in await all_rows(store.repository, key.partition)] == [key]

    @scenario()
    async def test_partitions_that_are_no_text_are_passed_over(self, store, connect, table):
        key = store.key()
        await register(store.repository, key)
        async with connect() as run:
            await run(
                f"INSERT INTO {table} SELECT UNHEX('FF'), name, spec, schedule, occurrence, execute_after, ready_at, lease, "
                f"locked_until, epoch, revision, attempt, state, error, memo FROM {table} WHERE name = %s",
                key.name,
            )
        assert await store.repository.partitions() == [key.partition]
