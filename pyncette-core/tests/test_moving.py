"""Instances that are moved to another template, or another layout: none is ever lost, however often it is interrupted (I3, I18)."""

import contextlib
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Store

from pyncette import ConfigurationError
from pyncette.memory import MemoryRepository
from pyncette.moving import move
from pyncette.repository import Fail, Key, Registration, State, Target
from pyncette.testing import running

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [f"order {number}" for number in range(12)]


def declare(app, name, count, runs=None):
    async def body(context):
        if runs is not None:
            runs.append((context.name, context.scheduled_at))

    return app.dynamic_task(name=name)(body) if count is None else app.partitioned_task(name=name, partition_count=count)(body)


async def filled(context, template):
    """Instances of all kinds and states, due, soon, and late."""
    for number, name in enumerate(NAMES):
        await context.schedule_task(template, name, execute_at=START + (number - 2) * 20 * SECOND, number=number)
    await context.schedule_task(template, "daily", schedule="0 9 * * *")
    await context.schedule_task(template, "paused", interval=HOUR)
    await context.pause_task(template, "paused")
    await context.schedule_task(template, "failed", execute_at=START)
    claimed = await context.repository.claim(
        START, template.partition_of("failed"), lease_duration=SECOND, limit=1, names=["failed"]
    )
    await context.repository.settle(START, [Fail(claimed.claims[0], "boom", "failed it")])
    await context.repository.pause(START, [template.key("paused")], {template.key("paused"): "paused it"})
    await context.repository.resume(START, [template.key("daily")], {template.key("daily"): "ran it"})


def plan(store, template):
    """What is to happen with each instance that is where ``template`` has it."""
    rows = {
        name: store._get(template.key(name)) for partition in template.all_partitions() for name in store._partitions[partition]
    }
    return {
        name: (row.spec, row.schedule, row.occurrence, row.execute_after, row.state, row.error, row.memo)
        for name, row in rows.items()
        if row is not None
    }


WAYS = [
    (("ship", None), ("deliver", None)),
    (("ship", None), ("ship", 4)),
    (("ship", 4), ("ship", None)),
    (("ship", 4), ("ship", 8)),
    (("ship", 8), ("ship", 4)),
    (("ship", 4), ("deliver", 3)),
]


@pytest.mark.parametrize("knows_partitions", [True, False])
@pytest.mark.parametrize(("source", "destination"), WAYS)
def test_instances_keep_all_that_matters(make_app, clock, source, destination, knows_partitions):
    class Some(Store):
        if not knows_partitions:
            partitions = None

    async def main():
        store = Some()
        app = make_app(repository_factory=store.open)
        before = declare(app, *source)
        async with app.create() as context:
            await filled(context, before)
        planned = plan(store, before)
        assert len(planned) == len(NAMES) + 3
        app = make_app(repository_factory=store.open)
        after = declare(app, *destination)
        async with app.create(layouts="ignore") as context:
            result = await move(context.repository, context.clock, source[0], after)
            assert result.complete
            assert plan(store, after) == planned
            assert sum(len(rows) for partition, rows in store._partitions.items() if partition != "layouts") == len(planned)
            again = await move(context.repository, context.clock, after.name, after)
            assert (again.complete, again.moved) == (True, 0)
        async with app.create():
            pass
        old = make_app(repository_factory=store.open)
        declare(old, *source)
        with contextlib.nullcontext() if source[0] != destination[0] else pytest.raises(ConfigurationError, match="'ship'"):
            async with old.create():
                pass

    clock.run(main())


def test_what_is_moved_runs_once_and_at_its_time(make_app, clock):
    runs = []

    async def main():
        app = make_app()
        template = declare(app, "ship", 4)
        async with app.create() as context:
            for name in NAMES:
                await context.schedule_task(template, name, execute_at=START + 30 * SECOND)
        app = make_app()
        template = declare(app, "ship", 8, runs)
        async with app.create(layouts="ignore") as context:
            await move(context.repository, context.clock, "ship", template)
        async with running(app):
            await clock.advance(60 * SECOND)

    clock.run(main())
    assert sorted(runs) == [(name, START + 30 * SECOND) for name in sorted(NAMES)]


class Killed(BaseException):
    pass


class Dying(Store):
    """Ends the process at one of its calls, before or after it is applied, once it is armed; sees to it that nothing is ever nowhere."""

    def __init__(self):
        super().__init__()
        self.at, self.after, self.calls, self.names = None, False, 0, set()

    def check(self):
        stored = {name for partition, rows in self._partitions.items() if partition != "layouts" for name in rows}
        assert stored >= self.names, "an instance is nowhere"


def dying(method):
    async def call(self, *args, **kwargs):
        self.calls += 1
        if self.at == self.calls and not self.after:
            raise Killed
        result = await getattr(MemoryRepository, method)(self, *args, **kwargs)
        self.check()
        if self.at == self.calls and self.after:
            raise Killed
        return result

    return call


for each in ("register", "unregister", "claim", "settle", "get", "list", "partitions", "pause", "resume"):
    setattr(Dying, each, dying(each))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("source", "destination"), WAYS[:4])
