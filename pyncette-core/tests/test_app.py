"""An application: created, run, shut down; how much it does at once, and how often it looks."""

import asyncio
import contextlib
import itertools
import os
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import (
    ConcurrentExecutor,
    ConfigurationError,
    ExecutionMode,
    Pyncette,
    PyncetteError,
    RepositoryError,
    SynchronousExecutor,
    TransientRepositoryError,
)
from pyncette.memory import MemoryRepository, memory_repository
from pyncette.repository import State
from pyncette.sqlite import SQLiteRepository
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


async def body(context):
    pass


# --- one run ------------------------------------------------------------------------------------------------------------


def test_a_context_runs_only_once(app, clock):
    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(SECOND)
            with pytest.raises(PyncetteError, match=r"app\.create\(\)"):
                await context.run()
            assert not run.done()
            context.shutdown()
            await run
            with pytest.raises(PyncetteError, match=r"app\.create\(\)"):
                await context.run()

    clock.run(main())


def test_an_application_can_be_created_again_and_twice_at_once(app, clock):
    # I2
    runs = []

    @app.task(interval=MINUTE)
    async def task(context):
        runs.append(context.scheduled_at)
        await asyncio.sleep(10)

    async def main():
        async with running(app), running(app):
            await clock.advance(121 * SECOND)
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert runs == [at(60), at(120), at(180)]


def test_a_shutdown_before_the_run_ends_it_at_once(app, clock):
    runs = []

    @app.task(interval=SECOND)
    async def task(context):
        runs.append(context)

    async def main():
        async with app.create() as context:
            context.shutdown()
            await context.run()
            context.shutdown()

    clock.run(main())
    assert not runs
    assert clock.elapsed == 0


def test_a_context_need_not_be_run(app, clock, store):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "one", interval=SECOND)

    clock.run(main())
    assert set(store.rows()) == {"one"}
    assert clock.elapsed == 0


def test_a_shutdown_from_within_a_body_lets_it_end_and_starts_no_other(make_app, clock, store):
    # I12
    app = make_app(concurrency_limit=1)
    events = []

    async def task(context):
        events.append(("begins", context.name))
        context.app_context.shutdown()
        await asyncio.sleep(30)
        events.append(("ends", context.name))

    for name in ("a", "b", "c"):
        app.task(interval=MINUTE, name=name)(task)
    clock.run(app.run())
    assert [event for event, _ in events] == ["begins", "ends"]
    assert 90 <= clock.elapsed < 91
    assert all(row.locked_until is None for row in store.rows().values())
    assert sum(row.occurrence == at(120) for row in store.rows().values()) == 1


def test_what_was_claimed_but_not_started_is_given_back_at_the_shutdown(app, clock, store):
    # I12: it does not wait for a lease to end, nor does it count as an attempt.
    begun = []

    async def task(context):
        begun.append(context.name)
        context.app_context.shutdown()

    for name in ("a", "b", "c"):
        app.task(interval=MINUTE, name=name)(task)
    clock.run(app.run())
    assert len(begun) == 1
    for name, row in store.rows().items():
        assert (row.locked_until, row.attempt) == (None, 0)
        assert row.occurrence == (at(120) if name in begun else at(60))


def test_a_shutdown_wakes_an_idle_application_at_once(make_app, clock):
    app = make_app(poll_interval=HOUR)
    app.task(interval=24 * HOUR, name="task")(body)

    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(SECOND)
            context.shutdown()
            await run
            assert clock.elapsed == 1

    clock.run(main())


def test_run_raises_what_the_store_raises_at_the_start(app, clock, store, monkeypatch):
    async def register(*args, **kwargs):
        raise RepositoryError("no table")

    monkeypatch.setattr(store, "register", register)
    app.task(interval=SECOND, name="task")(body)
    closed = []

    @app.fixture()
    async def fixture():
        try:
            yield
        finally:
            closed.append(True)

    with pytest.raises(RepositoryError, match="no table"):
        clock.run(app.run())
    assert closed


def test_create_raises_what_the_store_raises_when_it_is_opened_and_sets_up_nothing(make_app, clock):
    @contextlib.asynccontextmanager
    async def broken():
        raise RepositoryError("not a database")
        yield

    app = make_app(repository_factory=broken)
    opened = []

    @app.fixture()
    async def fixture():
        opened.append(True)
        yield

    with pytest.raises(RepositoryError, match="not a database"):
        clock.run(app.run())
    assert not opened


