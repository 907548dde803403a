"""Arguments of bodies: what they become in progress into the store, what is refused, and which names are free."""

import collections
import dataclasses
import decimal
import enum
import json
import math
import pathlib
import types
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pytest

from pyncette import ConfigurationError, Instance
from pyncette.arguments import MAX_ARGUMENTS_BYTES, dump_arguments, plain_arguments
from pyncette.checks import check_free_arguments, did_you_mean, one_slip_from
from pyncette.testing import running

SECOND = timedelta(seconds=1)


async def body(context): ...


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "another text"


class Whole(int):
    def __repr__(self):
        return "whole"


class Ratio(float):
    def __repr__(self):
        return "ratio"


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Kind(enum.Enum):
    ONE = 1


class Point(NamedTuple):
    x: object
    y: object


@dataclasses.dataclass
class User:
    name: str


def nested(depth):
    value = "core"
    for _ in range(depth):
        value = [value]
    return value


def circular():
    value = {}
    value["self"] = value
    return value


# --- values -------------------------------------------------------------------------------------------------------------

GIVEN = {
    "text": Text("text"),
    Text("named"): Whole(5),
    "ratio": Ratio(0.5),
    "truth": True,
    "nothing": None,
    "colour": Colour.RED,
    "number": Number.ONE,
    "point": Point(1, (2, Text("three"))),
    "ordered": collections.OrderedDict(b=1, a=[Text("x")]),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, {Text("k"): [()]}),
    "huge": 2**2000,
    "deep": nested(49),
}
PLAIN = {
    "text": "text",
    "named": 5,
    "ratio": 0.5,
    "truth": True,
    "nothing": None,
    "colour": "red",
    "number": 1,
    "point": [1, [2, "three"]],
    "ordered": {"b": 1, "a": ["x"]},
    "counter": {"a": 2, "b": 1},
    "default": {"k": [[]]},
    "huge": 2**2000,
    "deep": nested(49),
}


def types_within(value):
    yield type(value)
    if isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from types_within(item)
    elif isinstance(value, list):
        for item in value:
            yield from types_within(item)


def test_a_body_gets_plain_values_whatever_was_declared_and_scheduled(app, clock):
    seen = {}

    async def record(context):
        seen[context.name] = context.args

    app.task(interval=SECOND, name="static", args=GIVEN)(record)
    with_args = app.dynamic_task(name="declared", args=GIVEN)(record)
    without = app.dynamic_task(name="scheduled")(record)

    async def main():
        async with running(app) as context:
            await context.schedule_task(with_args, "declared", execute_at=clock.now())
            await context.schedule_tasks(without, [Instance(name="scheduled", execute_at=clock.now(), args=GIVEN)])
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert seen == dict.fromkeys(("static", "declared", "scheduled"), PLAIN)
    assert {kind for each in seen.values() for kind in types_within(each)} == {
        str, int, float, bool, type(None), list, dict,
    }  # fmt: skip


def test_what_a_program_does_with_its_values_after_the_declaration_changes_nothing(app):
    shared = {"items": [1]}
    task = app.task(interval=SECOND, args=shared, nested=shared)(body)
    shared["items"].append(2)
    assert task.args == {"items": [1], "nested": {"items": [1]}}


REFUSED = {
    "datetime": (datetime(2026, 1, 1, tzinfo=UTC), "datetime", "isoformat()"),
    "date": (date(2026, 1, 1), "date", "isoformat()"),
    "timedelta": (SECOND, "timedelta", "total_seconds()"),
    "set": ({1, 2}, "set", "list"),
    "frozenset": (frozenset(), "frozenset", "list"),
    "bytes": (b"x", "bytes", "hex()"),
    "enum": (Kind.ONE, "Kind", "value"),
    "dataclass": (User("ada"), "User", "asdict()"),
    "mapping": (types.MappingProxyType({}), "mappingproxy", "dict()"),
    "decimal": (decimal.Decimal(1), "Decimal", "str()"),
    "uuid": (uuid.UUID(int=1), "UUID", "str()"),
    "path": (pathlib.PurePath("x"), "Path", "str()"),
    "object": (object(), "object", "JSON"),
    "function": (body, "function", "JSON"),
    "generator": (iter(()), "iterator", "JSON"),
    "nan": (math.nan, "float", "nan"),
    "infinity": (-math.inf, "float", "-inf"),
    "number of too many digits": (10**5000, "bits"),
    "keys": ({1: "one"}, "int", "keys must be strings"),
    "too deep": (nested(51), "deeper than 50"),
    "circular": (circular(), "contains itself"),
}


