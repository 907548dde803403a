"""What surrounds runs: fixtures, set up before the first and torn down after the last; middlewares, around each."""

import asyncio
import contextlib
import functools
import logging
from datetime import timedelta

import pytest

from pyncette import ConfigurationError, FailureMode
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def events():
    return []


def declare_fixture(app, events, name, *, setup_error=None, teardown_error=None, lasts=0.0):
    @app.fixture(name=name)
    async def fixture():
        await asyncio.sleep(lasts)
        if setup_error is not None:
            raise setup_error
        events.append(name)
        try:
            yield f"the {name}"
        finally:
            await asyncio.sleep(lasts)
            events.append(f"/{name}")
            if teardown_error is not None:
                raise teardown_error


def run_for(app, clock, duration):
    async def main():
        async with running(app):
            await clock.advance(duration)

    clock.run(main())


# --- fixtures -----------------------------------------------------------------------------------------------------------


def test_fixtures_are_set_up_in_order_before_the_first_run_and_torn_down_in_reverse_after_the_last(app, clock, events):
    # I12
    for name in ("a", "b", "c"):
        declare_fixture(app, events, name, lasts=5)

    @app.task(interval=MINUTE)
    async def task(context):
        events.append("begins")
        assert (context.a, context.b, context.c) == ("the a", "the b", "the c")
        await asyncio.sleep(20)
        events.append("ends")

    run_for(app, clock, 65 * SECOND)
    assert events == ["a", "b", "c", "begins", "ends", "/c", "/b", "/a"]


def test_what_is_overdue_waits_for_the_fixtures(make_app, clock, events):
    def declare():
        app = make_app()
        app.task(interval=MINUTE, name="task")(body)
        return app

    async def body(context):
        events.append("run")

    run_for(declare(), clock, SECOND)

    async def nothing():
        await clock.advance(90 * SECOND)

    clock.run(nothing())
    app = declare()
    declare_fixture(app, events, "slow", lasts=10)
    run_for(app, clock, SECOND)
    assert events == ["slow", "run", "/slow"]


def test_a_fixture_gets_the_app_context_if_it_wants_it(app, clock, events):
    @app.dynamic_task()
    async def seeded(context):
        events.append((context.name, context.with_it, context.without_it))

    @app.fixture()
    async def with_it(app_context):
        assert not hasattr(app_context, "without_it")
        await app_context.schedule_task(seeded, "one", interval=SECOND)
        yield app_context.clock is not None

    @app.fixture()
    async def without_it():
        yield "plain"

    run_for(app, clock, 1.5 * SECOND)
    assert events == [("one", True, "plain")]


def test_a_fixture_has_the_name_of_its_function_or_another(app, clock, events):
    async def connection():
        yield "connection"

    app.fixture()(connection)
    app.fixture(name="other")(connection)
    app.use_fixture("third", functools.partial(connection))

    @app.task(interval=SECOND)
    async def task(context):
        events.append((context.connection, context.other, context.third))

    run_for(app, clock, 1.5 * SECOND)
    assert events == [("connection", "connection", "connection")]


def test_a_fixture_may_yield_nothing_or_none(app, clock, events):
    @app.fixture()
    async def nothing():
        yield

    @app.task(interval=SECOND)
    async def task(context):
        events.append(context.nothing)

    run_for(app, clock, 1.5 * SECOND)
    assert events == [None]


def test_each_context_has_fixtures_of_its_own(app, clock, events):
    declare_fixture(app, events, "a")

    async def main():
        async with app.create() as first, app.create() as second:
            assert first is not second
            assert events == ["a", "a"]

    clock.run(main())
    assert events == ["a", "a", "/a", "/a"]


def test_when_the_third_fixture_fails_the_first_two_are_torn_down_and_nothing_runs(app, clock, events, store):
    for name in ("a", "b"):
        declare_fixture(app, events, name)
    declare_fixture(app, events, "c", setup_error=LookupError("no database"))
    declare_fixture(app, events, "d")

    @app.task(interval=MINUTE)
    async def task(context):
        events.append("run")

    with pytest.raises(LookupError, match="no database"):
        clock.run(app.run())
    assert events == ["a", "b", "/b", "/a"]


def test_when_a_teardown_fails_the_other_fixtures_are_torn_down_all_the_same(app, clock, events):
    declare_fixture(app, events, "a")
    declare_fixture(app, events, "b", teardown_error=LookupError("already gone"))
    declare_fixture(app, events, "c", teardown_error=LookupError("gone, too"))
    declare_fixture(app, events, "d")

    with pytest.raises(LookupError, match="already gone") as info:
        run_for(app, clock, SECOND)
    assert events == ["a", "b", "c", "d", "/d", "/c", "/b", "/a"]
    assert str(info.value.__context__) == "gone, too"


