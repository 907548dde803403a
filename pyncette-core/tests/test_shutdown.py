"""I12 and I14: what shutting down, and being cancelled at any await, leaves behind."""

import asyncio
import logging
import types
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ExecutionMode, Instance, LeaseLostException, Pyncette, SynchronousExecutor, TransientRepositoryError
from pyncette.testing import VirtualClock, running
from pyncette.worker.settlement import Settler
from simulation.scripted import ScriptedStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def store():
    return ScriptedStore()


def at(seconds):
    return START + timedelta(seconds=seconds)


def instances(count):
    return [Instance(name=f"{number:02}", interval=HOUR) for number in range(count)]


def overdue(count):
    return [Instance(name=f"{number:02}", execute_at=START) for number in range(count)]


async def others():
    """The tasks of the event loop that are left, once all that is ending has ended."""
    for _ in range(3):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


class Bodies:
    """Bodies that last, and remember how they ended."""

    def __init__(self, lasts=10.0):
        self.lasts = lasts
        self.began = []
        self.ended = []

    async def __call__(self, context):
        self.began.append(context.name)
        how = "cancelled"
        try:
            await asyncio.sleep(self.lasts)
            how = "returned"
        finally:
            self.ended.append((context.name, how))


@pytest.fixture
def bodies():
    return Bodies()


async def started(app_context):
    task = asyncio.create_task(app_context.run())
    await asyncio.sleep(0.5)
    return task


# --- asked to end -----------------------------------------------------------------------------------------------------------


def test_bodies_that_run_are_waited_for_and_their_outcome_is_stored(make_app, clock, store, bodies):
    app = make_app()
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(5))
            run = await started(app_context)
            app_context.shutdown()
            await run
            assert clock.elapsed == pytest.approx(10, abs=0.01)
            assert store.rows() == {}
            assert not await others()

    clock.run(main())
    assert sorted(bodies.ended) == [(f"{number:02}", "returned") for number in range(5)]


def test_nothing_is_claimed_any_more(make_app, clock, store, bodies):
    app = make_app(concurrency_limit=2)
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(5))
            run = await started(app_context)
            claims = len(store.called("claim"))
            app_context.shutdown()
            await run
            assert len(store.called("claim")) == claims
            assert len(store.rows()) == 3
            assert store.held() == []

    clock.run(main())


@pytest.mark.parametrize("execution_mode", ExecutionMode)
def test_what_a_claim_brings_after_the_shutdown_is_given_back(make_app, clock, store, bodies, execution_mode):
    app = make_app()
    template = app.dynamic_task(name="template", execution_mode=execution_mode)(bodies)

    async def slowly(call):
        if call.method == "claim":
            await asyncio.sleep(1)

    store.after = slowly

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(5))
            run = await started(app_context)
            assert len(store.held()) == 5
            app_context.shutdown()
            await run
            assert clock.elapsed < 1.01
        for row in store.rows().values():
            assert (row.locked_until, row.attempt) == (None, 0)
            assert row.ready_at <= clock.now()  # for another worker, at once

    clock.run(main())
    assert bodies.began == []
    assert len(store.rows()) == 5 and store.held() == []


def test_at_most_once_starts_what_it_has_committed(make_app, clock, store, bodies):
    app = make_app()
    template = app.dynamic_task(name="template", execution_mode=ExecutionMode.AT_MOST_ONCE)(bodies)

    async def slowly(call):
        if call.method == "settle":
            await asyncio.sleep(1)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            store.after = slowly
            run = await started(app_context)
            assert bodies.began == []
            app_context.shutdown()
            await run

    clock.run(main())
    assert sorted(bodies.ended) == [(f"{number:02}", "returned") for number in range(3)]
    assert store.rows() == {}


def test_heartbeats_work_while_the_app_drains(make_app, clock, store):
    app = make_app()
    beats = []

    @app.dynamic_task(lease_duration=2 * SECOND)
    async def template(context):
        for _ in range(5):
            await asyncio.sleep(1)
            await context.heartbeat()
            beats.append(clock.elapsed)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_task(template, "a", execute_at=START)
            run = await started(app_context)
            app_context.shutdown()
            await run

    clock.run(main())
    assert len(beats) == 5
    assert store.rows() == {}


@pytest.mark.parametrize("busy", [True, False])
def test_the_loop_is_woken_at_once(make_app, clock, bodies, busy):
    app = make_app(poll_interval=HOUR, concurrency_limit=1)
    bodies.lasts = 2.0 if busy else 0.0
    app.task(interval=SECOND, name="task")(bodies)

    async def main():
        async with app.create() as app_context:
            run = asyncio.create_task(app_context.run())
            await clock.advance(1.7 * SECOND)
            app_context.shutdown()
            await run
            assert clock.elapsed == pytest.approx(3 if busy else 1.7, abs=0.01)

    clock.run(main())


