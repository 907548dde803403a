"""What a task's policies make of failures and of missed occurrences: retries, catching up, runs that must not overlap."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_running import SECOND, START, Body, at, seconds

from pyncette import CatchUp, ConfigurationError, ExecutionMode, FailureMode, GiveUp, OnGiveUp, Retry, RetryAfter, State
from pyncette.policies import count_from, first_to_run
from pyncette.repository import Key
from pyncette.runs import RunOutcome
from pyncette.schedules.kinds import Cron, Interval, Once
from pyncette.testing import running

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PLAIN = Retry(attempts=4, delay=SECOND, factor=3, limit=5 * SECOND, jitter=0)


def run(app, clock, duration, *, before=None):
    async def main():
        async with running(app) as context:
            if before is not None:
                await before(context)
            await clock.advance(duration)

    clock.run(main())


# --- retries ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", FailureMode)
def test_a_failed_body_is_tried_again_after_growing_pauses_whatever_the_failure_mode(app, clock, mode):
    body = Body(clock, fails=3)
    app.task(name="task", interval=MINUTE, failure_mode=mode, retry=PLAIN)(body)
    run(app, clock, 100 * SECOND)
    assert body.runs == [(60.0, 1, 60.0), (60.0, 2, 61.0), (60.0, 3, 64.0), (60.0, 4, 69.0)]
    assert [context.is_last_attempt for context in body.contexts] == [False, False, False, True]


def test_a_run_that_outlasts_its_lease_is_one_attempt_however_often_it_was_claimed(app, clock):
    attempts = []

    @app.task(interval=HOUR, lease_duration=MINUTE, retry=Retry(attempts=3, delay=SECOND, jitter=0))
    async def slow(context):
        attempts.append((context.attempt, context.is_last_attempt))
        await asyncio.sleep(290)
        raise ValueError

    run(app, clock, 1.9 * HOUR)
    assert attempts == [(1, False), (2, False), (3, True)]


class OwnPauses(Retry):
    """Pauses of a user's own, which are none."""

    def pause(self, attempt, execution_id):
        return timedelta.max if attempt == 1 else 1 / 0


def test_a_retry_that_cannot_say_when_leaves_it_to_the_lease(make_app, clock, caplog):
    # I17, I19: the run has ended, and holds nothing.
    bad, good = Body(clock, fails=2), Body(clock)
    app = make_app()
    app.task(name="bad", interval=MINUTE, lease_duration=20 * SECOND, retry=OwnPauses())(bad)
    app.task(name="good", interval=MINUTE)(good)
    run(app, clock, 130 * SECOND)
    assert bad.runs == [(60.0, 1, 60.0), (60.0, 2, 80.0), (60.0, 3, 100.0), (120.0, 1, 120.0)]
    assert len(good.runs) == 2
    assert "what follows can't be decided; it runs again when its lease expires: OverflowError" in caplog.text


@pytest.mark.parametrize(
    ("then", "state", "left"),
    [
        (None, State.SCHEDULED, 120),
        (OnGiveUp.NEXT, State.SCHEDULED, 120),
        (OnGiveUp.FAIL, State.FAILED, 60),
        (OnGiveUp.PAUSE, State.PAUSED, 120),
    ],
)
def test_after_the_last_attempt_the_task_does_what_it_was_told(make_app, store, clock, then, state, left):
    body = Body(clock, fails=9)
    app = make_app()
    app.task(name="task", interval=MINUTE, retry=Retry(attempts=2, delay=SECOND, jitter=0, on_give_up=then))(body)
    run(app, clock, 90 * SECOND)
    row = store.rows()["task"]
    assert len(body.runs) == 2
    assert (row.state, row.occurrence) == (state, at(left))


@pytest.mark.parametrize(("then", "gone"), [(None, False), (OnGiveUp.NEXT, True), (OnGiveUp.PAUSE, False)])
def test_what_has_no_next_occurrence_is_kept_unless_it_was_told_to_go_on(make_app, store, clock, then, gone):
    app = make_app()
    template = app.dynamic_task(name="template", retry=Retry(attempts=1, on_give_up=then))(Body(clock, fails=9))

    async def schedule(context):
        await context.schedule_task(template, "x", execute_at=at(1))

    run(app, clock, 10 * SECOND, before=schedule)
    assert ("x" not in store.rows()) == gone
    assert gone or store.rows()["x"].state is State.FAILED


