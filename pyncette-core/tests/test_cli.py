"""The command line on a SQLite file: within this process where it makes no difference, which is faster."""

import asyncio
import contextlib
import functools
import importlib
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from programs import Program

from pyncette import Pyncette
from pyncette.cli import commands, main
from pyncette.repository import Fail

SHOP = """
from datetime import datetime, timedelta, UTC
from pyncette import *

app = Pyncette("sqlite:///shop.db")
other = Pyncette("sqlite:///shop.db")

@app.task(schedule="0 7 * * MON", timezone="Europe/London", to="all@example.com")
async def weekly_report(context):
    pass

@app.task(schedule="30 1 * * *", timezone="Europe/London")
async def nightly(context):
    pass

@app.dynamic_task(carrier="ship", max_attempts=3)
async def deliver(context):
    pass

@app.partitioned_task(partition_count=3)
async def mail(context):
    pass

@app.task(interval=timedelta(hours=5), enabled=False)
async def off(context):
    pass

@app.fixture()
async def never_set_up():
    raise LookupError("fixtures are not for the command line")
    yield
"""

SECRET = "s3cret"


class Ended:
    """What a command has left behind."""

    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def lines(self):
        return self.stdout.splitlines()

    @property
    def objects(self):
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A directory that has shop.py, and is the current one."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    # The file changes more often than its time tells.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.fixture
def process(shop):
    """Runs a command to its end, in a process of its own."""

    def process(*arguments, **environment):
        with Program([sys.executable, "-m", "pyncette", *arguments], shop, {**os.environ, **environment}) as program:
            code = program.wait()
            return Ended(code, program.stdout, program.stderr)

    return process


#: The same for every command: to make it takes longer than most of them.
_parser = functools.cache(commands._parser)


@pytest.fixture
def pyncette(shop, monkeypatch):
    """Runs a command to its end, within this process, and has what it imported forgotten."""
    monkeypatch.setattr(commands, "_parser", _parser)

    def pyncette(*arguments):
        path = sys.path.copy()
        importlib.invalidate_caches()
        with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
            try:
                code = main(arguments)
            except SystemExit as error:
                code = error.code
            finally:
                sys.path[:] = path
                for name, module in list(sys.modules.items()):
                    if (getattr(module, "__file__", None) or "").startswith(f"{shop}{os.sep}"):
                        del sys.modules[name]
        return Ended(code, stdout.getvalue(), stderr.getvalue())

    return pyncette


@pytest.fixture
def stored(shop):
    """Stores a few instances, as the application would."""
    namespace = {}
    exec(SHOP, namespace)
    app, deliver, mail = namespace["app"], namespace["deliver"], namespace["mail"]

    async def store():
        async with app.create(fixtures=False) as app_context:
            repository, now = app_context.repository, app_context.clock.now
            await repository.register(
                now(), [task.registration(now()) for task in app.tasks if task.name in ("weekly_report", "nightly")]
            )
            for number in range(3):
                await app_context.schedule_task(
                    deliver, f"order {number}", schedule=f"{number} 9 * * *", timezone="Europe/Berlin", number=number
                )
            await app_context.schedule_task(deliver, "ungültig\x1b[31m\nname", schedule="0 10 * * *")
            await app_context.schedule_task(mail, "bill", execute_at=namespace["datetime"](2020, 1, 1, tzinfo=namespace["UTC"]))
            [claim] = (
                await repository.claim(now(), mail.key("bill").partition, lease_duration=mail.lease_duration, limit=1)
            ).claims
            await repository.settle(now(), [Fail(claim, "MailboxFull: bill")])
            await app_context.schedule_task(mail, "jane", execute_at=namespace["datetime"](2020, 1, 1, tzinfo=namespace["UTC"]))

    asyncio.run(store())


def one_line_error(ended, *words, code=1):
    assert ended.code == code
    [line] = ended.stderr.splitlines()
    assert line.startswith("pyncette")
    for word in words:
        assert word in line, line
    assert ended.stdout == ""
    assert SECRET not in line


# --- errors and help ----------------------------------------------------------------------------------------------------


