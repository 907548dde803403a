"""Bodies that are plain functions run in threads."""

import asyncio
import contextvars
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import (
    Context,
    ExecutionMode,
    FailureMode,
    LeaseLostException,
    Pyncette,
    PyncetteError,
    with_heartbeat,
)
from pyncette.logs import RunFields
from pyncette.testing import VirtualClock, running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def play(app: Pyncette, clock: VirtualClock, duration: timedelta = 1.5 * SECOND) -> None:
    async def main():
        async with running(app, clock):
            await clock.advance(duration)

    clock.run(main())


def test_a_plain_function_runs_in_a_thread_with_its_context(app, clock):
    seen = []

    @app.fixture()
    async def prices():
        yield {"tea": 3}

    @app.task(interval=SECOND, blend="Assam")
    def brew(context: Context) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), context.prices["tea"], context.args["blend"]))
        seen.append((context.scheduled_at, context.name, context.attempt))

    play(app, clock)
    assert seen == [(False, 3, "Assam"), (datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), "brew", 1)]


def test_middlewares_wrap_it_and_what_they_set_is_there_in_the_thread(app, clock):
    trace, order = contextvars.ContextVar("trace"), []

    @app.middleware
    async def traced(context, next):
        trace.set(context.execution_id)
        context.greeting = "hello"
        order.append("before")
        await next()
        order.append("after")

    @app.task(interval=SECOND)
    def body(context: Context) -> None:
        order.append((trace.get() == context.execution_id, context.greeting))

    play(app, clock)
    assert order == ["before", (True, "hello"), "after"]


def test_what_it_logs_has_the_fields_of_its_run(app, clock, caplog, monkeypatch):
    monkeypatch.setattr(RunFields, "wanted", True)
    caplog.handler.addFilter(fields := RunFields())

    @app.task(interval=SECOND)
    def body(context: Context) -> None:
        logging.getLogger("shop").warning("sold out")

    play(app, clock)
    caplog.handler.removeFilter(fields)
    assert [record.task for record in caplog.records if record.name == "shop"] == ["body"]


def test_no_more_are_claimed_than_there_are_threads_and_the_rest_is_left_to_others(clock):
    app = Pyncette(sync_workers=2)
    starts, others = [], []
    attempts = []

    @app.dynamic_task(lease_duration=timedelta(seconds=20))
    def slow(context: Context) -> None:
        starts.append(round(clock.elapsed))
        attempts.append(context.attempt)
        clock.sleep(15)

    @app.task(interval=SECOND)
    async def quick(context: Context) -> None:
        others.append(context.attempt)

    async def main():
        async with running(app, clock) as app_context:
            for number in range(6):
                await app_context.schedule_task(slow, str(number), execute_at=clock.now() + SECOND)
            await clock.advance(timedelta(seconds=10))
            rows = [await app_context.get_task(slow, str(number)) for number in range(6)]
            assert sum(row.locked_until is not None for row in rows) == 2, "nothing waits for a thread with its lease ticking"
            await clock.advance(timedelta(seconds=50))

    clock.run(main())
    assert starts == [1, 1, 16, 16, 31, 31]
    assert attempts == [1] * 6
    assert len(others) > 58, "bodies of the event loop have slots of their own"


def test_static_tasks_share_the_threads_with_templates(clock):
    app = Pyncette(sync_workers=1)
    most, now = [], []

    def body(context: Context) -> None:
        now.append(context.name)
        most.append(len(now))
        clock.sleep(3)
        now.remove(context.name)

    for number in range(3):
        app.task(interval=5 * SECOND, name=f"static {number}")(body)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app, clock) as app_context:
            await app_context.schedule_task(template, "ada", interval=5 * SECOND)
            await app_context.trigger_task(app.tasks[0])
            await clock.advance(MINUTE)

    clock.run(main())
    assert max(most) == 1
    assert len(most) == 20, "a thread is never idle while something is due"


def test_its_thread_can_schedule_look_up_and_send_heartbeats(app, clock):
    found = []

    @app.dynamic_task()
    async def remind(context: Context) -> None:
        found.append(context.name)

    @app.task(interval=MINUTE, lease_duration=timedelta(seconds=10))
    def body(context: Context) -> None:
        context.blocking.schedule_task(remind, "ada", execute_at=clock.now() + SECOND)
        row = context.blocking.get_task(remind, "ada")
        found.append(row.name)
        for _ in range(5):
            clock.sleep(8)
            context.heartbeat_from_thread()
        found.append(context.attempt)
        context.blocking.shutdown()

    async def main():
        await asyncio.wait_for(app.run(), 200)

    clock.run(main())
    assert found == ["ada", "ada", 1]


def test_with_heartbeat_keeps_its_lease(app, clock, caplog):
    attempts = []

    @app.task(interval=MINUTE, lease_duration=timedelta(seconds=10))
    @with_heartbeat()
    def body(context: Context) -> None:
        attempts.append((context.attempt, threading.current_thread().name.startswith("pyncette-body")))
        clock.sleep(50)

    assert body.in_thread
    play(app, clock, 3.9 * MINUTE)
    assert attempts == [(1, True)] * 3
    assert not caplog.records


