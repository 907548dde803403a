"""The page docs/why.md: each of its situations is brought about on a real store, and its command prints what the page says."""

import asyncio
import contextlib
import json
import re
import signal
import sqlite3
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from programs import Program
from test_cli import pyncette, shop  # noqa: F401 - fixtures

from pyncette.repository import Registration, Target

PAGE = (Path(__file__).parents[2] / "docs" / "why.md").read_text()
SOURCE, *_ = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
SECTIONS = dict(re.findall(r"(?ms)^## (.*?)\n(.*?)(?=^## |\Z)", PAGE))
PATIENCE = 30.0


class Shop:
    """The program of the page, as it is on the disk and in this process."""

    def __init__(self, directory):
        (directory / "shop.py").write_text(SOURCE)
        self.directory = directory
        self.declare(SOURCE)

    def declare(self, source, url="sqlite:///shop.db"):
        self.names = {"__name__": "shop"}
        exec(compile(source, "shop.py", "exec"), self.names)
        self.app, self.nightly = self.names["app"], self.names["nightly"]
        self.app.use_repository(url)

    async def due(self, *, within=timedelta()):
        """Have the task be due now or ``within`` a while, as if nobody had run it at 02:00; it is created as by a start in between."""
        async with self.app.create(fixtures=False) as app_context:
            now = app_context.clock.now()
            at = self.nightly.schedule.first(now - timedelta(days=2))
            while (following := self.nightly.schedule.next(at)) <= now:
                at = following
            target = Target(at, now + within if within else at)
            await app_context.repository.register(
                now, [Registration(self.nightly.key, "{}", self.nightly.schedule.text, target)], force=True
            )

    @contextlib.asynccontextmanager
    async def running(self):
        async with self.app.create() as app_context:
            run = asyncio.create_task(app_context.run())
            try:
                yield app_context
            finally:
                app_context.shutdown()
                await run

    @contextlib.asynccontextmanager
    async def ran(self):
        """Run what is due, once, and continue."""
        await self.due()
        async with self.running() as app_context:
            await until(lambda: self.has_run(app_context))
            await until(lambda: told_of_the_run(self, app_context))
            yield app_context

    async def has_run(self, app_context):
        stored = await app_context.get_task(self.nightly)
        return stored is not None and stored.last_run is not None


async def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def ran_late(shop):  # noqa: F811
    async with shop.ran():
        yield


@contextlib.asynccontextmanager
async def failed(shop):  # noqa: F811
    async def fails():
        raise ConnectionError("no route to the warehouse")

    shop.names["copy_prices"] = fails
    async with shop.ran():
        yield


@contextlib.asynccontextmanager
async def paused(shop):  # noqa: F811
    async with shop.ran() as app_context:
        await app_context.pause_task(shop.nightly, note="the warehouse moves", by="ann@ops-1")
        yield


@contextlib.asynccontextmanager
async def died(shop):  # noqa: F811
    """A real process is killed, and time passes: in the store, since nobody wants to wait."""
    await shop.due()
    (shop.directory / "hangs.py").write_text(
        SOURCE
        + "\n\nasync def copy_prices() -> None:\n    print('copying', flush=True)\n    await __import__('asyncio').sleep(60)\n"
    )
    with Program([sys.executable, "-m", "pyncette", "run", "hangs.py:app"], shop.directory) as program:
        await asyncio.to_thread(program.wait_for, "copying")
        await until(lambda: worker_row(shop, running=1))
        program.signal(signal.SIGKILL)
        program.wait()
    values = await worker_row(shop)
    values["seen"] -= 180_000_000
    with contextlib.closing(sqlite3.connect(shop.directory / "shop.db")) as database, database:
        database.execute("UPDATE pyncette_tasks SET spec = ? WHERE partition = 'workers'", (json.dumps(values),))
    yield


async def worker_row(shop, **expected):  # noqa: F811
    """What the only worker has written of itself into the store; None if it has not yet, or something else than expected."""

    def read():
        with contextlib.closing(sqlite3.connect(shop.directory / "shop.db")) as database:
            return database.execute("SELECT spec FROM pyncette_tasks WHERE partition = 'workers'").fetchall()

    found = [json.loads(spec) for (spec,) in await asyncio.to_thread(read)]
    assert len(found) <= 1
    return found[0] if found and found[0].items() >= expected.items() else None


@contextlib.asynccontextmanager
async def polled_by_nobody(shop):  # noqa: F811
    """The version that runs is one from before there was such a task."""
    shop.declare(SOURCE.replace('@app.task(schedule="0 2', '@app.task(enabled=False, schedule="0 2'))
    async with shop.running():
        await until(lambda: worker_row(shop))
        yield


