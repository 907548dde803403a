"""What a worker says when it starts: what it runs where, what changed, what is due, and what nobody runs."""

import logging
import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Store

from pyncette import Pyncette
from pyncette.repository import Key, Registration, State, Target
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


async def body(context):
    pass


@pytest.fixture
def said(caplog):
    """What is said from now on, by level."""
    caplog.set_level(logging.INFO, "pyncette")

    def said(level):
        return [record.getMessage() for record in caplog.records if record.levelno == level]

    said.clear = caplog.clear
    return said


@pytest.fixture
def run(clock):
    def run(app, *, after=timedelta(), seconds=0.5):
        async def main():
            await clock.advance(after)
            async with running(app):
                await clock.advance(seconds * SECOND)

        clock.run(main())

    return run


def stored(store, name):
    return store._get(Key("static", name))


# --- one line -----------------------------------------------------------------------------------------------------------


def test_a_start_tells_store_version_tasks_and_limits(run, clock, said):
    app = Pyncette("memory://", concurrency_limit=7, batch_size=5, poll_interval=3 * SECOND, clock=clock)
    app.task(interval=HOUR)(body)
    app.dynamic_task(name="template", enabled=False)(body)
    run(app)
    [line] = said(logging.INFO)
    for part in ("1 task ", "memory://", "pyncette-core ", "concurrency_limit 7", "batch_size 5", "0:00:03"):
        assert part in line


def test_a_store_without_a_url_goes_by_its_class(run, app, said):
    run(app)
    assert "0 tasks on Store" in said(logging.INFO)[0]


# --- static tasks -------------------------------------------------------------------------------------------------------


def test_a_schedule_that_is_replaced_is_told_old_and_new(run, make_app, said):
    for number, schedule in enumerate(["0 9 * * *", "0 9 * * *", "0 10 * * *"]):
        said.clear()
        app = make_app()
        app.task(schedule=schedule)(body)
        run(app)
        changes = [line for line in said(logging.INFO) if line.startswith("replace: ")]
        assert len(changes) == (number == 2)
    [line] = changes
    assert re.fullmatch(
        r"replace: task 'body', by '.+:\d+:[0-9a-f]{4}', was 'cron 0 9 \* \* \* @UTC', now 'cron 0 10 \* \* \* @UTC'", line
    )


@pytest.mark.parametrize(
    ("options", "away", "told"),
    [
        ({"interval": HOUR}, DAY, "24 occurrences"),
        ({"interval": HOUR}, HOUR, None),
        ({"interval": MINUTE}, DAY, "1440 occurrences"),
        ({"schedule": "0 * * * *"}, DAY, "24 occurrences"),
        ({"schedule": "* * * * *"}, DAY, "100 or more occurrences"),
        ({"schedule": "0 * * * *", "fast_forward": True}, DAY, "all but the latest are skipped"),
    ],
)
def test_a_task_that_resumes_after_a_long_absence_tells_how_much_is_due(run, make_app, said, options, away, told):
    def start(**run_options):
        said.clear()
        app = make_app(concurrency_limit=1)
        app.task(**options)(body)
        run(app, **run_options)
        return [line for line in said(logging.INFO) if "resumes" in line]

    assert start() == []
    resumed = start(after=away, seconds=0.001)
    assert len(resumed) == (told is not None)
    if told is not None:
        assert "'body'" in resumed[0]
        assert told in resumed[0]


def put(store, clock, name, schedule, at, **changes):
    async def main():
        await store.register(clock.now(), [Registration(Key("static", name), "{}", schedule, Target(at, at))])

    clock.run(main())
    store._put(Key("static", name), stored(store, name)._replace(**changes))


def test_a_cron_task_whose_next_time_is_no_time_of_its_schedule_is_brought_in_line(run, make_app, clock, store, said):
    put(store, clock, "wrong", "cron 0 9 * * * @UTC", START.replace(year=2031, hour=8))
    put(store, clock, "right", "cron 0 9 * * * @UTC", START.replace(day=3, hour=9))
    app = make_app()
    for name in ("wrong", "right"):
        app.task(schedule="0 9 * * *", name=name)(body)
    run(app)
    [line] = said(logging.WARNING)
    assert "'wrong'" in line
    assert "2031-01-01 08:00" in line
    assert "2026-01-01 09:00" in line
    assert stored(store, "wrong").occurrence == stored(store, "wrong").ready_at == START.replace(hour=9)
    assert stored(store, "right").occurrence == START.replace(day=3, hour=9), "an occurrence stays, also a late one"
    said.clear()
    run(app)
    assert said(logging.WARNING) == []