def test_the_store_is_opened_before_the_fixtures_and_closed_after_them(make_app, clock):
    events = []

    @contextlib.asynccontextmanager
    async def store():
        events.append("store")
        async with memory_repository() as repository:
            yield repository
        events.append("/store")

    app = make_app(repository_factory=store)

    @app.fixture()
    async def fixture():
        events.append("fixture")
        yield
        events.append("/fixture")

    async def main():
        async with running(app):
            events.append("running")

    clock.run(main())
    assert events == ["store", "fixture", "running", "/fixture", "/store"]


def test_a_store_that_fails_later_is_tried_until_it_is_back(app, clock, store, monkeypatch):
    # I7, and last_tick tells it.
    runs = []

    @app.task(interval=MINUTE)
    async def task(context):
        runs.append((context.scheduled_at, round(clock.elapsed)))

    claim = store.claim
    down = False

    async def failing(*args, **kwargs):
        if down:
            raise TransientRepositoryError("gone")
        return await claim(*args, **kwargs)

    monkeypatch.setattr(store, "claim", failing)

    async def main():
        nonlocal down
        async with running(app) as context:
            assert context.last_tick is None
            await clock.advance(65.5 * SECOND)
            down = True
            assert timedelta() <= clock.now() - context.last_tick <= SECOND
            await clock.advance(100 * SECOND)
            assert clock.now() - context.last_tick >= 100 * SECOND
            down = False
            await clock.advance(5 * SECOND)
            assert clock.now() - context.last_tick <= SECOND
            await clock.advance(20 * SECOND)

    clock.run(main())
    assert [run[0] for run in runs] == [at(60), at(120), at(180)]
    assert 165 <= runs[1][1] <= 168


# --- the poll interval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ExecutionMode)
@pytest.mark.parametrize("poll", [0.25, 1, 10, 60])
def test_what_is_known_starts_on_time_however_long_the_poll_interval(make_app, clock, poll, mode):
    # I4
    app = make_app(poll_interval=timedelta(seconds=poll))
    late = []

    @app.task(interval=7 * SECOND, execution_mode=mode)
    async def task(context):
        late.append(clock.now() - context.scheduled_at)

    async def main():
        async with running(app):
            await clock.advance(300 * SECOND)

    clock.run(main())
    assert len(late) == 42
    assert all(timedelta() <= each < SECOND / 50 for each in late)


@pytest.mark.parametrize("poll", [1, 10, 60])
def test_what_another_process_schedules_is_noticed_within_a_poll_interval(make_app, clock, poll):
    runs = []

    async def record(context):
        runs.append((context.name, clock.now() - context.scheduled_at))

    def declare():
        app = make_app(poll_interval=timedelta(seconds=poll))
        return app, app.dynamic_task(name="template")(record)

    async def main():
        app, _ = declare()
        other, template = declare()
        async with running(app), other.create() as elsewhere:
            for number in range(5):
                await clock.advance(timedelta(seconds=poll * 1.3))
                await elsewhere.schedule_task(template, str(number), execute_at=clock.now())
            await clock.advance(timedelta(seconds=poll * 1.3))

    clock.run(main())
    assert [name for name, _ in runs] == ["0", "1", "2", "3", "4"]
    assert all(late <= timedelta(seconds=poll * 1.01) for _, late in runs)
    assert max(late for _, late in runs) > timedelta(seconds=poll / 10), "it can't know sooner"


@pytest.mark.parametrize("poll", [1, 60])
def test_what_is_scheduled_here_starts_at_once_however_long_the_poll_interval(make_app, clock, poll):
    app = make_app(poll_interval=timedelta(seconds=poll))
    late = []

    @app.dynamic_task()
    async def template(context):
        late.append(clock.now() - context.scheduled_at)

    async def main():
        async with running(app) as context:
            for number in range(5):
                await clock.advance(0.3 * SECOND)
                await context.schedule_task(template, str(number), execute_at=clock.now())
            await clock.advance(SECOND / 10)

    clock.run(main())
    assert len(late) == 5
    assert max(late) < SECOND / 50


