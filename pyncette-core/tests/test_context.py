"""What a body is told of its run."""

import asyncio
import copy
import pickle
import uuid
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pyncette import ExecutionMode, FailureMode, TaskInstance
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


def run_for(app, clock, duration, *scheduling):
    """Run an application for a while, after scheduling (template, name, options) each."""

    async def main():
        async with running(app) as context:
            for template, name, options in scheduling:
                await context.schedule_task(template, name, **options)
            await clock.advance(duration)

    clock.run(main())


def test_it_tells_which_task_and_which_instance_runs(app, clock):
    seen = {}

    async def body(context):
        assert context.task is context.task
        assert context.task.name == context.name
        seen[context.name] = context.task

    static = app.task(interval=MINUTE, name="static")(body)
    template = app.dynamic_task(name="template", lease_duration=5 * SECOND, greeting="hello")(body)
    partitioned = app.partitioned_task(name="partitioned", partition_count=3)(body)
    run_for(
        app, clock, 61 * SECOND, (template, "instance", {"interval": MINUTE}), (partitioned, "one of three", {"interval": MINUTE})
    )
    assert seen == {
        "static": static,
        "instance": TaskInstance("instance", template),
        "one of three": TaskInstance("one of three", partitioned),
    }
    assert seen["static"].template is static
    assert seen["instance"].template is template
    assert seen["instance"].lease_duration == 5 * SECOND, "it has the template's options"
    assert seen["instance"].args == {"greeting": "hello"}
    assert seen["one of three"].partition_count == 3
    assert seen["one of three"].key == partitioned.key("one of three")


def test_what_runs_can_be_shown_and_compared(app):
    static, template = app.task(interval=MINUTE, name="static")(doing_nothing), app.dynamic_task(name="remind")(doing_nothing)
    instance = TaskInstance("ada", template)
    assert f"{static}, {instance}" == "static, remind:ada"
    assert repr(instance) == "TaskInstance('ada' of 'remind')"
    assert {instance, copy.copy(instance), TaskInstance("bill", template)} == {instance, TaskInstance("bill", template)}
    with pytest.raises(AttributeError, match="colour"):
        _ = instance.colour
    for name in ("name", "template", "lease_duration", "colour"):
        with pytest.raises(AttributeError, match=f"'{name}' of the instance 'remind:ada'"):
            setattr(instance, name, "other")
    assert copy.deepcopy(instance).name == pickle.loads(pickle.dumps(instance)).name == "ada"


def test_an_instance_can_be_called_as_its_template_can(app, clock):
    async def double(context):
        return 2 * context

    async def main():
        return await TaskInstance("ada", app.dynamic_task()(double))(21)

    assert clock.run(main()) == 42


async def doing_nothing(context):
    pass


def test_scheduled_at_is_the_occurrence_in_the_zone_of_the_task(app, clock):
    seen = {}

    async def body(context):
        seen[context.name] = context.scheduled_at

    app.task(schedule="1 * * * *", name="london", timezone="Europe/London")(body)
    app.task(schedule="31 5 * * *", name="kolkata", timezone="Asia/Kolkata")(body)
    app.task(interval=MINUTE, name="plain")(body)
    template = app.dynamic_task(name="template")(body)
    once = {"execute_at": at(60), "timezone": "America/New_York"}
    run_for(app, clock, 61 * SECOND, (template, "new york", once))
    assert set(seen.values()) == {at(60)}
    zones = {name: str(instant.tzinfo) for name, instant in seen.items()}
    assert zones == {"london": "Europe/London", "kolkata": "Asia/Kolkata", "plain": "UTC", "new york": "America/New_York"}
    assert seen["kolkata"].utcoffset() == timedelta(hours=5, minutes=30)


def test_scheduled_at_stays_in_the_zone_over_a_change_of_the_clock(make_app, clock):
    clock.set(datetime(2026, 3, 29, 0, 45, tzinfo=UTC))
    app = make_app(poll_interval=timedelta(minutes=10))
    seen = []

    @app.task(schedule="50 0,2 * * *", timezone="Europe/London")
    async def task(context):
        seen.append((context.scheduled_at.isoformat(), context.scheduled_at.astimezone(UTC).hour))

    run_for(app, clock, timedelta(minutes=70))
    assert seen == [("2026-03-29T00:50:00+00:00", 0), ("2026-03-29T02:50:00+01:00", 1)]


def test_the_execution_id_is_the_same_at_every_attempt_and_differs_otherwise(app, clock):
    ids = {}

    async def body(context):
        ids.setdefault((context.task.template.name, context.name, context.scheduled_at), []).append(context.execution_id)
        if context.attempt < 3:
            raise LookupError

    options = {"failure_mode": FailureMode.UNLOCK, "retry_delay": SECOND}
    app.task(interval=20 * SECOND, name="a", **options)(body)
    app.task(interval=20 * SECOND, name="b", **options)(body)
    templates = [app.dynamic_task(name=name, **options)(body) for name in ("c", "c:d")]
    templates.append(app.partitioned_task(name="e", partition_count=2, **options)(body))
    scheduling = [
        (template, name, {"interval": 20 * SECOND, "timezone": zone})
        for template, name, zone in zip(templates * 2, ["d:e", "e", "a", "a", "b", "b"], ["UTC", "Asia/Tokyo"] * 3)
    ]
    run_for(app, clock, 50 * SECOND, *scheduling)
    assert len(ids) == 16
    assert all(len(each) == 3 and len(set(each)) == 1 for each in ids.values())
    assert len({each[0] for each in ids.values()}) == len(ids)
    assert all(str(uuid.UUID(each[0])) == each[0] for each in ids.values())