@pytest.mark.parametrize("changes", [{"state": State.PAUSED, "ready_at": None}, {"locked_until": START + HOUR, "lease": "x"}])
def test_what_is_paused_or_held_is_left_alone(run, make_app, clock, store, said, changes):
    put(store, clock, "body", "cron 0 9 * * * @UTC", START.replace(hour=8), **changes)
    before = stored(store, "body")
    app = make_app()
    app.task(schedule="0 9 * * *")(body)
    run(app)
    assert said(logging.WARNING) == []
    assert stored(store, "body") == before


def test_a_time_that_is_no_occurrence_but_due_still_runs(make_app, clock, store, said):
    ran = []
    put(store, clock, "job", "cron 0 9 * * * @UTC", START - HOUR + SECOND)
    app = make_app()

    @app.task(schedule="0 9 * * *")
    async def job(context):
        ran.append(context.scheduled_at)

    async def main():
        async with running(app):
            await clock.advance(SECOND)

    clock.run(main())
    assert ran == [START - HOUR + SECOND]
    assert stored(store, "job").occurrence == START.replace(hour=9)


def test_comparing_costs_one_call_however_many_tasks_there_are(run, make_app, clock):
    class Counted(Store):
        calls = Counter()

        async def get(self, keys):
            self.calls["get"] += 1
            return await super().get(keys)

        async def register(self, *args, **kwargs):
            self.calls["register"] += 1
            await super().register(*args, **kwargs)

    store = Counted()
    app = make_app(repository_factory=store.open)
    for number in range(50):
        app.task(schedule="0 9 * * *", name=str(number))(body)
    run(app)
    assert store.calls == {"get": 3, "register": 1}, "the layouts, the static tasks, and whether there are extra runs"


# --- what nobody runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def leftover(make_app, clock):
    """A renamed template, a partitioned one, and a static task, in the store."""
    app = make_app()
    ship, bill = app.dynamic_task(name="ship")(body), app.partitioned_task(name="bill", partition_count=2)(body)
    app.task(name="nightly", schedule="0 3 * * *")(body)

    async def main():
        async with running(app) as context:
            for number in range(10):
                await context.schedule_task(ship, f"order {number}", execute_at=START + (100 if number < 3 else 10_000) * SECOND)
                await context.schedule_task(bill, f"order {number}", execute_at=START + 10_000 * SECOND)
            await clock.advance(SECOND)
        await clock.advance(200 * SECOND)

    clock.run(main())


def test_rows_that_nobody_declares_are_named_once_with_counts_and_what_to_do(run, make_app, leftover, said):
    said.clear()
    app = make_app()
    app.dynamic_task(name="deliver")(body)
    run(app, seconds=60)
    [line] = said(logging.WARNING)
    assert "template 'ship' (10 rows, 3 due since 2026-01-01 00:01:40Z)" in line
    assert "template 'bill' (10 rows, not due)" in line
    assert "static task 'nightly' (not due)" in line
    assert "pyncette move" in line
    assert "pyncette unschedule" in line


def test_rows_that_are_declared_are_not_named_also_if_they_are_disabled(run, make_app, leftover, said):
    said.clear()
    app = make_app()
    app.dynamic_task(name="ship", enabled=False)(body)
    app.partitioned_task(name="bill", partition_count=2, enabled_partitions=[0])(body)
    app.task(name="nightly", schedule="0 3 * * *", enabled=False)(body)
    run(app)
    assert said(logging.WARNING) == []


def test_a_store_that_does_not_know_its_partitions_tells_by_layouts(run, make_app, leftover, store, said):
    class Plain(Store):
        partitions = None

    plain = Plain()
    plain._partitions = store._partitions
    said.clear()
    run(make_app(repository_factory=plain.open))
    [line] = said(logging.WARNING)
    assert "template 'ship' (10 rows, 3 due" in line


def test_who_shares_a_store_can_turn_it_off(run, make_app, leftover, said, caplog):
    said.clear()
    caplog.set_level(logging.ERROR, "pyncette.undeclared")
    run(make_app())
    assert said(logging.WARNING) == []


def test_a_store_that_fails_then_is_no_reason_not_to_run(make_app, clock, store, monkeypatch, said):
    async def partitions():
        raise ConnectionError("away")

    monkeypatch.setattr(store, "partitions", partitions)
    ran = []
    app = make_app()

    @app.task(interval=SECOND)
    async def job(context):
        ran.append(context.scheduled_at)

    async def main():
        async with running(app):
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert ran
    assert said(logging.WARNING) == []
