"""Metrics of an application's state, read when the metrics are scraped, or at intervals in the background."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pyncette import PyncetteContext, ScheduledTask, Worker
from pyncette.repository import State, SupportsStats
from pyncette.task import PartitionedTask, StaticTask, Template

__all__ = ["Seen", "Source", "StateCollector", "Waiting"]

logger: logging.Logger = logging.getLogger(__name__)

#: How long after the start the store is first read (seconds): by then the static tasks are registered.
_FIRST_LOOK = 1.0
#: Counting takes at most this share of the time, however large the store is.
_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Waiting:
    """The stored state of one task, or of all instances of a template."""

    stored: int
    due: int
    #: How long the one that has waited longest has been due (seconds); 0 if none is.
    oldest_due_age: float
    given_up: int
    #: How many workers poll it; for a partitioned task, those of the partition with the fewest.
    workers: int
    #: When a static task last succeeded; None if that is not known.
    last_success: datetime | None = None
    #: How many consecutive attempts did not succeed.
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """The stored state of the whole application."""

    tasks: Mapping[str, Waiting]
    #: The number of live workers.
    workers: int
    #: The longest wait for the event loop of this process within a minute (seconds); None if it does not run.
    loop_lag: float | None


class Source:
    """One running application."""

    def __init__(self, app_context: PyncetteContext, *, slots: bool, skew: bool) -> None:
        self.app_context = app_context
        self.slots = slots
        self.skew = skew
        #: The last state that was read; replaced as a whole, because other threads answer scrapes. None: unknown.
        self.seen: Seen | None = None

    async def keep_looking(self, interval: timedelta) -> None:
        """Refresh :attr:`seen` forever."""
        pause = min(_FIRST_LOOK, interval.total_seconds())
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            try:
                self.seen = await _look(self.app_context)
            except Exception as error:
                self.seen = None  # better none than outdated ones
                logger.debug("What is due could not be counted: %s", error)
            pause = max(interval.total_seconds(), (loop.time() - began) / _SHARE)


async def _look(app_context: PyncetteContext) -> Seen:
    found: dict[str, Waiting] = {}
    workers = await app_context.list_workers()
    repository = app_context.repository
    tasks = [task for task in app_context.tasks if isinstance(task, StaticTask) and task.enabled]
    rows = await repository.get([task.key for task in tasks]) if tasks else []
    now = app_context.clock.now()
    for task, row in zip(tasks, rows, strict=True):
        if row is not None:
            due = row.ready_at is not None and row.ready_at <= now
            stored = ScheduledTask(task, row)
            found[task.name] = Waiting(
                stored=1,
                due=int(due),
                oldest_due_age=_age(now, row.ready_at if due else None),
                given_up=int(row.state is State.FAILED),
                workers=sum(worker.can_run(task.name) for worker in workers),
                last_success=stored.last_success,
                failures=stored.failures,
            )
    # including tasks disabled here: this may be a web application whose tasks run elsewhere
    for template in app_context.tasks:
        if isinstance(template, Template) and isinstance(repository, SupportsStats):
            found[template.name] = await _count(repository, template, app_context, workers)
    lag = next((worker.loop_lag.total_seconds() for worker in workers if worker.id == app_context.worker_id), None)
    return Seen(found, sum(worker.alive for worker in workers), lag)


async def _count(repository: SupportsStats, template: Template, app_context: PyncetteContext, workers: Sequence[Worker]) -> Waiting:
    stored = due = given_up = 0
    age = 0.0
    for partition in template.all_partitions():
        now = app_context.clock.now()
        stats = await repository.stats(now, partition)
        stored, due, given_up = stored + stats.rows, due + stats.due, given_up + stats.failed
        age = max(age, _age(now, stats.oldest_due))
    numbers = range(template.partition_count) if isinstance(template, PartitionedTask) else [None]
    polling = min(sum(worker.can_run(template.name, number) for worker in workers) for number in numbers)
    return Waiting(stored, due, age, given_up, polling)


def _age(now: datetime, since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


class StateCollector(Collector):
    """The state of all applications in one registry."""

    def __init__(self) -> None:
        # replaced as a whole, for the same reason
        self._sources: tuple[Source, ...] = ()

    def add(self, source: Source) -> None:
        self._sources = (*self._sources, source)

    def remove(self, source: Source) -> None:
        self._sources = tuple(each for each in self._sources if each is not source)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families(())

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families(self._sources)

    def _families(self, sources: Iterable[Source]) -> Iterable[GaugeMetricFamily]:
        slots = GaugeMetricFamily("pyncette_free_slots", "How many more bodies could run at this moment.")
        if free := [source.app_context.free_slots for source in sources if source.slots]:
            slots.add_metric([], sum(free))
        yield slots
        skew = GaugeMetricFamily("pyncette_clock_skew_seconds", "How far the local clock is ahead of the store's.")
        if skews := [source.app_context.clock.skew.total_seconds() for source in sources if source.skew]:
            skew.add_metric([], max(skews, key=abs))
        yield skew
        # The larger number of two applications counts, because they probably share a store.
        seen = [(source, source.seen) for source in sources if source.seen is not None]
        workers = GaugeMetricFamily("pyncette_workers", "Live workers.")
        lag = GaugeMetricFamily("pyncette_event_loop_lag_seconds", "The longest wait for the event loop within the last minute.")
        if seen:
            workers.add_metric([], max(each.workers for _, each in seen))
        if lags := [each.loop_lag for _, each in seen if each.loop_lag is not None]:
            lag.add_metric([], max(lags))
        yield workers
        yield lag
        age = GaugeMetricFamily("pyncette_last_success_age_seconds", "How long ago a static task last succeeded.", labels=["task"])
        ages: dict[str, float] = {}
        for source, each in seen:
            for task, waiting in each.tasks.items():
                if waiting.last_success is not None:
                    passed = _age(source.app_context.clock.now(), waiting.last_success)
                    ages[task] = min(passed, ages.get(task, passed))
        for task, passed in ages.items():
            age.add_metric([task], passed)
        yield age
        for name, documentation, value in _WAITING:
            most: dict[str, float] = {}
            for task, counts in (item for _, each in seen for item in each.tasks.items()):
                most[task] = max(most.get(task, 0.0), value(counts))
            family = GaugeMetricFamily(name, documentation, labels=["task"])
            for task, number in most.items():
                family.add_metric([task], number)
            yield family


_WAITING: tuple[tuple[str, str, Callable[[Waiting], float]], ...] = (
    ("pyncette_tasks_stored", "Tasks and instances in the store.", lambda counts: counts.stored),
    ("pyncette_tasks_due", "Tasks and instances that are due and not running.", lambda counts: counts.due),
    (
        "pyncette_oldest_due_age_seconds",
        "How long the task or instance that has waited longest has been due.",
        lambda counts: counts.oldest_due_age,
    ),
    (
        "pyncette_task_failures_in_a_row",
        "Consecutive attempts of a static task that did not succeed.",
        lambda counts: counts.failures,
    ),
    (
        "pyncette_task_workers",
        "Live workers that poll the task; the minimum over its partitions.",
        lambda counts: counts.workers,
    ),
    ("pyncette_tasks_given_up", "Tasks and instances that were given up after their last attempt.", lambda counts: counts.given_up),
)
