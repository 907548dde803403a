"""What is Redis' own; the contract itself is the conformance suite's."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio.connection import AbstractConnection

from pyncette import lifecycle
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.redis import redis_repository
from pyncette.repository import (
    ClaimResult,
    Commit,
    Entry,
    Extend,
    Fail,
    Key,
    Outcome,
    Position,
    Registration,
    Release,
    State,
    Target,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)
FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def registration(name, at=NOW, *, partition="p", spec="{}", schedule="s"):
    return Registration(Key(partition, name), spec, schedule, Target(at, at))


def claim(repository, now=NOW, *, partition="p", limit=100, names=None):
    return repository.claim(now, partition, lease_duration=MINUTE, limit=limit, names=names)


def advanced(claims):
    return [Commit(each, Target(each.occurrence + MINUTE, each.occurrence + MINUTE)) for each in claims]


def on(url, namespace, **options):
    return redis_repository(redis_url=url, redis_namespace=namespace, **options)


@pytest.fixture
def writes(monkeypatch):
    """What the driver writes to sockets, one entry for each time that it does."""
    written = []
    original = AbstractConnection.send_packed_command

    async def send(connection, command, *options, **more):
        written.append(b"".join([command] if isinstance(command, bytes) else command))
        await original(connection, command, *options, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", send)
    return written


class TestRoundTrips:
    @pytest.mark.parametrize("size", [1, 2, 100, 2500])
    def test_there_is_one_for_each_call_whatever_the_size_of_its_batch(self, server_url, namespace, writes, size):
        async def test():
            async with on(server_url, namespace) as repository:
                keys = [Key("p" if i % 2 else "q", f"{i:04}") for i in range(size)]
                mine = [key.name for key in keys if key.partition == "q"]
                calls = {
                    "register": lambda: repository.register(NOW, [registration(k.name, partition=k.partition) for k in keys]),
                    "get": lambda: repository.get(keys),
                    "claim": lambda: claim(repository, partition="p", limit=size),
                    "claim by name": lambda: claim(repository, partition="q", limit=size, names=mine),
                    "pause": lambda: repository.pause(NOW, keys),
                    "resume": lambda: repository.resume(NOW, keys),
                    "stats": lambda: repository.stats(NOW, "p"),
                    "server_time": repository.server_time,
                    "settle": None,
                    "unregister": lambda: repository.unregister(NOW, keys),
                }
                for loaded in (False, True):  # a server that sees a script for the first time has to be sent it
                    results, scripts = {}, {}
                    for name, call in calls.items():
                        claims = [each for one in ("claim", "claim by name") if one in results for each in results[one].claims]
                        writes.clear()
                        results[name] = await (call() if call else repository.settle(NOW, advanced(claims)))
                        # What ends up in one write may be more than one run of the script, for the sake of the server's other clients.
                        scripts[name] = sum(each.count(b"EVALSHA") for each in writes)
                        assert len(writes) == 1 or not loaded, name
                assert results["settle"] == [Outcome.APPLIED] * size
                assert results["unregister"] == [True] * size
                partitions = min(size, 2)
                assert scripts["claim"] == scripts["claim by name"] == 1
                assert scripts["register"] == scripts["settle"] == scripts["get"] == partitions * (2 if size == 2500 else 1)

        asyncio.run(test())

    def test_an_idle_claim_is_one_and_changes_nothing(self, servers, writes, raw):
        server = servers.start()

        async def test():
            async with on(server.url, "") as repository:
                await repository.register(NOW, [registration("later", NOW + MINUTE)])
                changes = raw(server.url).info("persistence")["rdb_changes_since_last_save"]
                writes.clear()
                assert await claim(repository) == ClaimResult([], NOW + MINUTE, [])
                assert await claim(repository, names=["later", "no"]) == ClaimResult([], NOW + MINUTE, ["no"])
                assert await claim(repository, partition="empty") == ClaimResult([], None, [])
                assert len(writes) == 3
                assert raw(server.url).info("persistence")["rdb_changes_since_last_save"] == changes

        asyncio.run(test())

    @pytest.mark.parametrize("size", [1, 100, 2500])
    def test_in_a_cluster_there_is_one_to_each_node_at_the_same_time(self, cluster_url, namespace, writes, size):
        async def test():
            async with on(cluster_url, namespace) as repository:
                keys = [Key(f"p:{i % 30}", str(i)) for i in range(size)]
                await repository.register(NOW, [registration(k.name, partition=k.partition) for k in keys])
                writes.clear()
                assert all(await repository.get(keys))
                assert len(writes) == min(3, size)
                writes.clear()
                await claim(repository, partition="p:0")
                assert len(writes) == 1

        asyncio.run(test())

    def test_bulk_registers_are_cut_by_bytes(self, server_url, namespace, writes):
        async def test():
            async with on(server_url, namespace) as repository:
                await repository.register(NOW, [registration("a")])
                writes.clear()
                await repository.register(NOW, [registration(f"{i:03}", spec="x" * 64_000) for i in range(100)])
                runs = [each for write in writes for each in write.split(b"EVAL")[1:]]
                assert len(runs) == 7
                assert max(map(len, runs)) < 1_100_000
                claims = (await claim(repository, limit=101)).claims
                writes.clear()
                assert set(await repository.settle(NOW, advanced(claims))) == {Outcome.APPLIED}
                assert sum(map(len, writes)) < 101 * 250  # what is settled is not told its arguments again

        asyncio.run(test())

    def test_a_run_costs_so_many_bytes_and_commands(self, servers, writes, raw):
        server = servers.start()

        async def test():
            async with on(server.url, "") as repository:
                await repository.register(NOW, [registration(f"{i:03}", schedule="interval 60 @UTC") for i in range(500)])
                for _ in range(2):  # the first has to send the script
                    raw(server.url).config_resetstat()
                    writes.clear()
                    claims = (await claim(repository, NOW + 9 * MINUTE, limit=500)).claims
                    outcomes = await repository.settle(NOW + 9 * MINUTE, advanced(claims))
                assert outcomes == [Outcome.APPLIED] * 500
                assert len(writes) == 2
                assert sum(map(len, writes)) < 500 * 180
                stats = raw(server.url).info("commandstats")
                assert raw(server.url).info("stats")["total_net_output_bytes"] < 500 * 250
                calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
                assert calls == {
                    "evalsha": 2,
                    "zrangebyscore": 2,
                    "zrange": 1,
                    "hmget": 3,
                    "zremrangebyrank": 1,
                    "zrem": 1,
                    "zadd": 2,
                    "hset": 2,
                    "config|resetstat": 1,
                }

        asyncio.run(test())

    def test_an_empty_batch_is_none_at_all(self, server_url, namespace, writes):
        async def test():
            async with on(server_url, namespace) as repository:
                writes.clear()
                await repository.register(NOW, [])
                assert [*await repository.settle(NOW, []), *await repository.unregister(NOW, []), *await repository.get([])] == []
                assert writes == []

        asyncio.run(test())


class TestScripts:
    def test_are_loaded_again_when_they_are_gone(self, url, namespace, raw):
        async def test():
            async with on(url, namespace) as repository:
                keys = [Key(f"p:{i}", "a") for i in range(20)]
                for i in range(3):
                    raw(url).script_flush()
                    await repository.register(NOW, [registration(k.name, partition=k.partition, spec=str(i)) for k in keys])
                    raw(url).script_flush()
                    assert [row.spec for row in await repository.get(keys)] == [str(i)] * 20
                raw(url).script_flush()
                assert len((await claim(repository, partition="p:7")).claims) == 1
                # Those that ran before the script was missed must not run again.
                assert await repository.unregister(NOW, keys) == [True] * 20

        asyncio.run(test())

    def test_touch_one_slot_each_whatever_the_partition_is_called(self, cluster_url, namespace, raw):
        names = ["", "p", "{", "}", "{}", "{a}", "}{", "a}b{c", "a:b", "%7B", "ü", "🗓", " ", "\n", "\\"]

        async def test():
            for space in (namespace, f"{namespace}{{x}}", f"{namespace}}}{{"):
                async with on(cluster_url, space) as repository:
                    keys = [Key(partition, name) for partition in names for name in ("", "{x}")]
                    await repository.register(NOW, [Registration(key, str(key), "s", Target(NOW, NOW)) for key in keys])
                    assert [row.spec for row in await repository.get(keys)] == [str(key) for key in keys]
                    assert sorted(await repository.partitions()) == sorted(names)
                    slots = [{raw(cluster_url).cluster_keyslot(key) for key in repository._keys.rows(name)} for name in names]
                    assert all(len(each) == 1 for each in slots)
                    assert len(set().union(*slots)) > len(names) - 3  # so that partitions spread over the nodes

        asyncio.run(test())


class TestStored:
    def test_the_history_is_pinned(self, server_url, namespace, raw):
        entry = Entry(Key("p", "é"), Position(NOW, "1-a"), NOW + MINUTE, '{"x": 1}')

        async def test(remove):
            async with on(server_url, namespace) as repository:
                if remove:
                    assert await repository.prune(NOW + MINUTE, limit=5) == 1
                else:
                    await repository.append([entry])

        asyncio.run(test(remove=False))
        client = raw(server_url)
        of, at, expires = f"{namespace}:{{pyncette:177}}", "0063907963200123457", "0063907963260123457"
        assert sorted(client.scan_iter(f"{namespace}*", count=1000)) == [
            *(f"{of}:{key}" for key in ("histories", "p:history", "p:history:entries", "p:history:expiries", "p:history:names"))
        ]
        assert client.smembers(f"{of}:histories") == {"p"}
        assert client.zrange(f"{of}:p:history", 0, -1, withscores=True) == [(f"{at}1-a", 0)]
        assert client.zrange(f"{of}:p:history:names", 0, -1, withscores=True) == [(f"é\udcff{at}1-a", 0)]
        assert client.zrange(f"{of}:p:history:expiries", 0, -1, withscores=True) == [(f"{expires}{at}1-a", 0)]
        assert client.hgetall(f"{of}:p:history:entries") == {f"{at}1-a": f'{expires}é\udcff{{"x": 1}}'}
        asyncio.run(test(remove=True))
        assert list(client.scan_iter(f"{namespace}*", count=1000)) == []

    def test_what_is_stored_is_pinned(self, server_url, namespace, raw):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def test():
            async with on(server_url, namespace) as repository:
                rows = [registration("a", NOW + MINUTE, spec='{"x": "é/"}', schedule="*/5"), registration("b"), registration("c")]
                await repository.register(NOW, [*rows, registration("d", partition="q {é}")])
                held, failed = (await claim(repository, names=["b", "c"])).claims
                await repository.settle(NOW, [Fail(failed, "it broke", memo="its last run")])
                await repository.pause(NOW, [Key("p", "a")], {Key("p", "a"): "a note"})
                return held.lease

        lease = asyncio.run(test())
        client = raw(server_url)
        at, later, until = "0063907963200123457", "0063907963260123457", "0063907963260123457"
        tag, other = f"{namespace}:{{pyncette:177}}", f"{namespace}:{{pyncette:102}}"
        assert sorted(client.scan_iter(f"{namespace}*", count=1000)) == sorted(
            [
                f"{namespace}:pyncette:format",
                f"{tag}:partitions",
                f"{other}:partitions",
                *(f"{each}:{part}" for each in (f"{tag}:p", f"{other}:q %7B%C3%A9%7D") for part in ("index", "rows", "specs")),
            ]
        )
        assert client.get(f"{namespace}:pyncette:format") == "1"
        assert (client.smembers(f"{tag}:partitions"), client.smembers(f"{other}:partitions")) == ({"p"}, {"q {é}"})
        paused, failed = f"{'paused':19}", f"{'failed':19}"
        entries = [(f"{until}b", 0), (f"{failed}c", 0), (f"{paused}a", 0)]
        assert client.zrange(f"{tag}:p:index", 0, -1, withscores=True) == entries
        assert client.hgetall(f"{tag}:p:specs") == {"a": '{"x": "é/"}', "b": "{}", "c": "{}"}
        epoch, zero, one, free = "0063907963200123458", f"{0:019}", f"{1:019}", 19 * " "
        assert {name: row.replace("\udcff", "|") for name, row in client.hgetall(f"{tag}:p:rows").items()} == {
            "a": f"{at}{later}{later}{zero}{paused}{zero}{32 * ' '}{free}*/5|a note",
            "b": f"{epoch}{at}{at}{one}{until}{zero}{lease}{until}s|",
            "c": f"{epoch}{at}{at}{one}{failed}{zero}{lease}{free}s|its last run|it broke",
        }
        assert client.hgetall(f"{other}:q %7B%C3%A9%7D:rows") == {"d": f"{at}{at}{at}{zero}{at}{zero}{32 * ' '}{free}s\udcff"}

    def test_a_namespace_may_be_empty(self, servers, raw):
        server = servers.start()

        async def test():
            async with redis_repository(redis_url=server.url) as repository:
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())
        keys = ["pyncette:format", *(f"{{pyncette:177}}:{key}" for key in ("partitions", "p:index", "p:rows", "p:specs"))]
        assert sorted(raw(server.url).keys()) == sorted(keys)

    @pytest.mark.parametrize("found", ["2", "10", "x"])
    def test_another_format_is_refused_at_the_start(self, server_url, namespace, raw, found):
        async def start():
            async with on(server_url, namespace):
                pass

        asyncio.run(start())
        raw(server_url).set(f"{namespace}:pyncette:format", found)
        with pytest.raises(RepositoryError) as caught:
            asyncio.run(start())
        assert str(caught.value) == (
            f"Redis at {server_url} has the stored format {found!r} in the namespace {namespace!r}, "
            "but this Pyncette knows only 1; upgrade pyncette-redis"
        )

    @pytest.mark.parametrize("index", ["index", "index:hello"])  # of static tasks, and of a dynamic one
    def test_tasks_of_pyncette_1_are_refused_at_the_start(self, server_url, namespace, raw, index):
        async def start(space):
            async with on(server_url, space):
                pass

        space = f"{namespace}[*]"
        name = f"pyncette:{space}:task:hello:one"
        raw(server_url).hset(name, mapping={"version": "0", "execute_after": "2026-11-25T21:17:20.165226+00:00"})
        raw(server_url).zadd(f"pyncette:{space}:{index}", {f"2026-11-25T21:17:20.165226+00:00_{name}": 0})
        try:
            with pytest.raises(RepositoryError) as caught:
                asyncio.run(start(space))
            assert str(caught.value) == (
                f"Redis at {server_url} has tasks of Pyncette 1 in the namespace {space!r}, which Pyncette 2 does not read; choose "
                "another redis_namespace, schedule dynamic tasks there again, and finally remove the keys that begin with "
                f"'pyncette:{space}:'"
            )
            asyncio.run(start(f"{namespace}[*"))
        finally:
            raw(server_url).delete(name, f"pyncette:{space}:{index}")

    def test_namespaces_share_nothing(self, url, namespace):
        async def test():
            async with on(url, f"{namespace}a") as one, on(url, f"{namespace}a:b") as other:
                await one.register(NOW, [registration("x")])
                assert (await claim(other)).claims == []
                assert await other.partitions() == []
                assert len((await claim(one)).claims) == 1

        asyncio.run(test())

    def test_rows_are_gone_without_a_trace_when_the_last_is_removed(self, url, namespace, raw):
        async def test():
            async with on(url, namespace) as repository:
                await repository.register(NOW, [registration(str(i)) for i in range(4)])
                claims = (await claim(repository, limit=2)).claims
                await repository.settle(NOW, [Commit(claims[0], None), Fail(claims[1], "it broke")])
                await repository.pause(NOW, [Key("p", "3")])
                assert await repository.partitions() == ["p"]
                assert await repository.unregister(NOW, [Key("p", str(i)) for i in range(4)]) == [False, True, True, True]
                assert await repository.partitions() == []
                return repository._keys.rows("p")

        keys = asyncio.run(test())
        assert raw(url).exists(*keys) == 0


class TestDamage:
    """What somebody did to the store costs no other row anything, and registering repairs it."""

    def damaged(self, server_url, namespace, damage, check):
        async def test():
            async with on(server_url, namespace) as repository:
                await repository.register(NOW, [registration("bad", NOW - MINUTE), registration("good")])
                damage(*repository._keys.rows("p"))
                await check(repository)
                await repository.register(NOW, [registration("bad", NOW - MINUTE), registration("good")])
                claims = (await claim(repository, NOW + 2 * MINUTE)).claims
                assert sorted(each.key.name for each in claims) == ["bad", "good"]
                assert set(await repository.settle(NOW + 2 * MINUTE, advanced(claims))) == {Outcome.APPLIED}
                stats = await repository.stats(NOW + 2 * MINUTE, "p")
                assert (stats.rows, stats.due) == (2, 2)

        asyncio.run(test())

    def test_a_row_that_is_gone_is_dropped_from_the_index(self, server_url, namespace, raw):
        client = raw(server_url)

        async def check(repository):
            assert [row and row.key.name for row in await repository.get([Key("p", "bad"), Key("p", "good")])] == [None, "good"]
            assert (await claim(repository, names=["bad"])).missing == ["bad"]
            assert [each.key.name for each in (await claim(repository, limit=1)).claims] == ["good"]
            assert client.zcard(repository._keys.rows("p")[0]) == 1

        self.damaged(server_url, namespace, lambda index, rows, specs, _: client.hdel(rows, "bad"), check)

    def test_a_row_that_the_index_lacks_is_listed_and_got(self, server_url, namespace, raw):
        async def check(repository):
            assert [row.key.name for row in await repository.get([Key("p", "bad")])] == ["bad"]
            assert {row.key.name for row in (await repository.list("p", limit=9)).rows} == {"bad", "good"}
            assert [each.key.name for each in (await claim(repository)).claims] == ["good"]

        self.damaged(server_url, namespace, lambda index, rows, specs, _: raw(server_url).zpopmin(index), check)

    def test_an_entry_of_another_time_than_its_row(self, server_url, namespace, raw):
        def damage(index, rows, specs, _):
            [(entry, _)] = raw(server_url).zpopmin(index)
            raw(server_url).zadd(index, {"0000000000000000001bad": 0})

        async def check(repository):
            # It was due anyway, so its own entry is put back; the next claim sees it.
            claims = [each.key.name for _ in range(2) for each in (await claim(repository)).claims]
            assert claims == ["good", "bad"]

        self.damaged(server_url, namespace, damage, check)

    def test_more_entries_without_rows_than_a_claim_looks_at(self, server_url, namespace, raw):
        def damage(index, rows, specs, _):
            raw(server_url).zadd(index, {f"0000000000000000001x{i}": 0 for i in range(100)})

        async def check(repository):
            claimed = [await claim(repository, limit=2) for _ in range(6)]
            assert all(result.next_ready_at <= NOW for result in claimed[:4])  # so the engine comes back at once
            assert [each.key.name for result in claimed for each in result.claims] == ["bad", "good"]

        self.damaged(server_url, namespace, damage, check)


class TestNumbers:
    @pytest.mark.parametrize("base", [FIRST, datetime(1969, 12, 31, tzinfo=UTC), NOW, LAST - 2 * MINUTE])
    def test_rows_a_microsecond_apart_are_claimed_in_their_order(self, server_url, namespace, base):
        # As numbers of the sorted set, those of the year 9999 would be told apart by 32 microseconds only.
        async def test():
            async with on(server_url, namespace) as repository:
                names = [str(i) for i in range(40)]
                await repository.register(FIRST, [registration(name, base + (40 - i) * TICK) for i, name in enumerate(names)])
                now = base + 20 * TICK
                first = await claim(repository, now, limit=7)
                assert [each.key.name for each in first.claims] == names[:32:-1]
                assert first.next_ready_at == base + 8 * TICK
                second = await claim(repository, now)
                assert [each.key.name for each in second.claims] == names[32:19:-1]
                assert second.next_ready_at == base + 21 * TICK
                stats = await repository.stats(base + 25 * TICK, "p")
                assert (stats.due, stats.oldest_due) == (5, base + 21 * TICK)

        asyncio.run(test())

    @pytest.mark.parametrize("number", [0, 9, 2**53 - 1, 2**53, 10**18 - 1, 2**62, 2**63 - 4])
    def test_epochs_and_revisions_are_exact(self, server_url, namespace, raw, number):
        async def test():
            async with on(server_url, namespace) as repository:
                key = Key("p", "a")
                await repository.register(FIRST, [registration("a")])
                _, rows, _, _ = repository._keys.rows("p")
                row = raw(server_url).hget(rows, "a")
                raw(server_url).hset(rows, "a", f"{number + 62135596800000000:019}{row[19:95]}{number:019}{row[114:]}")
                assert [(row.epoch, row.revision) for row in await repository.get([key])] == [(number, number)]
                late = FIRST + MINUTE
                await repository.register(late, [registration("a", FIRST, schedule="other")], force=True)
                [row] = await repository.get([key])
                assert (row.epoch, row.revision) == (number + 1, number + 1)
                [claimed] = (await claim(repository, late)).claims
                assert (claimed.epoch, claimed.revision) == (number + 2, number + 1)
                assert await repository.settle(late, [Commit(claimed, None)]) == [Outcome.APPLIED]

        asyncio.run(test())


class TestListing:
    @pytest.mark.parametrize("limit", [1, 2, 3, 50])
    def test_no_page_has_more_rows_than_asked_for(self, url, namespace, limit):
        async def test():
            async with on(url, namespace) as repository:
                names = {f"{i}é" for i in range(100)}
                await repository.register(NOW, [registration(name) for name in names])
                seen, token, pages = [], None, 0
                while pages == 0 or token is not None:
                    page = await repository.list("p", limit=limit, token=token)
                    assert len(page.rows) <= limit
                    seen += [row.key.name for row in page.rows]
                    token, pages = page.token, pages + 1
                assert (sorted(seen), pages >= 100 / limit) == (sorted(names), True)

        asyncio.run(test())

    def test_small_hashes_that_are_scanned_as_a_whole_are_cut_as_well(self, servers, raw):
        server = servers.start("--hash-max-listpack-value", "4096")

        async def test():
            async with on(server.url, "") as repository:
                await repository.register(NOW, [registration(f"{i:02}") for i in range(20)])
                first = await repository.list("p", limit=15)
                await repository.unregister(NOW, [first.rows[3].key, *(Key("p", f"{i:02}") for i in range(17, 20))])
                second = await repository.list("p", limit=15, token=first.token)
                assert (len(first.rows), second.token) == (15, None)
                assert {row.key.name for page in (first, second) for row in page.rows} >= {f"{i:02}" for i in range(17)}

        asyncio.run(test())

    def test_a_page_never_has_a_row_twice_and_all_pages_have_every_row_under_churn(self, server_url, namespace):  # I15
        async def test():
            async with on(server_url, namespace) as repository:
                names = [f"stays-{i}" for i in range(600)]
                await repository.register(NOW, [registration(name) for name in names])
                seen, token, churn = set(), None, 0
                while True:
                    page = await repository.list("p", limit=50, token=token)
                    found = [row.key.name for row in page.rows]
                    assert len(found) == len(set(found))
                    seen.update(found)
                    # Enough to have the hash grow and shrink.
                    await repository.register(NOW, [registration(f"{churn}-{i}", partition="p") for i in range(500)])
                    await repository.unregister(NOW, [Key("p", f"{churn - 1}-{i}") for i in range(500)])
                    churn += 1
                    token = page.token
                    if token is None:
                        break
                assert churn > 5
                assert seen.issuperset(names)

        asyncio.run(test())

    def test_it_begins_anew_with_what_is_no_token(self, server_url, namespace):
        async def test():
            async with on(server_url, namespace) as repository:
                await repository.register(NOW, [registration(f"{i}") for i in range(30)])
                first = await repository.list("p", limit=7)
                run = first.token[2:42]
                for token in ("", "x", "7", "[]", "[1,2,3]", f'["{run}","x",[]]', f'["{run}",{{}},[]]', f'["{run}","1",[7]]'):
                    assert await repository.list("p", limit=7, token=token) == first

        asyncio.run(test())

    def test_it_begins_anew_when_the_server_did(self, servers):
        # The order of a hash is another one after each start.
        server = servers.start()

        async def test():
            async with on(server.url, "") as repository:
                names = {str(i) for i in range(600)}
                await repository.register(NOW, [registration(name) for name in names])
                seen, token = set(), None
                for restart in (True, False):
                    while page := await repository.list("p", limit=50, token=token):
                        seen.update(row.key.name for row in page.rows)
                        token = page.token
                        if token is None or restart:
                            break
                    if restart:
                        await asyncio.to_thread(server.restart)
                assert seen == names

        asyncio.run(test())


class TestRows:
    def test_every_field_comes_back_as_it_was(self, url, namespace):
        async def test():
            async with on(url, namespace) as repository:
                names = ["scheduled", "claimed", "failed", "released", "extended", "paused"]
                await repository.register(NOW, [registration(name, spec="\u2028" * 70_000) for name in names])
                keys = [Key("p", name) for name in names]
                rows = [lifecycle.register(None, NOW, registration(name, spec="\u2028" * 70_000)) for name in names]
                assert await repository.get(keys) == rows
                claims = {each.key.name: each for each in (await claim(repository, names=names[1:5])).claims}
                taken = [lifecycle.claim(row, NOW, MINUTE, claims[row.key.name].lease) for row in rows[1:5]]
                assert [row for row, _ in taken] == (await repository.get(keys))[1:5]
                assert [each for _, each in taken] == [claims[name] for name in names[1:5]]
                late = NOW + 2 * MINUTE
                settlements = [
                    Fail(claims["failed"], "it\nbroke \0"),
                    Release(claims["released"], late),
                    Extend(claims["extended"], late),
                ]
                await repository.settle(NOW, settlements)
                await repository.pause(NOW, [keys[5]])
                rows[1] = taken[0][0]
                rows[2:5] = [lifecycle.settle(row, NOW, each)[0] for (row, _), each in zip(taken[1:], settlements, strict=True)]
                rows[5] = lifecycle.pause(rows[5])
                assert await repository.get(keys) == rows
                assert rows[2].state is State.FAILED

        asyncio.run(test())

    def test_what_has_no_encoding_is_refused_and_nothing_of_its_batch_is_written(self, server_url, namespace):  # I10
        async def test():
            async with on(server_url, namespace) as repository:
                for bad in (registration("\ud800"), registration("b", spec="\ud800"), registration("b", partition="\ud800")):
                    with pytest.raises(RepositoryError, match="surrogates not allowed") as caught:
                        await repository.register(NOW, [registration("a"), bad])
                    assert not isinstance(caught.value, TransientRepositoryError)
                assert (await repository.list("p", limit=9)).rows == []

        asyncio.run(test())

    def test_server_time_is_the_servers(self, url, namespace):
        async def test():
            async with on(url, namespace) as repository:
                assert abs(await repository.server_time() - datetime.now(UTC)) < MINUTE

        asyncio.run(test())
