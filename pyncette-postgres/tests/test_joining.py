"""Transactions of users on each driver; the suite has those on asyncpg, and what holds for all of them."""

import asyncio
import contextlib
import functools
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pyncette import Pyncette
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.postgres import postgres_repository
from pyncette_conformance import Capabilities
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.suite.test_transactions import TestTransactions as Suite
from pyncette_conformance.transactions import UserTransaction

HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def nothing(context):
    pass


def at_once(call):
    """A synchronous call as one to be awaited."""

    async def called():
        call()

    return called


@contextlib.asynccontextmanager
async def psycopg_async(url):
    async with await psycopg.AsyncConnection.connect(
        url, row_factory=dict_row, cursor_factory=psycopg.AsyncClientCursor
    ) as connection:
        await connection.execute("SELECT 1")
        yield UserTransaction(connection, connection.commit, connection.rollback)


@contextlib.asynccontextmanager
async def psycopg_sync(url):
    with psycopg.connect(url) as connection:
        yield UserTransaction(connection, at_once(connection.commit), at_once(connection.rollback))


@contextlib.asynccontextmanager
async def pooled(url):
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction(isolation="serializable")
        await transaction.start()
        yield UserTransaction(connection, transaction.commit, transaction.rollback)


def sqlalchemy_async(driver, session):
    @contextlib.asynccontextmanager
    async def begin(url):
        engine = create_async_engine(f"postgresql+{driver}://{url.partition('://')[2]}")
        try:
            async with AsyncSession(engine) if session else engine.connect() as connection:
                yield UserTransaction(connection, connection.commit, connection.rollback)
        finally:
            await engine.dispose()

    return begin


@contextlib.asynccontextmanager
async def sqlalchemy_sync(url):
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://{url.partition('://')[2]}")
    with Session(engine) as session:
        yield UserTransaction(session, at_once(session.commit), at_once(session.rollback))
    engine.dispose()


DRIVERS = {
    "psycopg-async": psycopg_async,
    "psycopg": psycopg_sync,
    "asyncpg-pool": pooled,
    "sqlalchemy-asyncpg": sqlalchemy_async("asyncpg", session=False),
    "sqlalchemy-asyncpg-session": sqlalchemy_async("asyncpg", session=True),
    "sqlalchemy-psycopg-session": sqlalchemy_async("psycopg", session=True),
    "sqlalchemy": sqlalchemy_sync,
}


class TestEachDriver(Conformance):
    begin = Suite.begin
    test_what_is_registered = Suite.test_what_is_registered_is_there_with_the_commit_and_not_before
    test_rolled_back = Suite.test_nothing_is_left_of_what_is_rolled_back
    test_names_and_values = Suite.test_names_and_values_are_stored_as_they_are
    test_a_value_that_no_store_can_have = Suite.test_a_value_that_no_store_can_have_does_not_end_it
    test_calls_at_once = Suite.test_calls_at_once_take_turns

    @pytest.fixture
    def repository_factory(self, server_url, table):
        return functools.partial(postgres_repository, postgres_url=server_url, postgres_table_name=table)

    @pytest.fixture
    def repository_capabilities(self):
        return Capabilities()

    @pytest.fixture(params=DRIVERS)
    def user_transactions(self, request, server_url):
        return functools.partial(DRIVERS[request.param], server_url)


@pytest.fixture
def app(server_url, table):
    app = Pyncette(f"{server_url}?table_name={table}")

    @app.dynamic_task()
    async def remind(context):
        pass

    return app


def play(app, scenario):
    async def run():
        async with app.create() as app_context:
            return await scenario(app_context, app_context.tasks[0])

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def connected(url):
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    assert "pyncette:pyncette" not in text
    return text


