"""Extra runs: triggered, and backfilled for past times."""

from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, ExecutionMode, FailureMode, Instance, State
from pyncette.partitions import extra_runs
from pyncette.schedules.kinds import Extra
from pyncette.schedules.text import origin_of, parse
from pyncette.testing import running

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LONG = "🙂" * 245 + "\x1f :@# é"
KINDS = {
    "static": lambda app, **options: app.task(name="task", interval=HOUR, timezone="Europe/Berlin", **options),
    "dynamic": lambda app, **options: app.dynamic_task(name="task", **options),
    "partitioned": lambda app, **options: app.partitioned_task(name="task", partition_count=7, **options),
}


class Shop:
    """An application with one task of a kind, and what its body saw."""

    def __init__(self, app, kind, **options):
        self.app, self.seen, self.error = app, [], None
        self.task = KINDS[kind](app, **options)(self.body)
        self.instance = () if kind == "static" else ("ada",)
        self.name = "task" if kind == "static" else "ada"

    async def body(self, context):
        self.seen.append(context)
        context.ids = context.execution_id
        if self.error is not None:
            raise self.error

    async def schedule(self, app_context, **options):
        if self.instance:
            await app_context.schedule_task(self.task, "ada", **{"interval": HOUR, "timezone": "Europe/Berlin", **options})

    @property
    def extra(self):
        return [context for context in self.seen if context.triggered]

    @property
    def regular(self):
        return [context for context in self.seen if not context.triggered]


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def test_a_triggered_task_runs_at_once_beside_its_schedule_and_leaves_nothing(app, clock, store, kind):
    shop = Shop(app, kind, color="red")

    async def main():
        async with running(app) as app_context:
            await shop.schedule(app_context, args={"size": 3} if shop.instance else None)
            await clock.advance(10 * MINUTE)
            regular = await app_context.get_task(shop.task, *shop.instance)
            assert await app_context.trigger_task(shop.task, *shop.instance)
            await clock.advance(SECOND)
            [context] = shop.seen
            assert (context.triggered, context.name, context.attempt) == (True, shop.name, 1)
            assert (context.task.name, context.task.template) == (shop.name, shop.task)
            assert context.scheduled_at == START + 10 * MINUTE
            assert context.scheduled_at.tzinfo.key == "Europe/Berlin"
            assert context.args == {"color": "red", **({"size": 3} if shop.instance else {})}
            assert await app_context.get_task(shop.task, *shop.instance) == regular
            await clock.advance(HOUR)
            assert [context.scheduled_at for context in shop.regular] == [START + HOUR]
            assert shop.regular[0].triggered is False
        assert not [name for name in store.rows() if name.startswith("extra:")]

    clock.run(main())


def test_twice_triggered_is_two_runs_of_different_ids_and_with_a_key_one(app, clock, kind):
    shop = Shop(app, kind)

    async def main():
        async with app.create() as app_context:
            await shop.schedule(app_context)
            for _ in range(2):
                assert await app_context.trigger_task(shop.task, *shop.instance)
                assert await app_context.trigger_task(shop.task, *shop.instance, idempotency_key="order 17")
        async with running(app):
            await clock.advance(SECOND)
        assert len(shop.extra) == 3
        assert len({context.execution_id for context in shop.extra}) == 3

    clock.run(main())


def test_what_another_process_triggers_is_noticed_within_ten_seconds(make_app, clock, kind):
    shop, web = Shop(make_app(), kind), Shop(make_app(), kind)

    async def main():
        async with running(shop.app), web.app.create() as client:
            await clock.advance(MINUTE)
            await web.schedule(client)
            for count in (1, 2, 3):
                await client.trigger_task(web.task, *web.instance)
                await clock.advance(10 * SECOND)
                assert len(shop.extra) == count

    clock.run(main())