def test_an_error_of_a_set_up_is_not_hidden_by_that_of_a_teardown(app, clock, events):
    declare_fixture(app, events, "a", teardown_error=LookupError("second"))
    declare_fixture(app, events, "b", setup_error=LookupError("first"))
    with pytest.raises(LookupError) as info:
        clock.run(app.run())
    chain = [str(info.value), str(info.value.__context__)]
    assert set(chain) == {"first", "second"}


def test_fixtures_are_torn_down_after_bodies_that_are_cancelled(app, clock, events):
    # I12, I14
    declare_fixture(app, events, "a")

    @app.task(interval=MINUTE)
    async def task(context):
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            events.append(f"ends with {context.a}")

    async def main():
        run = asyncio.create_task(app.run())
        await clock.advance(65 * SECOND)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    clock.run(main())
    assert events == ["a", "ends with the a", "/a"]


def test_fixtures_are_torn_down_after_bodies_also_when_the_block_ends_with_an_error(app, clock, events):
    # I12
    declare_fixture(app, events, "a")

    @app.task(interval=MINUTE)
    async def task(context):
        await asyncio.sleep(30)
        events.append("ends")

    async def main():
        with pytest.raises(LookupError, match="of the block"):
            async with app.create() as context:
                run = asyncio.create_task(context.run())
                await clock.advance(65 * SECOND)
                raise LookupError("of the block")
        assert run.done()

    clock.run(main())
    assert events == ["a", "ends", "/a"]


def test_a_set_up_that_is_cancelled_tears_down_what_was_set_up(app, clock, events):
    # I14
    declare_fixture(app, events, "a")
    declare_fixture(app, events, "b", lasts=60)

    async def main():
        run = asyncio.create_task(app.run())
        await clock.advance(SECOND)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    clock.run(main())
    assert events == ["a", "/a"]


def test_a_fixture_may_use_the_context_until_the_very_end(app, clock, events, store):
    @app.dynamic_task()
    async def template(context):
        events.append(context.name)

    @app.fixture()
    async def register(app_context):
        await app_context.schedule_task(template, "worker", interval=MINUTE)
        yield
        assert await app_context.unschedule_task(template, "worker")

    run_for(app, clock, 61 * SECOND)
    assert events == ["worker"]
    assert store.rows() == {}


def test_a_function_around_an_async_generator_is_a_fixture(app, clock, events):
    def logged(fixture):
        @functools.wraps(fixture)
        def wrapped(*args):
            events.append("wrapped")
            return fixture(*args)

        return wrapped

    @app.fixture()
    @logged
    async def connection(app_context):
        yield app_context

    @app.task(interval=SECOND)
    async def task(context):
        events.append(context.connection is context.app_context)

    run_for(app, clock, 1.5 * SECOND)
    assert events == ["wrapped", True]


def test_a_wrapped_async_generator_is_a_fixture(app, clock, events):
    def logged(fixture):
        @functools.wraps(fixture)
        async def wrapped():
            events.append("wrapped")
            async with contextlib.aclosing(fixture()) as generator:
                async for value in generator:
                    yield value

        return wrapped

    @app.fixture()
    @logged
    async def connection():
        yield "connection"

    @app.task(interval=SECOND)
    async def task(context):
        events.append(context.connection)

    run_for(app, clock, 1.5 * SECOND)
    assert events == ["wrapped", "connection"]


def test_a_name_that_a_fixture_adds_cannot_be_that_of_a_later_fixture(app, clock, events):
    @app.fixture()
    async def first(app_context):
        with pytest.raises(ConfigurationError, match="'second'"):
            app_context.add_to_context("second", "from the first")
        yield

    declare_fixture(app, events, "second")

    @app.task(interval=SECOND)
    async def task(context):
        events.append(context.second)

    run_for(app, clock, 1.5 * SECOND)
    assert events == ["second", "the second", "/second"]


# --- middlewares --------------------------------------------------------------------------------------------------------


def declare_middleware(app, events, name):
    @app.middleware
    async def middleware(context, next):
        events.append(name)
        try:
            await next()
        finally:
            events.append(f"/{name}")

    return middleware


def test_middlewares_wrap_every_run_in_the_order_in_which_they_are_defined(app, clock, events):
    declare_middleware(app, events, "a")
    declare_middleware(app, events, "b")

    @app.task(interval=SECOND)
    async def static(context):
        events.append("static")

    @app.dynamic_task()
    async def template(context):
        events.append("dynamic")

    declare_middleware(app, events, "c")

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=1.5 * SECOND)
            await clock.advance(1.8 * SECOND)

    clock.run(main())
    assert events == ["a", "b", "c", "static", "/c", "/b", "/a", "a", "b", "c", "dynamic", "/c", "/b", "/a"]