def test_an_idle_application_asks_once_in_a_poll_interval_and_partition(make_app, clock, store, monkeypatch):
    polls = []
    claim = store.claim

    async def counting(now, partition, **kwargs):
        polls.append(partition)
        return await claim(now, partition, **kwargs)

    monkeypatch.setattr(store, "claim", counting)
    app = make_app(poll_interval=10 * SECOND)
    app.task(interval=24 * HOUR, name="static")(body)
    app.dynamic_task(name="dynamic")(body)
    app.partitioned_task(name="partitioned", partition_count=4, enabled_partitions=[0, 2])(body)

    async def main():
        async with running(app):
            polls.clear()  # without what the start took
            await clock.advance(995 * SECOND)

    clock.run(main())
    assert set(polls) == {"static", "dynamic:dynamic", "partitioned:0:partitioned", "partitioned:2:partitioned"}
    assert all(99 <= polls.count(partition) <= 101 for partition in set(polls) - {"static"})
    assert polls.count("static") <= 102


def test_last_tick_moves_with_each_poll(make_app, clock):
    app = make_app(poll_interval=10 * SECOND)
    app.task(interval=24 * HOUR, name="task")(body)

    async def main():
        async with app.create() as context:
            assert context.last_tick is None
            run = asyncio.create_task(context.run())
            for _ in range(10):
                await clock.advance(15 * SECOND)
                assert timedelta() <= clock.now() - context.last_tick <= 10.1 * SECOND
            assert context.last_tick.tzinfo is UTC
            context.shutdown()
            await run

    clock.run(main())


# --- how much at once ---------------------------------------------------------------------------------------------------


def schedule_many(app, count, *, lasts):
    """A template of ``count`` instances that are due at once, each running for a while. Returns what is to be looked at."""
    state = {"running": 0, "most": 0, "names": [], "attempts": set()}

    @app.dynamic_task(lease_duration=HOUR)
    async def template(context):
        state["running"] += 1
        state["most"] = max(state["most"], state["running"])
        state["names"].append(context.name)
        state["attempts"].add(context.attempt)
        await asyncio.sleep(lasts)
        state["running"] -= 1

    async def schedule(context):
        for number in range(count):
            await context.schedule_task(template, str(number), execute_at=START)

    return state, schedule


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_no_more_bodies_run_than_there_are_slots_and_nothing_is_claimed_without_one(make_app, clock, store, limit):
    app = make_app(concurrency_limit=limit)
    state, schedule = schedule_many(app, 20, lasts=1)
    held = []

    async def main():
        async with running(app) as context:
            await schedule(context)
            for _ in range(60):
                await clock.advance(SECOND / 2.7)
                held.append(sum(row.locked_until is not None for row in store.rows().values()))

    clock.run(main())
    assert state["most"] == min(limit, 20)
    assert max(held) <= limit
    assert sorted(state["names"]) == sorted(map(str, range(20)))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_no_call_to_the_store_is_for_more_than_a_batch(make_app, clock, store, monkeypatch, batch_size):
    limits, settled = [], []
    claim, settle = store.claim, store.settle

    async def claiming(*args, limit, **kwargs):
        limits.append(limit)
        return await claim(*args, limit=limit, **kwargs)

    async def settling(now, settlements):
        settled.append(len(settlements))
        return await settle(now, settlements)

    monkeypatch.setattr(store, "claim", claiming)
    monkeypatch.setattr(store, "settle", settling)
    app = make_app(batch_size=batch_size)
    state, schedule = schedule_many(app, 30, lasts=0)

    async def main():
        async with running(app) as context:
            settled.clear()  # without what the start took
            await schedule(context)
            await clock.advance(10 * SECOND)

    clock.run(main())
    assert len(state["names"]) == 30
    assert max(limits) == batch_size
    assert max(settled) <= batch_size
    assert sum(settled) == 30


def test_the_synchronous_executor_runs_one_after_another(make_app, clock):
    app = make_app(executor_cls=SynchronousExecutor)
    state, schedule = schedule_many(app, 10, lasts=7)

    async def main():
        async with running(app) as context:
            await schedule(context)
            await clock.advance(71 * SECOND)

    clock.run(main())
    assert state["most"] == 1
    assert len(state["names"]) == 10