def test_a_paused_task_says_why_and_goes_on_when_it_is_resumed(make_app, clock):
    body = Body(clock, fails=1)
    app = make_app()
    task = app.task(name="task", interval=MINUTE, retry=Retry(attempts=1, on_give_up=OnGiveUp.PAUSE))(body)

    async def main():
        async with running(app) as context:
            await clock.advance(90 * SECOND)
            scheduled = await context.get_task(task)
            assert "Broken: the body's own error" in scheduled.note.text
            assert scheduled.note.by == context.worker_id
            assert scheduled.last_run.outcome is RunOutcome.GIVEN_UP
            await context.resume_task(task)
            await clock.advance(60 * SECOND)

    clock.run(main())
    assert [run[0] for run in body.runs] == [60.0, 120.0]


def test_a_store_that_cannot_pause_goes_on_and_says_so(make_app, store, clock, caplog, monkeypatch):
    async def refused(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(store, "pause", refused)
    body = Body(clock, fails=1)
    app = make_app()
    app.task(name="task", interval=MINUTE, retry=Retry(attempts=1, on_give_up=OnGiveUp.PAUSE))(body)
    run(app, clock, 150 * SECOND)
    assert [run[0] for run in body.runs] == [60.0, 120.0]
    assert "can't be paused" in caplog.text


@pytest.mark.parametrize("options", [{}, {"failure_mode": FailureMode.COMMIT}, {"retry": PLAIN}])
def test_a_body_says_itself_when_it_is_to_be_tried_again(app, clock, options):
    runs = []

    @app.task(interval=HOUR, **options)
    async def task(context):
        runs.append((context.attempt, seconds(clock.now())))
        if len(runs) == 1:
            raise context.retry_after(timedelta(minutes=10))

    run(app, clock, timedelta(minutes=75))
    assert runs == [(1, 3600.0), (2, 4200.0)]


@pytest.mark.parametrize("error", [GiveUp("no such customer"), KeyError("x")])
def test_an_error_that_no_attempt_would_mend_is_not_tried_again(make_app, store, clock, error):
    runs = []
    app = make_app()

    @app.dynamic_task(retry=Retry(give_up_on=LookupError))
    async def template(context):
        runs.append(context.attempt)
        raise error

    async def schedule(context):
        await context.schedule_task(template, "x", execute_at=at(1))

    run(app, clock, HOUR, before=schedule)
    row = store.rows()["x"]
    assert (runs, row.state) == ([1], State.FAILED)
    assert type(error).__name__ in row.error


def test_pauses_are_spread_alike_for_all_workers():
    retry = Retry(delay=timedelta(seconds=10), jitter=0.5, factor=2, limit=HOUR)
    pauses = [retry.pause(3, str(number)) / SECOND for number in range(2000)]
    assert pauses == [retry.pause(3, str(number)) / SECOND for number in range(2000)]
    assert 20 <= min(pauses) < 22
    assert 58 < max(pauses) <= 60
    assert 39 < sum(pauses) / 2000 < 41
    assert retry.pause(10**9, "x") <= 1.5 * HOUR


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attempts": 0}, "attempts"),
        ({"factor": 0.5}, "at least 1"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"jitter": 1.5}, "from 0 to 1"),
        ({"delay": -SECOND}, "delay"),
        ({"limit": timedelta()}, "limit"),
        ({"give_up_on": ("ValueError",)}, "classes of exceptions"),
        ({"give_up_on": (KeyboardInterrupt,)}, "classes of exceptions"),
        ({"on_give_up": "pause"}, "OnGiveUp"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(ConfigurationError, match=said):
        Retry(**options)


def test_a_delay_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigurationError, match="retry_after"):
        RetryAfter(5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry": 3}, "Retry"),
        ({"retry": PLAIN, "max_attempts": 3}, "max_attempts"),
        ({"retry": PLAIN, "retry_delay": SECOND, "failure_mode": FailureMode.UNLOCK}, "retry_delay"),
        ({"retry": PLAIN, "execution_mode": ExecutionMode.AT_MOST_ONCE}, "AT_MOST_ONCE"),
        ({"catch_up": "latest"}, "CatchUp"),
        ({"catch_up": CatchUp.NONE, "fast_forward": True}, "fast_forward"),
        ({"catch_up_window": -SECOND}, "catch_up_window"),
        ({"max_running": 1}, "AT_MOST_ONCE"),
        ({"max_running": 2, "execution_mode": ExecutionMode.AT_MOST_ONCE}, "pass 1"),
        ({"max_running": True, "execution_mode": ExecutionMode.AT_MOST_ONCE}, "pass 1"),
    ],
)
def test_policies_that_contradict_each_other_are_refused(app, options, said):
    with pytest.raises(ConfigurationError, match=said):
        app.task(name="task", interval=SECOND, **options)(Body(None))


