"""I11: under any backlog the gap of every task stays bounded."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import FailureMode, Instance, SynchronousExecutor, TransientRepositoryError
from pyncette.testing import running
from simulation.scripted import ScriptedStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
#: What a body takes (seconds).
TAKES = 0.1


@pytest.fixture
def store():
    return ScriptedStore()


@pytest.fixture(params=["one slot", "one after another"])
def app(make_app, request):
    if request.param == "one slot":
        return make_app(concurrency_limit=1)
    return make_app(executor_cls=SynchronousExecutor)


class Recorder:
    def __init__(self, clock):
        self.clock = clock
        self.began = {}

    async def __call__(self, context):
        self.began.setdefault(f"{context.task.template.name}/{context.name}", []).append(self.clock.elapsed)
        await asyncio.sleep(TAKES)

    def longest_gap(self, name):
        times = self.began[name]
        return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))

    def count(self, template):
        return sum(len(times) for name, times in self.began.items() if name.startswith(template + "/"))


@pytest.fixture
def body(clock):
    return Recorder(clock)


def backlog(count=1, prefix="", interval=timedelta(seconds=0.001)):
    """Instances that are always due: their occurrences come faster than they can be run."""
    return [Instance(name=f"{prefix}{number}", interval=interval) for number in range(count)]


def test_static_tasks_are_not_starved_by_a_dynamic_backlog(app, clock, body):
    app.task(interval=SECOND, name="static")(body)
    templates = [app.dynamic_task(name=name)(body) for name in ("first", "second", "third")]

    async def main():
        async with running(app) as app_context:
            for template in templates:
                await app_context.schedule_tasks(template, backlog(50))
            await clock.advance(MINUTE)

    clock.run(main())
    assert len(body.began["static/static"]) >= 58
    assert body.longest_gap("static/static") < 1 + 3 * TAKES


def test_dynamic_tasks_are_not_starved_by_a_static_backlog(app, clock, body):
    for number in range(5):
        app.task(interval=timedelta(seconds=0.001), name=f"static{number}")(body)
    app.task(interval=timedelta(seconds=0.001), name="other lease", lease_duration=HOUR)(body)
    templates = [app.dynamic_task(name=name)(body) for name in ("first", "second")]

    async def main():
        async with running(app) as app_context:
            for template in templates:
                await app_context.schedule_task(template, "a", interval=SECOND)
            await clock.advance(MINUTE)

    clock.run(main())
    for name in ("first/a", "second/a"):
        assert len(body.began[name]) >= 58
        assert body.longest_gap(name) < 1 + 2 * 8 * TAKES + 0.05  # a pass is eight bodies; its turn may have passed just before


def test_partitions_take_turns(app, clock, body):
    template = app.partitioned_task(name="parts", partition_count=4, partition_selector=lambda count, name: int(name[0]))(body)
    other = app.dynamic_task(name="other")(body)

    async def main():
        async with running(app) as app_context:
            for partition, instances in enumerate((1, 10, 100, 1000)):
                await app_context.schedule_tasks(template, backlog(instances, prefix=str(partition)))
            await app_context.schedule_tasks(other, backlog(3))
            await clock.advance(MINUTE)

    clock.run(main())
    counts = [sum(len(times) for name, times in body.began.items() if name.startswith(f"parts/{each}")) for each in range(4)]
    counts.append(body.count("other"))
    assert sum(counts) >= 590
    assert max(counts) - min(counts) <= 2


def test_static_tasks_of_other_leases_take_turns(app, clock, body):
    for lease in (1, 2, 3):
        for number in range(lease):
            app.task(interval=timedelta(seconds=0.001), name=f"{lease}{number}", lease_duration=lease * MINUTE)(body)

    async def main():
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert len(body.began) == 6
    assert max(body.longest_gap(name) for name in body.began) < 10 * TAKES


def test_a_backlog_of_one_starves_no_other_of_its_partition(app, clock, body):
    # Each occurrence that is caught up goes to the end of the queue.
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_task(template, "behind", interval=timedelta(seconds=0.01))
            await app_context.schedule_task(template, "prompt", interval=SECOND)
            await clock.advance(100 * SECOND)
            started = asyncio.create_task(app_context.run())
            await clock.advance(2 * MINUTE)
            app_context.shutdown()
            await started

    clock.run(main())
    assert body.longest_gap("template/prompt") < 1 + 3 * TAKES
    # It, too, is worked off: each second leaves time for eight of its occurrences or more.
    assert len(body.began["template/behind"]) > 120 * 8


def test_a_static_backlog_of_one_starves_no_other(app, clock, body):
    app.task(interval=timedelta(seconds=0.01), name="behind")(body)
    app.task(interval=SECOND, name="prompt")(body)

    async def main():
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert len(body.began["prompt/prompt"]) >= 58
    assert body.longest_gap("prompt/prompt") < 1 + 3 * TAKES


@pytest.mark.parametrize("concurrency_limit", [1, 3])
def test_the_longest_due_runs_first(make_app, clock, body, concurrency_limit):
    app = make_app(concurrency_limit=concurrency_limit)
    template = app.dynamic_task(name="template")(body)
    order = [3, 1, 4, 0, 2]

    async def main():
        async with app.create() as app_context:
            for number in order:
                await app_context.schedule_task(template, str(number), execute_at=START - number * SECOND)
            started = asyncio.create_task(app_context.run())
            await clock.advance(SECOND)
            app_context.shutdown()
            await started

    clock.run(main())
    began = [body.began[f"template/{number}"][0] for number in (4, 3, 2, 1, 0)]
    assert began == sorted(began)


@pytest.mark.parametrize("broken", ["static", "dynamic:first", "dynamic:second"])
def test_a_partition_that_always_fails_starves_no_other(make_app, clock, store, body, broken):
    app = make_app(concurrency_limit=1)
    app.task(interval=timedelta(seconds=0.001), name="static")(body)
    templates = [app.dynamic_task(name=name)(body) for name in ("first", "second", "third")]

    async def fail(call):
        if call.method == "claim" and call.partition == broken:
            raise TransientRepositoryError("hot partition: throttled")

    store.before = fail

    async def main():
        async with running(app) as app_context:
            for template in templates:
                await app_context.schedule_task(template, "a", interval=timedelta(seconds=0.001))
            await clock.advance(MINUTE)

    clock.run(main())
    expected = {"static": "static/static", "dynamic:first": "first/a", "dynamic:second": "second/a", "": "third/a"}
    expected.pop(broken)
    assert set(body.began) == set(expected.values())
    for name in body.began:
        assert body.longest_gap(name) < 10 * TAKES


def test_rows_that_fail_do_not_keep_others_from_their_turn(make_app, clock, body, caplog):
    # A partition full of rows that fail, and are due again as soon as they may be.
    caplog.set_level("CRITICAL", logger="pyncette")
    app = make_app(concurrency_limit=1)
    good = app.dynamic_task(name="good")(body)

    @app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=timedelta())
    async def bad(context):
        await asyncio.sleep(TAKES)
        raise ZeroDivisionError

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(bad, backlog(20))
            await app_context.schedule_task(good, "a", interval=SECOND)
            await clock.advance(MINUTE)

    clock.run(main())
    assert body.longest_gap("good/a") < 1 + 3 * TAKES
