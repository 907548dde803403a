"""The command line on stores that are not as the app declares them: renamed, laid out otherwise, damaged."""

import asyncio
import contextlib
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_cli import one_line_error, pyncette, shop  # noqa: F401 - fixtures
from test_cli_output import HOSTILE, harmless

from pyncette import Pyncette

APP = """
from pyncette import *
app = Pyncette("sqlite:///shop.db")

async def body(context):
    pass
"""


async def body(context):
    pass


def declare(directory, *declarations):
    """A program whose app declares that."""
    (directory / "shop.py").write_text(APP + "\n".join(f"app.{each}(body)" for each in declarations))


def store(directory, declarations, *, instances=()):
    """What an app that declared this has left in the store, with so many instances of each template."""

    async def main():
        app = Pyncette(f"sqlite:///{directory}/shop.db")
        tasks = [eval(f"app.{each}(body)", {"app": app, "body": body}) for each in declarations]
        async with app.create() as app_context:
            now = app_context.clock.now()
            for task in tasks:
                if hasattr(task, "schedule"):
                    await app_context.repository.register(now, [task.registration(now)])
                else:
                    for instance in instances:
                        at = datetime(2035, 1, 1, tzinfo=UTC) + timedelta(days=len(instance))
                        await app_context.schedule_task(task, instance, execute_at=at, text="hello")

    asyncio.run(main())


def execute(directory, statement, *values):
    with contextlib.closing(sqlite3.connect(directory / "shop.db")) as database, database:
        return database.execute(statement, values).fetchall()


def keys(directory):
    return sorted(execute(directory, "SELECT partition, name FROM pyncette_tasks WHERE partition <> 'layouts'"))


@pytest.fixture
def renamed(shop):  # noqa: F811
    """A store that has a template, a partitioned one and a static task which the app does not declare any more."""
    store(
        shop,
        [
            "dynamic_task(name='old')",
            "partitioned_task(name='spread', partition_count=3)",
            "task(name='report', schedule='0 9 * * *')",
        ],
        instances=["a", "bb", "ccc"],
    )
    declare(shop, "dynamic_task(name='new')")
    return shop


# --- what nobody declares -----------------------------------------------------------------------------------------------


def test_list_and_show_see_what_nobody_declares_with_schedule_count_and_time(pyncette, renamed):  # noqa: F811
    lines = {line.split()[0]: line for line in pyncette("list", "shop:app").lines}
    assert re.search(r"static +0 9 \* \* \* +\d{4}-\d\d-\d\d 09:00:00\+00:00 +scheduled; not declared here$", lines["report"])
    assert re.search(r"dynamic +2035-01-02 00:00:00\+00:00 +3 instances; not declared here$", lines["old"])
    assert re.search(r"partitioned +2035-01-02 00:00:00\+00:00 +3 instances; not declared here$", lines["spread"])
    assert re.search(r"dynamic +not stored$", lines["new"])
    found = {each["task"]: each for each in pyncette("list", "shop:app", "--json").objects}
    assert (found["spread"]["declared"], found["spread"]["instances"], found["new"]["declared"]) == (False, 3, True)
    [shown] = pyncette("show", "shop:app", "spread", "--json").objects
    assert (shown["instances"], shown["layout"]) == (3, "partitioned_task(partition_count=3)")
    [shown] = pyncette("show", "shop:app", "report", "--json").objects
    assert (shown["schedule"], shown["state"], shown["declared"]) == ("0 9 * * *", "scheduled", False)


@pytest.mark.parametrize("name", ["old", "spread"])
def test_instances_of_what_nobody_declares_are_listed_and_shown(pyncette, renamed, name):  # noqa: F811
    assert {each["instance"] for each in pyncette("list", "shop:app", name, "--json").objects} == {"a", "bb", "ccc"}
    [shown] = pyncette("show", "shop:app", name, "bb", "--json").objects
    assert (shown["arguments"], shown["next"]) == ({"text": "hello"}, "2035-01-03T00:00:00+00:00")
    one_line_error(pyncette("next", "shop:app", name), "does not declare")


