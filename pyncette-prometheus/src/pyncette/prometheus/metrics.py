"""The metrics of each registry."""

import weakref
from functools import cached_property

from prometheus_client import CollectorRegistry, Counter, Histogram

from pyncette import Pyncette
from pyncette.prometheus.operation import Operation
from pyncette.prometheus.state import StateCollector

__all__ = ["Metrics", "TaskMetrics", "metrics_of"]

#: Buckets in seconds, for calls to the store and passes.
_CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: Buckets in seconds, for bodies, which may take hours.
_RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
_STALENESS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
#: Buckets in rows; 0 for a claim that returned none.
_BATCH_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class TaskMetrics:
    """The metrics of runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs: Operation = Operation(registry, "task_run", "Runs of tasks", label="task", buckets=_RUN_BUCKETS)
        self.staleness: Histogram = Histogram(
            "pyncette_task_run_staleness_seconds",
            "How late runs start, compared with their scheduled times.",
            ["task"],
            registry=registry,
            buckets=_STALENESS_BUCKETS,
        )
        self.retries: Counter = Counter(
            "pyncette_task_run_retries", "Runs that are not the first attempt.", ["task"], registry=registry
        )
        self.leases_lost: Counter = Counter("pyncette_leases_lost", "Runs that lost their lease.", ["task"], registry=registry)

    def declare(self, task: str) -> None:
        """Create all metrics of ``task``, at zero, because a rate needs a value before the first event."""
        self.runs.of(task)
        for metric in (self.staleness, self.retries, self.leases_lost):
            metric.labels(task)


class Metrics:
    """All metrics of one registry. Each group is registered when it is first used."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # weak, so that the registry lives only as long as its owner needs it
        self._registry = weakref.proxy(registry)
        #: The applications measured in this registry.
        self.apps: weakref.WeakSet[Pyncette] = weakref.WeakSet()

    @cached_property
    def ticks(self) -> Operation:
        return Operation(self._registry, "tick", "Passes over everything that is due", buckets=_CALL_BUCKETS)

    @cached_property
    def calls(self) -> Operation:
        return Operation(self._registry, "repository_call", "Calls to the store", label="operation", buckets=_CALL_BUCKETS)

    @cached_property
    def batches(self) -> Histogram:
        return Histogram(
            "pyncette_repository_batch_rows",
            "How many rows each call to the store concerned; for claims, how many it returned.",
            ["operation"],
            registry=self._registry,
            buckets=_BATCH_BUCKETS,
        )

    @cached_property
    def unreadable(self) -> Counter:
        return Counter(
            "pyncette_unreadable_rows", "Due rows that claims skipped because they are not valid.", registry=self._registry
        )

    @cached_property
    def hints_sent(self) -> Counter:
        return Counter(
            "pyncette_hints_sent",
            "Hints sent to other processes that something is ready before their next poll.",
            registry=self._registry,
        )

    @cached_property
    def hints_received(self) -> Counter:
        return Counter("pyncette_hints_received", "Hints received from other processes.", registry=self._registry)

    @cached_property
    def history(self) -> Counter:
        return Counter("pyncette_history_entries", "Entries written to the history.", registry=self._registry)

    @cached_property
    def tasks(self) -> TaskMetrics:
        return TaskMetrics(self._registry)

    @cached_property
    def state(self) -> StateCollector:
        collector = StateCollector()
        self._registry.register(collector)
        return collector


_METRICS: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()


def metrics_of(registry: CollectorRegistry) -> Metrics:
    """The metrics of ``registry``: the same for all applications."""
    metrics = _METRICS.get(registry)
    if metrics is None:
        metrics = _METRICS[registry] = Metrics(registry)
    return metrics
