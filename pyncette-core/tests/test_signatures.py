"""Functions that can't be called as they are going to be are refused where they are declared, with what to write instead."""

import contextlib
import functools
import unittest.mock
from datetime import timedelta

import pytest

from pyncette import ConfigurationError, Context, FailureMode, with_heartbeat
from pyncette.healthcheck import use_healthcheck_server
from pyncette.testing import running

SECOND = timedelta(seconds=1)


def through(function):
    """A decorator as they are written everywhere."""

    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


def providing(function):
    """A decorator that gives the function what its caller does not."""

    @functools.wraps(function)
    async def wrapper(*args):
        return await function(*args, "provided")

    return wrapper


def synchronous(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


async def none(): ...
async def one(context): ...
async def two(context, other): ...
async def with_default(context, other=None): ...
async def anything(*args, **kwargs): ...
async def by_keyword(context, *, other): ...
def plain(context): ...
def plain_generator(context):
    yield


async def generator(context):
    yield


class Shop:
    async def method(self, context): ...
    async def alone(self): ...
    async def onward(self, context, next): ...
    @staticmethod
    async def of_nobody(context): ...
    @classmethod
    async def of_the_class(cls, context): ...
    @through
    async def wrapped(self, context): ...
    async def opened(self):
        yield "opened"


class Called:
    async def __call__(self, context): ...


class CalledWithTwo:
    async def __call__(self, context, other): ...


async def only_by_keyword(*, context: Context = "s3cret", other: int): ...


BODIES = {
    "only by keyword": (only_by_keyword, "(*, context, other)", "called with (context)"),
    "no parameter": (none, "has no parameters", "called with (context)", "'async def none(context)'"),
    "two parameters": (two, "(context, other)", "'async def two(context)'"),
    "a keyword that is missing": (by_keyword, "(context, *, other)", "called with (context)"),
    "partial with none left": (functools.partial(one, 1), "no parameters"),
    "partial with two left": (functools.partial(two), "(context, other)"),
    "coroutine function in a plain decorator": (synchronous(one), "decorator", "'async def'"),
    "generator": (plain_generator, "generator function", "async def", "or 'def'", "'yield'"),
    "generator, decorated": (synchronous(plain_generator), "generator function"),
    "async generator": (generator, "asynchronous generator", "'yield'"),
    "async generator, decorated": (synchronous(generator), "asynchronous generator", "'yield'"),
    "contextmanager": (contextlib.asynccontextmanager(generator), "asynchronous generator", "'yield'"),
    "method of no object": (Shop.method, "method without its object", "Shop().method"),
    "method of no object, alone": (Shop.alone, "method without its object", "Shop().alone"),
    "method of no object, decorated": (Shop.wrapped, "method without its object", "Shop().wrapped"),
    "method of an object with none": (Shop().alone, "no parameters"),
    "method of an object with two": (Shop().onward, "(context, next)"),
    "staticmethod object": (vars(Shop)["of_nobody"], "staticmethod"),
    "classmethod object": (vars(Shop)["of_the_class"], "classmethod"),
    "class": (Called, "class Called", "instance"),
    "object with two parameters": (CalledWithTwo(), "(context, other)"),
    "coroutine": (unittest.mock.sentinel.coroutine, "can't be called"),
    "name": ("one", "'one'", "can't be called", "async def"),
}
GOOD_BODIES = {
    "function": one,
    "with a default": with_default,
    "anything": anything,
    "decorated": through(one),
    "provided": providing(two),
    "heartbeat": with_heartbeat()(one),
    "heartbeat, decorated": through(with_heartbeat()(through(one))),
    "heartbeat of a partial": with_heartbeat()(functools.partial(two, other=1)),
    "partial": functools.partial(two, other=5),
    "partial of a method": functools.partial(Shop().method),
    "partial of a method of no object": functools.partial(Shop.method, Shop()),
    "method": Shop().method,
    "method, decorated": Shop().wrapped,
    "method of the class": Shop.of_the_class,
    "method of nobody": Shop.of_nobody,
    "object": Called(),
    "plain function": plain,
    "plain function, decorated": synchronous(plain),
    "partial of a plain function": functools.partial(plain),
    "heartbeat of a plain function": with_heartbeat()(plain),
    "plain mock": unittest.mock.Mock(),
    "mock": unittest.mock.AsyncMock(),
    "mock with a name": unittest.mock.AsyncMock(__name__="mock"),
    "mock of a function": unittest.mock.AsyncMock(spec=one),
}


def refused(call, *words):
    with pytest.raises(ConfigurationError) as info:
        call()
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 400, "a line for people"
    for word in words:
        assert word in message


@pytest.mark.parametrize(("wrong", "words"), [(each[0], each[1:]) for each in BODIES.values()], ids=list(BODIES))
def test_a_body_that_cannot_be_called_with_the_context_is_refused(app, wrong, words):
    for declare in (
        app.task(interval=SECOND, name="wrong"),
        app.dynamic_task(name="wrong"),
        app.partitioned_task(partition_count=2, name="wrong"),
    ):
        refused(lambda declare=declare: declare(wrong), "'wrong'", *words)
    refused(lambda: with_heartbeat()(wrong), "with_heartbeat()", *words)
    assert not app.tasks


@pytest.mark.parametrize("good", list(GOOD_BODIES.values()), ids=list(GOOD_BODIES))
def test_a_body_that_can_be_called_with_the_context_runs(app, clock, good, caplog):
    attempts = []

    @app.middleware
    async def record(context, next):
        await next()
        attempts.append(context.attempt)

    app.task(interval=SECOND, name="good", failure_mode=FailureMode.COMMIT)(good)

    async def main():
        async with running(app):
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert attempts == [1]
    assert not caplog.records


def test_methods_declared_in_the_body_of_a_class_are_refused(app):
    def declare():
        class Reports:
            @app.task(interval=SECOND)
            async def send(self, context): ...

    refused(declare, "'send'", "method without its object", "Reports().send")

    def declare_static():
        class Reports:
            @app.task(interval=SECOND)
            @staticmethod
            async def send(context): ...

    refused(declare_static, "'send'", "staticmethod")
    assert not app.tasks


def test_a_class_may_be_a_mere_room_for_tasks(app, clock):
    runs = []

    class Reports:
        @app.task(interval=SECOND)
        async def send(context):  # noqa: N805 - not a method
            runs.append(context.name)

        @staticmethod
        @app.task(interval=SECOND)
        async def archive(context):
            runs.append(context.name)

    async def main():
        async with running(app):
            await clock.advance(1.5 * SECOND)

    clock.run(main())
    assert sorted(runs) == ["archive", "send"]
    assert Reports.archive.name == "archive"


# --- middlewares --------------------------------------------------------------------------------------------------------


async def onward(context, next): ...
def plain_middleware(context, next): ...
async def middleware_generator(context, next):
    yield


MIDDLEWARES = {
    "one parameter": (one, "'one'", "(context)", "'async def one(context, next)'"),
    "none": (none, "no parameters", "called with (context, next)"),
    "plain function": (plain_middleware, "'plain_middleware'", "'async def plain_middleware(context, next)'"),
    "async generator": (middleware_generator, "asynchronous generator", "'yield'"),
    "contextmanager": (contextlib.asynccontextmanager(middleware_generator), "asynchronous generator", "'yield'"),
    "class": (CalledWithTwo, "class CalledWithTwo"),
    "object with one": (Called(), "(context)"),
    "method of no object": (Shop.onward, "Shop().onward"),
    "nothing": (None, "None", "async def"),
}


@pytest.mark.parametrize(("wrong", "words"), [(each[0], each[1:]) for each in MIDDLEWARES.values()], ids=list(MIDDLEWARES))
def test_a_middleware_that_cannot_be_called_with_context_and_next_is_refused(app, wrong, words):
    refused(lambda: app.middleware(wrong), "middleware", *words)
    refused(lambda: app.use_middleware(wrong), "middleware", *words)


@pytest.mark.parametrize(
    "good",
    [onward, two, anything, with_default, through(onward), Shop().onward, CalledWithTwo(), functools.partial(onward)],
)
def test_a_middleware_that_can_be_called_with_both_is_taken(app, good):
    assert app.middleware(good) is good


def test_a_mock_may_be_a_middleware(app):
    app.use_middleware(unittest.mock.AsyncMock())


# --- fixtures -----------------------------------------------------------------------------------------------------------


async def fixture():
    yield "value"


def handing_on(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


FIXTURES = {
    "contextmanager": (contextlib.asynccontextmanager(fixture), "@asynccontextmanager", "remove that decorator"),
    "plain contextmanager": (contextlib.contextmanager(plain_generator), "async def", "'yield'"),
    "plain generator": (plain_generator, "async def", "'yield'"),
    "coroutine function": (one, "'yield'"),
    "method of no object": (Shop.opened, "Shop().opened"),
    "staticmethod object": (staticmethod(fixture), "staticmethod"),
    "class": (Shop, "class Shop"),
    "context manager": (contextlib.nullcontext(), "nullcontext", "can't be called"),
    "two parameters": (middleware_generator, "(context, next)", "app_context"),
}


@pytest.mark.parametrize(("wrong", "words"), [(each[0], each[1:]) for each in FIXTURES.values()], ids=list(FIXTURES))
def test_what_can_be_no_fixture_is_refused(app, wrong, words):
    refused(lambda: app.fixture(name="wrong")(wrong), "'wrong'", *words)
    refused(lambda: app.use_fixture("wrong", wrong), "'wrong'", *words)


async def wanting(app_context):
    yield app_context


async def wanting_or_not(app_context=None):
    yield app_context


async def with_own_default(value="own"):
    yield value


async def with_context_and_default(app_context, value="own"):
    yield app_context, value


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        (fixture, lambda context: "value"),
        (handing_on(fixture), lambda context: "value"),
        (Shop().opened, lambda context: "opened"),
        (wanting, lambda context: context),
        (handing_on(wanting), lambda context: context),
        (wanting_or_not, lambda context: context),
        (with_own_default, lambda context: "own"),
        (with_context_and_default, lambda context: (context, "own")),
        (functools.partial(with_own_default, value="given"), lambda context: "given"),
    ],
)
def test_a_fixture_gets_the_application_context_if_it_wants_it(app, clock, good, expected):
    app.use_fixture("good", good)

    async def main():
        async with app.create() as context:
            assert context.values["good"] == expected(context)

    clock.run(main())


# --- handlers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [none, two, plain, lambda app_context: True, Called, "handler"])
def test_a_handler_of_the_health_check_that_cannot_be_called_is_refused(app, wrong):
    refused(lambda: use_healthcheck_server(app, healthcheck_handler=wrong), "healthcheck_handler", "(app_context)")
