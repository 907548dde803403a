"""Transactions of users on each driver; the suite has those on aiomysql, and what holds for all of them."""

import asyncio
import contextlib
import functools
from datetime import UTC, datetime, timedelta

import aiomysql
import pymysql
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pyncette import Pyncette
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.mysql import mysql_repository
from pyncette_conformance import Capabilities
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.suite.test_transactions import TestTransactions as Suite
from pyncette_conformance.transactions import UserTransaction

HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at_once(call):
    """A synchronous call as one to be awaited."""

    async def called():
        call()

    return called


def login(server, **more):
    return {name.removeprefix("mysql_").replace("database", "db"): value for name, value in server.items()} | more


@contextlib.asynccontextmanager
async def bare(server):
    """Without Unicode and with rows as dicts; a transaction begins by itself."""
    options = login(server, use_unicode=False, charset="utf8mb4", cursorclass=aiomysql.DictCursor)
    connection = await aiomysql.connect(**options)
    try:
        yield UserTransaction(connection, connection.commit, connection.rollback)
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def pymysql_sync(server):
    options = login(server, autocommit=True, cursorclass=pymysql.cursors.DictCursor)
    connection = pymysql.connect(database=options.pop("db"), **options)
    with connection:
        connection.begin()
        yield UserTransaction(connection, at_once(connection.commit), at_once(connection.rollback))


def address(server, driver):
    return sqlalchemy.URL.create(
        f"mysql+{driver}",
        *(server["mysql_user"], server["mysql_password"], server["mysql_host"], server["mysql_port"], server["mysql_database"]),
    )


@contextlib.asynccontextmanager
async def sqlalchemy_async(server):
    engine = create_async_engine(address(server, "aiomysql"))
    try:
        async with AsyncSession(engine) as session:
            yield UserTransaction(session, session.commit, session.rollback)
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def sqlalchemy_sync(server):
    engine = sqlalchemy.create_engine(address(server, "pymysql"))
    with Session(engine) as session:
        yield UserTransaction(session, at_once(session.commit), at_once(session.rollback))
    engine.dispose()


DRIVERS = {
    "aiomysql-bare": bare,
    "pymysql": pymysql_sync,
    "sqlalchemy-aiomysql": sqlalchemy_async,
    "sqlalchemy-pymysql": sqlalchemy_sync,
}


class TestEachDriver(Conformance):
    begin = Suite.begin
    test_what_is_registered = Suite.test_what_is_registered_is_there_with_the_commit_and_not_before
    test_rolled_back = Suite.test_nothing_is_left_of_what_is_rolled_back
    test_names_and_values = Suite.test_names_and_values_are_stored_as_they_are
    test_a_value_that_no_store_can_have = Suite.test_a_value_that_no_store_can_have_does_not_end_it
    test_calls_at_once = Suite.test_calls_at_once_take_turns

    @pytest.fixture
    def repository_factory(self, server, table):
        return functools.partial(mysql_repository, **server, mysql_table_name=table)

    @pytest.fixture
    def repository_capabilities(self):
        return Capabilities()

    @pytest.fixture(params=DRIVERS)
    def user_transactions(self, request, server):
        return functools.partial(DRIVERS[request.param], server)


@contextlib.asynccontextmanager
async def connected(server, **more):
    connection = await aiomysql.connect(**login(server, autocommit=True, **more))
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def play(server_url, table):
    app = Pyncette(f"{server_url}?table_name={table}&timeout=2")

    @app.dynamic_task()
    async def remind(context):
        pass

    def run(scenario):
        async def playing():
            async with app.create() as app_context:
                return await scenario(app_context, remind)

        return asyncio.run(playing())

    return run


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    assert "pyncette:pyncette" not in text
    return text


