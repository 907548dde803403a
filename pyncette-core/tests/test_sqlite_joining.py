"""Transactions of users on each driver for SQLite; the suite has those on aiosqlite, and what holds for all of them."""

import asyncio
import contextlib
import functools
import shutil
import sqlite3
import sys
import threading
from datetime import UTC, datetime, timedelta

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from pyncette import Pyncette
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.hooks import Instrumentation
from pyncette.sqlite import sqlite_repository
from pyncette_conformance import Capabilities
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.suite.test_transactions import TestTransactions as Suite
from pyncette_conformance.transactions import UserTransaction

HOUR = timedelta(hours=1)


def at_once(call):
    """A synchronous call as one to be awaited."""

    async def called():
        call()

    return called


@contextlib.asynccontextmanager
async def begins_by_itself(path):
    async with aiosqlite.connect(path) as connection:
        connection.row_factory = aiosqlite.Row
        yield UserTransaction(connection, connection.commit, connection.rollback)


@contextlib.asynccontextmanager
async def sqlite3_sync(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = lambda cursor, row: dict(zip([each[0] for each in cursor.description], row, strict=True))
        yield UserTransaction(connection, at_once(connection.commit), at_once(connection.rollback))


@contextlib.asynccontextmanager
async def sqlalchemy_async(path):
    engine = create_async_engine(sqlalchemy.URL.create("sqlite+aiosqlite", database=path))
    async with engine.connect() as connection:
        yield UserTransaction(connection, connection.commit, connection.rollback)
    await engine.dispose()


@contextlib.asynccontextmanager
async def sqlalchemy_scoped(path):
    engine = create_async_engine(sqlalchemy.URL.create("sqlite+aiosqlite", database=path))
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    yield UserTransaction(session, session.commit, session.rollback)
    await session.remove()
    await engine.dispose()


@contextlib.asynccontextmanager
async def sqlalchemy_sync(path):
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=path))
    with Session(engine) as session:
        yield UserTransaction(session, at_once(session.commit), at_once(session.rollback))
    engine.dispose()


DRIVERS = {
    "aiosqlite": begins_by_itself,
    "sqlite3": sqlite3_sync,
    "sqlalchemy-aiosqlite": sqlalchemy_async,
    "sqlalchemy-scoped": sqlalchemy_scoped,
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
    def repository_factory(self, tmp_path):
        return functools.partial(
            sqlite_repository, sqlite_database=str(tmp_path / "tasks ? %s.db"), sqlite_table_name="my % ? tasks"
        )

    @pytest.fixture
    def repository_capabilities(self):
        return Capabilities()

    @pytest.fixture(params=DRIVERS)
    def user_transactions(self, request, tmp_path):
        return functools.partial(DRIVERS[request.param], str(tmp_path / "tasks ? %s.db"))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tasks.db")


@pytest.fixture
def play(path):
    app = Pyncette(f"sqlite:///{path}?timeout=1", poll_interval=timedelta(seconds=60))

    @app.dynamic_task()
    async def remind(context):
        pass

    def run(scenario):
        async def playing():
            async with app.create() as app_context, aiosqlite.connect(path, isolation_level=None, timeout=0.05) as connection:
                return await scenario(app_context, remind, connection)

        return asyncio.run(playing())

    return run


class TestWhatIsWrong:
    """One line that says what to do, and nothing written."""

    def test_no_transaction(self, play):
        async def scenario(app_context, remind, connection):
            with pytest.raises(ConfigurationError, match="not in a transaction.*BEGIN IMMEDIATE"):
                await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            assert await app_context.get_task(remind, "a") is None

        play(scenario)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 learned it in Python 3.12")
    def test_no_transaction_because_the_driver_begins_none(self, play, path):
        async def scenario(app_context, remind, connection):
            async with aiosqlite.connect(path, autocommit=True) as other:
                within = app_context.within(other)
                with pytest.raises(ConfigurationError, match="not in a transaction.*BEGIN IMMEDIATE"):
                    await within.schedule_task(remind, "a", interval=HOUR)
                assert await app_context.get_task(remind, "a") is None
                await other.execute("BEGIN")
                await within.schedule_task(remind, "a", interval=HOUR)
                await other.execute("COMMIT")
                assert await app_context.get_task(remind, "a") is not None

        play(scenario)

    def test_another_file(self, play, path, tmp_path):
        """A copy has all that the original has, and yet nobody looks into it."""

        async def scenario(app_context, remind, connection):
            shutil.copy(path, tmp_path / "copy.db")
            for other, what in ((str(tmp_path / "copy.db"), "copy.db"), (":memory:", "a database in memory")):
                async with aiosqlite.connect(other) as elsewhere:
                    with pytest.raises(ConfigurationError, match=f"leads to .*{what}.*, but the tasks are in"):
                        await app_context.within(elsewhere).schedule_task(remind, "a", interval=HOUR)

        play(scenario)

    def test_a_table_that_was_dropped(self, play):
        async def scenario(app_context, remind, connection):
            await connection.execute("BEGIN")
            await connection.execute("DROP TABLE pyncette_tasks")
            with pytest.raises(StoreMissingError, match="There is no table"):
                await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            await connection.rollback()

        play(scenario)

    def test_texts_that_are_not_read_as_such(self, play):
        async def scenario(app_context, remind, connection):
            connection.text_factory = bytes
            await connection.execute("BEGIN")
            with pytest.raises(ConfigurationError, match="text_factory"):
                await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)

        play(scenario)

    def test_a_store_without_transactions(self):
        app = Pyncette()

        async def main():
            async with app.create() as app_context:
                with pytest.raises(RepositoryError, match="schedule after your commit"):
                    app_context.within(object())

        asyncio.run(main())

    def test_a_store_in_memory(self):
        app = Pyncette("sqlite://")

        async def main():
            async with app.create() as app_context, aiosqlite.connect(":memory:") as connection:
                with pytest.raises(RepositoryError, match="in memory, out of reach of other connections; use a file"):
                    app_context.within(connection)

        asyncio.run(main())


