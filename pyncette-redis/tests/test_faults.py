"""Servers and networks that fail: what a caller sees of it, and that it is over when it is over."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta

import pytest
from conftest import free_port, wait_until
from redis.asyncio.connection import AbstractConnection

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.redis import redis_repository
from pyncette.repository import Commit, Key, Outcome, Registration, Target
from pyncette_conformance.faults.proxy import Proxy

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY = Key("p", "a")


def register(repository, *names, spec="{}"):
    return repository.register(NOW, [Registration(Key("p", name), spec, "s", Target(NOW, NOW)) for name in names])


def claim(repository, **options):
    return repository.claim(NOW, "p", lease_duration=MINUTE, limit=100, **options)


async def lives(repository):
    """All of a row's life, with a name of its own."""
    name = str(time.monotonic_ns())
    await register(repository, name)
    [claimed] = (await claim(repository, names=[name])).claims
    assert await repository.settle(NOW, [Commit(claimed, None)]) == [Outcome.APPLIED]


async def comes_back(repository, within):
    """How many calls fail before one succeeds again, which must be soon. It is what the engine does: try, wait, try."""
    failed = 0
    async with asyncio.timeout(within):
        while True:
            try:
                await lives(repository)
                return failed
            except TransientRepositoryError:
                failed += 1
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def proxied(server_url, namespace, **options):
    address, _, database = server_url.removeprefix("redis://").partition("/")
    host, _, port = address.rpartition(":")
    async with Proxy(host, int(port)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/{database}"
        async with redis_repository(redis_url=url, redis_namespace=namespace, **options) as repository:
            yield proxy, repository


class TestNetwork:
    def test_a_call_into_a_black_hole_ends_in_time_and_the_next_works(self, server_url, namespace):
        # Connections that are dead but look alive are the worst: all of them have to be given up, not one for each timeout.
        async def test():
            async with proxied(server_url, namespace, redis_timeout=2) as (proxy, repository):
                await asyncio.gather(*(register(repository, str(i)) for i in range(10)))
                assert proxy.open_connections > 1
                proxy.freeze()
                started = time.monotonic()
                with pytest.raises(TransientRepositoryError) as caught:
                    await claim(repository)
                assert 1.8 < time.monotonic() - started < 8
                assert str(caught.value) == (
                    f"{repository._connections.where} did not answer within 2 s; find out what keeps it busy, or raise redis_timeout"
                )
                await asyncio.gather(*(lives(repository) for _ in range(10)))

        asyncio.run(test())

    def test_calls_in_a_long_outage_all_end_in_time_and_it_recovers_by_itself(self, server_url, namespace):
        async def test():
            async with proxied(server_url, namespace, redis_timeout=2) as (proxy, repository):
                await lives(repository)
                proxy.freeze()
                proxy.freeze_new = True
                until = time.monotonic() + 3
                while time.monotonic() < until:
                    started = time.monotonic()
                    results = await asyncio.gather(*(claim(repository) for _ in range(30)), return_exceptions=True)
                    assert {type(each) for each in results} == {TransientRepositoryError}
                    assert time.monotonic() - started < 6
                proxy.freeze_new = False  # the old ones stay dead
                await comes_back(repository, within=30)

        asyncio.run(test())

    def test_a_slow_network_is_no_fault(self, server_url, namespace):
        async def test():
            async with proxied(server_url, namespace) as (proxy, repository):
                proxy.delay = 0.1
                await lives(repository)

        asyncio.run(test())

    def test_a_call_whose_reply_is_lost_is_reported_and_not_sent_again(self, server_url, namespace):
        async def test():
            async with proxied(server_url, namespace) as (proxy, repository):
                await register(repository, "a", "b", "c")
                calls = {
                    "claim": lambda: claim(repository),
                    "unregister": lambda: repository.unregister(NOW, [KEY]),
                }
                for name, call in calls.items():
                    await repository.get([KEY])
                    proxy.cut_replies()
                    with pytest.raises(TransientRepositoryError) as caught:
                        await call()
                    assert "can't be reached (Connection closed by server)" in str(caught.value), name
                # Each was applied once: sent again, the claim would have found nothing, and said so.
                rows = await repository.get([Key("p", name) for name in "abc"])
                assert [row and row.attempt for row in rows] == [None, 1, 1]

        asyncio.run(test())

    def test_connections_that_were_reset_while_idle_are_not_even_noticed(self, server_url, namespace):
        async def test():
            async with proxied(server_url, namespace) as (proxy, repository):
                for _ in range(5):
                    await asyncio.gather(*(lives(repository) for _ in range(3)))
                    proxy.drop()
                    await asyncio.sleep(0.05)

        asyncio.run(test())

    def test_none_of_a_burst_fails_while_the_server_answers_and_claims_are_not_behind_it(self, server_url, namespace):
        async def test():
            options = {"redis_timeout": 2, "redis_max_connections": 4}
            async with proxied(server_url, namespace, **options) as (proxy, repository):
                await register(repository, "a")
                proxy.delay = 0.05
                burst = [asyncio.create_task(register(repository, str(i))) for i in range(200)]  # for longer than the timeout
                await asyncio.sleep(0.2)
                claims = (await claim(repository)).claims
                assert set(await repository.settle(NOW, [Commit(each, None) for each in claims])) == {Outcome.APPLIED}
                assert sum(each.done() for each in burst) < 100
                await asyncio.gather(*burst)

        asyncio.run(test())

    @pytest.mark.parametrize("count", [1, 7])
    def test_no_more_connections_are_opened_than_allowed_and_calls_wait_for_them(self, server_url, namespace, count):
        async def test():
            async with proxied(server_url, namespace, redis_max_connections=count) as (proxy, repository):
                await asyncio.gather(*(lives(repository) for _ in range(50)))
                assert proxy.open_connections <= count

        asyncio.run(test())


class TestCancellation:
    def test_of_many_calls_leaks_no_connection(self, server_url, namespace, monkeypatch):
        made = []
        original = AbstractConnection.__init__

        def make(connection, **options):
            made.append(connection)
            original(connection, **options)

        monkeypatch.setattr(AbstractConnection, "__init__", make)

        async def test():
            async with redis_repository(redis_url=server_url, redis_namespace=namespace, redis_max_connections=3) as repository:
                for i in range(40):
                    calls = [asyncio.create_task(lives(repository)) for _ in range(6)]
                    await asyncio.sleep(0.0005 * i)
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                    assert sum(each.is_connected for each in made) <= 3
                await asyncio.gather(*(lives(repository) for _ in range(6)))

        asyncio.run(test())


class TestClosing:
    def test_lets_calls_on_their_way_end_and_refuses_those_that_wait(self, server_url, namespace):
        async def test():
            async with contextlib.AsyncExitStack() as stack:
                options = {"redis_max_connections": 3}  # of which claims and settlements have one for themselves
                proxy, repository = await stack.enter_async_context(proxied(server_url, namespace, **options))
                proxy.delay = 0.05
                calls = [asyncio.create_task(register(repository, str(i))) for i in range(4)]
                await asyncio.sleep(0.02)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in results] == [type(None), type(None), RepositoryError, RepositoryError]
            assert str(results[3]) == f"The repository of {repository._connections.where} is closed; use it within its context"

        asyncio.run(test())

    def test_waits_for_no_server_that_does_not_answer_and_leaves_nothing_open(self, server_url, namespace):
        async def test():
            address, _, database = server_url.removeprefix("redis://").partition("/")
            host, _, port = address.rpartition(":")
            async with Proxy(host, int(port)) as proxy:
                url = f"redis://127.0.0.1:{proxy.port}/{database}"
                async with redis_repository(redis_url=url, redis_namespace=namespace, redis_timeout=1.5) as repository:
                    await asyncio.gather(*(lives(repository) for _ in range(3)))
                    proxy.freeze()
                    with contextlib.suppress(TransientRepositoryError):
                        await claim(repository)
                    started = time.monotonic()
                assert time.monotonic() - started < 10
                proxy.thaw()
                async with asyncio.timeout(30):
                    while proxy.open_connections:
                        await asyncio.sleep(0.01)

        asyncio.run(test())


