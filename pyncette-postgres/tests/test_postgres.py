"""What PostgreSQL adds to the contract, which the conformance suite proves: its statements, its tables, its errors."""

import asyncio
import contextlib
import gc
import json
import re
import socket
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from pyncette import Pyncette
from pyncette.backends import from_url
from pyncette.clock import to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.postgres import postgres_repository, schema
from pyncette.repository import Commit, Entry, Fail, Key, Outcome, Position, Registration, Release, Target
from pyncette_conformance.faults.proxy import Proxy

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ENTRY = Entry(Key("p", "é"), Position(NOW, "1-a"), NOW + MINUTE, '{"x": 1}')


def registration(name, at=NOW, *, spec="{}", schedule="s", partition="p"):
    return Registration(Key(partition, name), spec, schedule, Target(at, at))


def claim(repository, limit=1000, **options):
    return repository.claim(NOW, "p", lease_duration=MINUTE, limit=limit, **options)


def address_of(url):
    found = re.search(r"@([^:/]+):(\d+)", url)
    return found[1], int(found[2])


@contextlib.asynccontextmanager
async def proxied(url, table, **options):
    host, port = address_of(url)
    async with Proxy(host, port) as proxy:
        through = url.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        async with postgres_repository(postgres_url=through, postgres_table_name=table, **options) as repository:
            yield proxy, repository