@pytest.mark.parametrize("name", ["old", "spread"])
def test_an_instance_of_what_nobody_declares_can_be_removed(pyncette, renamed, name):  # noqa: F811
    assert pyncette("unschedule", "shop:app", name, "bb").code == 0
    assert {each["instance"] for each in pyncette("list", "shop:app", name, "--json").objects} == {"a", "ccc"}


@pytest.mark.parametrize("name", ["old", "spread"])
def test_all_of_a_template_that_nobody_declares_is_removed_only_if_that_is_confirmed(pyncette, renamed, name):  # noqa: F811
    before = keys(renamed)
    one_line_error(pyncette("unschedule", "shop:app", name), "3 instances", "--all")
    assert keys(renamed) == before
    ended = pyncette("unschedule", "shop:app", name, "--all", "--json")
    assert ended.objects == [{"task": name, "instance": None, "unscheduled": True, "count": 3}]
    assert keys(renamed) == [key for key in before if not key[0].endswith(f":{name}")]
    # The name is free for anything.
    declare(renamed, f"task(name={name!r}, interval=__import__('datetime').timedelta(hours=1))")
    assert pyncette("check", "shop:app").code == 0
    one_line_error(pyncette("unschedule", "shop:app", name, "--all"), "The app declares")


def test_a_template_without_instances_that_nobody_declares_needs_no_confirmation(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='old')"])
    declare(shop, "dynamic_task(name='new')")
    assert "old" in pyncette("list", "shop:app").stdout
    assert pyncette("unschedule", "shop:app", "old").code == 0
    assert "old" not in pyncette("list", "shop:app").stdout


def test_what_the_app_declares_is_not_removed_as_a_whole(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='new')"], instances=["a"])
    declare(shop, "dynamic_task(name='new')")
    one_line_error(pyncette("unschedule", "shop:app", "new", "--all"), "The app declares 'new'")
    one_line_error(pyncette("unschedule", "shop:app", "new", "a", "--all"), "--all")
    assert keys(shop) == [("dynamic:new", "a")]


def test_a_template_that_became_a_static_task_can_be_seen_and_removed(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='report')"], instances=["a", "bb"])
    declare(shop, "task(name='report', schedule='0 9 * * *')")
    assert [(each["kind"], each["declared"]) for each in pyncette("list", "shop:app", "--json").objects] == [
        ("static", True),
        ("dynamic", False),
    ]
    assert len(pyncette("list", "shop:app", "report", "--json").objects) == 2
    assert pyncette("check", "shop:app").code == 1
    assert pyncette("unschedule", "shop:app", "report", "--all").code == 0
    assert pyncette("check", "shop:app").code == 0


def test_a_static_task_that_became_a_template_can_be_seen_and_removed(pyncette, shop):  # noqa: F811
    store(shop, ["task(name='report', schedule='0 9 * * *')"])
    declare(shop, "dynamic_task(name='report')")
    assert pyncette("check", "shop:app").code == 1
    assert pyncette("unschedule", "shop:app", "report").code == 0
    assert pyncette("check", "shop:app").code == 0


def test_rows_in_a_partition_of_nobody_can_be_seen_and_removed(pyncette, renamed):  # noqa: F811
    execute(renamed, "UPDATE pyncette_tasks SET partition = ? WHERE name = 'bb' AND partition = 'dynamic:old'", "\x1b[2J")
    ended = pyncette("list", "shop:app")
    assert harmless(ended.stdout)
    assert r"\x1b[2J" in ended.stdout
    assert [each["instance"] for each in pyncette("list", "shop:app", "\x1b[2J", "--json").objects] == ["bb"]
    assert pyncette("unschedule", "shop:app", "\x1b[2J", "--all").code == 0
    assert "\\x1b" not in pyncette("list", "shop:app").stdout


