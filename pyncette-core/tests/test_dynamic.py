"""Instances that are scheduled at run time: when they run, with what, and what happens to them when they are scheduled again."""

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from pyncette import ExecutionMode, FailureMode, Instance, ScheduleError, TransientRepositoryError
from pyncette.repository import Key, State
from pyncette.schedule import Interval
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
INDICES = range(4)


def at(seconds):
    return START + timedelta(seconds=seconds)


def seconds(instant):
    return round((instant - START).total_seconds(), 1)


@pytest.fixture
def local_time(monkeypatch):
    """The machine is in New York."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def runs(clock):
    return []


@pytest.fixture(params=["dynamic", "partitioned"])
def template(app, clock, runs, request):
    """A template of either kind, whose body remembers (name, seconds of scheduled_at, seconds at which it began, arguments)."""

    async def template(context):
        runs.append((context.name, seconds(context.scheduled_at), seconds(clock.now()), context.args))

    if request.param == "dynamic":
        return app.dynamic_task()(template)
    return app.partitioned_task(partition_count=len(INDICES))(template)


# --- scheduling ---------------------------------------------------------------------------------------------------------


def test_instances_run_by_their_own_schedules_with_their_own_arguments(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "a", interval=40 * SECOND, greeting="hello")
            await context.schedule_task(template, "b", schedule="* * * * *", greeting="hi")
            await context.schedule_task(template, "c", execute_at=at(50), greeting="hey")
            await clock.advance(90 * SECOND)

    clock.run(main())
    assert runs == [
        ("a", 40.0, 40.0, {"greeting": "hello"}),
        ("c", 50.0, 50.0, {"greeting": "hey"}),
        ("b", 60.0, 60.0, {"greeting": "hi"}),
        ("a", 80.0, 80.0, {"greeting": "hello"}),
    ]


def test_instances_that_are_scheduled_before_the_run_are_run(app, clock, template, runs):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "a", interval=MINUTE)
        async with running(app):
            await clock.advance(61 * SECOND)

    clock.run(main())
    assert [run[:3] for run in runs] == [("a", 60.0, 60.0)]


def test_many_instances_can_be_scheduled_at_once(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_tasks(template, [])
            await context.schedule_tasks(
                template,
                (Instance(name=str(number), execute_at=at(60 + number % 7), args={"number": number}) for number in range(2500)),
            )
            await clock.advance(100 * SECOND)

    clock.run(main())
    assert sorted(run[3]["number"] for run in runs) == list(range(2500))
    assert all(run[0] == str(run[3]["number"]) and run[1] == 60 + run[3]["number"] % 7 for run in runs)


def test_what_is_known_starts_at_its_time_also_between_two_polls(app, clock):
    # I4
    late = []

    @app.dynamic_task()
    async def template(context):
        late.append(clock.now() - context.scheduled_at)

    async def main():
        async with running(app) as context:
            for number in range(50):
                await context.schedule_task(template, str(number), execute_at=at(10 + number * 1.37))
            await clock.advance(100 * SECOND)

    clock.run(main())
    assert len(late) == 50
    assert all(timedelta() <= each < SECOND / 50 for each in late)


@pytest.mark.parametrize(
    "name", ["a:b", "a", "A", "å", "a\u030a", "a ", " a", "\U0001f600" * 250, "n" * 255, "1:a", "dynamic:template"]
)
def test_names_come_back_exactly(app, clock, store, template, runs, name):
    # I13
    async def main():
        async with running(app) as context:
            for other in ("a", "A", "a ", name):
                await context.schedule_task(template, other, execute_at=at(1), name=other)
            assert (await context.get_task(template, name)).name == name
            listed = [task.name for task in (await context.list_tasks(template)).tasks]
            assert sorted(listed) == sorted({"a", "A", "a ", name})
            await clock.advance(2 * SECOND)
            assert await context.get_task(template, name) is None

    clock.run(main())
    assert sorted(run[0] for run in runs) == sorted({"a", "A", "a ", name})
    assert all(run[0] == run[3]["name"] for run in runs)


def test_two_templates_have_instances_of_one_name(app, clock, template, runs):
    seen = []

    @app.dynamic_task()
    async def other(context):
        seen.append(context.args)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(1), mine=True)
            await context.schedule_task(other, "one", execute_at=at(1), mine=False)
            await clock.advance(2 * SECOND)

    clock.run(main())
    assert [run[3] for run in runs] == [{"mine": True}]
    assert seen == [{"mine": False}]


# --- once ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ago", [0, 1, 3600, 10**9])
def test_an_instant_in_the_past_runs_at_once(app, clock, store, template, runs, ago):
    async def main():
        async with running(app) as context:
            await clock.advance(7.3 * SECOND)
            await context.schedule_task(template, "late", execute_at=clock.now() - ago * SECOND)
            await clock.advance(SECOND)

    clock.run(main())
    assert [run[:3] for run in runs] == [("late", round(7.3 - ago, 1), 7.3)]
    assert "late" not in store.rows()


def test_a_naive_instant_is_local_time(app, clock, template, runs, local_time):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=datetime(2025, 12, 31, 19, 0, 30))
            await clock.advance(31 * SECOND)

    clock.run(main())
    assert [run[:3] for run in runs] == [("one", 30.0, 30.0)]


def test_a_naive_instant_with_a_timezone_is_wall_time_there(app, clock, template, local_time):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "one", execute_at=datetime(2026, 1, 1, 9, 0, 30), timezone="Asia/Tokyo")
            assert (await context.get_task(template, "one")).scheduled_at == at(30)

    clock.run(main())


def test_an_aware_instant_keeps_its_time_whatever_the_timezone(app, clock, template):
    async def main():
        async with app.create() as context:
            instant = datetime(2026, 1, 1, 2, 0, 30, tzinfo=timezone(timedelta(hours=2)))
            await context.schedule_task(template, "one", execute_at=instant, timezone="Asia/Tokyo")
            stored = await context.get_task(template, "one")
            assert stored.scheduled_at == at(30)
            assert stored.scheduled_at.tzinfo == ZoneInfo("Asia/Tokyo")

    clock.run(main())


def test_once_vanishes_after_its_success(app, clock, store, template, runs):
    # I8
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(1))
            await clock.advance(2 * SECOND)
            assert "one" not in store.rows()
            assert await context.get_task(template, "one") is None
            assert (await context.list_tasks(template)).tasks == []
            await clock.advance(timedelta(hours=1))

    clock.run(main())
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ({}, True),
        ({"failure_mode": FailureMode.UNLOCK, "retry_delay": 10 * MINUTE}, True),
        ({"failure_mode": FailureMode.COMMIT}, False),
        ({"execution_mode": ExecutionMode.AT_MOST_ONCE}, False),
        ({"max_attempts": 1}, True),
    ],
)
def test_once_stays_after_a_failure_unless_the_failure_is_committed(app, clock, store, options, stays):
    # I3, I8
    @app.dynamic_task(**options)
    async def template(context):
        raise LookupError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(1))
            await clock.advance(2 * SECOND)

    clock.run(main())
    assert ("one" in store.rows()) == stays


def test_once_that_failed_at_first_vanishes_after_its_success(app, clock, store):
    # I7, I8
    attempts = []

    @app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)
    async def template(context):
        attempts.append((context.attempt, seconds(context.scheduled_at)))
        if context.attempt < 3:
            raise LookupError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(1))
            await clock.advance(10 * SECOND)

    clock.run(main())
    assert attempts == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert "one" not in store.rows()


# --- scheduling again ---------------------------------------------------------------------------------------------------


def test_the_same_schedule_again_changes_the_arguments_and_nothing_else(app, clock, template, runs):
    # I9: nothing is postponed, however often it is scheduled.
    async def main():
        async with running(app) as context:
            for number in range(13):
                await context.schedule_task(template, "one", interval=MINUTE, number=number)
                await clock.advance(9.9 * SECOND)

    clock.run(main())
    assert [(run[0], run[1], run[3]["number"]) for run in runs] == [("one", 60.0, 6), ("one", 120.0, 12)]


def test_another_schedule_counts_from_when_it_is_given(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE, number=1)
            await clock.advance(50 * SECOND)
            await context.schedule_task(template, "one", interval=MINUTE / 2, number=2)
            await clock.advance(61 * SECOND)

    clock.run(main())
    assert [(run[1], run[3]["number"]) for run in runs] == [(80.0, 2), (110.0, 2)]


def test_once_with_other_arguments_is_another_occurrence(app, clock, template, runs):
    # I9: no run mixes old arguments with a new time, nor new ones with what is done already.
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(1), number=1)
            await clock.advance(2 * SECOND)
            await context.schedule_task(template, "one", execute_at=at(1), number=2)
            await clock.advance(2 * SECOND)

    clock.run(main())
    assert [(run[1], run[3]["number"]) for run in runs] == [(1.0, 1), (1.0, 2)]


def test_force_starts_the_schedule_anew(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(50 * SECOND)
            await context.schedule_task(template, "one", interval=MINUTE, force=True)
            await clock.advance(70 * SECOND)

    clock.run(main())
    assert [run[1] for run in runs] == [110.0]


def test_in_bulk_force_holds_for_all(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            instances = [Instance(name=str(number), interval=MINUTE) for number in range(5)]
            await context.schedule_tasks(template, instances)
            await clock.advance(50 * SECOND)
            await context.schedule_tasks(template, instances)
            await context.schedule_tasks(template, instances[:3], force=True)
            await clock.advance(30 * SECOND)

    clock.run(main())
    assert sorted(run[0] for run in runs) == ["3", "4"]


def test_unscheduling_removes_what_is_there(app, clock, store, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await clock.advance(30 * SECOND)
            assert await context.unschedule_task(template, "one") is True
            assert await context.unschedule_task(template, "one") is False
            await clock.advance(10 * MINUTE)

    clock.run(main())
    assert runs == []
    assert "one" not in store.rows()


# --- while a run is in progress ------------------------------------------------------------------------------------------

LASTS = 10


@pytest.fixture
def slow(app, clock):
    """A template whose body lasts 10 s; it remembers when it began, for which time, and with what."""
    begun = []

    async def slow(context):
        begun.append((seconds(clock.now()), seconds(context.scheduled_at), context.attempt, context.args.get("number")))
        await asyncio.sleep(LASTS)

    template = app.dynamic_task(lease_duration=30 * SECOND)(slow)
    template.body.begun = begun
    return template


def during_a_run(app, clock, template, change, *, until, **schedule):
    """Schedule an instance, change something 3 s after its run began at 60 s, and continue; the rows just after the run's end."""

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", **schedule, number=1)
            await clock.advance(63 * SECOND)
            await change(context)
            await clock.advance(timedelta(seconds=LASTS))
            after = await context.get_task(template, "one")
            await clock.advance(timedelta(seconds=until) - (63 + LASTS) * SECOND)
            return after

    return clock.run(main())