def error_of(open_repository, kind=RepositoryError):
    async def start():
        async with open_repository():
            pass

    with pytest.raises(kind) as caught:
        asyncio.run(start())
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRoundTrips:
    @pytest.mark.parametrize("size", [1, 10, 500])
    def test_each_call_is_one_whatever_the_size_of_its_batch(self, server_url, table, size):
        async def test():
            async with proxied(server_url, table, postgres_pool_size=1) as (proxy, repository):

                async def counted(call):
                    before = proxy.round_trips
                    result = await call
                    return proxy.round_trips - before, result

                async def all_calls(prefix):
                    """The round trips of each kind of call on ``size`` rows."""
                    names = [f"{prefix}{i}" for i in range(size)]
                    keys = [Key("p", name) for name in names]
                    count = {}
                    count["register"], _ = await counted(repository.register(NOW, [registration(name) for name in names]))
                    count["claim named"], result = await counted(claim(repository, names=names))
                    assert len(result.claims) == size
                    count["release"], _ = await counted(repository.settle(NOW, [Release(each, NOW) for each in result.claims]))
                    count["claim"], result = await counted(claim(repository))
                    assert len(result.claims) == size
                    later = Target(NOW + MINUTE, NOW + MINUTE)
                    count["commit"], outcomes = await counted(repository.settle(NOW, [Commit(c, later) for c in result.claims]))
                    assert set(outcomes) == {Outcome.APPLIED}
                    count["idle claim"], _ = await counted(claim(repository))
                    count["get"], _ = await counted(repository.get(keys))
                    count["pause"], _ = await counted(repository.pause(NOW, keys))
                    count["unregister"], _ = await counted(repository.unregister(NOW, keys))
                    return count

                await all_calls("first")  # each statement is prepared once for each connection
                count = await all_calls("then")
                assert count == dict.fromkeys(count, 1)

        asyncio.run(test())

    def test_an_empty_batch_is_none_at_all(self, server_url, table):
        async def test():
            async with proxied(server_url, table) as (proxy, repository):
                before = proxy.round_trips
                await repository.register(NOW, [])
                assert [await repository.settle(NOW, []), await repository.get([]), await repository.unregister(NOW, [])] == [
                    []
                ] * 3
                assert proxy.round_trips == before

        asyncio.run(test())

    def test_what_is_read_grows_with_the_batch_and_not_with_the_table(self, server_url, table, sql):
        """A plan that sorts or scans everything would be lost among a million rows."""

        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                for start in range(0, 20_000, 5000):
                    await repository.register(NOW, [registration(str(i), NOW + i * MINUTE) for i in range(start, start + 5000)])
                return repository._sql["CLAIM"]

        statement = asyncio.run(test())
        sql(f"ANALYZE {table}")
        now = to_microseconds(NOW)
        arguments = {"$1": "'p'", "$2": str(now), "$3": "10", "$4": "'l'", "$5": str(now + 1), "$6": "0", "$7": str(now * 2)}
        for parameter, value in arguments.items():
            statement = statement.replace(parameter, value)
        [[plan]] = sql(f"EXPLAIN (FORMAT JSON) {statement}")
        nodes = []

        def visit(node):
            nodes.append(node)
            for each in node.get("Plans", ()):
                visit(each)

        visit(json.loads(plan)[0]["Plan"])
        assert [node["Node Type"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
        assert {node["Index Name"] for node in nodes if "Index Name" in node} == {f"{table}_partition_ready_at_idx"}


class TestStored:
    def test_what_is_stored_is_pinned(self, server_url, table, sql):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                rows = [registration("a", NOW + MINUTE, spec='{"x": "é"}', schedule="*/5"), registration("b"), registration("c")]
                await repository.register(NOW, rows)
                held, failed = (await claim(repository, names=["b", "c"])).claims
                await repository.settle(NOW, [Fail(failed, "it broke")])
                await repository.pause(NOW, [Key("p", "a")], {Key("p", "a"): "by joe"})
                return held.lease

        lease = asyncio.run(test())
        columns = "SELECT column_name, data_type, is_nullable, collation_name FROM information_schema.columns WHERE table_name = $1"
        assert sql(f"{columns} ORDER BY ordinal_position", table) == [
            ("partition", "text", "NO", "C"),
            ("name", "text", "NO", "C"),
            ("spec", "text", "NO", "C"),
            ("schedule", "text", "NO", "C"),
            ("occurrence", "bigint", "NO", None),
            ("execute_after", "bigint", "NO", None),
            ("ready_at", "bigint", "YES", None),
            ("lease", "text", "YES", "C"),
            ("locked_until", "bigint", "YES", None),
            ("epoch", "bigint", "NO", None),
            ("revision", "bigint", "NO", None),
            ("attempt", "bigint", "NO", None),
            ("state", "text", "NO", "C"),
            ("error", "text", "YES", None),
            ("memo", "text", "NO", None),
        ]
        assert sql(f"SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'c'") == [
            ("pyncette_format_1",)
        ]
        assert sql("SELECT indexdef FROM pg_indexes WHERE tablename = $1 ORDER BY 1", table) == [
            (f"CREATE INDEX {table}_partition_idx ON public.{table} USING btree (partition) WHERE (state = 'failed'::text)",),
            (
                f"CREATE INDEX {table}_partition_ready_at_idx ON public.{table} USING btree (partition, ready_at) WHERE (ready_at IS NOT NULL)",
            ),
            (f"CREATE UNIQUE INDEX {table}_pkey ON public.{table} USING btree (partition, name)",),
        ]
        now = epoch = 1772366400123457  # microseconds since 1970
        later = until = now + 60_000_000
        assert sql(f"SELECT * FROM {table} ORDER BY name") == [
            ("p", "a", '{"x": "é"}', "*/5", later, later, None, None, None, epoch, 0, 0, "paused", None, "by joe"),
            ("p", "b", "{}", "s", now, now, until, lease, until, epoch + 1, 0, 1, "scheduled", None, ""),
            ("p", "c", "{}", "s", now, now, None, lease, None, epoch + 1, 0, 1, "failed", "it broke", ""),
        ]

    def test_what_is_registered_already_is_not_written_again(self, server_url, table, sql):
        """I4. Neither a new version of the row nor a lock on it: every worker registers every static task at its start."""
        versions = f"SELECT name, ctid::text, xmin::text, xmax::text FROM {table} ORDER BY name"

        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                rows = [registration("a"), registration("b", spec='{"x": 1}')]
                await repository.register(NOW, rows)
                before = await asyncio.to_thread(sql, versions)
                await repository.register(NOW, rows)
                assert await asyncio.to_thread(sql, versions) == before
                await repository.register(NOW, [*rows[:1], registration("b", spec='{"x": 2}')])
                after = await asyncio.to_thread(sql, versions)
                assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
                [row] = await repository.get([Key("p", "b")])
                assert row.spec == '{"x": 2}'

        asyncio.run(test())

    def test_the_history_is_pinned(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                await repository.append([ENTRY])

        asyncio.run(test())
        columns = "SELECT column_name, data_type, is_nullable, collation_name FROM information_schema.columns WHERE table_name = $1"
        assert sql(f"{columns} ORDER BY ordinal_position", f"{table}_history") == [
            ("partition", "text", "NO", "C"),
            ("name", "text", "NO", "C"),
            ("at", "bigint", "NO", None),
            ("id", "text", "NO", "C"),
            ("expires_at", "bigint", "NO", None),
            ("text", "text", "NO", None),
        ]
        at = 1772366400123457  # microseconds since 1970
        assert sql(f"SELECT * FROM {table}_history") == [("p", "é", at, "1-a", at + 60_000_000, '{"x": 1}')]

    def test_each_statement_of_the_history_has_an_index(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                fetch = repository._connections.fetch
                now = to_microseconds(NOW)
                for name, arguments in {
                    "RUNS": ("p", "a", 5, now, ""),
                    "RUNS_OF_ALL": ("p", None, 5, now, ""),
                    "TRIM": ("p", "a", 5, 5),
                    "TRIM_ALL": ("p", None, 5, 5),
                    "PRUNE": (now, 5),
                }.items():
                    plan = [line for (line,) in await fetch(f"EXPLAIN {repository._history[name]}", *arguments)]
                    assert not [line for line in plan if "Seq Scan" in line or "Sort" in line], (name, plan)

        asyncio.run(test())

    def test_a_table_may_be_made_by_somebody_else(self, server_url, table, sql):
        for statement in schema(table).split(";\n")[:-1]:
            sql(statement)

        async def test():
            options = {"postgres_table_name": table, "postgres_skip_table_create": True}
            async with postgres_repository(postgres_url=server_url, **options) as repository:
                await repository.register(NOW, [registration("a")])
                assert len((await claim(repository)).claims) == 1

        asyncio.run(test())

    def test_the_statements_for_it_are_those_that_are_used(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table):
                pass

        described = """SELECT (SELECT array_agg(attname || format_type(atttypid, atttypmod) || attnotnull ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0), c.reloptions::text,
            (SELECT array_agg(d ORDER BY d) FROM pg_index, replace(pg_get_indexdef(indexrelid), c.relname, 't') AS d WHERE indrelid = c.oid)
            FROM pg_class AS c WHERE c.oid = $1::text::regclass"""
        asyncio.run(test())
        ours = [sql(described, each) for each in (table, f"{table}_history")]
        sql(f"DROP TABLE {table}, {table}_history")
        for statement in schema(table).split(";\n")[:-1]:
            sql(statement)
        assert [sql(described, each) for each in (table, f"{table}_history")] == ours

    def test_a_dump_without_comments_is_enough(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table):
                pass

        asyncio.run(test())
        sql(f"COMMENT ON TABLE {table} IS NULL")
        asyncio.run(test())

    def test_a_table_of_pyncette_1_is_known_as_such(self, server_url, table, sql):
        columns = "name text PRIMARY KEY, parent_name text, locked_until timestamptz, locked_by uuid, execute_after timestamptz"
        sql(f"CREATE TABLE {table} ({columns}, task_spec json)")
        message = error_of(lambda: postgres_repository(postgres_url=server_url, postgres_table_name=table))
        assert message.startswith(f'The table "{table}" in ')
        assert message.endswith(
            "belongs to Pyncette 1, whose tasks can't be read; choose another postgres_table_name, and schedule them again"
        )

    def test_somebody_elses_search_path_changes_nothing(self, server_url, table, sql):
        """Sessions of a pooler may have been anybody's before."""

        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table, postgres_pool_size=1) as repository:
                await repository._connections.execute("SET search_path = pg_catalog")
                await repository.register(NOW, [registration("a")])
                assert len((await claim(repository)).claims) == 1

        asyncio.run(test())

    def test_a_newer_format_is_refused_at_the_start(self, server_url, table, sql):
        def opened():
            return postgres_repository(postgres_url=server_url, postgres_table_name=table)

        async def start():
            async with opened():
                pass

        asyncio.run(start())
        sql(f"ALTER TABLE {table} RENAME CONSTRAINT pyncette_format_1 TO pyncette_format_2")
        assert error_of(opened).endswith("has the stored format 2, but this Pyncette knows only 1; upgrade pyncette-postgres")

    def test_a_table_of_somebody_else_is_left_alone(self, server_url, table, sql):
        sql(f"CREATE TABLE {table} (name text)")
        message = error_of(lambda: postgres_repository(postgres_url=server_url, postgres_table_name=table))
        assert message.endswith("is not one of Pyncette's; choose another postgres_table_name")
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)]

    @pytest.mark.parametrize("name", ["Tasks of März", 'a"b', "select", "x" * 63, "a'b", "{table}", "tab%s"])
    def test_any_legal_name_will_do_with_a_schema_or_without(self, server_url, sql, name):
        schema = f"S {uuid.uuid4().hex}"
        sql(f'CREATE SCHEMA "{schema}"')
        quoted = '"' + name.replace('"', '""') + '"'

        async def test():
            for given in (f"{schema}.{name}", f'"{schema}".{quoted}'):
                async with postgres_repository(postgres_url=server_url, postgres_table_name=given) as repository:
                    await repository.register(NOW, [registration("a")])
                    await repository.append([ENTRY])
                    assert await repository.runs("p", None, limit=2) == [ENTRY]

        try:
            asyncio.run(test())
            assert sql(f'SELECT name FROM "{schema}".{quoted}') == [("a",)]
        finally:
            sql(f'DROP SCHEMA "{schema}" CASCADE')

    @pytest.mark.parametrize("name", ["", "a.b.c", '"a', "a\0b", "x" * 64, "é" * 32, ".a", "a."])
    def test_any_other_is_refused(self, name):
        message = error_of(
            lambda: postgres_repository(postgres_url="postgresql://h/d", postgres_table_name=name), ConfigurationError
        )
        assert message.startswith("postgres_table_name=")


class TestOptions:
    def test_a_url_reaches_the_factory(self):
        own = "table_name=jobs.tasks&pool_size=3&timeout=2.5&skip_table_create=yes"
        url = f"postgresql://user:p%40ss@host:5433/db?sslmode=require&{own}&sslkey=/my%20key"
        assert from_url(url).keywords == {
            "postgres_url": "postgresql://user:p%40ss@host:5433/db?sslmode=require&sslkey=%2Fmy%20key",
            "postgres_table_name": "jobs.tasks",
            "postgres_pool_size": 3,
            "postgres_timeout": 2.5,
            "postgres_skip_table_create": True,
        }
        assert from_url("postgres://host/db").keywords == {"postgres_url": "postgres://host/db"}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"postgres_pool_size": 0}, "postgres_pool_size=0 is below 1; use 5, for example"),
            ({"postgres_timeout": 0.0}, "postgres_timeout=0.0 is not a number of seconds above 0"),
            ({"postgres_timeout": float("nan")}, "postgres_timeout=nan is not a number of seconds above 0"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, options, words):
        message = error_of(lambda: postgres_repository(postgres_url="postgresql://h/d", **options), ConfigurationError)
        assert message == words

    def test_no_more_connections_are_opened_than_allowed(self, server_url, table):
        async def test():
            async with proxied(server_url, table, postgres_pool_size=2) as (proxy, repository):
                await asyncio.gather(*(repository.register(NOW, [registration(str(i))]) for i in range(30)))
                assert proxy.open_connections <= 2

        asyncio.run(test())