def test_importing_pyncette_loads_nothing_of_the_command_line():
    code = "import pyncette, sys; print([name for name in sys.modules if (name + '.').startswith('pyncette.cli.') or name == 'argparse'])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["run", "list", "check"])
@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("nope:app", ["no module 'nope'"]),
        ("shop.nope:app", ["no module 'shop.nope'"]),
        ("nope.py:app", ["no file nope.py"]),
        ("shop.py", ["shop.py:app", "app, other"]),
        ("shop:shop", ["no 'shop'", "app, other"]),
        ("shop:ap", ["did you mean 'app'"]),
        ("shop:deliver", ["DynamicTask", "app, other"]),
        ("json:app", ["no Pyncette object"]),
        ("shop/x:app", ["MODULE:APP or FILE.py:APP"]),
    ],
)
def test_an_app_that_is_not_there_is_one_line_and_exit_code_1(pyncette, process, command, app, words):
    one_line_error((process if command == "run" else pyncette)(command, app), *words)


def test_a_forgotten_py_is_suggested(pyncette, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "web-shop.py").write_text(SHOP)
    one_line_error(pyncette("list", "web-shop:app"), "MODULE:APP or FILE.py:APP")
    assert pyncette("list", "web-shop.py:app").code == 0


@pytest.mark.parametrize("command", ["run", "list", "check"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("shop.db", ["not a URL"]),
        (f"postgre://joe:{SECRET}@localhost/shop", ["postgre://", "did you mean 'postgres'"]),
        (f"sqlite:///shop.db?password={SECRET}", ["Unknown option 'password'", "table_name"]),
    ],
)
def test_a_wrong_url_is_one_line_without_its_password(pyncette, process, command, url, words):
    one_line_error((process if command == "run" else pyncette)(command, "shop:app", "--url", url), *words)


@pytest.mark.parametrize("command", [["run"], ["run", "--processes=2"], ["list"], ["next"], ["show", "nightly"]])
def test_a_store_that_is_away_is_one_line(process, command):
    name, *more = command
    ended = process(name, "shop:app", *more, "--url", f"redis://:{SECRET}@localhost:1/0")
    one_line_error(ended, "localhost:1", "can't be reached")