def test_the_same_schedule_during_a_run_lets_it_commit(app, clock, slow):
    # I5, I9
    after = during_a_run(
        app, clock, slow, lambda c: c.schedule_task(slow, "one", interval=MINUTE, number=2), interval=MINUTE, until=140
    )
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (120.0, 120.0, 1, 2)]
    assert (after.scheduled_at, after.locked_until) == (at(120), None)


def test_another_schedule_during_a_run_is_kept_and_does_not_overlap_it(app, clock, slow):
    # I2, I3: the run's commit must not advance, or remove, what was scheduled meanwhile.
    after = during_a_run(
        app, clock, slow, lambda c: c.schedule_task(slow, "one", interval=SECOND * 4, number=2), interval=MINUTE, until=75
    )
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (70.0, 67.0, 1, 2)]
    assert after.schedule == Interval(4 * SECOND)


def test_a_new_once_during_the_run_of_the_old_survives_its_commit(app, clock, slow, store):
    # I3, I8
    change = lambda c: c.schedule_task(slow, "one", execute_at=at(100), number=2)
    after = during_a_run(app, clock, slow, change, execute_at=at(60), until=120)
    assert after is not None
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (100.0, 100.0, 1, 2)]
    assert "one" not in store.rows()


def test_the_same_once_with_other_arguments_during_its_run_runs_again(app, clock, slow, store):
    # I8, I9
    change = lambda c: c.schedule_task(slow, "one", execute_at=at(60), number=2)
    during_a_run(app, clock, slow, change, execute_at=at(60), until=100)
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (70.0, 60.0, 1, 2)]
    assert "one" not in store.rows()


