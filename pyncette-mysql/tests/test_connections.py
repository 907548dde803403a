"""Who waits for whom, what comes in the way of a call, and servers that are not as others are."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.mysql import mysql_repository
from pyncette.repository import Commit, Fail, Key, Outcome, Registration, Release, Target
from pyncette_conformance.faults.proxy import Proxy

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
#: An account that is subject to read_only, as those of applications are.
PLAIN = "SELECT, INSERT, UPDATE, DELETE, CREATE ON pyncette.*"


def registration(name, *, spec="{}", schedule="s", partition="p"):
    return Registration(Key(partition, name), spec, schedule, Target(NOW, NOW))


def claim(repository, limit=1000, partition="p", **options):
    return repository.claim(NOW, partition, lease_duration=MINUTE, limit=limit, **options)


async def connection_of(repository):
    [[number]] = await repository._fetch("SELECT CONNECTION_ID()")
    return number


class TestTurns:
    def test_a_burst_longer_than_the_timeout_fails_none_and_lets_claims_pass(self, server, table):
        """Each call has its time from when it has a connection; claims and settlements have one to themselves."""

        async def test():
            options = {"mysql_table_name": table, "mysql_pool_size": 2, "mysql_timeout": 2.5}
            async with mysql_repository(**server, **options) as repository:
                await repository.register(NOW, [registration("busy"), registration("a", partition="q")])
                key = Key("q", "a")
                calls = {
                    "get": lambda: repository.get([key]),
                    "pause": lambda: repository.pause(NOW, [key]),
                    "resume": lambda: repository.resume(NOW, [key]),
                }
                burst = [asyncio.create_task(repository._fetch("SELECT SLEEP(0.3)")) for _ in range(12)]
                burst += [asyncio.create_task(calls[name]()) for _ in range(50) for name in calls]
                turns = 0
                while not all(task.done() for task in burst):
                    [taken] = (await claim(repository)).claims
                    assert await repository.settle(NOW, [Commit(taken, Target(NOW, NOW))]) == [Outcome.APPLIED]
                    turns += not all(task.done() for task in burst)
                    await asyncio.sleep(0.05)
                await asyncio.gather(*burst)
                assert turns > 20

        asyncio.run(test())

    def test_of_a_single_connection_the_next_turn_is_the_claims(self, server, table):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table, mysql_pool_size=1) as repository:
                await repository.register(NOW, [registration("a")])
                ended = []

                async def call(name, awaited):
                    await awaited
                    ended.append(name)

                calls = [call(number, repository.get([Key("p", "a")])) for number in range(50)]
                await asyncio.gather(*calls, call("claim", claim(repository)))
                assert ended.index("claim") < 5

        asyncio.run(test())

    def test_where_nothing_moves_all_end_within_the_timeout(self, server, table):
        async def test():
            async with Proxy(server["mysql_host"], server["mysql_port"]) as proxy:
                through = {**server, "mysql_host": "127.0.0.1", "mysql_port": proxy.port, "mysql_table_name": table}
                async with mysql_repository(**through, mysql_timeout=1.5, mysql_pool_size=2) as repository:
                    proxy.freeze()
                    proxy.freeze_new = True
                    calls = [repository.get([Key("p", "a")]) for _ in range(20)] + [claim(repository)]
                    async with asyncio.timeout(30):
                        results = await asyncio.gather(*calls, return_exceptions=True)
                    assert {type(result) for result in results} == {TransientRepositoryError}
                    proxy.thaw()
                    await repository.get([Key("p", "a")])

        asyncio.run(test())

    def test_calls_that_are_cancelled_give_their_turns_back(self, server, table):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table, mysql_pool_size=3) as repository:
                await repository.register(NOW, [registration("a")])
                for steps in range(40):
                    calls = [asyncio.create_task(repository.resume(NOW, [Key("p", "a")])) for _ in range(8)]
                    calls.append(asyncio.create_task(claim(repository)))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                async with asyncio.timeout(30):
                    rows = await asyncio.gather(*(repository.get([Key("p", "a")]) for _ in range(30)))
                assert all(row is not None for [row] in rows)

        asyncio.run(test())

    def test_who_comes_after_the_end_is_told(self, server, table):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                pass
            with pytest.raises(RepositoryError, match=r"is closed; use it within its context") as caught:
                await claim(repository)
            assert not isinstance(caught.value, TransientRepositoryError)

        asyncio.run(test())


class TestInTheWay:
    """Other transactions, and operators."""

    def test_a_deadlock_is_rolled_back_and_tried_again_on_the_same_connection(self, server, table, connect):
        async def test():
            options = {"mysql_table_name": table, "mysql_pool_size": 1}
            async with mysql_repository(**server, **options) as repository, connect() as other:
                keys = [Key("p", "a"), Key("p", "b")]
                await repository.register(NOW, [registration(name) for _, name in keys])
                number = await connection_of(repository)
                await other("BEGIN")
                # Of two, the server ends the one that has written less.
                await other(
                    f"INSERT INTO {table} SELECT 'q', name, spec, schedule, occurrence, execute_after, ready_at, lease, "
                    f"locked_until, epoch, revision, attempt, state, error, memo FROM {table}"
                )
                await other(f"UPDATE {table} SET attempt = 7 WHERE `partition` = 'p' AND name = 'b'")
                pausing = asyncio.create_task(repository.pause(NOW, keys))
                await waiting_for_a_lock(other, number)
                await other(f"UPDATE {table} SET attempt = 7 WHERE `partition` = 'p' AND name = 'a'")
                await other("COMMIT")
                assert await pausing == [True, True]
                assert {row.attempt for row in await repository.get(keys)} == {7}
                assert await connection_of(repository) == number

        asyncio.run(test())

    def test_a_lock_that_is_held_for_long_is_named_and_leaves_nothing_waiting(self, server, table, connect):
        async def test():
            options = {"mysql_table_name": table, "mysql_pool_size": 1, "mysql_timeout": 3.9}  # a wait for a lock ends after 1 s
            async with mysql_repository(**server, **options) as repository, connect() as other:
                await repository.register(NOW, [registration("a")])
                number = await connection_of(repository)
                await other("BEGIN")
                await other(f"SELECT * FROM {table} WHERE `partition` = 'p' AND name = 'a' FOR UPDATE")
                with pytest.raises(TransientRepositoryError, match="Lock wait timeout exceeded"):
                    await repository.pause(NOW, [Key("p", "a")])
                async with asyncio.timeout(30):  # and not after 50 s, holding what it holds
                    while await other("SELECT id FROM information_schema.processlist WHERE id = %s AND command <> 'Sleep'", number):
                        await asyncio.sleep(0.05)
                await other("COMMIT")
                assert await repository.pause(NOW, [Key("p", "a")]) == [True]

        asyncio.run(test())

    @pytest.mark.parametrize("when", ["idle", "at work"])
    def test_a_killed_connection_is_replaced_unnoticed(self, server, table, connect, when):
        async def test():
            options = {"mysql_table_name": table, "mysql_pool_size": 1}
            async with mysql_repository(**server, **options) as repository, connect() as other:
                await repository.register(NOW, [registration("a")])
                number = await connection_of(repository)
                if when == "idle":
                    await other(f"KILL {number}")
                    assert await repository.pause(NOW, [Key("p", "a")]) == [True]
                    return
                await other("BEGIN")
                await other(f"SELECT * FROM {table} WHERE `partition` = 'p' AND name = 'a' FOR UPDATE")
                pausing = asyncio.create_task(repository.pause(NOW, [Key("p", "a")]))
                await waiting_for_a_lock(other, number)
                await other(f"KILL {number}")
                await asyncio.sleep(0.1)
                await other("COMMIT")
                assert await pausing == [True]
                assert await connection_of(repository) != number

        asyncio.run(test())

    def test_a_write_whose_answer_is_lost_is_not_repeated(self, server, table):
        """It would be answered ALREADY, which a caller that has sent it once takes for somebody else's."""

        async def test():
            async with Proxy(server["mysql_host"], server["mysql_port"]) as proxy:
                through = {**server, "mysql_host": "127.0.0.1", "mysql_port": proxy.port, "mysql_table_name": table}
                async with mysql_repository(**through, mysql_pool_size=1) as repository:
                    await repository.register(NOW, [registration("a")])
                    [taken] = (await claim(repository)).claims
                    proxy.cut_replies()
                    with pytest.raises(TransientRepositoryError):
                        await repository.settle(NOW, [Release(taken, NOW)])
                    assert await repository.settle(NOW, [Release(taken, NOW)]) == [Outcome.ALREADY]

        asyncio.run(test())


