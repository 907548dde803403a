"""Hints: what one process schedules, or gives back, another starts at once, although it polls seldom (I21). In virtual time."""

import asyncio
import logging
from datetime import timedelta

import pytest

from pyncette import Instance
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.hooks import Instrumentation
from pyncette.repository import Hint
from pyncette.testing import running
from simulation.hinting import HintingStore

SECOND = timedelta(seconds=1)
POLL = 10 * SECOND


@pytest.fixture
def store():
    return HintingStore()


@pytest.fixture
def started():
    """Who started what, and when (seconds)."""
    return []


@pytest.fixture
def process(make_app, clock, started):
    """Makes applications that stand for processes with the same tasks."""

    def make(name="", *, lasts=None, **options):
        app = make_app(**{"poll_interval": POLL, **options})

        @app.dynamic_task(name="template")
        async def template(context):
            started.append((name, context.name, clock.elapsed))
            if lasts is not None:
                await asyncio.sleep(lasts)

        @app.partitioned_task(name="parts", partition_count=3)
        async def parts(context):
            started.append((name, context.name, clock.elapsed))

        app.dynamic_task(name="elsewhere", enabled=name == "")(idle)
        return app

    return make


async def idle(context): ...


def late(started, at):
    return [when - at for _, _, when in started]


def test_what_a_process_without_engine_schedules_starts_at_once(process, clock, started):
    async def main():
        async with running(process("worker")), process().client() as client:
            template = client.tasks[0]
            await clock.advance(3 * SECOND)
            await client.schedule_task(template, "now", execute_at=clock.now())
            await clock.advance(SECOND / 20)
            assert [name for _, name, _ in started] == ["now"]
            await client.schedule_task(template, "soon", execute_at=clock.now() + SECOND)
            await clock.advance(SECOND)
            at = clock.elapsed
            await clock.advance(SECOND / 20)
            assert [name for _, name, _ in started] == ["now", "soon"]
            assert started[-1][2] - at < 0.05

    clock.run(main())


def test_a_hint_is_only_sent_if_it_could_change_the_next_poll_of_others(process, clock, store):
    async def main():
        async with process().client() as client:
            template = client.tasks[0]
            await client.schedule_task(template, "later", execute_at=clock.now() + POLL)
            await client.schedule_task(template, "interval", interval=2 * POLL)
            await client.schedule_task(template, "daily", schedule="0 12 * * *")
            await client.unschedule_task(template, "later")
            await client.pause_task(template, "interval")
            await clock.advance(SECOND)
            assert store.told == []
            await client.schedule_task(template, "sooner", execute_at=clock.now() + POLL - SECOND)
            await clock.advance(SECOND)
            assert [hints for _, hints in store.told] == [[Hint("dynamic:template", clock.now() + POLL - 2 * SECOND)]]

    clock.run(main())


def test_one_hint_tells_of_all_rows_of_a_partition_and_is_about_the_earliest(process, clock, store):
    async def main():
        async with process().client() as client:
            now = clock.now()
            instances = [Instance(name=str(n), execute_at=now + (1 + n * 7 % 500) * SECOND / 100) for n in range(500)]
            await client.schedule_tasks(client.tasks[1], instances)
            await clock.advance(SECOND)
            [(_, hints)] = store.told
            assert sorted(hint.partition for hint in hints) == [f"partitioned:{n}:parts" for n in range(3)]
            rows = store.rows()
            for hint in hints:
                assert hint.ready_at == min(row.ready_at for row in rows.values() if row.key.partition == hint.partition)

    clock.run(main())


def test_a_burst_is_told_at_once_then_seldom_and_to_its_end(process, clock, store, started):
    stored = {}

    async def main():
        async with running(process("worker", concurrency_limit=20_000, batch_size=1000)), process().client() as client:
            await clock.advance(3 * SECOND)
            began = clock.elapsed
            for number in range(2500):
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
                stored[str(number)] = clock.elapsed
                await asyncio.sleep(0.0004)
            told = [at - began for at, _ in store.told]
            assert told[0] == 0
            assert len(told) <= 8
            assert all(len(hints) == 1 for _, hints in store.told)
            await clock.advance(SECOND)
            assert len(store.told) <= 9
            assert len(started) == 2500
            # Half a second was told, and the poll for one hint brings what was stored until then.
            assert max(at - stored[name] for _, name, at in started) < 0.3

    clock.run(main())


def test_hints_apart_are_each_told_at_once(process, clock, store, started):
    async def main():
        async with running(process("worker")), process().client() as client:
            await clock.advance(SECOND)
            for number in range(50):
                at = clock.elapsed
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
                await clock.advance(SECOND / 20)
                assert started[-1][1] == str(number)
                assert started[-1][2] - at < 0.01

    clock.run(main())