class TestErrors:
    """One line that says what is wrong, with what, and what to do; never the password."""

    def of(self, url, kind=RepositoryError, **options):
        message = error_of(lambda: postgres_repository(postgres_url=url, **options), kind)
        assert "horse" not in message
        return message

    def test_wrong_password(self, server_url):
        host, port = address_of(server_url)
        url = re.sub(r"://[^@]*@", "://pyncette:battery-horse@", server_url)
        message = self.of(url)
        assert message.startswith(f"PostgreSQL at {host}:{port}/")
        assert message.endswith("; check user and password") and "refused the login" in message

    def test_unknown_database(self, server_url):
        url = server_url.rpartition("/")[0] + "/nowhere"
        assert self.of(url).endswith('has no such database: database "nowhere" does not exist; create it, or correct the URL')

    def test_nobody_listens(self):
        message = self.of("postgresql://user:horse@127.0.0.1:1/db", TransientRepositoryError)
        assert message.startswith("PostgreSQL at 127.0.0.1:1/db can't be reached (")
        assert message.endswith("; is it running, is the address right?")

    def test_unknown_host(self):
        message = self.of("postgresql://user:horse@nowhere.invalid/db", TransientRepositoryError)
        assert message.startswith("PostgreSQL at nowhere.invalid/db can't be reached (")

    def test_silence(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            message = self.of(f"postgresql://u:horse@127.0.0.1:{port}/db", TransientRepositoryError, postgres_timeout=0.5)
        assert message == f"PostgreSQL at 127.0.0.1:{port}/db did not answer within 0.5 s; is the address right?"

    def test_missing_table(self, server_url, table):
        message = self.of(server_url, postgres_table_name=table, postgres_skip_table_create=True)
        assert message.startswith(f'There is no table "{table}" in ')
        assert message.endswith("; create it, or leave out postgres_skip_table_create")

    def test_a_table_that_goes_away(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                await asyncio.to_thread(sql, f"DROP TABLE {table}")
                with pytest.raises(RepositoryError, match="There is no table .*; create it, or restart to have it created"):
                    await claim(repository)

        asyncio.run(test())

    def test_a_history_that_is_missing(self, server_url, table, sql):
        """Tasks run without it; and it is clear what is missing."""

        async def test(**options):
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table, **options) as repository:
                await asyncio.to_thread(sql, f"DROP TABLE IF EXISTS {table}_history")
                await repository.register(NOW, [registration("a")])
                with pytest.raises(
                    RepositoryError, match=f"There is no table .*{table}_history.*; create it, or restart to have it"
                ):
                    await repository.append([ENTRY])
                with pytest.raises(RepositoryError, match=f"{table}_history"):
                    await repository.runs("p", None, limit=5)
                assert len((await claim(repository)).claims) <= 1

        asyncio.run(test())
        asyncio.run(test(postgres_skip_table_create=True))

    def test_a_role_that_may_not_create_a_history(self, server_url, table, sql):
        role = f"role_{uuid.uuid4().hex}"
        for statement in schema(table).split(";\n")[:-1]:
            sql(statement)
        sql(f"DROP TABLE {table}_history")
        sql(f"CREATE ROLE {role} LOGIN PASSWORD 'horse'")
        sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}")
        url = re.sub("//[^@]*@", f"//{role}:horse@", server_url)

        async def test():
            async with postgres_repository(postgres_url=url, postgres_table_name=table) as repository:
                await repository.register(NOW, [registration("a")])
                assert len((await claim(repository)).claims) == 1

        try:
            asyncio.run(test())
        finally:
            sql(f"REVOKE ALL ON {table} FROM {role}")
            sql(f"DROP ROLE {role}")

    def test_a_role_that_may_not(self, server_url, table, sql):
        role = f"role_{uuid.uuid4().hex}"
        sql(f"CREATE ROLE {role} LOGIN PASSWORD 'horse'")
        try:
            url = re.sub(r"://[^@]*@", f"://{role}:horse@", server_url)
            assert "refused: permission denied for schema public" in self.of(url, postgres_table_name=table)
        finally:
            sql(f"DROP ROLE {role}")

    def test_of_the_url_name_the_option(self):
        with pytest.raises(ConfigurationError, match="Unknown option 'tabel_name' .* did you mean 'table_name'?"):
            Pyncette("postgresql://host/db?tabel_name=x")

    def test_a_text_that_no_encoding_has_is_not_shown(self, server_url, table):
        spec = "battery-horse \ud800"

        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                with pytest.raises(RepositoryError, match="A value can't be stored in .*: a text with half") as caught:
                    await repository.register(NOW, [registration("a", spec=spec)])
                assert not isinstance(caught.value, TransientRepositoryError)
                assert "horse" not in "".join(traceback.format_exception(caught.value))
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())

    def test_a_spec_that_text_cannot_hold(self, server_url, table):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration("a", spec="\0")])
                assert not isinstance(caught.value, TransientRepositoryError)

        asyncio.run(test())