class TestWhatIsWrong:
    """One line that says what to do, and nothing written."""

    def test_no_transaction(self, app, server_url):
        async def scenario(app_context, remind):
            async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as one, connected(server_url) as two:
                for connection in (one, two):
                    with pytest.raises(ConfigurationError, match=r"not in a transaction.*begin one: (async )?with") as error:
                        await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                    complaint(error)
            engine = create_async_engine(f"postgresql+asyncpg://{server_url.partition('://')[2]}", isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            await engine.dispose()
            assert await app_context.get_task(remind, "a") is None

        play(app, scenario)

    def test_a_closed_connection(self, app, server_url):
        async def scenario(app_context, remind):
            pool = await asyncpg.create_pool(server_url, min_size=1)
            async with pool.acquire() as given_back:
                pass
            async with await psycopg.AsyncConnection.connect(server_url) as closed:
                pass
            engine = create_async_engine(f"postgresql+asyncpg://{server_url.partition('://')[2]}")
            async with engine.connect() as of_sqlalchemy:
                pass
            for connection in (given_back, closed, of_sqlalchemy):
                with pytest.raises(ConfigurationError, match="is closed; pass one that is open"):
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            await engine.dispose()
            await pool.close()

        play(app, scenario)

    def test_a_synchronous_connection(self, app, server_url):
        async def scenario(app_context, remind):
            with psycopg.connect(server_url) as connection:
                with pytest.raises(ConfigurationError, match=r"synchronous connection; use within\(\) of app.blocking\(\)"):
                    app_context.within(connection)

        play(app, scenario)

    def test_another_database(self, app, server_url, sql, table):
        """Also one that has a table of the same name, where nobody would ever look."""
        other = f"{server_url.rpartition('/')[0]}/{table}"
        sql(f"CREATE DATABASE {table}")
        try:

            async def scenario(app_context, remind):
                async with connected(other) as connection:
                    async with connection.transaction():
                        with pytest.raises(ConfigurationError, match="no table .* where this connection leads to") as error:
                            await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                        complaint(error)
                        raise KeyError

            with pytest.raises(KeyError):
                play(app, scenario)
            twin = Pyncette(f"{other}?table_name={table}")
            twin.dynamic_task(name="remind")(nothing)

            async def there(app_context, remind):
                pass

            play(twin, there)

            async def scenario(app_context, remind):
                async with connected(other) as connection, connection.transaction():
                    with pytest.raises(ConfigurationError, match="leads to another database") as error:
                        await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                    complaint(error)
                    assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE name = 'a'") == 0

            play(app, scenario)
        finally:
            sql(f"DROP DATABASE {table}")

    def test_a_transaction_that_has_failed(self, app, server_url):
        async def scenario(app_context, remind):
            async with connected(server_url) as connection:
                transaction = connection.transaction()
                await transaction.start()
                with contextlib.suppress(asyncpg.PostgresError):
                    await connection.execute("SELECT 1 / 0")
                with pytest.raises(ConfigurationError, match="has failed before; roll it back"):
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)

        play(app, scenario)

    def test_a_connection_that_dies(self, app, server_url, sql):
        async def scenario(app_context, remind):
            async with connected(server_url) as connection, connected(server_url) as other:
                transaction = connection.transaction()
                await transaction.start()
                within = app_context.within(connection)
                await within.schedule_task(remind, "a", interval=HOUR)
                await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
                with pytest.raises((TransientRepositoryError, ConfigurationError)) as error:
                    await within.schedule_task(remind, "b", interval=HOUR)
                complaint(error)
            assert [task.name for task in (await app_context.list_tasks(remind)).tasks] == []

        play(app, scenario)

    def test_a_lock_that_is_not_had_in_time(self, server_url, table):
        app = Pyncette(f"{server_url}?table_name={table}&timeout=0.3")
        app.dynamic_task(name="remind")(nothing)

        async def scenario(app_context, remind):
            await app_context.schedule_task(remind, "a", interval=HOUR)
            async with connected(server_url) as one, connected(server_url) as two, one.transaction():
                await app_context.within(one).schedule_task(remind, "a", interval=2 * HOUR)
                async with two.transaction():
                    with pytest.raises(TransientRepositoryError, match="repeat it as a whole"):
                        await app_context.within(two).schedule_task(remind, "a", interval=3 * HOUR)
                    raise KeyError

        with pytest.raises(KeyError):
            play(app, scenario)

    def test_two_that_can_not_be_put_in_an_order(self, app, server_url):
        async def scenario(app_context, remind):
            await app_context.schedule_task(remind, "a", interval=HOUR)
            async with connected(server_url) as connection:
                with pytest.raises(TransientRepositoryError, match="could not serialize"):
                    async with connection.transaction(isolation="repeatable_read"):
                        await connection.fetch("SELECT 1")
                        await app_context.schedule_task(remind, "a", interval=2 * HOUR)
                        await app_context.within(connection).schedule_task(remind, "a", interval=3 * HOUR)

        play(app, scenario)

    def test_arguments_are_in_no_error(self, server_url, table):
        """SQLAlchemy shows the values of a statement that failed."""
        app = Pyncette(f"{server_url}?table_name={table}")
        app.dynamic_task(name="remind")(nothing)

        async def scenario(app_context, remind):
            engine = create_async_engine(f"postgresql+psycopg://{server_url.partition('://')[2]}")
            async with AsyncSession(engine) as session:
                within = app_context.within(session)
                async with connected(server_url) as other:
                    await other.execute(f"ALTER TABLE {table} ADD CONSTRAINT never CHECK (name <> 'a')")
                with pytest.raises(RepositoryError) as error:
                    await within.schedule_task(remind, "a", interval=HOUR, card="4111-1111")
            await engine.dispose()
            return error

        error = play(app, scenario)
        assert "4111" not in complaint(error)
        assert "4111" not in str(error.value.__cause__).partition("DETAIL")[0]
        assert type(error.value.__cause__).__module__.startswith("psycopg")