def test_an_app_that_is_shut_down_before_it_runs_runs_nothing(make_app, clock, store, bodies):
    app = make_app()
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            app_context.shutdown()
            await app_context.run()
            assert clock.elapsed == 0

    clock.run(main())
    assert bodies.began == [] and store.held() == []


def test_fixtures_close_last_and_in_reverse(make_app, clock, bodies):
    app = make_app()
    app.task(interval=SECOND, name="task")(bodies)
    closed = []

    def fixture(name):
        async def generator():
            yield name
            closed.append((name, len(bodies.ended)))

        return generator

    app.use_fixture("first", fixture("first"))
    app.use_fixture("second", fixture("second"))

    async def main():
        async with app.create() as app_context:
            run = asyncio.create_task(app_context.run())
            await clock.advance(1.5 * SECOND)
        assert run.done()

    clock.run(main())
    assert closed == [("second", 1), ("first", 1)]


# --- a bound on the shutdown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shutdown_timeout", [timedelta(), 3 * SECOND])
def test_after_the_shutdown_timeout_bodies_are_cancelled_and_given_back(make_app, clock, store, bodies, shutdown_timeout):
    app = make_app(shutdown_timeout=shutdown_timeout)
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            app_context.shutdown()
            await run
            assert clock.elapsed == pytest.approx(0.5 + shutdown_timeout.total_seconds(), abs=0.01)
            assert not await others()

    clock.run(main())
    assert [how for _, how in bodies.ended] == ["cancelled"] * 3
    assert store.held() == [] and len(store.rows()) == 3
    assert {row.ready_at for row in store.rows().values()} == {at(clock.elapsed)}  # another worker may go on at once


def test_a_body_that_ends_well_when_it_is_cancelled_is_committed(make_app, clock, store):
    app = make_app(shutdown_timeout=SECOND)

    @app.dynamic_task()
    async def template(context):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # finishes what it is at; I20: there is less than a second

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_task(template, "a", execute_at=START)
            run = await started(app_context)
            app_context.shutdown()
            await run

    clock.run(main())
    assert store.rows() == {}


@pytest.mark.parametrize("how", ["shutdown", "cancel"])
def test_bodies_that_refuse_to_be_cancelled_are_left_behind(make_app, clock, store, how, caplog):
    app = make_app(shutdown_timeout=SECOND)
    late = []

    @app.dynamic_task(lease_duration=MINUTE)
    async def template(context):
        end = clock.elapsed + 100
        while clock.elapsed < end:
            try:
                await asyncio.sleep(end - clock.elapsed)
            except asyncio.CancelledError:
                continue
        try:
            await context.heartbeat()
        except LeaseLostException:
            late.append("its heartbeat failed")

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            if how == "cancel":
                run.cancel()
            else:
                app_context.shutdown()
            await asyncio.wait([run])
            assert clock.elapsed < 10
        assert "leaving them behind" in caplog.text
        await asyncio.sleep(100)  # until they end after all: nobody is there to be told
        assert not await others()

    clock.run(main())
    assert late == ["its heartbeat failed"] * 3


@pytest.mark.parametrize(("shutdown_timeout", "bound"), [(None, 20), (timedelta(), 5.5), (8 * SECOND, 8.5)])
@pytest.mark.parametrize("hangs", [0.0, 2.0])
def test_a_store_that_is_away_does_not_hold_up_the_shutdown_for_ever(
    make_app, clock, store, bodies, shutdown_timeout, bound, hangs
):
    # Outcomes are tried until their lease ends, or until the shutdown timeout.
    app = make_app(shutdown_timeout=shutdown_timeout)
    bodies.lasts = 0.2
    template = app.dynamic_task(name="template", lease_duration=20 * SECOND)(bodies)

    async def away(call):
        if call.method == "settle" or clock.elapsed > 0.4:
            await asyncio.sleep(hangs)
            raise TransientRepositoryError("away")

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            store.before = away
            run = await started(app_context)
            app_context.shutdown()
            await run
            assert clock.elapsed < bound + 3 * (hangs + 1) + 1
            assert not await others()

    clock.run(main())
    assert len(bodies.ended) == 3


