"""Hints by LISTEN and NOTIFY: who hears them, and who does not."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
from test_poolers import pooled_table, pooler_url  # noqa: F401 - fixtures
from test_postgres import NOW, registration

from pyncette.errors import TransientRepositoryError
from pyncette.postgres import postgres_repository
from pyncette.postgres.hints import channel_of
from pyncette.repository import Hint
from pyncette_conformance.hearing import SOON, listening

HINT = Hint("p", NOW)


def test_nobody_hears_hints_of_their_own_nor_of_other_tables_nor_nonsense(server_url, table, sql):
    async def main():
        opened = [postgres_repository(postgres_url=server_url, postgres_table_name=name) for name in (table, table, f"{table}_2")]
        async with opened[0] as one, opened[1] as another, opened[2] as elsewhere:
            async with listening(one) as heard, listening(elsewhere) as heard_elsewhere:
                await one.wake([HINT])
                channel = channel_of(one._table)
                for payload in ("", "nonsense", "[]", "{}", "[1, 2]", '["x", ["p"]]', '["x", ["p", 1e99]]', "[" * 7000):
                    await one._connections.fetch("SELECT pg_notify($1, $2)", channel, payload)
                await another.wake([Hint("q", NOW)])
                assert await heard() == [Hint("q", NOW)]
                await another.wake([Hint("r", NOW)])
                assert await heard() == [Hint("r", NOW)]
                await postgres_notify(elsewhere)
                assert await heard_elsewhere() == [Hint("elsewhere", NOW)]

    async def postgres_notify(repository):
        payload = json.dumps(["x", ["elsewhere", int(NOW.timestamp() * 1_000_000)]])
        await repository._connections.fetch("SELECT pg_notify($1, $2)", channel_of(repository._table), payload)

    asyncio.run(main())
    sql(f"DROP TABLE {table}_2, {table}_2_history")


def test_who_is_cut_off_is_told_and_can_listen_again(server_url, table, sql):
    async def main():
        async with postgres_repository(
            postgres_url=f"{server_url}?application_name={table}", postgres_table_name=table
        ) as repository:
            with pytest.raises(TransientRepositoryError, match="was lost"):
                async with listening(repository) as heard:
                    found = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND query ILIKE 'LISTEN%'"
                    assert await asyncio.to_thread(sql, found, table) == [(True,)]
                    await heard()
            async with listening(repository):
                pass

    asyncio.run(main())


def test_what_is_told_in_a_transaction_is_heard_when_it_is_committed_and_only_then(server_url, table):
    async def main():
        async with (
            postgres_repository(postgres_url=server_url, postgres_table_name=table) as one,
            contextlib.aclosing(one.wakeups()) as wakeups,
        ):
            assert await anext(wakeups) == []
            user = await asyncpg.connect(server_url)
            with contextlib.suppress(ZeroDivisionError):
                async with user.transaction():
                    await one.within(user).register(NOW, [registration("rolled back", partition="p")])
                    raise ZeroDivisionError
            later = [registration("later", partition="q", at=NOW + timedelta(days=1))]
            async with user.transaction():
                joined = one.within(user)
                await joined.register(NOW, [registration("a", partition="r"), registration("b", partition="r"), *later])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await asyncio.shield(heard := asyncio.ensure_future(anext(wakeups)))
            # Heard by this process, too: its engine has no part in the transaction.
            assert await asyncio.wait_for(heard, SOON) == [Hint("r", NOW)]
            await user.close()

    asyncio.run(main())


def test_behind_a_pooler_one_tells_but_does_not_hear(pooler_url, pooled_table):  # noqa: F811
    async def main():
        async with postgres_repository(postgres_url=pooler_url, postgres_table_name=pooled_table) as pooled:
            assert [hints async for hints in pooled.wakeups()] == []
            [[port]] = await pooled._connections.fetch("SELECT current_setting('port')")
            parts = urlsplit(pooler_url)
            direct = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
            async with postgres_repository(postgres_url=direct, postgres_table_name=pooled_table) as repository:
                async with listening(repository) as heard:
                    await pooled.wake([HINT])
                    assert await heard() == [HINT]

    asyncio.run(main())


def test_a_hint_is_one_call_however_many_there_are(server_url, table):
    async def main():
        async with (
            postgres_repository(postgres_url=server_url, postgres_table_name=table) as one,
            postgres_repository(postgres_url=server_url, postgres_table_name=table) as another,
            listening(another) as heard,
        ):
            sent = []
            fetch = one._connections.fetch

            async def counting(*arguments, **options):
                sent.append(arguments)
                return await fetch(*arguments, **options)

            one._connections.fetch = counting
            hints = [Hint(f"{number}:{'x' * 300}", datetime(2026, 1, 1, tzinfo=UTC)) for number in range(200)]
            await one.wake(hints)
            await one.wake([])
            assert len(sent) == 1
            found = []
            while len(found) < len(hints):
                found += await heard()
            assert found == hints

    asyncio.run(main())
