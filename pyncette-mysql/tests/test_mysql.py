"""What MySQL and MariaDB add to the contract, which the conformance suite proves: statements, tables, errors, connections."""

import asyncio
import contextlib
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pyncette import Pyncette
from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.looks import Looks
from pyncette.mysql import mysql_repository, schema
from pyncette.mysql.transactions import BEGIN, Statement
from pyncette.repository import Commit, Entry, Fail, Key, Outcome, Position, Registration, Release, Target, table_of_history
from pyncette_conformance.faults.proxy import Proxy

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ENTRY = Entry(Key("p", "é"), Position(NOW, "1-a"), NOW + MINUTE, '{"x": 1}')
NOWHERE = {"mysql_user": "user", "mysql_password": "battery-horse", "mysql_database": "db"}


def registration(name, at=NOW, *, spec="{}", schedule="s", partition="p"):
    return Registration(Key(partition, name), spec, schedule, Target(at, at))


def claim(repository, limit=1000, **options):
    return repository.claim(NOW, "p", lease_duration=MINUTE, limit=limit, **options)


@contextlib.asynccontextmanager
async def proxied(server, table, **options):
    async with Proxy(server["mysql_host"], server["mysql_port"]) as proxy:
        through = {**server, "mysql_host": "127.0.0.1", "mysql_port": proxy.port}
        async with mysql_repository(**through, mysql_table_name=table, **options) as repository:
            yield proxy, repository


def error_of(kind=RepositoryError, **options):
    async def start():
        async with mysql_repository(**options):
            pass

    with pytest.raises(kind) as caught:
        asyncio.run(start())
    message = str(caught.value)
    assert "\n" not in message
    assert "horse" not in message
    return message


