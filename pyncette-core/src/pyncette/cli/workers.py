"""``pyncette workers``: which processes run tasks, and which tasks nobody polls."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.output import note, print_json, print_pairs, print_table
from pyncette.cli.stored import opened, when
from pyncette.errors import ConfigurationError
from pyncette.partitions import owner_of
from pyncette.tasks import StaticTask, Task
from pyncette.workers import Incident, Worker

__all__ = ["list_workers", "note_nobody_alive", "unpolled", "workers_of"]

#: How many names are shown in a line.
_SHOWN = 10


async def list_workers(app: Pyncette, arguments: argparse.Namespace) -> int:
    """List all processes that run tasks, or show everything about one of them."""
    async with opened(app) as app_context:
        now = app_context.clock.now()
        found = await app_context.list_workers()
        lacking = {task.name: why for task in app_context.tasks if (why := unpolled(task, found)) is not None}
    if arguments.worker is not None:
        # by the whole id, or by the part that people know
        found = [worker for worker in found if arguments.worker in (worker.id, worker.host, str(worker.pid))]
        if not found:
            raise ConfigurationError(f"The store has no worker {arguments.worker!r}; list all with: pyncette workers")
        for worker in found:
            if arguments.json:
                print_json(_values(worker))
            else:
                print_pairs({name.replace("_", " "): value for name, value in _in_full(worker, now).items()})
        return 0
    if arguments.json:
        for worker in found:
            print_json(_values(worker))
        return 0
    print_table(
        ["worker", "state", "started", "version", "running", "lag", "runs/min", "failed", "tasks"],
        [_cells(worker, now) for worker in found],
    )
    for worker in found:
        for what, incident in (("the event loop was blocked", worker.blocked), ("the store was unreachable", worker.store_away)):
            if incident is not None:
                note(f"{worker.id}: {what} {_told(incident)}")
    if app_context.repository.shared:
        note_nobody_alive(found)
        if any(worker.alive for worker in found):
            for name, why in [*lacking.items()][:_SHOWN]:
                note(f"{name!r}: {why}")
            if len(lacking) > _SHOWN:
                note(f"{len(lacking) - _SHOWN} more are polled by nobody; see: pyncette list")
    return 0


async def workers_of(app_context: PyncetteContext) -> Sequence[Worker] | None:
    """All workers; None if only the process that runs the tasks can see its store."""
    return await app_context.list_workers() if app_context.repository.shared else None


def unpolled(task: Task, workers: Sequence[Worker]) -> str | None:
    """Which part of an enabled task no live worker polls, in words; None if all is polled, or the task is disabled here."""
    if not task.enabled:
        return None
    if not any(worker.can_run(task.name) for worker in workers):
        return "nobody polls it"
    if isinstance(task, StaticTask):
        return None
    numbers = [owner.number for partition in task.partitions() if (owner := owner_of(partition)) and owner.number is not None]
    lacking = [number for number in numbers if not any(worker.can_run(task.name, number) for worker in workers)]
    if not lacking:
        return None
    return f"nobody polls its partition{'' if len(lacking) == 1 else 's'} {_some(lacking)}"


def note_nobody_alive(workers: Sequence[Worker]) -> None:
    """Print a message if no worker is alive."""
    if not any(worker.alive for worker in workers):
        note("no worker is alive, so nothing runs; start one with: pyncette run APP")


def _cells(worker: Worker, now: datetime) -> Sequence[object]:
    return (
        worker.id,
        _state(worker, now),
        _instant(worker.started),
        worker.version,
        f"{worker.running}/{worker.slots}",
        f"{worker.loop_lag.total_seconds():.3f} s",
        worker.runs,
        worker.failures,
        "too many to list" if worker.polls is None else len(worker.polls),
    )


def _in_full(worker: Worker, now: datetime) -> Mapping[str, object]:
    polls = [*(worker.polls or {}).items()]
    tasks = [name if some is None else f"{name} (partitions {_some(some)})" for name, some in polls]
    return {
        "worker": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "state": _state(worker, now),
        "started": _instant(worker.started),
        "seen": _instant(worker.seen),
        "version": worker.version,
        "running": f"{worker.running} of {worker.slots} slots",
        "loop_lag": f"{worker.loop_lag.total_seconds():.3f} s",
        "runs": f"{worker.runs} in the last minute, of which {worker.failures} failed",
        "blocked": None if worker.blocked is None else _told(worker.blocked),
        "store_away": None if worker.store_away is None else _told(worker.store_away),
        "polls": "too many to list" if worker.polls is None else ", ".join(tasks) or "nothing",
    }


def _values(worker: Worker) -> Mapping[str, Any]:
    return {
        "worker": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "alive": worker.alive,
        "stopping": worker.stopping,
        "started": when(worker.started),
        "seen": when(worker.seen),
        "slots": worker.slots,
        "running": worker.running,
        "loop_lag_seconds": worker.loop_lag.total_seconds(),
        "runs_last_minute": worker.runs,
        "failures_last_minute": worker.failures,
        "polls": worker.polls,
        "blocked": _incident(worker.blocked),
        "store_away": _incident(worker.store_away),
    }


def _incident(incident: Incident | None) -> Mapping[str, Any] | None:
    if incident is None:
        return None
    return {"since": when(incident.since), "seconds": incident.duration.total_seconds(), "what": incident.what}


def _state(worker: Worker, now: datetime) -> str:
    if not worker.alive:
        return f"gone for {_rounded(now - worker.seen)}"
    return "stopping" if worker.stopping else "alive"


def _told(incident: Incident) -> str:
    return f"at {_instant(incident.since)}, for {_rounded(incident.duration)}: {incident.what}"


def _instant(instant: datetime) -> str:
    return instant.isoformat(sep=" ", timespec="seconds")


def _rounded(duration: timedelta) -> str:
    seconds = abs(duration.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + _more(len(numbers) - _SHOWN)


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