async def waiting_for_a_lock(other, number):
    async with asyncio.timeout(30):
        sql = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = %s AND trx_state = 'LOCK WAIT'"
        while not await other(sql, number):
            await asyncio.sleep(0.2)  # the server shows it again only after a tenth of a second without a look


#: Texts that quoting, padding, case and normal forms could take for others, or lose.
TEXTS = [
    "a'b",
    'a"b',
    "a\\",
    "\\'",
    "a\\nb",
    "%s",
    "100%",
    "a",
    "A",
    "a ",
    "ä",
    "a\u0308",
    "ß",
    "\uffff",
    "\U0010ffff",
    "😀" * 250,
    "\x01\x1f",
    "; COMMIT",
]
HALF = "a\ud800"


class TestText:
    def test_what_is_stored_comes_back(self, server, table):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                await life(repository)

        asyncio.run(test())

    def test_what_could_not_come_back_is_refused(self, server, table):
        """Half a character: some servers would store it, and could not send it."""

        async def test():
            async with mysql_repository(**server, mysql_table_name=table, mysql_pool_size=1) as repository:
                await repository.register(NOW, [registration("a"), registration("b")])
                number = await connection_of(repository)
                a, b = (await claim(repository)).claims
                later = Target(NOW, NOW)
                calls = [
                    repository.register(NOW, [registration(HALF)]),
                    repository.register(NOW, [registration("c", partition=HALF)]),
                    repository.register(NOW, [registration("c", spec=f'"{HALF}"')]),
                    repository.register(NOW, [registration("c", schedule=HALF)]),
                    repository.settle(NOW, [Fail(a, HALF)]),
                    repository.settle(NOW, [Commit(b, later), Commit(a, later, HALF)]),
                    repository.settle(NOW, [Commit(a._replace(key=Key("p", HALF)), None)]),
                    repository.pause(NOW, [a.key], {a.key: HALF}),
                    repository.get([Key(HALF, "a")]),
                    repository.unregister(NOW, [Key("p", HALF)]),
                    claim(repository, names=[HALF]),
                    claim(repository, partition=HALF),
                    repository.list(HALF, limit=1),
                    repository.stats(NOW, HALF),
                ]
                for call in calls:
                    with pytest.raises(RepositoryError, match="can't be stored as UTF-8") as caught:
                        await call
                    assert not isinstance(caught.value, TransientRepositoryError)
                assert len((await repository.list("p", limit=10)).rows) == 2
                assert await repository.settle(NOW, [Release(a, NOW), Release(b, NOW)]) == [Outcome.APPLIED] * 2
                assert await connection_of(repository) == number

        asyncio.run(test())


