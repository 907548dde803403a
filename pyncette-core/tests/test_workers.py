"""The rows that processes keep of themselves: who is alive, what they poll, and that nothing of it touches a task."""

import asyncio
import contextlib
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from test_cli import one_line_error, pyncette, shop  # noqa: F401 - fixtures

from pyncette import FailureMode, Incident, Pyncette, TransientRepositoryError, Worker
from pyncette.partitions import WORKERS
from pyncette.repository import Key
from pyncette.testing import running
from pyncette.undeclared import find_undeclared
from pyncette.workers import forget_dead, polls_of, registration

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


async def body(context): ...


def declare(app):
    app.task(interval=SECOND, name="static")(body)
    app.dynamic_task(name="template")(body)
    app.partitioned_task(name="spread", partition_count=4, enabled_partitions=[0, 3])(body)
    return app


async def seen_by_another(make_app):
    """All workers, as a process sees them that runs nothing."""
    async with make_app().create(fixtures=False, layouts="ignore") as app_context:
        return await app_context.list_workers()


@contextlib.asynccontextmanager
async def killed(app, clock):
    """The application runs until the end of the block, and then is gone without a word."""
    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        yield app_context
        app_context._engine.presence._written = False  # it never comes to that
        app_context.shutdown()
        await run


def worker(number, now, **values):
    values = {"slots": 1, "running": 0, "loop_lag": timedelta(), "runs": 0, "failures": 0, "polls": {}, **values}
    return Worker(
        id=f"host{number}:{number}:abcd", host=f"host{number}", pid=number, version="2", started=now, seen=now, alive=True, stopping=False,
        **values,
    )  # fmt: skip


def test_a_running_process_is_told_of_with_what_it_polls_and_does(make_app, clock):
    app = declare(make_app(concurrency_limit=7))

    @app.task(interval=SECOND, name="bad", failure_mode=FailureMode.COMMIT)
    async def bad(context):
        raise ValueError

    @app.task(interval=HOUR, name="off", enabled=False)
    async def off(context): ...

    async def main():
        start = clock.now()
        async with running(app) as app_context:
            await clock.advance(95.5 * SECOND)
            [seen] = await seen_by_another(make_app)
            [itself] = await app_context.list_workers()
            assert seen.id == app_context.worker_id == itself.id == f"{seen.host}:{seen.pid}:{seen.id[-4:]}"
            assert (seen.started, seen.seen, itself.seen) == (start, start + 91 * SECOND, clock.now())
            assert (seen.alive, seen.stopping, seen.slots, seen.running) == (True, False, 7, 0)
            assert (seen.runs, seen.failures) == (120, 60)
            assert seen.polls == {"static": None, "template": None, "spread": [0, 3], "bad": None}
            assert (seen.loop_lag, seen.blocked, seen.store_away) == (timedelta(), None, None)
            assert seen.can_run("spread", 3)
            assert not seen.can_run("spread", 1)
            assert not seen.can_run("off")
        assert await seen_by_another(make_app) == []  # it took itself off the list

    clock.run(main())


def test_a_process_that_runs_nothing_keeps_no_row(make_app, clock):
    async def main():
        async with declare(make_app()).create(clock=clock) as app_context:
            await clock.advance(MINUTE)
            assert await app_context.list_workers() == []

    clock.run(main())


def test_who_waits_for_its_last_bodies_is_stopping_and_polls_nothing(make_app, clock):
    app = make_app()

    @app.task(interval=SECOND, name="slow")
    async def slow(context):
        await asyncio.sleep(30)

    async def main():
        async with running(app) as app_context:
            await clock.advance(5 * SECOND)
            app_context.shutdown()
            await clock.advance(10 * SECOND)
            [seen] = await seen_by_another(make_app)
            assert (seen.alive, seen.stopping, seen.running) == (True, True, 1)
            assert not seen.can_run("slow")

    clock.run(main())


def test_one_that_was_killed_is_not_alive_and_is_forgotten_after_an_hour(make_app, clock):
    async def main():
        async with killed(declare(make_app()), clock):
            await clock.advance(12 * SECOND)
        await clock.advance(20 * SECOND)
        assert [each.alive for each in await seen_by_another(make_app)] == [True]
        await clock.advance(20 * SECOND)
        [dead] = await seen_by_another(make_app)
        assert not dead.alive
        assert not dead.can_run("static")
        async with running(declare(make_app())) as app_context:
            await clock.advance(30 * SECOND)
            assert [each.alive for each in await app_context.list_workers()] == [True, False]
            await clock.advance(65 * MINUTE)
            assert [each.id for each in await app_context.list_workers()] == [app_context.worker_id]

    clock.run(main())


def test_a_process_that_was_paused_comes_back_by_itself(make_app, clock, store):
    async def main():
        async with running(declare(make_app())) as app_context:
            await clock.advance(5 * SECOND)
            assert await store.unregister(clock.now(), [Key(WORKERS, app_context.worker_id)]) == [True]
            await clock.advance(10 * SECOND)
            assert [each.alive for each in await seen_by_another(make_app)] == [True]

    clock.run(main())


