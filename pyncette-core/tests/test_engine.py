"""The loop: when it claims and how much, what that costs, and what it does when the store or a row is in trouble."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ExecutionMode, FailureMode, Instance, Pyncette, RepositoryError, TransientRepositoryError
from pyncette.repository import Key, Outcome, Row, State
from pyncette.testing import running
from pyncette.worker.loop import Engine
from simulation.loop import ProcessClock
from simulation.scripted import ScriptedStore, TimedStore, registration

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
#: A run begins this soon after its time (seconds).
PROMPT = 0.01


def at(seconds):
    return START + timedelta(seconds=seconds)


@pytest.fixture
def store():
    return ScriptedStore()


def run(clock, main):
    """Run ``main`` in the clock's time, for no longer than a few seconds of real time."""
    clock.run(asyncio.wait_for(main, 1e9))


def instances(count, **options):
    return [Instance(name=f"{number:05}", **(options or {"execute_at": START})) for number in range(count)]


class Recorder:
    """A body that remembers when it began: by name, in seconds."""

    def __init__(self, clock, lasts=0.0):
        self.clock = clock
        self.lasts = lasts
        self.runs = []
        self.contexts = []
        self.most = self.now_running = 0

    async def __call__(self, context):
        self.contexts.append(context)
        self.runs.append((context.name, self.clock.elapsed, (context.scheduled_at - START).total_seconds()))
        self.now_running += 1
        self.most = max(self.most, self.now_running)
        try:
            await asyncio.sleep(self.lasts)
        finally:
            self.now_running -= 1

    @property
    def lateness(self):
        return [began - scheduled for _, began, scheduled in self.runs]

    def began(self, name):
        return [began for each, began, _ in self.runs if each == name]


@pytest.fixture
def body(clock):
    return Recorder(clock)


def fails(condition, error, after=False):
    """A hook that raises ``error`` for the calls for which ``condition`` holds."""

    async def hook(call):
        if condition(call):
            raise error

    return hook


def away(begin, end, timeout=0.0):
    """A hook: the store can't be reached from ``begin`` to ``end``."""

    async def hook(call):
        if begin <= call.at < end:
            await asyncio.sleep(timeout)
            raise TransientRepositoryError("away")

    return hook


# --- leases and slots -------------------------------------------------------------------------------------------------------


def test_a_lease_never_ticks_in_a_queue(make_app, clock, store, body):
    body.lasts = 7
    app = make_app(concurrency_limit=2)
    template = app.dynamic_task(name="template", lease_duration=10 * SECOND)(body)
    remaining = []

    @app.middleware
    async def observe(context, following):
        remaining.append(context.lease_remaining.total_seconds())
        await following()

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(template, instances(10))
            for _ in range(50):
                assert len(store.held()) <= 2
                await clock.advance(SECOND)

    run(clock, main())
    assert len(body.runs) == 10 and body.most == 2
    assert min(remaining) > 9.9


def test_the_time_is_read_anew_for_each_claim(make_app, clock, store, body):
    # One slot, taken for seconds by each of many partitions: a `now` of the beginning of the pass would shorten leases.
    body.lasts = 3
    app = make_app(concurrency_limit=1)
    template = app.partitioned_task(name="template", partition_count=4, lease_duration=5 * SECOND)(body)
    app.task(interval=SECOND, name="static")(body)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(template, instances(12))
            await clock.advance(MINUTE)

    run(clock, main())
    assert all(call.now == at(call.at) for call in store.calls)
    assert len(body.runs) == 20


def test_a_claim_that_takes_longer_than_the_lease_is_not_started(make_app, clock, store, body, caplog):
    app = make_app()
    app.task(interval=10 * SECOND, name="task", lease_duration=5 * SECOND)(body)
    slow = []

    async def hook(call):
        if call.method == "claim" and call.result.claims and not slow:
            slow.append(call)
            await asyncio.sleep(6)

    store.after = hook

    async def main():
        async with running(app):
            await clock.advance(18 * SECOND)

    run(clock, main())
    assert "does not start: its lease has already expired" in caplog.text
    assert [round(began, 1) for began in body.began("task")] == [16.0]  # claimed again, and that time in time