async def life(repository):
    """Each text in each place, through all calls."""
    registrations = [registration(text, spec=f'["{text}"]', schedule=text, partition=f"p{text[:200]}") for text in TEXTS]
    keys = [each.key for each in registrations]
    await repository.register(NOW, registrations)
    await repository.register(NOW, registrations)
    claims = [(await claim(repository, partition=partition)).claims for partition, _ in keys]
    assert [taken.key for [taken] in claims] == keys
    assert [taken.schedule for [taken] in claims] == TEXTS
    assert [taken.spec for [taken] in claims] == [each.spec for each in registrations]
    settlements = [Commit(taken, Target(NOW, NOW), memo=taken.key.name) for [taken] in claims]
    assert set(await repository.settle(NOW, settlements)) == {Outcome.APPLIED}
    claims = [(await claim(repository, partition=partition, names=[name])).claims for partition, name in keys]
    assert [taken.memo for [taken] in claims] == TEXTS
    await repository.settle(NOW, [Fail(taken, taken.key.name) for [taken] in claims])
    assert [row.error for row in await repository.get(keys)] == TEXTS
    listed = [(await repository.list(partition, limit=5)).rows for partition, _ in keys]
    assert [row.key for [row] in listed] == keys
    assert sorted(await repository.partitions()) == sorted(partition for partition, _ in keys)
    assert await repository.unregister(NOW, keys) == [True] * len(keys)


