"""Behind PgBouncer as Debian has it, with its default settings: no start-up parameters, no session of one's own."""

import asyncio
import os
import uuid

import asyncpg
import pytest
from test_postgres import MINUTE, NOW, claim, registration

from pyncette.postgres import postgres_repository
from pyncette.postgres.connecting import Connecting
from pyncette.repository import Commit, Key, Outcome, Target


@pytest.fixture(scope="module")
def pooler_url():
    url = os.environ.get("PYNCETTE_TEST_PGBOUNCER_URL")
    if not url:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("needs a PgBouncer; run this by: python tools/servers.py postgres pgbouncer -- pytest ...")
    return url


@pytest.fixture
def pooled_table(pooler_url):
    name = f"test_{uuid.uuid4().hex}"
    yield name

    async def drop():
        connection = await asyncpg.connect(pooler_url, statement_cache_size=0)
        await connection.execute(f"DROP TABLE IF EXISTS {name}")
        await connection.close()

    asyncio.run(drop())


@pytest.fixture(params=["transaction", "session", "statement"])
def mode_url(request, pooler_url):
    return pooler_url if request.param == "transaction" else f"{pooler_url}_{request.param}"


def opened(url, table, **options):
    return postgres_repository(postgres_url=url, postgres_table_name=table, **options)


async def work(repository, prefix):
    """Several calls at once, of each kind."""

    async def one(number):
        keys = [Key(f"{prefix}{number}", str(i)) for i in range(20)]
        await repository.register(NOW, [registration(key.name, partition=key.partition) for key in keys])
        result = await repository.claim(NOW, keys[0].partition, lease_duration=MINUTE, limit=100)
        settlements = [Commit(each, Target(NOW + MINUTE, NOW + MINUTE)) for each in result.claims]
        assert await repository.settle(NOW, settlements) == [Outcome.APPLIED] * 20
        assert len([row for row in await repository.get(keys) if row is not None]) == 20
        assert (await repository.stats(NOW, keys[0].partition)).rows == 20
        assert await repository.pause(NOW, keys) == [True] * 20
        assert await repository.unregister(NOW, keys) == [True] * 20

    await asyncio.gather(*(one(number) for number in range(10)))


def test_all_calls_work_from_several_processes_at_once(mode_url, pooled_table):
    async def test():
        async with opened(mode_url, pooled_table) as one, opened(mode_url, pooled_table) as other:
            await asyncio.gather(work(one, "a"), work(other, "b"))

    asyncio.run(test())


def test_nothing_is_left_behind_in_sessions_that_others_use(pooler_url, pooled_table):
    async def test():
        async with opened(pooler_url, pooled_table) as repository:
            await work(repository, "a")
        connection = await asyncpg.connect(pooler_url, statement_cache_size=0)
        try:
            assert await connection.fetch("SELECT name FROM pg_prepared_statements WHERE name LIKE '%asyncpg%'") == []
            assert await connection.fetchval("SHOW enable_seqscan") == "on"
        finally:
            await connection.close()

    asyncio.run(test())


def test_another_isolation_level_of_the_role_makes_no_difference(server_url, table, monkeypatch):
    """A pooler takes no settings, so each transaction says it for itself."""

    async def pooled(self):
        return self.pooled("serializable")

    monkeypatch.setattr(Connecting, "find", pooled)

    async def test():
        async with opened(server_url, table, postgres_pool_size=1) as repository:
            await repository._connections.execute("SET default_transaction_isolation = 'serializable'")
            levels = ", ".join(
                f"current_setting('{which}')" for which in ("default_transaction_isolation", "transaction_isolation")
            )
            assert await repository._connections.fetch(f"SELECT {levels}") == [("serializable", "read committed")]
            await work(repository, "a")

    asyncio.run(test())


def test_a_pooler_that_comes_between_later_is_noticed(server_url, pooler_url, table):
    """Statements that somebody else has prepared in the session, or that are gone with it, are not prepared again."""

    async def test():
        async with opened(server_url, table, postgres_pool_size=1) as repository:
            await claim(repository)
            await repository._connections.execute("DEALLOCATE ALL")
            failures = 0
            for _ in range(3):
                try:
                    await claim(repository)
                except Exception as error:
                    failures += 1
                    assert type(error).__name__ == "TransientRepositoryError"
            assert failures == 1
            await repository._connections.execute("DEALLOCATE ALL")
            await claim(repository)

    asyncio.run(test())
