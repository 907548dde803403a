"""What a run and a registration cost, counted: calls to the store, and calls of functions. No test here looks at a clock.

The bounds leave room for what a change may need, but not for another task, another parse or another call to the store each time.
"""

import asyncio
import collections
import sys
import typing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pyncette
from pyncette import Instance, Pyncette
from pyncette.schedules.kinds import Cron, Once
from pyncette.schedules.text import parse
from pyncette.testing import running
from simulation.scripted import ScriptedStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PACKAGE = str(Path(pyncette.__file__).parent)
RUNS = 2000


class Counter:
    """Counts the calls of functions of this package, and of checks of protocols, by their names, while it is in force."""

    def __init__(self):
        self.calls = collections.Counter()

    def __enter__(self):
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _see(self, frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith((PACKAGE, typing.__file__)):
            self.calls[frame.f_code.co_qualname] += 1

    def each(self, count):
        return sum(self.calls.values()) / count


def instances(mode):
    if mode == "once":
        return [Instance(name=str(number), execute_at=START - number * SECOND, args={"n": number}) for number in range(RUNS)]
    return [Instance(name=str(number), interval=HOUR) for number in range(RUNS)]


@pytest.mark.parametrize(("mode", "most"), [("once", 38), ("interval", 43)])
def test_a_run_takes_few_calls_and_shares_those_of_the_store(clock, mode, most):
    store, ran, tasks = ScriptedStore(), [], set()
    app = Pyncette(repository_factory=store.open, clock=clock, batch_size=500, concurrency_limit=500)

    @app.dynamic_task()
    async def template(context):
        ran.append(context.name)
        tasks.add(id(asyncio.current_task().get_coro()))

    async def main():
        async with app.create() as context:
            await context.schedule_tasks(template, instances(mode))
            await clock.advance(HOUR)
            async with running(app):
                with counter:
                    await clock.advance(SECOND)

    counter = Counter()
    clock.run(main())
    assert len(ran) == RUNS
    assert counter.each(RUNS) < most, counter.calls.most_common(60)
    assert len(store.called("settle")) <= RUNS / 500 + 2
    assert len(store.called("claim")) <= RUNS / 500 + 4


def test_the_next_claim_is_on_its_way_before_the_bodies_of_the_last_begin(clock):
    """So the store works while they run, instead of both in turns."""
    store, order = ScriptedStore(), []
    app = Pyncette(repository_factory=store.open, clock=clock, batch_size=100, concurrency_limit=200)

    @app.dynamic_task()
    async def template(context):
        order.append("body")

    async def sent(call):
        if call.method == "claim":
            order.append("claim")

    async def main():
        async with app.create() as context:
            await context.schedule_tasks(template, instances("once")[:300])
            store.before = sent
            async with running(app):
                await clock.advance(SECOND)

    clock.run(main())
    assert order.count("body") == 300
    assert order[: order.index("body")].count("claim") >= 2


def test_a_registration_takes_few_calls(clock):
    app = Pyncette(clock=clock)

    @app.dynamic_task()
    async def template(context): ...

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "first", schedule="*/5 * * * *", user=1)
            with counter:
                for number in range(RUNS):
                    await context.schedule_task(template, str(number), schedule="*/5 * * * *", user=number)

    counter = Counter()
    clock.run(main())
    assert counter.each(RUNS) < 62, counter.calls.most_common(60)
    assert "_next_of_day" not in counter.calls
    assert "_next_elapsed" not in counter.calls
    assert "_is_one_slip" not in counter.calls, "names of arguments that were seen are not compared again"


def test_registrations_within_a_second_share_what_a_cron_schedule_computes():
    cron = Cron("*/7 3 * * *", "Europe/Berlin")
    cron.first(START)
    with Counter() as counter:
        assert len({cron.first(START + timedelta(microseconds=number)) for number in range(1000)}) == 1
    assert "_next_elapsed" not in counter.calls


def test_a_once_off_is_read_without_being_written_again():
    texts = [Once(START + number * SECOND, "Europe/Berlin", "0123456789abcdef").text for number in range(1000)]
    with Counter() as counter:
        schedules = [parse(text) for text in texts]
    assert [schedule.text for schedule in schedules] == texts
    assert counter.each(1000) < 5


@pytest.mark.parametrize("static", [1, 40])
def test_an_idle_application_makes_one_call_in_a_poll_interval_for_each_partition(clock, static):
    store = ScriptedStore()
    app = Pyncette(repository_factory=store.open, clock=clock, poll_interval=SECOND)
    for number in range(static):
        app.task(name=f"static{number}", interval=365 * 24 * HOUR, lease_duration=(1 + number % 7) * SECOND)(idle)
    app.dynamic_task(name="template")(idle)

    async def main():
        async with running(app):
            await clock.advance(5 * SECOND)
            before = len(store.calls)
            await clock.advance(60 * SECOND)
            assert len(store.calls) - before <= 2 * 61 + 6  # every ten seconds the worker's own row

    clock.run(main())


async def idle(context): ...
