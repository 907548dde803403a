"""What happens to an occurrence: the execution modes, the failure modes, attempts, catching up."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ExecutionMode, FailureMode, RepositoryError, TransientRepositoryError
from pyncette.repository import Key, Registration, State, Target
from pyncette.schedule import Interval
from pyncette.task import STATIC_PARTITION
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
#: A run begins this soon after its time.
PROMPT = 20 * timedelta(milliseconds=1)


def at(seconds):
    return START + timedelta(seconds=seconds)


def seconds(instant):
    """Seconds from START, to tenths: what takes a poll or a timer's slack more is the same."""
    return round((instant - START).total_seconds(), 1)


class Broken(Exception):
    pass


class Body:
    """A body that remembers its runs: (seconds of scheduled_at, attempt, seconds at which it began)."""

    def __init__(self, clock, *, fails=0, lasts=0.0):
        self.clock = clock
        self.fails = fails
        self.lasts = lasts
        self.runs = []
        self.contexts = []

    async def __call__(self, context):
        self.contexts.append(context)
        self.runs.append((seconds(context.scheduled_at), context.attempt, seconds(self.clock.now())))
        if self.lasts:
            await asyncio.sleep(self.lasts)
        if self.fails:
            self.fails -= 1
            raise Broken("the body's own error")


def run_for(app, clock, duration):
    async def main():
        async with running(app):
            await clock.advance(duration)

    clock.run(main())


# --- on time ----------------------------------------------------------------------------------------------------------


def test_every_occurrence_of_an_interval_runs_on_time(app, clock):
    # I4, I5
    late = []

    @app.task(interval=10 * SECOND)
    async def task(context):
        late.append(clock.now() - context.scheduled_at)

    run_for(app, clock, 10 * MINUTE)
    assert len(late) == 59  # the first one interval after the start, and the last is due as the clock stops
    assert all(timedelta() <= each < PROMPT for each in late)


def test_every_occurrence_of_a_cron_schedule_runs_on_time(app, clock):
    body = Body(clock)
    app.task(schedule="*/15 * * * *", name="task")(body)
    run_for(app, clock, timedelta(minutes=61))
    assert body.runs == [(900.0, 1, 900.0), (1800.0, 1, 1800.0), (2700.0, 1, 2700.0), (3600.0, 1, 3600.0)]


def test_a_schedule_with_seconds_runs_within_the_minute(app, clock):
    body = Body(clock)
    app.task(schedule="* * * * * */20", name="task")(body)
    run_for(app, clock, 61 * SECOND)
    assert [run[0] for run in body.runs] == [20.0, 40.0, 60.0]


def test_a_task_that_is_not_enabled_is_neither_stored_nor_run(app, clock, store):
    body = Body(clock)
    app.task(interval=SECOND, name="off", enabled=False)(body)
    on = Body(clock)
    app.task(interval=SECOND, name="on")(on)
    run_for(app, clock, 10.5 * SECOND)
    assert body.runs == []
    assert len(on.runs) == 10
    assert set(store.rows()) == {"on"}


def test_a_task_that_is_no_longer_enabled_keeps_its_place(make_app, clock, store):
    body = Body(clock)
    for enabled in (True, False, True):
        app = make_app()
        app.task(interval=MINUTE, name="task", enabled=enabled)(body)
        run_for(app, clock, 90 * SECOND)
    # 60; then 120 is missed, and caught up at 180.
    assert body.runs == [(60.0, 1, 60.0), (120.0, 1, 180.0), (180.0, 1, 180.0), (240.0, 1, 240.0)]


def test_a_start_neither_postpones_nor_repeats(make_app, clock):
    # Registering at every start is idempotent: restarts every 40 s must not push a task of 60 s ahead forever.
    body = Body(clock)
    for _ in range(6):
        app = make_app()
        app.task(interval=MINUTE, name="task")(body)
        run_for(app, clock, 40 * SECOND)
    assert [run[0] for run in body.runs] == [60.0, 120.0, 180.0]


def test_a_new_schedule_in_the_code_takes_effect_at_the_start(make_app, clock):
    body = Body(clock)
    app = make_app()
    app.task(interval=timedelta(hours=1), name="task")(body)
    run_for(app, clock, 90 * SECOND)
    app = make_app()
    app.task(interval=MINUTE, name="task")(body)
    run_for(app, clock, 90 * SECOND)
    assert body.runs == [(150.0, 1, 150.0)]