def test_the_execution_id_is_the_same_in_every_release(app, clock):
    # Side effects of an older release are recognised by it, so its value is pinned.
    seen = {}

    async def body(context):
        seen[context.name] = context.execution_id

    app.task(interval=MINUTE, name="static")(body)
    template = app.dynamic_task(name="template")(body)
    run_for(app, clock, 61 * SECOND, (template, "å:1", {"execute_at": at(60.5)}))
    assert seen == {"static": "ed816d56-8423-5d7c-9593-b711da140275", "å:1": "95109e11-b4fd-57c5-bb81-54e63d089852"}


def test_the_fencing_token_rises_at_every_claim(app, clock):
    # I1
    tokens = []

    @app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=timedelta())
    async def template(context):
        tokens.append(context.fencing_token)
        if context.attempt < 3:
            raise LookupError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "one", interval=SECOND)
            await clock.advance(3.5 * SECOND)
            await context.schedule_task(template, "one", interval=SECOND, force=True)
            await clock.advance(1.5 * SECOND)
            await context.unschedule_task(template, "one")
            await context.schedule_task(template, "one", interval=SECOND)
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert len(tokens) == 15
    assert all(earlier < later for earlier, later in zip(tokens, tokens[1:]))


def test_the_fencing_token_rises_although_the_clock_is_set_back(app, clock):
    # I1
    tokens = []

    @app.task(interval=SECOND)
    async def task(context):
        tokens.append(context.fencing_token)
        if len(tokens) == 2:
            clock.set(clock.now() - 1.5 * SECOND)

    run_for(app, clock, 20 * SECOND)
    assert len(tokens) > 10
    assert all(earlier < later for earlier, later in zip(tokens, tokens[1:]))


def test_the_lease_ends_one_duration_after_the_claim_and_a_heartbeat_moves_it(app, clock, store):
    seen = []

    @app.task(interval=MINUTE, lease_duration=30 * SECOND)
    async def task(context):
        async def look():
            row = store.rows()["task"]
            assert context.lease_expires_at == row.locked_until, "what the context says is what the store does"
            seen.append(((context.lease_expires_at - at(60)).total_seconds(), context.lease_remaining.total_seconds()))

        await look()
        await asyncio.sleep(20)
        await look()
        await context.heartbeat()
        await look()

    run_for(app, clock, 90 * SECOND)
    ends, remaining = zip(*seen)
    assert ends == (pytest.approx(30, abs=0.01), pytest.approx(30, abs=0.01), pytest.approx(50, abs=0.01))
    assert remaining == (pytest.approx(30, abs=0.01), pytest.approx(10, abs=0.01), pytest.approx(30, abs=0.01))


def test_what_remains_of_a_lease_is_not_below_zero_and_not_moved_by_the_wall_clock(app, clock):
    # I2: the body's own deadline is on a clock that can't be stepped.
    seen = []

    @app.task(interval=MINUTE, lease_duration=30 * SECOND, failure_mode=FailureMode.COMMIT)
    async def task(context):
        clock.set(clock.now() + timedelta(hours=1))
        seen.append(context.lease_remaining)
        clock.set(clock.now() - timedelta(hours=2))
        seen.append(context.lease_remaining)
        await asyncio.sleep(40)
        seen.append(context.lease_remaining)
        context.app_context.shutdown()

    clock.run(app.run())
    assert seen[0] == seen[1] == pytest.approx(30 * SECOND, abs=SECOND / 100)
    assert seen[2] == timedelta()


def test_arguments_of_the_instance_take_precedence_over_those_of_the_template(app, clock):
    seen = []

    @app.dynamic_task(greeting="hello", times=1, nested={"a": 1})
    async def template(context):
        seen.append(context.args)

    run_for(
        app,
        clock,
        2 * SECOND,
        (template, "one", {"execute_at": at(1)}),
        (template, "two", {"execute_at": at(1), "greeting": "hi", "nested": {"b": 2}, "name": "bill"}),
    )
    assert seen == [
        {"greeting": "hello", "times": 1, "nested": {"a": 1}},
        {"greeting": "hi", "times": 1, "nested": {"b": 2}, "name": "bill"},
    ]