def test_an_extra_run_whose_process_dies_is_taken_over(make_app, clock, store, kind):
    first, second = Shop(make_app(), kind, lease_duration=30 * SECOND), Shop(make_app(), kind, lease_duration=30 * SECOND)

    async def main():
        async with running(second.app) as app_context:
            await second.schedule(app_context)
            await clock.advance(MINUTE)
            async with first.app.create() as dying:
                await dying.trigger_task(first.task, *first.instance)
            [key] = [row.key for row in store.rows().values() if row.key.name.startswith("extra:")]
            # Another process is first, and is never heard of again.
            await store.claim(clock.now(), key.partition, lease_duration=30 * SECOND, limit=1, names=[key.name])
            await clock.advance(29 * SECOND)
            assert not second.extra
            await clock.advance(20 * SECOND)
            assert [context.attempt for context in second.extra] == [2]

    clock.run(main())


def test_an_idle_process_looks_for_extra_runs_of_any_number_of_static_tasks_in_one_call(make_app, clock, store):
    app = make_app(poll_interval=SECOND)
    for number in range(50):
        app.task(name=f"task{number}", interval=365 * DAY)(idle)
    calls = []
    for method in ("get", "claim", "list", "register"):
        setattr(store, method, counted(calls, method, getattr(store, method)))

    async def main():
        async with running(app):
            await clock.advance(MINUTE)
            calls.clear()
            await clock.advance(MINUTE)
        assert calls.count("claim") <= 61
        assert calls.count("get") <= 60 / 5 + 1

    clock.run(main())


async def idle(context): ...


def counted(calls, name, method):
    async def call(*args, **options):
        calls.append(name)
        return await method(*args, **options)

    return call


def test_the_options_of_the_task_hold_for_its_extra_runs(app, clock, kind):
    shop = Shop(app, kind, failure_mode=FailureMode.UNLOCK, retry_delay=MINUTE, max_attempts=3)

    async def main():
        async with running(app) as app_context:
            await shop.schedule(app_context)
            shop.error = ValueError("no")
            await app_context.trigger_task(shop.task, *shop.instance)
            await clock.advance(10 * MINUTE)
            assert [context.attempt for context in shop.extra] == [1, 2, 3]
            assert len({context.ids for context in shop.extra}) == 1
            # It is kept as a failed once-off is, and can be retried.
            shop.error = None
            assert await app_context.retry_tasks(shop.task) == 1
            await clock.advance(SECOND)
            assert [context.attempt for context in shop.extra] == [1, 2, 3, 1]
            assert await app_context.retry_tasks(shop.task) == 0

    clock.run(main())


def test_one_that_was_given_up_is_retried_or_removed_alone(app, make_app, clock, kind):
    shop, other = Shop(app, kind, max_attempts=1), Shop(make_app(), kind, max_attempts=1)

    async def main():
        async with running(app), other.app.create(clock=clock) as operator:
            await other.schedule(operator)
            shop.error = ValueError("no")
            for _ in range(2):
                await operator.trigger_task(other.task, *shop.instance)
            await clock.advance(10 * SECOND)
            first, second = [each for each in (await operator.list_tasks(other.task, extra_runs=True)).tasks if each.triggered]
            assert (first.name, first.state) == (second.name, second.state) == (shop.name, State.FAILED)
            shop.error = None
            which = {"extra_run": first.extra_run}
            assert await operator.get_task(other.task, *shop.instance, **which) == first
            assert await operator.retry_task(other.task, *shop.instance, **which, by="ada")
            await clock.advance(10 * SECOND)
            assert len(shop.extra) == 3
            assert await operator.get_task(other.task, *shop.instance, **which) is None  # it has run
            assert not await operator.retry_task(other.task, *shop.instance, **which)
            assert await operator.unschedule_task(other.task, *shop.instance, extra_run=second.extra_run, by="ada")
            assert not await operator.unschedule_task(other.task, *shop.instance, extra_run=second.extra_run)
            assert not [each for each in (await operator.list_tasks(other.task, extra_runs=True)).tasks if each.triggered]
            if shop.instance:
                assert (await operator.get_task(other.task, "ada")).state is State.SCHEDULED
            with pytest.raises(ConfigurationError, match="not an extra run"):
                await operator.retry_task(other.task, *shop.instance, extra_run="ada")

    clock.run(main())