def test_a_row_whose_claim_was_lost_comes_back_when_the_lease_ends(make_app, clock, store, body):
    app = make_app()
    app.task(interval=10 * SECOND, name="task", lease_duration=5 * SECOND)(body)
    lost = []

    async def hook(call):
        if call.method == "claim" and call.result.claims and not lost:
            lost.append(call)
            raise TransientRepositoryError("the connection was lost")

    store.after = hook

    async def main():
        async with running(app):
            await clock.advance(18 * SECOND)

    run(clock, main())
    (began,) = body.began("task")
    assert began == pytest.approx(15, abs=PROMPT)
    assert body.contexts[0].attempt == 2


def test_a_heartbeat_keeps_the_fencing_token(make_app, clock, store):
    app = make_app()
    tokens = []

    @app.task(interval=10 * SECOND, lease_duration=2 * SECOND)
    async def task(context):
        for _ in range(5):
            tokens.append((context.fencing_token, store.rows()["task"].epoch))
            await asyncio.sleep(1)
            await context.heartbeat()

    async def main():
        async with running(app):
            await clock.advance(19 * SECOND)

    run(clock, main())
    assert len(tokens) == 5 and len({*sum(tokens, ())}) == 1


def test_a_late_commit_does_not_remove_a_fresh_schedule(make_app, clock, store, body):
    # I3, I8
    app = make_app()
    arguments = []

    @app.dynamic_task(lease_duration=5 * SECOND)
    async def template(context):
        arguments.append(context.args)
        if len(arguments) == 1:
            await asyncio.sleep(2)
            await context.app_context.schedule_task(template, "a", execute_at=START, version=2)
            await asyncio.sleep(1)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(template, "a", execute_at=START, version=1)
            await clock.advance(10 * SECOND)
            assert await app_context.get_task(template, "a") is None

    run(clock, main())
    assert arguments == [{"version": 1}, {"version": 2}]


# --- on time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poll_interval", [SECOND, HOUR])
def test_what_is_known_starts_on_time_though_polls_are_rare(make_app, clock, body, poll_interval):
    app = make_app(poll_interval=poll_interval)
    app.task(interval=timedelta(seconds=0.37), name="often")(body)
    app.task(interval=timedelta(seconds=7.77), name="seldom")(body)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app) as app_context:
            await clock.advance(3.3 * SECOND)
            await app_context.schedule_task(template, "soon", execute_at=at(3.4))
            await app_context.schedule_task(template, "later", interval=timedelta(seconds=2.22))
            await clock.advance(30 * SECOND)

    run(clock, main())
    assert {name for name, _, _ in body.runs} == {"often", "seldom", "soon", "later"}
    assert max(body.lateness) < PROMPT and min(body.lateness) >= 0


def test_what_another_process_schedules_is_noticed_within_a_poll(make_app, clock, store, body):
    app = make_app()
    app.dynamic_task(name="template")(body)

    async def main():
        async with running(app):
            await clock.advance(3.3 * SECOND)
            await store.register(clock.now(), [registration("dynamic:template", "at once", at(1))])
            await store.register(clock.now(), [registration("dynamic:template", "later", at(7.77), schedule="interval 60 @UTC")])
            await clock.advance(10 * SECOND)

    run(clock, main())
    assert body.began("at once")[0] < 3.3 + 1 + PROMPT
    assert body.began("later") == [pytest.approx(7.77, abs=PROMPT)]


@pytest.mark.parametrize("shared", [True, False])
def test_a_schedule_that_came_during_a_run_starts_when_that_ends(make_app, clock, body, shared):
    # The row is held until then; nobody else would tell when it comes free.
    store = ScriptedStore(shared=shared)
    app = Pyncette(repository_factory=store.open, clock=clock, poll_interval=MINUTE)
    template = app.dynamic_task(name="template", lease_duration=HOUR)(body)

    async def main():
        async with running(app) as app_context:
            body.lasts = 10.5
            await app_context.schedule_task(template, "a", execute_at=START)
            await clock.advance(5 * SECOND)
            await app_context.schedule_task(template, "a", execute_at=at(7))
            await clock.advance(10 * SECOND)

    run(clock, main())
    assert body.began("a") == [pytest.approx(0, abs=PROMPT), pytest.approx(10.5, abs=PROMPT)]