def test_what_bodies_left_is_stored_although_the_store_stumbles(make_app, clock, store, bodies):
    app = make_app()
    bodies.lasts = 1
    template = app.dynamic_task(name="template")(bodies)

    async def stumble(call):
        if call.method == "settle" and clock.elapsed < 15:
            raise TransientRepositoryError("away")

    store.before = stumble

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(7))
            run = await started(app_context)
            app_context.shutdown()
            await run

    clock.run(main())
    assert store.rows() == {}


def test_bodies_run_one_after_another_end_too(make_app, clock, store, bodies):
    app = make_app(executor_cls=SynchronousExecutor)
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            app_context.shutdown()
            await run
            assert not await others()

    clock.run(main())
    assert bodies.ended == [("00", "returned")]
    assert store.held() == []


def test_a_bug_in_the_settler_is_raised_and_does_not_hang(make_app, clock, store, bodies, monkeypatch, caplog):
    app = make_app()
    template = app.dynamic_task(name="template")(bodies)
    waited = []

    @app.dynamic_task()
    async def beating(context):
        try:
            await context.heartbeat()
        except LeaseLostException:
            waited.append("told")

    def broken(self, entry, answer):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Settler, "_answer", broken)
    bodies.lasts = 1

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            await app_context.schedule_tasks(beating, overdue(1))
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(app_context.run(), 100)
            assert not await others()

    clock.run(main())
    assert waited == ["told"]


# --- cancelled --------------------------------------------------------------------------------------------------------------


def test_cancelling_gives_back_what_ran(make_app, clock, store, bodies):
    app = make_app()
    template = app.dynamic_task(name="template")(bodies)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert clock.elapsed == 0.5
            assert not await others()

    clock.run(main())
    assert [how for _, how in bodies.ended] == ["cancelled"] * 3
    assert store.held() == []
    assert {row.ready_at for row in store.rows().values()} == {at(0.5)}


def test_what_was_run_to_its_end_is_stored_although_the_app_is_cancelled_while_storing_it(make_app, clock, store, bodies):
    app = make_app()
    bodies.lasts = 1.0
    template = app.dynamic_task(name="template")(bodies)

    async def slowly(call):
        if call.method == "settle":
            await asyncio.sleep(2)

    store.before = slowly

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            app_context.shutdown()
            await clock.advance(2 * SECOND)
            assert [how for _, how in bodies.ended] == ["returned"] * 3
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    clock.run(main())
    assert store.rows() == {}


def test_a_claim_that_is_on_its_way_is_given_back(make_app, clock, store, bodies):
    app = make_app()
    template = app.dynamic_task(name="template")(bodies)

    async def slowly(call):
        if call.method == "claim":
            await asyncio.sleep(2)

    store.after = slowly

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(3))
            run = await started(app_context)
            assert len(store.held()) == 3
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert not await others()

    clock.run(main())
    assert store.held() == [] and bodies.began == []
    assert {row.attempt for row in store.rows().values()} == {0}


def test_a_claim_that_hangs_is_abandoned_and_torn_down(make_app, clock, store, bodies):
    app = make_app()
    app.task(interval=SECOND, name="task")(bodies)
    torn_down = []

    async def hang(call):
        if call.method == "claim":
            try:
                await asyncio.sleep(1e6)
            finally:
                await asyncio.sleep(0.1)  # a driver throws its connection away
                torn_down.append(clock.elapsed)

    store.before = hang

    async def main():
        async with app.create() as app_context:
            run = await started(app_context)
            run.cancel()
            await asyncio.wait([run])
            assert torn_down == [pytest.approx(5.6)]
            assert not await others()

    clock.run(main())


def workload(app, clock, store, ran):
    """Some of everything: static, dynamic, at most once, heartbeats, failures, long and short, all within seconds."""

    @app.task(interval=SECOND, lease_duration=20 * SECOND)
    async def static(context):
        ran.append((context.name, context.scheduled_at))

    @app.task(interval=SECOND, execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=20 * SECOND)
    async def once(context):
        await asyncio.sleep(0.3)
        ran.append((context.name, context.scheduled_at))

    @app.dynamic_task(lease_duration=20 * SECOND)
    async def template(context):
        await asyncio.sleep(0.7)
        await context.heartbeat()
        await asyncio.sleep(0.1)
        ran.append((context.name, context.scheduled_at))

    return template


def make_slow(store):
    async def slowly(call):
        await asyncio.sleep(0.001)

    store.before = store.after = slowly