# --- what was missed ----------------------------------------------------------------------------------------------------


def after_a_pause_of_the_program(make_app, clock, away, **options):
    """The runs of an hourly task after nothing ran for ``away``; in hours."""
    body = Body(clock)
    for duration in (timedelta(minutes=1), timedelta(minutes=59)):
        app = make_app(concurrency_limit=1, poll_interval=MINUTE)
        app.task(name="task", interval=HOUR, **options)(body)
        run(app, clock, duration)
        clock.run(clock.advance(away - duration if duration < HOUR / 2 else timedelta()))
    return [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"catch_up": CatchUp.LATEST}, [5]),
        ({"fast_forward": True}, [5]),
        ({"catch_up": CatchUp.NONE}, []),
        ({"catch_up_window": timedelta(hours=2, minutes=45)}, [3, 4, 5]),
        ({"catch_up": CatchUp.LATEST, "catch_up_window": timedelta(minutes=20)}, []),
        ({"catch_up": CatchUp.NONE, "catch_up_window": timedelta(minutes=40)}, [5]),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"execution_mode": ExecutionMode.AT_MOST_ONCE}, {"failure_mode": FailureMode.COMMIT}])
def test_what_was_missed_is_caught_up_as_the_task_says(make_app, clock, caplog, options, expected, mode):
    assert after_a_pause_of_the_program(make_app, clock, timedelta(hours=5, minutes=30), **options, **mode) == [*expected, 6]
    said = [
        record.getMessage() for record in caplog.records if "skipped" in record.getMessage() and record.levelno == logging.WARNING
    ]
    assert len(said) == (expected != [1, 2, 3, 4, 5])
    assert not said or f"{5 - len(expected)} missed occurrence" in said[0]


@pytest.mark.parametrize("options", [{"catch_up": CatchUp.LATEST}, {"catch_up": CatchUp.NONE}, {"fast_forward": True}])
def test_a_task_runs_however_short_its_interval_and_slow_the_store(app, store, clock, options):
    # I7: while a skip is stored, and the row claimed again, the next occurrences pass.
    body, settle = Body(clock), store.settle

    async def slowly(now, settlements):
        await asyncio.sleep(0.3)
        return await settle(now, settlements)

    store.settle = slowly
    app.task(name="task", interval=SECOND / 10, **options)(body)
    run(app, clock, 10 * SECOND)
    assert len(body.runs) > 5
    assert all(began - scheduled_at < 1 for scheduled_at, _, began in body.runs)


def test_what_is_skipped_is_remembered_and_counted(make_app, clock):
    app = make_app()
    task = app.task(name="task", interval=HOUR, catch_up=CatchUp.LATEST)(Body(clock))

    async def main():
        async with running(app) as context:
            pass
        await clock.advance(timedelta(hours=5, minutes=30))
        async with running(app) as context:
            await clock.advance(timedelta(seconds=1))
            outcomes = [(each.outcome, each.scheduled_at) for each in (await context.list_runs(task)).runs]
            return (await context.get_task(task)), outcomes

    clock.run(clock.advance(timedelta()))
    scheduled, outcomes = clock.run(main())
    assert scheduled.last_run.scheduled_at == START + 5 * HOUR
    assert (RunOutcome.SKIPPED, START + HOUR) in outcomes


def test_a_once_off_is_run_however_late_unless_a_window_is_given(make_app, store, clock):
    bodies = {}
    for name, options in {"none": {"catch_up": CatchUp.NONE}, "window": {"catch_up_window": HOUR}}.items():
        bodies[name] = Body(clock)
        app = make_app()
        template = app.dynamic_task(name=name, **options)(bodies[name])

        async def main(app=app, template=template):
            async with app.create() as context:
                await context.schedule_task(template, "x", execute_at=clock.now() + MINUTE)
            await clock.advance(2 * HOUR)
            async with running(app):
                await clock.advance(MINUTE)

        clock.run(main())
    assert [len(body.runs) for body in bodies.values()] == [1, 0]
    assert "x" not in store.rows()


