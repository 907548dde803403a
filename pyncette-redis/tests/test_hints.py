"""Hints by publish and subscribe: who hears them, who may not, and what happens to connections that are lost."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from conftest import free_port, wait_until

from pyncette import Pyncette
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.redis import redis_repository
from pyncette.repository import Hint
from pyncette.testing import running
from pyncette_conformance.hearing import SOON, listening

HINT = Hint("p", datetime(2026, 1, 1, tzinfo=UTC))


def test_nobody_hears_hints_of_their_own_nor_of_other_namespaces_nor_nonsense(url, namespace, raw):
    async def main():
        opened = [redis_repository(redis_url=url, redis_namespace=name) for name in (namespace, namespace, f"{namespace}2")]
        async with opened[0] as one, opened[1] as another, opened[2] as elsewhere, listening(one) as heard:
            await one.wake([HINT])
            await elsewhere.wake([HINT])
            command = "SPUBLISH" if "cluster" in url else "PUBLISH"
            for text in ("", "nonsense", "[]", "[1, 2]", '["x", ["p"]]', '["x", ["p", 1e99]]', "[" * 10_000, b"\xff"):
                await one._connections.send([(command, one._channel, text)])
            await another.wake([Hint("q", HINT.ready_at)])
            assert await heard() == [Hint("q", HINT.ready_at)]

    asyncio.run(main())


def test_databases_of_one_server_do_not_hear_each_other(servers):
    server = servers.start()

    async def main():
        async with (
            redis_repository(redis_url=server.url) as one,
            redis_repository(redis_url=server.url) as same,
            redis_repository(redis_url=server.url[:-1] + "1") as other,
            listening(one) as heard,
        ):
            await other.wake([HINT])
            await same.wake([Hint("q", HINT.ready_at)])
            assert await heard() == [Hint("q", HINT.ready_at)]

    asyncio.run(main())


def test_who_may_not_use_the_channel_runs_tasks_all_the_same(servers, raw, caplog):
    server = servers.start()
    raw(server.url).execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", "~*", "+@all", "resetchannels")
    url = f"redis://worker:s3cret@127.0.0.1:{server.port}?namespace=mine"
    ran = []
    app = Pyncette(url, poll_interval=timedelta(seconds=0.2))
    caplog.set_level("INFO", "pyncette")

    @app.dynamic_task()
    async def template(context):
        ran.append(context.name)

    async def main():
        async with app.client() as client:
            with pytest.raises(RepositoryError, match="denies its user"):
                await client.repository.wake([HINT])
            with pytest.raises(RepositoryError, match=r"denies its user .*channel"):
                await anext(client.repository.wakeups())
            async with running(app):
                await client.schedule_task(template, "x", execute_at=datetime.now(UTC))
                async with asyncio.timeout(SOON):
                    while not ran:
                        await asyncio.sleep(0.02)
            raw(server.url).execute_command("ACL", "SETUSER", "worker", "&mine:*")
            async with listening(client.repository):
                await client.repository.wake([HINT])

    asyncio.run(main())
    assert [record.levelname for record in caplog.records if "Can't receive hints" in record.message] == ["INFO"]
    assert "s3cret" not in caplog.text


def test_who_is_cut_off_is_told_and_can_listen_again(servers, raw):
    server = servers.start()

    async def main():
        async with redis_repository(redis_url=server.url) as repository:
            with pytest.raises(TransientRepositoryError):
                async with listening(repository) as heard:
                    assert raw(server.url).execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
                    await heard()
            async with redis_repository(redis_url=server.url) as another, listening(repository) as heard:
                await another.wake([HINT])
                assert await heard() == [HINT]

    asyncio.run(main())


@pytest.mark.parametrize("renamed", [False, True])
def test_in_a_cluster_hints_are_sharded_unless_its_servers_are_older_than_that(servers, raw, renamed):
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    if renamed:  # as before Redis 7
        options += ["--rename-command", "SPUBLISH", "", "--rename-command", "SSUBSCRIBE", ""]
    server = servers.start(*options)
    client = raw(server.url)
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: client.cluster("info")["cluster_state"] == "ok")

    async def main():
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with redis_repository(redis_url=url) as one, redis_repository(redis_url=url) as another, listening(one) as heard:
            channels = "CHANNELS" if renamed else "SHARDCHANNELS"
            assert client.execute_command("PUBSUB", channels) == [one._channel]
            await another.wake([HINT])
            assert await heard() == [HINT]

    asyncio.run(main())
