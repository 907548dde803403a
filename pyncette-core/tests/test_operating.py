"""What operators do: pause a whole template, retry what has failed, reschedule."""

from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, FailureMode, Instance, RepositoryError, State
from pyncette.layout import stored_layout
from pyncette.memo import Memo
from pyncette.moving import move
from pyncette.repository import Key, Repository
from pyncette.testing import running

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
KINDS = {
    "dynamic": lambda app, **options: app.dynamic_task(name="task", **options),
    "partitioned": lambda app, **options: app.partitioned_task(name="task", partition_count=7, **options),
}


class Shop:
    """An application with one template, and what its body saw."""

    def __init__(self, app, kind="dynamic", **options):
        self.app, self.ran, self.fails = app, [], False
        self.task = KINDS[kind](app, **options)(self.body)

    async def body(self, context):
        self.ran.append(context.name)
        if self.fails:
            raise ValueError("no")


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def test_a_paused_template_runs_nothing_in_any_process_until_it_is_resumed(make_app, clock, kind):
    here, there = Shop(make_app(), kind), Shop(make_app(), kind)

    async def main():
        async with running(here.app) as app_context, running(there.app) as other:
            for number in range(8):
                await app_context.schedule_task(here.task, str(number), interval=SECOND)
            await clock.advance(MINUTE)
            assert here.ran + there.ran  # which of the two is first in virtual time depends on the version of Python
            await other.pause_template(there.task)
            await clock.advance(10 * SECOND)
            del here.ran[:], there.ran[:]
            await app_context.schedule_task(here.task, "new", execute_at=clock.now())
            await app_context.trigger_task(here.task, "1")
            await clock.advance(HOUR)
            assert here.ran == there.ran == []
            assert await app_context.resume_template(here.task)
            assert not await app_context.resume_template(here.task)
            await clock.advance(10 * SECOND)
            assert {"new", *map(str, range(8))} <= {*here.ran, *there.ran}

    clock.run(main())


def test_a_pause_takes_effect_at_once_in_the_process_that_asks_and_leaves_other_templates_alone(app, clock):
    shop, ran = Shop(app), []

    @app.dynamic_task()
    async def other(context):
        ran.append(context.name)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(shop.task, "a", interval=SECOND)
            await app_context.schedule_task(other, "b", interval=SECOND)
            await app_context.pause_template(shop.task)
            await clock.advance(MINUTE)
            assert (len(shop.ran), len(ran)) == (0, 59)

    clock.run(main())


def test_a_process_that_starts_knows_that_a_template_is_paused(make_app, clock, store, kind):
    shop = Shop(make_app(), kind)

    async def main():
        async with shop.app.create() as app_context:
            await app_context.schedule_task(shop.task, "due", execute_at=START)
            await app_context.pause_template(shop.task)
        for _ in range(2):
            late = Shop(make_app(), kind)
            async with running(late.app):
                await clock.advance(HOUR)
                assert not late.ran

    clock.run(main())


def test_a_run_on_its_way_goes_on_and_commits_while_its_template_is_paused(app, clock):
    import asyncio

    ended = []

    @app.dynamic_task(lease_duration=MINUTE)
    async def slow(context):
        await asyncio.sleep(40)
        await context.heartbeat()
        await asyncio.sleep(40)
        ended.append(context.name)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(slow, "a", execute_at=START)
            await clock.advance(SECOND)
            await app_context.pause_template(slow)
            await clock.advance(HOUR)
            assert ended == ["a"]
            assert await app_context.get_task(slow, "a") is None

    clock.run(main())


def test_a_template_stays_paused_when_its_layout_is_changed(make_app, clock):
    before, after = Shop(make_app(), "dynamic"), Shop(make_app(), "partitioned")

    async def main():
        async with before.app.create() as app_context:
            await app_context.schedule_task(before.task, "a", execute_at=START)
            await app_context.pause_template(before.task)
        async with after.app.create(layouts="ignore") as app_context:
            assert (await move(app_context.repository, app_context.clock, "task", after.task)).complete
        async with running(after.app) as app_context:
            await clock.advance(MINUTE)
            assert not after.ran
            assert (await stored_layout(app_context.repository, "task")).partition_count == 7
            await app_context.resume_template(after.task)
            await clock.advance(SECOND)
            assert after.ran == ["a"]

    clock.run(main())


def test_a_template_that_is_paused_before_it_was_ever_started_can_be_started(make_app, clock, kind):
    shop, later = Shop(make_app(), kind), Shop(make_app(), kind)

    async def main():
        async with shop.app.create(layouts="compare") as app_context:
            await app_context.pause_template(shop.task)
        async with running(later.app) as app_context:
            await app_context.schedule_task(later.task, "a", execute_at=START)
            await clock.advance(MINUTE)
            assert not later.ran

    clock.run(main())