def test_what_was_begun_is_no_missed_occurrence(make_app, clock):
    body = Body(clock, fails=1)
    app = make_app(poll_interval=MINUTE)
    app.task(name="task", schedule="0 * * * *", catch_up_window=MINUTE, retry=Retry(delay=timedelta(minutes=30), jitter=0))(body)
    run(app, clock, timedelta(minutes=95))
    assert body.runs == [(3600.0, 1, 3600.0), (3600.0, 2, 5400.0)]


def test_a_failed_occurrence_that_an_operator_retries_is_run_however_old(make_app, clock):
    body = Body(clock, fails=1)
    app = make_app(poll_interval=MINUTE)
    template = app.dynamic_task(name="template", catch_up_window=MINUTE, retry=Retry(attempts=1))(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", execute_at=at(1))
            await clock.advance(5 * HOUR)
            assert await context.retry_task(template, "x")
            await clock.advance(MINUTE)

    clock.run(main())
    assert len(body.runs) == 2


@pytest.mark.parametrize(
    ("catch_up", "declared", "expected"),
    [
        (None, CatchUp.ALL, [5]),
        (None, CatchUp.NONE, []),
        (CatchUp.LATEST, CatchUp.ALL, [5]),
        (CatchUp.NONE, CatchUp.ALL, []),
        (CatchUp.ALL, CatchUp.ALL, [1, 2, 3, 4, 5]),
        (CatchUp.ALL, CatchUp.LATEST, [1, 2, 3, 4, 5]),
        (CatchUp.LATEST, CatchUp.NONE, []),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_task_that_was_paused_catches_up_what_its_resumption_says(make_app, clock, catch_up, declared, expected, whole):
    body = Body(clock)
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)
    template = app.dynamic_task(name="template", catch_up=declared)(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await (context.pause_template(template) if whole else context.pause_task(template, "x"))
            await clock.advance(timedelta(hours=5, minutes=30))
            await (
                context.resume_template(template, catch_up=catch_up)
                if whole
                else context.resume_task(template, "x", catch_up=catch_up)
            )
            await clock.advance(timedelta(minutes=29))
            scheduled = await context.get_task(template, "x")
            assert scheduled.scheduled_at == START + 6 * HOUR
            await clock.advance(timedelta(minutes=2))

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [*expected, 6]


@pytest.mark.parametrize(
    ("how", "expected"),
    [(None, [1, 8, 9, 10, 11]), (CatchUp.NONE, [1, 9, 10, 11]), (CatchUp.ALL, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])],
)
@pytest.mark.parametrize("fails", [0, 1])
def test_a_run_that_outlasts_a_whole_pause_does_not_undo_its_resumption(make_app, clock, how, expected, fails):
    runs, failures = [], list(range(fails))
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)

    @app.dynamic_task(failure_mode=FailureMode.COMMIT, lease_duration=40 * HOUR)
    async def template(context):
        runs.append(round(seconds(context.scheduled_at) / 3600))
        if len(runs) == 1:
            await asyncio.sleep(10 * 3600)
            if failures:
                raise ValueError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(timedelta(hours=2, minutes=30))
            await context.pause_task(template, "x")
            await clock.advance(6 * HOUR)
            await context.resume_task(template, "x", catch_up=how)
            await clock.advance(timedelta(hours=3, minutes=10))

    clock.run(main())
    assert runs == expected


def test_a_run_that_the_end_of_the_process_cuts_short_does_not_undo_a_resumption(make_app, clock):
    body = Body(clock)
    app, other = make_app(shutdown_timeout=SECOND), make_app(poll_interval=MINUTE)

    async def forever(context):
        await asyncio.sleep(10**6)

    async def main():
        template = app.dynamic_task(name="template", lease_duration=40 * HOUR)(forever)
        other.dynamic_task(name="template")(body)
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(2 * HOUR)
            await context.pause_task(template, "x")
            await clock.advance(timedelta(hours=6, minutes=30))
            await context.resume_task(template, "x")
        async with running(other):
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [8]


@pytest.mark.parametrize("fault", [OSError("away"), None])
def test_a_run_whose_row_cannot_be_looked_up_is_stored_all_the_same(make_app, store, clock, fault):
    body = Body(clock)
    app = make_app(concurrency_limit=1)

    @app.dynamic_task(lease_duration=MINUTE)
    async def template(context):
        await body(context)
        if len(body.runs) == 1:
            await asyncio.sleep(25)

    async def get(keys):
        if fault is None:
            await asyncio.sleep(10**6)
        raise fault

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=10 * SECOND)
            await clock.advance(11 * SECOND)
            store.get = get
            await clock.advance(50 * SECOND)

    clock.run(main())
    assert [scheduled_at for scheduled_at, _, _ in body.runs] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def test_a_resumption_that_runs_all_is_stronger_than_a_window(make_app, clock):
    body = Body(clock)
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)
    template = app.dynamic_task(name="template", catch_up_window=HOUR)(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await context.pause_task(template, "x")
            await clock.advance(timedelta(hours=5, minutes=30))
            await context.resume_task(template, "x", catch_up=CatchUp.ALL)
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [1, 2, 3, 4, 5]


def test_what_passes_after_a_template_was_resumed_is_the_tasks_own_affair(make_app, clock):
    body = Body(clock)
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await context.pause_template(template)
            await clock.advance(timedelta(hours=5, minutes=30))
            await context.resume_template(template)
            await clock.advance(4 * HOUR)
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [5, 6, 7, 8, 9]


def test_a_pause_in_the_middle_of_retries_does_not_run_everything_after_all(make_app, clock):
    body = Body(clock, fails=1)
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)
    template = app.dynamic_task(name="template", retry=Retry(delay=timedelta(minutes=10)))(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(HOUR + MINUTE)
            await context.pause_task(template, "x")
            await clock.advance(20 * HOUR)
            await context.resume_task(template, "x")
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [1, 21]


def test_a_worker_that_died_before_the_pause_does_not_make_everything_run_after_all(make_app, store, clock):
    body = Body(clock)
    app = make_app(concurrency_limit=1, poll_interval=MINUTE)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(HOUR)
            assert (await store.claim(clock.now(), "dynamic:template", lease_duration=MINUTE, limit=1)).claims
            await context.pause_task(template, "x")
            await clock.advance(20 * HOUR)
            await context.resume_task(template, "x")
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == [21]


def test_what_is_unscheduled_while_it_is_resumed_stays_so(make_app, store, clock):
    app = make_app()
    template = app.dynamic_task(name="template")(Body(clock))

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await context.pause_task(template, "x")
            await clock.advance(5 * HOUR)
            get = store.get

            async def get_and_lose(keys):
                rows = await get(keys)
                await store.unregister(clock.now(), keys)
                return rows

            store.get = get_and_lose
            assert not await context.resume_task(template, "x")

    clock.run(main())
    assert "x" not in store.rows()


@pytest.mark.parametrize(("catch_up", "expected"), [(CatchUp.NONE, []), (CatchUp.LATEST, [2]), (CatchUp.ALL, [1, 2])])
def test_a_schedule_that_ended_in_a_pause_catches_up_as_any_other(make_app, store, clock, catch_up, expected):
    body = Body(clock)
    app = make_app(poll_interval=MINUTE)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR, end_at=START + 2 * HOUR)
            await context.pause_task(template, "x")
            await clock.advance(5 * HOUR)
            await context.resume_task(template, "x", catch_up=catch_up)
            await clock.advance(MINUTE)

    clock.run(main())
    assert [round(scheduled_at / 3600) for scheduled_at, _, _ in body.runs] == expected
    assert "x" not in store.rows()


