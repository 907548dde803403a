"""Looking at an application as a whole, and clearing away what has failed."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from pyncette import Instance, Pyncette


def test_a_client_surveys_tasks_and_discards_what_failed(tmp_path):
    app = Pyncette(f"sqlite:///{tmp_path}/shop.db", poll_interval=timedelta(milliseconds=50))

    @app.task(schedule="0 2 * * *")
    async def nightly(context): ...

    @app.dynamic_task(max_attempts=1)
    async def deliver(context):
        raise ValueError

    async def survey():
        async with app.create() as context:
            assert await context.list_static_tasks() == []  # nothing was started yet
            instances = [Instance(name=f"order {number}", execute_at=datetime.now(UTC)) for number in range(3)]
            await context.schedule_tasks(deliver, [*instances, Instance(name="kept", interval=timedelta(days=1))])
            running = asyncio.create_task(context.run())
            while [each.state for each in (await context.list_tasks(deliver)).tasks].count("failed") < 3:
                await asyncio.sleep(0.01)
            assert [each.name for each in await context.list_static_tasks()] == ["nightly"]
            counted = await context.count_tasks(deliver)
            assert (counted.rows, counted.due, counted.failed) == (4, 0, 3)
            await context.pause_template(deliver, note="why", by="ann")
            assert [(name, note.text, note.by) for name, note in (await context.list_paused_templates()).items()] == [
                ("deliver", "why", "ann")
            ]
            told = []
            assert await context.discard_tasks(deliver, progress=told.append, by="ann") == 3
            assert told[-1] == 3
            assert [each.name for each in (await context.list_tasks(deliver)).tasks] == ["kept"]
            assert await context.list_undeclared() == []
            context.shutdown()
            await running

    asyncio.run(survey())


def test_what_nobody_declares_is_discarded_and_nothing_else(tmp_path):
    def shop(*names):
        app = Pyncette(f"sqlite:///{tmp_path}/shop.db")
        for name in names:
            app.partitioned_task(name=name, partition_count=2)(nothing)
            app.task(name=f"{name} nightly", schedule="0 2 * * *")(nothing)
        return app

    async def nothing(context): ...

    async def discard():
        async with shop("old", "new").create() as context:
            for task in context.tasks[::2]:
                await context.schedule_tasks(task, [Instance(name=str(number), interval=timedelta(days=1)) for number in range(9)])
            await context.repository.register(
                context.clock.now(), [task.registration(context.clock.now()) for task in context.tasks[1::2]]
            )
            for task in context.tasks[1::2]:
                await context.trigger_task(task)
        app = shop("new")
        async with app.create() as context:
            before = await everything(context)
            found = await context.list_undeclared()
            told = []
            assert [(each.kind, each.name) for each in found] == [
                ("static task", "old nightly"),
                ("extra runs of the static task", "old nightly"),
                ("template", "old"),
            ]
            assert [await context.discard_undeclared(each, progress=told.append, by="ann") for each in found] == [1, 1, 9]
            assert told[-1] == 9
            assert await context.list_undeclared() == []
            assert await everything(context) == before
        async with shop("old").create() as context:
            assert [await context.discard_undeclared(each) for each in found] == [0, 0, 0]  # nor what is declared

    async def everything(context):
        template, static = context.tasks
        return (
            len((await context.list_tasks(template)).tasks),
            len((await context.list_tasks(static, extra_runs=True)).tasks),
            [each.name for each in await context.list_static_tasks()],
        )

    asyncio.run(discard())


def test_a_command_that_is_not_installed_says_how_it_can_be_had():
    code = "import importlib.metadata as m, sys; m.entry_points = lambda **group: []; from pyncette.cli import main; main(sys.argv[1:])"

    def said(*arguments):
        ended = subprocess.run([sys.executable, "-c", code, "dashboard", *arguments], capture_output=True, text=True, timeout=60)
        return " ".join((ended.stdout + ended.stderr).split())

    assert "pip install 'pyncette-dashboard[server]'" in said("shop.py:app", "--port", "1")
    assert "pip install 'pyncette-dashboard[server]'" in (helped := said("--help"))
    assert "examples:" not in helped