def test_a_mistake_in_a_declaration_is_one_line_and_any_other_error_is_the_programs(pyncette, process, tmp_path):
    (tmp_path / "wrong.py").write_text("from pyncette import *\napp = Pyncette('postgre://x')\n")
    one_line_error(pyncette("list", "wrong.py:app"), "postgre://")
    (tmp_path / "broken.py").write_text("import not_there\n")
    ended = process("list", "broken:app")
    assert ended.code == 1
    assert "Traceback" in ended.stderr
    assert "broken.py" in ended.stderr
    assert "No module named 'not_there'" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["list"], ["APP"]),
        (["lst", "shop:app"], ["lst"]),
        (["run", "shop:app", "--processes", "0"], ["'0'"]),
        (["run", "shop:app", "--log-level", "loud"], ["loud"]),
        (["next", "shop:app", "--timezone", "Europe/Lundon"], ["did you mean 'Europe/London'"]),
        (["next", "shop:app", "--from", "tomorrow"], ["'tomorrow'", "2026-07-01"]),
        (["list", "shop:app", "--limit", "many"], ["'many'"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(pyncette, arguments, words):
    one_line_error(pyncette(*arguments), *words, "--help", code=2)


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["show"], ["next"], ["unschedule"], ["move"], ["backends"], ["check"]])
def test_every_command_has_help_with_examples(pyncette, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    ended = pyncette(*command, "--help")
    assert ended.code == 0
    assert "\nexamples:\n  pyncette " in ended.stdout
    assert "lifeline" not in ended.stdout
    assert max(map(len, ended.lines)) <= 80


def test_the_console_script_is_the_same_and_finds_modules_of_the_current_directory(pyncette, tmp_path):
    script = Path(sys.executable).parent / "pyncette"
    with Program([str(script), "list", "shop:app"], tmp_path) as program:
        assert program.wait() == 0, program.stderr
        assert program.stdout == pyncette("list", "shop:app").stdout
    with Program([str(script), "--version"], tmp_path) as program:
        assert program.wait() == 0
        assert re.fullmatch(r"pyncette-core \d+\.\d+\.\d+\S*\n", program.stdout)


def test_a_file_named_like_a_module_that_is_loaded_does_not_take_its_place(pyncette, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "json.py").write_text(SHOP)
    ended = pyncette("list", "sub/json.py:app", "--json")
    assert ended.code == 0, ended.stderr


def test_a_reader_that_has_enough_is_no_error(pyncette, stored, tmp_path):
    command = f"{sys.executable} -m pyncette next shop:app --to +400w --limit 0 --json | head -n 1"
    ended = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr.count("Traceback") == ended.stderr.count("Error") == 0


# --- list ---------------------------------------------------------------------------------------------------------------


def test_list_names_each_task_and_what_the_store_has_of_it(pyncette, stored):
    ended = pyncette("list", "shop:app")
    assert ended.code == 0
    rows = {line.split()[0]: line for line in ended.lines}
    assert ended.lines[0].split() == ["TASK", "KIND", "SCHEDULE", "NEXT", "LAST", "STATE"]
    assert re.search(r"static +0 7 \* \* MON Europe/London +\d{4}-\d\d-\d\d 07:00:00\+0\d:00 +scheduled$", rows["weekly_report"])
    assert re.search(r"dynamic +\d{4}-\d\d-\d\d \d\d:\d\d:00\+00:00 +4 instances$", rows["deliver"])
    assert re.search(
        r"partitioned +2020-01-01 00:00:00\+00:00 +2 instances, 1 due since 2020-01-01 00:00:00\+00:00, 1 failed$", rows["mail"]
    )
    assert re.search(r"static +every 5:00:00 +not stored; disabled$", rows["off"])
    assert ended.stderr == "pyncette: no worker is alive, so nothing runs; start one with: pyncette run APP\n"


def test_list_as_json_is_an_object_a_line(pyncette, stored):
    found = {each["task"]: each for each in pyncette("list", "shop:app", "--json").objects}
    assert found["weekly_report"]["timezone"] == "Europe/London"
    assert found["weekly_report"]["next"].endswith(("T07:00:00+00:00", "T07:00:00+01:00"))
    assert found["deliver"].pop("next").endswith("00+00:00")
    assert found["deliver"] == {
        "task": "deliver",
        "kind": "dynamic",
        "declared": True,
        "enabled": True,
        "instances": 4,
        "due": 0,
        "oldest_due": None,
        "failed": 0,
        "states": {"scheduled": 4},
        "extra_runs": 0,
        "paused": None,
        "layout": "dynamic_task()",
        "layout_differs": False,
        "unpolled": "nobody polls it",
    }
    assert found["mail"] | {"instances": 2, "due": 1, "failed": 1, "oldest_due": "2020-01-01T00:00:00+00:00"} == found["mail"]
    assert (found["off"]["state"], found["off"]["enabled"]) == ("not stored", False)


def test_list_of_a_template_lists_its_instances(pyncette, stored):
    lines = pyncette("list", "shop:app", "deliver").lines
    assert lines[0].split() == ["INSTANCE", "SCHEDULE", "NEXT", "LAST", "STATE"]
    assert re.match(r"order 1 .* 1 9 \* \* \* Europe/Berlin +\d{4}-\d\d-\d\d 09:01:00\+0\d:00 +scheduled$", lines[2])
    assert {line.split()[0]: line.split()[-1] for line in pyncette("list", "shop:app", "mail").lines[1:]} == {
        "bill": "failed",
        "jane": "due",
    }


def test_a_name_can_neither_colour_the_terminal_nor_break_a_line(pyncette, process, stored):
    ended = pyncette("list", "shop:app", "deliver")
    assert "\x1b" not in ended.stdout
    assert r"ungültig\x1b[31m\nname" in ended.stdout
    assert len(ended.lines) == 5
    ended = pyncette("list", "shop:app", "deliver", "--json")
    assert ended.objects[3]["instance"] == "ungültig\x1b[31m\nname"
    ended = process("list", "shop:app", "deliver", PYTHONIOENCODING="ascii")
    assert ended.code == 0
    assert r"ung\xfcltig" in ended.stdout


def test_list_says_that_there_are_more_than_the_limit(pyncette, stored):
    ended = pyncette("list", "shop:app", "deliver", "--limit", "3")
    assert len(ended.lines) == 1 + 3
    assert "--limit 0" in ended.stderr
    ended = pyncette("list", "shop:app", "deliver", "--limit", "4")
    assert (len(ended.lines), ended.stderr) == (1 + 4, "")
    assert len(pyncette("list", "shop:app", "deliver", "--limit", "2", "--json").objects) == 2
    assert len(pyncette("list", "shop:app", "deliver", "--limit", "0", "--json").objects) == 4


def test_list_shows_what_the_store_has_besides(pyncette, stored):
    lines = pyncette("list", "shop:other").lines
    assert [line.split()[0] for line in lines[1:]] == ["nightly", "weekly_report", "deliver", "mail"]
    assert all("; not declared here" in line for line in lines[1:])
    assert re.search(r"static +30 1 \* \* \* Europe/London +\d{4}-\d\d-\d\d 0[12]:30:00\+0[01]:00 +scheduled;", lines[1])
    assert re.search(r"dynamic +\d{4}-\d\d-\d\d \d\d:\d\d:00\+00:00 +4 instances;", lines[3])
    assert re.search(r"partitioned +2020-01-01 .* +2 instances, 1 due since 2020-01-01 00:00:00\+00:00, 1 failed;", lines[4])


def test_an_app_in_memory_shows_its_declarations_and_says_so(pyncette):
    ended = pyncette("list", "shop:app", "--url", "memory://")
    assert ended.code == 0
    assert "not stored" in ended.stdout
    [line] = ended.stderr.splitlines()
    assert "--url" in line


# --- show ---------------------------------------------------------------------------------------------------------------


def test_show_an_instance(pyncette, stored):
    ended = pyncette("show", "shop:app", "deliver", "order 1")
    assert ended.code == 0
    pairs = dict(re.split("  +", line, maxsplit=1) for line in ended.lines)
    assert pairs["instance"] == "order 1"
    assert pairs["schedule"] == "1 9 * * *"
    assert pairs["timezone"] == "Europe/Berlin"
    assert json.loads(pairs["arguments"]) == {"carrier": "ship", "number": 1}
    assert (pairs["state"], pairs["max attempts"]) == ("scheduled", "3")
    shown = pyncette("show", "shop:app", "deliver", "order 1", "--json").objects
    assert len(shown) == 1
    assert shown[0]["arguments"] == {"carrier": "ship", "number": 1}
    assert shown[0]["next"].startswith(pairs["next"].replace(" ", "T"))


def test_show_tells_why_an_instance_was_given_up(pyncette, stored):
    assert re.search("(?m)^error +MailboxFull: bill$", pyncette("show", "shop:app", "mail", "bill").stdout)


def test_show_a_task_and_a_template(pyncette, stored):
    [shown] = pyncette("show", "shop:app", "weekly_report", "--json").objects
    assert shown["arguments"] == {"to": "all@example.com"}
    assert (shown["state"], shown["partition"]) == ("scheduled", "static")
    assert "from_next_start" not in shown
    [shown] = pyncette("show", "shop:app", "mail", "--json").objects
    assert (shown["instances"], shown["partition_count"]) == (2, 3)
    [shown] = pyncette("show", "shop:app", "off", "--json").objects
    assert shown["state"] == "not stored"


def test_show_tells_a_schedule_that_is_declared_but_not_yet_stored(pyncette, stored, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.replace("30 1 * * *", "45 1 * * *"))
    [shown] = pyncette("show", "shop:app", "nightly", "--json").objects
    assert shown["schedule"] == "30 1 * * *"
    assert shown["from_next_start"].startswith("cron 45 1 * * * @Europe/London")


def test_rows_that_nobody_can_read_are_shown_as_they_are(pyncette, stored, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("UPDATE pyncette_tasks SET spec = 'no JSON', schedule = 'lunar 3' WHERE name = 'order 1'")
    [shown] = pyncette("show", "shop:app", "deliver", "order 1", "--json").objects
    assert (shown["schedule"], shown["arguments"]) == ("lunar 3", "no JSON")
    assert "lunar 3" in pyncette("list", "shop:app", "deliver").stdout
    ended = pyncette("next", "shop:app", "deliver", "--json")
    assert {each["instance"] for each in ended.objects} == {"order 0", "order 2", "ungültig\x1b[31m\nname"}
    assert "'order 1' of 'deliver' is left out" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "shop:app", "delivr"], ["a task 'delivr'; did you mean 'deliver'?"]),
        (["show", "shop:app", "deliver", "order 9"], ["no instance 'order 9'"]),
        (["show", "shop:app", "nightly", "one"], ["'nightly' is a static task"]),
        (["list", "shop:app", "nightly"], ["'nightly' is a static task and has no instances"]),
        (["next", "shop:app", "nope"], ["a task 'nope'; known tasks are weekly_report, nightly"]),
        (["next", "shop:app", "deliver", "order 9"], ["no instance 'order 9'"]),
        (["next", "shop:app", "--from", "2026-07-02", "--to", "2026-07-01"], ["--to"]),
        (["next", "shop:app", "--to", "+99999999d"], ["9999"]),
        (["next", "shop:app", "--from", "0001-01-01"], ["9999"]),
        (["next", "shop:app", "--from", "9999-12-30T20:00Z", "--timezone", "Asia/Tokyo"], ["9999"]),
        (["unschedule", "shop:app", "deliver", "order 9"], ["'order 9'", "nothing was changed"]),
        (["unschedule", "shop:app", "deliver"], ["The app declares 'deliver'"]),
        (["unschedule", "shop:app", "nope"], ["a task 'nope'"]),
        (["check"], ["--url"]),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_1(pyncette, stored, arguments, words):
    one_line_error(pyncette(*arguments), *words)