@pytest.mark.parametrize(
    "error", [ValueError("no tea"), SystemExit(3), StopIteration(), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_whatever_it_raises_is_a_failure_of_this_run_alone(app, clock, error, caplog):
    runs = []

    @app.task(interval=SECOND, failure_mode=FailureMode.COMMIT)
    def body(context: Context) -> None:
        runs.append(context.attempt)
        raise error

    play(app, clock, 3.5 * SECOND)
    assert runs == [1, 1, 1]
    assert sum("failed" in record.message for record in caplog.records) == 3


async def awaited(context):
    raise AssertionError


@pytest.mark.parametrize("returned", [awaited, lambda context: (x for x in "tea")])
@pytest.mark.filterwarnings("error")
def test_what_would_still_have_to_be_run_is_no_success(app, clock, returned, caplog):
    app.task(interval=SECOND, name="body", failure_mode=FailureMode.COMMIT)(lambda context: returned(context))
    play(app, clock)
    [record] = caplog.records
    assert "which nothing runs; write it as 'async def'" in str(record.exc_info[1])


def test_a_timeout_ends_the_run_but_not_the_thread_which_can_look(app, clock, caplog):
    caplog.set_level(logging.INFO)
    seen, ended = [], threading.Event()

    @app.task(interval=MINUTE, timeout=timedelta(seconds=5), failure_mode=FailureMode.COMMIT)
    def body(context: Context) -> None:
        try:
            seen.append(context.cancelled)
            clock.sleep(9)
            seen.append(context.cancelled)
            context.heartbeat_from_thread()
        except LeaseLostException:
            seen.append("lost")
            raise
        finally:
            ended.set()

    async def main():
        async with running(app, clock) as app_context:
            await clock.advance(66 * SECOND)
            assert app_context.threads.room == 31, "it keeps its thread"
            task = await app_context.get_task(app.tasks[0])
            assert "timeout of 0:00:05" in task.last_run.error
            await clock.advance(5 * SECOND)
            await asyncio.to_thread(ended.wait, 10)
            while app_context.threads.room != 32:
                await asyncio.sleep(0.1)

    clock.run(main())
    assert seen == [False, True, "lost"]
    messages = [record.getMessage() for record in caplog.records]
    assert any("a thread can't be stopped: it continues, and keeps one of 32 threads" in message for message in messages)
    assert any("The thread of" in message and "has ended after" in message for message in messages)


def test_a_body_that_hangs_holds_neither_its_task_nor_the_end(clock, caplog):
    app, forever = Pyncette(sync_workers=1, shutdown_timeout=timedelta(0)), threading.Event()
    runs = []

    @app.task(interval=MINUTE)
    def hangs(context: Context) -> None:
        runs.append(context.attempt)
        clock.sleep(0)
        forever.wait()

    async def main():
        async with running(app, clock):
            while not runs:
                await asyncio.sleep(1)
            await asyncio.sleep(0)

    from pyncette import testing

    patience, testing._PATIENCE = testing._PATIENCE, 0.05
    try:
        clock.run(main())
    finally:
        testing._PATIENCE = patience
        forever.set()
    assert runs == [1]
    assert any("Not all bodies finished within the shutdown timeout" in record.message for record in caplog.records)


def test_calls_from_the_wrong_thread_say_so(app, clock):
    errors = []

    @app.task(interval=SECOND)
    async def body(context: Context) -> None:
        for call in (context.heartbeat_from_thread, lambda: clock.sleep(1), lambda: context.blocking.get_task(app.tasks[0])):
            with pytest.raises(PyncetteError) as info:
                call()
            errors.append(str(info.value))

    play(app, clock)
    assert len(errors) == 3
    assert all("await" in error for error in errors)


def test_at_most_once_commits_before_the_thread_begins(app, clock):
    @app.task(interval=SECOND, execution_mode=ExecutionMode.AT_MOST_ONCE)
    def body(context: Context) -> None:
        row = context.blocking.get_task(context.task)
        assert row.scheduled_at > context.scheduled_at
        context.heartbeat_from_thread()
        raise SystemExit

    play(app, clock)


def test_a_body_may_start_threads_that_call(app, clock):
    found = []

    @app.task(interval=SECOND)
    def body(context: Context) -> None:
        other = threading.Thread(target=lambda: found.append(context.blocking.get_task(context.task).name))
        other.start()
        other.join()

    play(app, clock)
    assert found == ["body"]


def test_time_that_a_thread_really_takes_is_no_virtual_time(app, clock):
    elapsed = []

    @app.task(interval=MINUTE)
    def body(context: Context) -> None:
        before = clock.elapsed
        time.sleep(0.02)  # for the loop to jump if it dared
        elapsed.append(clock.elapsed - before)

    play(app, clock, 3.5 * MINUTE)
    assert elapsed == [0.0] * 3