def test_the_synchronous_executor_lets_no_lease_tick_in_a_queue(make_app, clock, caplog):
    app = make_app(executor_cls=SynchronousExecutor)
    attempts = []

    @app.dynamic_task(lease_duration=10 * SECOND)
    async def template(context):
        attempts.append(context.attempt)
        await asyncio.sleep(7)

    async def main():
        async with running(app) as context:
            for number in range(5):
                await context.schedule_task(template, str(number), execute_at=START)
            await clock.advance(36 * SECOND)

    clock.run(main())
    assert attempts == [1] * 5
    assert "lease" not in caplog.text


def test_the_synchronous_executor_ends_within_the_shutdown_timeout(make_app, clock, store):
    # I12
    app = make_app(executor_cls=SynchronousExecutor, shutdown_timeout=5 * SECOND)
    app.task(interval=MINUTE, name="task")(forever)

    async def main():
        async with running(app):
            await clock.advance(65 * SECOND)

    clock.run(main())
    assert 70 <= clock.elapsed < 71
    assert store.rows()["task"].locked_until is None


async def forever(context):
    await asyncio.sleep(10**6)


def test_the_synchronous_executor_outlives_a_body_that_fails_or_cancels_itself(make_app, clock):
    app = make_app(executor_cls=SynchronousExecutor)
    names = []

    @app.dynamic_task()
    async def template(context):
        names.append(context.name)
        raise asyncio.CancelledError if context.name == "a" else LookupError

    async def main():
        async with running(app) as context:
            for name in ("a", "b", "c"):
                await context.schedule_task(template, name, execute_at=START)
            await clock.advance(SECOND)

    clock.run(main())
    assert sorted(names) == ["a", "b", "c"]


def test_an_executor_of_ones_own_can_be_given(make_app, clock):
    made = []

    class Executor(ConcurrentExecutor):
        def __init__(self, concurrency_limit, slot_freed):
            super().__init__(concurrency_limit, slot_freed)
            made.append((self, concurrency_limit))
            self.spawned = 0

        async def spawn(self, execution):
            self.spawned += 1
            await super().spawn(execution)

    app = make_app(executor_cls=Executor, concurrency_limit=7)
    _, schedule = schedule_many(app, 20, lasts=1)

    async def main():
        async with running(app) as context:
            await schedule(context)
            await clock.advance(10 * SECOND)

    clock.run(main())
    [(executor, limit)] = made
    assert limit == 7
    assert executor.spawned == 20


# --- cancelled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [ConcurrentExecutor, SynchronousExecutor])
def test_a_cancelled_run_cancels_the_bodies_and_gives_back_what_they_ran(make_app, clock, store, executor):
    # I12, I14
    app = make_app(executor_cls=executor)
    events = []

    @app.task(interval=MINUTE)
    async def task(context):
        events.append(("begins", context.attempt))
        try:
            await asyncio.sleep(10)
            events.append("ends")
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(65 * SECOND)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            row = store.rows()["task"]
            assert (row.locked_until, row.occurrence) == (None, at(60))
        async with running(app):
            await clock.advance(20 * SECOND)

    clock.run(main())
    assert events == [("begins", 1), "cancelled", ("begins", 2), "ends"]


def test_a_closing_that_is_cancelled_cancels_the_bodies_before_fixtures_are_torn_down(app, clock, store):
    # I12, I14
    events = []

    @app.fixture()
    async def fixture():
        try:
            yield
        finally:
            events.append("fixture closed")

    @app.task(interval=MINUTE, lease_duration=HOUR)
    async def task(context):
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            events.append("body ended")

    async def owner():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            run.add_done_callback(lambda _: events.append("run ended"))
            await clock.advance(65 * SECOND)
        events.append("not reached")

    async def main():
        owning = asyncio.create_task(owner())
        await clock.advance(70 * SECOND)
        assert not events, "closing waits for the body"
        owning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owning

    clock.run(main())
    assert events[0] == "body ended"
    assert sorted(events[1:]) == ["fixture closed", "run ended"]
    assert clock.elapsed == pytest.approx(71)
    assert store.rows()["task"].locked_until is None