# --- next ---------------------------------------------------------------------------------------------------------------


def test_next_lists_what_fires_between_two_instants_in_a_zone(pyncette, stored):
    # The clocks of London and Berlin go forward on 28 March 2027, a Sunday: 1:30 does not exist in London.
    window = ["--from", "2027-03-27T12:00", "--to", "2027-03-29T12:00", "--timezone", "Europe/London"]
    lines = pyncette("next", "shop:app", *window).lines
    assert lines[0].split() == ["AT", "DAY", "TASK", "INSTANCE"]
    assert [line.split(None, 4) for line in lines[1:] if "ungültig" not in line] == [
        ["2027-03-28", "02:00:00+01:00", "Sun", "nightly"],
        ["2027-03-28", "08:00:00+01:00", "Sun", "deliver", "order 0"],
        ["2027-03-28", "08:01:00+01:00", "Sun", "deliver", "order 1"],
        ["2027-03-28", "08:02:00+01:00", "Sun", "deliver", "order 2"],
        ["2027-03-29", "01:30:00+01:00", "Mon", "nightly"],
        ["2027-03-29", "07:00:00+01:00", "Mon", "weekly_report"],
        ["2027-03-29", "08:00:00+01:00", "Mon", "deliver", "order 0"],
        ["2027-03-29", "08:01:00+01:00", "Mon", "deliver", "order 1"],
        ["2027-03-29", "08:02:00+01:00", "Mon", "deliver", "order 2"],
    ]


