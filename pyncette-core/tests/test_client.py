"""Calls of an application's client: what they take, from where they may come, and what they leave to others."""

import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Store

from pyncette import ConfigurationError, Instance, PyncetteError, TransientRepositoryError
from pyncette.testing import running

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


async def body(context):
    pass


# --- what they take -----------------------------------------------------------------------------------------------------


def test_the_task_of_a_context_names_the_instance_in_every_call(app, clock):
    seen = []

    @app.dynamic_task()
    async def remind(context):
        client, task = context.app_context, context.task
        seen.append((await client.get_task(task)).name)
        seen.append(await client.pause_task(task))
        seen.append(await client.resume_task(task))
        await client.schedule_task(task, interval=HOUR)
        seen.append((await client.get_task(task, "ada")).schedule.duration)
        seen.append([each.name for each in (await client.list_tasks(task)).tasks])
        with pytest.raises(ConfigurationError, match="'bob'"):
            await client.get_task(task, "bob")
        seen.append(await client.unschedule_task(task))

    async def main():
        async with running(app) as context:
            await context.schedule_task(remind, "ada", interval=SECOND)
            await clock.advance(1.5 * SECOND)
            assert await context.get_task(remind, "ada") is None

    clock.run(main())
    assert seen == ["ada", True, True, HOUR, ["ada"], True]


def test_task_and_instance_name_may_be_given_by_name(app, clock):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            which = {"task": template, "instance_name": "ada"}
            await context.schedule_task(**which, interval=SECOND)
            await context.schedule_tasks(task=template, instances=[Instance(name="bob", interval=SECOND)])
            assert await context.get_task(**which)
            assert await context.pause_task(**which)
            assert await context.resume_task(**which)
            assert len((await context.list_tasks(task=template)).tasks) == 2
            assert await context.unschedule_task(**which)

    clock.run(main())


def test_args_take_any_name_and_join_the_others(app, clock):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            args = {"task": 1, "instance_name": 2, "args": 3, "force": 4, "tz": 5}
            await context.schedule_task(template, "ada", interval=SECOND, args=args, colour="red")
            assert (await context.get_task(template, "ada")).args == args | {"colour": "red"}
            with pytest.raises(ConfigurationError, match="'colour'.*twice"):
                await context.schedule_task(template, "ada", interval=SECOND, args={"colour": 1}, colour="red")
            with pytest.raises(ConfigurationError, match="dict"):
                await context.schedule_task(template, "ada", interval=SECOND, args=[1])

    clock.run(main())


def test_a_template_without_a_name_is_told_to_have_one(app, clock):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            for call in (context.schedule_task, context.unschedule_task, context.get_task):
                with pytest.raises(ConfigurationError, match="'template'.*name"):
                    await call(template)

    clock.run(main())


# --- from where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["schedule_task", "schedule_tasks", "unschedule_task", "get_task", "list_tasks", "pause_task"])
def test_a_call_from_another_loop_is_one_error_and_the_application_goes_on(app, method):
    template = app.dynamic_task(name="template")(body)
    arguments = {"schedule_tasks": [[Instance(name="x", interval=SECOND)]], "list_tasks": []}.get(method, ["x"])
    options = {"interval": SECOND} if method == "schedule_task" else {}

    async def main():
        async with app.create() as context:
            call = getattr(context, method)
            assert inspect.iscoroutinefunction(call)

            def elsewhere():
                asyncio.run(call(template, *arguments, **options))

            with pytest.raises(PyncetteError, match="another event loop.*run_coroutine_threadsafe"):
                await asyncio.to_thread(elsewhere)
            await call(template, *arguments, **options)

            def rightly():
                return asyncio.run_coroutine_threadsafe(call(template, *arguments, **options), loop).result(5)

            loop = asyncio.get_running_loop()
            await asyncio.to_thread(rightly)

    asyncio.run(main())


# --- what they leave to others ------------------------------------------------------------------------------------------


def test_others_run_while_many_instances_are_checked(app, clock):
    template = app.dynamic_task(name="template")(body)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main():
        async with app.create() as context:
            task = asyncio.create_task(other())
            await context.schedule_tasks(template, (Instance(name=str(number), interval=SECOND) for number in range(5000)))
            task.cancel()

    clock.run(main())
    assert turns > 5000 / 250