def test_the_last_occurrence_of_a_schedule_is_no_once_off(make_app, clock):
    body = Body(clock)
    app = make_app(poll_interval=MINUTE)
    template = app.dynamic_task(name="template", catch_up=CatchUp.NONE)(body)

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR, end_at=START + HOUR)
        await clock.advance(20 * HOUR)
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert body.runs == []


def test_a_paused_once_off_is_run_when_it_is_resumed(make_app, clock):
    body = Body(clock)
    app = make_app()
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", execute_at=at(60))
            await context.pause_task(template, "x")
            await clock.advance(HOUR)
            await context.resume_task(template, "x", catch_up=CatchUp.NONE)
            await clock.advance(MINUTE)

    clock.run(main())
    assert len(body.runs) == 1


schedules = st.one_of(
    st.integers(1, 90_000).map(lambda number: Interval(timedelta(seconds=number))),
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 0 29 2 *", "30 1 * * *", "0 9 * * MON-FRI", "*/10 * * * * *"]).map(
        lambda text: Cron(text, "Europe/Berlin")
    ),
)


@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(0, 200_000), st.sampled_from(CatchUp), st.none() | st.integers(0, 100_000))
def test_which_occurrence_comes_next_is_what_a_walk_from_one_to_the_next_finds(schedule, late, catch_up, window):
    occurrence = schedule.first(datetime(2026, 3, 28, 12, tzinfo=UTC))
    now = occurrence + timedelta(seconds=late)
    window = None if window is None else timedelta(seconds=window)
    walk, each = [], occurrence
    while each <= now and len(walk) < 1000:
        walk.append(each)
        each = schedule.next(each)
    if len(walk) == 1000:
        return
    most = timedelta(minutes=1) if window is None and catch_up is CatchUp.NONE else window
    due = [each for each in walk if most is None or now - each <= most]
    # What is exactly as old as the window is on the edge, and either answer is right.
    expected = {(due or [each])[0 if catch_up is CatchUp.ALL else -1]}
    edge = [other for other in due if now - other != most] if most is not None else due
    expected.add((edge or [each])[0 if catch_up is CatchUp.ALL else -1])
    found = first_to_run(schedule, occurrence, now, catch_up, window, timedelta())
    assert found in expected
    passed = sum(other < found for other in walk)
    assert count_from(schedule, occurrence, found, now) == (passed if isinstance(schedule, Interval) else min(200, passed))