# --- another layout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("dynamic_task(name='t')", "partitioned_task(name='t', partition_count=3)"),
        ("partitioned_task(name='t', partition_count=3)", "dynamic_task(name='t')"),
        ("partitioned_task(name='t', partition_count=3)", "partitioned_task(name='t', partition_count=8)"),
        ("partitioned_task(name='t', partition_count=8)", "partitioned_task(name='t', partition_count=3, enabled=False)"),
    ],
)
def test_what_is_laid_out_otherwise_than_declared_is_shown_and_check_says_so(pyncette, shop, before, after):  # noqa: F811
    store(shop, [before], instances=["a", "bb", "ccc"])
    declare(shop, after)
    as_before = f"stored as {before.replace(chr(40) + 'name=' + repr('t'), '(').replace('(, ', '(')}"
    assert f"3 instances{'; disabled' if 'enabled' in after else ''}; {as_before}" in pyncette("list", "shop:app").stdout
    ended = pyncette("list", "shop:app", "t")
    assert (ended.code, len(ended.lines)) == (0, 4)
    assert as_before in ended.stderr
    assert len(pyncette("next", "shop:app", "--from", "2035-01-01", "--to", "+7d", "--json").objects) == 3
    [shown] = pyncette("show", "shop:app", "t", "bb", "--json").objects
    assert shown["next"] == "2035-01-03T00:00:00+00:00"
    [line] = [line for line in pyncette("check", "shop:app").lines if line.startswith("layouts")]
    assert "failed" in line
    assert "pyncette move APP t t" in line
    assert pyncette("unschedule", "shop:app", "t", "bb").code == 0
    assert {name for _, name in keys(shop)} == {"a", "ccc"}


# --- check --------------------------------------------------------------------------------------------------------------


def warnings_of(ended):
    assert ended.code == 0
    return [each["detail"] for each in ended.objects if each["result"] == "warning"]


def test_check_names_rows_that_nobody_declares(pyncette, renamed):  # noqa: F811
    found = warnings_of(pyncette("check", "shop:app", "--json"))
    assert [each.split(" is stored")[0] for each in found] == [
        "'report' (static)",
        "'old' (dynamic, rows: 3)",
        "'spread' (partitioned, rows: 3)",
        "none is alive; nothing runs until you start one: pyncette run APP",
    ]
    assert warnings_of(pyncette("check", "--url", "sqlite:///shop.db", "--json")) == []


def test_check_names_rows_that_can_not_be_read_but_not_without_end(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='new')"], instances=[f"{number:03}" for number in range(40)])
    declare(shop, "dynamic_task(name='new')")
    assert warnings_of(pyncette("check", "shop:app", "--json")) == [
        "none is alive; nothing runs until you start one: pyncette run APP"
    ]
    execute(shop, "UPDATE pyncette_tasks SET state = 'odd' WHERE name < '013'")
    execute(shop, "UPDATE pyncette_tasks SET schedule = 'odd' WHERE name = '020'")
    for arguments in (["shop:app"], ["--url", "sqlite:///shop.db"]):
        found = [
            each
            for each in warnings_of(pyncette("check", *arguments, "--json"))
            if each != "none is alive; nothing runs until you start one: pyncette run APP"
        ]
        assert len(found) == 11
        assert "'000' of 'new' can't be read" in found[0]
        assert found[-1].startswith("4 more rows")


# --- damaged rows -------------------------------------------------------------------------------------------------------