def test_all_are_checked_before_the_first_is_stored(app, clock, store):
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as context:
            instances = [Instance(name=str(number), interval=SECOND) for number in range(3000)]
            with pytest.raises(ConfigurationError, match="twice"):
                await context.schedule_tasks(template, iter([*instances, instances[0]]))
            assert store.rows() == {}

    clock.run(main())


# --- the time -----------------------------------------------------------------------------------------------------------


class Server(Store):
    """Has a clock of its own, which can be wrong, or not to be reached."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.ahead, self.asked, self.away = clock, timedelta(), 0, False

    async def server_time(self):
        self.asked += 1
        if self.away:
            raise TransientRepositoryError("away")
        return self.clock.now() + self.ahead


def test_a_process_that_only_schedules_follows_the_clock_of_the_store(make_app, clock):
    async def main():
        server = Server(clock)
        app = make_app(repository_factory=server.open)
        template = app.dynamic_task(name="template")(body)
        async with app.create() as context:
            server.ahead = HOUR  # the machine stood still, and its monotonic clock with it
            await clock.advance(31 * SECOND)
            await asyncio.gather(*(context.schedule_task(template, str(number), interval=SECOND) for number in range(10)))
            asked = server.asked
            stored = await context.get_task(template, "1")
            assert stored.scheduled_at == START + HOUR + 32 * SECOND
            await clock.advance(20 * SECOND)
            await context.schedule_task(template, "1", interval=HOUR)
            assert server.asked == asked, "not in every call"
            server.away = True
            await clock.advance(31 * SECOND)
            await context.schedule_task(template, "2", interval=HOUR)
            assert (await context.get_task(template, "2")).scheduled_at == START + 2 * HOUR + 82 * SECOND

    clock.run(main())


# --- without an engine --------------------------------------------------------------------------------------------------


def test_what_a_client_schedules_runs_elsewhere(make_app, clock):
    ran = []
    web, worker = make_app(), make_app()
    scheduled = web.dynamic_task(name="remind")(body)

    @worker.dynamic_task(name="remind")
    async def remind(context):
        ran.append((context.task.name, context.args["text"]))

    async def main():
        async with running(worker), web.client() as client:
            await client.schedule_task(scheduled, "ada", execute_at=clock.now() + HOUR, text="tea")
            assert [task.name for task in (await client.list_tasks(scheduled)).tasks] == ["ada"]
            await clock.advance(1.1 * HOUR)
            assert ran == [("ada", "tea")]

    clock.run(main())


def test_a_client_sets_up_no_fixture_and_stores_no_static_task(make_app, clock, store):
    app = make_app()

    @app.fixture()
    async def database():
        raise AssertionError
        yield

    static = app.task(interval=SECOND)(body)

    async def main():
        async with app.client() as client:
            assert await client.get_task(static) is None
            with pytest.raises(ConfigurationError, match="too late"):
                app.task(interval=SECOND, name="another")(body)
        assert store.rows() == {}

    clock.run(main())


def test_clients_may_be_used_again_and_at_once(make_app, clock):
    app = make_app()
    template = app.dynamic_task(name="template")(body)

    async def main():
        for _ in range(2):
            async with app.client() as client, app.client() as other:
                await client.schedule_task(template, "ada", interval=SECOND)
                assert await other.unschedule_task(template, "ada")

    clock.run(main())


def test_a_client_is_refused_a_template_of_another_layout(make_app, clock):
    one, other = make_app(), make_app()
    one.dynamic_task(name="template")(body)
    other.partitioned_task(name="template", partition_count=3)(body)

    async def main():
        async with one.client():
            pass  # has stored the layout, although nothing was scheduled
        with pytest.raises(ConfigurationError, match="partitioned"):
            async with other.client():
                pass

    clock.run(main())


@pytest.mark.parametrize("opened", ["client", "create"])
def test_a_call_after_the_end_says_so(make_app, clock, opened):
    app = make_app()
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with getattr(app, opened)() as client:
            pass
        for call in (client.schedule_task(template, "ada", interval=SECOND), client.get_task(template, "ada")):
            with pytest.raises(PyncetteError, match="was closed at the end"):
                await call

    clock.run(main())


@pytest.mark.parametrize(("options", "warned"), [({}, False), ({"repository_factory": None}, True)])
def test_a_client_of_a_store_in_memory_is_warned_of(make_app, clock, caplog, options, warned):
    async def main():
        async with make_app(**options).client():
            pass

    clock.run(main())
    assert ("in memory" in caplog.text) is warned