@pytest.mark.parametrize("execution_mode", ExecutionMode)
def test_a_commit_whose_answer_was_lost_does_not_delay_the_next_occurrence(make_app, clock, store, body, execution_mode):
    app = make_app(poll_interval=HOUR)
    app.task(interval=timedelta(seconds=0.5), name="task", lease_duration=MINUTE, execution_mode=execution_mode)(body)
    lost = []

    async def hook(call):
        if call.method == "settle" and len(lost) < 3:
            lost.append(call)
            raise TransientRepositoryError("the connection was lost")

    store.after = hook

    async def main():
        async with running(app):
            await clock.advance(10 * SECOND)

    run(clock, main())
    assert len(body.runs) == 19
    assert len(lost) == 3


def test_a_step_of_the_wall_clock_is_noticed_also_where_nobody_else_writes(clock, body):
    store = ScriptedStore(shared=False)
    app = Pyncette(repository_factory=store.open, clock=clock)
    app.task(schedule="0 * * * *", name="task")(body)

    async def main():
        async with running(app):
            await clock.advance(MINUTE)
            clock.set(at(3600 + 5))
            await clock.advance(15 * SECOND)

    run(clock, main())
    assert len(body.runs) == 1


def test_wrong_clocks_neither_run_early_nor_steal_leases(clock):
    # I2, I4: with the clock of the store, workers that are a minute apart agree.
    store = TimedStore(clock)
    runs = []

    def worker(name, wrong_by):
        app = Pyncette(repository_factory=store.open, clock=ProcessClock(clock, wrong_by, 1000.0))

        @app.task(interval=10 * SECOND, lease_duration=15 * SECOND, name="task")
        async def task(context):
            runs.append((name, context.attempt, clock.elapsed - (context.scheduled_at - START).total_seconds()))
            await asyncio.sleep(12)

        return app

    async def main():
        async with running(worker("ahead", 30 * SECOND)), running(worker("behind", -30 * SECOND)):
            await clock.advance(2 * MINUTE)

    run(clock, main())
    assert len(runs) in (10, 11)
    assert {attempt for _, attempt, _ in runs} == {1}
    assert all(lateness >= 0 for _, _, lateness in runs)


def test_a_wrong_clock_is_logged(clock, caplog):
    store = TimedStore(clock)
    app = Pyncette(repository_factory=store.open, clock=ProcessClock(clock, 30 * SECOND, 0.0))

    async def main():
        async with running(app) as app_context:
            assert app_context.clock.skew == 30 * SECOND
            assert app_context.clock.now() == clock.now()

    run(clock, main())
    assert "+30.000 s off" in caplog.text


def test_a_slow_network_does_not_spoil_what_is_known_of_the_time(clock):
    # I4: an alignment that is seconds wrong must not replace a good one, unless that one is wrong by more.
    store = TimedStore(clock)
    app = Pyncette(repository_factory=store.open, clock=ProcessClock(clock, timedelta(), 0.0))
    original = store.server_time

    async def slowly():
        instant = await original()
        await asyncio.sleep(4)
        return instant

    async def main():
        async with running(app) as app_context:
            store.server_time = slowly
            await clock.advance(MINUTE)
            assert app_context.clock.now() == clock.now() and app_context.clock.error == timedelta()
            clock.set(clock.now() + HOUR)  # the store's clock is another now
            await clock.advance(MINUTE)
            assert abs(app_context.clock.now() - clock.now()) <= app_context.clock.error == 2 * SECOND

    run(clock, main())


# --- what it costs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "polls"), [(True, 61), (False, 8)])
def test_an_idle_app_costs_one_query_per_partition_and_poll(clock, body, shared, polls):
    store = ScriptedStore(shared=shared)
    app = Pyncette(repository_factory=store.open, clock=clock)
    app.task(interval=HOUR, name="static")(body)
    template = app.partitioned_task(name="template", partition_count=8)(body)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(template, instances(100, interval=HOUR))
            await clock.advance(0.1 * SECOND)
            store.calls.clear()
            await clock.advance(MINUTE)

    run(clock, main())
    polled = [call for call in store.calls if call.partition != "workers"]  # of which one is made in ten seconds
    assert {call.method for call in polled} == {"claim"}
    by_partition = [[call for call in polled if call.partition == each] for each in {call.partition for call in polled}]
    assert len(by_partition) == 9
    assert len(store.calls) - len(polled) <= 9
    assert all(len(calls) <= polls for calls in by_partition)