class TestRoundTrips:
    @pytest.mark.parametrize("size", [1, 10, 500])
    def test_are_the_same_whatever_the_size_of_the_batch(self, server, table, size):
        async def test():
            async with proxied(server, table, mysql_pool_size=1) as (proxy, repository):
                names = [f"task {i}" for i in range(size)]
                keys = [Key("p", name) for name in names]
                count = {}

                async def counted(what, call):
                    before = proxy.round_trips
                    result = await call
                    count[what] = proxy.round_trips - before
                    return result

                await counted("register", repository.register(NOW, [registration(name) for name in names]))
                result = await counted("claim named", claim(repository, names=names))
                assert len(result.claims) == size
                await counted("release", repository.settle(NOW, [Release(each, NOW) for each in result.claims]))
                result = await counted("claim", claim(repository))
                assert len(result.claims) == size
                later = Target(NOW + MINUTE, NOW + MINUTE)
                outcomes = await counted("commit", repository.settle(NOW, [Commit(each, later) for each in result.claims]))
                assert set(outcomes) == {Outcome.APPLIED}
                await counted("idle claim", claim(repository))
                await counted("get", repository.get(keys))
                await counted("pause", repository.pause(NOW, keys))
                await counted("unregister", repository.unregister(NOW, keys))
                # What reads and decides takes one to read and one to write, but for a lone new row; what is sent together begins and ends its transaction, too.
                assert count == {
                    "register": 1 if size == 1 else 2,
                    "claim named": 3,
                    "release": 1,
                    "claim": 3,
                    "commit": 1,
                    "idle claim": 1,
                    "get": 1,
                    "pause": 2,
                    "unregister": 2,
                }

        asyncio.run(test())

    def test_and_so_are_statements_and_about_so_the_bytes_of_each_row(self, server, table):
        """Counted by the server: a column too many in a claim, or a row that is read to be settled, shows here."""

        async def test():
            options = {"mysql_table_name": table, "mysql_pool_size": 1}
            async with mysql_repository(**server, **options) as repository:
                size, spec = 500, '{"x": 1}'

                async def status():
                    names = "'Questions', 'Bytes_received', 'Bytes_sent'"
                    rows = await repository._fetch(f"SHOW SESSION STATUS WHERE Variable_name IN ({names})")
                    return [int(dict(rows)[name]) for name in ("Questions", "Bytes_received", "Bytes_sent")]

                async def costs(call):
                    first, before = await status(), await status()
                    result = await call
                    after = await status()
                    of_status = [b - a for a, b in zip(first, before, strict=True)]
                    cost = [c - b - a for a, b, c in zip(of_status, before, after, strict=True)]
                    return result, (cost[0], cost[1] // size, cost[2] // size)

                async def within(call, statements, received, sent):
                    result, cost = await costs(call)
                    assert cost[0] == statements and cost[1] <= received and cost[2] <= sent, cost
                    return result

                rows = [registration(f"task {number:03}", spec=spec) for number in range(size)]
                await within(repository.register(NOW, rows), 5, 170, 4)
                await within(repository.register(NOW, rows), 3, 15, 120)
                claims = (await within(claim(repository), 7, 16, 115)).claims
                later = Target(NOW, NOW)
                await within(repository.settle(NOW, [Commit(each, later) for each in claims]), 4, 125, 1)
                claims = (await within(claim(repository), 7, 16, 115)).claims
                # The arguments are not looked at, however large they are.
                await repository.register(NOW, [registration(each.key.name, spec=f'"{"x" * 5000}"') for each in claims])
                await within(repository.settle(NOW, [Release(each, NOW) for each in claims]), 4, 125, 1)
                await within(repository.pause(NOW, [each.key for each in claims]), 5, 165, 220)

        asyncio.run(test())

    def test_an_empty_batch_is_none_at_all(self, server, table):
        async def test():
            async with proxied(server, table) as (proxy, repository):
                before = proxy.round_trips
                await repository.register(NOW, [])
                empty = [await repository.settle(NOW, []), await repository.get([]), await repository.unregister(NOW, [])]
                assert empty == [[]] * 3
                assert proxy.round_trips == before

        asyncio.run(test())


class TestClaims:
    def test_what_is_locked_in_passing_is_looked_for_again(self, server, table, connect):
        """Somebody holds a row for a moment, who does not claim it: a neighbour's scan, or a call that was cut off."""

        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                await repository.register(NOW, [registration("a"), registration("b")])
                locked, seen = asyncio.Event(), asyncio.Event()

                async def hold():
                    async with connect() as run:
                        await run("BEGIN")
                        await run(f"SELECT * FROM {table} WHERE `partition` = 'p' AND name = 'a' FOR UPDATE")
                        locked.set()
                        await seen.wait()
                        await run("ROLLBACK")

                holding = asyncio.create_task(hold())
                await locked.wait()
                claims = (await claim(repository)).claims
                assert [each.key.name for each in claims] == ["b"]
                original = repository._claim

                async def let_go_after_the_first(*args):
                    result = await original(*args)
                    seen.set()
                    await holding
                    return result

                repository._claim = let_go_after_the_first
                result = await claim(repository)
                assert [each.key.name for each in result.claims] == ["a"]
                assert result.next_ready_at == NOW + MINUTE

        asyncio.run(test())

    def test_a_dead_connection_does_not_keep_its_locks(self, server, table):
        """Else its rows would be passed over for the eight hours of the server's own wait_timeout."""

        async def test():
            async with (
                proxied(server, table, mysql_timeout=1.0) as (proxy, dead),
                mysql_repository(**server, mysql_table_name=table) as repository,
            ):
                await dead.register(NOW, [registration("a")])

                async def hold(run):
                    await run(BEGIN, Statement(f"SELECT * FROM {table} FOR UPDATE"))
                    proxy.freeze()
                    await run(Statement("SELECT 1"))

                with pytest.raises(TransientRepositoryError):
                    await dead._transactions.run(hold)
                async with asyncio.timeout(30):
                    while not (await claim(repository)).claims:
                        await asyncio.sleep(0.05)

        asyncio.run(test())

    def test_what_is_passed_by_where_everything_takes_long_is_found_in_the_end(self, server, table):
        """What old snapshots keep is not walked through by each claim, see pyncette.looks."""

        async def test():
            elapsed = [0.0]
            here = mysql_repository(**server, mysql_table_name=table)
            there = mysql_repository(**server, mysql_table_name=table)
            async with here as repository, there as other:
                repository._looks = Looks(clock=lambda: elapsed[0], expensive=0.0)
                later = NOW + 60 * MINUTE

                async def claimed():
                    result = await repository.claim(later, "p", lease_duration=MINUTE, limit=10)
                    return [each.key.name for each in result.claims], result.next_ready_at

                await repository.register(NOW, [registration("first"), registration("far", later + 60 * MINUTE)])
                assert await claimed() == (["first"], later + 60 * MINUTE)
                await repository.unregister(NOW, [Key("p", "first")])
                assert await claimed() == ([], later + 60 * MINUTE)
                assert await claimed() == ([], later + timedelta(seconds=1))
                await other.register(NOW, [registration("late"), registration("paused")])
                await other.pause(NOW, [Key("p", "paused")])
                assert (await claimed())[0] == []
                await repository.resume(NOW, [Key("p", "paused")])
                assert (await claimed())[0] == ["late", "paused"]
                await other.register(NOW, [registration("too late")])
                assert (await claimed())[0] == []
                elapsed[0] = 60.0
                assert (await claimed())[0] == ["too late"]
                await repository.register(NOW, [registration("own")])
                assert (await claimed())[0] == ["own"]

        asyncio.run(test())


class TestStored:
    def test_what_is_stored_is_pinned(self, server, table, sql):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                rows = [registration("a", NOW + MINUTE, spec='{"x": "é"}', schedule="*/5"), registration("b"), registration("c")]
                await repository.register(NOW, rows)
                held, failed = (await claim(repository, names=["b", "c"])).claims
                await repository.settle(NOW, [Fail(failed, "it broke", "note")])
                await repository.pause(NOW, [Key("p", "a")])
                return held.lease

        lease = asyncio.run(test())
        columns = sql(
            "SELECT column_name, column_type, is_nullable, collation_name FROM information_schema.columns "
            "WHERE table_name = %s AND table_schema = DATABASE() ORDER BY ordinal_position",
            table,
        )
        # MariaDB still says how wide numbers are shown.
        assert [(name, kind.replace("bigint(20)", "bigint"), null, collation) for name, kind, null, collation in columns] == [
            ("partition", "varbinary(1100)", "NO", None),
            ("name", "varbinary(1000)", "NO", None),
            ("spec", "longtext", "NO", "utf8mb4_bin"),
            ("schedule", "text", "NO", "utf8mb4_bin"),
            ("occurrence", "bigint", "NO", None),
            ("execute_after", "bigint", "NO", None),
            ("ready_at", "bigint", "YES", None),
            ("lease", "varchar(64)", "YES", "utf8mb4_bin"),
            ("locked_until", "bigint", "YES", None),
            ("epoch", "bigint", "NO", None),
            ("revision", "bigint", "NO", None),
            ("attempt", "bigint", "NO", None),
            ("state", "varchar(16)", "NO", "utf8mb4_bin"),
            ("error", "text", "YES", "utf8mb4_bin"),
            ("memo", "varchar(4000)", "NO", "utf8mb4_bin"),
        ]
        comment = "SELECT table_comment, engine FROM information_schema.tables WHERE table_name = %s AND table_schema = DATABASE()"
        assert sql(comment, table) == [("Pyncette, stored format 1", "InnoDB")]
        indexes = (
            "SELECT index_name, column_name FROM information_schema.statistics WHERE table_name = %s AND table_schema = DATABASE() "
            "ORDER BY index_name, seq_in_index"
        )
        assert sql(indexes, table) == [
            ("PRIMARY", "partition"),
            ("PRIMARY", "name"),
            ("ready", "partition"),
            ("ready", "ready_at"),
        ]
        at, later, epoch = 1772366400123457, 1772366460123457, 1772366400123458  # microseconds since 1970
        assert sql(f"SELECT * FROM {table} ORDER BY name") == [
            (b"p", b"a", '{"x": "é"}', "*/5", later, later, None, None, None, at, 0, 0, "paused", None, ""),
            (b"p", b"b", "{}", "s", at, at, later, lease, later, epoch, 0, 1, "scheduled", None, ""),
            (b"p", b"c", "{}", "s", at, at, None, lease, None, epoch, 0, 1, "failed", "it broke", "note"),
        ]

    def test_the_history_is_pinned(self, server, table, sql):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                await repository.append([ENTRY])

        asyncio.run(test())
        at = 1772366400123457  # microseconds since 1970
        assert sql(f"SELECT `partition`, name, at, id, expires_at, text FROM {table}_history") == [
            (b"p", "é".encode(), at, b"1-a", at + 60_000_000, '{"x": 1}')
        ]
        columns = sql(
            "SELECT column_name, column_type, is_nullable, collation_name FROM information_schema.columns "
            "WHERE table_name = %s AND table_schema = DATABASE() ORDER BY ordinal_position",
            f"{table}_history",
        )
        assert [(name, kind.replace("bigint(20)", "bigint"), null, collation) for name, kind, null, collation in columns] == [
            ("partition", "varbinary(1100)", "NO", None),
            ("name", "varbinary(1000)", "NO", None),
            ("at", "bigint", "NO", None),
            ("id", "varbinary(64)", "NO", None),
            ("expires_at", "bigint", "NO", None),
            ("text", "text", "NO", "utf8mb4_bin"),
        ]

    def test_a_newer_format_is_refused_at_the_start(self, server, table, sql):
        async def start():
            async with mysql_repository(**server, mysql_table_name=table):
                pass

        asyncio.run(start())
        sql(f"ALTER TABLE {table} COMMENT 'Pyncette, stored format 2'")
        message = error_of(**server, mysql_table_name=table)
        assert message.endswith("has the stored format 2, but this Pyncette knows only 1; upgrade pyncette-mysql")

    @pytest.mark.parametrize("skip", [False, True])
    def test_one_of_pyncette_1_is_recognised_and_left_alone(self, server, table, sql, skip):
        sql(
            f"CREATE TABLE {table} (name VARCHAR(256) PRIMARY KEY, parent_name VARCHAR(256), locked_until DOUBLE, locked_by VARCHAR(256), "
            "execute_after DOUBLE, task_spec TEXT)"
        )
        sql(f"INSERT INTO {table} (name) VALUES ('a')")
        message = error_of(**server, mysql_table_name=table, mysql_skip_table_create=skip)
        assert message.startswith(f"The table '{table}' in ")
        assert (
            "is one of Pyncette 1, which this version can't read; choose another mysql_table_name, schedule its tasks again"
            in message
        )
        assert sql(f"SELECT name FROM {table}") == [("a",)]

    def test_a_table_of_somebody_else_is_left_alone(self, server, table, sql):
        sql(f"CREATE TABLE {table} (name TEXT)")
        message = error_of(**server, mysql_table_name=table)
        assert message.endswith("is not one of Pyncette's; choose another mysql_table_name")
        assert sql(f"SELECT COUNT(*) FROM {table}") == [(0,)]

    @pytest.mark.parametrize("name", ["Tasks of März", "a`b", "select", "x" * 64, "a'b", "{table}", "tab%s", "a.b"])
    def test_any_legal_name_will_do(self, server, sql, name):
        async def test():
            async with mysql_repository(**server, mysql_table_name=name) as repository:
                await repository.register(NOW, [registration("a")])
                assert len((await claim(repository)).claims) == 1
                await repository.append([ENTRY])
                assert await repository.runs("p", None, limit=2) == [ENTRY]

        quoted = "`" + name.replace("`", "``") + "`"
        history = "`" + table_of_history(name, 64).replace("`", "``") + "`"
        sql(f"DROP TABLE IF EXISTS {quoted}, {history}")
        try:
            asyncio.run(test())
            assert sql(f"SELECT name FROM {quoted}") == [(b"a",)]
        finally:
            sql(f"DROP TABLE {quoted}, {history}")

    @pytest.mark.parametrize("name", ["", "x" * 65, "a\0b", "a "])
    def test_any_other_is_refused(self, name):
        message = error_of(ConfigurationError, **NOWHERE, mysql_table_name=name)
        assert message.endswith("is not the name of a table; it has 1 to 64 characters")

    def test_its_statement_is_there_for_those_who_create_the_table_themselves(self, server, table, sql):
        for statement in schema(table).split(";\n")[:-1]:
            sql(statement)

        async def test():
            async with mysql_repository(**server, mysql_table_name=table, mysql_skip_table_create=True) as repository:
                await repository.register(NOW, [registration("a")])
                await repository.append([ENTRY])

        asyncio.run(test())

    def test_a_history_that_is_missing(self, server, table, sql):
        """Tasks run without it; and it is clear what is missing."""

        async def test(**options):
            async with mysql_repository(**server, mysql_table_name=table, **options) as repository:
                await asyncio.to_thread(sql, f"DROP TABLE IF EXISTS {table}_history")
                await repository.register(NOW, [registration("a")])
                with pytest.raises(
                    RepositoryError, match=f"There is no table '{table}_history' in .*; create it, or restart to have it"
                ):
                    await repository.append([ENTRY])
                with pytest.raises(RepositoryError, match=f"{table}_history"):
                    await repository.runs("p", None, limit=5)
                assert len((await claim(repository)).claims) <= 1

        asyncio.run(test())
        asyncio.run(test(mysql_skip_table_create=True))


class TestOptions:
    def test_a_url_reaches_the_factory(self):
        url = "mysql://user:p%40ss@host:3307/db?table_name=tasks&pool_size=3&timeout=2.5&ssl=yes&skip_table_create=yes"
        assert from_url(url).keywords == {
            "mysql_host": "host",
            "mysql_port": 3307,
            "mysql_user": "user",
            "mysql_password": "p@ss",
            "mysql_database": "db",
            "mysql_table_name": "tasks",
            "mysql_pool_size": 3,
            "mysql_timeout": 2.5,
            "mysql_ssl": True,
            "mysql_skip_table_create": True,
        }
        assert from_url("mariadb://host/db").keywords["mysql_port"] == 3306

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mysql_pool_size": 0}, "mysql_pool_size=0 is below 1; use 5, for example"),
            ({"mysql_timeout": 0.0}, "mysql_timeout=0.0 is not a number of seconds above 0"),
            ({"mysql_timeout": float("nan")}, "mysql_timeout=nan is not a number of seconds above 0"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, options, words):
        assert error_of(ConfigurationError, **NOWHERE, **options) == words

    @pytest.mark.parametrize("url", ["mysql://host", "mysql://host/"])
    def test_a_url_without_a_database_is_refused(self, url):
        with pytest.raises(ConfigurationError, match="names no database; write mysql://HOST/DATABASE"):
            Pyncette(url)

    def test_an_option_that_is_not_known_is_named(self):
        with pytest.raises(ConfigurationError, match="Unknown option 'tabel_name' .* did you mean 'table_name'?"):
            Pyncette("mysql://host/db?tabel_name=x")

    def test_no_more_connections_are_opened_than_allowed(self, server, table):
        async def test():
            async with proxied(server, table, mysql_pool_size=2) as (proxy, repository):
                await asyncio.gather(*(repository.register(NOW, [registration(str(i))]) for i in range(30)))
                assert proxy.open_connections <= 2

        asyncio.run(test())


class TestErrors:
    """One line that says what is wrong, with what, and what to do; never the password."""

    def test_wrong_password(self, server):
        message = error_of(**{**server, "mysql_password": "battery-horse"})
        assert message.startswith(f"MySQL at {server['mysql_host']}:{server['mysql_port']}/")
        assert "refused the login: Access denied for user" in message
        assert message.endswith("; check user, password and grants, and whether it demands TLS")

    def test_unknown_database(self, server):
        message = error_of(**{**server, "mysql_database": "nowhere"})
        assert message.endswith("has no such database: Unknown database 'nowhere'; create it, or correct the name")

    def test_nobody_listens(self):
        message = error_of(TransientRepositoryError, **NOWHERE, mysql_host="127.0.0.1", mysql_port=1)
        assert message.startswith("MySQL at 127.0.0.1:1/db can't be reached (")
        assert message.endswith("; is it running, is the address right?")

    def test_unknown_host(self):
        message = error_of(TransientRepositoryError, **NOWHERE, mysql_host="nowhere.invalid")
        assert message.startswith("MySQL at nowhere.invalid:3306/db can't be reached (")

    def test_silence(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            message = error_of(TransientRepositoryError, **NOWHERE, mysql_host="127.0.0.1", mysql_port=port, mysql_timeout=0.5)
        assert message == f"MySQL at 127.0.0.1:{port}/db did not answer within 0.5 s; is the address right?"

    def test_missing_table(self, server, table):
        message = error_of(**server, mysql_table_name=table, mysql_skip_table_create=True)
        assert message.startswith(f"There is no table '{table}' in ")
        assert message.endswith("; create it, or leave out mysql_skip_table_create")

    def test_a_table_that_goes_away(self, server, table, sql):
        async def test():
            async with mysql_repository(**server, mysql_table_name=table) as repository:
                await asyncio.to_thread(sql, f"DROP TABLE {table}")
                with pytest.raises(RepositoryError, match="There is no table .*; create it, or restart to have it created"):
                    await claim(repository)

        asyncio.run(test())

    def test_a_user_who_may_not(self, server, table, sql):
        sql(f"CREATE USER '{table[:30]}'@'%%' IDENTIFIED BY 'battery-horse'".replace("%%", "%"))
        try:
            message = error_of(**{**server, "mysql_user": table[:30], "mysql_password": "battery-horse"})
            assert "Access denied for user" in message and message.endswith(
                "; check user, password and grants, and whether it demands TLS"
            )
        finally:
            sql(f"DROP USER '{table[:30]}'@'%'")


def test_the_statements_of_the_page_on_operating_work(sql):
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    [oldest, length] = re.search(r"```sql\n(SELECT MIN\(trx_started\).*?)\n```", page, re.DOTALL)[1].splitlines()
    assert len(sql(oldest)) == 1
    [(count,)] = sql(length)
    assert count >= 0
