"""The metrics of real applications, scraped over HTTP. Their counts add up."""

import asyncio
import contextlib
import dataclasses
import gc
import re
import subprocess
import sys
import threading
import urllib.request
import weakref
from collections import Counter
from datetime import timedelta
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.parser import text_string_to_metric_families

from pyncette import ConfigurationError, Context, FailureMode, Instance, Pyncette
from pyncette.errors import TransientRepositoryError
from pyncette.memory import MemoryRepository
from pyncette.prometheus import use_prometheus
from pyncette.prometheus.metrics import metrics_of
from pyncette.repository import Key
from pyncette.store.codec import unreadable
from pyncette.testing import VirtualClock, running

SECOND = timedelta(seconds=1)
ROOT = Path(__file__).parents[2]


class Store(MemoryRepository):
    """Counts its calls, and can be away."""

    shared = True

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.rows = Counter()
        self.away = False

    @contextlib.asynccontextmanager
    async def open(self):
        yield self

    def _called(self, operation, rows=0):
        self.calls[operation] += 1
        self.rows[operation] += rows
        if self.away:
            raise TransientRepositoryError("away")

    async def register(self, now, registrations, *, force=False):
        self._called("register", len(registrations))
        await super().register(now, registrations, force=force)

    async def unregister(self, now, keys):
        self._called("unregister", len(keys))
        return await super().unregister(now, keys)

    async def claim(self, now, partition, *, lease_duration, limit, names=None):
        self._called("claim")
        result = await super().claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
        self.rows["claim"] += len(result.claims)
        return result

    async def settle(self, now, settlements):
        self._called("settle", len(settlements))
        return await super().settle(now, settlements)

    async def get(self, keys):
        self._called("get", len(keys))
        return await super().get(keys)

    async def list(self, partition, *, limit, token=None):
        self._called("list")
        return await super().list(partition, limit=limit, token=token)

    async def stats(self, now, partition):
        self._called("stats")
        return await super().stats(now, partition)

    async def partitions(self):
        self._called("partitions")
        return await super().partitions()

    async def append(self, entries):
        self._called("append", len(entries))
        await super().append(entries)

    async def prune(self, now, *, limit):
        self._called("prune")
        return await super().prune(now, limit=limit)