def test_a_once_off_has_one_occurrence_to_count():
    assert count_from(Once(START), START, None, START + HOUR) == 1


@pytest.mark.parametrize(
    ("schedule", "said"), [({"interval": MINUTE}, "299 missed"), ({"schedule": "* * * * *"}, "200 or more missed")]
)
def test_a_count_that_stops_early_says_so(make_app, clock, caplog, schedule, said):
    for duration in (timedelta(), SECOND):
        app = make_app()
        task = app.task(name="task", catch_up=CatchUp.NONE, **schedule)(Body(clock))
        run(app, clock, duration)
        if not duration:
            clock.run(clock.advance(timedelta(hours=5, seconds=30)))

    async def look():
        async with app.create() as context:
            return [each.error for each in (await context.list_runs(task)).runs if each.outcome is RunOutcome.SKIPPED][0]

    assert f"{said} occurrences are skipped" in caplog.text
    assert f"{said} occurrences are skipped" in clock.run(look())


# --- runs that must not overlap -----------------------------------------------------------------------------------------


def overlapping(runs):
    return [later for earlier, later in zip(runs, runs[1:], strict=False) if later[0] < earlier[1]]


@pytest.mark.parametrize("max_running", [None, 1])
def test_runs_of_at_most_once_overlap_unless_it_says_otherwise(make_app, clock, max_running):
    runs = []

    async def body(context):
        began = seconds(clock.now())
        await asyncio.sleep(150)
        runs.append((began, seconds(clock.now())))

    async def main():
        apps = [make_app(), make_app()]
        for app in apps:
            app.task(
                name="task",
                interval=MINUTE,
                execution_mode=ExecutionMode.AT_MOST_ONCE,
                max_running=max_running,
                lease_duration=20 * SECOND,
            )(body)
        async with running(apps[0]), running(apps[1]):
            await clock.advance(10 * MINUTE)

    clock.run(main())
    assert bool(overlapping(runs)) == (max_running is None)
    assert len(runs) >= 3


def test_a_run_that_died_is_not_run_again_and_the_next_occurrence_comes(make_app, store, clock, caplog):
    body = Body(clock)
    app = make_app()
    app.task(name="task", interval=MINUTE, execution_mode=ExecutionMode.AT_MOST_ONCE, max_running=1, lease_duration=20 * SECOND)(
        body
    )

    async def main():
        async with running(app):
            await clock.advance(SECOND)
        await clock.advance(60 * SECOND)
        key = Key("static", "task")
        [claim] = (await store.claim(clock.now(), key.partition, lease_duration=20 * SECOND, limit=1, names=["task"])).claims
        assert claim.attempt == 1  # by a worker that is not heard of again
        async with running(app):
            await clock.advance(2 * MINUTE)

    clock.run(main())
    assert [scheduled_at for scheduled_at, _, _ in body.runs] == [120.0, 180.0]
    assert "did not finish within its lease" in caplog.text


def test_a_run_whose_lease_is_lost_is_cancelled(make_app, store, clock, caplog):
    ended = []
    app = make_app()

    @app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE, max_running=1, lease_duration=30 * SECOND)
    async def template(context):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(seconds(clock.now()))
            raise

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=MINUTE)
            await clock.advance(65 * SECOND)
            await context.unschedule_task(template, "x")
            await clock.advance(30 * SECOND)

    clock.run(main())
    assert ended == [70.0]
    assert "lost its lease" in caplog.text