def test_at_most_once_holds_for_extra_runs(app, clock, kind):
    shop = Shop(app, kind, execution_mode=ExecutionMode.AT_MOST_ONCE)

    async def main():
        async with running(app) as app_context:
            await shop.schedule(app_context)
            shop.error = ValueError("no")
            await app_context.trigger_task(shop.task, *shop.instance)
            await clock.advance(10 * MINUTE)
        assert len(shop.extra) == 1

    clock.run(main())


def test_an_extra_run_keeps_the_arguments_that_it_was_given_whatever_becomes_of_its_origin(app, clock):
    shop = Shop(app, "dynamic")

    async def main():
        async with app.create() as app_context:
            for name in ("replaced", "removed", "paused"):
                await app_context.schedule_task(shop.task, name, interval=HOUR, text="old")
                await app_context.trigger_task(shop.task, name)
            await app_context.schedule_task(shop.task, "replaced", interval=HOUR, text="new")
            await app_context.unschedule_task(shop.task, "removed")
            await app_context.pause_task(shop.task, "paused")
            await app_context.trigger_task(shop.task, "paused")
        async with running(app):
            await clock.advance(SECOND)
        assert sorted((context.name, context.args["text"]) for context in shop.seen) == [
            ("paused", "old"),
            ("paused", "old"),
            ("removed", "old"),
            ("replaced", "old"),
        ]

    clock.run(main())


def test_there_is_no_extra_run_of_what_is_not_there_or_not_known(app, make_app, clock):
    shop, other = Shop(app, "dynamic"), Shop(make_app(), "static")

    async def main():
        async with app.create() as app_context:
            assert await app_context.trigger_task(shop.task, "nobody") is False
            with pytest.raises(ConfigurationError, match="no instance 'nobody'"):
                await app_context.backfill_task(shop.task, "nobody", start=START - DAY, end=START)
            with pytest.raises(ConfigurationError, match="does not belong to this application"):
                await app_context.trigger_task(other.task)

    clock.run(main())


@pytest.mark.parametrize("name", [LONG, "x" * 255, "trigger @UTC a", "extra:", "a\nb"])
def test_any_name_can_be_triggered_and_none_is_that_of_an_extra_run(app, clock, store, name):
    shop = Shop(app, "partitioned")

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(shop.task, name, interval=HOUR, timezone="Europe/Berlin")
            await app_context.trigger_task(shop.task, name)
            await clock.advance(SECOND)
            assert [context.name for context in shop.extra] == [name]
            with pytest.raises(ConfigurationError, match="extra run"):
                await app_context.schedule_task(shop.task, f"extra:{'0a' * 16}", interval=HOUR)

    clock.run(main())
    assert parse(Extra("trigger", name, "Europe/Berlin").text) == Extra("trigger", name, "Europe/Berlin")
    assert origin_of(Extra("backfill", name).text) == name


def test_extra_runs_are_listed_only_if_asked_for(app, clock):
    shop = Shop(app, "partitioned")

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(shop.task, [Instance(name=str(number), interval=HOUR) for number in range(20)])
            await app_context.trigger_task(shop.task, "7")
            page = await app_context.list_tasks(shop.task)
            assert len(page.tasks) == 20
            page = await app_context.list_tasks(shop.task, extra_runs=True)
            assert [(task.name, task.scheduled_at) for task in page.tasks if task.triggered] == [("7", START)]

    clock.run(main())


# --- backfilling --------------------------------------------------------------------------------------------------------


def test_a_backfill_runs_each_past_time_of_the_schedule_once(app, clock, kind):
    shop = Shop(app, kind)

    async def main():
        async with running(app) as app_context:
            await shop.schedule(app_context)
            span = {"start": START - DAY, "end": START - DAY + 5 * HOUR}
            expected = [START - DAY + number * HOUR for number in range(5)]
            assert await app_context.backfill_times(shop.task, *shop.instance, **span) == expected
            assert await app_context.backfill_task(shop.task, *shop.instance, **span) == 5
            assert await app_context.backfill_task(shop.task, *shop.instance, **span) == 0
            await clock.advance(SECOND)
            assert [context.scheduled_at for context in shop.extra] == expected
            assert len({context.execution_id for context in shop.extra}) == 5
            assert await app_context.backfill_task(shop.task, *shop.instance, **span) == 0
            ids = {context.execution_id for context in shop.extra}
            assert await app_context.backfill_task(shop.task, *shop.instance, **span, again=True) == 5
            await clock.advance(SECOND)
            assert len(shop.extra) == 10
            assert {context.execution_id for context in shop.extra} == ids
            assert not shop.regular

    clock.run(main())