class StoreWithClock(Store):
    """Its clock is half a minute behind."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    async def server_time(self):
        self._called("server_time")
        return self._clock.now() - 30 * SECOND


class Scraped(dict):
    """All samples of one scrape, by name and the values of their labels."""

    def total(self, name):
        return sum(value for (sample, *_), value in self.items() if sample == name)

    def of(self, name):
        return {tuple(labels): value for (sample, *labels), value in self.items() if sample == name}


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def make_app(clock, store):
    def make(**options):
        return Pyncette(**{"repository_factory": store.open, "clock": clock, **options})

    return make


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture(scope="session")
def servers():
    """HTTP servers, ended all at once: each takes half a second to notice."""
    started = []
    yield started
    ending = [threading.Thread(target=server.shutdown) for server, _ in started]
    for each in ending:
        each.start()
    for each in (*ending, *(thread for _, thread in started)):
        each.join()
    for server, _ in started:
        server.server_close()


@pytest.fixture
def serve(servers):
    """Serves a registry as a program would; what it returns scrapes that over HTTP."""

    def start(registry):
        server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
        servers.append((server, thread))

        def scrape():
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as response:
                text = response.read().decode()
            return Scraped(
                {
                    (sample.name, *(value for name, value in sorted(sample.labels.items()))): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                }
            )

        return scrape

    return start


@pytest.fixture
def scrape(serve, registry):
    return serve(registry)


def run_for(clock, app, seconds, during=None):
    async def main():
        async with running(app) as context:
            if during is not None:
                await during(context)
            await clock.advance(seconds * SECOND)

    clock.run(main())


# --- the counts add up ----------------------------------------------------------------------------------------------------


def test_runs_failures_and_calls_add_up(app, clock, store, registry, scrape):
    use_prometheus(app, registry=registry)
    ran, failed = Counter(), Counter()

    def declare(name, every):
        @app.task(name=name, interval=SECOND, failure_mode=FailureMode.COMMIT)
        async def task(context: Context) -> None:
            ran[name] += 1
            if ran[name] % every == 0:
                failed[name] += 1
                raise ValueError(name)

    declare("one", 2)
    declare("two", 5)

    @app.dynamic_task()
    async def greet(context):
        ran["greet"] += 1

    async def during(context):
        await context.schedule_tasks(greet, [Instance(name=f"user {number}", interval=2 * SECOND) for number in range(7)])
        await context.list_tasks(greet)
        await context.unschedule_task(greet, "user 6")

    run_for(clock, app, 60.5, during)
    scraped = scrape()

    assert scraped.of("pyncette_task_runs_total") == {(name,): count for name, count in ran.items()}
    assert ran == {"one": 60, "two": 60, "greet": 6 * 30}
    assert scraped.of("pyncette_task_run_failures_total") == {("one",): 30, ("two",): 12, ("greet",): 0}
    assert failed == {"one": 30, "two": 12}
    assert scraped.of("pyncette_task_runs_in_progress") == {("one",): 0, ("two",): 0, ("greet",): 0}
    for histogram in ("pyncette_task_run_duration_seconds", "pyncette_task_run_staleness_seconds"):
        assert scraped.of(f"{histogram}_count") == scraped.of("pyncette_task_runs_total")
    assert scraped.total("pyncette_task_run_retries_total") == 0
    assert scraped.total("pyncette_leases_lost_total") == 0

    assert scraped.of("pyncette_repository_calls_total") == {(operation,): count for operation, count in store.calls.items()}
    assert {
        "register",
        "unregister",
        "claim",
        "settle",
        "get",
        "list",
        "partitions",
        "stats",
        "append",
        "prune",
    } == store.calls.keys()
    assert scraped.of("pyncette_repository_call_duration_seconds_count") == scraped.of("pyncette_repository_calls_total")
    assert scraped.total("pyncette_repository_call_failures_total") == 0
    assert set(scraped.of("pyncette_repository_calls_in_progress").values()) == {0}
    batches = scraped.of("pyncette_repository_batch_rows_sum")
    assert batches == {
        (operation,): rows for operation, rows in store.rows.items() if operation not in ("list", "partitions", "stats", "prune")
    }
    # The layout of the template is decided by a claim and a commit, too.
    assert batches["claim",] == sum(ran.values()) + 1
    assert batches["settle",] == sum(ran.values()) + 1
    # A history is kept of static tasks.
    assert scraped["pyncette_history_entries_total",] == batches["append",] >= ran["one"] + ran["two"]

    assert scraped["pyncette_ticks_total",] >= 60
    assert scraped["pyncette_tick_duration_seconds_count",] == scraped["pyncette_ticks_total",]
    assert scraped["pyncette_tick_failures_total",] == 0
    assert scraped["pyncette_ticks_in_progress",] == 0


def test_failures_of_the_store_are_failures_of_calls_and_ticks(app, clock, store, registry, scrape):
    use_prometheus(app, registry=registry, refresh_interval=None)

    @app.task(interval=SECOND)
    async def task(context): ...

    async def during(context):
        await clock.advance(5 * SECOND)
        calls = store.calls["claim"]
        store.away = True
        await clock.advance(10 * SECOND)
        store.away = False
        during.failed = store.calls["claim"] - calls

    run_for(clock, app, 10, during)
    scraped = scrape()
    assert during.failed > 0
    assert scraped["pyncette_repository_call_failures_total", "claim"] == during.failed
    assert scraped["pyncette_tick_failures_total",] == during.failed
    assert scraped["pyncette_repository_calls_total", "claim"] == store.calls["claim"]


def test_what_is_in_progress_is_counted_meanwhile(make_app, clock, registry, scrape):
    app = make_app(concurrency_limit=10)
    use_prometheus(app, registry=registry)

    @app.dynamic_task(lease_duration=100 * SECOND)
    async def long(context):
        await clock.advance(60 * SECOND)

    async def main():
        async with running(app) as context:
            await context.schedule_tasks(long, [Instance(name=str(number), interval=SECOND) for number in range(4)])
            before = scrape()
            await clock.advance(30 * SECOND)
            return before, scrape()

    before, meanwhile = clock.run(main())
    after = scrape()
    assert before["pyncette_task_runs_in_progress", "long"] == 0
    assert before["pyncette_free_slots",] == 10
    assert meanwhile["pyncette_task_runs_in_progress", "long"] == 4
    assert meanwhile["pyncette_task_runs_total", "long"] == 0
    assert meanwhile["pyncette_free_slots",] == 6
    assert after["pyncette_task_runs_in_progress", "long"] == 0
    assert after["pyncette_task_runs_total", "long"] == 4
    assert ("pyncette_free_slots",) not in after  # nothing runs that could have any


def test_a_rate_has_a_first_value_before_the_first_event(app, clock, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.task(schedule="0 0 1 1 *")
    async def task(context): ...

    async def main():
        async with app.create():
            return scrape()

    scraped = clock.run(main())
    for name in ("task_runs_total", "task_run_failures_total", "task_run_retries_total", "leases_lost_total"):
        assert scraped[f"pyncette_{name}", "task"] == 0
    assert scraped["pyncette_task_run_staleness_seconds_count", "task"] == 0


# --- what a run is measured by --------------------------------------------------------------------------------------------


def test_staleness_is_how_far_a_start_is_behind_its_time(make_app, clock, registry, scrape):
    app = make_app(concurrency_limit=1)
    use_prometheus(app, registry=registry)

    @app.task(schedule="0 * * * *", lease_duration=200 * SECOND)
    async def a_first(context):
        await clock.advance(90 * SECOND)

    @app.task(schedule="0 * * * *", lease_duration=200 * SECOND)
    async def b_second(context): ...

    run_for(clock, app, 3600 + 200)
    scraped = scrape()
    sums = scraped.of("pyncette_task_run_staleness_seconds_sum")
    assert sorted(sums) == [("a_first",), ("b_second",)]
    assert sums["a_first",] == pytest.approx(0, abs=0.01)
    assert sums["b_second",] == pytest.approx(90, abs=0.1)
    buckets = {
        bound: value
        for (task, bound), value in (
            ((labels[1], labels[0]), value) for labels, value in scraped.of("pyncette_task_run_staleness_seconds_bucket").items()
        )
        if task == "b_second"
    }
    assert (buckets["60.0"], buckets["120.0"]) == (0, 1)
    assert {"0.005", "0.02", "600.0", "+Inf"} <= buckets.keys()


def test_retries_are_runs_after_the_first_attempt(app, clock, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.task(schedule="0 * * * *", failure_mode=FailureMode.UNLOCK, max_attempts=4)
    async def task(context):
        raise ValueError

    run_for(clock, app, 3700)
    scraped = scrape()
    assert scraped["pyncette_task_runs_total", "task"] == 4
    assert scraped["pyncette_task_run_failures_total", "task"] == 4
    assert scraped["pyncette_task_run_retries_total", "task"] == 3


def test_lost_leases_are_counted(app, clock, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.task(interval=1800 * SECOND)
    async def start(context):
        await context.app_context.schedule_task(taken_away, "one", execute_at=clock.now(), first=True)

    @app.dynamic_task()
    async def taken_away(context):
        if context.args["first"]:
            await context.app_context.schedule_task(taken_away, "one", execute_at=clock.now(), first=False, force=True)

    run_for(clock, app, 3700)
    assert scrape()["pyncette_leases_lost_total", "taken_away"] == 2


def test_a_run_that_the_shutdown_cuts_off_is_no_failure_but_one_that_is_cancelled_otherwise_is(make_app, clock, registry, scrape):
    app = make_app(shutdown_timeout=SECOND)
    use_prometheus(app, registry=registry)

    @app.dynamic_task(failure_mode=FailureMode.COMMIT)
    async def cut_off(context):
        await clock.advance(1000 * SECOND)

    @app.dynamic_task(failure_mode=FailureMode.COMMIT)
    async def cancelled(context):
        raise asyncio.CancelledError

    async def during(context):
        for template in (cut_off, cancelled):
            await context.schedule_task(template, "a", execute_at=clock.now())

    run_for(clock, app, 5, during)
    scraped = scrape()
    assert scraped.of("pyncette_task_runs_total") == {("cut_off",): 1, ("cancelled",): 1}
    assert scraped.of("pyncette_task_run_failures_total") == {("cut_off",): 0, ("cancelled",): 1}


@pytest.mark.parametrize("broken", ["observe", "inc"])
def test_metrics_that_can_not_be_written_stop_nothing(app, clock, registry, monkeypatch, caplog, broken):
    use_prometheus(app, registry=registry)
    ran = []

    @app.task(interval=SECOND)
    async def task(context):
        ran.append(context.attempt)

    def full(*args):
        raise OSError("No space left on device")

    for kind in (prometheus_client.Histogram, prometheus_client.Counter, prometheus_client.Gauge):
        if hasattr(kind, broken):
            monkeypatch.setattr(kind, broken, full)
    run_for(clock, app, 10.5)
    assert ran == [1] * 10
    assert sum(record.name == "pyncette.prometheus.hooks" for record in caplog.records) == 1


def test_rows_that_can_not_be_read_are_counted_each_time_that_they_are_met(app, clock, store, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.dynamic_task()
    async def template(context): ...

    claim = store.claim

    async def damaged(*args, **options):
        result = await claim(*args, **options)
        return dataclasses.replace(result, unreadable=[unreadable(Key("dynamic:template", "a"), "junk")] * 3)

    store.claim = damaged
    run_for(clock, app, 10)
    assert scrape()["pyncette_unreadable_rows_total",] == 3 * store.calls["claim"] > 0


def test_instances_are_no_labels(app, clock, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.dynamic_task()
    async def template(context): ...

    async def during(context):
        await context.schedule_tasks(template, [Instance(name=f"user-{number}", interval=SECOND) for number in range(50)])

    run_for(clock, app, 5, during)
    labels = {label for _, *labels in scrape() for label in labels}
    assert "template" in labels
    assert not any(label.startswith("user-") for label in labels)


# --- what the store has ---------------------------------------------------------------------------------------------------


def test_what_waits_is_counted_in_the_store_for_each_template(make_app, clock, registry, scrape):
    app = make_app(concurrency_limit=1)
    use_prometheus(app, registry=registry, refresh_interval=10 * SECOND)

    @app.task(schedule="0 0 1 1 *")
    async def static(context): ...

    @app.task(schedule="0 0 1 1 *", enabled=False)
    async def disabled(context): ...

    @app.dynamic_task(lease_duration=1000 * SECOND)
    async def busy(context):
        await clock.advance(500 * SECOND)

    @app.partitioned_task(partition_count=4, enabled_partitions=[0])
    async def spread(context): ...

    @app.dynamic_task(enabled=False)
    async def elsewhere(context): ...

    @app.dynamic_task(max_attempts=1)
    async def doomed(context):
        raise ValueError

    async def main():
        async with running(app) as context:
            await context.schedule_task(doomed, "a", execute_at=clock.now())
            await clock.advance(5 * SECOND)
            await context.schedule_tasks(busy, [Instance(name=str(number), execute_at=clock.now()) for number in range(3)])
            await context.schedule_tasks(spread, [Instance(name=str(number), interval=10 * SECOND) for number in range(20)])
            await context.schedule_tasks(elsewhere, [Instance(name=str(number), interval=30 * SECOND) for number in range(5)])
            await clock.advance(60 * SECOND)
            first = scrape()
            await clock.advance(60 * SECOND)
            return first, scrape()

    first, second = clock.run(main())
    assert first.of("pyncette_tasks_stored") == {("static",): 1, ("busy",): 3, ("spread",): 20, ("elsewhere",): 5, ("doomed",): 1}
    assert first.of("pyncette_tasks_due") == {("static",): 0, ("busy",): 2, ("spread",): 20, ("elsewhere",): 5, ("doomed",): 0}
    assert first.of("pyncette_tasks_given_up") == {("static",): 0, ("busy",): 0, ("spread",): 0, ("elsewhere",): 0, ("doomed",): 1}
    ages = first.of("pyncette_oldest_due_age_seconds")
    assert (ages["static",], ages["doomed",]) == (0, 0)
    assert 50 <= ages["busy",] <= 60
    assert 40 <= ages["spread",] <= 50
    assert 20 <= ages["elsewhere",] <= 30
    later = second.of("pyncette_oldest_due_age_seconds")
    assert later["busy",] - ages["busy",] == pytest.approx(60, abs=0.1)


def test_a_static_task_that_is_overdue_is_due(make_app, clock, registry, scrape):
    app = make_app(concurrency_limit=1)
    use_prometheus(app, registry=registry)

    @app.task(interval=100 * SECOND, lease_duration=10_000 * SECOND)
    async def a_long(context):
        await clock.advance(1000 * SECOND)

    @app.task(interval=100 * SECOND)
    async def b_late(context): ...

    async def main():
        async with running(app):
            await clock.advance(300 * SECOND)
            return scrape()

    scraped = clock.run(main())
    assert scraped.of("pyncette_tasks_due") == {("a_long",): 0, ("b_late",): 1}
    assert 180 <= scraped["pyncette_oldest_due_age_seconds", "b_late"] <= 200


def test_a_store_that_can_not_count_has_no_such_metrics(app, clock, store, registry, scrape, monkeypatch):
    monkeypatch.delattr(Store, "stats")
    monkeypatch.delattr(MemoryRepository, "stats")
    use_prometheus(app, registry=registry)

    @app.dynamic_task()
    async def template(context): ...

    @app.task(interval=SECOND)
    async def static(context): ...

    async def main():
        async with running(app):
            await clock.advance(60 * SECOND)
            return scrape()

    assert clock.run(main()).of("pyncette_tasks_due").keys() == {("static",)}


def test_while_the_store_is_away_what_waits_is_unknown(app, clock, store, registry, scrape):
    use_prometheus(app, registry=registry)

    @app.dynamic_task()
    async def template(context): ...

    async def main():
        async with running(app):
            await clock.advance(60 * SECOND)
            scraped = [scrape()]
            for away in (True, False):
                store.away = away
                await clock.advance(60 * SECOND)
                scraped.append(scrape())
            return scraped

    known = [("pyncette_tasks_due", "template") in scraped for scraped in clock.run(main())]
    assert known == [True, False, True]


def test_counting_takes_a_small_part_of_the_time_however_slow_it_is(app, clock, store, registry):
    use_prometheus(app, registry=registry, refresh_interval=10 * SECOND)
    stats = store.stats

    async def slow(now, partition):
        await clock.advance(30 * SECOND)
        return await stats(now, partition)

    store.stats = slow

    @app.dynamic_task()
    async def template(context): ...

    run_for(clock, app, 3600)
    assert store.calls["stats"] == 6  # thirty seconds in each ten and a half minutes


def test_the_skew_of_the_clock_is_told_with_its_sign(clock, registry, scrape):
    store = StoreWithClock(clock)
    app = Pyncette(repository_factory=store.open, clock=clock)
    use_prometheus(app, registry=registry)

    async def main():
        async with app.create():
            return scrape()

    assert clock.run(main())["pyncette_clock_skew_seconds",] == 30


# --- several registries, several applications -----------------------------------------------------------------------------


def declare_one(app):
    @app.task(interval=SECOND)
    async def task(context): ...


def test_applications_of_one_registry_add_up(make_app, clock, registry, scrape):
    first, second = make_app(concurrency_limit=3), make_app(concurrency_limit=4)
    second.use_repository()
    for app in (first, second):
        use_prometheus(app, registry=registry)
        declare_one(app)

    async def main():
        async with running(first), running(second):
            await clock.advance(10.5 * SECOND)
            return scrape()

    scraped = clock.run(main())
    assert scraped["pyncette_task_runs_total", "task"] == 20
    assert scraped["pyncette_free_slots",] == 7
    assert scraped["pyncette_tasks_stored", "task"] == 1  # of the same name: most likely in one store


def test_each_registry_has_its_own(make_app, clock, serve):
    registries = [CollectorRegistry(), CollectorRegistry()]
    scrapes = [serve(registry) for registry in registries]
    for registry, seconds in zip(registries, (10.5, 5.5), strict=True):
        app = make_app()
        app.use_repository()
        use_prometheus(app, registry=registry)
        declare_one(app)
        run_for(clock, app, seconds)
    assert [scrape()["pyncette_task_runs_total", "task"] for scrape in scrapes] == [10, 5]


def test_one_application_can_be_measured_in_two_registries(app, clock, serve):
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry in registries:
        use_prometheus(app, registry=registry)
    declare_one(app)
    run_for(clock, app, 10.5)
    assert [serve(registry)()["pyncette_task_runs_total", "task"] for registry in registries] == [10, 10]


def test_measuring_twice_in_one_registry_is_refused(app, registry):
    use_prometheus(app, registry=registry)
    with pytest.raises(ConfigurationError, match="registry already measures"):
        use_prometheus(app, registry=registry)


def test_the_default_registry_is_that_of_prometheus_client(app, clock, serve):
    use_prometheus(app)
    declare_one(app)
    scrape = serve(prometheus_client.REGISTRY)
    before = scrape().get(("pyncette_task_runs_total", "task"), 0)
    run_for(clock, app, 10.5)
    assert scrape()["pyncette_task_runs_total", "task"] - before == 10


def test_an_application_can_run_again(app, clock, registry, scrape):
    use_prometheus(app, registry=registry)
    declare_one(app)
    for _ in range(2):
        run_for(clock, app, 10.5)
    assert scrape()["pyncette_task_runs_total", "task"] == pytest.approx(21, abs=1)
    assert len(metrics_of(registry).state._sources) == 0


def test_a_registry_that_is_dropped_is_not_kept(make_app):
    registry = CollectorRegistry()
    use_prometheus(make_app(), registry=registry)
    dropped = weakref.ref(registry)
    del registry
    gc.collect()
    assert dropped() is None


WORKER = """
import asyncio
from datetime import timedelta

