"""What an application tells those who measure it."""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from datetime import timedelta

import pytest

from pyncette import ConfigurationError, Instrumentation, Pyncette
from pyncette.errors import TransientRepositoryError
from pyncette.repository import Key, SupportsHistory, SupportsPartitions, SupportsPause, SupportsServerTime, SupportsStats
from pyncette.store.codec import unreadable
from pyncette.store.observed import ObservedRepository
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


class Recorder(Instrumentation):
    """Writes down what it is told."""

    def __init__(self):
        self.calls = []
        self.claims = []
        self.damaged = []
        self.lost = []
        self.ticks = []
        self.depth = self.deepest = 0

    @contextlib.contextmanager
    def _around(self, record):
        self.depth += 1
        self.deepest = max(self.depth, self.deepest)
        try:
            yield
        except BaseException as error:
            record(error)
            raise
        else:
            record(None)
        finally:
            self.depth -= 1

    def tick(self):
        return self._around(self.ticks.append)

    def call(self, operation, size):
        return self._around(lambda error: self.calls.append((operation, size, error)))

    def claimed(self, count):
        self.claims.append(count)

    def unreadable(self, count):
        self.damaged.append(count)

    def lease_lost(self, task):
        self.lost.append(task.name)

    @property
    def operations(self):
        return Counter(operation for operation, _, _ in self.calls)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def calls_of(store):
    """How often each method of the store is really called."""
    counts = Counter()
    for name in ("register", "unregister", "claim", "settle", "get", "list", "partitions", "append", "prune"):

        def counted(*args, _name=name, _method=getattr(store, name), **options):
            counts[_name] += 1
            return _method(*args, **options)

        setattr(store, name, counted)
    return counts


def run_for(clock, app, seconds):
    async def main():
        async with running(app):
            await clock.advance(seconds * SECOND)

    clock.run(main())


def test_each_call_to_the_store_is_told_once_with_its_size(app, clock, recorder, calls_of):
    app.use_instrumentation(recorder)

    @app.dynamic_task()
    async def template(context): ...

    @app.task(interval=SECOND)
    async def static(context): ...

    async def main():
        async with running(app) as context:
            for name in ("a", "b", "c"):
                await context.schedule_task(template, name, interval=SECOND)
            await context.get_task(template, "a")
            await context.list_tasks(template, limit=17)
            await context.unschedule_task(template, "c")
            await clock.advance(5.5 * SECOND)

    clock.run(main())
    assert recorder.operations == calls_of
    assert recorder.operations.keys() == {
        "register",
        "unregister",
        "claim",
        "settle",
        "get",
        "list",
        "partitions",
        "append",
        "prune",
    }
    assert ("list", 17, None) in recorder.calls
    assert ("get", 1, None) in recorder.calls
    assert recorder.depth == 0
    settled = sum(size for operation, size, _ in recorder.calls if operation == "settle")
    assert settled == sum(recorder.claims) == 1 + 3 * 5, "the layout of the template, and each run"
    assert len(recorder.claims) == recorder.operations["claim"]


def test_a_claim_and_a_tick_that_fail_tell_the_error(app, clock, store, recorder):
    app.use_instrumentation(recorder)

    @app.task(interval=SECOND)
    async def static(context): ...

    claim, error = store.claim, TransientRepositoryError("away")
    failing = True

    async def flaky(*args, **options):
        if failing:
            raise error
        return await claim(*args, **options)

    store.claim = flaky

    async def main():
        nonlocal failing
        async with running(app):
            await clock.advance(3 * SECOND)
            failing = False
            await clock.advance(10 * SECOND)

    clock.run(main())
    failed = [each for operation, _, each in recorder.calls if operation == "claim" and each is not None]
    assert failed
    assert set(failed) == {error}
    ticks = [each for each in recorder.ticks if each is not None]
    assert [tick.__cause__ for tick in ticks] == failed
    assert recorder.ticks[-1] is None
    assert sum(recorder.claims) > 0


def test_ticks_come_at_least_once_in_a_poll_interval(make_app, clock, recorder):
    app = make_app(poll_interval=SECOND)
    app.use_instrumentation(recorder)

    @app.task(schedule="0 0 1 1 *")
    async def static(context): ...

    run_for(clock, app, 60)
    assert 60 <= len(recorder.ticks) <= 62
    assert set(recorder.ticks) == {None}


