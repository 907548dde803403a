"""Whatever a body does, everything else continues (I10, I16, I17, I19): it outlasts its lease, hangs, raises anything, blocks."""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ExecutionMode, FailureMode, Instance, Pyncette, State, TransientRepositoryError
from pyncette.healthcheck import is_healthy
from pyncette.repository import Release
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def declare_hourly(app, clock, lasts, ended, **options):
    @app.task(interval=HOUR, name="hourly", **options)
    async def hourly(context):
        await asyncio.sleep(lasts)
        ended.append((context.scheduled_at, context.attempt, clock.elapsed))

    return hourly


@pytest.fixture
def no_log():
    """What pytest captures has to be valid text."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- longer than the lease ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lasts", "poll"), [(130, 25), (400, 10), (1000, 40)])
def test_workers_that_take_it_from_each_other_come_to_an_end(make_app, clock, lasts, poll, caplog):
    # I16: whoever's turn it is when a body ends, which hangs on how polls and leases fall, it is not run forever.
    ended = []
    apps = [make_app(poll_interval=pause * SECOND) for pause in (poll, poll + 1)]
    for app in apps:
        declare_hourly(app, clock, lasts, ended)

    async def main():
        async with running(apps[0]):
            await clock.advance(3 * SECOND)
            async with running(apps[1]):
                await clock.advance(3 * HOUR + 40 * MINUTE)

    clock.run(main())
    occurrences = [occurrence for occurrence, _, _ in ended]
    assert set(occurrences) == {START + hours * HOUR for hours in range(1, 4)}
    assert all(occurrences.count(each) <= 3 for each in set(occurrences))


@pytest.mark.parametrize("lasts", [59, 61, 150, 1000])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_body_that_outlasts_its_lease_is_committed(make_app, clock, lasts, workers, caplog):
    # I16: each occurrence ends well, once or a few times, and none is run forever.
    ended = []
    apps = [make_app(poll_interval=10 * SECOND) for _ in range(workers)]
    for app in apps:
        # Without the history, whose own pauses decide here which of two workers that are due at the same instant comes first.
        declare_hourly(app, clock, lasts, ended)

    async def main():
        async with running(apps[0]), running(apps[-1]) if workers > 1 else asyncio.timeout(None):
            await clock.advance(3 * HOUR + 30 * MINUTE)

    clock.run(main())
    occurrences = [occurrence for occurrence, _, _ in ended]
    assert set(occurrences) == {START + hours * HOUR for hours in range(1, 4)}
    assert all(occurrences.count(each) <= workers for each in set(occurrences))
    if workers == 1 and lasts > 60:
        assert "has run for 60 s, longer than its lease of 60 s" in caplog.text
        assert "Send heartbeats" in caplog.text


def test_the_leases_of_one_run_are_one_attempt(app, clock, store):
    # What is adopted started no body.
    ended = []
    declare_hourly(app, clock, 600, ended, max_attempts=3)

    async def main():
        async with running(app):
            await clock.advance(2 * HOUR)

    clock.run(main())
    assert [attempt for _, attempt, _ in ended] == [1]
    assert store.rows()["hourly"].attempt in (0, 1)


def test_an_adopted_run_knows_its_new_lease(app, clock):
    seen = []

    @app.task(interval=HOUR, lease_duration=10 * SECOND)
    async def slow(context):
        tokens = [context.fencing_token]
        for _ in range(4):
            await asyncio.sleep(9)
            tokens.append(context.fencing_token)
            seen.append(context.lease_remaining > timedelta())
            await context.heartbeat()
        assert tokens == sorted(tokens)

    @app.task(interval=HOUR, lease_duration=10 * SECOND)
    async def late(context):
        first = context.fencing_token
        await asyncio.sleep(15)
        seen.append(context.fencing_token > first and context.lease_remaining > timedelta())
        await context.heartbeat()

    async def main():
        async with running(app):
            await clock.advance(HOUR + MINUTE)

    clock.run(main())
    assert seen == [True] * 5


def test_a_run_that_was_forced_anew_is_started_beside_the_late_one(app, clock):
    # The user took the lease away on purpose: that run is not to be mistaken for the new one.
    started = []

    @app.dynamic_task(lease_duration=10 * SECOND)
    async def template(context):
        started.append(context.args["n"])
        await asyncio.sleep(30)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=START, n=1)
            await clock.advance(5 * SECOND)
            await context.schedule_task(template, "one", execute_at=START, force=True, n=1)
            await clock.advance(5 * SECOND)
            assert started == [1, 1]

    clock.run(main())


def test_an_outcome_that_waits_for_the_store_is_stored_under_the_lease_that_came_meanwhile(app, clock, store):
    # I7: the body has ended well, its commit hangs until after the lease, and the next claim of this process is handed to it.
    ran = []
    settle = store.settle
    hold = True

    async def slow_settle(now, settlements):
        if hold and settlements[0].claim.key.partition == "dynamic:template":
            await asyncio.sleep(15)
        return await settle(now, settlements)

    store.settle = slow_settle

    @app.dynamic_task(lease_duration=10 * SECOND)
    async def template(context):
        ran.append(clock.elapsed)

    async def main():
        nonlocal hold
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=START)
            await clock.advance(16 * SECOND)
            hold = False
            await clock.advance(15 * SECOND)
            assert store.rows() == {}

    clock.run(main())
    assert ran == [0.0]


# --- hanging ------------------------------------------------------------------------------------------------------------


def test_a_body_that_hangs_costs_one_slot(make_app, clock):
    # I10
    app = make_app(concurrency_limit=5, poll_interval=10 * SECOND)
    others = []

    @app.task(interval=MINUTE)
    async def other(context):
        others.append(clock.elapsed)

    @app.task(interval=HOUR)
    async def hangs(context):
        await asyncio.Event().wait()

    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(10 * HOUR + SECOND)
            assert context.free_slots == 4
            assert await is_healthy(context)
            assert len(others) == 600
            run.cancel()
            await asyncio.wait([run])

    clock.run(main())


def test_an_app_whose_slots_are_all_held_by_late_bodies_is_not_well(make_app, clock):
    app = make_app(concurrency_limit=2)

    @app.task(interval=MINUTE, lease_duration=10 * SECOND)
    async def hangs(context):
        await asyncio.Event().wait()

    @app.task(interval=MINUTE, lease_duration=10 * SECOND, execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def hangs_too(context):
        await asyncio.Event().wait()

    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(65 * SECOND)
            assert not context.stuck, "they are busy, within their leases"
            await clock.advance(MINUTE)
            assert context.stuck
            assert len(context.running_bodies()) == 2
            run.cancel()
            await asyncio.wait([run])

    clock.run(main())


@pytest.mark.parametrize("mode", [FailureMode.NONE, FailureMode.UNLOCK, FailureMode.COMMIT])
def test_a_timeout_is_a_failure_of_the_run(app, clock, mode, caplog):
    ended = []

    @app.task(interval=HOUR, timeout=5 * SECOND, failure_mode=mode)
    async def slow(context):
        try:
            await asyncio.sleep(100 if context.attempt == 1 else 1)
        finally:
            ended.append((context.attempt, clock.elapsed - 3600))

    async def main():
        async with running(app) as context:
            await clock.advance(HOUR + 2 * MINUTE)
            assert (await context.get_task(slow)).scheduled_at == START + 2 * HOUR

    clock.run(main())
    again = {FailureMode.NONE: [(2, 61.0)], FailureMode.UNLOCK: [(2, 7.0)], FailureMode.COMMIT: []}[mode]
    assert [(attempt, round(at)) for attempt, at in ended] == [(1, 5.0), *again]
    assert "it ran longer than its timeout of 0:00:05" in caplog.text


def test_a_body_that_swallows_its_timeout_has_failed_all_the_same(app, clock):
    @app.dynamic_task(timeout=5 * SECOND, max_attempts=1)
    async def stubborn(context):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async def main():
        async with running(app) as context:
            await context.schedule_task(stubborn, "one", execute_at=START)
            await clock.advance(10 * SECOND)
            task = await context.get_task(stubborn, "one")
            assert task.state is State.FAILED
            assert task.error.startswith("TimeoutError: it ran longer than its timeout")

    clock.run(main())


def test_a_timeout_error_of_the_body_is_its_own(app, clock):
    @app.dynamic_task(timeout=5 * SECOND, max_attempts=1)
    async def impatient(context):
        async with asyncio.timeout(1):
            await asyncio.sleep(2)

    async def main():
        async with running(app) as context:
            await context.schedule_task(impatient, "one", execute_at=START)
            await clock.advance(10 * SECOND)
            assert "its timeout" not in (await context.get_task(impatient, "one")).error

    clock.run(main())


# --- raising anything -----------------------------------------------------------------------------------------------------


class Panic(BaseException):
    """As PyO3's PanicException or pytest's own."""


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Hostile(Exception):
    def __str__(self):
        return "\0 \ud800 \N{RIGHT-TO-LEFT OVERRIDE}" + 5000 * "x"


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), Panic("boom"), Mute()], ids=lambda error: type(error).__name__
)  # fmt: skip
@pytest.mark.parametrize("mode", [FailureMode.NONE, FailureMode.UNLOCK, FailureMode.COMMIT])
def test_whatever_a_body_raises_is_an_outcome_of_that_run(app, clock, error, mode):
    # I17
    runs, others = [], []

    @app.task(interval=MINUTE, failure_mode=mode, lease_duration=10 * SECOND)
    async def bad(context):
        runs.append((context.attempt, round(clock.elapsed)))
        raise error

    @app.task(interval=MINUTE)
    async def other(context):
        others.append(clock.elapsed)

    async def main():
        async with running(app):
            await clock.advance(79 * SECOND)
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())
    assert len(others) == 1
    expected = {
        FailureMode.NONE: [(1, 60), (2, 70)],
        FailureMode.UNLOCK: [(attempt, 59 + attempt) for attempt in range(1, 21)],
        FailureMode.COMMIT: [(1, 60)],
    }[mode]
    assert runs[: len(expected)] == expected[: len(runs)]
    assert abs(len(runs) - len(expected)) <= 1


@pytest.mark.parametrize("error", [Mute(), Hostile(), SystemExit(3), Panic("boom")], ids=lambda error: type(error).__name__)
def test_the_error_of_a_given_up_task_can_be_stored_whatever_its_text_does(tmp_path, error, no_log):
    app = Pyncette(f"sqlite:///{tmp_path}/x.db", poll_interval=0.1 * SECOND)

    @app.dynamic_task(max_attempts=1)
    async def bad(context):
        context.app_context.shutdown()
        raise error

    async def main():
        async with app.create() as context:
            await context.schedule_task(bad, "one", execute_at=START)
            await context.run()
            task = await context.get_task(bad, "one")
            assert task.state is State.FAILED
            assert task.error.startswith(type(error).__name__)
            assert len(task.error) <= 2000

    asyncio.run(main())


def test_a_failure_under_none_is_stored_as_what_it_is(app, clock, store):
    # I12, I19: also when the application ends before the retry.
    @app.task(interval=MINUTE)
    async def fails(context):
        raise ValueError

    async def main():
        async with running(app):
            await clock.advance(61 * SECOND)

    clock.run(main())
    row = store.rows()["fails"]
    assert (row.locked_until, row.attempt, row.ready_at) == (None, 1, START + 120 * SECOND)


# --- never started ----------------------------------------------------------------------------------------------------------


def test_a_claim_that_came_too_late_to_be_started_is_no_attempt(app, clock, store):
    claim, slow = store.claim, True

    async def late(*args, **options):
        result = await claim(*args, **options)
        if slow and result.claims:
            await asyncio.sleep(7)
        return result

    store.claim = late
    attempts, releases, settle = [], [], store.settle

    async def watched(now, settlements):
        releases.extend(each.started for each in settlements if isinstance(each, Release))
        return await settle(now, settlements)

    store.settle = watched

    @app.dynamic_task(lease_duration=5 * SECOND, max_attempts=2)
    async def pay(context):
        attempts.append(context.attempt)

    async def main():
        nonlocal slow
        async with running(app) as context:
            await context.schedule_task(pay, "order 17", execute_at=START)
            await clock.advance(30 * SECOND)
            slow = False
            await clock.advance(30 * SECOND)

    clock.run(main())
    assert attempts == [1]
    assert set(releases) == {False}


# --- blocking -----------------------------------------------------------------------------------------------------------------


def test_a_body_that_blocks_the_event_loop_is_named_while_it_does(tmp_path, caplog):
    app = Pyncette()
    named = []

    class Handler(logging.Handler):
        def emit(self, record):
            named.append(record.getMessage())

    logger = logging.getLogger("pyncette.worker.watch")
    logger.addHandler(handler := Handler())

    @app.dynamic_task()
    async def blocks(context):
        end = time.monotonic() + 30
        while not named and time.monotonic() < end:
            time.sleep(0.01)
        context.app_context.shutdown()

    async def main():
        async with app.create() as context:
            await context.schedule_task(blocks, "one", execute_at=START)
            await context.run()

    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(handler)
    assert "task 'blocks' 'one' of 2026-01-01T00:00:00+00:00 (attempt 1), in blocks() at" in named[0]
    assert "has kept the event loop from running for" in named[0]
    assert __file__ in named[0]


# --- partitions that fail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hangs", [False, True])
def test_three_of_sixteen_partitions_that_fail_cost_the_others_little(make_app, clock, store, hangs):
    # I10: back-off is each partition's own.
    claim = store.claim

    def rate(name, failing):
        """How many runs of the healthy partitions end within 20 s, for each of them."""
        app, done = make_app(concurrency_limit=16), []

        async def faulty(now, partition, **options):
            if partition.startswith("partitioned:") and int(partition.split(":")[1]) in failing:
                await asyncio.sleep(5 if hangs else 0)
                raise TransientRepositoryError("throttled")
            await asyncio.sleep(0.005)
            return await claim(now, partition, **options)

        @app.partitioned_task(name=name, partition_count=16, partition_selector=lambda count, name: int(name) % count)
        async def template(context):
            await asyncio.sleep(0.05)
            done.append(int(context.name) % 16)

        async def main():
            begin = clock.now()
            async with running(app) as context:
                store.claim = faulty
                await context.schedule_tasks(template, [Instance(name=str(n), execute_at=begin) for n in range(8_000)])
                await clock.advance(20 * SECOND)

        clock.run(main())
        return len([each for each in done if each not in failing]) / (16 - len(failing))

    without, with_faults = rate("first", ()), rate("second", (3, 4, 9))
    assert without > 100
    assert with_faults > without * 2 / 3