from pyncette import Pyncette
from pyncette.prometheus import use_prometheus
from pyncette.repository import Key
from pyncette.store.codec import unreadable
from pyncette.testing import VirtualClock, running

clock = VirtualClock()
app = Pyncette(clock=clock)
use_prometheus(app)

@app.task(interval=timedelta(seconds=1))
async def task(context): ...

async def main():
    async with running(app):
        await clock.advance(timedelta(seconds=10.5))

clock.run(main())
"""


def test_counts_of_several_processes_add_up_in_multiprocess_mode_and_nothing_else_is_told(tmp_path, monkeypatch, serve):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WORKER], check=True, timeout=60)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    scraped = serve(registry)()
    assert scraped["pyncette_task_runs_total", "task"] == 20
    assert not {"pyncette_free_slots", "pyncette_clock_skew_seconds", "pyncette_tasks_due"} & {name for name, *_ in scraped}


# --- options --------------------------------------------------------------------------------------------------------------

GROUPS = {
    "measure_ticks": {"pyncette_ticks_total", "pyncette_tick_duration_seconds_count", "pyncette_free_slots"},
    "measure_tasks": {
        "pyncette_task_runs_total",
        "pyncette_task_run_staleness_seconds_count",
        "pyncette_tasks_due",
        "pyncette_leases_lost_total",
    },
    "measure_repository": {
        "pyncette_repository_calls_total",
        "pyncette_repository_batch_rows_count",
        "pyncette_clock_skew_seconds",
    },
}


@pytest.mark.parametrize("off", GROUPS)
def test_what_is_not_to_be_measured_is_not_there(make_app, clock, registry, scrape, off):
    app = make_app()
    use_prometheus(app, registry=registry, **{off: False})
    declare_one(app)

    async def main():
        async with running(app):
            await clock.advance(30 * SECOND)
            return scrape()

    names = {name for name, *_ in clock.run(main())}
    for option, group in GROUPS.items():
        assert group & names == (set() if option == off else group)


def test_nothing_is_counted_in_the_store_if_that_is_turned_off(app, clock, store, registry):
    use_prometheus(app, registry=registry, refresh_interval=None)

    @app.dynamic_task()
    async def template(context): ...

    run_for(clock, app, 100)
    assert "stats" not in store.calls


@pytest.mark.parametrize("interval", [timedelta(), 15, -SECOND])
def test_a_refresh_interval_that_is_none_is_refused(app, registry, interval):
    with pytest.raises(ConfigurationError, match="refresh_interval"):
        use_prometheus(app, registry=registry, refresh_interval=interval)


# --- the conventions of Prometheus ----------------------------------------------------------------------------------------


def test_names_follow_the_conventions_and_are_all_in_the_readme(app, clock, registry):
    use_prometheus(app, registry=registry)
    declare_one(app)
    families = []

    async def main():
        async with running(app):
            await clock.advance(30 * SECOND)
            families.extend(registry.collect())

    clock.run(main())
    readme = (ROOT / "pyncette-prometheus" / "README.md").read_text()
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"| `{name}` |" in readme
        assert family.documentation.endswith(".")
        assert (family.type == "histogram") == name.endswith(("_duration_seconds", "_staleness_seconds", "_batch_rows"))
    assert len(families) == readme.count("| `pyncette_")


def test_the_queries_of_the_documentation_are_about_metrics_that_exist():
    metrics = set(re.findall(r"^\| `(pyncette_\w+)` \|", (ROOT / "pyncette-prometheus" / "README.md").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bpyncette_[a-z_]+", (ROOT / "docs" / "observability.md").read_text()))
    assert len(used) > 10
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= metrics


# --- who runs -------------------------------------------------------------------------------------------------------------


def test_workers_and_what_they_poll_are_counted(make_app, clock, registry, scrape):
    watching, elsewhere = make_app(), make_app()
    use_prometheus(watching, registry=registry)
    for app, names in ((watching, ["static", "alone"]), (elsewhere, ["static"])):
        for name in names:
            app.task(interval=SECOND, name=name)(nothing)
        app.partitioned_task(name="spread", partition_count=2, enabled_partitions=[0])(nothing)

    async def main():
        async with running(watching):
            async with running(elsewhere):
                await clock.advance(40 * SECOND)
                counts = scrape()
                assert counts["pyncette_workers",] == 2
                assert counts.of("pyncette_task_workers") == {("static",): 2, ("alone",): 1, ("spread",): 0}
                assert counts["pyncette_event_loop_lag_seconds",] == 0
            await clock.advance(40 * SECOND)
            assert scrape()["pyncette_workers",] == 1

    clock.run(main())


def test_the_age_of_the_last_success_grows_while_a_task_fails(make_app, clock, registry, scrape):
    app, fails = make_app(), False
    use_prometheus(app, registry=registry)

    @app.task(interval=10 * SECOND, name="task", failure_mode=FailureMode.COMMIT)
    async def task(context):
        if fails:
            raise ValueError

    async def main():
        nonlocal fails
        async with running(app):
            await clock.advance(5 * SECOND)
            assert scrape().of("pyncette_last_success_age_seconds") == {}
            await clock.advance(30 * SECOND)
            assert scrape()["pyncette_last_success_age_seconds", "task"] <= 15
            fails, before = True, clock.now()
            await clock.advance(60 * SECOND)
            counts = scrape()
            assert counts["pyncette_task_failures_in_a_row", "task"] in (5, 6)
            assert counts["pyncette_last_success_age_seconds", "task"] >= 60
            fails = False
            await clock.advance(30 * SECOND)
            counts = scrape()
            assert counts["pyncette_task_failures_in_a_row", "task"] == 0
            assert counts["pyncette_last_success_age_seconds", "task"] <= 20
            assert clock.now() > before

    clock.run(main())


async def nothing(context): ...