class TestWhatIsWrong:
    """One line that says what to do, and nothing written."""

    def test_no_transaction_a_closed_connection_and_a_charset_without_all_characters(self, play, server):
        async def scenario(app_context, remind):
            async with connected(server) as connection:
                within = app_context.within(connection)
                with pytest.raises(ConfigurationError, match=r"not in a transaction.*await connection.begin\(\)") as error:
                    await within.schedule_task(remind, "a", interval=HOUR)
                complaint(error)
            with pytest.raises(ConfigurationError, match="is closed") as error:
                await within.schedule_task(remind, "a", interval=HOUR)
            complaint(error)
            async with connected(server, charset="latin1") as connection:
                await connection.begin()
                with pytest.raises(ConfigurationError, match="charset 'latin1'") as error:
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            assert await app_context.get_task(remind, "a") is None

        play(scenario)

    def test_a_table_that_is_not_there(self, play, server, connect, table):
        async def scenario(app_context, remind):
            async with connected(server) as connection, connect() as run:
                await connection.begin()
                await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                await connection.rollback()
                await connection.begin()
                await run(f"RENAME TABLE {table} TO {table}_gone")
                with pytest.raises(ConfigurationError, match="no table .* where this connection leads to") as error:
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                complaint(error)
                await connection.rollback()
                await run(f"RENAME TABLE {table}_gone TO {table}")

        play(scenario)

    def test_two_that_wait_for_each_other(self, play, server):
        async def scenario(app_context, remind):
            for name in "ab":
                await app_context.schedule_task(remind, name, interval=HOUR)

            async def cross(connection, first, second, ready, other):
                await connection.begin()
                within = app_context.within(connection)
                await within.schedule_task(remind, first, interval=2 * HOUR)
                ready.set()
                await other.wait()
                await within.schedule_task(remind, second, interval=2 * HOUR)

            async with connected(server) as one, connected(server) as two:
                here, there = asyncio.Event(), asyncio.Event()
                crossing = [cross(one, "a", "b", here, there), cross(two, "b", "a", there, here)]
                results = await asyncio.gather(*crossing, return_exceptions=True)
            [error] = [result for result in results if result is not None]
            assert isinstance(error, TransientRepositoryError)
            assert "has rolled this transaction back" in str(error)

        play(scenario)

    def test_arguments_that_no_packet_can_hold_do_not_end_the_transaction(self, play, server):
        async def scenario(app_context, remind):
            async with connected(server) as connection:
                await connection.begin()
                within = app_context.within(connection)
                await within.schedule_task(remind, "a", interval=HOUR)
                within.repository._joined._transactions.largest = 100_000  # as a server may have it
                with pytest.raises(RepositoryError, match="more than .* in one packet; raise its max_allowed_packet") as error:
                    await within.schedule_task(remind, "b", interval=HOUR, text="'" * 60_000)
                complaint(error)
                await connection.commit()
            assert [task.name for task in (await app_context.list_tasks(remind)).tasks] == ["a"]

        play(scenario)

    def test_a_connection_that_dies(self, play, server, connect):
        async def scenario(app_context, remind):
            async with connected(server) as connection, connect() as run:
                await connection.begin()
                within = app_context.within(connection)
                await within.schedule_task(remind, "a", interval=HOUR)
                await run(f"KILL {connection.thread_id()}")
                with pytest.raises(TransientRepositoryError, match="is lost; roll the transaction back") as error:
                    await within.schedule_task(remind, "b", interval=HOUR)
                complaint(error)
            assert (await app_context.list_tasks(remind)).tasks == []

        play(scenario)


def test_the_database_of_the_connection_may_be_another_one_of_the_server(play, server):
    async def scenario(app_context, remind):
        async with connected(server) as connection:
            await connection.select_db("information_schema")
            await connection.begin()
            await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            await connection.commit()
        assert await app_context.get_task(remind, "a") is not None

    play(scenario)


@pytest.mark.parametrize("begins_by_itself", [False, True])
def test_what_is_committed_and_due_runs_at_once_though_polls_are_rare(server_url, server, table, begins_by_itself):
    """And what is rolled back does not."""
    app = Pyncette(f"{server_url}?table_name={table}", poll_interval=timedelta(seconds=60))
    ran = asyncio.Queue()

    @app.dynamic_task()
    async def remind(context):
        ran.put_nowait(context.name)

    async def main():
        async with app.create() as app_context, connected(server) as connection:
            running = asyncio.create_task(app_context.run())
            await app_context.schedule_task(remind, "first", execute_at=NOW)  # so that the first polls are over
            assert await ran.get() == "first"
            if begins_by_itself:
                await connection.autocommit(False)
            for end in (connection.rollback, connection.commit):
                if not begins_by_itself:
                    await connection.begin()
                await app_context.within(connection).schedule_task(remind, f"{end.__name__} ed", execute_at=NOW)
                assert ran.empty()
                await end()
            async with asyncio.timeout(20):
                assert await ran.get() == "commit ed"
            app_context.shutdown()
            await running

    asyncio.run(main())
    assert ran.empty()
