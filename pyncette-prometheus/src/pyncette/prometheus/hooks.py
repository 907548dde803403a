"""Feeds the metrics from the hooks of an application."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from pyncette import ConfigurationError, Context, Instrumentation, Middleware, Pyncette, PyncetteContext, Task
from pyncette.prometheus.metrics import Metrics, TaskMetrics, metrics_of
from pyncette.prometheus.operation import Measurement
from pyncette.prometheus.state import Source
from pyncette.task import check_duration

__all__ = ["use_prometheus"]

logger: logging.Logger = logging.getLogger(__name__)

#: The operations whose size is the number of their rows. A claim reports separately how many it returned.
_BATCHED = frozenset({"register", "unregister", "settle", "get", "pause", "resume", "append"})

_numbers = itertools.count(1)


def use_prometheus(
    app: Pyncette,
    *,
    measure_repository: bool = True,
    measure_ticks: bool = True,
    measure_tasks: bool = True,
    registry: CollectorRegistry | None = None,
    refresh_interval: timedelta | None = timedelta(seconds=15),
) -> None:
    """Measure ``app`` while it runs. The program itself serves the metrics.

    :param measure_repository: calls to the store, batch sizes, clock skew.
    :param measure_ticks: passes over everything that is due, free slots.
    :param measure_tasks: runs, their staleness, retries, lost leases, and what is waiting in the store.
    :param registry: where the metrics are registered; prometheus_client's default registry by default. Applications with the same
        registry share its metrics, and their numbers add up.
    :param refresh_interval: the shortest time between two counts of what is waiting in the store; None: never count.

    Runs are measured by a middleware: those declared earlier are outside it. Raises ConfigurationError if that registry already
    measures the application.
    """
    if refresh_interval is not None:
        check_duration(refresh_interval, "refresh_interval")
    metrics = metrics_of(REGISTRY if registry is None else registry)
    if app in metrics.apps:
        raise ConfigurationError(
            "This registry already measures this application; call use_prometheus() once, or pass another registry"
        )
    metrics.apps.add(app)
    app.use_instrumentation(_Hooks(metrics, ticks=measure_ticks, calls=measure_repository, tasks=measure_tasks))
    if measure_tasks:
        app.use_middleware(_middleware(metrics.tasks))

    async def prometheus(app_context: PyncetteContext) -> AsyncIterator[None]:
        source = Source(app_context, slots=measure_ticks, skew=measure_repository)
        if measure_tasks:
            for task in app_context.tasks:
                metrics.tasks.declare(task.name)
        metrics.state.add(source)
        try:
            async with _in_background(source.keep_looking, refresh_interval if measure_tasks else None):
                yield
        finally:
            metrics.state.remove(source)

    app.use_fixture(f"prometheus_{next(_numbers)}", prometheus)


class _Hooks(Instrumentation):
    def __init__(self, metrics: Metrics, *, ticks: bool, calls: bool, tasks: bool) -> None:
        self._tick = metrics.ticks.of() if ticks else None
        self._calls = metrics.calls if calls else None
        self._batches: Histogram | None = metrics.batches if calls else None
        self._claimed = metrics.batches.labels("claim") if calls else None
        self._unreadable = metrics.unreadable if calls else None
        self._hints = (metrics.hints_sent, metrics.hints_received) if calls else None
        self._history = metrics.history if calls else None
        self._tasks = metrics.tasks if tasks else None

    def tick(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._tick is None else Measurement(self._tick)

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        if self._calls is None or self._batches is None:
            return contextlib.nullcontext()
        if operation in _BATCHED:
            self._batches.labels(operation).observe(size)
        measurement = Measurement(self._calls.of(operation))
        if operation == "append" and self._history is not None:
            return _Written(measurement, self._history, size)
        return measurement

    def claimed(self, count: int) -> None:
        if self._claimed is not None:
            self._claimed.observe(count)

    def unreadable(self, count: int) -> None:
        if self._unreadable is not None:
            self._unreadable.inc(count)

    def hints_sent(self, count: int) -> None:
        if self._hints is not None:
            self._hints[0].inc(count)

    def hints_received(self, count: int) -> None:
        if self._hints is not None:
            self._hints[1].inc(count)

    def lease_lost(self, task: Task) -> None:
        if self._tasks is not None:
            self._tasks.leases_lost.labels(task.name).inc()


class _Written:
    """A call that writes entries to the history, which count if it succeeds."""

    def __init__(self, measurement: Measurement, written: Counter, count: int) -> None:
        self._measurement = measurement
        self._written = written
        self._count = count

    def __enter__(self) -> None:
        self._measurement.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._measurement.__exit__(kind, error, traceback)
        if error is None:
            self._written.inc(self._count)


def _middleware(metrics: TaskMetrics) -> Middleware:
    logged = False

    @contextlib.contextmanager
    def harmless() -> Iterator[None]:
        # In multiprocess mode, a full disk must not make each run fail; core guards the hooks.
        nonlocal logged
        try:
            yield
        except Exception:
            if not logged:
                logged = True
                logger.exception("Runs can't be measured; this stops nothing, and is logged only once")

    async def measured(context: Context, next: Callable[[], Awaitable[None]]) -> None:
        task = context.task.template.name
        run = began = None
        with harmless():
            late = context.app_context.clock.now() - context.scheduled_at
            metrics.staleness.labels(task).observe(max(0.0, late.total_seconds()))
            if context.attempt > 1:
                metrics.retries.labels(task).inc()
            run = metrics.runs.of(task)
            began = run.begin()
        failed = True
        try:
            await next()
            failed = False
        except asyncio.CancelledError:
            failed = not context.app_context.stopping  # a run that the shutdown cuts off is released
            raise
        finally:
            if run is not None and began is not None:
                with harmless():
                    run.end(began, failed=failed)

    return measured


@contextlib.asynccontextmanager
async def _in_background(look: Callable[[timedelta], Awaitable[None]], interval: timedelta | None) -> AsyncIterator[None]:
    if interval is None:
        yield
        return
    looking = asyncio.ensure_future(look(interval))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait([looking])