async def live(app_context, template, moments, rounds, until):
    """Run and be cancelled; how often it waited, and whether it was."""
    await app_context.schedule_tasks(template, [Instance(name=f"{number}", interval=SECOND) for number in range(3)])
    waited = 0
    task = None

    def step():
        """Anything of the application waits: it is cancelled at one moment, and ``rounds`` times more right after it."""
        nonlocal waited
        waited += 1
        if any(moment <= waited <= moment + rounds for moment in moments):
            task.cancel()

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine, **options: asyncio.Task(stepped(coroutine, step), loop=loop, **options))
    task = loop.create_task(app_context.run())
    loop.call_later(until, app_context.shutdown)
    await asyncio.wait([task], timeout=60)
    loop.set_task_factory(None)
    assert task.done()
    return waited, task.cancelled()


async def stepped(coroutine, step):
    """``coroutine``, with ``step`` called whenever it waits."""
    return await _stepped(coroutine, step)


@types.coroutine
def _stepped(coroutine, step):
    value = error = None
    while True:
        try:
            future = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        step()
        try:
            value, error = (yield future), None
        except BaseException as thrown:
            value, error = None, thrown


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        *(({}, rounds) for rounds in (0, 1, 3)),
        *(({"concurrency_limit": 2, "batch_size": 1}, rounds) for rounds in (0, 3)),
        ({"executor_cls": SynchronousExecutor}, 1),
    ],
)
def test_cancelling_a_running_app_at_any_await_leaves_nothing_behind(options, rounds, caplog):
    # I12, I14
    caplog.set_level(logging.CRITICAL)

    def attempt(moment):
        clock, store, ran = VirtualClock(), ScriptedStore(), []
        complaints = []

        def make():
            app = Pyncette(repository_factory=store.open, clock=clock, **options)
            return app, workload(app, clock, store, ran)

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            app, template = make()
            make_slow(store)
            async with app.create() as app_context:
                outcome = await live(app_context, template, [moment], rounds, until=2.6)
                assert not await others()
            assert store.held() == [], (moment, store.rows())
            # Another worker takes over, with nothing to wait for.
            ran.clear()
            began = clock.elapsed
            app, template = make()
            async with running(app):
                await clock.advance(3.5 * SECOND)
            assert {name for name, _ in ran} == {"static", "once", "0", "1", "2"}, (moment, began, ran)
            assert not await others()
            return outcome

        outcome = clock.run(main())
        assert complaints == []
        return outcome

    waited, was_cancelled = attempt(10**9)
    assert not was_cancelled and waited > 20, waited
    for moment in range(1, waited + 1):
        attempt(moment)


def test_cancelling_twice_ends_the_app_all_the_same(make_app, clock, store, caplog):
    # Whoever does not want to wait for bodies that refuse need not; no task of the engine's own is left.
    caplog.set_level(logging.CRITICAL)

    async def main():
        for second in range(1, 12):
            app = make_app()
            began = []

            @app.dynamic_task(name=f"template{second}", lease_duration=SECOND)
            async def template(context, began=began):
                began.append(context.name)
                end = clock.elapsed + 3
                while clock.elapsed < end:
                    try:
                        await asyncio.sleep(end - clock.elapsed)
                    except asyncio.CancelledError:
                        continue

            async with app.create() as app_context:
                await app_context.schedule_tasks(template, overdue(2))
                run = await started(app_context)
                assert len(began) == 2
                run.cancel()
                for _ in range(second):
                    await asyncio.sleep(0)
                run.cancel()
                await asyncio.wait([run], timeout=30)
                assert run.cancelled()
            await asyncio.sleep(4)
            assert not await others()

    clock.run(main())


@pytest.mark.parametrize("inside", ["run", "close"])
@pytest.mark.parametrize("cleanup", [0.0, 0.5, 2.0])
def test_cancelled_at_every_await_the_order_stays(make_app, clock, store, inside, cleanup):
    # I12, I14: a scope of anyio cancels what is in it again and again until it has left. Bodies, outcomes, and only then fixtures.
    app = make_app()
    order = []

    @app.fixture()
    async def resource():
        try:
            yield
        finally:
            order.append("fixture")

    @app.dynamic_task()
    async def template(context):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(cleanup)
            order.append("body")

    async def stored(call):
        if call.method == "settle":
            await asyncio.sleep(0.1)
            order.append("outcome")

    store.after = stored

    async def live():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, overdue(2))
            if inside == "run":
                await app_context.run()
            else:
                run = asyncio.create_task(app_context.run())
                await asyncio.sleep(0.5)
                assert not run.done()
        raise AssertionError("not cancelled")

    async def main():
        task = asyncio.create_task(live())
        await asyncio.sleep(1)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)
        assert task.cancelled()
        assert not await others()

    clock.run(main())
    assert order[:2] == ["body"] * 2
    assert order[-1] == "fixture"
    assert set(order[2:-1]) == {"outcome"}
    assert store.held() == []