def test_a_lone_task_costs_two_queries_an_occurrence(make_app, clock, store, body):
    # One that claims it and, at most, one that finds nothing; neither a poll too early nor one for good measure.
    app = make_app(poll_interval=HOUR)
    app.task(interval=timedelta(seconds=0.7), name="task")(body)

    async def main():
        async with running(app):
            store.calls.clear()
            await clock.advance(MINUTE)

    run(clock, main())
    assert len(body.runs) == 85
    assert len(store.called("settle")) == 85
    assert len(store.called("claim")) <= 2 * 85 + 2


def test_the_loop_does_not_spin(make_app, clock, store, body, monkeypatch):
    app = make_app()
    app.task(interval=10 * SECOND, name="static", lease_duration=MINUTE)(body)
    app.partitioned_task(name="template", partition_count=8)(body)
    passes = []
    original = Engine._pass

    async def counted(self):
        passes.append(clock.elapsed)
        await original(self)

    monkeypatch.setattr(Engine, "_pass", counted)

    async def main():
        async with running(app):
            await clock.advance(100 * SECOND)

    run(clock, main())
    assert len(passes) < 100 * 3


def test_a_backlog_is_worked_off_in_full_batches(make_app, clock, store, body):
    app = make_app()
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, instances(10_000))
            started = asyncio.create_task(app_context.run())
            await clock.advance(0.5 * SECOND)
            app_context.shutdown()
            await started

    run(clock, main())
    assert len(body.runs) == 10_000
    assert max(body.lateness) < 0.1  # nothing waits for a poll as long as there is work
    assert len(store.called("claim")) <= 102
    assert len(store.called("settle")) <= 110
    assert store.rows() == {}


def test_batches_grow_with_the_load(make_app, clock, store, body):
    async def slowly(call):
        await asyncio.sleep(0.02)

    store.before = slowly
    body.lasts = 0.001
    app = make_app(concurrency_limit=50)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(template, "alone", execute_at=START)
            await clock.advance(SECOND)
            await app_context.schedule_tasks(template, instances(2000))
            await clock.advance(10 * SECOND)

    run(clock, main())
    sizes = [len(call.settlements) for call in store.called("settle")]
    assert sizes[0] == 1
    assert sum(sizes) == 2001 and len(sizes) < 60


def test_no_more_than_two_batches_wait_to_be_settled(make_app, clock, store, body):
    async def hang(call):
        if call.method == "settle":
            await asyncio.sleep(30)

    store.before = hang
    app = make_app(concurrency_limit=10, batch_size=20)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, instances(1000))
            started = asyncio.create_task(app_context.run())
            await clock.advance(20 * SECOND)
            assert len(body.runs) <= 2 * 20 + 10
            assert len(store.held()) <= 2 * 20 + 10
            store.before = None
            started.cancel()
            await asyncio.wait([started])

    run(clock, main())


def test_the_next_batch_is_claimed_while_the_last_is_settled(make_app, clock, store, body):
    async def takes_time(call):
        if call.method in ("claim", "settle"):
            await asyncio.sleep(0.1)

    store.before = takes_time
    app = make_app(concurrency_limit=10, batch_size=10)
    template = app.dynamic_task(name="template")(body)

    async def main():
        async with app.create() as app_context:
            await app_context.schedule_tasks(template, instances(200))
            async with running(app):
                await clock.advance(2.5 * SECOND)
                assert len(body.runs) == 200

    run(clock, main())


