"""The clock and the event loop for users' tests: hours pass in milliseconds, everything in order."""

import asyncio
import selectors
import socket
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette import ConfigurationError, ExecutionMode, FailureMode, Pyncette, RepositoryError
from pyncette.memory import MemoryRepository
from pyncette.testing import VirtualClock, running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


# --- the clock ----------------------------------------------------------------------------------------------------------


def test_it_stands_still_while_code_runs_and_jumps_when_all_of_it_waits(clock):
    async def main():
        begun = time.perf_counter()
        for _ in range(100):
            await asyncio.sleep(0)
        assert clock.now() == START
        assert clock.elapsed == clock.monotonic() == asyncio.get_running_loop().time() == 0
        await asyncio.sleep(3600)
        assert clock.now() == START + HOUR
        assert clock.elapsed == clock.monotonic() == asyncio.get_running_loop().time() == 3600
        await clock.advance(HOUR)
        assert clock.now() == START + 2 * HOUR
        assert time.perf_counter() - begun < 60
        return "the result"

    assert clock.run(main()) == "the result"


def test_it_starts_when_it_is_told_to(clock):
    start = datetime(2030, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    clock = VirtualClock(start)
    assert clock.now() == start
    assert clock.now().tzinfo is UTC
    assert VirtualClock().now() == START


def test_it_goes_on_from_one_run_to_the_next(clock):
    clock.run(clock.advance(HOUR))
    clock.run(clock.advance(HOUR))
    assert clock.now() == START + 2 * HOUR


def test_run_raises_what_its_coroutine_raises(clock):
    async def main():
        await asyncio.sleep(1)
        raise LookupError

    with pytest.raises(LookupError):
        clock.run(main())


def test_what_happens_within_an_hour_happens_in_order(clock):
    events = []

    async def tick(name, every):
        while True:
            await asyncio.sleep(every)
            events.append((clock.elapsed, name))

    async def main():
        loop = asyncio.get_running_loop()
        for name, every in (("a", 7), ("b", 11), ("c", 300)):
            loop.create_task(tick(name, every))
        loop.call_later(0.5, events.append, (0.5, "first"))
        await clock.advance(HOUR)

    clock.run(main())
    assert events == sorted(events, key=lambda event: event[0])
    assert [sum(name == each for _, name in events) for each in "abc"] == [514, 327, 12]
    assert all(when % {"a": 7, "b": 11, "c": 300}[name] == 0 for when, name in events[1:])


@given(st.lists(st.floats(0, 10**7), min_size=1, max_size=20))
def test_timers_fire_in_order_and_not_before_their_time(delays):
    clock = VirtualClock()
    fired = []

    async def wait(delay):
        await asyncio.sleep(delay)
        fired.append((clock.elapsed, delay))

    async def main():
        await asyncio.gather(*map(wait, delays))

    clock.run(main())
    assert len(fired) == len(delays)
    assert [delay for _, delay in fired if delay > 0] == sorted(delay for delay in delays if delay > 0)
    assert all(when >= delay for when, delay in fired)
    assert clock.elapsed == max(delays)


@pytest.mark.parametrize("years", [1, 30, 300])
def test_years_pass_as_well(clock, years):
    # Where the difference of two instants is less than the resolution that asyncio reckons with, it must not look forever.
    ticks = []

    async def main():
        await clock.advance(timedelta(days=365))
        for _ in range(10):
            await asyncio.sleep(0.1)
            ticks.append(clock.elapsed)

    clock.elapsed = 365 * (years - 1) * 86400.0
    clock.run(main())
    assert ticks == pytest.approx([365 * years * 86400 + tick / 10 for tick in range(1, 11)], abs=1e-3)
    assert abs(clock.now() - (START + timedelta(days=365 * years, seconds=1))) < timedelta(milliseconds=1)


def test_waiting_in_small_steps_for_an_instant_sees_it_come(clock):
    async def main():
        until = clock.now() + timedelta(microseconds=50)
        steps = 0
        while clock.now() < until:
            steps += 1
            assert steps < 1000
            await asyncio.sleep(1e-6)

    clock.run(main())


@pytest.mark.parametrize("step", [timedelta(days=-1), -SECOND, SECOND, timedelta(days=365)])
def test_the_wall_clock_can_be_stepped_while_time_goes_on(clock, step):
    async def main():
        await clock.advance(HOUR)
        later = asyncio.create_task(asyncio.sleep(10))
        clock.set(clock.now() + step)
        assert clock.now() == START + HOUR + step
        assert clock.monotonic() == 3600
        assert not later.done()
        await clock.advance(10 * SECOND)
        await later
        assert clock.now() == START + HOUR + step + 10 * SECOND
        assert clock.monotonic() == 3610

    clock.run(main())


def test_a_clock_can_be_set_between_runs_and_in_any_zone(clock):
    clock.set(datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert clock.now().tzinfo is UTC


@pytest.mark.parametrize("call", [VirtualClock, VirtualClock().set])
def test_a_clock_without_a_time_zone_is_refused(call):
    with pytest.raises(ConfigurationError, match="time zone"):
        call(datetime(2026, 1, 1))


@pytest.mark.parametrize("duration", [-SECOND, 5, None])
def test_time_advances_only(clock, duration):
    with pytest.raises(ConfigurationError, match="duration"):
        clock.run(clock.advance(duration))
    assert clock.elapsed == 0


def test_threads_take_their_real_time(clock):
    # Nothing but the thread is waited for here, so the loop has to wait for it really, too.
    async def main():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        release = threading.Event()

        def work():
            release.wait(10)
            loop.call_soon_threadsafe(answer.set_result, 42)

        thread = threading.Thread(target=work)
        thread.start()
        loop.call_later(5, release.set)
        try:
            assert await answer == 42
        finally:
            thread.join()
        assert clock.elapsed >= 5

    clock.run(main())


def test_a_thread_is_waited_for_without_burning_the_processor(clock, monkeypatch):
    looks = []
    select = selectors.DefaultSelector.select

    def counting(self, timeout=None):
        looks.append(timeout)
        return select(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", counting)

    async def main():
        await asyncio.to_thread(time.sleep, 0.2)

    clock.run(main())
    assert len(looks) < 50


def test_what_has_arrived_is_seen_before_time_passes(clock):
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            arrived = loop.create_future()
            loop.add_reader(here, lambda: arrived.done() or arrived.set_result(clock.elapsed))
            there.send(b"x")
            timer = loop.call_later(3600, lambda: None)
            assert await arrived == 0
            assert clock.elapsed == 0
            timer.cancel()
            loop.remove_reader(here)

    clock.run(main())


# --- an application in virtual time -------------------------------------------------------------------------------------


def test_a_day_of_an_application_has_exactly_the_occurrences_of_a_day():
    # I4, I5, I7
    clock = VirtualClock(START - 30 * SECOND)
    app = Pyncette(clock=clock, poll_interval=HOUR)
    runs = {}

    async def body(context):
        assert timedelta() <= clock.now() - context.scheduled_at < SECOND / 50
        runs.setdefault(context.name, []).append(context.scheduled_at)

    app.task(schedule="*/5 * * * *", name="five minutes")(body)
    app.task(schedule="0 9 * * *", timezone="America/New_York", name="nine")(body)
    app.task(schedule="30 12 * * * 15", name="seconds")(body)
    app.task(interval=7 * MINUTE, name="seven minutes", execution_mode=ExecutionMode.AT_MOST_ONCE)(body)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app) as context:
            for hour in range(24):
                await context.schedule_task(template, f"once {hour}", execute_at=START + hour * HOUR + 17 * SECOND)
            await context.schedule_task(template, "hourly", schedule="@hourly")
            await clock.advance(24 * HOUR)

    clock.run(main())
    assert clock.now() - START == 24 * HOUR - 30 * SECOND
    assert runs.pop("five minutes") == [START + count * 5 * MINUTE for count in range(288)]
    assert runs.pop("nine") == [START + 14 * HOUR]
    assert runs.pop("seconds") == [START + 12.5 * HOUR + 15 * SECOND]
    assert runs.pop("seven minutes") == [START - 30 * SECOND + count * 7 * MINUTE for count in range(1, 206)]
    assert runs.pop("hourly") == [START + count * HOUR for count in range(24)]
    assert runs == {f"once {hour}": [START + hour * HOUR + 17 * SECOND] for hour in range(24)}


def test_the_clock_can_be_given_to_the_application_or_to_its_run(clock):
    for app, to_run in ((Pyncette(clock=clock), None), (Pyncette(), clock), (Pyncette(clock=VirtualClock()), clock)):
        late = []

        @app.task(interval=MINUTE)
        async def task(context, late=late):
            late.append(clock.now() - context.scheduled_at)

        async def main(app=app, to_run=to_run):
            async with running(app, to_run):
                await clock.advance(150 * SECOND)

        clock.run(main())
        assert len(late) == 2
        assert all(timedelta() <= each < SECOND / 50 for each in late)


def test_running_ends_when_its_bodies_have(clock):
    # I12
    app = Pyncette(clock=clock)
    ended = []

    @app.task(interval=MINUTE)
    async def task(context):
        await asyncio.sleep(20)
        ended.append(clock.elapsed)

    async def main():
        async with running(app) as context:
            assert context.last_tick is None
            await clock.advance(65 * SECOND)
            assert not ended
        assert len(ended) == 1
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())
    assert ended[0] == pytest.approx(80, abs=0.01)


def test_running_lets_an_error_of_its_block_through(clock):
    app = Pyncette(clock=clock)
    app.task(interval=MINUTE, name="task")(nothing)

    async def main():
        with pytest.raises(LookupError):
            async with running(app):
                await clock.advance(SECOND)
                raise LookupError
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())


