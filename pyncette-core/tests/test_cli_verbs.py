"""The verbs of the command line: pause, resume, trigger, backfill, retry, reschedule, and what they do in bulk."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from test_cli import one_line_error, pyncette, shop  # noqa: F401 - fixtures

from pyncette import FailureMode, Instance, Pyncette

HOUR = timedelta(hours=1)
APP = """
from datetime import timedelta
from pyncette import *
app = Pyncette("sqlite:///shop.db")

@app.task(schedule="0 * * * *")
async def report(context): ...

@app.dynamic_task(max_attempts=1)
async def deliver(context): ...

@app.partitioned_task(partition_count=3)
async def mail(context): ...
"""


@pytest.fixture
def store(shop):  # noqa: F811
    """Changes the store as the app does, and says what it has."""
    (shop / "shop.py").write_text(APP)

    def use(action):
        async def main():
            app = Pyncette(f"sqlite:///{shop}/shop.db")
            app.task(name="report", schedule="0 * * * *")(body)
            app.dynamic_task(name="deliver", max_attempts=1, failure_mode=FailureMode.UNLOCK)(body)
            app.partitioned_task(name="mail", partition_count=3)(body)
            async with app.create() as app_context:
                return await action(app_context, *app.tasks)

        return asyncio.run(main())

    return use


async def body(context):
    raise ValueError("no")


async def fill(app_context, report, deliver, mail):
    at = datetime(2035, 1, 1, tzinfo=UTC)
    await app_context.repository.register(app_context.clock.now(), [report.registration(app_context.clock.now())])
    await app_context.schedule_tasks(
        deliver, [Instance(name=f"eu-{number}", execute_at=at, args={"n": number}) for number in range(4)]
    )
    await app_context.schedule_tasks(deliver, [Instance(name=f"us-{number}", execute_at=at) for number in range(3)])
    await app_context.schedule_task(mail, "ada", schedule="0 9 * * *", timezone="Europe/Berlin", text="hello")


async def fail(app_context, report, deliver, mail):
    """Have what is due of `deliver` given up."""
    names = [f"failed-{number}" for number in range(5)]
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await app_context.schedule_tasks(deliver, [Instance(name=name, execute_at=past) for name in names])
    run = asyncio.create_task(app_context.run())
    while [each for each in (await app_context.list_tasks(deliver)).tasks if each.name in names and each.error is None]:
        await asyncio.sleep(0.01)
    app_context.shutdown()
    await run


def instances(ended):
    return {each["instance"]: each["state"] for each in ended.objects}


def test_a_task_is_paused_and_resumed(pyncette, store):  # noqa: F811
    store(fill)
    assert pyncette("pause", "shop:app", "report").code == 0
    assert pyncette("show", "shop:app", "report", "--json").objects[0]["state"] == "paused"
    assert pyncette("resume", "shop:app", "report", "--json").objects == [{"task": "report", "instance": None, "resumed": True}]
    assert pyncette("pause", "shop:app", "mail", "ada", "--note", "moved house", "--by", "bob").code == 0
    assert store(noted) == ("moved house", "bob")
    assert instances(pyncette("list", "shop:app", "mail", "--state", "paused", "--json")) == {"ada": "paused"}
    one_line_error(pyncette("pause", "shop:app", "mail", "bob"), "'bob' of 'mail'", "nothing was changed")
    one_line_error(pyncette("pause", "shop:app", "report", "bob"), "static")
    one_line_error(pyncette("pause", "shop:app", "reprot"), "did you mean 'report'")


def test_a_whole_template_is_paused_and_list_show_and_check_say_so(pyncette, store):  # noqa: F811
    store(fill)
    assert pyncette("pause", "shop:app", "deliver", "--note", "too loud", "--by", "ada").code == 0
    assert re.search(
        "paused as a whole since .* by ada: too loud$",
        next(line for line in pyncette("list", "shop:app").lines if line.startswith("deliver")),
    )
    assert pyncette("show", "shop:app", "deliver", "--json").objects[0]["paused"].endswith("by ada: too loud")
    assert "'deliver' is paused as a whole" in pyncette("check", "shop:app").stdout
    assert "paused as a whole" in pyncette("trigger", "shop:app", "deliver", "eu-1").stderr
    assert pyncette("next", "shop:app", "deliver", "--to", "2036-01-01").lines == ["AT  DAY  TASK  INSTANCE"]
    one_line_error(pyncette("move", "shop:app", "deliver", "mail"), "pyncette pause APP mail")
    assert pyncette("resume", "shop:app", "deliver").code == 0
    assert "paused" not in pyncette("list", "shop:app").stdout
    one_line_error(pyncette("resume", "shop:app", "deliver"), "not paused")


def test_what_filters_meet_is_changed_only_if_that_is_confirmed(pyncette, store):  # noqa: F811
    store(fill)
    before = pyncette("list", "shop:app", "deliver", "--json").objects
    one_line_error(pyncette("pause", "shop:app", "deliver", "--prefix", "eu-"), "4 rows", "--yes", "--dry-run")
    ended = pyncette("pause", "shop:app", "deliver", "--prefix", "eu-", "--dry-run")
    assert (ended.code, len(ended.lines)) == (0, 5)
    one_line_error(pyncette("unschedule", "shop:app", "deliver", "--state", "scheduled"), "7 rows", "--yes")
    assert pyncette("list", "shop:app", "deliver", "--json").objects == before
    ended = pyncette("pause", "shop:app", "deliver", "--prefix", "eu-", "--yes", "--json")
    assert ended.objects == [{"task": "deliver", "instance": None, "paused": True, "count": 4, "failed": 0}]
    assert set(instances(pyncette("list", "shop:app", "deliver", "--state", "paused", "--json"))) == {f"eu-{n}" for n in range(4)}
    assert "7 instances, 3 scheduled, 4 paused" in pyncette("list", "shop:app").stdout
    assert pyncette("resume", "shop:app", "deliver", "--state", "paused", "--yes").code == 0
    assert pyncette("unschedule", "shop:app", "deliver", "--prefix", "us-", "--yes").code == 0
    assert set(instances(pyncette("list", "shop:app", "deliver", "--json"))) == {f"eu-{n}" for n in range(4)}
    one_line_error(pyncette("unschedule", "shop:app", "deliver", "eu-1", "--prefix", "e", "--yes"), "leave out")
    one_line_error(pyncette("pause", "shop:app", "deliver", "--yes"), "filters")
    one_line_error(pyncette("list", "shop:app", "--state", "failed"), "name one")


def test_what_failed_is_retried_one_or_all(pyncette, store):  # noqa: F811
    store(fill)
    store(fail)
    assert "12 instances, 7 scheduled, 5 failed" in pyncette("list", "shop:app").stdout
    ended = pyncette("retry", "shop:app", "deliver", "--dry-run", "--json")
    assert {each["instance"]: each["state"] for each in ended.objects} == {f"failed-{number}": "failed" for number in range(5)}
    assert pyncette("retry", "shop:app", "deliver", "failed-3").code == 0
    one_line_error(pyncette("retry", "shop:app", "deliver", "failed-3"), "has not failed")
    ended = pyncette("retry", "shop:app", "deliver", "--json")
    assert ended.objects == [{"task": "deliver", "instance": None, "retried": True, "count": 4, "failed": 0}]
    overdue = instances(pyncette("list", "shop:app", "deliver", "--overdue", "--json"))
    assert overdue == {f"failed-{number}": "due" for number in range(5)}


def test_a_triggered_run_is_listed_and_can_be_taken_back(pyncette, store):  # noqa: F811
    store(fill)
    for arguments in (["mail", "ada"], ["report"], ["report"], ["report", "--key", "17"], ["report", "--key", "17"]):
        assert pyncette("trigger", "shop:app", *arguments).code == 0
    found = pyncette("list", "shop:app", "mail", "--json").objects
    assert [(each["instance"], each["extra_run"], each["schedule"]) for each in found if each["extra_run"]] == [
        ("ada", True, "once, trigger")
    ]
    assert len(pyncette("list", "shop:app", "report", "--extra", "--json").objects) == 3
    assert "1 instance, 1 extra run" in pyncette("list", "shop:app").stdout
    assert "extra" not in "".join(line.split()[0] for line in pyncette("list", "shop:app").lines)
    assert pyncette("unschedule", "shop:app", "report", "--extra", "--yes").code == 0
    assert pyncette("unschedule", "shop:app", "mail", "--extra", "--yes").code == 0
    assert [each["instance"] for each in pyncette("list", "shop:app", "mail", "--json").objects] == ["ada"]
    one_line_error(pyncette("trigger", "shop:app", "deliver"), "template")
    one_line_error(pyncette("trigger", "shop:app", "deliver", "nobody"), "nothing was changed")


def test_a_backfill_is_shown_and_then_registered_once(pyncette, store):  # noqa: F811
    store(fill)
    span = ["--from", "2025-03-01", "--to", "2025-03-01T05:00"]
    ended = pyncette("backfill", "shop:app", "report", *span, "--dry-run")
    assert ended.lines == [f"2025-03-01 0{hour}:00:00+00:00" for hour in range(5)]
    assert pyncette("list", "shop:app", "report", "--extra", "--json").objects == []
    assert pyncette("backfill", "shop:app", "report", *span, "--json").objects[0]["count"] == 5
    one_line_error(pyncette("backfill", "shop:app", "report", *span), "--again")
    assert pyncette("backfill", "shop:app", "report", *span, "--again").code == 0
    assert len(pyncette("list", "shop:app", "report", "--extra", "--json").objects) == 5
    assert pyncette("backfill", "shop:app", "mail", "ada", "--from=-2d", "--json").objects[0]["count"] == 2
    one_line_error(pyncette("backfill", "shop:app", "report", "--from", "2000-01-01"), "more than 10000")
    one_line_error(pyncette("backfill", "shop:app", "report", "--from", "now", "--to", "+1h"), "future")


def test_an_instance_gets_another_schedule_and_keeps_its_arguments(pyncette, store):  # noqa: F811
    store(fill)
    ended = pyncette("reschedule", "shop:app", "mail", "ada", "--schedule", "30 9 * * *", "--json")
    assert ended.objects[0]["next"].endswith(("T09:30:00+01:00", "T09:30:00+02:00"))
    assert pyncette("reschedule", "shop:app", "mail", "ada", "--interval", "90m").code == 0
    [shown] = pyncette("show", "shop:app", "mail", "ada", "--json").objects
    assert (shown["schedule"], shown["timezone"], shown["arguments"]) == ("every 1:30:00", "Europe/Berlin", {"text": "hello"})
    assert pyncette("reschedule", "shop:app", "mail", "ada", "--at", "2035-07-01T09:00", "--timezone", "Europe/London").code == 0
    [shown] = pyncette("show", "shop:app", "mail", "ada", "--json").objects
    assert shown["next"] == "2035-07-01T09:00:00+01:00"
    one_line_error(pyncette("reschedule", "shop:app", "mail", "ada", "--schedule", "61 * * * *"), "61")
    one_line_error(pyncette("reschedule", "shop:app", "mail", "bob", "--interval", "1h"), "'bob'")
    one_line_error(pyncette("reschedule", "shop:app", "mail", "ada", "--interval", "soon"), "90s", code=2)


@pytest.mark.parametrize("verb", ["pause", "resume", "trigger", "retry"])
def test_a_verb_refuses_a_store_that_is_not_there_or_that_nobody_else_sees(pyncette, store, shop, verb):  # noqa: F811
    one_line_error(pyncette(verb, "shop:app", "report"), "no SQLite database")
    assert not (shop / "shop.db").exists()
    one_line_error(pyncette(verb, "shop:app", "report", "--url", "memory://"), "--url")


def test_a_batch_that_the_store_refuses_is_named_and_the_others_are_done(pyncette, store, shop):  # noqa: F811
    store(fill)
    with sqlite3.connect(shop / "shop.db") as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON pyncette_tasks WHEN old.partition = 'partitioned:1:mail' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    store(many)
    ended = pyncette("pause", "shop:app", "mail", "--prefix", "user", "--yes")
    assert ended.code == 1
    assert "not this one" in ended.stderr
    assert "repeat the command" in ended.stderr
    states = instances(pyncette("list", "shop:app", "mail", "--limit", "0", "--json"))
    assert set(states.values()) == {"paused", "scheduled"}
    with sqlite3.connect(shop / "shop.db") as database:
        database.execute("DROP TRIGGER refuse")
    assert pyncette("pause", "shop:app", "mail", "--prefix", "user", "--yes").code == 0
    states = instances(pyncette("list", "shop:app", "mail", "--prefix", "user", "--limit", "0", "--json"))
    assert set(states.values()) == {"paused"}


async def noted(app_context, report, deliver, mail):
    note = (await app_context.get_task(mail, "ada")).note
    return note.text, note.by


async def many(app_context, report, deliver, mail):
    await app_context.schedule_tasks(mail, [Instance(name=f"user{number}", interval=HOUR) for number in range(30)])


# --- completion ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def completed(shop):  # noqa: F811
    """What bash would offer for a line that ends where the cursor is."""
    (shop / "shop.py").write_text(APP)

    def completed(line):
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(shop / "offered"),
            "COMP_TYPE": "9",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "pyncette"], cwd=shop, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.stdout == ended.stderr == ""
        return [word.strip() for word in (shop / "offered").read_text().split("\n")]

    return completed


def test_commands_options_and_names_of_tasks_are_completed(completed):
    assert completed("pyncette re") == ["resume", "retry", "reschedule"]
    assert completed("pyncette pause shop:app ") == ["report", "deliver", "mail"]
    assert completed("pyncette show shop.py:app de") == ["deliver"]
    assert completed("pyncette pause nowhere:app ") == [""]
    assert completed("pyncette list shop:app deliver --state fa") == ["failed"]
    assert "--dry-run" in completed("pyncette unschedule shop:app deliver --")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_complete(pyncette, monkeypatch, shell):  # noqa: F811
    ended = pyncette("completion", shell)
    assert ended.code == 0
    assert "pyncette" in ended.stdout
    if shell == "bash":
        subprocess.run(["bash", "-euc", f"{ended.stdout}\ncomplete -p pyncette"], check=True, capture_output=True)
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    one_line_error(pyncette("completion", shell), "pip install 'pyncette-core[completion]'")