def test_what_is_due_but_not_to_be_had_is_not_asked_for_again_and_again(make_app, clock, store, body):
    # Another process has the row locked in an open transaction: the store skips it, but knows that it is due.
    app = make_app()
    app.dynamic_task(name="template")(body)
    original = store.claim

    async def claim(now, partition, *, limit, **options):
        result = await original(now, partition, limit=limit, **options)
        if clock.elapsed >= 30 or partition == "layouts":
            return result
        return type(result)([], at(-1))

    store.claim = claim

    async def main():
        await store.register(START, [registration("dynamic:template", "locked", at(-1), schedule="interval 3600 @UTC")])
        async with running(app):
            await clock.advance(30 * SECOND)
            polls = len(store.called("claim"))
            await clock.advance(2 * SECOND)
            assert len(body.runs) == 1
        assert polls < 30 + 15

    # What the script claims, it gives back at once.
    async def give_back(call):
        if call.method == "claim" and clock.elapsed < 30:
            for claim in call.result.claims:
                store._put(claim.key, row_of(claim))

    def row_of(claim):
        return Row(
            claim.key, claim.spec, claim.schedule, claim.occurrence, claim.execute_after, claim.execute_after,
            None, None, claim.epoch, claim.revision, 0, State.SCHEDULED,
        )  # fmt: skip

    store.after = give_back
    run(clock, main())


# --- a store in trouble -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.0, 5.0])
@pytest.mark.parametrize("poll_interval", [0.1 * SECOND, SECOND, MINUTE])
def test_an_outage_is_waited_out(make_app, clock, store, body, caplog, timeout, poll_interval):
    app = make_app(poll_interval=poll_interval)
    app.task(interval=SECOND, name="static")(body)
    template = app.partitioned_task(name="template", partition_count=16)(body)
    store.before = away(10, 70, timeout)

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(template, instances(8, interval=SECOND))
            await clock.advance(9.5 * SECOND)
            before = app_context.last_tick
            await clock.advance(60 * SECOND)
            assert before <= app_context.last_tick <= at(10)  # it is not well, and says so
            during = len([call for call in store.calls if 10 <= call.at < 70])
            assert during < 17 * (60 / 2 + 8)  # partitions wait each for itself, but not for a poll each
            await clock.advance(20 * SECOND)
            assert at(85) < app_context.last_tick

    with caplog.at_level(logging.WARNING, logger="pyncette"):
        run(clock, main())
    back = min(began for _, began, _ in body.runs if began > 20)
    assert back < 70 + timeout + 2.1
    assert len(body.runs) == 9 * 89  # all that was missed is caught up
    messages = [record.getMessage() for record in caplog.records if record.name == "pyncette.worker.presence"]
    assert [message.split(";")[0] for message in messages] == ["The store is unreachable", "The store is back"]


def test_an_outage_between_two_polls_is_not_noticed(make_app, clock, store, body, caplog):
    app = make_app(poll_interval=10 * SECOND)
    app.task(interval=MINUTE, name="task")(body)
    store.before = away(11, 19)

    async def main():
        async with running(app):
            await clock.advance(65 * SECOND)

    run(clock, main())
    assert body.began("task") == [pytest.approx(60, abs=PROMPT)]
    assert "reached" not in caplog.text


@pytest.mark.parametrize("partition", ["static", "dynamic:first", "partitioned:1:second"])
@pytest.mark.parametrize("timeout", [0.0, 0.5])
def test_an_outage_of_one_partition_does_not_stop_the_others(make_app, clock, store, body, partition, timeout):
    # I10: of a cluster, one shard is away.
    app = make_app()
    app.task(interval=SECOND, name="static", lease_duration=MINUTE)(body)
    app.task(interval=SECOND, name="static too", lease_duration=2 * MINUTE)(body)
    first = app.dynamic_task(name="first")(body)
    second = app.partitioned_task(name="second", partition_count=2, partition_selector=lambda count, name: int(name[-1]))(body)
    expected = {"static": "static", "static too": "static", "a": "dynamic:first"}
    expected |= {"b0": "partitioned:0:second", "b1": "partitioned:1:second"}

    async def hook(call):
        if call.method == "claim" and call.partition == partition and 10 <= call.at < 40:
            await asyncio.sleep(timeout)
            raise TransientRepositoryError("this shard is away")

    store.before = hook

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(first, "a", interval=SECOND)
            for name in ("b0", "b1"):
                await app_context.schedule_task(second, name, interval=SECOND)
            await clock.advance(39 * SECOND)
            assert app_context.last_tick < at(11)  # not all is well
            await clock.advance(10.5 * SECOND)

    run(clock, main())
    for name, where in expected.items():
        late = [began - scheduled for each, began, scheduled in body.runs if each == name]
        assert len(late) == 49
        if where == partition:
            assert 25 < max(late) < 35
        else:
            assert max(late) < 2 * timeout + PROMPT