def test_a_new_schedule_in_the_code_does_not_drop_what_is_due(make_app, clock):
    # I3: deployments must not eat the occurrence that became due while nothing ran.
    body = Body(clock)
    app = make_app()
    app.task(interval=MINUTE, name="task")(body)
    run_for(app, clock, 30 * SECOND)

    async def pause():
        await clock.advance(MINUTE)

    clock.run(pause())
    app = make_app()
    app.task(interval=timedelta(hours=1), name="task")(body)
    run_for(app, clock, 10 * SECOND)
    assert body.runs == [(60.0, 1, 90.0)]


# --- at least once ------------------------------------------------------------------------------------------------------


def test_at_least_once_commits_after_the_body(app, clock, store):
    held = []

    @app.task(interval=MINUTE)
    async def task(context):
        row = store.rows()["task"]
        held.append((row.locked_until is not None, row.occurrence == context.scheduled_at))

    run_for(app, clock, 61 * SECOND)
    assert held == [(True, True)]
    row = store.rows()["task"]
    assert (row.locked_until, row.occurrence, row.attempt) == (None, at(120), 0)


def test_failure_mode_none_runs_again_when_the_lease_would_have_ended(app, clock, store):
    # I12, I19: what is stored says when it runs again, and not that it runs.
    body = Body(clock, fails=2)
    app.task(interval=MINUTE, name="task", lease_duration=10 * SECOND)(body)

    async def main():
        async with running(app):
            await clock.advance(65 * SECOND)
            row = store.rows()["task"]
            assert row.locked_until is None
            assert (row.occurrence, row.attempt, row.ready_at) == (at(60), 1, at(70))
            await clock.advance(MINUTE)

    clock.run(main())
    assert body.runs == [(60.0, 1, 60.0), (60.0, 2, 70.0), (60.0, 3, 80.0), (120.0, 1, 120.0)]
    # Not before the lease's end, as a lease that was released would allow.
    assert all(
        later.lease_expires_at - earlier.lease_expires_at >= 10 * SECOND for earlier, later in zip(body.contexts, body.contexts[1:])
    )


def test_failure_mode_unlock_runs_again_after_one_poll_interval(make_app, clock, store):
    app = make_app(poll_interval=5 * SECOND)
    body = Body(clock, fails=2)
    app.task(interval=MINUTE, name="task", failure_mode=FailureMode.UNLOCK)(body)

    async def main():
        async with running(app):
            await clock.advance(61 * SECOND)
            assert store.rows()["task"].locked_until is None
            await clock.advance(MINUTE)

    clock.run(main())
    assert body.runs == [(60.0, 1, 60.0), (60.0, 2, 65.0), (60.0, 3, 70.0), (120.0, 1, 120.0)]


@pytest.mark.parametrize("delay", [0, 0.5, 17, 45])
def test_failure_mode_unlock_runs_again_after_the_retry_delay(app, clock, delay):
    body = Body(clock, fails=1)
    app.task(interval=MINUTE, name="task", failure_mode=FailureMode.UNLOCK, retry_delay=timedelta(seconds=delay))(body)
    run_for(app, clock, 119 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (60.0, 2, 60.0 + delay)]


def test_failure_mode_commit_goes_on_to_the_next_occurrence(app, clock):
    body = Body(clock, fails=2)
    app.task(interval=MINUTE, name="task", failure_mode=FailureMode.COMMIT)(body)
    run_for(app, clock, 190 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (120.0, 1, 120.0), (180.0, 1, 180.0)]


def test_a_failed_run_is_logged_with_its_error(app, clock, caplog):
    app.task(interval=MINUTE, name="task")(Body(clock, fails=1))
    run_for(app, clock, 61 * SECOND)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "task 'task' of 2026-01-01T00:01:00+00:00 (attempt 1) failed: Broken" in record.getMessage()
    assert record.exc_info[0] is Broken


def test_a_body_that_cancels_itself_has_failed_and_disturbs_nobody(app, clock):
    # I10
    others = Body(clock)
    app.task(interval=MINUTE, name="other")(others)
    runs = []

    @app.task(interval=MINUTE, failure_mode=FailureMode.COMMIT)
    async def cancelled(context):
        runs.append(context.attempt)
        raise asyncio.CancelledError

    run_for(app, clock, 181 * SECOND)
    assert runs == [1, 1, 1]
    assert len(others.runs) == 3