@pytest.mark.parametrize("error", [TransientRepositoryError("away"), RepositoryError("forbidden"), ValueError("a bug")])
def test_hints_that_fail_cost_nobody_anything_but_the_wait_for_a_poll(process, clock, store, started, caplog, error):
    caplog.set_level(logging.DEBUG, "pyncette")
    store.refuses = error

    async def main():
        async with running(process("worker")), process().client() as client:
            await clock.advance(SECOND)
            at = clock.elapsed
            for number in range(20):
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
            assert clock.elapsed == at
            await clock.advance(POLL)
            assert len(started) == 20
            store.refuses = None
            await clock.advance(60 * SECOND)
            await client.schedule_task(client.tasks[0], "again", execute_at=clock.now())
            await clock.advance(SECOND / 20)
            assert started[-1][1] == "again"

    clock.run(main())
    told = [record for record in caplog.records if "Could not send a hint" in record.message]
    assert {record.levelname for record in told} == {"DEBUG"}
    if type(error) is RepositoryError:
        assert len(told) == 1, "who is not allowed to is not to ask each time"


def test_a_store_that_does_not_answer_to_hints_delays_neither_calls_nor_the_end(process, clock, store):
    store.slow = 1000.0

    async def main():
        async with process().client() as client:
            for number in range(20):
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
        assert clock.elapsed < 1

    clock.run(main())


def test_what_waits_to_be_told_is_told_at_the_end(process, clock, store):
    async def main():
        async with process().client() as client:
            for number in range(2):
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
                await asyncio.sleep(0.001)
        assert len(store.told) == 2
        assert clock.elapsed < 0.1

    clock.run(main())


def test_a_worker_tells_only_what_it_does_not_run_itself(process, clock, store, started):
    async def main():
        async with running(process("one", concurrency_limit=2, lasts=3)) as one, running(process("other")):
            await clock.advance(SECOND)
            await one.schedule_task(one.tasks[0], "its own", execute_at=clock.now())
            await clock.advance(SECOND / 20)
            assert store.told == []
            await one.schedule_tasks(one.tasks[0], [Instance(name=str(n), execute_at=clock.now()) for n in range(4)])
            await clock.advance(SECOND / 20)
            assert len(store.told) == 1
            assert len(started) == 5
            assert {name for name, _, _ in started} == {"one", "other"}
            await one.schedule_task(one.tasks[0], "too many", execute_at=clock.now())
            await clock.advance(SECOND / 20)
            assert started[-1][:2] == ("other", "too many")

    clock.run(main())


def test_a_worker_tells_what_it_does_not_run(process, clock, store):
    async def main():
        app = process("worker")
        async with running(app) as worker:
            await clock.advance(SECOND)
            await worker.schedule_task(worker.tasks[2], "x", execute_at=clock.now())
            await clock.advance(SECOND)
            assert [hint.partition for _, hints in store.told for hint in hints] == ["dynamic:elsewhere"]

    clock.run(main())


def test_what_a_worker_gives_back_as_it_ends_is_started_by_another_at_once(process, clock, store, started):
    async def main():
        async with running(process("other", concurrency_limit=1, lasts=2)):
            async with running(process("one", lasts=100, shutdown_timeout=timedelta())) as one:
                await clock.advance(SECOND)
                await one.schedule_task(one.tasks[0], "long", execute_at=clock.now())
                await clock.advance(5 * SECOND)
                assert [name for name, _, _ in started] == ["one"]
                at = clock.elapsed
            await clock.advance(SECOND)
            assert [name for name, _, _ in started] == ["one", "other"]
            assert late(started[1:], at) < [0.5]

    clock.run(main())


def test_what_is_resumed_starts_at_once(process, clock, started):
    async def main():
        async with running(process("worker")), process().client() as client:
            await client.schedule_task(client.tasks[0], "x", execute_at=clock.now() + SECOND)
            await client.pause_task(client.tasks[0], "x")
            await clock.advance(15 * SECOND)
            assert started == []
            await client.resume_task(client.tasks[0], "x")
            await clock.advance(SECOND / 20)
            assert len(started) == 1

    clock.run(main())


def test_of_a_herd_that_is_woken_for_one_row_most_soon_stay_where_they_are(process, clock, store, started):
    workers = 20

    async def main():
        async with process().client() as client:
            contexts = [running(process(str(number))) for number in range(workers)]
            for context in contexts:
                await context.__aenter__()
            await clock.advance(SECOND)
            claims = []
            for number in range(40):
                before, at = len(store.called("claim")), clock.elapsed
                await client.schedule_task(client.tasks[0], str(number), execute_at=clock.now())
                await clock.advance(SECOND / 20)
                claims.append(len(store.called("claim")) - before)
                assert len(started) == number + 1
                assert started[-1][2] - at < 0.05
            # Each once, and who got the row looks again for the next.
            assert max(claims) <= workers + 3
            assert sum(claims[8:]) / len(claims[8:]) <= 5
            for context in contexts:
                await context.__aexit__(None, None, None)

    clock.run(main())