def test_a_partition_that_fails_for_good_is_surfaced_and_stops_no_other(make_app, clock, store, body, caplog):
    # I10
    app = make_app()
    bad, good = app.dynamic_task(name="bad")(body), app.dynamic_task(name="good")(body)
    store.before = fails(lambda call: call.partition == "dynamic:bad" and 5 < call.at < 30, RepositoryError("table is missing"))

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(bad, "b", interval=SECOND)
            await app_context.schedule_task(good, "g", interval=SECOND)
            await clock.advance(29 * SECOND)
            assert app_context.last_tick < at(6.1)
            await clock.advance(10.5 * SECOND)

    run(clock, main())
    late = [began - scheduled for name, began, scheduled in body.runs if name == "g"]
    assert len(late) == 39 and max(late) < PROMPT
    assert len(body.began("b")) == 39
    assert "Partition 'dynamic:bad' can't be polled" in caplog.text


def test_a_lone_error_costs_less_than_a_tick_also_where_nobody_else_writes(clock, body):
    store = ScriptedStore(shared=False)
    app = Pyncette(repository_factory=store.open, clock=clock)
    app.task(interval=3 * SECOND, name="task")(body)
    store.before = fails(lambda call: call.method == "claim" and 3 <= call.at < 3.5, RepositoryError("a bug"))

    async def main():
        async with running(app):
            await clock.advance(5 * SECOND)

    run(clock, main())
    assert body.began("task") == [pytest.approx(3.7, abs=0.3)]


def test_an_app_with_all_slots_taken_is_well(make_app, clock, store, body):
    body.lasts = 1000
    app = make_app(concurrency_limit=1)
    app.task(interval=SECOND, name="task")(body)

    async def main():
        async with running(app) as app_context:
            await clock.advance(500 * SECOND)
            assert clock.now() - app_context.last_tick < 2 * SECOND

    run(clock, main())


def test_an_app_that_waits_for_the_store_to_settle_is_not_well(make_app, clock, store, body):
    app = make_app(batch_size=1)
    app.task(interval=SECOND, name="task", lease_duration=HOUR)(body)
    store.before = fails(lambda call: call.method == "settle", TransientRepositoryError("away"))

    async def main():
        async with app.create() as app_context:
            started = asyncio.create_task(app_context.run())
            await clock.advance(MINUTE)
            assert clock.now() - app_context.last_tick > 50 * SECOND
            store.before = None
            app_context.shutdown()
            await started

    run(clock, main())


# --- bad rows ---------------------------------------------------------------------------------------------------------------


def test_a_poisoned_row_costs_the_others_nothing(make_app, clock, store, body, caplog):
    # I10
    app = make_app(concurrency_limit=3)
    template = app.dynamic_task(name="template", lease_duration=2 * SECOND)(body)

    async def main():
        async with running(app) as app_context:
            for name, changes in {"a": {"spec": "{"}, "b": {"schedule": "whenever"}, "c": {"spec": "[]"}}.items():
                await store.register(START, [registration("dynamic:template", name, START)])
                store._put(Key("dynamic:template", name), store.rows()[name]._replace(**changes))
            for name in ("x", "y"):
                await app_context.schedule_task(template, name, interval=SECOND)
            await clock.advance(30.5 * SECOND)

    run(clock, main())
    assert {name for name, _, _ in body.runs} == {"x", "y"}
    assert len(body.runs) == 60 and max(body.lateness) < PROMPT
    for name in "abc":
        assert f"'template' '{name}'" in caplog.text
    assert len(store.rows()) == 5