def test_a_lease_that_is_overtaken_is_told_once(app, clock, store, recorder):
    app.use_instrumentation(recorder)

    @app.task(interval=10 * SECOND, lease_duration=SECOND)
    async def slow(context):
        await asyncio.sleep(3)

    async def main():
        async with running(app):
            await clock.advance(11 * SECOND)
            [_] = (await store.claim(clock.now(), "static", lease_duration=MINUTE, limit=1)).claims  # another worker
            await clock.advance(4 * SECOND)

    clock.run(main())
    assert recorder.lost == ["slow"]


def test_a_heartbeat_that_finds_its_lease_lost_is_told_once(app, clock, recorder):
    app.use_instrumentation(recorder)

    @app.dynamic_task(lease_duration=100 * SECOND)
    async def template(context):
        if context.args["first"]:
            await context.app_context.schedule_task(template, context.name, interval=SECOND, force=True, first=False)
            await asyncio.sleep(5)
            await context.heartbeat()

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "a", interval=SECOND, first=True)
            await clock.advance(10 * SECOND)

    clock.run(main())
    assert recorder.lost == ["template"]


def test_several_are_told_the_same(app, clock):
    recorders = [Recorder(), Recorder()]
    for recorder in recorders:
        app.use_instrumentation(recorder)

    @app.task(interval=SECOND)
    async def static(context): ...

    run_for(clock, app, 5)
    first, second = recorders
    assert first.operations == second.operations
    assert first.operations["claim"] > 0
    assert len(first.ticks) == len(second.ticks) > 0
    assert first.claims == second.claims


def test_what_is_not_overridden_does_nothing(app, clock):
    app.use_instrumentation(Instrumentation())
    ran = []

    @app.task(interval=SECOND, lease_duration=SECOND)
    async def static(context):
        ran.append(context.attempt)
        if len(ran) == 1:
            await asyncio.sleep(1.5)

    run_for(clock, app, 5)
    assert len(ran) >= 3


def test_something_else_is_refused():
    with pytest.raises(ConfigurationError, match="is not a pyncette.Instrumentation; derive from that"):
        Pyncette().use_instrumentation(object())


# --- the optional protocols -----------------------------------------------------------------------------------------------


def test_an_observed_store_has_the_optional_protocols_that_the_store_has(store, recorder):
    observed = ObservedRepository(store, recorder)
    for protocol in (SupportsStats, SupportsPartitions, SupportsPause, SupportsServerTime, SupportsHistory):
        assert isinstance(observed, protocol) == isinstance(store, protocol), protocol
    store.server_time = lambda: None
    assert isinstance(ObservedRepository(store, recorder), SupportsServerTime)


def test_calls_of_the_optional_protocols_are_told(app, clock, recorder):
    app.use_instrumentation(recorder)

    @app.dynamic_task()
    async def template(context): ...

    async def main():
        async with app.create() as context:
            recorder.calls.clear()  # without what the start took
            await context.schedule_task(template, "a", interval=SECOND)
            assert await context.pause_task(template, "a")
            assert await context.resume_task(template, "a")
            assert (await context.repository.stats(clock.now(), "dynamic:template")).rows == 1
            assert await context.repository.partitions() == ["layouts", "dynamic:template"]
            assert await context.repository.get([Key("dynamic:template", "b")]) == [None]

    clock.run(main())
    told = [(operation, size) for operation, size, error in recorder.calls if error is None]
    assert told == [
        ("register", 1),
        ("get", 1),
        ("pause", 1),
        ("get", 1),
        ("resume", 1),
        ("stats", 1),
        ("partitions", 1),
        ("get", 1),
    ]


def test_the_clock_is_aligned_with_a_store_that_is_observed(app, clock, store, recorder):
    app.use_instrumentation(recorder)

    async def server_time():
        return clock.now() - 30 * SECOND

    store.server_time = server_time

    async def main():
        async with app.create() as context:
            assert context.clock.skew == 30 * SECOND
            assert clock.now() - context.clock.now() == 30 * SECOND

    clock.run(main())
    assert recorder.operations["server_time"] == 3


def test_free_slots_and_tasks_are_known(make_app, clock):
    app = make_app(concurrency_limit=5)

    @app.task(interval=SECOND, lease_duration=60 * SECOND)
    async def long(context):
        await asyncio.sleep(10)

    @app.dynamic_task(enabled=False)
    async def template(context): ...

    async def main():
        async with running(app) as context:
            assert context.free_slots == 5
            assert context.tasks == (long, template)
            await clock.advance(1.5 * SECOND)
            assert context.free_slots == 4

    clock.run(main())


