"""Group commit of registrations: what is stored together, what fails alone, and what a burst leaves to others."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import Instance, Pyncette, RepositoryError, TransientRepositoryError
from pyncette.testing import running
from simulation.scripted import ScriptedStore

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


async def body(context):
    pass


class Bench:
    """An application over a store that takes its time."""

    def __init__(self, clock):
        self.clock = clock
        self.store = ScriptedStore()
        self.app = Pyncette(repository_factory=self.store.open, clock=clock)
        self.template = self.app.dynamic_task(name="template")(body)
        self.parts = self.app.partitioned_task(
            name="parts", partition_count=4, partition_selector=lambda count, name: int(name[0])
        )(body)
        self.store.before = takes(0.05)

    def run(self, main):
        async def running():
            async with self.app.create() as context:
                await main(context)

        self.clock.run(running())

    @property
    def sent(self):
        """The names that each call registered."""
        return [[each.key.name for each in call.registrations] for call in self.store.called("register")]


def takes(seconds, then=None):
    async def hook(call):
        if call.method == "register":
            await asyncio.sleep(seconds)
            if then is not None:
                then(call)

    return hook


def refuses(name, error):
    def then(call):
        if name in {each.key.name for each in call.registrations}:
            raise error

    return then


@pytest.fixture
def bench(clock):
    return Bench(clock)


def burst(context, template, count, **options):
    return [context.schedule_task(template, f"{number:05}", **{"interval": HOUR, **options}) for number in range(count)]


# --- batches ------------------------------------------------------------------------------------------------------------


def test_a_lone_call_is_sent_at_once(bench, clock):
    async def main(context):
        await clock.advance(5 * SECOND)
        await context.schedule_task(bench.template, "ada", interval=HOUR)
        assert clock.elapsed == pytest.approx(5.05)

    bench.run(main)
    assert bench.sent == [["ada"]]


def test_a_burst_of_any_size_shares_one_call_at_a_time(bench, clock):
    underway = []

    async def one_at_a_time(call):
        if call.method == "register":
            assert not underway
            underway.append(call)
            await asyncio.sleep(0.05)
            underway.clear()

    async def main(context):
        bench.store.before = one_at_a_time
        await asyncio.gather(*burst(context, bench.template, 15_000))

    bench.run(main)
    assert len(bench.store.rows()) == 15_000
    assert [len(names) for names in bench.sent] == [1, *[1000] * 14, 999]
    assert [name for names in bench.sent for name in names] == sorted(bench.store.rows())
    assert clock.elapsed < 1


def test_many_at_once_and_one_by_one_share_calls_and_a_bulk_lets_others_in_between(bench, clock):
    async def main(context):
        instances = [Instance(name=f"bulk{number:05}", interval=HOUR) for number in range(5000)]
        bulk = asyncio.create_task(context.schedule_tasks(bench.template, instances))
        await asyncio.sleep(0.01)
        one = [asyncio.create_task(each) for each in burst(context, bench.template, 500)]
        few = context.schedule_tasks(bench.template, [Instance(name=f"few{number}", interval=HOUR) for number in range(10)])
        await asyncio.gather(few, *one)
        assert clock.elapsed < 0.16
        assert not bulk.done()
        await bulk

    bench.run(main)
    assert len(bench.sent) == 6


def test_calls_are_cut_by_bytes_too(bench):
    async def main(context):
        await asyncio.gather(*burst(context, bench.template, 41, text="x" * 100_000))
        instances = [Instance(name=str(number), interval=HOUR, args={"text": "x" * 100_000}) for number in range(20)]
        await context.schedule_tasks(bench.template, instances)

    bench.run(main)
    assert [len(names) for names in bench.sent] == [1, 9, 9, 9, 9, 4, 9, 9, 2]


def test_static_tasks_are_cut_as_well(bench, clock):
    for number in range(2500):
        bench.app.task(name=f"static{number}", interval=HOUR)(body)

    async def main():
        async with running(bench.app):
            await clock.advance(SECOND)

    clock.run(main())
    assert [len(names) for names in bench.sent][:3] == [1000, 1000, 500]


def test_a_key_stands_once_in_a_call_and_its_last_caller_wins(bench):
    async def main(context):
        calls = [
            context.schedule_task(bench.template, name, interval=number * SECOND, number=number)
            for number in range(1, 6)
            for name in ("ada", "bob", f"other{number}")
        ]
        await asyncio.gather(*calls)
        for name in ("ada", "bob"):
            assert (await context.get_task(bench.template, name)).args == {"number": 5}

    bench.run(main)
    assert len(bench.sent) <= 6
    for names in bench.sent:
        assert len(names) == len(set(names))


def test_one_key_from_thousands_of_callers_is_sent_in_their_order(bench):
    async def main(context):
        bench.store.before = takes(0.001)
        await asyncio.gather(
            *(context.schedule_task(bench.template, "ada", interval=HOUR, number=number) for number in range(3000))
        )
        assert (await context.get_task(bench.template, "ada")).args == {"number": 2999}

    bench.run(main)
    assert len(bench.sent) == 3000


def test_forced_and_plain_ones_go_in_different_calls(bench):
    async def main(context):
        await context.schedule_task(bench.template, "ada", interval=HOUR)
        await bench.store.claim(START + 2 * HOUR, "dynamic:template", lease_duration=HOUR, limit=1)
        first, *plain = burst(context, bench.template, 101)
        forced = [context.schedule_task(bench.template, f"f{number}", interval=HOUR, force=True) for number in range(100)]
        force = context.schedule_task(bench.template, "ada", interval=HOUR, force=True)
        mixed = [call for pair in zip(plain, forced, strict=True) for call in pair]
        await asyncio.gather(first, *mixed, force)
        assert bench.store.rows()["ada"].lease is None

    bench.run(main)
    assert len(bench.sent) <= 6
    for call in bench.store.called("register"):
        assert {call.force} == {
            each.key.name.startswith("f") or (each.key.name == "ada" and call.force) for each in call.registrations
        }
    assert bench.store.rows()["f0"].revision == bench.store.rows()["00000"].revision == 0


# --- what fails ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 1, 500, 999])
def test_one_bad_element_among_a_thousand_callers_fails_alone(bench, bad):
    # I10
    async def main(context):
        bench.store.before = takes(0.01, refuses(f"{bad:05}", RepositoryError("can't be written")))
        results = await asyncio.gather(*burst(context, bench.template, 1000), return_exceptions=True)
        assert [number for number, result in enumerate(results) if result is not None] == [bad]
        assert str(results[bad]) == "can't be written"
        bench.store.before = None
        await context.schedule_task(bench.template, f"{bad:05}", interval=HOUR)

    bench.run(main)
    assert len(bench.store.rows()) == 1000
    assert len(bench.sent) <= 2 + 2 * 10 + 1


def test_a_bad_element_of_a_bulk_fails_its_caller_and_no_other(bench):
    async def main(context):
        bench.store.before = takes(0.01, refuses("bad", RepositoryError("can't be written")))
        first = asyncio.create_task(context.schedule_task(bench.template, "first", interval=HOUR))
        await asyncio.sleep(0.001)
        names = [f"bulk{number}" for number in range(300)] + ["bad"] + [f"more{number}" for number in range(300)]
        bulk = context.schedule_tasks(bench.template, [Instance(name=name, interval=HOUR) for name in names])
        result, *others = await asyncio.gather(bulk, first, *burst(context, bench.template, 300), return_exceptions=True)
        assert str(result) == "can't be written"
        assert others == [None] * 301

    bench.run(main)
    assert len(bench.store.rows()) == 901, "all but the bad one"


def test_an_error_that_passes_reaches_every_caller_concerned_and_later_ones_go_on(bench, clock):
    async def main(context):
        def away(call):
            if clock.elapsed < 5:
                raise TransientRepositoryError("away")

        bench.store.before = takes(0.05, away)
        results = await asyncio.gather(*burst(context, bench.template, 2500), return_exceptions=True)
        assert {type(result) for result in results} == {TransientRepositoryError}
        assert {str(result) for result in results} == {"away"}
        assert len({id(result) for result in results}) == 2500, "each caller raises one of its own"
        assert len(bench.sent) == 4, "who is to try again is for the callers to say"
        await clock.advance(5 * SECOND)
        await asyncio.gather(*burst(context, bench.template, 2500))

    bench.run(main)
    assert len(bench.store.rows()) == 2500


def test_a_partition_that_does_not_answer_holds_up_others_once(bench, clock):
    # A node of a cluster hangs: what is on the others continues.
    def hangs(call):
        if any(each.key.partition == "partitioned:2:parts" for each in call.registrations):
            raise TransientRepositoryError("timed out")

    async def hook(call):
        if call.method == "register":
            hung = any(each.key.partition == "partitioned:2:parts" for each in call.registrations)
            await asyncio.sleep(5 if hung else 0.01)
            hangs(call)

    async def main(context):
        bench.store.before = hook
        calls = [context.schedule_task(bench.parts, f"{number % 4}-{number}", interval=HOUR) for number in range(400)]
        await asyncio.gather(*calls, return_exceptions=True)
        for _ in range(3):
            began, calls = clock.elapsed, []
            for number in range(400):
                calls.append(asyncio.create_task(context.schedule_task(bench.parts, f"{number % 4}-{number}", interval=HOUR)))
            healthy = [call for number, call in enumerate(calls) if number % 4 != 2]
            await asyncio.gather(*healthy)
            assert clock.elapsed < began + 0.1
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [number % 4 for number, result in enumerate(results) if result is not None] == [2] * 100
        bench.store.before = takes(0.01)
        await clock.advance(2 * HOUR)
        sent = len(bench.sent)
        await asyncio.gather(
            *(context.schedule_task(bench.parts, f"{number % 4}-{number}", interval=HOUR) for number in range(400))
        )
        assert len(bench.sent) == sent + 2, "later, one call is for all again"

    bench.run(main)


def test_nobody_waits_behind_a_store_that_hangs_for_ever(bench, clock):
    waited = []

    async def one(context, number):
        began = clock.elapsed
        with pytest.raises(TransientRepositoryError):
            await context.schedule_task(bench.template, str(number), interval=HOUR)
        waited.append(clock.elapsed - began)

    def hangs(call):
        raise TransientRepositoryError("timed out")

    async def main(context):
        bench.store.before = takes(5, hangs)
        calls = []
        for number in range(20_000):
            if number % 100 == 0:
                await asyncio.sleep(0.1)
            calls.append(asyncio.create_task(one(context, number)))
        await asyncio.gather(*calls)

    bench.run(main)
    assert len(waited) == 20_000
    assert max(waited) < 21


# --- cancellation, and the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [0, 1, 250, 499])
def test_a_caller_that_is_cancelled_takes_nobody_along(bench, clock, cancelled):
    # I14
    async def main(context):
        calls = [asyncio.create_task(call) for call in burst(context, bench.template, 500)]
        await asyncio.sleep(0.01 if cancelled % 2 else 0.06)
        calls[cancelled].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [number for number, result in enumerate(results) if result is not None]
        assert failed in ([], [cancelled])
        await context.schedule_task(bench.template, "last", interval=HOUR)

    bench.run(main)
    assert len(bench.store.rows()) >= 500
    assert len(bench.sent) <= 3


def test_all_but_one_may_be_cancelled_at_any_moment(bench, clock):
    async def main(context):
        for moment in range(12):
            calls = [
                asyncio.create_task(context.schedule_task(bench.template, f"{moment}-{number}", interval=HOUR))
                for number in range(50)
            ]
            await asyncio.sleep(moment * 0.01)
            for call in calls[:-1]:
                call.cancel()
            await asyncio.gather(*calls[:-1], return_exceptions=True)
            await calls[-1]
            assert f"{moment}-49" in bench.store.rows()

    bench.run(main)


def test_the_engine_is_told_of_what_a_cancelled_caller_registered(bench, clock):
    ran = []

    @bench.app.dynamic_task()
    async def noted(context):
        ran.append((context.name, clock.elapsed))

    async def main():
        async with running(bench.app) as context:
            first = asyncio.create_task(context.schedule_task(noted, "first", interval=HOUR))
            second = asyncio.create_task(context.schedule_task(noted, "second", execute_at=clock.now() + SECOND / 5))
            await asyncio.sleep(0.06)
            second.cancel()
            await first
            await clock.advance(SECOND / 2)
            assert [name for name, at in ran if at < 0.25] == ["second"]

    clock.run(main())


def test_what_waits_when_the_application_closes_is_refused_and_what_is_on_its_way_ends_first(clock):
    store = ScriptedStore()
    closed = []

    async def main():
        async with app.create() as context:
            calls = [asyncio.create_task(call) for call in burst(context, template, 3500)]
            await asyncio.sleep(0.06)
        closed.append(clock.elapsed)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[:1001] == [None] * 1001
        assert {str(result) for result in results[1001:]} == {"The application was closed before this was stored"}
        assert {type(result) for result in results[1001:]} == {RepositoryError}
        assert len(asyncio.all_tasks()) == 1

    app = Pyncette(repository_factory=store.open, clock=clock)
    template = app.dynamic_task(name="template")(body)
    store.before = takes(0.05)
    clock.run(main())
    assert closed == [pytest.approx(0.1)]


def test_the_end_of_the_loop_leaves_nobody_waiting(bench, clock):
    ended = []

    async def caller(context, number):
        try:
            await context.schedule_task(bench.template, str(number), interval=HOUR)
        finally:
            ended.append(number)

    async def main():
        async with bench.app.create() as context:
            context.tasks_of_test = [asyncio.create_task(caller(context, number)) for number in range(100)]
            await asyncio.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clock.run(main())
    assert sorted(ended) == list(range(100))


# --- others -------------------------------------------------------------------------------------------------------------


def test_bodies_may_register_from_within_and_claims_go_on_beside_a_burst(bench, clock):
    late = []

    @bench.app.task(interval=SECOND / 10)
    async def beat(context):
        late.append((clock.now() - context.scheduled_at).total_seconds())

    @bench.app.dynamic_task()
    async def chain(context):
        if context.args["left"]:
            await context.app_context.schedule_task(context.task, execute_at=clock.now(), left=context.args["left"] - 1)
        else:
            ended.append(context.name)

    ended = []

    async def main():
        async with running(bench.app) as context:
            await asyncio.gather(
                *burst(context, bench.template, 15_000),
                *(context.schedule_task(chain, str(number), execute_at=clock.now(), left=3) for number in range(20)),
            )
            await clock.advance(3 * SECOND)

    clock.run(main())
    assert len(ended) == 20
    assert max(late) < 0.1


def test_two_applications_in_one_loop_have_a_queue_each(clock):
    async def main():
        stores = [ScriptedStore(), ScriptedStore()]
        stores[0].before = takes(5)
        apps = [Pyncette(repository_factory=store.open, clock=clock) for store in stores]
        templates = [app.dynamic_task(name="template")(body) for app in apps]
        async with apps[0].create() as slow, apps[1].create() as quick:
            waiting = asyncio.create_task(slow.schedule_task(templates[0], "x", interval=HOUR))
            await asyncio.sleep(1)
            await quick.schedule_task(templates[1], "x", interval=HOUR)
            assert clock.elapsed == 1
            await waiting

    clock.run(main())


def test_none_of_fifteen_thousand_callers_fails_on_a_file(tmp_path):
    async def main():
        async with app.create() as context:
            await asyncio.gather(*burst(context, template, 15_000))
            stats = await context.repository.stats(datetime.now(UTC), "dynamic:template")
            assert stats.rows == 15_000

    app = Pyncette(f"sqlite:///{tmp_path}/burst.db")
    template = app.dynamic_task(name="template")(body)
    asyncio.run(main())