@contextlib.asynccontextmanager
async def store_away(shop):  # noqa: F811
    """Somebody locks the file for longer than calls wait for it."""
    shop.declare(SOURCE, "sqlite:///shop.db?timeout=0.3")
    async with shop.running() as app_context:
        await until(lambda: worker_row(shop))
        with contextlib.closing(sqlite3.connect(shop.directory / "shop.db")) as database:
            # Not before the file is locked: while a run waits to be stored, the worker only looks, which a lock does not keep it from.
            await shop.due(within=timedelta(seconds=2))
            database.execute("BEGIN IMMEDIATE")
            await until(lambda: self_told(app_context, "store_away"))
            database.rollback()
        await until(lambda: self_told(app_context, "store_away", over=True))
        await until(lambda: shop.has_run(app_context))
        await until(lambda: told_of_the_run(shop, app_context))
        yield


@contextlib.asynccontextmanager
async def loop_blocked(shop):  # noqa: F811
    blocks = "import time\n\nasync def copy_prices():\n    time.sleep(2.2)\n"
    exec(compile(blocks, "/srv/shop.py", "exec"), shop.names)
    await shop.due()
    async with shop.running() as app_context:
        await until(lambda: self_told(app_context, "blocked"))
        await until(lambda: shop.has_run(app_context))
        await until(lambda: told_of_the_run(shop, app_context))
        yield


async def self_told(app_context, what, *, over=False):
    """Whether the worker has something to tell, and with ``over`` that it has ended."""
    incident = getattr(app_context._engine.presence.worker(), what)
    return incident is not None and (not over or getattr(app_context._engine.presence.worker(), what).duration == incident.duration)


async def told_of_the_run(shop, app_context):  # noqa: F811
    """Whether the worker's row says that one run has ended; it is written again here, as it is within ten seconds."""
    await app_context._engine.presence._write(sweep=False)
    return await worker_row(shop, running=0, runs=1)


@contextlib.asynccontextmanager
async def unscheduled(shop):  # noqa: F811
    remind = shop.names["remind"]
    async with shop.app.create(fixtures=False) as app_context:
        await app_context.schedule_task(remind, "ada", schedule="0 2 * * *", by="shop-web")
        await app_context.unschedule_task(remind, "ada", by="ann@ops-1")
    yield


@contextlib.asynccontextmanager
async def changed_by_a_deploy(shop):  # noqa: F811
    async with shop.ran():
        pass
    shop.declare(SOURCE.replace("0 2 * * *", "30 4 * * *"))
    async with shop.running() as app_context:

        async def changed():
            return (await app_context.get_task(shop.nightly)).row.schedule == shop.nightly.schedule.text

        await until(changed)
    yield


@contextlib.asynccontextmanager
async def daylight_saving(shop):  # noqa: F811
    await shop.due()
    yield


SITUATIONS = {
    "It ran late": ran_late,
    "It failed": failed,
    "It will be retried": failed,
    "It is paused": paused,
    "Its worker died": died,
    "Nobody polls it": polled_by_nobody,
    "The store was unreachable": store_away,
    "The event loop was blocked": loop_blocked,
    "It was unscheduled": unscheduled,
    "Its schedule was changed": changed_by_a_deploy,
    "Daylight saving": daylight_saving,
}


def test_each_situation_of_the_page_is_tested():
    assert list(SECTIONS) == list(SITUATIONS)
    table = re.findall(r"(?m)^\| \[(.*?)\]\(#(.*?)\) \|", PAGE)
    assert [name for name, _ in table] == list(SITUATIONS)
    assert [anchor for _, anchor in table] == [name.lower().replace(" ", "-") for name in SITUATIONS]


@pytest.mark.parametrize("name", SITUATIONS)
def test_its_command_prints_what_the_page_says(name, shop, pyncette):  # noqa: F811
    found = re.findall(r"(?ms)^```console\n\$ pyncette (.*?)\n(.*?)^```$", SECTIONS[name])
    assert len(found) == 1
    command, expected = found[0]
    [in_table] = re.findall(rf"(?m)^\| \[{name}\].*?`pyncette (.*?)`", PAGE)
    assert command == in_table

    async def main():
        async with SITUATIONS[name](Shop(shop)):
            return await asyncio.to_thread(pyncette, *command.split())

    ended = asyncio.run(main())
    assert ended.code == 0
    assert plain(ended.stdout + ended.stderr) == plain(expected)


def plain(text):
    """What does not differ each time, and from day to day."""
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d", "TIME", text)
    text = re.sub(r"\b[\w.-]+:\d+:[0-9a-f]{4}\b", "WORKER", text)
    text = re.sub(r"\b[\d.]+ (s|min)\b", "LONG", text)
    text = re.sub(r"\S+/shop\.", "/srv/shop.", text)
    text = re.sub(r"shop\.py:\d+", "shop.py:LINE", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]