# --- hooks that raise -----------------------------------------------------------------------------------------------------


class Raising(Instrumentation):
    """Raises in the hooks that are named; for context managers when they are asked for, entered or left."""

    def __init__(self, error, *hooks):
        self.error = error
        self.hooks = hooks

    def _at(self, hook):
        if hook in self.hooks:
            raise self.error

    @contextlib.contextmanager
    def _around(self, hook):
        self._at(f"{hook} entering")
        try:
            yield
        finally:
            self._at(f"{hook} leaving")

    def tick(self):
        self._at("tick")
        return self._around("tick")

    def call(self, operation, size):
        self._at("call")
        return self._around("call")

    def claimed(self, count):
        self._at("claimed")

    def unreadable(self, count):
        self._at("unreadable")

    def lease_lost(self, task):
        self._at("lease_lost")


HOOKS = ["tick", "tick entering", "tick leaving", "call", "call entering", "call leaving", "claimed", "lease_lost"]


@pytest.mark.parametrize("error", [ValueError("hook"), SystemExit(3), asyncio.CancelledError(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_is_logged_once_and_stops_nothing(app, clock, recorder, caplog, store, hook, error):
    app.use_instrumentation(Raising(error, hook))
    app.use_instrumentation(recorder)
    ran = []

    @app.task(interval=SECOND)
    async def good(context):
        ran.append(context.scheduled_at)

    @app.task(interval=10 * SECOND, lease_duration=SECOND)
    async def slow(context):
        if context.attempt == 1:
            await asyncio.sleep(3)

    async def main():
        async with running(app):
            for _ in range(3):
                await clock.advance(11 * SECOND)
                await store.claim(clock.now(), "static", lease_duration=SECOND, limit=1, names=["slow"])  # another worker
            await clock.advance(0.5 * SECOND)

    clock.run(main())
    assert len(ran) == 33
    assert recorder.depth == 0
    assert len(recorder.lost) > 1
    logged = [record for record in caplog.records if record.name == "pyncette.hooks"]
    [record] = logged
    assert record.getMessage() == (
        f"The hook {hook.split()[0]}() of Raising raised {type(error).__name__}; this stops nothing, and is logged only once"
    )
    assert record.exc_info[1] is error


def test_each_hook_of_each_instrumentation_is_logged(app, clock, caplog):
    for _ in range(2):
        app.use_instrumentation(Raising(ValueError("hook"), "tick", "claimed"))

    @app.task(interval=SECOND)
    async def static(context): ...

    run_for(clock, app, 5)
    assert len([record for record in caplog.records if record.name == "pyncette.hooks"]) == 4


class Swallowing(Instrumentation):
    """Its context managers take what is raised for done."""

    @contextlib.contextmanager
    def _around(self):
        with contextlib.suppress(BaseException):
            yield

    def tick(self):
        return self._around()

    def call(self, operation, size):
        return self._around()


@pytest.mark.parametrize(
    "instrumentation", [Swallowing(), *(Raising(ValueError("hook"), hook) for hook in HOOKS)], ids=["swallows", *HOOKS]
)
def test_the_error_of_the_store_reaches_its_caller_whatever_hooks_do(app, clock, store, recorder, instrumentation):
    app.use_instrumentation(recorder)
    app.use_instrumentation(instrumentation)
    error = TransientRepositoryError("away")

    @app.dynamic_task()
    async def template(context): ...

    async def away(*args, **options):
        raise error

    async def main():
        async with app.create() as context:
            store.register = away
            with pytest.raises(TransientRepositoryError) as raised:
                await context.schedule_task(template, "a", interval=SECOND)
            assert raised.value is error

    clock.run(main())
    assert recorder.calls[-1] == ("register", 1, error)


def test_rows_that_can_not_be_read_are_told(clock, store, recorder):
    key, claim = Key("dynamic:template", "a"), store.claim

    async def damaged(*args, **options):
        return dataclasses.replace(await claim(*args, **options), unreadable=[unreadable(key, "junk")] * 2)

    store.claim = damaged

    async def main():
        await ObservedRepository(store, recorder).claim(clock.now(), key.partition, lease_duration=MINUTE, limit=1)

    clock.run(main())
    assert recorder.damaged == [2]


def test_without_instrumentation_nothing_stands_before_the_store(app, clock, store):
    async def main():
        async with app.create() as context:
            assert context.repository is store

    clock.run(main())