def test_the_same_once_with_the_same_arguments_during_its_run_does_not_run_again(app, clock, slow, store):
    # I5
    change = lambda c: c.schedule_task(slow, "one", execute_at=at(60), number=1)
    during_a_run(app, clock, slow, change, execute_at=at(60), until=100)
    assert slow.body.begun == [(60.0, 60.0, 1, 1)]
    assert "one" not in store.rows()


def test_there_and_back_again_during_a_run_is_not_taken_for_no_change(app, clock, slow):
    # I9: the revision sees A, B, A.
    async def change(context):
        await context.schedule_task(slow, "one", interval=MINUTE / 2, number=2)
        await context.schedule_task(slow, "one", interval=MINUTE, number=3)

    after = during_a_run(app, clock, slow, change, interval=MINUTE, until=140)
    assert after.scheduled_at == at(123)
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (123.0, 123.0, 1, 3)]


def test_force_during_a_run_takes_its_lease_and_its_outcome_no_longer_counts(app, clock, slow, caplog):
    # I1, I2
    change = lambda c: c.schedule_task(slow, "one", execute_at=at(60), number=1, force=True)
    during_a_run(app, clock, slow, change, execute_at=at(60), until=100)
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (63.0, 60.0, 1, 1)]
    assert "after it was taken over" in caplog.text