def test_bodies_that_outlast_the_shutdown_timeout_are_cancelled_and_given_back(make_app, clock, store):
    # I12: drain bounded
    app = make_app(shutdown_timeout=5 * SECOND)
    events = []

    @app.task(interval=MINUTE)
    async def task(context):
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    @app.fixture()
    async def fixture():
        yield
        events.append("fixture closed")

    async def main():
        async with running(app):
            await clock.advance(65 * SECOND)

    clock.run(main())
    assert events == ["cancelled", "fixture closed"]
    assert 70 <= clock.elapsed < 71
    row = store.rows()["task"]
    assert (row.locked_until, row.occurrence) == (None, at(60))


# --- choosing a store ---------------------------------------------------------------------------------------------------


def store_of(app, clock):
    async def main():
        async with app.create() as context:
            return context.repository

    return clock.run(main())


def test_without_anything_tasks_are_kept_in_memory(clock):
    assert type(store_of(Pyncette(), clock)) is MemoryRepository
    assert type(store_of(Pyncette("memory://"), clock)) is MemoryRepository


def warnings_at_the_start(caplog, app, clock=None, **options):
    async def start():
        async with app.create(clock=clock, **options):
            pass

    caplog.clear()
    asyncio.run(start())
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_url_that_is_none_is_warned_of_at_the_start(caplog, monkeypatch):
    monkeypatch.delenv("SHOP_URL", raising=False)
    app = Pyncette(os.environ.get("SHOP_URL"))
    [warning] = warnings_at_the_start(caplog, app)
    assert "environment variable" in warning
    assert "Pyncette('memory://')" in warning

    async def schedule():
        async with app.client():
            pass

    caplog.clear()
    asyncio.run(schedule())
    assert len(caplog.records) == 1, "a client that is lost in memory says it once"


def test_memory_by_choice_and_tests_are_not_warned_of(caplog, clock, tmp_path):
    app = Pyncette(None)
    assert warnings_at_the_start(caplog, app, clock) == [], "time is virtual"
    assert warnings_at_the_start(caplog, app, looking=True, layouts="ignore") == [], "nothing runs"
    app.use_repository("memory://")
    assert warnings_at_the_start(caplog, app) == []
    app = Pyncette(None)
    app.use_repository()
    assert warnings_at_the_start(caplog, app) == []
    for chosen in (
        Pyncette(),
        Pyncette("memory://"),
        Pyncette(memory_repository),
        Pyncette(None, repository_factory=memory_repository),
    ):
        assert warnings_at_the_start(caplog, chosen) == []
    assert warnings_at_the_start(caplog, Pyncette(None, sqlite_database=str(tmp_path / "shop.db"))) == []


@pytest.mark.parametrize("url", ["", " "])
def test_an_empty_url_is_an_error_that_names_the_likely_cause(url):
    with pytest.raises(ConfigurationError, match="empty; if it comes from an environment variable, set that"):
        Pyncette(url)


def test_the_store_can_be_replaced(clock):
    app = Pyncette("memory://")
    with pytest.raises(ConfigurationError, match="URL"):
        app.use_repository("nonsense")
    with pytest.raises(ConfigurationError, match="colour"):
        app.use_repository(colour="red")
    assert type(store_of(app, clock)) is MemoryRepository, "what is refused changes nothing"
    used = []

    @contextlib.asynccontextmanager
    async def other(*, greeting):
        used.append(greeting)
        yield MemoryRepository()

    app.use_repository(repository_factory=other, greeting="hello")
    store_of(app, clock)
    assert used == ["hello"]


def test_both_forms_of_naming_a_sqlite_file_are_the_same(tmp_path):
    path = tmp_path / "with space.db"

    async def names(app):
        template = app.dynamic_task(name="template")(body)
        async with app.create() as context:
            assert type(context.repository) is SQLiteRepository
            await context.schedule_task(template, str(next(counter)), interval=HOUR)
            return len((await context.list_tasks(template)).tasks)

    counter = itertools.count()
    for number, app in enumerate(
        [
            Pyncette(sqlite_database=str(path)),
            Pyncette(f"sqlite:///{path}"),
            Pyncette(f"sqlite:///{str(path).replace(' ', '%20')}?table_name=pyncette_tasks"),
        ],
        1,
    ):
        assert asyncio.run(names(app)) == number