class TestConnections:
    def test_that_the_server_ends_are_replaced(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                await asyncio.gather(*(repository.register(NOW, [registration(str(i))]) for i in range(5)))
                kill = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pyncette' AND query LIKE $1"
                )
                await asyncio.to_thread(sql, kill, f"%{table}%")
                failed = 0
                for _ in range(3):
                    try:
                        await claim(repository)
                    except TransientRepositoryError:
                        failed += 1
                assert failed <= 1  # one call finds out for all of them
                assert len(await repository.get([Key("p", str(i)) for i in range(5)])) == 5

        asyncio.run(test())

    def test_a_server_that_is_away_makes_no_noise_but_errors_of_calls(self, server_url, table, caplog):
        async def test():
            host, port = address_of(server_url)
            async with contextlib.AsyncExitStack() as stack:
                async with Proxy(host, port) as proxy:
                    through = server_url.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
                    opened = postgres_repository(postgres_url=through, postgres_table_name=table)
                    repository = await stack.enter_async_context(opened)
                    await claim(repository)
                    proxy.drop()
                for _ in range(20):
                    with pytest.raises(TransientRepositoryError):
                        await claim(repository)
                    await asyncio.sleep(0.05)  # the driver's own attempts are made in the background

        asyncio.run(test())
        assert caplog.messages == []

    def test_waiting_for_one_is_no_fault(self, server_url, table):
        """A burst takes longer than the timeout. Nobody fails while the server answers, and no connection is thrown away for it."""

        async def test():
            options = {"postgres_pool_size": 1, "postgres_timeout": 2.5}
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table, **options) as repository:

                async def session():
                    return await repository._connections.fetch("SELECT pg_backend_pid()")

                before = await session()
                slow = [repository._connections.fetch("SELECT pg_sleep(0.3)") for _ in range(12)]
                await asyncio.gather(*slow, *(repository.register(NOW, [registration(str(i))]) for i in range(100)))
                assert await session() == before

        asyncio.run(test())

    def test_claims_and_settlements_wait_for_no_other_calls(self, server_url, table):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table, postgres_pool_size=2) as repository:
                await repository.register(NOW, [registration("due")])
                registrations = [asyncio.create_task(repository.register(NOW, [registration(str(i))])) for i in range(1000)]
                await asyncio.sleep(0)
                [mine, *_] = (await claim(repository, limit=1)).claims
                assert await repository.settle(NOW, [Release(mine, NOW)]) == [Outcome.APPLIED]
                assert sum(task.done() for task in registrations) < 500
                await asyncio.gather(*registrations)

        asyncio.run(test())

    def test_calls_that_wait_end_in_time_when_the_server_hangs(self, server_url, table):
        async def test():
            async with proxied(server_url, table, postgres_pool_size=2, postgres_timeout=1.5) as (proxy, repository):
                proxy.freeze_new = True
                proxy.freeze()
                begun = asyncio.get_running_loop().time()
                calls = [claim(repository), *(repository.register(NOW, [registration(str(i))]) for i in range(30))]
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(result) for result in results} == {TransientRepositoryError}
                assert asyncio.get_running_loop().time() - begun < 10
                proxy.thaw()
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())

    def test_cancelled_calls_leave_no_noise_behind(self, server_url, table):
        noise = []

        async def test():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context["message"]))
            async with proxied(server_url, table) as (_, repository):
                for turn in range(40):
                    calls = [asyncio.create_task(repository.register(NOW, [registration(str(i))])) for i in range(8)]
                    for _ in range(turn):  # each time at another await
                        await asyncio.sleep(0)
                    for call in calls:
                        call.cancel()
                    await asyncio.wait(calls)
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())
        gc.collect()
        assert noise == []

    def test_a_lock_of_somebody_else_costs_that_call_alone(self, server_url, table, sql):
        async def test():
            options = {"postgres_pool_size": 2, "postgres_timeout": 1.5}
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table, **options) as repository:
                await repository.register(NOW, [registration("a")])
                async with asyncpg.create_pool(server_url, min_size=1, max_size=1) as pool, pool.acquire() as other:
                    async with other.transaction():
                        await other.execute(f"LOCK TABLE {table}")
                        with pytest.raises(TransientRepositoryError, match=r"did not answer within 1.5 s"):
                            await claim(repository)
                        assert (await repository.server_time()).tzinfo is not None
                assert len((await claim(repository)).claims) == 1

        asyncio.run(test())