def test_overlapping_backfills_that_wait_do_not_double(app, clock, kind):
    shop = Shop(app, kind)

    async def main():
        async with app.create() as app_context:
            await shop.schedule(app_context)
            await app_context.backfill_task(shop.task, *shop.instance, start=START - 9 * HOUR, end=START - 3 * HOUR)
            await app_context.backfill_task(shop.task, *shop.instance, start=START - 6 * HOUR, end=START)
        async with running(app):
            await clock.advance(SECOND)
        assert sorted(context.scheduled_at for context in shop.extra) == [START - number * HOUR for number in range(9, 0, -1)]

    clock.run(main())


def test_a_backfill_leaves_out_what_the_schedule_has_still_to_run(app, clock):
    shop = Shop(app, "dynamic")

    async def main():
        async with app.create() as app_context:
            await shop.schedule(app_context, interval=None, schedule="0 * * * *")
            await clock.advance(5 * HOUR)
            span = {"start": START - 2 * HOUR, "end": clock.now()}
            times = await app_context.backfill_times(shop.task, "ada", **span)
            assert times == [START - 2 * HOUR, START - HOUR, START]

    clock.run(main())


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (START - DAY, START + HOUR, "in the future"),
        (START - DAY, START - DAY, "swap them"),
        (START - DAY, START - 2 * DAY, "swap them"),
        (START - 3000 * DAY, START, "more than 10000"),
        (datetime(2025, 1, 1), START, "aware"),
        ("yesterday", START, "aware"),
    ],
)
def test_a_backfill_that_makes_no_sense_is_refused_and_changes_nothing(app, clock, store, start, end, words):
    shop = Shop(app, "dynamic")

    async def main():
        async with app.create() as app_context:
            await shop.schedule(app_context)
            before = store.rows()
            with pytest.raises(ConfigurationError, match=words):
                await app_context.backfill_task(shop.task, "ada", start=start, end=end)
            assert store.rows() == before

    clock.run(main())


def test_backfills_are_forgotten_after_a_month(app, clock, store):
    shop = Shop(app, "dynamic")

    async def main():
        async with app.create() as app_context:
            await shop.schedule(app_context)
            left = []
            for number in range(3):
                await clock.advance(20 * DAY)
                await app_context.backfill_task(shop.task, "ada", start=START - DAY, end=START, again=True)
                await app_context.backfill_task(shop.task, "ada", start=START - 2 * DAY, end=START - number * HOUR)
                left.append(sum(row.key.partition == "backfills" for row in store.rows().values()))
        assert left == [2, 3, 2]

    clock.run(main())


# --- moving -------------------------------------------------------------------------------------------------------------


def test_extra_runs_move_with_their_template(make_app, clock):
    before, after = Shop(make_app(), "dynamic"), Shop(make_app(), "partitioned")

    async def main():
        from pyncette.moving import move

        async with before.app.create() as app_context:
            for number in range(9):
                await app_context.schedule_task(before.task, str(number), interval=HOUR)
                await app_context.trigger_task(before.task, str(number))
        async with after.app.create(layouts="ignore") as app_context:
            moved = await move(app_context.repository, app_context.clock, "task", after.task)
            assert (moved.moved, moved.complete) == (18, True)
        async with running(after.app):
            await clock.advance(SECOND)
        assert sorted(context.name for context in after.extra) == [str(number) for number in range(9)]

    clock.run(main())


def test_extra_runs_of_static_tasks_have_a_partition_of_their_own(app, clock, store):
    shop = Shop(app, "static")

    async def main():
        async with app.create() as app_context:
            await app_context.trigger_task(shop.task)
        [row] = [row for row in store.rows().values() if row.key.name.startswith("extra:")]
        assert row.key.partition == extra_runs("task")
        assert row.state is State.SCHEDULED

    clock.run(main())