def test_the_row_is_no_task_of_anybody(make_app, clock, store):
    async def main():
        app = declare(make_app())
        async with running(app):
            await clock.advance(5 * SECOND)
            [row] = (await store.list(WORKERS, limit=10)).rows
            assert (row.attempt, row.locked_until) == (0, None)
            result = await store.claim(clock.now() + 10_000 * timedelta(days=1), WORKERS, lease_duration=SECOND, limit=1)
            assert result.claims == []
            assert await find_undeclared(store, clock.now(), app.tasks) == []
            assert (await store.stats(clock.now(), WORKERS)).due == 0

    clock.run(main())


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_a_store_that_is_away_costs_the_row_and_nothing_else(make_app, clock, store, seconds):
    register, ran, away = store.register, [], False

    async def unreachable(now, registrations, **options):
        if away and registrations[0].key.partition == WORKERS:
            await asyncio.sleep(seconds)
            raise TransientRepositoryError("away")
        await register(now, registrations, **options)

    store.register = unreachable
    app = make_app()

    @app.task(interval=SECOND, name="static")
    async def static(context):
        ran.append(clock.now())

    async def main():
        nonlocal away
        async with running(app):
            await clock.advance(5 * SECOND)
            away = True
            await clock.advance(2 * MINUTE)
            assert [each.alive for each in await seen_by_another(make_app)] == [False]
            away = False
            await clock.advance(20 * SECOND)
            assert [each.alive for each in await seen_by_another(make_app)] == [True]

    clock.run(main())
    assert len(ran) == 144


def test_an_outage_of_the_store_is_remembered(make_app, clock, store):
    claim, away = store.claim, False

    async def unreachable(*args, **options):
        if away:
            raise TransientRepositoryError("no route to host")
        return await claim(*args, **options)

    store.claim = unreachable

    async def main():
        nonlocal away
        async with running(declare(make_app())) as app_context:
            await clock.advance(5 * SECOND)
            began, away = clock.now(), True
            await clock.advance(10 * SECOND)
            [itself] = await app_context.list_workers()
            assert itself.store_away.what == "no route to host"
            assert timedelta(seconds=9) < itself.store_away.duration <= timedelta(seconds=10)
            await clock.advance(20 * SECOND)
            away = False
            await clock.advance(20 * SECOND)
            [seen] = await seen_by_another(make_app)
            assert began <= seen.store_away.since <= began + SECOND
            assert timedelta(seconds=28) < seen.store_away.duration < timedelta(seconds=33)

    clock.run(main())


def test_a_store_that_hangs_holds_up_the_end_by_no_more_than_a_second(make_app, clock, store):
    hangs, unregister = False, store.unregister

    async def hanging(*args):
        if hangs:
            await asyncio.sleep(3600)
        return await unregister(*args)

    store.unregister = hanging

    async def main():
        nonlocal hangs
        async with declare(make_app(shutdown_timeout=SECOND)).create() as app_context:
            run = asyncio.create_task(app_context.run())
            await clock.advance(5 * SECOND)
            hangs, began = True, clock.now()
            app_context.shutdown()
            await run
            assert clock.now() - began < 2 * SECOND

    clock.run(main())


def test_a_store_that_nobody_else_sees_is_never_written_for_it_and_tells_of_one_worker(clock):
    app = declare(Pyncette(clock=clock))

    async def main():
        async with running(app) as app_context:
            calls = []
            register = app_context.repository.register

            async def counted(now, registrations, **options):
                calls.extend(each.key.partition for each in registrations)
                await register(now, registrations, **options)

            app_context.repository.register = counted
            await clock.advance(HOUR)
            assert WORKERS not in calls
            [itself] = await app_context.list_workers()
            assert itself.alive
            assert itself.runs >= 60
        async with app.create(clock=clock) as app_context:
            assert await app_context.list_workers() == []

    clock.run(main())


@pytest.mark.parametrize(
    "spec", ["", "{}", "[]", "null", "[" * 100_000, '{"seen": "x"}', '{"seen": 1e400}', '{"seen": 0, "host": "h", "pid": "x"}']
)
def test_rows_that_make_no_sense_are_passed_by_and_removed(make_app, clock, store, spec):
    async def main():
        row = registration(worker(1, clock.now()))
        junk = type(row)(Key(WORKERS, "junk"), spec, row.schedule, row.target)
        await store.register(clock.now(), [row, junk])
        assert [each.host for each in await seen_by_another(make_app)] == ["host1"]
        await forget_dead(store, clock.now())
        assert [row.key.name for row in (await store.list(WORKERS, limit=10)).rows] == ["host1:1:abcd"]

    clock.run(main())


def test_two_hundred_workers_are_a_list_in_order(make_app, clock, store):
    async def main():
        now = clock.now()
        await store.register(now, [registration(worker(number, now - number * SECOND)) for number in range(200)])
        found = await seen_by_another(make_app)
        assert len(found) == 200
        assert sum(each.alive for each in found) == 36
        assert [each.alive for each in found] == sorted((each.alive for each in found), reverse=True)

    clock.run(main())


