"""What PostgreSQL makes of damaged rows: the shared tests."""

import contextlib
import functools

import asyncpg
import pytest

from pyncette.postgres import postgres_repository
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows


@pytest.fixture
def repository_factory(server_url, table):
    return functools.partial(postgres_repository, postgres_url=server_url, postgres_table_name=table)


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self, server_url, table):
        async def damage(repository, key, field, junk):
            if field in (RECORD, INDEX) or junk is MISSING or isinstance(junk, bytes):
                return False
            # Columns have types, and what they refuse can't be there. Somebody may have taken away a NOT NULL.
            connection = await asyncpg.connect(server_url)
            try:
                if junk is None and field not in ("ready_at", "lease", "locked_until", "error"):
                    await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {field} DROP NOT NULL")
                value = "NULL" if junk is None else "'" + str(junk) + "'"
                with contextlib.suppress(asyncpg.DataError, asyncpg.PostgresSyntaxError):
                    await connection.execute(f"UPDATE {table} SET {field} = {value} WHERE partition = $1 AND name = $2", *key)
                    return True
            finally:
                await connection.close()
            return False

        return damage