def test_rows_that_can_not_be_read_are_shown_as_such_and_can_be_removed(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='new')", "task(name='report', schedule='0 9 * * *')"], instances=["a", "bb", "ccc", "dddd"])
    declare(shop, "dynamic_task(name='new')", "task(name='report', schedule='0 9 * * *')")
    execute(shop, "UPDATE pyncette_tasks SET state = ? WHERE name IN ('bb', 'ccc', 'report')", HOSTILE.replace("\ud800", ""))
    lines = {line.split()[0]: line for line in pyncette("list", "shop:app", "new").lines}
    assert lines["bb"].split() == ["bb", "unreadable"]
    ended = pyncette("show", "shop:app", "new", "bb")
    assert re.search(r"(?m)^error +can't be read: .*unknown", ended.stdout)
    assert harmless(ended.stdout)
    ended = pyncette("next", "shop:app", "--from", "2035-01-01", "--to", "+7d")
    assert len(ended.lines) == 3
    assert "'bb' of 'new' is left out" in ended.stderr
    assert harmless(ended.stderr)
    assert pyncette("unschedule", "shop:app", "new", "bb").code == 0
    assert pyncette("unschedule", "shop:app", "new", "--unreadable", "--json").objects[0]["count"] == 1
    assert pyncette("unschedule", "shop:app", "report", "--unreadable").code == 0
    assert keys(shop) == [("dynamic:new", "a"), ("dynamic:new", "dddd")]
    one_line_error(pyncette("unschedule", "shop:app", "new", "--unreadable"), "nothing was changed")


def test_instants_at_the_ends_of_the_calendar_are_shown(pyncette, shop):  # noqa: F811
    store(shop, ["dynamic_task(name='new')"], instances=["first", "last"])
    declare(shop, "dynamic_task(name='new')")
    for name, instant, zone in (("first", datetime.min, "America/New_York"), ("last", datetime.max, "Asia/Tokyo")):
        at = instant.isoformat(timespec="microseconds")
        microseconds = (instant.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        execute(
            shop,
            "UPDATE pyncette_tasks SET schedule = ?, occurrence = ?, execute_after = ?, ready_at = ? WHERE name = ?",
            f"once {at}Z @{zone}",
            *[microseconds] * 3,
            name,
        )
    lines = {line.split()[0]: line for line in pyncette("list", "shop:app", "new").lines}
    assert "0001-01-01 00:00:00+00:00" in lines["first"]
    assert "9999-12-31 23:59:59+00:00" in lines["last"]
    for arguments in (["list", "shop:app"], ["show", "shop:app", "new", "first"], ["show", "shop:app", "new", "last"]):
        assert pyncette(*arguments).code == 0
    for window in (
        ["--to", "9999-12-31"],
        ["--from", "9999-12-30", "--to", "9999-12-31T12:00"],
        ["--from", "0001-01-03", "--limit", "9"],
    ):
        assert pyncette("next", "shop:app", *window).code == 0


JUNK = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=20),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.sampled_from(["", "scheduled", "paused", "failed", "unreadable", "{}", "[1]", '{"a": NaN}', '{"a": 1e999}', "[" * 2000]),
    st.sampled_from(
        ["cron * * * * * @UTC", "cron * * * * * @Europe/Berlin", "interval 0.000001 @UTC", "once 0001-01-01T00:00:00Z @UTC"]
    ),
    st.sampled_from(["interval 99999999999999 @UTC", "cron 0 0 30 2 * @UTC", "cron", "cron * * * * * @/etc/passwd"]),
)
FIELDS = [
    *("partition", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error"),
]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damage=st.lists(st.tuples(st.sampled_from(["a", "bb", "report"]), st.sampled_from(FIELDS), JUNK), min_size=1, max_size=6))
@example(damage=[("a", "name", b"\xff\x1b[2J"), ("bb", "occurrence", 2**63 - 1), ("report", "state", b"\xff")])
@example(damage=[("a", "ready_at", -(2**63)), ("bb", "spec", '{"a": NaN}'), ("report", "error", 5)])
@example(damage=[("a", "name", ""), ("bb", "name", "x" * 5000), ("report", "name", "\x1b[2J")])
@example(
    damage=[("a", "partition", b"\xff"), ("bb", "partition", "partitioned:99999999999999999999:new"), ("report", "partition", "")]
)
@example(damage=[("a", "partition", "layouts"), ("bb", "partition", "static"), ("report", "partition", "dynamic:new")])
def test_no_junk_in_a_store_ends_a_command_in_a_traceback(pyncette, shop, damage):  # noqa: F811
    (shop / "shop.db").unlink(missing_ok=True)
    store(shop, ["dynamic_task(name='new')", "task(name='report', schedule='0 9 * * *')"], instances=["a", "bb"])
    declare(shop, "dynamic_task(name='new')", "task(name='report', schedule='0 9 * * *')")
    for name, field, junk in damage:
        # A column may refuse it, or there may be such a row; then the rest of the damage is enough.
        with contextlib.suppress(sqlite3.IntegrityError):
            execute(shop, f"UPDATE pyncette_tasks SET {field} = ? WHERE name = ?", junk, name)  # noqa: S608
    for command in (
        ["list", "shop:app"],
        ["list", "shop:app", "new"],
        ["show", "shop:app", "report"],
        ["show", "shop:app", "new"],
        ["show", "shop:app", "new", "a"],
        ["next", "shop:app", "--limit", "5"],
        ["check", "shop:app"],
        ["unschedule", "shop:app", "new", "--unreadable"],
        ["unschedule", "shop:app", "new", "bb"],
        ["unschedule", "shop:app", "report", "--unreadable"],
    ):
        for ended in [pyncette(*command), *([] if command[0] == "unschedule" else [pyncette(*command, "--json")])]:
            assert ended.code in (0, 1), (command, ended.stderr)
            assert "Traceback" not in ended.stderr, (command, ended.stderr)
            assert ended.code == 0 or ended.stderr or command[0] == "check"
            assert harmless(ended.stdout + ended.stderr)
            if "--json" in command:
                assert all(isinstance(json.loads(line, parse_constant=pytest.fail), dict) for line in ended.lines)
    left = pyncette("list", "shop:app", "new", "--json")
    assert all(each["state"] != "unreadable" for each in left.objects)