def test_whatever_happens_fits_into_a_row(make_app, clock):
    app = make_app()
    for number in range(3000):
        app.dynamic_task(name=f"{number}" + "é" * 50)(body)
    assert polls_of(app.tasks) is None  # and who does not tell may poll anything
    assert worker(1, clock.now(), polls=None).can_run("anything")
    incident = Incident(clock.now(), SECOND, "\N{PILE OF POO}" * 1_000_000)
    assert len(registration(worker(1, clock.now(), blocked=incident, store_away=incident)).spec) < 60_000


# --- the command line ----------------------------------------------------------------------------------------------------

APP = """
from pyncette import *
app = Pyncette("sqlite:///shop.db")

@app.task(schedule="0 2 * * *")
async def nightly(context: Context) -> None: ...

@app.dynamic_task()
async def deliver(context: Context) -> None: ...

@app.partitioned_task(partition_count=4)
async def mail(context: Context) -> None: ...

@app.task(schedule="0 3 * * *", enabled=False)
async def off(context: Context) -> None: ...
"""


def tell(*workers):
    """Have rows of ``workers`` in the store of the program, written so many seconds ago."""

    async def main():
        async with Pyncette("sqlite:///shop.db").create() as app_context:
            now = app_context.clock.now()
            for age, values in workers:
                await app_context.repository.register(now, [registration(worker(age, now - age * SECOND, **values))])

    asyncio.run(main())


@pytest.fixture
def program(shop):  # noqa: F811
    (shop / "shop.py").write_text(APP)
    tell()


def test_without_a_worker_all_commands_say_so(program, pyncette):  # noqa: F811
    for command in ("workers", "list"):
        ended = pyncette(command, "shop.py:app")
        assert (ended.code, ended.stderr) == (
            0,
            "pyncette: no worker is alive, so nothing runs; start one with: pyncette run APP\n",
        )
    assert "nobody polls" not in ended.stdout
    assert re.search(
        r"^workers +warning +none is alive; nothing runs until you start one: pyncette run APP$",
        pyncette("check", "shop.py:app").stdout,
        re.MULTILINE,
    )


def test_what_nobody_polls_is_named_and_what_is_disabled_is_not(program, pyncette):  # noqa: F811
    tell((1, {"polls": {"nightly": None, "mail": [0, 2]}}), (100, {"polls": {"deliver": None}}))
    ended = pyncette("workers", "shop.py:app")
    assert ended.stderr.splitlines() == [
        "pyncette: 'deliver': nobody polls it",
        "pyncette: 'mail': nobody polls its partitions 1, 3",
    ]
    alive, gone = ended.stdout.splitlines()[1:]
    assert re.match(r"host1:1:abcd +alive +\S+ \S+ +2 +0/1 +0.000 s +0 +0 +2$", alive)
    assert re.match(r"host100:100:abcd +gone for 10[0-9] s ", gone)
    states = dict(re.findall(r"^(\w+) .*(?:stored|instances); (.*)$", pyncette("list", "shop.py:app").stdout, re.MULTILINE))
    assert states == {
        "deliver": "nobody polls it",
        "mail": "nobody polls its partitions 1, 3",
        "off": "disabled",
    }
    [line] = [line for line in pyncette("check", "shop.py:app").stdout.splitlines() if line.startswith("workers")]
    assert (
        line.split("  ")[-1].strip()
        == (
            "warning  1 alive, 1 stopped responding within the last hour; 'deliver': nobody polls it; "
            "'mail': nobody polls its partitions 1, 3"
        ).rsplit("  ", maxsplit=1)[-1]
    )
    unpolled = [json.loads(line)["unpolled"] for line in pyncette("list", "shop.py:app", "--json").stdout.splitlines()]
    assert unpolled == [None, "nobody polls it", "nobody polls its partitions 1, 3", None]


def test_a_worker_is_shown_in_full_by_id_host_or_process(program, pyncette):  # noqa: F811
    at = datetime(2026, 1, 1, 2, tzinfo=UTC)
    tell(
        (
            1,
            {
                "polls": {"nightly": None, "mail": [0]},
                "blocked": Incident(at, 90 * SECOND, "task x kept the event loop from running"),
            },
        )
    )
    shown = pyncette("workers", "shop.py:app", "host1").stdout
    assert shown == pyncette("workers", "shop.py:app", "host1:1:abcd").stdout == pyncette("workers", "shop.py:app", "1").stdout
    assert re.search(r"^polls +nightly, mail \(partitions 0\)$", shown, re.MULTILINE)
    assert "at 2026-01-01 02:00:00+00:00, for 90 s: task x kept the event loop from running" in shown
    values = json.loads(pyncette("workers", "shop.py:app", "host1", "--json").stdout)
    assert (values["worker"], values["alive"], values["polls"]) == ("host1:1:abcd", True, {"nightly": None, "mail": [0]})
    assert values["blocked"] == {"since": at.isoformat(), "seconds": 90.0, "what": "task x kept the event loop from running"}
    one_line_error(pyncette("workers", "shop.py:app", "nobody"), "'nobody'")
