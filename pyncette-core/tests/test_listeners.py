"""Who is told what happens to runs: listeners, the line for each run, and the fields of records."""

import asyncio
import logging
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, Context, ExecutionMode, FailureMode, Listener, Pyncette, RunOutcome, listeners
from pyncette.logs import RunFields, fields_of
from pyncette.testing import running

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
HOOKS = ("begin", "end", "failure", "retry", "given_up", "takeover", "skipped")


class Heard(Listener):
    """Remembers all it is told, as (hook, event)."""

    def __init__(self):
        self.told = []
        for hook in HOOKS:
            setattr(self, hook, lambda event, hook=hook: self.told.append((hook, event)))

    def short(self):
        return [(hook, event.run.attempt, event.run.outcome.value) for hook, event in self.told]


@pytest.fixture
def heard(app):
    heard = Heard()
    app.use_listener(heard)
    return heard


def run(app, clock, duration):
    async def main():
        async with running(app):
            await clock.advance(duration)

    clock.run(main())


def failing(times, lasts=0.0):
    """A body that fails so often before it ends well."""

    async def body(context):
        nonlocal times
        await asyncio.sleep(lasts)
        times -= 1
        if times >= 0:
            raise ValueError(f"{times} more")

    return body


def test_a_run_that_ends_well_has_a_begin_and_an_end(app, clock, heard):
    app.task(interval=HOUR, name="task")(failing(0, lasts=2))
    run(app, clock, HOUR + 10 * SECOND)
    [(_, begin), (_, end)] = heard.told
    assert heard.short() == [("begin", 1, "started"), ("end", 1, "succeeded")]
    assert (begin.task.name, begin.instance, begin.run.started, begin.run.ended) == ("task", None, START + HOUR, None)
    assert end.run.ended == START + HOUR + 2 * SECOND
    assert end.next_at == START + 2 * HOUR
    assert begin.execution_id == end.execution_id
    assert begin.run.worker == end.run.worker


def test_a_failure_says_when_it_is_tried_again_and_the_last_that_it_is_given_up(app, clock, heard):
    app.task(interval=HOUR, name="task", max_attempts=2, failure_mode=FailureMode.UNLOCK, retry_delay=5 * SECOND)(failing(2))
    run(app, clock, HOUR + 10 * SECOND)
    assert heard.short() == [
        ("begin", 1, "started"),
        ("failure", 1, "failed"),
        ("retry", 1, "failed"),
        ("begin", 2, "started"),
        ("failure", 2, "given up"),
        ("given_up", 2, "given up"),
    ]
    assert heard.told[1][1].run.error == "ValueError: 1 more"
    assert heard.told[2][1].next_at == START + HOUR + 5 * SECOND
    assert heard.told[5][1].next_at == START + 2 * HOUR


def test_what_goes_on_after_a_failure_is_not_tried_again(app, clock, heard):
    app.task(interval=HOUR, name="task", failure_mode=FailureMode.COMMIT)(failing(1))
    run(app, clock, HOUR + SECOND)
    assert [hook for hook, _ in heard.told] == ["begin", "failure"]
    assert heard.told[1][1].next_at == START + 2 * HOUR


@pytest.mark.parametrize("fails", [0, 1])
def test_at_most_once_is_told_how_it_ended_although_no_store_is(app, clock, heard, fails):
    app.task(interval=HOUR, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE)(failing(fails))
    run(app, clock, HOUR + SECOND)
    assert heard.short() == [("begin", 1, "started"), ("failure", 1, "failed") if fails else ("end", 1, "succeeded")]
    assert heard.told[1][1].next_at == START + 2 * HOUR


def test_a_worker_that_died_is_told_by_the_one_that_takes_over_or_gives_up(app, clock, heard):
    template = app.dynamic_task(name="template", lease_duration=10 * SECOND, max_attempts=2)(failing(0))

    async def dies(context):
        [claim] = (
            await context.repository.claim(clock.now(), template.key("x").partition, lease_duration=10 * SECOND, limit=1)
        ).claims
        await clock.advance(10 * SECOND)
        return claim

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(HOUR)
            await dies(context)
        async with running(app):
            await clock.advance(SECOND)
        assert heard.short() == [("takeover", 1, "died"), ("begin", 2, "started"), ("end", 2, "succeeded")]
        event = heard.told[0][1]
        assert (event.instance, event.run.worker, event.run.started) == ("x", None, None)
        assert event.run.error == "1 attempt did not finish within the lease"
        heard.told.clear()
        async with app.create() as context:
            await clock.advance(HOUR)
            await dies(context)
            await dies(context)
        async with running(app):
            await clock.advance(SECOND)
        assert heard.short() == [("given_up", 2, "died")]
        assert "did not finish within its lease" in heard.told[0][1].run.error

    clock.run(main())


def test_a_run_whose_process_ends_is_told_as_a_retry_and_no_failure(app, clock, heard):
    app.task(interval=HOUR, name="task")(failing(0, lasts=1000))

    async def main():
        async with app.create() as context:
            task = asyncio.create_task(context.run())
            await clock.advance(HOUR + SECOND)
            task.cancel()
            await asyncio.wait([task])

    clock.run(main())
    assert heard.short() == [("begin", 1, "started"), ("retry", 1, "interrupted")]


def test_occurrences_that_are_left_out_are_told(app, clock, heard):
    template = app.dynamic_task(name="template", fast_forward=True)(failing(0))

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(5 * HOUR + SECOND)
        async with running(app):
            await clock.advance(SECOND)

    clock.run(main())
    assert [hook for hook, _ in heard.told] == ["skipped", "begin", "end"]
    skipped = heard.told[0][1]
    assert skipped.run.outcome is RunOutcome.SKIPPED
    assert (skipped.run.scheduled_at, skipped.skipped_from, skipped.next_at) == (START + HOUR, START + HOUR, START + 5 * HOUR)


