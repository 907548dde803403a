"""The settings of an application."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pyncette.hooks import Instrumentation
from pyncette.listeners import Listener
from pyncette.worker.executors import Executor

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters of :class:`~pyncette.Pyncette`."""

    poll_interval: timedelta
    batch_size: int
    concurrency_limit: int
    shutdown_timeout: timedelta | None
    executor_cls: Callable[[int, Callable[[], None]], Executor]
    instrumentation: Instrumentation
    listeners: Sequence[Listener] = ()
    log_runs: bool = False
    sync_workers: int = 32