def test_running_raises_what_the_run_raised(clock, make_app, store, monkeypatch):
    app = make_app()
    app.task(interval=MINUTE, name="task")(nothing)

    async def register(*args, **kwargs):
        raise RepositoryError("no table")

    monkeypatch.setattr(store, "register", register)

    async def main():
        with pytest.raises(RepositoryError, match="no table"):
            async with running(app):
                await clock.advance(SECOND)

    clock.run(main())


def test_running_that_is_cancelled_ends_all_the_same(clock):
    # I14
    app = Pyncette(clock=clock)
    events = []

    @app.task(interval=MINUTE)
    async def task(context):
        await asyncio.sleep(20)
        events.append("ends")

    async def block():
        async with running(app):
            await clock.advance(HOUR)

    async def main():
        task = asyncio.create_task(block())
        await clock.advance(65 * SECOND)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())
    assert events == ["ends"]


async def nothing(context):
    pass


# --- stepped clocks -----------------------------------------------------------------------------------------------------


def stepped(app, clock, step, **options):
    """The occurrences that ran, with the wall time at which they began, around a step of the wall clock at 90 s."""
    runs = []

    @app.task(interval=MINUTE, **options)
    async def task(context):
        runs.append(((context.scheduled_at - START).total_seconds(), round((clock.now() - START).total_seconds())))

    async def main():
        async with running(app):
            await clock.advance(90 * SECOND)
            clock.set(clock.now() + step)
            await clock.advance(200 * SECOND)

    clock.run(main())
    return runs