def test_who_heard_too_late_is_deaf_for_a_moment_only(process, clock, store, started):
    async def main():
        async with process().client() as client:
            async with running(process("other")):
                async with running(process("one", concurrency_limit=1, lasts=100, shutdown_timeout=timedelta())):
                    await clock.advance(SECOND)
                    for _ in range(10):  # hints that bring nothing
                        await client.repository.wake([Hint("dynamic:template", clock.now())])
                        await clock.advance(SECOND)
                    at = clock.elapsed
                    await client.schedule_task(client.tasks[0], "x", execute_at=clock.now())
                    await client.schedule_task(client.tasks[0], "y", execute_at=clock.now())
                    await clock.advance(SECOND)
                    assert len(started) == 2
                    assert max(late(started, at)) < 0.45

    clock.run(main())


def test_who_could_not_listen_listens_again_and_looks_for_what_was_missed(process, clock, store, started, caplog):
    caplog.set_level(logging.INFO, "pyncette")

    async def main():
        async with running(process("worker")), process().client() as client:
            await clock.advance(SECOND)
            store.deaf = TransientRepositoryError("away")
            store.breaks(store.deaf)
            await clock.advance(SECOND / 10)
            await client.schedule_task(client.tasks[0], "missed", execute_at=clock.now())
            await clock.advance(SECOND / 10)
            assert started == []
            store.deaf = None
            await clock.advance(SECOND)
            assert [name for _, name, _ in started] == ["missed"]
            store.deaf = TransientRepositoryError("away")
            store.breaks(store.deaf)
            before = store.listened
            await clock.advance(3600 * SECOND)
            assert 3600 / 30 <= store.listened - before <= 3600 / 30 + 12

    clock.run(main())
    assert not [record for record in caplog.records if "int" in record.message and "Can't receive hints" in record.message]


@pytest.mark.parametrize(("error", "level"), [(RepositoryError("forbidden"), "INFO"), (ValueError("a bug"), "ERROR")])
def test_who_is_not_allowed_to_listen_says_so_once_and_polls(process, clock, store, started, caplog, error, level):
    caplog.set_level(logging.INFO, "pyncette")
    store.deaf = error

    async def main():
        async with running(process("worker")), process().client() as client:
            await clock.advance(SECOND)
            await client.schedule_task(client.tasks[0], "x", execute_at=clock.now())
            await clock.advance(1000 * SECOND)
            assert len(started) == 1

    clock.run(main())
    assert [record.levelname for record in caplog.records if "istening" in record.message or "receive hints" in record.message] == [
        level
    ]


def test_hints_that_make_no_sense_wake_nobody(process, clock, store):
    async def main():
        async with running(process("worker")), process().client() as client:
            await clock.advance(SECOND)
            before = len(store.calls)
            for partition in ("dynamic:unknown", "", "layouts", "static"):
                await client.repository.wake([Hint(partition, clock.now() - 1000 * SECOND)])
            await client.repository.wake([Hint("dynamic:template", clock.now() + 1000 * SECOND)])
            await clock.advance(SECOND)
            assert len(store.calls) == before

    clock.run(main())


def test_an_idle_worker_polls_no_more_often_than_without_hints(process, clock, store):
    async def main():
        async with running(process("worker")):
            await clock.advance(5 * SECOND)
            before = len(store.called("claim"))
            await clock.advance(60 * POLL)
            assert len(store.called("claim")) - before <= 61 * 4

    clock.run(main())


def test_hints_are_counted_by_hooks(process, clock, store):
    class Counting(Instrumentation):
        def __init__(self):
            self.sent, self.received = [], []

        def hints_sent(self, count):
            self.sent.append(count)

        def hints_received(self, count):
            self.received.append(count)

    sender, receiver = Counting(), Counting()

    async def main():
        worker, web = process("worker"), process()
        worker.use_instrumentation(receiver)
        web.use_instrumentation(sender)
        async with running(worker), web.client() as client:
            await clock.advance(SECOND)
            await client.schedule_tasks(client.tasks[1], [Instance(name=str(n), execute_at=clock.now()) for n in range(100)])
            await clock.advance(SECOND)
        assert sender.sent == receiver.received == [3]
        assert receiver.sent == sender.received == []

    clock.run(main())