def test_the_time_of_a_store_that_has_a_clock_is_the_applications(make_app, clock, store):
    # I4: a worker whose clock is off neither runs early nor late.
    for skew in (-30, 30):

        class Server(MemoryRepository):
            async def server_time(self, skew=skew):
                return clock.now() + skew * SECOND

        @contextlib.asynccontextmanager
        async def server(repository=None):
            yield Server()

        app = make_app(repository_factory=server)
        runs = []

        @app.task(schedule="* * * * *")
        async def task(context, runs=runs, skew=skew):
            runs.append(clock.now() + skew * SECOND - context.scheduled_at)

        async def main(app=app, skew=skew):
            async with running(app) as context:
                assert abs(context.clock.now() - clock.now() - skew * SECOND) < SECOND / 1000, "from the beginning"
                await clock.advance(10 * MINUTE)
                return context.clock.skew

        assert abs(clock.run(main()) + timedelta(seconds=skew)) < SECOND / 1000
        assert len(runs) >= 9
        assert all(timedelta() <= late < SECOND / 50 for late in runs)


# --- pausing ------------------------------------------------------------------------------------------------------------


def test_a_paused_static_task_does_not_run_until_it_is_resumed(app, clock):
    runs = []

    @app.task(interval=MINUTE)
    async def task(context):
        runs.append((context.scheduled_at, round(clock.elapsed)))

    async def main():
        async with running(app) as context:
            await clock.advance(90 * SECOND)
            assert await context.pause_task(task)
            assert (await context.get_task(task)).state is State.PAUSED
            await clock.advance(100 * SECOND)
            assert await context.resume_task(task)
            assert (await context.get_task(task)).state is State.SCHEDULED
            await clock.advance(SECOND)

    clock.run(main())
    assert runs == [(at(60), 60), (at(180), 190)], "of what passed in the pause, the latest"


def test_what_is_resumed_runs_at_once_however_long_the_poll_interval(make_app, clock):
    app = make_app(poll_interval=HOUR)
    runs = []

    @app.task(interval=MINUTE)
    async def task(context):
        runs.append((context.scheduled_at, round(clock.elapsed, 1)))

    async def main():
        async with running(app) as context:
            await clock.advance(SECOND)
            await context.pause_task(task)
            await clock.advance(100 * SECOND)
            await context.resume_task(task)
            await clock.advance(SECOND)

    clock.run(main())
    assert runs == [(at(60), 101.0)]


def test_pausing_where_there_is_nothing_says_so(app, clock):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            assert not await context.pause_task(template, "nobody")
            assert not await context.resume_task(template, "nobody")
            assert await context.get_task(template, "nobody") is None
            assert not await context.unschedule_task(template, "nobody")

    clock.run(main())


def test_pausing_during_a_run_lets_it_end(app, clock, store):
    ended = []

    @app.task(interval=MINUTE)
    async def task(context):
        await context.app_context.pause_task(task)
        await asyncio.sleep(5)
        ended.append(context.scheduled_at)

    async def main():
        async with running(app):
            await clock.advance(10 * MINUTE)

    clock.run(main())
    assert ended == [at(60)]
    row = store.rows()["task"]
    assert (row.state, row.occurrence, row.locked_until) == (State.PAUSED, at(120), None)


def test_a_store_that_cannot_pause_says_so(make_app, clock):
    class Plain(MemoryRepository):
        pause = None
        resume = None

        def __getattribute__(self, name):
            if name in ("pause", "resume"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    @contextlib.asynccontextmanager
    async def plain():
        yield Plain()

    app = make_app(repository_factory=plain)
    task = app.task(interval=MINUTE, name="task")(body)

    async def main():
        async with app.create() as context:
            for call in (context.pause_task(task), context.resume_task(task)):
                with pytest.raises(RepositoryError, match="Plain can't pause"):
                    await call

    clock.run(main())


def test_a_static_task_can_be_looked_up(app, clock):
    task = app.task(schedule="0 9 * * *", timezone="Europe/London", name="task", greeting="hello")(body)

    async def main():
        async with app.create() as context:
            assert await context.get_task(task) is None
        async with running(app) as context:
            await clock.advance(SECOND)
            stored = await context.get_task(task)
            assert (stored.name, stored.task, stored.args) == ("task", task, {"greeting": "hello"})
            assert stored.schedule == task.schedule
            assert stored.scheduled_at == at(9 * 3600)
            assert str(stored.scheduled_at.tzinfo) == "Europe/London"
            assert (stored.state, stored.locked_until, stored.attempt, stored.error) == (State.SCHEDULED, None, 0, None)

    clock.run(main())
