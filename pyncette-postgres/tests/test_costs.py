"""What a run costs the server, in numbers that no machine changes: versions of rows and bytes of the log."""

import asyncio
import contextlib
from datetime import timedelta

import asyncpg
import pytest
from own_server import own_server
from test_postgres import MINUTE, NOW, registration

from pyncette.looks import Looks
from pyncette.postgres import postgres_repository
from pyncette.repository import Commit, Key, Outcome, Target

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


@contextlib.asynccontextmanager
async def old_snapshot(url):
    """What a dump or a forgotten transaction has: a view of everything as it is now, for which the server keeps all versions of rows."""
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetch("SELECT count(*) FROM pg_class")
    yield
    await connection.close()


def test_claims_pass_what_an_old_snapshot_keeps_now_and_then_only(alone):
    rows, rounds = 1000, 10
    hour = timedelta(hours=1)

    async def test():
        url = alone.url(sslmode="disable")
        admin = await asyncpg.connect(url)

        async def entries(repository):
            """The entries of the index of times that were looked at so far."""
            await repository._connections.fetch("SELECT pg_stat_force_next_flush()")
            await repository._connections.fetch("SELECT 1")
            index = "old_partition_ready_at_idx"
            return await admin.fetchval("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1", index)

        async def claim(repository, now):
            before = await entries(repository)
            result = await repository.claim(now, "p", lease_duration=MINUTE, limit=rows)
            return result, await entries(repository) - before

        async with (
            postgres_repository(postgres_url=url, postgres_table_name="old", postgres_pool_size=1) as repository,
            old_snapshot(url),
        ):
            elapsed = [0.0]
            repository._looks = Looks(clock=lambda: elapsed[0], expensive=0.0)
            await repository.register(NOW, [registration(f"task {i}") for i in range(rows)])
            now = NOW
            for _ in range(rounds):
                result, looked_at = await claim(repository, now)
                assert len(result.claims) == rows
                await repository.settle(now, [Commit(each, Target(now + MINUTE, now + MINUTE)) for each in result.claims])
                now += 2 * MINUTE
            assert looked_at < 6 * rows  # what it takes, and what it and its like have left in the last seconds
            await repository.claim(now, "p", lease_duration=hour, limit=rows)
            result, looked_at = await claim(repository, now + MINUTE)
            assert not result.claims
            assert looked_at < 10
            # What somebody else resumes or registers in the past is missed for a while, and not for longer.
            async with postgres_repository(postgres_url=url, postgres_table_name="old", postgres_pool_size=1) as other:
                await other.register(now, [registration("late", NOW)])
                await other.register(now, [registration("paused", NOW)])
                await other.pause(now, [Key("p", "paused")])
            assert not (await repository.claim(now + MINUTE, "p", lease_duration=hour, limit=rows)).claims
            elapsed[0] = 60.0
            result, looked_at = await claim(repository, now + MINUTE)
            assert [each.key.name for each in result.claims] == ["late"]
            assert looked_at > 2 * rows * rounds
            # What this process does itself, it does not miss.
            await repository.resume(now, [Key("p", "paused")])
            assert len((await repository.claim(now + MINUTE, "p", lease_duration=hour, limit=rows)).claims) == 1
            await repository.register(now, [registration("own", NOW)])
            assert len((await repository.claim(now + MINUTE, "p", lease_duration=hour, limit=rows)).claims) == 1
        await admin.close()

    asyncio.run(test())