def test_unscheduling_during_a_run_is_not_undone_by_its_commit(app, clock, slow, store):
    # I3, I8
    after = during_a_run(app, clock, slow, lambda c: c.unschedule_task(slow, "one"), interval=MINUTE, until=300)
    assert after is None
    assert slow.body.begun == [(60.0, 60.0, 1, 1)]
    assert "one" not in store.rows()


def test_removed_and_scheduled_anew_during_a_run_is_another_row(app, clock, slow):
    # I1: the old run's commit must not touch it, though it has the same name and schedule.
    async def change(context):
        await context.unschedule_task(slow, "one")
        await context.schedule_task(slow, "one", interval=MINUTE, number=2)

    after = during_a_run(app, clock, slow, change, interval=MINUTE, until=140)
    assert after.scheduled_at == at(123)
    assert slow.body.begun == [(60.0, 60.0, 1, 1), (123.0, 123.0, 1, 2)]


def test_a_body_may_unschedule_and_reschedule_itself(app, clock, store):
    seen = []

    @app.dynamic_task()
    async def countdown(context):
        seen.append((context.name, context.args["left"], seconds(context.scheduled_at)))
        context.args["left"] -= 1
        if context.args["left"]:
            await context.app_context.schedule_task(
                countdown, context.name, execute_at=context.scheduled_at + 5 * SECOND, **context.args
            )

    @app.dynamic_task()
    async def once(context):
        seen.append((context.name, seconds(context.scheduled_at)))
        await context.app_context.unschedule_task(once, context.name)

    async def main():
        async with running(app) as context:
            await context.schedule_task(countdown, "down", execute_at=at(1), left=3)
            await context.schedule_task(once, "single", interval=2 * SECOND)
            await clock.advance(MINUTE)

    clock.run(main())
    assert seen == [("down", 3, 1.0), ("single", 2.0), ("down", 2, 6.0), ("down", 1, 11.0)]
    assert store.rows() == {}