@pytest.mark.parametrize(("value", "words"), [(each[0], each[1:]) for each in REFUSED.values()], ids=list(REFUSED))
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: {"k": (value,)}])
def test_what_json_cannot_say_is_refused_with_what_to_pass_instead(value, words, wrap):
    with pytest.raises(ConfigurationError) as info:
        dump_arguments({"first": 1, "wrong": wrap(value)}, "a test")
    message = str(info.value)
    assert message.startswith("The argument 'wrong' of a test ")
    assert "\n" not in message
    assert len(message) < 200
    for word in words:
        assert word in message


def test_a_refused_value_is_not_shown():
    with pytest.raises(ConfigurationError) as info:
        dump_arguments({"user": User("s3cret"), "token": "s3cret"}, "a test")
    assert "s3cret" not in str(info.value)


def test_arguments_are_limited_in_length(app):
    overhead = len('{"text":""}')
    longest = {"text": "x" * (MAX_ARGUMENTS_BYTES - overhead)}
    assert json.loads(dump_arguments(longest, "a test")) == longest
    for too_long in (
        {"text": longest["text"] + "x"},
        {"text": "\u00e5" * (MAX_ARGUMENTS_BYTES // 6)},
        {str(number): number for number in range(30_000)},
    ):
        with pytest.raises(ConfigurationError, match=f"at most {MAX_ARGUMENTS_BYTES} can be stored") as info:
            plain_arguments(too_long, "a test")
        assert len(str(info.value)) < 200
        with pytest.raises(ConfigurationError, match="at most"):
            app.task(interval=SECOND, name="long", args=too_long)(body)


# --- names --------------------------------------------------------------------------------------------------------------

OPTIONS = (
    "schedule",
    "interval",
    "timezone",
    "name",
    "enabled",
    "failure_mode",
    "max_attempts",
    "partition_count",
    "force",
    "args",
)
SLIPS = {
    "schedul": "schedule",
    "sschedule": "schedule",
    "shcedule": "schedule",
    "scheduled": "schedule",
    "Schedule": "schedule",
    "intervall": "interval",
    "inteval": "interval",
    "imterval": "interval",
    "time_zone": "timezone",
    "timeZone": "timezone",
    "failureMode": "failure_mode",
    "maxattempts": "max_attempts",
    "max_attempt": "max_attempts",
    "partitions_count": "partition_count",
    "enable": "enabled",
    "forced": "force",
}
FREE = ["names", "partition", "attempts", "game", "schedule_id", "nam", "arg", "argss", "time", "zone", "scheduling"]
FREE += ["max", "attempt", "failure", "count", "", "schedule_of_the_week", "lease", "user", "xmax_attempt", "shceduel"]


@pytest.mark.parametrize(("name", "option"), SLIPS.items())
def test_a_name_one_slip_from_an_option_is_taken_for_it(name, option):
    assert one_slip_from(name, OPTIONS) == option


@pytest.mark.parametrize("name", FREE)
def test_other_names_are_free(app, name):
    assert one_slip_from(name, OPTIONS) is None
    assert app.task(interval=SECOND, **{name: 1})(body).args == {name: 1}


FOREIGN = {
    "tz": "timezone=",
    "max_retries": "Retry(attempts=",
    "retries": "Retry(attempts=",
    "default_retry_delay": "Retry(delay=",
    "autoretry_for": "give_up_on=",
    "retry_backoff": "factor=",
    "misfire_grace_time": "catch_up_window=",
    "coalesce": "CatchUp.LATEST",
    "eta": "execute_at=",
    "run_date": "execute_at=",
    "countdown": "execute_at=datetime.now(UTC) + ",
    "start_date": "start_at=",
    "end_date": "end_at=",
    "max_instances": "leave it out",
    "cron": "schedule=",
    "crontab": "schedule=",
    "trigger": "schedule= or interval=",
    "expires": "context.scheduled_at",
    "time_limit": "timeout=",
}


@pytest.mark.parametrize(("name", "instead"), FOREIGN.items())
@pytest.mark.parametrize("kind", ["task", "dynamic_task", "partitioned_task"])
def test_an_option_of_another_scheduler_is_told_what_it_is_called_here(app, kind, name, instead):
    needed = {"task": {"interval": SECOND}, "dynamic_task": {}, "partitioned_task": {"partition_count": 2}}[kind]
    with pytest.raises(ConfigurationError) as info:
        getattr(app, kind)(**needed, **{name: 1})
    message = str(info.value)
    assert f"The argument '{name}' of @app.{kind}() " in message
    assert instead in message
    assert f"args={{'{name}': ...}}" in message, "the way out"
    assert getattr(app, kind)(**needed, args={name: 1})(body).args == {name: 1}, "and it is one"


ELSEWHERE = [
    ("task", "execute_at", "schedule_task()"),
    ("task", "partition_count", "@app.partitioned_task()"),
    ("dynamic_task", "enabled_partitions", "@app.partitioned_task()"),
    *(
        (kind, option, "schedule_task()")
        for kind in ("dynamic_task", "partitioned_task")
        for option in ("schedule", "interval", "timezone", "execute_at")
    ),
]


@pytest.mark.parametrize(("kind", "option", "where"), ELSEWHERE)
def test_an_option_that_belongs_elsewhere_says_where(app, kind, option, where):
    needed = {"partition_count": 2} if kind == "partitioned_task" else {}
    with pytest.raises(ConfigurationError) as info:
        getattr(app, kind)(**needed, **{option: 1})
    assert f"The argument '{option}' of @app.{kind}() looks like an option that belongs elsewhere" in str(info.value)
    assert where in str(info.value)
    assert f"args={{'{option}': ...}}" in str(info.value)


def test_an_argument_may_have_the_name_of_any_option(app):
    args = dict.fromkeys(["schedule", "name", "self", "body", "args", "further_args", "enabled"], 1)
    assert app.task(interval=SECOND, args=args)(body).args == args
    assert app.dynamic_task(name="other", self=1, body=2, given=3, kind=4)(body).args == {
        "self": 1,
        "body": 2,
        "given": 3,
        "kind": 4,
    }


def test_arguments_can_be_given_in_both_ways_but_each_once(app):
    assert app.task(interval=SECOND, args={"a": 1}, b=2)(body).args == {"a": 1, "b": 2}
    with pytest.raises(ConfigurationError, match="'a' of @app.dynamic_task\\(\\) is given twice"):
        app.dynamic_task(args={"a": 1}, a=1)
    for wrong in (["a"], "a", 5):
        with pytest.raises(ConfigurationError, match="pass a dict"):
            app.dynamic_task(args=wrong)


def test_what_is_free_for_one_caller_may_be_an_option_of_another():
    check_free_arguments(["retry_delai"], ["schedule"], "a test")
    with pytest.raises(ConfigurationError, match="'retry_delay'"):
        check_free_arguments(["retry_delai"], ["schedule"], "a test", {"retry_delay": "set it elsewhere"})
    with pytest.raises(ConfigurationError, match="'retry_delay' of a test .*: set it elsewhere, or"):
        check_free_arguments(["retry_delay"], ["schedule"], "a test", {"retry_delay": "set it elsewhere"})


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("sqlite_tabel", ["sqlite_database", "sqlite_table_name", "sqlite_timeout"], "sqlite_table_name"),
        ("intervall", ["interval", "intervals_of_all"], "interval"),
        ("colour", ["schedule", "interval"], None),
    ],
)
def test_of_several_names_that_are_close_the_likeliest_is_suggested(name, known, meant):
    assert did_you_mean(name, known) == meant