class TestLocks:
    """SQLite has one writer at a time."""

    def test_the_engine_waits_while_a_user_writes(self, play):
        async def scenario(app_context, remind, connection):
            await connection.execute("BEGIN IMMEDIATE")
            within = app_context.within(connection)
            await within.schedule_task(remind, "a", interval=HOUR)
            outside = asyncio.create_task(app_context.schedule_task(remind, "b", interval=HOUR))
            await within.schedule_task(remind, "c", interval=HOUR)
            assert not outside.done()
            await connection.commit()
            await outside
            assert len((await app_context.list_tasks(remind)).tasks) == 3

        play(scenario)

    def test_a_user_waits_while_others_write_and_longer_than_the_driver_does(self, play, path):
        async def scenario(app_context, remind, connection):
            with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(0.2, other.execute, ["COMMIT"]).start()
                await connection.execute("BEGIN")
                await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
                await connection.commit()

        play(scenario)

    def test_a_lock_that_is_not_had_in_time(self, play, path):
        async def scenario(app_context, remind, connection):
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await connection.execute("BEGIN")
                with pytest.raises(TransientRepositoryError, match="busy for 1 s; roll back, and repeat"):
                    await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)

        play(scenario)

    def test_a_transaction_that_has_read_before_others_wrote_has_to_be_repeated(self, play):
        async def scenario(app_context, remind, connection):
            await connection.execute("BEGIN")
            await connection.execute_fetchall("SELECT * FROM pyncette_tasks")
            await app_context.schedule_task(remind, "a", interval=HOUR)
            with pytest.raises(TransientRepositoryError, match="since this transaction began with a read.*BEGIN IMMEDIATE"):
                await app_context.within(connection).schedule_task(remind, "a", interval=2 * HOUR)

        play(scenario)


def test_what_is_committed_and_due_runs_at_once_though_polls_are_rare(path):
    """And what is rolled back does not."""
    app = Pyncette(f"sqlite:///{path}", poll_interval=timedelta(seconds=60))
    ran = asyncio.Queue()

    @app.dynamic_task()
    async def remind(context):
        ran.put_nowait(context.name)

    async def main():
        async with app.create() as app_context, aiosqlite.connect(path) as connection:
            running = asyncio.create_task(app_context.run())
            await app_context.schedule_task(remind, "first", execute_at=datetime.now(UTC))
            assert await ran.get() == "first"
            for end in (connection.rollback, connection.commit):
                await app_context.within(connection).schedule_task(remind, f"{end.__name__} ed", execute_at=datetime.now(UTC))
                assert ran.empty()
                await end()
            async with asyncio.timeout(20):
                assert await ran.get() == "commit ed"
            app_context.shutdown()
            await running

    asyncio.run(main())
    assert ran.empty()


def test_all_that_a_client_does_can_be_part_of_a_transaction(play):
    async def scenario(app_context, remind, connection):
        await app_context.schedule_task(remind, "a", interval=HOUR)
        await connection.execute("BEGIN IMMEDIATE")
        within = app_context.within(connection)
        assert await within.pause_task(remind, "a", note="stocktaking", by="ada")
        assert (await within.get_task(remind, "a")).note.text == "stocktaking"
        assert await within.resume_task(remind, "a")
        await within.trigger_task(remind, "a")
        await within.reschedule_task(remind, "a", interval=2 * HOUR)
        await connection.rollback()
        assert (await app_context.get_task(remind, "a")).note is None

    play(scenario)


def test_calls_within_are_observed_like_others(path):
    calls = []

    class Observer(Instrumentation):
        @contextlib.contextmanager
        def call(self, operation, size):
            calls.append(operation)
            yield

    app = Pyncette(f"sqlite:///{path}")
    app.use_instrumentation(Observer())

    @app.dynamic_task()
    async def remind(context):
        pass

    async def main():
        async with app.create() as app_context, aiosqlite.connect(path) as connection:
            calls.clear()
            await app_context.within(connection).schedule_task(remind, "a", interval=HOUR)
            assert calls.count("register") == 1

    asyncio.run(main())
