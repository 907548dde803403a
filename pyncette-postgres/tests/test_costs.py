"""What a run costs the server, in numbers that no machine changes: versions of rows and bytes of the log."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from own_server import own_server
from test_postgres import MINUTE, NOW, registration

from pyncette.postgres import postgres_repository
from pyncette.repository import Commit, Outcome, Target

ROWS = 500


@pytest.fixture(scope="module")
def alone():
    """A server that nobody else writes to."""
    settings = {"full_page_writes": "off", "autovacuum": "off", "track_functions": "none"}
    with own_server(settings, "host all all all scram-sha-256\n") as place:
        yield place


async def log_position(connection):
    return await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


@pytest.mark.parametrize(("again", "bytes_each"), [(True, 1000), (False, 800)], ids=["recurring", "once"])
def test_a_run_writes_two_versions_of_its_row_and_little_to_the_log(alone, again, bytes_each):
    async def test():
        url = alone.url(sslmode="disable")
        table = "recurring" if again else "once"
        admin = await asyncpg.connect(url)
        async with postgres_repository(postgres_url=url, postgres_table_name=table, postgres_pool_size=1) as repository:
            await repository.register(NOW, [registration(f"task {i}", schedule="interval 60 @UTC") for i in range(ROWS)])
            runs, before = 0, await log_position(admin)
            for turn in range(4 if again else 1):
                now = NOW + turn * MINUTE
                result = await repository.claim(now, "p", lease_duration=timedelta(hours=1), limit=ROWS)
                following = Target(now + MINUTE, now + MINUTE) if again else None
                outcomes = await repository.settle(now, [Commit(each, following) for each in result.claims])
                runs += outcomes.count(Outcome.APPLIED)
            written = await log_position(admin) - before
            assert runs == ROWS * (4 if again else 1)
            assert written / runs < bytes_each
            await repository._connections.fetch("SELECT pg_stat_force_next_flush()")
            await repository._connections.fetch("SELECT 1")
            counts = f"SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = '{table}'"
            assert tuple(await admin.fetchrow(counts)) == ((ROWS, 2 * runs, 0) if again else (ROWS, ROWS, ROWS))
        await admin.close()

    asyncio.run(test())