# --- looking writes nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["list"], ["list", "new"], ["show", "new"], ["show", "report"], ["next"], ["next", "--json"], ["list", "--json"]]
)
def test_looking_creates_nothing_and_shows_what_is_declared(pyncette, shop, command):  # noqa: F811
    declare(shop, "dynamic_task(name='new')", "task(name='report', schedule='0 9 * * *')")
    name, *more = command
    before = sorted(shop.iterdir())
    ended = pyncette(name, "shop:app", *more)
    assert ended.code == 0
    assert "There is no SQLite database" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert sorted(shop.iterdir()) == before
    if command == ["list"]:
        assert [line.split("  ")[-1].strip() for line in ended.lines[1:]] == ["not stored"] * 2


def test_removing_and_moving_create_nothing_either(pyncette, shop):  # noqa: F811
    declare(shop, "dynamic_task(name='new')")
    for command in (["unschedule", "shop:app", "old"], ["unschedule", "shop:app", "new", "a"], ["move", "shop:app", "old", "new"]):
        assert pyncette(*command).code == 1
    assert not (shop / "shop.db").exists()


def test_looking_writes_nothing_into_a_store_that_is_there(pyncette, renamed):  # noqa: F811
    declare(renamed, "dynamic_task(name='new')", "partitioned_task(name='spread', partition_count=5)")
    before = execute(renamed, "SELECT * FROM pyncette_tasks ORDER BY partition, name")
    for command in (["list"], ["list", "old"], ["show", "new"], ["show", "old", "a"], ["next"], ["list", "spread"]):
        name, *more = command
        assert pyncette(name, "shop:app", *more).code == 0
    assert execute(renamed, "SELECT * FROM pyncette_tasks ORDER BY partition, name") == before


# --- move ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["old", "spread", "dynamic:old", "partitioned:1:spread"])
def test_move_gives_the_instances_of_a_template_to_another(pyncette, renamed, source, caplog):  # noqa: F811
    caplog.set_level("INFO", "pyncette.audit")
    name = source.split(":")[-1]
    before = keys(renamed)
    ended = pyncette("move", "shop:app", source, "new", "--dry-run")
    assert (ended.code, ended.stdout) == (0, "")
    assert f"3 rows of {name!r} would be moved to where 'new' has its instances" in ended.stderr
    assert keys(renamed) == before
    ended = pyncette("move", "shop:app", source, "new", "--by", "ann")
    assert (ended.code, ended.stdout) == (0, "")
    assert f"3 rows of {name!r} are moved" in ended.stderr
    assert [record.message for record in caplog.records] == [f"move: task {name!r}, count 3, by 'ann', to 'new'"]
    assert {each["instance"]: each["next"] for each in pyncette("list", "shop:app", "new", "--json").objects} == {
        "a": "2035-01-02T00:00:00+00:00",
        "bb": "2035-01-03T00:00:00+00:00",
        "ccc": "2035-01-04T00:00:00+00:00",
    }
    assert name not in {each["task"] for each in pyncette("list", "shop:app", "--json").objects}


