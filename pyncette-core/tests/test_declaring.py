"""What is wrong is refused where it is declared, in one line that names it, and costs nothing that is stored."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import enum
import functools
import inspect
import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette import (
    ConfigurationError,
    Context,
    ExecutionMode,
    FailureMode,
    Instance,
    Instrumentation,
    Pyncette,
    PyncetteContext,
    ScheduleError,
    SynchronousExecutor,
    with_heartbeat,
)
from pyncette.memory import memory_repository
from pyncette.task import DynamicTask, PartitionedTask, StaticTask, crc32_selector, dump_arguments
from pyncette.tasks import stored_arguments
from pyncette.testing import VirtualClock, running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


async def body(context):
    pass


def circular():
    value = []
    value.append(value)
    return value


def refused(call, *words):
    """Call it; it must raise a ConfigurationError of one line in which all ``words`` are."""
    with pytest.raises(ConfigurationError) as info:
        call()
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 500, "a line for people"
    for word in words:
        assert word in message
    return info.value


# --- tasks ------------------------------------------------------------------------------------------------------------

OF_A_SCHEDULE = {
    "none": ({}, "exactly one of", "none"),
    "two": ({"schedule": "* * * * *", "interval": SECOND}, "schedule and interval"),
    "impossible cron": ({"schedule": "0 0 30 2 *"}, "'0 0 30 2 *'"),
    "cron with a field too few": ({"schedule": "0 0 * *"}, "'0 0 * *'"),
    "cron out of range": ({"schedule": "61 * * * *"}, "'61'"),
    "cron of another type": ({"schedule": 5}, "5"),
    "zero interval": ({"interval": timedelta()}, "interval", "timedelta(0)"),
    "negative interval": ({"interval": -SECOND}, "interval", "-1"),
    "interval of another type": ({"interval": 60}, "interval", "60"),
    "interval beyond the calendar": ({"interval": timedelta.max}, "occurrence"),
    "unknown zone": ({"interval": SECOND, "timezone": "Europe/Lodnon"}, "'Europe/Lodnon'", "'Europe/London'"),
    "zone of another type": ({"interval": SECOND, "timezone": ZoneInfo("Europe/London")}, "key='Europe/London'"),
    "zone that is a file": ({"interval": SECOND, "timezone": "/etc/localtime"}, "'/etc/localtime'"),
}

OF_ANY_TASK = {
    "zero lease": ({"lease_duration": timedelta()}, "lease_duration", "0:00:00"),
    "negative lease": ({"lease_duration": -SECOND}, "lease_duration", "-1 day, 23:59:59"),
    "lease beyond the calendar": ({"lease_duration": timedelta.max}, "lease_duration", "999999999 days", "at most"),
    "retry_delay beyond the calendar": ({"retry_delay": timedelta.max}, "retry_delay", "at most"),
    "lease of another type": ({"lease_duration": 60}, "lease_duration", "60", "timedelta"),
    "negative retry_delay": ({"retry_delay": -SECOND}, "retry_delay"),
    "zero timeout": ({"timeout": timedelta()}, "timeout", "0:00:00"),
    "timeout of another type": ({"timeout": 5}, "timeout", "5", "timedelta"),
    "retry_delay of another type": ({"retry_delay": 5}, "retry_delay", "5"),
    "retry_delay without a retry": ({"retry_delay": SECOND}, "retry_delay", "FailureMode.NONE", "FailureMode.UNLOCK"),
    "retry_delay of what is committed": (
        {"retry_delay": SECOND, "failure_mode": FailureMode.COMMIT},
        "retry_delay",
        "FailureMode.COMMIT",
        "leave it out",
    ),
    "max_attempts zero": ({"max_attempts": 0}, "max_attempts", "0"),
    "max_attempts true": ({"max_attempts": True}, "max_attempts", "True"),
    "max_attempts of another type": ({"max_attempts": 1.5}, "max_attempts", "1.5"),
    "max_attempts of what is attempted once": (
        {"max_attempts": 2, "execution_mode": ExecutionMode.AT_MOST_ONCE},
        "max_attempts",
        "leave it out",
    ),
    "max_attempts of what is committed": ({"max_attempts": 2, "failure_mode": FailureMode.COMMIT}, "max_attempts", "leave it out"),
    "UNLOCK with AT_MOST_ONCE": (
        {"failure_mode": FailureMode.UNLOCK, "execution_mode": ExecutionMode.AT_MOST_ONCE},
        "FailureMode.UNLOCK",
        "AT_MOST_ONCE",
    ),
    "UNLOCK with BEST_EFFORT": (
        {"failure_mode": FailureMode.UNLOCK, "execution_mode": ExecutionMode.BEST_EFFORT},
        "FailureMode.UNLOCK",
    ),
    "execution_mode of another type": ({"execution_mode": "at_most_once"}, "execution_mode", "'at_most_once'", "ExecutionMode"),
    "failure_mode of another type": ({"failure_mode": "unlock"}, "failure_mode", "'unlock'", "FailureMode"),
    "fast_forward of another type": ({"fast_forward": "no"}, "fast_forward", "'no'", "bool"),
    "enabled of another type": ({"enabled": 1}, "enabled", "1", "bool"),
    "misspelt option": ({"lease_duraton": SECOND}, "'lease_duraton'", "'lease_duration'"),
    "argument that is not a JSON": ({"when": datetime(2026, 1, 1)}, "'when'", "datetime"),
    "NaN": ({"ratio": math.nan}, "'ratio'", "float", "JSON"),
    "infinity within a list": ({"ratios": [1.0, -math.inf]}, "'ratios'"),
    "bytes": ({"blob": b"x"}, "'blob'", "bytes"),
    "set": ({"tags": {1}}, "'tags'", "set"),
    "keys that are not strings": ({"table": {1: "one"}}, "'table'", "keys must be strings"),
    "keys that become one": ({"table": {1: "one", "1": "uno"}}, "'table'"),
    "circular": ({"loop": circular()}, "'loop'", "contains itself"),
    "name empty": ({"name": ""}, "empty"),
    "name of another type": ({"name": 5}, "5", "string"),
    "name with NUL": ({"name": "a\0b"}, "'a\\x00b'", "NUL"),
    "name with a lone surrogate": ({"name": "a\ud800"}, "'a\\ud800'", "surrogate"),
    "name of too many characters": ({"name": "n" * 256}, "256 characters", "nnn…"),
    "name of too many bytes": ({"name": "\U0001f600" * 251}, "1004 bytes", "1000"),
}


@pytest.mark.parametrize(("options", "words"), [(each[0], each[1:]) for each in OF_A_SCHEDULE.values()], ids=list(OF_A_SCHEDULE))
def test_a_wrong_schedule_of_a_task_is_refused(app, options, words):
    error = refused(lambda: app.task(**options)(body), *words)
    assert isinstance(error, ScheduleError)
    assert not app.tasks


KINDS = {
    "task": lambda app: functools.partial(app.task, interval=SECOND),
    "dynamic_task": lambda app: app.dynamic_task,
    "partitioned_task": lambda app: functools.partial(app.partitioned_task, partition_count=2),
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("options", "words"), [(each[0], each[1:]) for each in OF_ANY_TASK.values()], ids=list(OF_ANY_TASK))
def test_a_wrong_option_of_any_task_is_refused(app, kind, options, words):
    refused(lambda: KINDS[kind](app)(**options)(body), *words)
    assert not app.tasks, "nothing of it is declared"


@pytest.mark.parametrize(
    ("misspelt", "option"),
    [
        ("shedule", "schedule"),
        ("intervall", "interval"),
        ("time_zone", "timezone"),
        ("fastforward", "fast_forward"),
        ("max_attempt", "max_attempts"),
        ("failuremode", "failure_mode"),
        ("partition_counts", "partition_count"),
        ("partition_count", "partition_count"),
        ("enabled_partition", "enabled_partitions"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_option_that_it_resembles(app, misspelt, option):
    refused(lambda: app.task(interval=SECOND, **{misspelt: 1})(body), repr(misspelt), repr(option))


@pytest.mark.parametrize("option", ["schedule", "interval", "timezone"])
def test_a_template_takes_no_schedule(app, option):
    refused(lambda: app.dynamic_task(**{option: "x"})(body), repr(option), "schedule_task()")
    refused(lambda: app.partitioned_task(partition_count=2, **{option: "x"})(body), repr(option), "schedule_task()")


def test_further_arguments_are_free(app):
    args = {
        "username": "bill",
        "greeting": "hello",
        "nested": {"a": [1, 2.5, None, True]},
        "zone": "x",
        "day": "\ud800",
    }
    assert app.task(interval=SECOND, **args)(body).args == args


def test_the_longest_names_are_taken(app):
    # I13
    for name in ("n" * 255, "\U0001f600" * 250, "a:b", " ", "Å", "A\u030a", "x "):
        assert app.task(interval=SECOND, name=name)(body).name == name


class Names(str, enum.Enum):  # noqa: UP042 - prints as its name does, unlike a StrEnum
    TASK = "the task"
    INSTANCE = "the instance"


class Span(timedelta):
    def __str__(self):
        return "another length"

    def total_seconds(self):
        return 5e9

    __add__ = __radd__ = __truediv__ = None


def test_names_and_durations_become_plain(make_app, clock, store):
    runs = []
    second = Span(seconds=1)
    app = make_app(poll_interval=second, shutdown_timeout=second)

    @app.partitioned_task(
        name=Names.TASK,
        partition_count=2,
        lease_duration=second,
        timeout=second,
        failure_mode=FailureMode.UNLOCK,
        retry_delay=second,
    )
    async def template(context):
        runs.append((context.task.name, str(context.task), context.attempt))
        if context.attempt == 1:
            raise LookupError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, Names.INSTANCE, execute_at=clock.now())
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert [type(each) for each in (template.name, template.lease_duration, template.timeout, template.retry_delay)] == [
        str, timedelta, timedelta, timedelta,
    ]  # fmt: skip
    assert runs == [("the instance", "the task:the instance", 1), ("the instance", "the task:the instance", 2)]
    assert all("Names" not in partition for partition in template.all_partitions())


@pytest.mark.parametrize("cancel", ["no", None, 1])
def test_a_wrong_cancel_on_lease_lost_is_refused(cancel):
    refused(lambda: with_heartbeat(cancel_on_lease_lost=cancel), "cancel_on_lease_lost", repr(cancel), "a bool")


class Long:
    def __repr__(self):
        return "long\n" * 1000


class Unshowable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("wrong", [Long(), Unshowable(), "n" * 1000])
def test_messages_stay_short_whatever_is_given(app, wrong):
    for call in (
        lambda: app.task(interval=SECOND)(wrong),
        lambda: app.task(interval=SECOND, name="named")(wrong),
        lambda: app.task(interval=SECOND, lease_duration=wrong)(body),
        lambda: app.task(interval=SECOND, max_attempts=wrong)(body),
        lambda: app.task(interval=SECOND, failure_mode=wrong)(body),
        lambda: app.task(interval=SECOND, args={wrong: object()})(body),
        lambda: app.use_fixture(wrong, body),
        lambda: app.use_fixture("wrong", wrong),
        lambda: app.use_middleware(wrong),
        lambda: app.use_instrumentation(wrong),
        lambda: Pyncette(clock=wrong),
        lambda: Pyncette(executor_cls=wrong),
        lambda: with_heartbeat(lease_remaining_ratio=wrong),
    ):
        refused(call)


def test_a_second_task_of_one_name_is_refused(app):
    first = app.task(interval=SECOND)(body)
    refused(lambda: app.task(interval=MINUTE)(body), "'body'", "name=")
    refused(lambda: app.dynamic_task(name="body")(body), "'body'")
    assert app.tasks == [first]


def test_a_body_without_a_name_needs_one(app):
    class Callable:
        async def __call__(self, context):
            pass

    refused(lambda: app.task(interval=SECOND)(Callable()), "name=")
    refused(lambda: app.task(interval=SECOND)(functools.partial(body, 1)), "name=")
    refused(lambda: app.task(interval=SECOND)(lambda context: body(context)), "name=")
    assert app.task(interval=SECOND, name="callable")(Callable()).name == "callable"
    assert app.task(interval=SECOND, name="partial")(functools.partial(body)).name == "partial"


# --- what can be set later ----------------------------------------------------------------------------------------------


@pytest.fixture
def declared(app):
    return {kind: KINDS[kind](app)(name=kind)(body) for kind in KINDS}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_task_can_be_enabled_and_disabled_until_it_runs_and_after(app, clock, declared, kind):
    task, ran = declared[kind], []

    async def main():
        async with app.create() as context:
            task.enabled = False
            running = asyncio.create_task(context.run())
            await clock.advance(SECOND)
            refused(lambda: setattr(task, "enabled", True), repr(kind), "enabled", "before run()")
            ran.append(task.enabled)
            context.shutdown()
            await running
            task.enabled = True

    clock.run(main())
    assert ran == [False]
    assert task.enabled


def test_what_is_disabled_after_the_application_was_created_does_not_run(app, clock):
    runs = []

    async def record(context):
        runs.append(context.name)

    first, second = (app.task(interval=SECOND, name=name)(record) for name in ("first", "second"))
    second.enabled = False

    async def main():
        async with app.create() as context:
            first.enabled, second.enabled = False, True
            running = asyncio.create_task(context.run())
            await clock.advance(2.5 * SECOND)
            context.shutdown()
            await running

    clock.run(main())
    assert runs == ["second", "second"]


def test_the_partitions_that_are_polled_can_be_chosen_after_the_application_was_created(app, clock):
    runs = []

    @app.partitioned_task(partition_count=2, partition_selector=lambda count, name: int(name))
    async def template(context):
        runs.append(context.name)

    async def main():
        async with app.create() as context:
            for name in ("0", "1"):
                await context.schedule_task(template, name, interval=SECOND)
            template.enabled_partitions = [1]
            running = asyncio.create_task(context.run())
            await clock.advance(1.5 * SECOND)
            refused(lambda: setattr(template, "enabled_partitions", None), "'template'", "enabled_partitions")
            context.shutdown()
            await running

    clock.run(main())
    assert runs == ["1"]


def test_what_is_set_later_is_checked_as_what_is_declared(declared):
    refused(lambda: setattr(declared["task"], "enabled", "no"), "'no'", "bool")
    refused(lambda: setattr(declared["partitioned_task"], "enabled_partitions", [2]), "2", "0 to 1")
    assert declared["task"].enabled
    assert declared["partitioned_task"].enabled_partitions is None


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["name", "body", "args", "lease_duration", "partition_count", "schedule", "colour"])
def test_nothing_else_can_be_set_later(declared, kind, name):
    before = dict(vars(declared[kind]))
    with pytest.raises(AttributeError, match=f"'{name}' of task '{kind}'"):
        setattr(declared[kind], name, None)
    with pytest.raises(AttributeError, match=f"'{name}' of task '{kind}'"):
        delattr(declared[kind], name)
    assert vars(declared[kind]) == before


def test_only_partitions_can_be_chosen(declared):
    with pytest.raises(AttributeError, match="enabled_partitions"):
        declared["dynamic_task"].enabled_partitions = [0]


# --- partitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None, True])
def test_a_wrong_partition_count_is_refused(app, count):
    refused(lambda: app.partitioned_task(partition_count=count)(body), "partition_count", repr(count))


@pytest.mark.parametrize("indices", [[0, 4], [-1], ["0"], [0.0], [True]])
def test_a_wrong_index_in_enabled_partitions_is_refused(app, indices):
    wrong = repr(indices[-1])
    refused(
        lambda: app.partitioned_task(partition_count=4, enabled_partitions=indices)(body), "enabled_partitions", wrong, "0 to 3"
    )


@pytest.mark.parametrize("given", [2, "01", iter([0, 1])])
def test_enabled_partitions_must_be_a_list(app, given):
    refused(lambda: app.partitioned_task(partition_count=4, enabled_partitions=given)(body), "enabled_partitions", "list")


def test_enabled_partitions_may_be_a_range_or_none_at_all(app):
    assert len(app.partitioned_task(name="a", partition_count=4, enabled_partitions=range(1, 3))(body).partitions()) == 2
    assert len(app.partitioned_task(name="b", partition_count=4, enabled_partitions=[])(body).partitions()) == 0
    assert len(app.partitioned_task(name="c", partition_count=4)(body).partitions()) == 4


def test_a_partition_selector_must_be_a_function(app):
    refused(lambda: app.partitioned_task(partition_count=4, partition_selector="crc")(body), "partition_selector", "'crc'")


@pytest.mark.parametrize("index", [4, -1, "1", 1.0, None, True])
def test_what_a_partition_selector_returns_is_checked(app, clock, store, index):
    template = app.partitioned_task(partition_count=4, partition_selector=lambda count, name: index)(body)

    async def main():
        async with app.create() as context:
            with pytest.raises(ConfigurationError, match="partition_selector") as info:
                await context.schedule_task(template, "one", interval=SECOND)
            assert repr(index) in str(info.value)

    clock.run(main())
    assert "one" not in store.rows()


@pytest.mark.parametrize(
    ("name", "count", "index"),
    [("bill", 4, 3), ("bill", 32, 3), ("", 7, 0), ("å", 16, 5), ("a:b", 1000, 712), ("\U0001f600", 32, 4), ("x" * 255, 97, 82)],
)
def test_the_default_selector_is_the_same_for_ever(name, count, index):
    assert crc32_selector(count, name) == index


# --- fixtures and middlewares -----------------------------------------------------------------------------------------

OWN_NAMES = ["task", "args", "scheduled_at", "app_context", "heartbeat", "attempt", "fencing_token", "execution_id"]
OWN_NAMES += ["lease_expires_at", "lease_remaining", "name", "_private", "__class__"]


async def fixture():
    yield


@pytest.mark.parametrize("name", [*OWN_NAMES, "not an identifier", "1st", "", "class", 5, fixture])
def test_a_fixture_name_that_can_be_no_attribute_is_refused(app, name):
    refused(lambda: app.fixture(name=name)(fixture), repr(name))
    refused(lambda: app.use_fixture(name, fixture), repr(name))


def test_every_attribute_of_the_context_is_reserved(app):
    for name in dir(Context):
        if not name.startswith("_"):
            refused(lambda name=name: app.use_fixture(name, fixture), repr(name))


def test_a_fixture_without_parentheses_is_refused(app):
    refused(lambda: app.fixture(fixture), "fixture")


def test_a_second_fixture_of_one_name_is_refused(app):
    app.fixture()(fixture)
    refused(lambda: app.fixture(name="fixture")(fixture), "'fixture'", "name=")


def plain(app_context):
    yield


async def coroutine(app_context):
    return 1


@pytest.mark.parametrize("wrong", [plain, coroutine, lambda: None])
def test_a_fixture_that_is_no_async_generator_is_refused(app, wrong):
    refused(lambda: app.fixture(name="wrong")(wrong), "'wrong'", "yield")


async def two_parameters(app_context, other):
    yield


async def keyword_parameter(*, app_context):
    yield


@pytest.mark.parametrize("wrong", [two_parameters, keyword_parameter])
def test_a_fixture_that_needs_other_parameters_is_refused(app, wrong):
    refused(lambda: app.fixture()(wrong), wrong.__name__, "app_context")


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, math.nan, "half", None])
def test_a_wrong_lease_remaining_ratio_is_refused(ratio):
    refused(lambda: with_heartbeat(lease_remaining_ratio=ratio), "lease_remaining_ratio", repr(ratio))


def test_the_longest_durations_are_taken(make_app, clock):
    longest = timedelta(days=365_000)
    app = make_app(poll_interval=longest, shutdown_timeout=longest)
    runs = []

    @app.task(interval=SECOND, lease_duration=longest, retry_delay=longest, failure_mode=FailureMode.UNLOCK)
    async def task(context):
        runs.append(context.attempt)
        raise LookupError

    async def main():
        async with running(app):
            await clock.advance(MINUTE)

    clock.run(main())
    assert runs == [1]


@pytest.mark.parametrize("wrong", [body, 0.5])
def test_a_heartbeat_without_parentheses_or_with_a_bare_number_is_refused(wrong):
    refused(lambda: with_heartbeat(wrong), "parentheses", "with_heartbeat(lease_remaining_ratio=")


def test_a_heartbeat_above_the_declaration_is_refused(app):
    task = app.task(interval=SECOND)(body)
    refused(lambda: with_heartbeat()(task), "'body'", "below")


# --- the application --------------------------------------------------------------------------------------------------

OF_AN_APPLICATION = {
    "batch_size zero": ({"batch_size": 0}, "batch_size", "0"),
    "batch_size of another type": ({"batch_size": "100"}, "batch_size", "'100'"),
    "concurrency_limit zero": ({"concurrency_limit": 0}, "concurrency_limit", "0"),
    "concurrency_limit negative": ({"concurrency_limit": -3}, "concurrency_limit", "-3"),
    "concurrency_limit true": ({"concurrency_limit": True}, "concurrency_limit", "True"),
    "poll_interval zero": ({"poll_interval": timedelta()}, "poll_interval"),
    "poll_interval beyond the calendar": ({"poll_interval": timedelta.max}, "poll_interval", "at most"),
    "poll_interval of another type": ({"poll_interval": 1}, "poll_interval", "1", "timedelta"),
    "shutdown_timeout negative": ({"shutdown_timeout": -SECOND}, "shutdown_timeout"),
    "shutdown_timeout of another type": ({"shutdown_timeout": 5}, "shutdown_timeout", "5"),
    "misspelt option": ({"batchsize": 5}, "'batchsize'", "'batch_size'"),
    "unknown option": ({"colour": "red"}, "'colour'", "sqlite_database", "poll_interval"),
    "unknown option of SQLite": ({"sqlite_database": "x.db", "sqlite_tabel": "t"}, "'sqlite_tabel'", "sqlite_table_name"),
    "option of another type": ({"sqlite_database": 5}, "'sqlite_database'", "int", "str"),
    "executor that is none": ({"executor_cls": "synchronous"}, "executor_cls", "'synchronous'", "SynchronousExecutor"),
    "executor of another kind": ({"executor_cls": concurrent.futures.ThreadPoolExecutor}, "executor_cls", "ThreadPoolExecutor"),
    "executor that is an object": ({"executor_cls": SynchronousExecutor(1, print)}, "executor_cls", "a class"),
    "clock that is none": ({"clock": 5}, "clock", "5", "VirtualClock()"),
    "clock that is a class": ({"clock": VirtualClock}, "clock", "an object"),
    "URL of another type": ({"url": 5}, "int", "str"),
    "URL that is none": ({"url": "pyncette.db"}, "'pyncette.db'", "sqlite:///"),
    "URL and options": ({"url": "memory://", "sqlite_database": "x.db"}, "URL"),
    "URL and factory": ({"url": "memory://", "repository_factory": print}, "URL"),
    "unknown option in the URL": ({"url": "sqlite:///x.db?colour=red"}, "'colour'", "table_name"),
    "misspelt option in the URL": ({"url": "sqlite:///x.db?tablename=t"}, "'tablename'", "'table_name'"),
    "factory that is none": ({"repository_factory": "redis"}, "repository_factory", "str"),
}


@pytest.mark.parametrize(
    ("options", "words"), [(each[0], each[1:]) for each in OF_AN_APPLICATION.values()], ids=list(OF_AN_APPLICATION)
)
def test_a_wrong_option_of_the_application_is_refused(options, words):
    refused(lambda: Pyncette(**options), *words)


def test_a_misspelt_option_is_refused_also_where_the_store_takes_anything():
    def factory(**options):
        raise AssertionError

    refused(lambda: Pyncette(repository_factory=factory, concurency_limit=5), "'concurency_limit'", "'concurrency_limit'")
    assert Pyncette(repository_factory=factory, colour="red")


def test_a_factory_may_be_given_by_its_position(clock, tmp_path):
    opened = []

    @contextlib.asynccontextmanager
    async def factory(*, own_option="default"):
        opened.append(own_option)
        async with memory_repository() as repository:
            yield repository

    async def main(app):
        async with app.create():
            pass

    clock.run(main(Pyncette(factory, own_option="given", clock=clock)))
    app = Pyncette(clock=clock)
    app.use_repository(factory)
    clock.run(main(app))
    assert opened == ["given", "default"]
    refused(lambda: Pyncette(factory, repository_factory=factory), "Two", "factor")
    refused(lambda: Pyncette(factory, colour="red"), "'colour'", "own_option")


def test_the_smallest_values_are_taken(clock):
    app = Pyncette(
        batch_size=1, concurrency_limit=1, poll_interval=timedelta(milliseconds=1), shutdown_timeout=timedelta(), clock=clock
    )
    runs = []

    @app.task(
        interval=SECOND,
        lease_duration=timedelta(milliseconds=1),
        timeout=SECOND,
        max_attempts=1,
        failure_mode=FailureMode.UNLOCK,
        retry_delay=timedelta(),
    )
    async def task(context):
        runs.append(context.scheduled_at)
        context.app_context.shutdown()

    clock.run(app.run())
    assert len(runs) == 1


@pytest.mark.parametrize("name", [*OWN_NAMES, "not an identifier", "database", 5])
def test_a_name_that_cannot_be_added_to_the_context_is_refused(app, clock, name):
    seen = []

    @app.fixture()
    async def before(app_context):
        refused(lambda: app_context.add_to_context(name, "other"), repr(name))
        yield

    @app.fixture()
    async def database():
        yield "database"

    @app.fixture()
    async def after(app_context):
        refused(lambda: app_context.add_to_context(name, "other"), repr(name))
        yield

    @app.task(interval=SECOND)
    async def task(context):
        seen.append(context.database)

    async def main():
        async with running(app):
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert seen == ["database"]


# --- instances --------------------------------------------------------------------------------------------------------

OF_AN_INSTANCE = {
    **OF_A_SCHEDULE,
    "interval and instant": ({"interval": SECOND, "execute_at": datetime(2026, 1, 1, tzinfo=UTC)}, "interval and execute_at"),
    "instant of another type": ({"execute_at": "tomorrow"}, "execute_at", "'tomorrow'"),
    "misspelt option": ({"interval": SECOND, "exceute_at": 5}, "'exceute_at'", "'execute_at'"),
    "option of the template": ({"interval": SECOND, "max_attempts": 5}, "'max_attempts'", "where the template is declared"),
    "misspelt option of the template": ({"interval": SECOND, "retry_delai": 5}, "'retry_delai'", "'retry_delay'"),
    "option of another scheduler": ({"interval": SECOND, "tz": "UTC"}, "'tz'", "timezone="),
    **{
        label: ({"interval": SECOND, **given[0]}, *given[1:])
        for label, given in OF_ANY_TASK.items()
        if label in ("NaN", "bytes", "circular", "keys that are not strings", "keys that become one", "argument that is not a JSON")
    },
}

WRONG_NAMES = ["", "a\0b", "\ud800", "n" * 256, "\U0001f600" * 251, 5, None]


@pytest.fixture(params=["dynamic", "partitioned"])
def template(app, request):
    return app.dynamic_task()(body) if request.param == "dynamic" else app.partitioned_task(partition_count=3)(body)


@pytest.mark.parametrize(("options", "words"), [(each[0], each[1:]) for each in OF_AN_INSTANCE.values()], ids=list(OF_AN_INSTANCE))
def test_a_wrong_instance_is_refused_and_the_one_that_is_stored_stays(app, clock, store, template, options, words):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "one", interval=MINUTE, number=1)
            await context.schedule_task(template, "two", interval=MINUTE, number=2)
            before = store.rows()
            for name in ("one", "three"):
                for force in (False, True):
                    with pytest.raises(ConfigurationError) as info:
                        await context.schedule_task(template, name, force=force, **options)
                    assert "\n" not in str(info.value)
                    for word in words:
                        assert word in str(info.value)
                    assert store.rows() == before

    clock.run(main())


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_instance_name_is_refused(app, clock, store, template, name):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "one", interval=MINUTE)
            before = store.rows()
            for call in (
                context.schedule_task(template, name, interval=SECOND),
                context.schedule_tasks(template, [Instance(name="two", interval=SECOND), Instance(name=name, interval=SECOND)]),
                context.unschedule_task(template, name),
                context.get_task(template, name),
                context.pause_task(template, name),
                context.resume_task(template, name),
            ):
                with pytest.raises(ConfigurationError, match="name"):
                    await call
            assert store.rows() == before

    clock.run(main())


WRONG_MEMBERS = {
    "twice": (Instance(name="0", interval=SECOND), "'0'", "twice"),
    "no schedule": (Instance(name="last"), "exactly one of"),
    "two schedules": (Instance(name="last", interval=SECOND, schedule="* * * * *"), "schedule and interval"),
    "no JSON": (Instance(name="last", interval=SECOND, args={"ratio": math.nan}), "'ratio'", "'last'"),
    "an argument's name": (Instance(name="last", interval=SECOND, args={1: "one"}), "1", "'last'", "int"),
    "arguments' names of two kinds": (Instance(name="last", interval=SECOND, args={1: "one", "a": 2}), "1", "'last'"),
    "arguments that are not a dict": (Instance(name="last", interval=SECOND, args=["a"]), "'last'", "list"),
    "only a name": ("last", "'last'", "Instance"),
}


@pytest.mark.parametrize(("last", "words"), [(each[0], each[1:]) for each in WRONG_MEMBERS.values()], ids=list(WRONG_MEMBERS))
def test_one_wrong_instance_among_many_is_refused_before_any_is_stored(app, clock, store, template, last, words):
    # More than go to the store in one call: also the first of several calls must not have been made.
    many = [Instance(name=str(number), interval=SECOND) for number in range(2500)]

    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "0", interval=MINUTE)
            before = store.rows()
            for force in (False, True):
                with pytest.raises(ConfigurationError) as info:
                    await context.schedule_tasks(template, [*many, last], force=force)
                for word in words:
                    assert word in str(info.value)
                assert store.rows() == before
            await context.schedule_tasks(template, iter(many))
            assert len(store.rows()) - len(before) == 2499

    clock.run(main())


def test_a_generator_of_instances_that_raises_leaves_everything_as_it_was(app, clock, store, template):
    def instances():
        yield from (Instance(name=str(number), interval=SECOND) for number in range(1500))
        raise LookupError("the list ends here")

    async def main():
        async with app.create() as context:
            before = store.rows()
            with pytest.raises(LookupError):
                await context.schedule_tasks(template, instances())
            assert store.rows() == before

    clock.run(main())


def test_only_a_template_of_this_application_has_instances(app, make_app, clock, store):
    static = app.task(interval=SECOND, name="static")(body)
    foreign = make_app().dynamic_task(name="foreign")(body)

    async def main():
        async with app.create() as context:
            before = store.rows()
            for wrong, words in (
                (static, ["'static'", "dynamic_task"]),
                (foreign, ["'foreign'", "does not belong to this application"]),
                (body, ["'body'", "dynamic_task"]),
                (None, ["None", "dynamic_task"]),
            ):
                for call in (
                    context.schedule_task(wrong, "one", interval=SECOND),
                    context.schedule_tasks(wrong, [Instance(name="one", interval=SECOND)]),
                    context.unschedule_task(wrong, "one"),
                    context.list_tasks(wrong),
                ):
                    with pytest.raises(ConfigurationError) as info:
                        await call
                    assert all(word in str(info.value) for word in words)
            for wrong in (foreign, body, None):
                for method in (context.get_task, context.pause_task, context.resume_task):
                    for arguments in ([wrong, "one"], [wrong]):
                        with pytest.raises(ConfigurationError):
                            await method(*arguments)
            assert store.rows() == before

    clock.run(main())


def test_a_static_task_has_no_instance_names_and_a_template_needs_them(app, clock):
    static = app.task(interval=SECOND, name="static")(body)
    dynamic = app.dynamic_task(name="dynamic")(body)

    async def main():
        async with app.create() as context:
            for method in (context.get_task, context.pause_task, context.resume_task):
                with pytest.raises(ConfigurationError, match="'static' is static.*'one'"):
                    await method(static, "one")
                with pytest.raises(ConfigurationError, match="'dynamic' is a template"):
                    await method(dynamic)

    clock.run(main())


@pytest.mark.parametrize("limit", [0, -1, 1.5, None])
def test_a_wrong_page_size_is_refused(app, clock, template, limit):
    async def main():
        async with app.create() as context:
            with pytest.raises(ConfigurationError, match="limit"):
                await context.list_tasks(template, limit=limit)

    clock.run(main())


@pytest.mark.parametrize(
    "token",
    [*("", "1", "x:", "-1:", "3:a", "99:", 7, b"0:", "²:", "0:\0", "0:\ud800"), *("9" * 5000 + ":", "0:" + "a" * 5000)],
    ids=lambda token: ascii(token)[:12],
)
def test_a_wrong_continuation_token_is_refused(app, clock, template, token):
    async def main():
        async with app.create() as context:
            with pytest.raises(ConfigurationError, match="continuation token"):
                await context.list_tasks(template, continuation_token=token)

    clock.run(main())


def test_a_refused_declaration_costs_nothing_that_is_stored(make_app, clock, store):
    # I3
    def declare(app):
        app.task(interval=MINUTE, name="static")(body)
        return app.dynamic_task(name="template")(body)

    async def main():
        first = make_app()
        template = declare(first)
        async with running(first) as context:
            await context.schedule_task(template, "one", interval=MINUTE, number=1)
            await clock.advance(90 * SECOND)
        before = store.rows()
        assert set(before) == {"static", "one"}
        second = make_app()
        template = declare(second)
        for declaration in (
            lambda: second.task(schedule="0 0 30 2 *", name="other"),
            lambda: second.task(interval=SECOND, name="static"),
            lambda: second.dynamic_task(name="template", lease_duration=timedelta()),
        ):
            with pytest.raises(ConfigurationError):
                declaration()(body)
        assert store.rows() == before
        async with second.create() as context:
            assert (await context.get_task(template, "one")).args == {"number": 1}
            assert store.rows() == before

    clock.run(main())


async def middleware(context, next):
    await next()


DECLARATIONS = {
    "task": lambda app: app.task(interval=SECOND, name="late")(body),
    "template": lambda app: app.dynamic_task(name="late")(body),
    "fixture": lambda app: app.use_fixture("late", fixture),
    "middleware": lambda app: app.use_middleware(middleware),
    "instrumentation": lambda app: app.use_instrumentation(Instrumentation()),
}


@pytest.mark.parametrize("declare", list(DECLARATIONS.values()), ids=list(DECLARATIONS))
def test_what_would_come_too_late_to_have_an_effect_is_refused(app, clock, declare):
    refusals = []

    def too_late(where):
        refused(lambda: declare(app), "too late", "before create() or run()")
        refusals.append(where)

    @app.fixture()
    async def from_a_fixture():
        too_late("fixture")
        yield

    @app.task(interval=SECOND)
    async def from_a_body(context):
        context.app_context.shutdown()
        too_late("body")

    async def main():
        async with app.create():
            async with app.create(fixtures=False):
                pass
            too_late("program")
        await app.run()

    clock.run(main())
    assert refusals == ["fixture", "program", "fixture", "body"]
    declare(app)


# --- what a declaration gives -----------------------------------------------------------------------------------------


def test_one_coroutine_can_be_several_tasks(app, clock):
    runs = []

    @app.task(interval=2 * MINUTE, name="slow", speed="slow")
    @app.task(interval=MINUTE, name="quick", speed="quick")
    @app.dynamic_task(name="template", speed="any")
    async def work(context):
        runs.append((context.task.template.name, context.name, context.args["speed"]))

    assert [task.name for task in app.tasks] == ["template", "quick", "slow"]
    assert len({task.body for task in app.tasks}) == 1
    template = app.tasks[0]
    assert isinstance(template, DynamicTask)

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "once", execute_at=clock.now() + 90 * SECOND)
            await clock.advance(timedelta(minutes=2, seconds=30))

    clock.run(main())
    assert sorted(runs) == [
        ("quick", "quick", "quick"),
        ("quick", "quick", "quick"),
        ("slow", "slow", "slow"),
        ("template", "once", "any"),
    ]


def test_two_decorators_without_a_name_are_refused(app):
    app.task(interval=SECOND)(body)
    refused(lambda: app.task(interval=MINUTE)(app.tasks[0]), "'body'", "name=")


def test_the_defaults_are_those_of_the_documentation(app):
    task = app.task(interval=SECOND)(body)
    assert isinstance(task, StaticTask)
    assert task.name == "body"
    assert task.execution_mode is ExecutionMode.AT_LEAST_ONCE
    assert task.failure_mode is FailureMode.NONE
    assert task.lease_duration == timedelta(seconds=60)
    assert task.enabled
    assert not task.fast_forward
    assert task.max_attempts is None
    assert task.retry_delay is None
    assert task.schedule.timezone_name == "UTC"
    assert ExecutionMode.BEST_EFFORT is ExecutionMode.AT_MOST_ONCE
    partitioned = app.partitioned_task(partition_count=2, name="partitioned")(body)
    assert isinstance(partitioned, PartitionedTask)
    assert partitioned.partition_selector is crc32_selector
    assert partitioned.enabled_partitions is None


@pytest.mark.parametrize(
    ("method", "kind"),
    [(Pyncette.task, StaticTask), (Pyncette.dynamic_task, DynamicTask), (Pyncette.partitioned_task, PartitionedTask)],
)
def test_each_way_to_declare_has_all_options_of_its_kind_with_the_same_defaults(method, kind):
    offered = {each.name: each.default for each in inspect.signature(method).parameters.values() if each.kind is each.KEYWORD_ONLY}
    fields = {each.name: each.default for each in dataclasses.fields(kind) if each.init}
    assert offered.keys() - {"interval", "rrule", "timezone", "jitter", "start_at", "end_at"} == fields.keys() - {"body"}
    for name in offered.keys() & fields.keys() - {"name", "args", "schedule", "partition_count"}:
        assert offered[name] == fields[name], name


def test_a_task_can_be_called_as_the_coroutine_that_it_is(app, clock):
    @app.task(interval=SECOND)
    async def double(context):
        return 2 * context

    async def main():
        return await double(21)

    assert clock.run(main()) == 42


def test_the_representation_of_a_task_hides_its_arguments(app):
    assert "s3cret" not in repr(app.task(interval=SECOND, token="s3cret")(body))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_whatever_json_can_say_comes_back_as_it_was(args):
    app = Pyncette()
    template = app.dynamic_task()(body)
    assert template.arguments(stored_arguments(dump_arguments(args, "a test"))) == args


def test_tuples_come_back_as_lists(app):
    template = app.dynamic_task()(body)
    assert template.arguments(stored_arguments(dump_arguments({"pair": (1, (2, 3))}, "a test"))) == {"pair": [1, [2, 3]]}


def test_the_classes_that_users_meet_are_exported():
    import pyncette

    assert {name for name in pyncette.__all__ if not hasattr(pyncette, name)} == set()
    assert pyncette.PyncetteContext is PyncetteContext
    assert pyncette.SynchronousExecutor is SynchronousExecutor


def test_an_application_is_declared_without_any_event_loop():
    app = Pyncette(clock=VirtualClock())
    app.task(interval=SECOND)(body)
    app.partitioned_task(partition_count=2, name="p")(body)
    app.fixture()(fixture)
    assert len(app.tasks) == 2


@pytest.mark.parametrize("decorator", ["task", "dynamic_task", "partitioned_task"])
def test_a_decorator_without_parentheses_is_named(decorator):
    app = Pyncette()
    options = {"partition_count": 2} if decorator == "partitioned_task" else {}
    with pytest.raises(ConfigurationError, match=rf"needs its parentheses, .*; write @app\.{decorator}\("):
        getattr(app, decorator)(body, **options)
    assert app.tasks == []