def test_a_row_that_the_store_refuses_to_settle_costs_the_others_nothing(make_app, clock, store, body, caplog):
    # I10
    app = make_app()
    template = app.dynamic_task(name="template", lease_duration=5 * SECOND)(body)

    def bad(call):
        return call.method == "settle" and any(each.claim.key.name == "00003" for each in call.settlements)

    store.before = fails(bad, RepositoryError("value too long"))

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_tasks(template, instances(20, interval=SECOND))
            await clock.advance(20.5 * SECOND)

    run(clock, main())
    assert all(len(body.began(f"{number:05}")) == 20 for number in range(20) if number != 3)
    assert len(body.began("00003")) == 4  # once a lease
    assert "could not be stored; it may run again: value too long" in caplog.text
    assert "'00003'" in caplog.text and "'00004'" not in caplog.text


def test_a_static_task_whose_row_is_lost_comes_back(make_app, clock, store, body):
    app = make_app()
    app.task(interval=5 * SECOND, name="task")(body)

    async def main():
        async with running(app):
            await clock.advance(12 * SECOND)
            store._put(Key("static", "task"), None)
            await clock.advance(20 * SECOND)

    run(clock, main())
    times = [began for _, began, _ in body.runs]
    assert len(times) == 5
    assert 5 <= times[2] - 12 < 6.1  # an interval after it was noticed
    assert max(body.lateness) < PROMPT


def test_claims_that_were_not_asked_for_do_not_stop_the_others(make_app, clock, store, body, caplog):
    # A store that compares names without regard to case, or whose index is damaged.
    app = make_app()
    app.task(interval=SECOND, name="task")(body)
    original = store.claim

    async def claim(*arguments, **options):
        result = await original(*arguments, **options)
        return type(result)(
            [each._replace(key=Key("static", "TASK"), lease="x") for each in result.claims] + list(result.claims),
            result.next_ready_at,
            result.missing,
        )

    store.claim = claim

    async def main():
        async with running(app):
            await clock.advance(5.5 * SECOND)

    run(clock, main())
    assert len(body.runs) == 5
    assert "which was not asked for" in caplog.text


def test_a_body_that_fails_costs_the_others_nothing(make_app, clock, body, caplog):
    # I10
    caplog.set_level(logging.CRITICAL)
    app = make_app(concurrency_limit=2)
    app.task(interval=SECOND, name="good")(body)

    failures = 0

    @app.task(interval=SECOND, failure_mode=FailureMode.UNLOCK, retry_delay=timedelta(milliseconds=1))
    async def bad(context):
        nonlocal failures
        failures += 1
        raise ZeroDivisionError

    @app.task(interval=SECOND)
    async def worse(context):
        raise asyncio.CancelledError

    async def main():
        async with running(app):
            await clock.advance(5.5 * SECOND)

    run(clock, main())
    assert len(body.runs) == 5 and max(body.lateness) < 0.05
    assert failures > 500


# --- at most once -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.GONE, Outcome.SUPERSEDED, Outcome.LOST, Outcome.ALREADY])
@pytest.mark.parametrize("resent", [False, True])
def test_at_most_once_runs_only_what_it_has_committed(make_app, clock, store, body, outcome, resent):
    # I6: ALREADY in answer to a first try is somebody else's; in answer to a second, it is that to the first.
    app = make_app()
    app.task(interval=10 * SECOND, name="task", execution_mode=ExecutionMode.AT_MOST_ONCE)(body)
    original = store.settle
    failed = []

    async def settle(now, settlements):
        if resent and not failed:
            failed.append(settlements)
            raise TransientRepositoryError("the connection was lost")
        await original(now, settlements)
        return [outcome]

    store.settle = settle

    async def main():
        async with running(app):
            await clock.advance(15 * SECOND)

    run(clock, main())
    assert len(body.runs) == (1 if resent and outcome is Outcome.ALREADY else 0)


def test_at_most_once_is_lost_rather_than_repeated(make_app, clock, store, body):
    # I6: each commit is written, and no answer ever arrives.
    app = make_app()
    app.task(interval=10 * SECOND, name="task", lease_duration=3 * SECOND, execution_mode=ExecutionMode.AT_MOST_ONCE)(body)
    store.after = fails(lambda call: call.method == "settle", TransientRepositoryError("the connection was lost"))

    async def main():
        async with running(app):
            await clock.advance(35 * SECOND)
            store.after = None

    run(clock, main())
    assert body.runs == []
    assert store.rows()["task"].occurrence == at(40)
