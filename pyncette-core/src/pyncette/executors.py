"""Where bodies run: see :mod:`pyncette.worker.executors`."""

from pyncette.worker.executors import (
    ConcurrentExecutor,
    Executor,
    SynchronousExecutor,
)

__all__ = ["ConcurrentExecutor", "Executor", "SynchronousExecutor"]
