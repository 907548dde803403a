"""Leases of long runs: extended by the body, or in the background; and what a body learns when its lease has expired."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import (
    ConfigurationError,
    ExecutionMode,
    FailureMode,
    LeaseLostException,
    RepositoryError,
    TransientRepositoryError,
    with_heartbeat,
)
from pyncette.repository import Extend
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


@pytest.fixture
def events(clock):
    """What happened, and when in seconds after the first occurrence, which is at 60 s."""

    class Events(list):
        def __call__(self, what):
            self.append((what, round(clock.elapsed - 60, 1)))

        @property
        def names(self):
            return [what for what, _ in self]

    return Events()


@pytest.fixture
def faults(store, monkeypatch):
    """Makes the store fail: ``faults.extend`` is raised (or awaited, if it is a function) at each extension of a lease."""

    class Faults:
        extend = None
        everything = None
        #: When each lease was asked to be extended, in seconds after the first occurrence.
        extensions = ()

    faults = Faults()
    faults.extensions = []
    settle = store.settle

    async def failing(now, settlements):
        extending = any(isinstance(settlement, Extend) for settlement in settlements)
        if extending:
            faults.extensions.append((now - START).total_seconds() - 60)
        fault = faults.everything or (faults.extend if extending else None)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            await fault()
        return await settle(now, settlements)

    claim = store.claim

    async def failing_to_claim(*args, **options):
        if faults.everything is not None:
            raise faults.everything
        return await claim(*args, **options)

    monkeypatch.setattr(store, "settle", failing)
    monkeypatch.setattr(store, "claim", failing_to_claim)
    return faults


def run_for(app, clock, duration):
    async def main():
        async with running(app):
            await clock.advance(duration)
        assert len(asyncio.all_tasks()) == 1, "no task of the event loop is left behind"

    clock.run(main())


async def hang():
    await asyncio.sleep(300)


LEASE = 10 * SECOND


# --- by the body --------------------------------------------------------------------------------------------------------


def test_heartbeats_keep_a_lease_for_as_long_as_they_come(app, clock, events, faults):
    # I2
    @app.task(interval=HOUR, lease_duration=LEASE)
    async def task(context):
        events(f"begins {context.attempt}")
        for _ in range(10):
            await asyncio.sleep(8)
            await context.heartbeat()
        events("ends")

    async def main():
        async with running(app):
            await clock.advance(timedelta(hours=1, seconds=100))

    clock.run(main())
    assert events.names == ["begins 1", "ends"]
    assert len(faults.extensions) == 10


def test_without_heartbeats_the_lease_ends_and_somebody_else_runs(app, clock, store, events, faults):
    # I7
    @app.task(interval=MINUTE, lease_duration=LEASE)
    async def task(context):
        await asyncio.sleep(15)
        with pytest.raises(LeaseLostException, match=r"task 'task'.*attempt 1"):
            await context.heartbeat()
        events("told")
        # Once lost it stays lost, and the store is not asked again.
        asked = len(faults.extensions)
        with pytest.raises(LeaseLostException):
            await context.heartbeat()
        assert len(faults.extensions) == asked

    async def main():
        async with running(app):
            await clock.advance(70 * SECOND)
            [claim] = (await store.claim(clock.now(), "static", lease_duration=MINUTE, limit=1)).claims  # another worker
            events(f"claimed {claim.attempt}")
            await clock.advance(10 * SECOND)

    clock.run(main())
    assert events == [("claimed 2", 10.0), ("told", 15.0)]


def test_a_late_heartbeat_saves_a_lease_that_nobody_took_over(app, clock, events, make_app):
    # I2: what counts is whether somebody else has it.
    app = make_app(concurrency_limit=1)  # so that nobody can

    @app.task(interval=MINUTE, lease_duration=LEASE)
    async def task(context):
        events(f"begins {context.attempt}")
        await asyncio.sleep(15)
        await context.heartbeat()
        assert context.lease_remaining == LEASE
        events("ends")

    run_for(app, clock, 90 * SECOND)
    assert events == [("begins 1", 0.0), ("ends", 15.0)]


@pytest.mark.parametrize("change", ["force", "unschedule"])
def test_a_lease_that_was_taken_away_is_noticed_at_the_next_heartbeat(app, clock, events, store, change):
    # I1
    @app.dynamic_task(lease_duration=LEASE)
    async def template(context):
        await asyncio.sleep(5)
        if change == "force":
            await context.app_context.schedule_task(template, "one", interval=MINUTE, force=True)
        else:
            await context.app_context.unschedule_task(template, "one")
        before = store.rows()
        with pytest.raises(LeaseLostException):
            await context.heartbeat()
        assert store.rows() == before
        events("told")

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(70 * SECOND)

    clock.run(main())
    assert events == [("told", 5.0)]


def test_a_new_schedule_during_a_run_does_not_take_its_lease(app, clock, events):
    @app.dynamic_task(lease_duration=LEASE)
    async def template(context):
        events("begins")
        await context.app_context.schedule_task(template, "one", execute_at=at(65))
        for _ in range(3):
            await asyncio.sleep(8)
            await context.heartbeat()
        events("ends")

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(60))
            await clock.advance(85 * SECOND)

    clock.run(main())
    assert events[:3] == [("begins", 0.0), ("ends", 24.0), ("begins", 24.0)]


def test_a_heartbeat_waits_for_a_store_that_is_away_and_gives_up_when_the_lease_is_over(app, clock, events, faults):
    # I2: a body that can't reach the store must not continue beyond its lease.
    @app.task(interval=MINUTE, lease_duration=LEASE, failure_mode=FailureMode.COMMIT)
    async def task(context):
        if context.attempt > 1:
            return
        await asyncio.sleep(2)
        faults.everything = TransientRepositoryError("gone")
        with pytest.raises(LeaseLostException):
            await context.heartbeat()
        events("told")
        faults.everything = None

    run_for(app, clock, 72.5 * SECOND)
    [(_, when)] = events
    assert 9.9 <= when <= 11.5


def test_a_heartbeat_outlives_a_store_that_is_away_for_less_than_the_lease(app, clock, events, faults):
    @app.task(interval=MINUTE, lease_duration=LEASE)
    async def task(context):
        events(f"begins {context.attempt}")
        await asyncio.sleep(2)
        faults.extend = TransientRepositoryError("gone")
        asyncio.get_running_loop().call_later(5, setattr, faults, "extend", None)
        await context.heartbeat()
        events("extended")
        assert 11.9 <= (context.lease_expires_at - at(60)).total_seconds() <= 12.1, "counted from the call, not from the answer"
        await asyncio.sleep(3)
        events("ends")

    run_for(app, clock, 80 * SECOND)
    assert events.names == ["begins 1", "extended", "ends"]
    assert 7 <= events[1][1] <= 8.5


def test_a_store_that_refuses_a_heartbeat_for_good_costs_the_lease(app, clock, events, faults):
    @app.task(interval=MINUTE, lease_duration=LEASE)
    async def task(context):
        if context.attempt == 1:
            faults.extend = RepositoryError("broken")
            with pytest.raises(LeaseLostException):
                await context.heartbeat()
            events("told")

    run_for(app, clock, 61 * SECOND)
    assert events == [("told", 0.0)]


# --- in the background --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "every"), [(0.5, 5), (0.2, 8), (0.9, 1)])
def test_a_lease_is_extended_for_as_long_as_the_body_runs(app, clock, events, faults, ratio, every):
    # I2
    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat(lease_remaining_ratio=ratio)
    async def task(context):
        events(f"begins {context.attempt}")
        await asyncio.sleep(40.5)
        events("ends")

    run_for(app, clock, 115 * SECOND)
    assert events == [("begins 1", 0.0), ("ends", 40.5)]
    assert faults.extensions == pytest.approx([every * count for count in range(1, 40 // every + 1)], abs=0.1)


def test_a_short_body_costs_no_heartbeat(app, clock, faults, store):
    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat()
    async def task(context):
        await asyncio.sleep(4)

    run_for(app, clock, 70 * SECOND)
    assert faults.extensions == []
    assert store.rows()["task"].occurrence == at(120)


def test_the_body_keeps_its_name_and_its_documentation():
    @with_heartbeat()
    async def body(context):
        """What it does."""

    assert (body.__name__, body.__doc__) == ("body", "What it does.")


@pytest.mark.parametrize(
    "error", [LookupError("of the body"), asyncio.CancelledError(), LeaseLostException("of the body")], ids=repr
)
def test_an_error_of_the_body_passes_through(app, clock, error):
    seen = []

    @app.middleware
    async def observe(context, next):
        try:
            await next()
        except BaseException as raised:
            seen.append(raised)
            raise

    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=True)
    async def task(context):
        await asyncio.sleep(12)
        raise error

    run_for(app, clock, 75 * SECOND)
    assert [type(raised) for raised in seen] == [type(error)]
    if not isinstance(error, asyncio.CancelledError):
        assert seen == [error]


def test_what_the_body_returns_passes_through(clock):
    class Context:
        class task:
            commits_first = False
            lease_duration = LEASE

        lease_remaining = LEASE

    @with_heartbeat()
    async def body(context):
        await asyncio.sleep(1)
        return 42

    async def main():
        result = await body(Context())
        assert len(asyncio.all_tasks()) == 1
        return result

    assert clock.run(main()) == 42


@pytest.mark.parametrize("cancel", [False, True])
def test_a_body_is_told_that_it_is_cancelled_at_a_shutdown(make_app, clock, events, store, cancel):
    # I12, I14
    app = make_app(shutdown_timeout=5 * SECOND)

    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def task(context):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # I20: there is less than a second
            events("cancelled")
            raise

    run_for(app, clock, 90 * SECOND)
    assert events == [("cancelled", 35.2)]
    assert store.rows()["task"].locked_until is None


def steal(context, template):
    return context.app_context.schedule_task(template, context.name, interval=HOUR, force=True)


def test_with_cancel_on_lease_lost_the_body_is_cancelled_and_the_run_fails(app, clock, events, caplog):
    # I2
    @app.dynamic_task(lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=True)
    async def template(context):
        try:
            await asyncio.sleep(1)
            await steal(context, template)
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            events("cancelled")
            await asyncio.sleep(2)
            events("cleaned up")  # it is cancelled once, not again while it ends
            raise

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(70 * SECOND)
        assert len(asyncio.all_tasks()) == 1

    clock.run(main())
    assert events == [("cancelled", 5.0), ("cleaned up", 7.0)]
    assert "failed: LeaseLostException" in caplog.text


def test_without_cancel_on_lease_lost_the_body_goes_on_to_its_end(app, clock, events, caplog):
    @app.dynamic_task(lease_duration=LEASE)
    @with_heartbeat()
    async def template(context):
        await steal(context, template)
        await asyncio.sleep(30)
        events("ends")

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(100 * SECOND)

    clock.run(main())
    assert events == [("ends", 30.0)]
    assert "lost its lease" in caplog.text
    assert "failed" not in caplog.text


def test_a_body_that_ends_well_although_it_is_cancelled_has_failed_all_the_same(app, clock, events, caplog):
    # Its lease had expired: it must not be taken for a success by a middleware.
    seen = []

    @app.middleware
    async def observe(context, next):
        try:
            await next()
        except LeaseLostException:
            seen.append("lost")
            raise

    @app.dynamic_task(lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=True)
    async def template(context):
        await steal(context, template)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            events("cancelled")

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(70 * SECOND)

    clock.run(main())
    assert events == [("cancelled", 5.0)]
    assert seen == ["lost"]


@pytest.mark.parametrize("fault", [TransientRepositoryError("gone"), hang], ids=["fails", "hangs"])
@pytest.mark.parametrize("cancel", [False, True])
def test_when_the_store_cannot_be_reached_until_the_lease_is_over(app, clock, events, faults, fault, cancel, caplog):
    # I2: the lease may be somebody else's from then on, whether or not the store says so.
    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def task(context):
        if context.attempt > 1:
            return
        faults.everything = fault
        try:
            await asyncio.sleep(30)
            events("ends")
        except asyncio.CancelledError:
            events("cancelled")
            raise

    async def main():
        async with running(app):
            await clock.advance(95 * SECOND)
            faults.everything = None

    clock.run(main())
    assert events == [("cancelled", 10.0) if cancel else ("ends", 30.0)]
    assert ("failed: LeaseLostException" in caplog.text) == cancel
    assert "TimeoutError" not in caplog.text


def test_a_store_that_is_back_in_time_is_no_reason_to_cancel(app, clock, events, faults):
    @app.task(interval=HOUR, lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=True)
    async def task(context):
        faults.extend = TransientRepositoryError("gone")
        asyncio.get_running_loop().call_later(8, setattr, faults, "extend", None)
        await asyncio.sleep(30)
        events("ends")

    async def main():
        async with running(app):
            await clock.advance(HOUR + 40 * SECOND)

    clock.run(main())
    assert events.names == ["ends"]


@pytest.mark.parametrize("cancel", [False, True])
def test_at_most_once_has_no_lease_to_extend_or_to_lose(app, clock, events, faults, cancel):
    # I6
    @app.task(interval=MINUTE, lease_duration=LEASE, execution_mode=ExecutionMode.AT_MOST_ONCE)
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def task(context):
        tasks = len(asyncio.all_tasks())
        await asyncio.sleep(35)
        assert len(asyncio.all_tasks()) <= tasks
        events("ends")

    run_for(app, clock, 100 * SECOND)
    assert events == [("ends", 35.0)]
    assert faults.extensions == []


def test_a_hundred_runs_leave_no_task_of_the_event_loop_behind(app, clock, events):
    @app.dynamic_task(lease_duration=LEASE, failure_mode=FailureMode.COMMIT)
    @with_heartbeat()
    async def template(context):
        number = int(context.name)
        await asyncio.sleep(number % 17)
        events(number)
        if number % 3 == 0:
            raise LookupError

    async def main():
        async with running(app) as context:
            await clock.advance(SECOND / 2)
            before = len(asyncio.all_tasks())
            for number in range(100):
                await context.schedule_task(template, str(number), execute_at=at(1))
            await clock.advance(30 * SECOND)
            assert len(asyncio.all_tasks()) == before

    clock.run(main())
    assert sorted(events.names) == list(range(100))


# --- whatever a body does -------------------------------------------------------------------------------------------------


class Custom(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), Custom("odd"), StopAsyncIteration()], ids=repr)
@pytest.mark.parametrize("cancel", [False, True])
def test_whatever_a_body_raises_is_the_outcome_of_its_run(app, clock, events, error, cancel):
    seen = []

    @app.middleware
    async def observe(context, next):
        try:
            await next()
        except BaseException as raised:
            seen.append(raised)
            raise

    @app.task(interval=MINUTE, lease_duration=LEASE, failure_mode=FailureMode.COMMIT)
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def task(context):
        await asyncio.sleep(12)
        events("raises")
        raise error

    run_for(app, clock, 135 * SECOND)
    assert events == [("raises", 12.0), ("raises", 72.0)]
    assert seen == [error, error]


@pytest.mark.parametrize("cancel", [False, True])
def test_a_body_that_swallows_its_cancellation_ends_as_it_likes(make_app, clock, events, store, cancel):
    # I12
    app = make_app(shutdown_timeout=5 * SECOND)

    @app.task(interval=MINUTE, lease_duration=LEASE)
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def task(context):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            events("swallowed")

    run_for(app, clock, 90 * SECOND)
    assert events == [("swallowed", 35.0)]
    assert store.rows()["task"].occurrence == at(120)  # the run ended well, and is committed


class Beating:
    """As much of a context as heartbeats need; they take a while."""

    class task:
        commits_first = False
        lease_duration = LEASE

    lease_remaining = timedelta(0)
    lost = False

    async def heartbeat(self):
        self.lease_remaining = LEASE
        if self.lost:
            raise LeaseLostException("lost")
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("first", range(1, 8))
@pytest.mark.parametrize("second", range(1, 8))
def test_being_cancelled_twice_leaves_no_task_behind(clock, cancel, lost, first, second):
    """At each step of the event loop on the way: while the body runs, cleans up, or has ended."""
    cleaned_up = []

    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def body(context):
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(1)
        finally:
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):  # it takes its time, however often it is told
                    await asyncio.sleep(0)
            cleaned_up.append(True)

    async def main():
        context = Beating()
        context.lost = lost
        running = asyncio.create_task(body(context))
        for pause in (first, second):
            for _ in range(pause):
                await asyncio.sleep(0)
            running.cancel()
        await asyncio.wait([running])
        assert len(asyncio.all_tasks()) == 1
        assert cleaned_up or first == 1  # it had not begun
        if not lost:
            assert running.cancelled()

    clock.run(main())


def test_a_lease_that_is_lost_as_the_body_ends_cancels_nothing_else(clock):
    """Whichever comes first, nobody is cancelled after the body."""

    async def main():
        for steps in range(8):
            context = Beating()
            context.lost = True

            @with_heartbeat(cancel_on_lease_lost=True)
            async def body(context, steps=steps):
                for _ in range(steps):
                    await asyncio.sleep(0)

            try:
                await body(context)
            except LeaseLostException:
                assert steps > 0
            await asyncio.sleep(1)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    clock.run(main())


@pytest.mark.parametrize(("ratio", "written"), [(0.5, "0.5"), (0.25, "0.25")])
def test_a_ratio_without_its_name_is_told_how_to_write_it(ratio, written):
    with pytest.raises(ConfigurationError, match=rf"write @with_heartbeat\(lease_remaining_ratio={written}\)"):
        with_heartbeat(ratio)
