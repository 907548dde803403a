"""The layout of a template is one stored fact: who declares another is refused before anything is scheduled where nobody looks (I18)."""

import asyncio
import itertools
import logging
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Store

from pyncette import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.layout import NEVER
from pyncette.memory import MemoryRepository
from pyncette.repository import Commit, Key, Registration, State, Target

SECOND = timedelta(seconds=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FACT = Key("layouts", "ship")
#: How a task can be declared; a number: so many partitions.
KINDS = ["dynamic", 1, 2, 8, "static"]


async def body(context):
    pass


def declare(app, kind, name="ship", **options):
    if kind == "static":
        return app.task(name=name, interval=SECOND, **options)(body)
    if kind == "dynamic":
        return app.dynamic_task(name=name, **options)(body)
    return app.partitioned_task(name=name, partition_count=kind, **options)(body)


def code(kind):
    return {"dynamic": "dynamic_task()", "static": " task()"}.get(kind, f"partitioned_task(partition_count={kind})")


@pytest.fixture
def start(make_app):
    """Creates an application with the tasks ``kinds`` (``ship`` if they have no names), and then does something with it."""

    async def start(*kinds, then=None, create=(), store=None, **options):
        app = make_app() if store is None else make_app(repository_factory=store.open)
        declared = [declare(app, kind, **options) if not isinstance(kind, tuple) else declare(app, *kind) for kind in kinds]
        async with app.create(**dict(create)) as context:
            if then is not None:
                return await then(context, *declared)

    return start


async def use(context, task):
    """Leave something in the store."""
    if task.partitions() == ["static"]:
        run = asyncio.create_task(context.run())
        await asyncio.sleep(0.1)
        context.shutdown()
        await run
    else:
        await context.schedule_task(task, "one", interval=SECOND)


class Counted(Store):
    """Knows which calls it had, and which of them wrote."""

    WRITING = ("register", "unregister", "claim", "settle", "pause", "resume")

    def __init__(self):
        super().__init__()
        self.calls = []

    async def reached(self, call):
        self.calls.append(call)

    async def applied(self, call):
        pass

    @property
    def writes(self):
        return [call for call in self.calls if call in self.WRITING]


def counted(method):
    async def call(self, *args, **kwargs):
        await self.reached(method)
        result = await getattr(MemoryRepository, method)(self, *args, **kwargs)
        await self.applied(method)
        return result

    return call


for each in ("register", "unregister", "claim", "settle", "get", "list", "partitions", "stats", "pause", "resume"):
    setattr(Counted, each, counted(each))


class Killed(BaseException):
    pass


class Dying(Counted):
    """Ends the process at one of its calls: before it is applied, or after."""

    at, after, error = None, False, Killed

    async def reached(self, call):
        await super().reached(call)
        if len(self.calls) - 1 == self.at and not self.after:
            raise self.error

    async def applied(self, call):
        if len(self.calls) - 1 == self.at and self.after:
            raise self.error


# --- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(KINDS, 2)))
@pytest.mark.parametrize("enabled", [True, False])
def test_another_layout_is_refused_with_what_to_do(start, clock, store, first, second, enabled):
    async def main():
        await start(first, then=use)
        before = dict(store.rows())
        with pytest.raises(ConfigurationError) as info:
            await start(second, enabled=enabled)
        message = str(info.value)
        assert "\n" not in message
        assert "'ship'" in message
        if "static" in (first, second):
            assert "pyncette unschedule APP ship" in message
        else:
            assert "pyncette move APP ship ship" in message
        assert code(second) in " " + message.partition("but")[0]
        assert code(first) in message.partition("but")[2]
        assert store.rows() == before
        await start(first)

    clock.run(main())


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_process_that_only_schedules_announces_and_is_refused_as_any_other(start, clock, kind):
    async def main():
        await start(kind, enabled=False)
        for other in set(KINDS) - {kind}:
            with pytest.raises(ConfigurationError, match="'ship'"):
                await start(other)

    clock.run(main())


def test_each_template_has_a_layout_of_its_own(start, clock):
    async def main():
        for _ in range(2):
            await start((4, "a"), (8, "b"), ("dynamic", "c"), ("static", "d"))
        with pytest.raises(ConfigurationError, match="'b'"):
            await start((4, "a"), (4, "b"))

    clock.run(main())


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_layout_stays_when_the_last_instance_is_gone(start, clock, kind):
    """A process that runs may be about to schedule the next one."""

    async def use_up(context, task):
        await use(context, task)
        assert await context.unschedule_task(task, "one")

    async def main():
        await start(kind, then=use_up)
        for other in set(KINDS) - {kind}:
            with pytest.raises(ConfigurationError, match="'ship'"):
                await start(other)

    clock.run(main())


def test_names_that_a_shell_would_take_apart_are_quoted(start, clock):
    async def main():
        await start((4, "a; b"))
        with pytest.raises(ConfigurationError, match="pyncette move APP 'a; b' 'a; b'"):
            await start((5, "a; b"))

    clock.run(main())


@pytest.mark.parametrize("knows_partitions", [True, False])
@pytest.mark.parametrize(
    ("partition", "declared", "refused"),
    [
        ("dynamic:ship", 4, "dynamic_task"),
        ("dynamic:ship", "dynamic", None),
        ("partitioned:0:ship", "dynamic", "partition_count=1"),
        ("partitioned:3:ship", 4, None),
        ("partitioned:4:ship", 4, "partition_count=5"),
        ("dynamic:ship:too", 4, None),
        ("partitioned:9:ship:too", 4, None),
        ("partitioned:09:ship", 4, None),
    ],
)
def test_instances_that_are_stored_otherwise_are_found_without_the_fact(
    start, clock, partition, declared, refused, knows_partitions
):
    class Plain(Store):
        if not knows_partitions:
            partitions = None

    if not knows_partitions and partition == "partitioned:4:ship":
        return  # such a store has no way to tell

    async def main():
        store = Plain()
        await store.register(START, [Registration(Key(partition, "one"), "{}", "interval 1 @UTC", Target(START, START))])
        if refused is None:
            await start(declared, store=store)
        else:
            with pytest.raises(ConfigurationError, match=f"'ship'.*{refused}"):
                await start(declared, store=store)
            assert await store.get([FACT]) == [None], "what is refused announces nothing"

    clock.run(main())


def test_a_fact_that_cannot_be_read_is_an_error_that_says_how_to_mend_it(start, clock, store):
    async def main():
        await start(4)
        [row] = await store.get([FACT])
        store._put(FACT, row._replace(state=State.UNREADABLE, ready_at=None, error="no time"))
        with pytest.raises(RepositoryError, match="'ship' can't be read.*pyncette move APP ship ship"):
            await start(4)

    clock.run(main())


# --- what it costs ------------------------------------------------------------------------------------------------------


def test_a_start_costs_one_call_however_many_tasks_there_are(start, clock):
    tasks = [*(("dynamic", f"dynamic {number}") for number in range(20)), *((4, f"partitioned {number}") for number in range(20))]
    tasks += [("static", f"static {number}") for number in range(20)]

    async def main():
        store = Counted()
        await start(*tasks, store=store)
        assert store.writes == ["register", "claim", "settle"], "all that is new is announced together"
        store.calls.clear()
        await start(*tasks, store=store)
        assert store.calls == ["get"]

    clock.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_looks_writes_nothing_and_is_refused_all_the_same(start, clock, kind):
    async def main():
        store = Counted()
        await start(kind, store=store, create={"layouts": "compare"}.items())
        assert store.writes == []
        await start(kind, store=store, then=use)
        store.calls.clear()
        for other in set(KINDS) - {kind}:
            with pytest.raises(ConfigurationError, match="'ship'"):
                await start(other, store=store, create={"layouts": "compare"}.items())
            await start(other, store=store, create={"layouts": "ignore"}.items())
        assert store.writes == []

    clock.run(main())


def test_a_fact_is_never_due(start, clock, store):
    async def main():
        await start(4)
        later = datetime(9000, 1, 1, tzinfo=UTC)
        assert (await store.stats(later, "layouts")).due == 0
        assert not (await store.claim(later, "layouts", lease_duration=SECOND, limit=10)).claims

    clock.run(main())


# --- processes that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("tasks", [(("dynamic", "ship"),), ((8, "ship"),), ((8, "ship"), ("dynamic", "bill"))])
def test_a_process_that_dies_before_it_decided_leaves_nothing_that_refuses_another(start, clock, tasks, after):
    """It dies at each of its calls in turn, before or after that is applied."""
    others = [(16, name) for _, name in tasks]

    async def main():
        decided = []
        for at in itertools.count():
            store = Dying()
            store.at, store.after = at, after
            try:
                await start(*tasks, store=store)
                break
            except Killed:
                died_at = store.calls[-1]
            store.at = None
            begun = clock.elapsed
            if after and died_at == "settle":
                decided.append(at)  # it had announced all
                with pytest.raises(ConfigurationError):
                    await start(*others, store=store)
                await start(*tasks, store=store)
            else:
                await start(*others, store=store)
                with pytest.raises(ConfigurationError):
                    await start(*tasks, store=store)
            assert clock.elapsed - begun < 1.2, "a process that died with it costs the others its lease"
        assert at >= 5
        assert len(decided) == after, "only the last call says anything"

    clock.run(main())


@pytest.mark.parametrize("after", [False, True])
def test_a_call_that_fails_is_repeated(start, clock, after):
    async def main():
        for at in range(2, 5):  # register, claim, settle
            store = Dying()
            store.at, store.after, store.error = at, after, TransientRepositoryError("lost")
            await start((4, "a"), (4, "b"), store=store)
            await start((4, "a"), (4, "b"), store=store)
            with pytest.raises(ConfigurationError):
                await start((5, "a"), store=store)

    clock.run(main())


def test_the_lease_of_a_dead_process_is_waited_for_by_our_own_clock(start, clock):
    """Its clock may have been years ahead."""

    async def main():
        store = Dying()
        await store.register(START, [Registration(FACT, "{}", "layout", Target(EPOCH, EPOCH))])
        assert (await store.claim(START.replace(year=2040), "layouts", lease_duration=SECOND, limit=1)).claims
        await start(4, store=store)
        assert clock.elapsed < 1.2

    clock.run(main())


def test_a_fact_that_is_in_hand_is_not_taken_because_another_was_decided(start, clock):
    """What is decided is put off forever; that is not a time to go by in waiting for the rest."""

    class Watched(Store):
        async def claim(self, now, *args, **kwargs):
            claimed_at.append(now)
            return await super().claim(now, *args, **kwargs)

    claimed_at = []

    async def main():
        for tenth in range(14):
            store = Watched()
            began = START + timedelta(seconds=clock.elapsed)
            keys = [Key("layouts", name) for name in ("a", "b")]
            await store.register(began, [Registration(key, "{}", "layout", Target(EPOCH, EPOCH)) for key in keys])
            held = await store.claim(began, "layouts", lease_duration=5 * SECOND, limit=2)
            starting = asyncio.create_task(start((4, "a"), (4, "b"), store=store))
            await asyncio.sleep(tenth / 10)
            for claim in sorted(held.claims, key=lambda claim: claim.key):
                await store.settle(began, [Commit(claim, Target(EPOCH + timedelta(microseconds=5), NEVER))])
                await asyncio.sleep(1.5)
            await starting

    clock.run(main())
    assert max(claimed_at).year == START.year


class Turns(Counted):
    """Lets the calls of processes through one by one, in the order that is given; then as they come. A process can be killed."""

    def __init__(self, order):
        super().__init__()
        self.order = list(order)
        self.waiting = {}
        self.over = set()
        self.changed = asyncio.Event()

    async def reached(self, call):
        await super().reached(call)
        name = asyncio.current_task().get_name()
        if self.order:
            gate = self.waiting[name] = asyncio.Event()
            self.changed.set()
            await gate.wait()

    async def conduct(self):
        while self.order:
            name = self.order[0]
            while name not in self.waiting and name not in self.over:
                self.changed.clear()
                await self.changed.wait()
            self.order.pop(0)
            if name in self.waiting:
                self.waiting.pop(name).set()
                await asyncio.sleep(0)
        for gate in self.waiting.values():
            gate.set()

    async def process(self, start, *kinds):
        try:
            await start(*kinds, store=self)
            return kinds
        except ConfigurationError:
            return None
        finally:
            self.over.add(asyncio.current_task().get_name())
            self.changed.set()


class Skipping(Turns):
    """The first two claims get a part each of what they want, as those that meet."""

    def __init__(self, order):
        super().__init__(order)
        self.parts = [slice(0, 1), slice(1, None)]

    async def claim(self, now, partition, *, names, **options):
        part = self.parts.pop(0) if self.parts else slice(None)
        return await super().claim(now, partition, names=names[part], **options)


async def at_once(start, order, store=Turns, **processes):
    """What became of ``processes`` (tasks by the name of a process) whose calls were made in this ``order``; and the store."""
    store = store(order)
    running = [asyncio.create_task(store.process(start, *kinds), name=name) for name, kinds in processes.items()]
    await store.conduct()
    return await asyncio.gather(*running), store


CALLS = 6  # get, partitions, register, claim, settle, get


TWO = (((4, "a"), (4, "b")), ((8, "b"), (8, "a")))


@pytest.mark.parametrize(
    ("store_class", "one", "other"),
    [(Turns, (4,), (8,)), (Turns, ("dynamic",), (4,)), (Turns, (4,), (4,)), (Turns, *TWO), (Skipping, *TWO)],
)
def test_of_processes_that_start_at_once_those_of_one_layout_go_on(start, clock, store_class, one, other):
    """Every order in which their calls can meet."""
    winners = set()

    async def main():
        for turns in itertools.combinations(range(2 * CALLS), CALLS):
            order = ["one" if turn in turns else "other" for turn in range(2 * CALLS)]
            ended, store = await at_once(start, order, store_class, one=one, other=other)
            if one == other:
                assert ended == [one, other]
                continue
            assert sorted(kinds is None for kinds in ended) == [False, True], (order, ended)
            winner, loser = (one, other) if ended[0] else (other, one)
            winners.add(winner)
            await start(*winner, store=store)
            with pytest.raises(ConfigurationError):
                await start(*loser, store=store)

    clock.run(main())
    assert len(winners) == (0 if one == other else 2)


@pytest.mark.parametrize("killed", [True, False])
def test_a_process_that_is_killed_or_stands_still_among_others_disturbs_none(start, clock, killed):
    """It stops after each number of calls, before and while another one starts, and is killed, or continues after its lease."""

    async def main():
        for before, between in itertools.product(range(CALLS + 1), range(CALLS + 1)):
            store = Turns(["one"] * before + ["other"] * between + ["nobody"])
            one = asyncio.create_task(store.process(start, 4), name="one")
            other = asyncio.create_task(store.process(start, 8), name="other")
            conducting = asyncio.create_task(store.conduct())
            await clock.advance(SECOND / 10)
            if killed:
                one.cancel()
                await asyncio.wait([one])
            store.over.add("nobody")
            gate = store.waiting.pop("one", None)
            store.changed.set()
            await conducting
            ended_well = await other
            if gate is not None and not killed:
                await clock.advance(10 * SECOND)
                gate.set()
            if not killed:
                assert (await one is None) != (ended_well is None)
            decided = 4 if ended_well is None else 8
            await start(decided, store=store)
            with pytest.raises(ConfigurationError):
                await start(12 - decided, store=store)

    clock.run(main())


def test_a_commit_that_comes_late_or_twice_changes_nothing(start, clock):
    late = []

    class Late(Store):
        async def settle(self, now, settlements):
            if not late:
                late.append((now, settlements))
                raise Killed
            return await super().settle(now, settlements)

    async def main():
        store = Late()
        with pytest.raises(Killed):
            await start(4, store=store)
        await start(8, store=store)
        for _ in range(2):
            await MemoryRepository.settle(store, *late[0])
            await start(8, store=store)

    clock.run(main())


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)