def test_the_decorator_gives_the_middleware_back(app):
    async def middleware(context, next):
        await next()

    assert app.middleware(middleware) is middleware


def test_a_middleware_sees_and_may_extend_the_context_of_its_run(app, clock, events):
    declare_fixture(app, [], "database")

    @app.middleware
    async def trace(context, next):
        context.trace = f"{context.task.name} with {context.database}"
        await next()

    @app.task(interval=SECOND)
    async def task(context):
        events.append(context.trace)

    run_for(app, clock, 1.5 * SECOND)
    assert events == ["task with the database"]


def outcome_of(app, clock, store, declare, *, fails=False, **options):
    """Whether the first occurrence was committed, and how often the body ran, within 65 s of a task with a lease of 10 s."""
    runs = []

    async def body(context):
        runs.append(context.attempt)
        if fails:
            raise LookupError("of the body")

    declare()
    task = app.task(interval=MINUTE, lease_duration=10 * SECOND, name="task", **options)(body)
    run_for(app, clock, 65 * SECOND)
    row = store.rows()[task.name]
    return row.attempt == 0, len(runs)


def test_a_middleware_that_raises_before_the_body_makes_the_run_fail(app, clock, store, caplog):
    # I10
    def declare():
        @app.middleware
        async def raising(context, next):
            raise LookupError("of the middleware")

    assert outcome_of(app, clock, store, declare) == (False, 0)
    assert "of the middleware" in caplog.text


def test_a_middleware_that_raises_after_the_body_makes_the_run_fail(app, clock, store):
    def declare():
        @app.middleware
        async def raising(context, next):
            await next()
            raise LookupError("of the middleware")

    assert outcome_of(app, clock, store, declare) == (False, 1)


def test_a_middleware_that_swallows_the_error_makes_the_run_succeed(app, clock, store):
    def declare():
        @app.middleware
        async def swallowing(context, next):
            with contextlib.suppress(LookupError):
                await next()

    assert outcome_of(app, clock, store, declare, fails=True) == (True, 1)


def test_a_middleware_that_does_not_go_on_skips_the_body_and_the_run_succeeds(app, clock, store, events):
    def declare():
        @app.middleware
        async def skipping(context, next):
            pass

        declare_middleware(app, events, "inner")

    assert outcome_of(app, clock, store, declare) == (True, 0)
    assert events == []


def test_a_middleware_that_goes_on_twice_runs_the_body_twice(app, clock, store):
    def declare():
        @app.middleware
        async def retrying(context, next):
            await next()
            await next()

    assert outcome_of(app, clock, store, declare) == (True, 2)


def test_a_middleware_can_turn_one_error_into_another(app, clock, store, caplog):
    def declare():
        @app.middleware
        async def translating(context, next):
            try:
                await next()
            except LookupError as error:
                raise RuntimeError("translated") from error

    assert outcome_of(app, clock, store, declare, fails=True, failure_mode=FailureMode.COMMIT) == (True, 1)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info[0] is RuntimeError


def test_a_raising_middleware_of_one_task_does_not_disturb_another(app, clock, events):
    # I10
    @app.middleware
    async def picky(context, next):
        if context.name == "bad":
            raise LookupError
        await next()

    async def body(context):
        events.append(context.name)

    for name in ("bad", "good"):
        app.task(interval=SECOND, name=name)(body)
    run_for(app, clock, 3.5 * SECOND)
    assert events == ["good"] * 3


def test_a_middleware_wraps_each_attempt(app, clock, events):
    declare_middleware(app, events, "m")

    @app.task(interval=MINUTE, failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)
    async def task(context):
        events.append(context.attempt)
        if context.attempt < 3:
            raise LookupError

    run_for(app, clock, 65 * SECOND)
    assert events == ["m", 1, "/m", "m", 2, "/m", "m", 3, "/m"]


def test_a_middleware_may_bound_a_body_in_time(app, clock, store, events):
    def declare():
        @app.middleware
        async def bounded(context, next):
            async with asyncio.timeout(2):
                await next()

        @app.middleware
        async def slow(context, next):
            await asyncio.sleep(30)
            await next()

    assert outcome_of(app, clock, store, declare, failure_mode=FailureMode.COMMIT) == (True, 0)


def test_middlewares_apply_to_what_was_declared_before_them(app, clock, events):
    @app.task(interval=SECOND)
    async def task(context):
        events.append("body")

    declare_middleware(app, events, "late")
    run_for(app, clock, 1.5 * SECOND)
    assert events == ["late", "body", "/late"]