# --- pausing ------------------------------------------------------------------------------------------------------------


def test_a_paused_instance_waits_and_a_new_schedule_leaves_it_paused(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            await context.schedule_task(template, "two", interval=MINUTE)
            assert await context.pause_task(template, "one")
            await clock.advance(70 * SECOND)
            await context.schedule_task(template, "one", interval=MINUTE / 2)
            assert (await context.get_task(template, "one")).state is State.PAUSED
            await clock.advance(10 * SECOND)
            assert await context.resume_task(template, "one")
            await clock.advance(25 * SECOND)

    clock.run(main())
    assert [run[:3] for run in runs] == [("two", 60.0, 60.0), ("one", 100.0, 100.0)]


def test_what_became_due_while_paused_runs_when_it_is_resumed(app, clock, template, runs):
    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", execute_at=at(10))
            await context.pause_task(template, "one")
            await clock.advance(MINUTE)
            await context.resume_task(template, "one")
            await clock.advance(SECOND / 10)

    clock.run(main())
    assert [run[:3] for run in runs] == [("one", 10.0, 60.0)]


# --- looking up ---------------------------------------------------------------------------------------------------------


def test_an_instance_can_be_looked_up_before_during_and_after_its_run(app, clock, slow):
    async def main():
        async with running(app) as context:
            await context.schedule_task(slow, "one", schedule="*/2 * * * *", timezone="Asia/Kolkata", number=7)
            stored = await context.get_task(slow, "one")
            assert (stored.name, stored.task, stored.args) == ("one", slow, {"number": 7})
            assert stored.schedule.text == "cron */2 * * * * @Asia/Kolkata"
            assert stored.scheduled_at == at(120)
            assert stored.scheduled_at.tzinfo == ZoneInfo("Asia/Kolkata")
            assert (stored.state, stored.locked_until, stored.attempt, stored.error) == (State.SCHEDULED, None, 0, None)
            await clock.advance(125 * SECOND)
            during = await context.get_task(slow, "one")
            assert during.scheduled_at == at(120)
            assert seconds(during.locked_until) == 150.0
            assert during.attempt == 1
            assert during != stored
            await clock.advance(10 * SECOND)
            after = await context.get_task(slow, "one")
            assert (after.scheduled_at, after.locked_until, after.attempt) == (at(240), None, 0)
            assert after == await context.get_task(slow, "one")
            assert hash(after) == hash(await context.get_task(slow, "one"))

    clock.run(main())


@pytest.mark.parametrize("limit", [1, 2, 7, 23, 100])
def test_listing_gives_every_instance_once_page_by_page(app, clock, template, limit):
    # I15
    async def main():
        async with app.create() as context:
            assert (await context.list_tasks(template, limit=limit)).tasks == []
            names = {f"instance:{number}" for number in range(23)}
            await context.schedule_tasks(template, [Instance(name=name, interval=MINUTE, args={"name": name}) for name in names])
            listed, token, pages = [], None, 0
            while True:
                page = await context.list_tasks(template, limit=limit, continuation_token=token)
                assert len(page.tasks) <= limit
                listed += page.tasks
                pages += 1
                token = page.continuation_token
                if token is None:
                    break
                assert page.tasks, "a page that has a successor is not empty"
            assert sorted(task.name for task in listed) == sorted(names)
            assert all(task.args == {"name": task.name} and task.task is template for task in listed)
            assert pages <= -(-23 // limit) + len(INDICES)

    clock.run(main())


def test_listing_under_churn_gives_every_instance_that_was_there_throughout(app, clock, template):
    # I15
    async def main():
        async with app.create() as context:
            stay = {f"stay {number}" for number in range(20)}
            come_and_go = [f"go {number}" for number in range(20)] + [f"z {number}" for number in range(20)]
            await context.schedule_tasks(template, [Instance(name=name, interval=MINUTE) for name in [*stay, *come_and_go[::2]]])
            listed, token = [], None
            for step in range(100):
                page = await context.list_tasks(template, limit=3, continuation_token=token)
                listed += [task.name for task in page.tasks]
                token = page.continuation_token
                if token is None:
                    break
                await context.unschedule_task(template, come_and_go[step % 40])
                await context.schedule_task(template, come_and_go[(step * 7 + 1) % 40], interval=MINUTE)
                await context.schedule_task(template, sorted(stay)[step % 20], interval=SECOND * (step + 1))  # another schedule
            assert stay <= set(listed)
            assert len(listed) == len(set(listed))

    clock.run(main())


def test_a_store_may_give_more_rows_than_were_asked_for(app, clock, store, template, monkeypatch):
    original = store.list

    async def generous(partition, *, limit, token=None):
        return await original(partition, limit=limit + 2, token=token)

    monkeypatch.setattr(store, "list", generous)

    async def main():
        async with app.create() as context:
            await context.schedule_tasks(template, [Instance(name=str(number), interval=MINUTE) for number in range(23)])
            names, token = [], None
            while True:
                page = await context.list_tasks(template, limit=4, continuation_token=token)
                names += [task.name for task in page.tasks]
                token = page.continuation_token
                if token is None:
                    break
            assert sorted(names) == sorted(map(str, range(23)))

    clock.run(main())


def test_a_row_that_cannot_be_understood_can_be_listed_looked_up_and_replaced(app, clock, store, template):
    # I10
    async def main():
        async with app.create() as context:
            for name in ("a", "bad schedule", "bad spec", "z"):
                await context.schedule_task(template, name, interval=MINUTE)
            for name, change in (("bad schedule", {"schedule": "fortnightly"}), ("bad spec", {"spec": "{"})):
                row = store.rows()[name]
                store._put(Key(template.partition_of(name), name), row._replace(**change))
            listed = {task.name: task for task in (await context.list_tasks(template)).tasks}
            assert set(listed) == {"a", "bad schedule", "bad spec", "z"}
            broken = listed["bad schedule"]
            assert broken.scheduled_at == at(60)
            assert "bad schedule" not in repr(broken.task)
            with pytest.raises(ScheduleError, match="fortnightly"):
                _ = broken.schedule
            with pytest.raises(ValueError, match="Expecting"):
                _ = listed["bad spec"].args
            assert (await context.get_task(template, "bad spec")).name == "bad spec"
            for name in ("bad schedule", "bad spec"):
                await context.schedule_task(template, name, interval=MINUTE, number=1)
                assert (await context.get_task(template, name)).args == {"number": 1}
                assert (await context.get_task(template, name)).schedule == Interval(MINUTE)

    clock.run(main())


def test_listing_includes_the_partitions_that_are_not_polled_here(make_app, clock):
    runs = []

    def declare(**options):
        app = make_app()

        async def template(context):
            runs.append((context.name, options["enabled_partitions"][0]))

        return app, app.partitioned_task(partition_count=4, name="template", **options)(template)

    async def main():
        first, template = declare(enabled_partitions=[0, 1])
        second, other = declare(enabled_partitions=[2, 3])
        names = {str(number) for number in range(30)}
        async with running(first) as context:
            await context.schedule_tasks(template, [Instance(name=name, execute_at=at(5)) for name in names])
            assert {task.name for task in (await context.list_tasks(template)).tasks} == names
            await clock.advance(10 * SECOND)
            left = {task.name for task in (await context.list_tasks(template)).tasks}
            assert left == {name for name in names if template.partition_of(name)[len("partitioned:")] in "23"}
            assert 0 < len(left) < 30
            async with running(second):
                await clock.advance(SECOND)
            assert (await context.list_tasks(template)).tasks == []

    clock.run(main())
    assert len(runs) == 30
    assert {index for _, index in runs} == {0, 2}


def test_a_selector_of_ones_own_decides_where_an_instance_is(app, clock, store):
    calls = []

    def first_letter(count, name):
        calls.append((count, name))
        return ord(name[0]) % count

    @app.partitioned_task(partition_count=3, partition_selector=first_letter)
    async def template(context):
        pass

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "bill", interval=MINUTE)
            assert store.rows()["bill"].key == Key("partitioned:2:template", "bill")
            assert await context.get_task(template, "bill")
            assert await context.unschedule_task(template, "bill")

    clock.run(main())
    assert set(calls) == {(3, "bill")}


# --- faults -------------------------------------------------------------------------------------------------------------


def test_scheduling_that_failed_can_be_repeated(app, clock, store, template, runs, monkeypatch):
    # I3: the call may have been applied anyway.
    register = store.register

    async def main():
        async with running(app) as context:
            for applied in (False, True):

                async def failing(*args, applied=applied, **kwargs):
                    if applied:
                        await register(*args, **kwargs)
                    monkeypatch.setattr(store, "register", register)
                    raise TransientRepositoryError("the answer got lost")

                monkeypatch.setattr(store, "register", failing)
                with pytest.raises(TransientRepositoryError):
                    await context.schedule_task(template, f"applied {applied}", execute_at=at(30))
                await context.schedule_task(template, f"applied {applied}", execute_at=at(30))
            await clock.advance(MINUTE)

    clock.run(main())
    assert sorted(run[0] for run in runs) == ["applied False", "applied True"]


def test_a_bulk_that_fails_midway_loses_nothing_that_was_stored_before(app, clock, store, template, monkeypatch):
    # I3
    register = store.register
    calls = 0

    async def failing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TransientRepositoryError("in the middle")
        await register(*args, **kwargs)

    many = [Instance(name=str(number), interval=MINUTE, args={"new": True}) for number in range(2500)]

    async def main():
        async with app.create() as context:
            await context.schedule_tasks(template, [Instance(name=str(number), interval=MINUTE) for number in range(0, 2500, 100)])
            before = store.rows()
            monkeypatch.setattr(store, "register", failing)
            with pytest.raises(TransientRepositoryError):
                await context.schedule_tasks(template, many)
            rows = store.rows()
            assert 1000 <= len(rows) < 2500
            assert all(rows[name]._replace(spec="{}") == before[name] for name in before)
            await context.schedule_tasks(template, many)
            assert len(store.rows()) == 2500

    clock.run(main())


def test_a_call_that_is_cancelled_leaves_everything_usable(app, clock, store, template, runs, monkeypatch):
    # I14
    def slow(name):
        method = getattr(store, name)

        async def call(*args, **kwargs):
            await asyncio.sleep(1)
            result = await method(*args, **kwargs)
            await asyncio.sleep(1)
            return result

        monkeypatch.setattr(store, name, call)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            for name in ("register", "unregister", "get", "list", "pause", "resume"):
                slow(name)
            for delay in (0, 0.5, 1.5):
                for call in (
                    context.schedule_task(template, "two", interval=MINUTE),
                    context.schedule_tasks(template, [Instance(name="two", interval=MINUTE)], force=True),
                    context.get_task(template, "two"),
                    context.list_tasks(template),
                    context.pause_task(template, "two"),
                    context.resume_task(template, "two"),
                    context.unschedule_task(template, "two"),
                ):
                    task = asyncio.ensure_future(call)
                    await asyncio.sleep(delay)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            await context.schedule_task(template, "two", interval=MINUTE, force=True)
            await clock.advance(100 * SECOND)
            monkeypatch.undo()

    clock.run(main())
    assert [run[:2] for run in runs] == [("one", 60.0), ("two", 74.0)]
