"""Four metrics of a repeated operation: how often, how often it failed, how many in progress, and how long it takes."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Measured", "Measurement", "Operation"]


class Operation:
    """The metrics of one operation, with at most one label."""

    def __init__(
        self, registry: CollectorRegistry, name: str, what: str, *, label: str | None = None, buckets: Sequence[float]
    ) -> None:
        labels = [] if label is None else [label]
        self._total = Counter(f"pyncette_{name}s", f"{what} that ended, successfully or not.", labels, registry=registry)
        self._failures = Counter(f"pyncette_{name}_failures", f"{what} that failed.", labels, registry=registry)
        self._in_progress = Gauge(
            f"pyncette_{name}s_in_progress", f"{what} in progress.", labels, registry=registry, multiprocess_mode="livesum"
        )
        self._duration = Histogram(
            f"pyncette_{name}_duration_seconds", f"{what}: how long they took.", labels, registry=registry, buckets=buckets
        )
        self._measured: dict[str | None, Measured] = {}

    def of(self, label: str | None = None) -> "Measured":
        """The metrics for a value of the label, created at zero."""
        measured = self._measured.get(label)
        if measured is None:
            if label is None:
                measured = Measured(self._total, self._failures, self._in_progress, self._duration)
            else:
                measured = Measured(
                    self._total.labels(label),
                    self._failures.labels(label),
                    self._in_progress.labels(label),
                    self._duration.labels(label),
                )
            self._measured[label] = measured
        return measured


class Measured:
    """The metrics of one operation with one value of its label."""

    __slots__ = ("_duration", "_failures", "_in_progress", "_total")

    def __init__(self, total: Counter, failures: Counter, in_progress: Gauge, duration: Histogram) -> None:
        self._total = total
        self._failures = failures
        self._in_progress = in_progress
        self._duration = duration

    def begin(self) -> float:
        self._in_progress.inc()
        return time.perf_counter()

    def end(self, began: float, *, failed: bool) -> None:
        self._duration.observe(time.perf_counter() - began)
        self._in_progress.dec()
        self._total.inc()
        if failed:
            self._failures.inc()


class Measurement:
    """Measures the code inside, once. A cancellation is not a failure."""

    __slots__ = ("_began", "_measured")

    def __init__(self, measured: Measured) -> None:
        self._measured = measured

    def __enter__(self) -> Self:
        self._began = self._measured.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._measured.end(self._began, failed=isinstance(error, Exception))