def test_a_step_forwards_makes_due_what_lies_between(app, clock):
    # I4, I7: within a poll interval.
    runs = stepped(app, clock, 5 * MINUTE)
    assert [scheduled for scheduled, _ in runs] == [60.0 * count for count in range(1, len(runs) + 1)]
    assert runs[1][0] == 120
    assert 390 <= runs[1][1] <= 392
    assert len(runs) == 9


def test_a_step_back_repeats_nothing_and_runs_nothing_early(app, clock):
    # I4, I5
    runs = stepped(app, clock, -49 * SECOND)
    assert runs == [(60.0, 60), (120.0, 120), (180.0, 180), (240.0, 240)]


@pytest.mark.parametrize("step", [-10 * MINUTE, 10 * MINUTE])
def test_a_step_during_a_run_does_not_run_it_again(app, clock, step):
    # I2: neither by making its lease seem over, nor by making the next occurrence due twice.
    runs = []

    @app.dynamic_task(lease_duration=HOUR, failure_mode=FailureMode.UNLOCK)
    async def template(context):
        runs.append(context.attempt)
        await asyncio.sleep(5)
        clock.set(clock.now() + step)
        await asyncio.sleep(5)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=START + MINUTE)
            await clock.advance(HOUR / 2)

    clock.run(main())
    assert runs == [1]


def test_the_store_in_memory_is_a_repository_of_its_own_each_time(clock):
    stores = []

    async def main():
        app = Pyncette(clock=clock)
        for _ in range(2):
            async with running(app) as context:
                stores.append(context.repository)

    clock.run(main())
    assert all(type(store) is MemoryRepository for store in stores)
    assert stores[0] is not stores[1]