class TestServer:
    def test_is_restarted(self, servers):
        server = servers.start()

        async def test():
            async with redis_repository(redis_url=server.url) as repository:
                await register(repository, "a")
                for _ in range(2):
                    await asyncio.to_thread(server.stop)
                    with pytest.raises(
                        TransientRepositoryError, match=r"can't be reached .*; check the address, and that the server"
                    ):
                        await claim(repository)
                    await asyncio.to_thread(server.start)
                    assert await comes_back(repository, within=30) <= 1
                assert [row.key for row in await repository.get([KEY])] == [KEY]  # I3: with appendonly

        asyncio.run(test())

    def test_stops_answering(self, servers, raw):
        server = servers.start()

        async def test():
            async with redis_repository(redis_url=server.url, redis_timeout=1) as repository:
                await lives(repository)
                raw(server.url).client_pause(2500)
                with pytest.raises(TransientRepositoryError, match="did not answer within 1 s"):
                    await lives(repository)
                await comes_back(repository, within=30)

        asyncio.run(test())

    def test_becomes_a_replica_and_a_master_again(self, servers, raw):
        server = servers.start()

        async def test():
            async with redis_repository(redis_url=server.url) as repository:
                raw(server.url).replicaof("127.0.0.1", str(free_port()))
                with pytest.raises(TransientRepositoryError, match="is a replica, perhaps since a failover"):
                    await register(repository, "a")
                raw(server.url).replicaof("no", "one")
                await lives(repository)

        asyncio.run(test())

    def test_has_no_memory_left(self, servers, raw):
        server = servers.start()

        async def test():
            async with redis_repository(redis_url=server.url) as repository:
                await register(repository, "a")
                raw(server.url).config_set("maxmemory", 1)
                with pytest.raises(TransientRepositoryError, match=r"has no memory left \(.*\); raise its maxmemory, or remove"):
                    await register(repository, "b")
                raw(server.url).config_set("maxmemory", 0)
                assert [row and row.key.name for row in await repository.get([KEY, Key("p", "b")])] == ["a", None]

        asyncio.run(test())