def test_the_row_of_another_search_path_is_not_taken_for_ours(app, server_url):
    async def scenario(app_context, remind):
        async with connected(server_url) as connection, connection.transaction():
            await connection.execute("SET search_path TO pg_catalog")
            await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
        assert await app_context.get_task(remind, "a") is not None

    play(app, scenario)


def test_a_savepoint_takes_back_what_came_after_it(app, server_url):
    async def scenario(app_context, remind):
        async with connected(server_url) as connection, connection.transaction():
            within = app_context.within(connection)
            await within.schedule_task(remind, "kept", interval=HOUR)
            with contextlib.suppress(KeyError):
                async with connection.transaction():
                    await within.schedule_task(remind, "dropped", interval=HOUR)
                    raise KeyError
        assert [task.name for task in (await app_context.list_tasks(remind)).tasks] == ["kept"]

    play(app, scenario)


@pytest.mark.parametrize("driver", ["psycopg-async", "sqlalchemy-asyncpg-session"])
def test_what_is_committed_and_due_runs_at_once_though_polls_are_rare(server_url, table, driver):
    """And what is rolled back does not."""
    app = Pyncette(f"{server_url}?table_name={table}", poll_interval=timedelta(seconds=60))
    ran = asyncio.Queue()

    @app.dynamic_task()
    async def remind(context):
        ran.put_nowait(context.name)

    async def main():
        async with app.create() as app_context:
            running = asyncio.create_task(app_context.run())
            await app_context.schedule_task(remind, "first", execute_at=NOW)  # so that the first polls are over
            assert await ran.get() == "first"
            await app_context.schedule_task(remind, "second", execute_at=NOW)  # so that it listens
            assert await ran.get() == "second"
            for name in ("rolled back", "committed"):
                async with DRIVERS[driver](server_url) as transaction:
                    await app_context.within(transaction.connection).schedule_task(remind, name, execute_at=NOW)
                    assert ran.empty()
                    await (transaction.commit if name == "committed" else transaction.rollback)()
            async with asyncio.timeout(20):
                assert await ran.get() == "committed"
            app_context.shutdown()
            await running

    asyncio.run(main())
    assert ran.empty()