def test_next_of_one_task_or_instance(pyncette, stored):
    window = ["--from", "2027-03-01T00:00Z", "--to", "+2d", "--json"]
    assert pyncette("next", "shop:app", "deliver", "order 2", *window).objects == [
        {"at": "2027-03-01T08:02:00+00:00", "task": "deliver", "instance": "order 2"},
        {"at": "2027-03-02T08:02:00+00:00", "task": "deliver", "instance": "order 2"},
    ]
    assert [each["at"] for each in pyncette("next", "shop:app", "nightly", *window).objects] == [
        "2027-03-01T01:30:00+00:00",
        "2027-03-02T01:30:00+00:00",
    ]


def test_next_begins_with_from_and_ends_before_to(pyncette, stored):
    window = ["--from", "2027-03-01T01:30Z", "--to", "2027-03-02T01:30Z", "--json"]
    assert [each["at"] for each in pyncette("next", "shop:app", "nightly", *window).objects] == ["2027-03-01T01:30:00+00:00"]


def test_next_gives_the_earliest_of_all_also_with_a_limit(pyncette, stored):
    window = ["--from", "2027-03-01T00:00Z", "--to", "+52w", "--json"]
    every = pyncette("next", "shop:app", *window, "--limit", "0")
    assert len(every.objects) > 1000
    assert every.objects == sorted(every.objects, key=lambda each: (each["at"], each["task"], each["instance"] or ""))
    for limit in (1, 2, 7):
        some = pyncette("next", "shop:app", *window, "--limit", str(limit))
        assert some.objects == every.objects[:limit]
        assert "--limit 0" in some.stderr


