"""Pyncette: a reliable distributed scheduler with pluggable storage backends."""

# Backends are separate distributions that add their modules to this package.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)

from typing import TYPE_CHECKING

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.blocking import BlockingClient
from pyncette.client import Client, TaskPage
from pyncette.context import Context, Middleware
from pyncette.errors import (
    ConfigurationError,
    LeaseLostException,
    PyncetteError,
    RepositoryError,
    ScheduleError,
    TransientRepositoryError,
)
from pyncette.heartbeat import with_heartbeat
from pyncette.history import RecordedChange, RecordedRun, RunPage
from pyncette.hooks import Instrumentation
from pyncette.instances import Instance
from pyncette.listeners import Listener, RunEvent
from pyncette.policies import CatchUp, ExecutionMode, FailureMode, GiveUp, OnGiveUp, Retry, RetryAfter
from pyncette.runs import Run, RunOutcome
from pyncette.scheduled import ScheduledTask
from pyncette.store.contract import State
from pyncette.tasks import Task, TaskInstance, Template
from pyncette.undeclared import Undeclared
from pyncette.worker.executors import ConcurrentExecutor, Executor, SynchronousExecutor
from pyncette.workers import Incident, Worker

__all__ = [
    "BlockingClient",
    "CatchUp",
    "Client",
    "ConcurrentExecutor",
    "ConfigurationError",
    "Context",
    "ExecutionMode",
    "Executor",
    "FailureMode",
    "GiveUp",
    "Incident",
    "Instance",
    "Instrumentation",
    "LeaseLostException",
    "Listener",
    "Middleware",
    "OnGiveUp",
    "Pyncette",
    "PyncetteContext",
    "PyncetteError",
    "RecordedChange",
    "RecordedRun",
    "RepositoryError",
    "Retry",
    "RetryAfter",
    "Run",
    "RunEvent",
    "RunOutcome",
    "RunPage",
    "ScheduleError",
    "ScheduledTask",
    "State",
    "SynchronousExecutor",
    "Task",
    "TaskInstance",
    "TaskPage",
    "Template",
    "TransientRepositoryError",
    "Undeclared",
    "Worker",
    "with_heartbeat",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            from importlib.metadata import (
                version,
            )  # imported here because few programs need it, and it takes a sixth of the time of importing this package

            return version("pyncette-core")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