def test_what_a_run_does_to_its_arguments_is_its_own_affair(app, clock):
    seen = []
    shared = {"items": [1]}

    async def body(context):
        seen.append(copy.deepcopy(context.args))
        context.args["nested"]["items"].append(2)
        context.args["more"] = True
        context.args.get("own", []).append(3)
        if context.attempt == 1:
            raise LookupError

    options = {"failure_mode": FailureMode.UNLOCK, "retry_delay": timedelta()}
    app.task(interval=20 * SECOND, name="static", nested=shared, **options)(body)
    template = app.dynamic_task(name="template", nested=shared, **options)(body)
    run_for(
        app, clock, 50 * SECOND, (template, "a", {"interval": 20 * SECOND, "own": []}), (template, "b", {"interval": 20 * SECOND})
    )
    assert len(seen) == 3 * 2 * 2
    assert all(each["nested"] == {"items": [1]} and "more" not in each and not each.get("own") for each in seen)
    assert shared == {"items": [1]}
    assert template.args == {"nested": {"items": [1]}}


def test_arguments_in_the_code_are_those_of_the_run_after_a_deployment(make_app, clock):
    seen = []
    for greeting in ("old", "new"):
        app = make_app()

        @app.task(interval=MINUTE, greeting=greeting)
        async def task(context):
            seen.append(context.args["greeting"])

        run_for(app, clock, 70 * SECOND)
    assert seen == ["old", "new"]


def test_attempts_count_from_one_for_each_occurrence(app, clock):
    seen = []

    @app.task(interval=MINUTE, failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)
    async def task(context):
        seen.append((context.scheduled_at, context.attempt))
        if context.attempt < 2:
            raise LookupError

    run_for(app, clock, 130 * SECOND)
    assert seen == [(at(60), 1), (at(60), 2), (at(120), 1), (at(120), 2)]


def test_tasks_can_be_scheduled_from_a_body(app, clock):
    seen = []

    @app.dynamic_task()
    async def follow_up(context):
        seen.append((context.name, context.scheduled_at, context.args))

    @app.task(interval=MINUTE)
    async def task(context):
        assert context.app_context.repository
        await context.app_context.schedule_task(
            follow_up, "next", execute_at=context.scheduled_at + 5 * SECOND, origin=context.name
        )

    run_for(app, clock, 70 * SECOND)
    assert seen == [("next", at(65), {"origin": "task"})]


def test_an_attribute_that_nobody_provides_is_an_attribute_error_that_names_it(app, clock):
    seen = []

    @app.task(interval=MINUTE)
    async def task(context):
        for name in ("database", "__wrapped__", "_hidden"):
            assert not hasattr(context, name)
        with pytest.raises(AttributeError, match="'database'"):
            _ = context.database
        assert getattr(context, "database", None) is None
        seen.append(copy.copy(context).name)

    run_for(app, clock, 61 * SECOND)
    assert seen == ["task"]


def test_what_is_added_to_the_context_is_seen_by_every_body_and_may_be_replaced(app, clock):
    seen = []

    @app.fixture()
    async def counter(app_context):
        app_context.add_to_context("added", "by a fixture")
        yield 5

    @app.task(interval=MINUTE)
    async def task(context):
        seen.append((context.counter, context.added))
        context.app_context.add_to_context("added", "by a body")
        seen.append(context.added)

    run_for(app, clock, 121 * SECOND)
    assert seen == [(5, "by a fixture"), "by a body", (5, "by a body"), "by a body"]


def test_what_a_body_sets_is_its_own(app, clock):
    seen = []

    @app.fixture()
    async def counter():
        yield 5

    @app.task(interval=MINUTE)
    async def task(context):
        seen.append(context.counter)
        context.counter = 6
        context.scratch = True

    run_for(app, clock, 121 * SECOND)
    assert seen == [5, 5]


def test_the_representation_names_the_run_and_shows_no_arguments(app, clock):
    seen = []

    @app.dynamic_task()
    async def template(context):
        seen.append(repr(context))

    run_for(app, clock, 2 * SECOND, (template, "one", {"execute_at": at(1), "token": "s3cret"}))
    [shown] = seen
    assert "'template'" in shown
    assert "'one'" in shown
    assert "2026-01-01 00:00:01" in shown
    assert "attempt=1" in shown
    assert "s3cret" not in shown


def test_a_heartbeat_of_at_most_once_does_nothing(app, clock, store):
    seen = []

    @app.task(interval=MINUTE, execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=SECOND)
    async def task(context):
        before = store.rows()
        await asyncio.sleep(5)
        await context.heartbeat()
        seen.append(store.rows() == before)

    run_for(app, clock, 70 * SECOND)
    assert seen == [True]


def test_the_zone_of_a_stored_schedule_decides_not_that_of_the_code(make_app, clock):
    # Old and new versions run side by side during a deployment.
    seen = []

    def declare(zone):
        app = make_app()

        @app.task(schedule="* * * * *", timezone=zone)
        async def task(context):
            seen.append(context.scheduled_at.tzinfo)

        return app

    async def main():
        async with running(declare("Europe/London")):
            await clock.advance(SECOND)
            async with running(declare("Asia/Tokyo")):
                await clock.advance(MINUTE)

    clock.run(main())
    assert seen == [ZoneInfo("Asia/Tokyo")]