def test_next_of_what_is_not_stored_is_as_if_it_were_started_now(pyncette):
    found = pyncette("next", "shop:app", "--to", "+7d", "--json").objects
    assert [each["task"] for each in found].count("nightly") == 7
    assert [each["task"] for each in found].count("weekly_report") == 1
    assert "off" not in [each["task"] for each in found]


def test_next_says_what_is_due_already(pyncette, stored):
    ended = pyncette("next", "shop:app", "mail")
    assert len(ended.lines) == 1
    assert "1 is already due" in ended.stderr
    assert pyncette("next", "shop:app", "mail", "--from", "2027-01-01", "--to", "+1d").stderr == ""


# --- unschedule ---------------------------------------------------------------------------------------------------------


def test_unschedule_removes_an_instance(pyncette, stored):
    ended = pyncette("unschedule", "shop:app", "deliver", "order 1")
    assert (ended.code, ended.stdout) == (0, "")
    assert [each["instance"] for each in pyncette("list", "shop:app", "deliver", "--json").objects][:2] == ["order 0", "order 2"]
    assert pyncette("unschedule", "shop:app", "deliver", "order 2", "--json").objects == [
        {"task": "deliver", "instance": "order 2", "unscheduled": True, "count": 1}
    ]


def test_unschedule_removes_a_static_task_that_is_not_declared_any_more(pyncette, stored):
    assert pyncette("unschedule", "shop:app", "nightly").code == 1
    assert pyncette("unschedule", "shop:other", "nightly").code == 0
    assert "nightly" not in pyncette("list", "shop:other").stdout


# --- check --------------------------------------------------------------------------------------------------------------


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT partition, name FROM pyncette_tasks").fetchall()


def test_check_creates_the_tables_and_leaves_no_row(pyncette, tmp_path):
    ended = pyncette("check", "shop:app")
    assert ended.code == 0
    assert [line.split("  ")[0] for line in ended.lines] == [
        "packages",
        "store",
        "round trip",
        "clock",
        "layouts",
        "rows",
        "workers",
        "leases",
    ]
    assert rows(tmp_path / "shop.db") == []
    found = pyncette("check", "--url", "sqlite:///other.db", "--json").objects
    assert [each["result"] for each in found] == ["ok"] * 8
    assert rows(tmp_path / "other.db") == []


def test_check_leaves_what_is_stored_alone(pyncette, stored, tmp_path):
    before = rows(tmp_path / "shop.db")
    assert pyncette("check", "shop:app").code == 0
    assert rows(tmp_path / "shop.db") == before


def failed(ended, *words):
    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    [line] = [line for line in ended.lines if "failed" in line]
    for word in words:
        assert word in line


def test_check_finds_a_store_that_is_away(pyncette):
    failed(pyncette("check", "--url", f"redis://:{SECRET}@localhost:1/0"), "store", "localhost:1")
    failed(pyncette("check", "shop:app", "--url", "sqlite:///no/such/directory/shop.db"), "store", "no/such/directory")