def test_a_store_that_can_not_pause_says_so(make_app, clock, store):
    class Plain(Repository):
        """Has the methods that every store has, and no others."""

    for name in ("register", "unregister", "claim", "settle", "get", "list"):
        setattr(Plain, name, lambda self, *args, _name=name, **options: getattr(store, _name)(*args, **options))
    Plain.__abstractmethods__ = frozenset()

    import contextlib

    @contextlib.asynccontextmanager
    async def factory():
        yield Plain()

    shop = Shop(make_app(repository_factory=factory))

    async def main():
        async with shop.app.create() as app_context:
            with pytest.raises(RepositoryError, match="can't pause"):
                await app_context.pause_template(shop.task)
        async with running(shop.app) as app_context:
            await app_context.schedule_task(shop.task, "a", execute_at=START)
            await app_context.trigger_task(shop.task, "a")
            await clock.advance(SECOND)
            assert shop.ran == ["a", "a"]

    clock.run(main())


def test_who_did_it_is_in_the_audit_log_and_who_paused_a_template_is_stored(app, clock, store, caplog):
    caplog.set_level("INFO", "pyncette.audit")
    shop = Shop(app, max_attempts=1)
    shop.fails = True
    report = app.task(name="report", interval=HOUR)(shop.body)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(shop.task, "a", execute_at=START)
            await clock.advance(SECOND)
            caplog.clear()
            await app_context.retry_task(shop.task, "a", by="ada")
            await clock.advance(SECOND)
            await app_context.retry_tasks(shop.task, by="ada")
            await app_context.reschedule_task(shop.task, "a", interval=HOUR, by="ada")
            await app_context.trigger_task(shop.task, "a", by="ada")
            await app_context.backfill_task(report, start=START - 2 * HOUR, end=START, by="ada")
            await app_context.pause_template(shop.task, note="too loud", by="ada")
            note = Memo.read(store._get(Key("layouts", "task")).memo).note
            assert (note.text, note.by, note.at) == ("too loud", "ada", clock.now())
            await app_context.resume_template(shop.task, by="ada")
            assert Memo.read(store._get(Key("layouts", "task")).memo).note is None

    clock.run(main())
    records = [record for record in caplog.records if record.name == "pyncette.audit"]
    assert {record.by for record in records} == {"ada"}
    assert [record.action for record in records] == [
        *("retry", "retry", "reschedule", "trigger", "backfill", "pause template", "resume template"),
    ]
    assert [record.task for record in records] == [*["task"] * 4, "report", *["task"] * 2]


# --- retrying -----------------------------------------------------------------------------------------------------------


def test_what_was_given_up_is_retried_with_all_its_attempts_and_nothing_else(app, clock, kind):
    shop = Shop(app, kind, max_attempts=2, failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(shop.task, [Instance(name=str(number), execute_at=START) for number in range(25)])
            shop.fails = True
            await clock.advance(MINUTE)
            assert len(shop.ran) == 50
            await app_context.schedule_task(shop.task, "paused", execute_at=START)
            await app_context.pause_task(shop.task, "paused")
            await app_context.schedule_task(shop.task, "later", interval=HOUR)
            del shop.ran[:]
            shop.fails = False
            assert await app_context.retry_task(shop.task, "7") is True
            for name in ("paused", "later", "nobody"):
                assert await app_context.retry_task(shop.task, name) is False
            await clock.advance(SECOND)
            assert shop.ran == ["7"]
            told = []
            assert await app_context.retry_tasks(shop.task, progress=told.append) == 24
            assert told[-1] == 24
            await clock.advance(SECOND)
            assert len(set(shop.ran)) == len(shop.ran) == 25
            assert (await app_context.get_task(shop.task, "paused")).state is State.PAUSED

    clock.run(main())


# --- rescheduling -------------------------------------------------------------------------------------------------------


def test_a_rescheduled_instance_keeps_its_arguments_and_its_time_zone(app, clock):
    shop = Shop(app)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_task(shop.task, "a", schedule="0 9 * * *", timezone="Europe/Berlin", text="hello")
            assert await app_context.reschedule_task(shop.task, "a", schedule="30 9 * * *")
            stored = await app_context.get_task(shop.task, "a")
            assert (stored.schedule.text, stored.args) == ("cron 30 9 * * * @Europe/Berlin", {"text": "hello"})
            assert await app_context.reschedule_task(shop.task, "a", interval=HOUR, timezone="UTC")
            assert (await app_context.get_task(shop.task, "a")).scheduled_at == clock.now() + HOUR
            once = {"execute_at": START + HOUR}
            assert await app_context.reschedule_task(shop.task, "a", **once)
            rescheduled = (await app_context.get_task(shop.task, "a")).row
            await app_context.schedule_task(shop.task, "a", **once, timezone="UTC", text="hello")
            assert (await app_context.get_task(shop.task, "a")).row == rescheduled, "as if it had been scheduled so"
            assert await app_context.reschedule_task(shop.task, "b", interval=HOUR) is False
            with pytest.raises(ConfigurationError):
                await app_context.reschedule_task(shop.task, "a")

    clock.run(main())


def test_the_facts_of_templates_are_no_tasks_that_nobody_declares(app, clock, store, caplog):
    shop = Shop(app)
    task = app.task(name="static", interval=HOUR)(shop.body)

    async def main():
        async with running(app) as app_context:
            await clock.advance(SECOND)
            await app_context.pause_template(shop.task)
            await app_context.trigger_task(task)
            await app_context.backfill_task(task, start=START - HOUR, end=START)
        async with running(app):
            await clock.advance(SECOND)

    clock.run(main())
    assert Key("bells", "static") in {row.key for row in store.rows().values()}
    assert "nobody runs" not in caplog.text
