"""What the workers of a scenario run: plain data, shared by the workers, the driver and the oracle."""

import dataclasses
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GENERATION", "Kind", "Plan", "TaskPlan"]

#: The argument that tells one schedule of an instance from the next; every instance of a plan has it.
GENERATION = "generation"


class Kind(enum.StrEnum):
    """How the task is declared."""

    INTERVAL = "interval"
    #: Every so many seconds of the wall clock; the number divides 60.
    CRON = "cron"
    DYNAMIC = "dynamic"
    PARTITIONED = "partitioned"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """One declared task. Durations are seconds. Names of tasks and of instances are unique within the plan."""

    name: str
    kind: Kind
    #: Between two occurrences of an interval or a cron task.
    every: float = 0.0
    at_most_once: bool = False
    lease: float = 3.0
    #: How long the body takes; an instance may have another by its argument ``body``.
    body: float = 0.01
    #: The ``lease_remaining_ratio`` of automatic heartbeats; None: no heartbeats.
    heartbeat: float | None = None
    #: How many attempts of each occurrence raise.
    failures: int = 0
    partition_count: int = 4

    @property
    def static(self) -> bool:
        return self.kind in (Kind.INTERVAL, Kind.CRON)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a worker declares."""

    tasks: Sequence[TaskPlan]

    def task(self, name: str) -> TaskPlan:
        return next(task for task in self.tasks if task.name == name)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps([dataclasses.asdict(task) for task in self.tasks]))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        return cls([TaskPlan(**{**task, "kind": Kind(task["kind"])}) for task in json.loads(path.read_text())])