class TestStats:
    def test_many_rows_are_estimated(self, server_url, table, sql):
        async def test():
            async with postgres_repository(postgres_url=server_url, postgres_table_name=table) as repository:
                await repository.register(NOW, [registration("a")])
                later = to_microseconds(NOW + MINUTE)
                rows = f"SELECT 'p', i::text, '', 's', 0, 0, CASE WHEN i > 15000 THEN {later} ELSE 0 END, 0, 0, 0, 'scheduled'"
                columns = "partition, name, spec, schedule, occurrence, execute_after, ready_at, epoch, revision, attempt, state"
                await asyncio.to_thread(sql, f"INSERT INTO {table} ({columns}) {rows} FROM generate_series(1, 30000) AS i")
                await asyncio.to_thread(sql, f"ANALYZE {table}")
                stats = await repository.stats(NOW, "p")
                assert 25_000 < stats.rows < 35_000
                assert 12_000 < stats.due < 18_000
                assert (to_microseconds(stats.oldest_due), stats.failed) == (0, 0)

        asyncio.run(test())


def test_the_statements_of_the_page_on_operating_work(sql):
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    [statement] = re.findall(r"```sql\n(SELECT pid.*?;)\n```", page, re.DOTALL)
    assert all(len(row) == 6 for row in sql(statement))  # this connection is one of them