def test_a_listener_that_raises_or_blocks_harms_no_run(clock, caplog):
    app, ended, hold = Pyncette(clock=clock), [], threading.Event()

    class Bad(Listener):
        def begin(self, event):
            raise SystemExit("no")

        def end(self, event):
            hold.wait(20)

    app.use_listener(Bad())
    app.use_listener(heard := Heard())

    @app.task(interval=SECOND)
    async def task(context):
        ended.append(context.scheduled_at)

    async def main():
        async with running(app):
            await clock.advance(10 * SECOND)
            assert len(ended) >= 9
            hold.set()

    clock.run(main())
    assert len(heard.told) == 2 * len(ended), "nobody waits for another"
    [record] = [record for record in caplog.records if "raised SystemExit in begin()" in record.message]
    assert "Bad" in record.message


def test_a_listener_that_hangs_is_left_behind_at_the_end(clock, caplog):
    app, hold = Pyncette(clock=clock, shutdown_timeout=SECOND), threading.Event()

    class Hangs(Listener):
        def end(self, event):
            hold.wait(20)

    app.use_listener(Hangs())
    app.task(interval=SECOND, name="task")(failing(0))
    began = time.monotonic()
    run(app, clock, 5.5 * SECOND)
    hold.set()
    assert time.monotonic() - began < 5
    assert "Hangs does not return; leaving it behind, with 4 events undelivered" in caplog.text


def test_a_listener_that_is_too_slow_is_not_waited_for(clock, caplog, monkeypatch):
    monkeypatch.setattr(listeners, "_MOST_WAITING", 200)
    app, hold, heard = Pyncette(clock=clock), threading.Event(), []

    class Slow(Listener):
        def end(self, event):
            hold.wait(60)
            heard.append(event)

    app.use_listener(Slow())
    app.task(interval=timedelta(milliseconds=10), name="task")(failing(0))

    async def main():
        async with running(app):
            await clock.advance(timedelta(seconds=3))
            hold.set()

    clock.run(main())
    assert len(heard) == 201
    assert [record.message for record in caplog.records].count(
        f"The listener {Slow.__qualname__} is 200 events behind; dropping further events"
    ) == 1


class Asynchronous(Listener):
    async def end(self, event): ...


@pytest.mark.parametrize(("listener", "words"), [(object(), "derive from that"), (Asynchronous(), "make it a plain function")])
def test_what_would_never_be_told_is_refused(app, listener, words):
    with pytest.raises(ConfigurationError, match=words):
        app.use_listener(listener)


# --- the log ------------------------------------------------------------------------------------------------------------


def test_each_run_is_one_line_if_asked_for(clock, caplog):
    caplog.set_level(logging.INFO, "pyncette.runs")
    app = Pyncette(clock=clock, log_runs=True)
    template = app.dynamic_task(name="template", failure_mode=FailureMode.UNLOCK, max_attempts=2)(failing(3, lasts=2))

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(2 * HOUR + 10 * SECOND)

    clock.run(main())
    records = [record for record in caplog.records if record.name == "pyncette.runs"]
    # A retry is due a moment after its time, for clocks have their grain.
    assert [re.sub(r"(\d)\.00\d s late", r"\1 s late", record.message) for record in records] == [
        "task 'template' 'x' of 2026-01-01T01:00:00+00:00: failed, attempt 1, 0 s late, took 2.000 s",
        "task 'template' 'x' of 2026-01-01T01:00:00+00:00: given up, attempt 2, 3 s late, took 2.000 s",
        "task 'template' 'x' of 2026-01-01T02:00:00+00:00: failed, attempt 1, 0 s late, took 2.000 s",
        "task 'template' 'x' of 2026-01-01T02:00:00+00:00: succeeded, attempt 2, 3 s late, took 2.000 s",
    ]
    assert fields_of(records[3]) == {
        "task": "template",
        "instance": "x",
        "scheduled_at": "2026-01-01T02:00:00+00:00",
        "attempt": 2,
        "outcome": RunOutcome.SUCCEEDED,
        "lateness": pytest.approx(3, abs=0.01),
        "duration": 2,
    }


def test_runs_are_not_logged_unless_asked_for(app, clock, caplog):
    caplog.set_level(logging.INFO)
    app.task(interval=HOUR, name="task")(failing(0))
    run(app, clock, HOUR + SECOND)
    assert not [record for record in caplog.records if record.name == "pyncette.runs"]


def test_records_about_a_run_have_fields_and_so_have_those_of_its_body(app, clock, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(RunFields())
    logger = logging.getLogger("shop")

    @app.task(interval=HOUR, failure_mode=FailureMode.COMMIT)
    async def task(context: Context) -> None:
        logger.info("within")
        await asyncio.create_task(deeper())
        raise ValueError

    async def deeper():
        logger.info("deeper", extra={"task": "of its own"})

    async def main():
        async with running(app):
            logger.info("outside")
            await clock.advance(HOUR + SECOND)

    clock.run(main())
    found = {record.message: fields_of(record) for record in caplog.records}
    expected = {"task": "task", "scheduled_at": "2026-01-01T01:00:00+00:00", "attempt": 1}
    assert found["within"] == expected
    assert found["deeper"] == {**expected, "task": "of its own"}
    assert found["outside"] == {}
    [failed] = [fields for message, fields in found.items() if "failed: ValueError" in message]
    assert failed == expected