class TestServers:
    """Servers whose settings are not the default ones."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"sql_mode": "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,ONLY_FULL_GROUP_BY,NO_ZERO_DATE'"},
            {"sql_mode": "''", "time_zone": "'-11:30'", "autocommit": "0"},
            {
                "collation_server": "latin1_swedish_ci",
                "collation_connection": "utf8mb4_unicode_ci",
                "character_set_client": "latin1",
            },
            {"completion_type": "'CHAIN'", "max_allowed_packet": "1048576", "group_concat_max_len": "4"},
            {"max_join_size": "1", "sql_big_selects": "0", "sql_safe_updates": "1"},
        ],
        ids=lambda settings: " ".join(settings),
    )
    def test_are_served_all_the_same(self, own, settings, name="a`b'c\"d\\{table}%s März"):
        async def test():
            async with mysql_repository(**{**own.options(), "mysql_table_name": name}) as repository:
                await life(repository)

        before = {each: own.sql(f"SELECT @@GLOBAL.{each}")[0][0] for each in settings}
        own.sql(*(f"SET GLOBAL {each} = {value}" for each, value in settings.items()))
        try:
            asyncio.run(test())
        finally:
            own.sql(
                *(f"SET GLOBAL {each} = {value!r}" for each, value in before.items()),
                "DROP TABLE `" + name.replace("`", "``") + "`",
            )

    def test_one_that_is_read_only_for_a_while(self, own):
        async def test(account):
            async with mysql_repository(**own.options(**account, pool_size=1)) as repository:
                await repository.register(NOW, [registration("a")])
                number = await connection_of(repository)
                await asyncio.to_thread(own.sql, "SET GLOBAL read_only = ON")
                try:
                    for call in (lambda: repository.pause(NOW, [Key("p", "a")]), lambda: claim(repository)):
                        with pytest.raises(TransientRepositoryError, match="read.only"):
                            await call()
                    assert (await repository.get([Key("p", "a")]))[0].attempt == 0
                finally:
                    await asyncio.to_thread(own.sql, "SET GLOBAL read_only = OFF")
                assert len((await claim(repository)).claims) == 1
                # The address may lead to another server by now.
                assert await connection_of(repository) != number

        with own.account(grant=PLAIN) as account:
            asyncio.run(test(account))

    def test_one_that_allows_fewer_connections_than_the_pool(self, own):
        async def test(account):
            async with mysql_repository(**own.options(**account)) as repository:
                await repository.register(NOW, [registration("a")])
                await asyncio.gather(*(repository.resume(NOW, [Key("p", "a")]) for _ in range(100)), claim(repository))

        with own.account("WITH MAX_USER_CONNECTIONS 2", grant=PLAIN) as account:
            asyncio.run(test(account))

    def test_one_that_allows_none(self, own):
        async def test(account):
            async with mysql_repository(**own.options(**account)), contextlib.AsyncExitStack() as stack:
                with pytest.raises(TransientRepositoryError, match="max_user_connections"):
                    await stack.enter_async_context(mysql_repository(**own.options(**account, timeout=0.5)))

        with own.account("WITH MAX_USER_CONNECTIONS 1", grant=PLAIN) as account:
            asyncio.run(test(account))

    def test_packets_have_the_size_that_it_allows(self, own):
        large, notes = "x" * 60_000, "😀" * 4000

        async def test():
            async with mysql_repository(**own.options()) as repository:
                names = [f"task {number}" for number in range(100)]
                await repository.register(NOW, [registration(name, spec=f'"{large}"') for name in names])
                await repository.register(NOW, [registration(name, spec=f'["{large}"]') for name in names])
                claims = (await claim(repository)).claims
                assert [each.spec for each in claims] == [f'["{large}"]'] * 100
                settlements = [Commit(each, Target(NOW, NOW), memo=notes) for each in claims]
                assert set(await repository.settle(NOW, settlements)) == {Outcome.APPLIED}
                assert [row.memo for row in await repository.get([each.key for each in claims])] == [notes] * 100
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration("too large", spec=f'"{large * 20}"')])
                assert type(caught.value) is RepositoryError
                assert "The task 'too large' takes 1,200," in str(caught.value)
                assert "raise its max_allowed_packet, which is 1,048,575" in str(caught.value)
                # Many names, each of a thousand bytes.
                long = [registration(f"{number:05}{'😀' * 245}") for number in range(2000)]
                await repository.register(NOW, long)
                assert None not in await repository.get([each.key for each in long])
                assert await repository.pause(NOW, [each.key for each in long]) == [True] * len(long)
                assert await repository.unregister(NOW, [each.key for each in long]) == [True] * len(long)

        own.sql("SET GLOBAL max_allowed_packet = 1048576")
        try:
            asyncio.run(test())
        finally:
            own.sql("SET GLOBAL max_allowed_packet = 67108864")