# --- at most once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [ExecutionMode.AT_MOST_ONCE, ExecutionMode.BEST_EFFORT])
def test_at_most_once_commits_before_the_body(app, clock, store, mode):
    # I6
    held = []

    @app.task(interval=MINUTE, execution_mode=mode)
    async def task(context):
        row = store.rows()["task"]
        held.append((row.locked_until, row.occurrence, row.attempt, context.attempt))

    run_for(app, clock, 61 * SECOND)
    assert held == [(None, at(120), 0, 1)]


@pytest.mark.parametrize("failure_mode", [FailureMode.NONE, FailureMode.COMMIT])
@pytest.mark.parametrize("fails", [0, 99])
def test_at_most_once_is_settled_once_whatever_becomes_of_the_body(app, clock, store, monkeypatch, failure_mode, fails):
    # I5
    settled = []
    settle = store.settle

    async def counting(now, settlements):
        settled.extend(settlements)
        return await settle(now, settlements)

    monkeypatch.setattr(store, "settle", counting)
    body = Body(clock, fails=fails)
    app.task(interval=MINUTE, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE, failure_mode=failure_mode)(body)
    run_for(app, clock, 190 * SECOND)
    assert len(body.runs) == len(settled) == 3


async def unscheduled(store, claim):
    await store.unregister(at(60), [claim.key])


async def rescheduled(store, claim):
    schedule = Interval(2 * MINUTE)
    await store.register(at(60), [Registration(claim.key, "{}", schedule.text, Target(at(180), at(180)))])


async def forced(store, claim):
    registration = Registration(claim.key, "{}", claim.schedule, Target(at(180), at(180)))
    await store.register(at(60), [registration], force=True)


async def refused(store, claim):
    raise RepositoryError("broken")


async def away(store, claim):
    raise TransientRepositoryError("away")