class TestSentinel:
    def test_the_master_is_followed_through_a_failover(self, servers, raw):
        master = servers.start()
        replica = servers.start("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        wait_until(lambda: raw(replica.url).info("replication")["master_link_status"] == "up")
        config = f"sentinel monitor tasks 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds tasks 500\n"
        sentinel = servers.start("--sentinel", config=config + "sentinel failover-timeout tasks 3000\n")
        wait_until(lambda: raw(sentinel.url).sentinel_master("tasks")["num-slaves"] == 1)

        async def test():
            # The first is none, the second is dead; either may be asked first.
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/2"
            async with redis_repository(redis_url=url, redis_sentinel_master="tasks", redis_timeout=3) as repository:
                await register(repository, "a")
                assert raw(master.url).dbsize() == 0  # in database 2
                wait_until(lambda: raw(master.url).info("replication")["slave0"]["lag"] == 0)
                raw(master.url).wait(1, 5000)
                master.stop()
                with pytest.raises(TransientRepositoryError):
                    await lives(repository)
                assert await comes_back(repository, within=20) > 0
                assert [row.key for row in await repository.get([KEY])] == [KEY]
                assert raw(replica.url).info("replication")["role"] == "master"

        asyncio.run(test())

    def test_which_does_not_know_the_master_is_reported(self, servers):
        sentinel = servers.start("--sentinel", config="")

        async def start(**options):
            url = f"redis+sentinel://:secret@127.0.0.1:{sentinel.port}"
            async with redis_repository(redis_url=url, **options):
                pass

        with pytest.raises(TransientRepositoryError) as caught:
            asyncio.run(start())
        assert str(caught.value) == (
            f"Redis at redis+sentinel://:***@127.0.0.1:{sentinel.port} names no master 'mymaster'; "
            "check the sentinels' addresses and redis_sentinel_master"
        )