def test_check_finds_a_store_that_can_be_read_only(pyncette, stored, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON pyncette_tasks BEGIN SELECT RAISE(ABORT, 'no'); END")
    failed(pyncette("check", "--url", "sqlite:///shop.db"), "round trip")


def test_check_finds_another_partition_count(pyncette, stored, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.replace("partition_count=3", "partition_count=4"))
    failed(pyncette("check", "shop:app"), "partition_count=3")


def distribution(directory, name, version, entry_points=""):
    """An installed distribution, as far as its metadata goes."""
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[pyncette.backends]\n{entry_points}\n")
    return str(directory)


def test_check_finds_a_pyncette_1_beside_it(process, tmp_path):
    path = distribution(tmp_path / "site", "pyncette", "1.1.0")
    failed(process("check", "shop:app", PYTHONPATH=path), "packages", "pyncette 1.1.0", "pip uninstall pyncette")


def test_a_package_in_pieces_is_one_line_if_pyncette_1_is_why(process, tmp_path):
    path = distribution(tmp_path / "site", "pyncette", "1.1.0")
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys; sys.modules['pyncette.cli.commands'] = None\n")
    one_line_error(process("check", "shop:app", PYTHONPATH=path), "pyncette 1.1.0", "pip uninstall pyncette")


SKEWED = """
import contextlib
from datetime import UTC, datetime, timedelta
from pyncette import *
from pyncette.memory import MemoryRepository

class Store(MemoryRepository):
    async def server_time(self):
        return datetime.now(UTC) - timedelta(seconds={seconds})

@contextlib.asynccontextmanager
async def store():
    yield Store()

app = Pyncette(repository_factory=store)
"""


@pytest.mark.parametrize(("seconds", "result"), [(0, "ok"), (90, "warning")])
def test_check_tells_the_skew_of_the_clock(pyncette, tmp_path, seconds, result):
    (tmp_path / "skewed.py").write_text(SKEWED.format(seconds=seconds))
    ended = pyncette("check", "skewed:app", "--json")
    assert ended.code == 0
    [found] = [each for each in ended.objects if each["check"] == "clock"]
    assert found["result"] == result
    assert re.search(rf"\+?-?{seconds}\.\d\d\d s off", found["detail"])


# --- backends -----------------------------------------------------------------------------------------------------------


def test_backends_lists_each_scheme_with_what_serves_it(process, tmp_path):
    path = distribution(
        tmp_path / "site", "pyncette-etcd", "0.3", "etcd = shop_etcd:backend\netcds = not_there:backend\nmemory = shop_etcd:backend"
    )
    (tmp_path / "site" / "shop_etcd.py").write_text("from pyncette.memory import backend\n")
    ended = process("backends", "--json", PYTHONPATH=path)
    assert ended.code == 0
    found = {(each["scheme"], each["package"]): each for each in ended.objects}
    assert list(found) == sorted(found)
    assert found["etcd", "pyncette-etcd"] == {
        "scheme": "etcd",
        "package": "pyncette-etcd",
        "version": "0.3",
        "status": "ready",
        "error": None,
    }
    assert found["sqlite", "pyncette-core"]["status"] == "ready"
    assert found["etcds", "pyncette-etcd"]["status"] == "broken"
    assert "not_there" in found["etcds", "pyncette-etcd"]["error"]
    for package in ("pyncette-core", "pyncette-etcd"):
        assert "uninstall all but one" in found["memory", package]["error"]
    assert "postgresql" in {scheme for scheme, _ in found}, "whether installed or not"
    for scheme, package in found:
        if found[scheme, package]["version"] is None:
            assert found[scheme, package]["status"] == "not installed"
    ended = process("backends", PYTHONPATH=path)
    assert re.search(r"(?m)^etcd +pyncette-etcd +0\.3 +ready$", ended.stdout)
    assert ended.stderr.count("not_there") == 1


# --- the hook of core that this needs -----------------------------------------------------------------------------------


def test_an_app_can_be_opened_without_its_fixtures():
    app = Pyncette()
    set_up = []

    @app.fixture()
    async def fixture():
        set_up.append("fixture")
        yield 1

    async def create():
        async with app.create(fixtures=False) as app_context:
            assert app_context.values == {}
            app_context.add_to_context("fixture", 2)
        assert set_up == []
        async with app.create() as app_context:
            assert app_context.values == {"fixture": 1}

    asyncio.run(create())
    assert set_up == ["fixture"]