@pytest.mark.parametrize("meanwhile", [unscheduled, rescheduled, forced, refused, away])
def test_at_most_once_does_not_run_what_it_could_not_commit(app, clock, store, monkeypatch, meanwhile):
    # I6: between the claim and its commit somebody else comes, or the store fails until the lease has expired.
    settle = store.settle
    until = at(75)

    async def failing(now, settlements):
        if now < until and all(settlement.claim.occurrence == at(60) for settlement in settlements):
            await meanwhile(store, settlements[0].claim)
        return await settle(now, settlements)

    monkeypatch.setattr(store, "settle", failing)
    body = Body(clock)
    template = app.dynamic_task(name="template", execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=10 * SECOND)(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(70 * SECOND)
            assert body.runs == []
            await clock.advance(MINUTE)

    clock.run(main())
    late = [began for scheduled, _, began in body.runs if scheduled == 60.0]
    assert len(late) == (1 if meanwhile in (refused, away) else 0)
    assert all(began >= 75 for began in late)


@pytest.mark.parametrize("applied", [False, True])
def test_at_most_once_runs_once_when_the_answer_to_its_commit_gets_lost(app, clock, store, monkeypatch, applied):
    # I6, I7: resent, it is answered ALREADY if it had been applied, and that is one's own.
    settle = store.settle
    lost = []

    async def failing(now, settlements):
        if not lost:
            lost.append(settlements)
            if applied:
                await settle(now, settlements)
            raise TransientRepositoryError("the answer got lost")
        return await settle(now, settlements)

    monkeypatch.setattr(store, "settle", failing)
    body = Body(clock)
    app.task(interval=MINUTE, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE)(body)
    run_for(app, clock, 130 * SECOND)
    assert [run[:2] for run in body.runs] == [(60.0, 1), (120.0, 1)]


@pytest.mark.parametrize("failure_mode", [FailureMode.NONE, FailureMode.COMMIT])
def test_at_most_once_does_not_run_again_after_a_failure(app, clock, failure_mode):
    # I6
    body = Body(clock, fails=99)
    app.task(
        interval=MINUTE, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=SECOND, failure_mode=failure_mode
    )(body)
    run_for(app, clock, 190 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (120.0, 1, 120.0), (180.0, 1, 180.0)]


def test_at_most_once_runs_may_overlap(app, clock):
    body = Body(clock, lasts=150)
    app.task(interval=MINUTE, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE)(body)

    async def main():
        async with running(app):
            await clock.advance(181 * SECOND)
            assert body.runs == [(60.0, 1, 60.0), (120.0, 1, 120.0), (180.0, 1, 180.0)]

    clock.run(main())


def test_at_least_once_runs_do_not_overlap_within_their_lease(app, clock):
    # I2
    body = Body(clock, lasts=150)
    app.task(interval=MINUTE, name="task", lease_duration=timedelta(hours=1))(body)
    run_for(app, clock, 400 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (120.0, 1, 210.0), (180.0, 1, 360.0)]


# --- attempts -----------------------------------------------------------------------------------------------------------


RETRIES = pytest.mark.parametrize(
    ("options", "retries"),
    [
        ({"failure_mode": FailureMode.UNLOCK, "retry_delay": 2 * SECOND}, [0.0, 2.0, 4.0]),
        ({"failure_mode": FailureMode.NONE, "lease_duration": 5 * SECOND}, [0.0, 5.0, 10.0]),
    ],
)


@RETRIES
def test_after_its_last_attempt_an_occurrence_is_given_up_and_the_schedule_goes_on(app, clock, caplog, options, retries):
    # I7, I10: given up, and surfaced; one bad quarter of an hour ends nothing forever.
    body = Body(clock, fails=3)
    task = app.task(interval=MINUTE, name="task", max_attempts=3, **options)(body)

    async def main():
        async with running(app) as context:
            await clock.advance(185 * SECOND)
            stored = await context.get_task(task)
            assert (stored.state, stored.attempt, stored.scheduled_at) == (State.SCHEDULED, 0, at(240))

    clock.run(main())
    failed = [(60.0, attempt, 60.0 + retry) for attempt, retry in enumerate(retries, 1)]
    assert body.runs == [*failed, (120.0, 1, 120.0), (180.0, 1, 180.0)]
    assert "is given up; the next occurrence is 2026-01-01T00:02:00+00:00: Broken: the body's own error" in caplog.text


@RETRIES
def test_after_its_last_attempt_a_once_off_is_kept_as_failed(app, clock, options, retries):
    # I7, I10: given up, and surfaced.
    body = Body(clock, fails=99)
    template = app.dynamic_task(name="template", max_attempts=3, **options)(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=START)
            await clock.advance(timedelta(hours=1))
            stored = await context.get_task(template, "one")
            assert stored.state is State.FAILED
            assert stored.error == "Broken: the body's own error"
            assert stored.attempt == 3
            assert stored.locked_until is None
            assert stored.scheduled_at == START

    clock.run(main())
    assert body.runs == [(0.0, attempt, retry) for attempt, retry in enumerate(retries, 1)]


def test_a_success_at_the_last_attempt_is_a_success(app, clock):
    body = Body(clock, fails=2)
    app.task(interval=MINUTE, name="task", max_attempts=3, failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)(body)
    run_for(app, clock, 121 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (60.0, 2, 61.0), (60.0, 3, 62.0), (120.0, 1, 120.0)]


def test_a_worker_that_dies_in_the_last_attempt_is_noticed_when_its_lease_ends(app, clock, store, caplog):
    body = Body(clock)
    task = app.task(interval=MINUTE, name="task", max_attempts=2, lease_duration=10 * SECOND)(body)

    async def main():
        async with app.create():
            await store.register(clock.now(), [task.registration(clock.now())])
        await clock.advance(MINUTE)
        for _ in range(2):  # two workers claim it, one after the other, and are never heard of again
            [claim] = (await store.claim(clock.now(), STATIC_PARTITION, lease_duration=10 * SECOND, limit=1)).claims
            await clock.advance(10 * SECOND)
        assert claim.attempt == 2
        async with running(app) as context:
            await clock.advance(SECOND)
            stored = await context.get_task(task)
            assert (stored.state, stored.scheduled_at, stored.attempt) == (State.SCHEDULED, at(120), 0)

    clock.run(main())
    assert body.runs == []
    assert "given up: attempt 2 of 2 did not finish within its lease" in caplog.text


def test_a_worker_that_dies_costs_an_attempt_and_the_rest_of_its_lease(app, clock, store):
    # I7
    body = Body(clock)
    task = app.task(interval=MINUTE, name="task", lease_duration=10 * SECOND)(body)

    async def main():
        await store.register(clock.now(), [task.registration(clock.now())])
        await clock.advance(MINUTE)
        await store.claim(clock.now(), STATIC_PARTITION, lease_duration=10 * SECOND, limit=1)
        async with running(app):
            await clock.advance(20 * SECOND)

    clock.run(main())
    assert body.runs == [(60.0, 2, 70.0)]


def test_a_failed_once_off_can_be_resumed_with_attempts_anew(app, clock):
    body = Body(clock, fails=2)
    template = app.dynamic_task(name="template", max_attempts=2, failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=START)
            await clock.advance(90 * SECOND)
            assert await context.resume_task(template, "one")
            await clock.advance(SECOND)
            assert await context.get_task(template, "one") is None

    clock.run(main())
    assert body.runs == [(0.0, 1, 0.0), (0.0, 2, 1.0), (0.0, 1, 90.0)]


def test_a_failed_once_off_is_revived_by_a_new_schedule(app, clock):
    body = Body(clock, fails=1)
    template = app.dynamic_task(name="template", max_attempts=1)(body)

    async def main():
        async with running(app) as context:
            for instant in (START, START, at(60)):
                await context.schedule_task(template, "one", execute_at=instant)
                await clock.advance(30 * SECOND)
            await clock.advance(30 * SECOND)

    clock.run(main())
    assert [run[0] for run in body.runs] == [0.0, 60.0]  # not by the same schedule


# --- behind -------------------------------------------------------------------------------------------------------------


def downtime(make_app, clock, body, *, before, down, after, **options):
    for duration in (before, after):
        app = make_app()
        app.task(name="task", **options)(body)
        run_for(app, clock, duration)
        if duration is before:

            async def nothing():
                await clock.advance(down)

            clock.run(nothing())


def test_every_missed_occurrence_is_caught_up_one_after_another(make_app, clock):
    body = Body(clock)
    downtime(make_app, clock, body, before=30 * SECOND, down=5 * MINUTE, after=40 * SECOND, interval=MINUTE)
    assert body.runs == [(60.0 * minute, 1, 330.0) for minute in range(1, 6)] + [(360.0, 1, 360.0)]


def test_catching_up_waits_for_each_run_to_end(make_app, clock):
    body = Body(clock, lasts=2)
    downtime(make_app, clock, body, before=30 * SECOND, down=3 * MINUTE, after=20 * SECOND, interval=MINUTE)
    assert body.runs == [(60.0, 1, 210.0), (120.0, 1, 212.0), (180.0, 1, 214.0)]


def test_a_backlog_of_one_task_does_not_hold_up_another(make_app, clock):
    # I11: each occurrence goes to the end of the queue, even with one slot.
    order = []

    async def record(context):
        order.append(context.name)
        await asyncio.sleep(0.01)

    app = make_app(concurrency_limit=1, batch_size=1)
    for name in ("a", "b"):
        app.task(interval=SECOND, name=name)(record)
    run_for(app, clock, SECOND / 2)

    async def nothing():
        await clock.advance(20 * SECOND)

    clock.run(nothing())
    run_for(app, clock, SECOND / 4)
    assert len(order) > 20
    assert all(first != second for first, second in zip(order, order[1:]))


def test_fast_forward_runs_the_latest_and_skips_the_rest(make_app, clock):
    body = Body(clock)
    downtime(make_app, clock, body, before=30 * SECOND, down=5 * MINUTE, after=40 * SECOND, interval=MINUTE, fast_forward=True)
    assert body.runs == [(300.0, 1, 330.0), (360.0, 1, 360.0)]


def test_fast_forward_skips_what_a_long_body_missed(app, clock):
    body = Body(clock, lasts=150)
    app.task(interval=MINUTE, name="task", fast_forward=True, lease_duration=timedelta(hours=1))(body)
    run_for(app, clock, 300 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (240.0, 1, 240.0)]


@pytest.mark.parametrize("options", [{"execution_mode": ExecutionMode.AT_MOST_ONCE}, {"failure_mode": FailureMode.COMMIT}])
def test_fast_forward_holds_in_every_mode(make_app, clock, options):
    body = Body(clock, fails=9)
    downtime(
        make_app, clock, body, before=30 * SECOND, down=5 * MINUTE, after=40 * SECOND, interval=MINUTE, fast_forward=True, **options
    )
    assert body.runs == [(300.0, 1, 330.0), (360.0, 1, 360.0)]


def test_fast_forward_keeps_the_place_of_a_failed_occurrence(make_app, clock):
    body = Body(clock, fails=1)
    downtime(
        make_app,
        clock,
        body,
        before=30 * SECOND,
        down=5 * MINUTE,
        after=40 * SECOND,
        interval=MINUTE,
        fast_forward=True,
        failure_mode=FailureMode.UNLOCK,
        retry_delay=SECOND,
    )
    assert body.runs == [(300.0, 1, 330.0), (300.0, 2, 331.0), (360.0, 1, 360.0)]


def test_fast_forward_over_a_year_of_cron_takes_no_time(make_app, clock):
    body = Body(clock)
    downtime(
        make_app, clock, body, before=30 * SECOND, down=timedelta(days=365), after=SECOND, schedule="* * * * *", fast_forward=True
    )
    assert len(body.runs) == 1


# --- what can't be run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poison", [{"spec": "{"}, {"spec": "[]"}, {"schedule": "fortnightly"}, {"schedule": "cron 0 0 * * * @Mars/Olympus"}], ids=str
)
def test_a_row_that_cannot_be_understood_is_surfaced_and_disturbs_nobody(app, clock, store, caplog, poison):
    # I10
    body = Body(clock)
    template = app.dynamic_task(name="template", lease_duration=10 * SECOND)(body)

    async def main():
        async with running(app) as context:
            for name in ("broken", "sound"):
                await context.schedule_task(template, name, interval=MINUTE)
            key = Key("dynamic:template", "broken")
            store._put(key, store.rows()["broken"]._replace(**poison))
            await clock.advance(125 * SECOND)
            row = store.rows()["broken"]
            assert row.occurrence == at(60), "it stays as it is, for a version that understands it"
            assert (row.attempt, row.locked_until) == (0, None), "I19: nobody runs it, and no attempt was made"

    clock.run(main())
    assert [context.name for context in body.contexts] == ["sound", "sound"]
    assert [run[2] for run in body.runs] == [60.0, 120.0]
    [record] = [record for record in caplog.records if "can't be read" in record.getMessage()]
    assert "task 'template' 'broken'" in record.getMessage()