def test_wherever_it_is_stopped_nothing_is_lost_and_another_call_ends_it(make_app, clock, source, destination, after):
    async def main():
        for at in itertools.count(1):
            store = Dying()
            app = make_app(repository_factory=store.open)
            before = declare(app, *source)
            async with app.create() as context:
                await filled(context, before)
            planned = plan(store, before)
            app = make_app(repository_factory=store.open)
            template = declare(app, *destination)
            async with app.create(layouts="ignore") as context:
                store.names = set(planned)
                store.calls, store.at, store.after = 0, at, after
                try:
                    await move(context.repository, context.clock, source[0], template)
                    break
                except Killed:
                    store.at = None
                for _ in range(14):  # what is due and was held at the source is held for its lease
                    with contextlib.suppress(ConfigurationError):  # all was done
                        if not (await move(context.repository, context.clock, source[0], template)).complete:
                            await clock.advance(10 * SECOND)
                            continue
                    break
                else:
                    raise AssertionError("it does not come to an end")
                moved = plan(store, template)
                # A copy that was made before the stop is left as it is; it may be without the memo of its original.
                assert {name: row[:-1] for name, row in moved.items()} == {name: row[:-1] for name, row in planned.items()}
                assert sum(len(rows) for partition, rows in store._partitions.items() if partition != "layouts") == len(planned)
        assert at > 10

    clock.run(main())


def test_what_runs_stays_until_it_has_ended(make_app, clock, store):
    async def main():
        app = make_app()
        template = declare(app, "ship", None)
        async with app.create() as context:
            await context.schedule_task(template, "one", interval=SECOND)
            await clock.advance(SECOND)
            claimed = await store.claim(clock.now(), "dynamic:ship", lease_duration=60 * SECOND, limit=1)
            assert claimed.claims
        app = make_app()
        template = declare(app, "deliver", None)
        async with app.create() as context:
            result = await move(context.repository, context.clock, "ship", template)
            assert (result.moved, result.busy, result.complete) == (0, 1, False)
            await clock.advance(61 * SECOND)
            result = await move(context.repository, context.clock, "ship", template)
            assert (result.moved, result.busy, result.complete) == (1, 0, True)

    clock.run(main())


def test_an_instance_that_the_destination_has_otherwise_stays_and_is_named(make_app, clock, store):
    async def main():
        app = make_app()
        source, destination = declare(app, "ship", None), declare(app, "deliver", None)
        async with app.create() as context:
            await context.schedule_task(source, "one", interval=SECOND)
            await context.schedule_task(source, "two", interval=SECOND)
            await context.schedule_task(destination, "one", interval=HOUR)
            before = store._get(Key("dynamic:deliver", "one"))
            result = await move(context.repository, context.clock, "ship", destination)
            assert (result.moved, result.conflicts, result.complete) == (1, ["one"], False)
            assert store._get(Key("dynamic:deliver", "one")) == before
            assert store._get(Key("dynamic:ship", "one")) is not None

    clock.run(main())


def test_what_is_scheduled_anew_at_the_source_meanwhile_is_not_lost(make_app, clock):
    """Between the claim of a row and its removal."""

    class Meddled(Store):
        armed = False

        async def settle(self, now, settlements):
            if self.armed:
                self.armed = False
                again = Registration(Key("dynamic:ship", "one"), "{}", "interval 7 @UTC", Target(START + HOUR, START + HOUR))
                await self.register(now, [again])
                await self.unregister(now, [Key("dynamic:ship", "two")])
            return await super().settle(now, settlements)

    async def main():
        store = Meddled()
        app = make_app(repository_factory=store.open)
        source, destination = declare(app, "ship", None), declare(app, "deliver", None)
        async with app.create() as context:
            for name in ("one", "two", "three"):
                await context.schedule_task(source, name, interval=SECOND)
            store.armed = True
            result = await move(context.repository, context.clock, "ship", destination)
            assert result.complete
            assert sorted(store._partitions["dynamic:deliver"]) == ["one", "three"], "what was unscheduled stays so"
            assert store._get(Key("dynamic:deliver", "one")).schedule == "interval 7 @UTC"

    clock.run(main())


def test_a_row_that_cannot_be_read_stays_and_is_counted(make_app, clock, store):
    async def main():
        app = make_app()
        source, destination = declare(app, "ship", None), declare(app, "deliver", None)
        async with app.create() as context:
            await context.schedule_task(source, "one", interval=SECOND)
            row = store._get(source.key("one"))
            store._put(row.key, row._replace(state=State.UNREADABLE, ready_at=None, error="junk"))
            result = await move(context.repository, context.clock, "ship", destination)
            assert (result.moved, result.unreadable, result.complete) == (0, 1, False)

    clock.run(main())


def test_nothing_to_move_is_an_error(make_app, clock):
    async def main():
        app = make_app()
        destination = declare(app, "deliver", None)
        async with app.create() as context:
            with pytest.raises(ConfigurationError, match="'ship'"):
                await move(context.repository, context.clock, "ship", destination)

    clock.run(main())


def test_a_destination_that_is_stored_otherwise_is_refused(make_app, clock):
    async def main():
        app = make_app()
        declare(app, "deliver", 4)
        source = declare(app, "ship", None)
        async with app.create() as context:
            await context.schedule_task(source, "one", interval=SECOND)
        app = make_app()
        destination = declare(app, "deliver", 8)
        async with app.create(layouts="ignore") as context:
            with pytest.raises(ConfigurationError, match="pyncette move APP deliver deliver"):
                await move(context.repository, context.clock, "ship", destination)

    clock.run(main())