@pytest.mark.parametrize(
    "after", ["dynamic_task(name='spread')", *(f"partitioned_task(name='spread', partition_count={count})" for count in (1, 2, 8))]
)
def test_move_of_a_template_to_itself_gives_it_the_declared_layout(pyncette, renamed, after):  # noqa: F811
    declare(renamed, after)
    assert pyncette("check", "shop:app").code == 1
    assert pyncette("move", "shop:app", "spread", "spread", "--dry-run", "--json").objects[0]["moved"] <= 3
    [moved] = pyncette("move", "shop:app", "spread", "spread", "--json").objects
    assert moved | {"complete": True, "busy": 0, "unreadable": 0, "conflicts": []} == moved
    assert pyncette("check", "shop:app").code == 0
    assert len(pyncette("list", "shop:app", "spread", "--json").objects) == 3
    # It can be repeated, and then finds nothing to do.
    ended = pyncette("move", "shop:app", "spread", "spread", "--json")
    assert (ended.code, ended.objects[0]["moved"]) == (0, 0)


def test_move_says_what_stays_and_ends_with_1(pyncette, renamed):  # noqa: F811
    store(renamed, ["dynamic_task(name='new')"], instances=["bb"])
    execute(renamed, "UPDATE pyncette_tasks SET schedule = 'cron 0 9 * * * @UTC' WHERE partition = 'dynamic:new'")
    execute(renamed, "UPDATE pyncette_tasks SET state = 'odd' WHERE partition = 'dynamic:old' AND name = 'ccc'")
    ended = pyncette("move", "shop:app", "old", "new")
    assert ended.code == 1
    first, *more = ended.stderr.splitlines()
    assert "1 row of 'old' is moved" in first
    assert any("1 row can't be read" in line for line in more)
    assert any("'bb' stays, because 'new' has an instance of that name" in line for line in more)
    [again] = pyncette("move", "shop:app", "old", "new", "--json").objects
    assert (again["moved"], again["unreadable"], again["conflicts"], again["complete"]) == (0, 1, ["bb"], False)
    assert pyncette("unschedule", "shop:app", "old", "--unreadable").code == 0
    assert pyncette("unschedule", "shop:app", "old", "bb").code == 0
    assert pyncette("move", "shop:app", "old", "new").code == 0
    assert {name for _, name in keys(renamed)} >= {"a", "bb"}


def test_a_row_that_no_instance_can_be_named_like_keeps_no_other_from_being_moved(pyncette, renamed):  # noqa: F811
    execute(renamed, "UPDATE pyncette_tasks SET name = '' WHERE partition = 'dynamic:old' AND name = 'a'")
    [moved] = pyncette("move", "shop:app", "old", "new", "--json").objects
    assert (moved["moved"], moved["unreadable"]) == (2, 1)
    assert pyncette("unschedule", "shop:app", "old", "").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "new"], ["'nothing'"]),
        (["old", "nothing"], ["no template 'nothing'", "new"]),
        (["old", "report"], ["no template 'report'"]),
        (["report", "new"], ["'report' is a static task"]),
        (["new", "new"], []),
    ],
)
def test_what_can_not_be_moved_is_one_line(pyncette, renamed, arguments, words):  # noqa: F811
    ended = pyncette("move", "shop:app", *arguments)
    if words:
        one_line_error(ended, *words)
    else:
        assert ended.code == 0