def test_a_row_that_cannot_be_understood_is_not_given_up(app, clock, store):
    # I3: a later version may understand it.
    template = app.dynamic_task(name="template", lease_duration=10 * SECOND, max_attempts=2)(Body(clock))

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "broken", interval=MINUTE)
            store._put(Key("dynamic:template", "broken"), store.rows()["broken"]._replace(spec="{"))
            await clock.advance(timedelta(minutes=5))
            assert store.rows()["broken"].state is State.SCHEDULED

    clock.run(main())


def test_a_row_of_a_static_task_that_the_store_lost_comes_back(app, clock, store):
    body = Body(clock)
    task = app.task(interval=MINUTE, name="task")(body)

    async def main():
        async with running(app):
            await clock.advance(90.5 * SECOND)
            await store.unregister(clock.now(), [task.key])
            await clock.advance(90 * SECOND)

    clock.run(main())
    assert body.runs == [(60.0, 1, 60.0), (151.0, 1, 151.0)]  # one interval after the poll that missed it


@pytest.mark.parametrize("method", ["claim", "settle", "get", "register", "append"])
def test_a_worker_outlives_that_the_driver_of_the_store_cancels_its_calls(app, store, clock, method):
    # I17: a future of the driver's own was cancelled, and nobody asked the worker to end.
    body, calls, original = Body(clock), [], getattr(store, method)
    task = app.task(name="task", interval=10 * SECOND)(body)

    async def cancelled(*args, **options):
        calls.append(method)
        if len(calls) in (2, 3):
            raise asyncio.CancelledError
        return await original(*args, **options)

    async def main():
        async with running(app) as context:
            await clock.advance(15 * SECOND)
            setattr(store, method, cancelled)
            await clock.advance(90 * SECOND)
            runs = (await context.list_runs(task)).runs
        assert len(body.runs) == 10
        assert len(runs) >= 9

    clock.run(main())
