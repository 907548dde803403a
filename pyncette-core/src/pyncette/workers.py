"""Which workers are alive: each process keeps a row about itself, in a partition that nobody claims from.

A process writes its row by registering it repeatedly, for a time that never comes. So a store needs nothing beyond what tasks
need, and if the row is removed, it is back the next time. The row says when it was written, on the store's clock; if that was
several intervals ago, the worker was killed, cut off or paused. Such rows stay visible for an hour, until some worker removes
them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette import partitions
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.store.contract import Key, Registration, Repository, State, Target
from pyncette.store.paging import pages
from pyncette.tasks import Task, Template

__all__ = ["Incident", "Worker", "forget_dead", "polls_of", "registration", "stored_workers"]

#: A worker that has not written its row for this long is not alive: it missed three writes, plus the time for a slow call.
_DEAD_AFTER = timedelta(seconds=35)
#: How long a dead worker stays listed.
_FORGOTTEN_AFTER = timedelta(hours=1)
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_SCHEDULE = "worker"
#: The number of rows requested or removed in one call.
_BULK = 1000
#: The maximum number of characters of names that are written every few seconds; all stores accept rows of that size.
_MOST_NAMES = 50_000
#: The maximum length of the description of an incident (characters).
_MOST_WORDS = 1_000


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that kept a worker from running tasks."""

    #: When it began.
    since: datetime
    #: How long it lasted, or has lasted so far.
    duration: timedelta
    #: What it was, in words.
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that runs tasks, or did until recently, as it reported itself at :attr:`seen`."""

    #: Different for each start.
    id: str
    host: str
    pid: int
    #: The version of pyncette-core.
    version: str
    started: datetime
    #: When it last reported. It does so every ten seconds.
    seen: datetime
    #: Whether it has reported within the last three intervals. A worker that stops cleanly leaves the list; one that is not alive was
    #: killed, is cut off from the store, or is paused.
    alive: bool
    #: Whether it has stopped polling, and waits for its last bodies to end.
    stopping: bool
    #: How many bodies can run at once, and how many are running.
    slots: int
    running: int
    #: The longest that anything waited for the event loop within the last minute.
    loop_lag: timedelta
    #: Runs that ended within the last minute, and those among them that failed.
    runs: int
    failures: int
    #: The tasks and templates that it polls, by name, with the numbers of the partitions if it polls only some of them. None: there are
    #: too many to report.
    polls: Mapping[str, Sequence[int] | None] | None
    #: The last time that something blocked its event loop; None if nothing did.
    blocked: Incident | None = None
    #: The last time that it could not reach the store; None if it always could.
    store_away: Incident | None = None

    def can_run(self, task: str, partition: int | None = None) -> bool:
        """Whether it is alive and polls a task, or, for a partitioned task, that partition. True if it does not report what it
        polls.
        """
        if not self.alive or self.stopping:
            return False
        if self.polls is None:
            return True
        return task in self.polls and (partition is None or (among := self.polls[task]) is None or partition in among)


def polls_of(tasks: Iterable[Task]) -> Mapping[str, Sequence[int] | None] | None:
    """What a worker that runs ``tasks`` polls, in the form of :attr:`Worker.polls`."""
    found: dict[str, Sequence[int] | None] = {}
    for task in tasks:
        found[task.name] = None
        if isinstance(task, Template) and len(some := task.partitions()) < len(task.all_partitions()):
            owners = map(partitions.owner_of, some)
            found[task.name] = [owner.number for owner in owners if owner is not None and owner.number is not None]
    return found if sum(len(name) + 6 * len(some or ()) for name, some in found.items()) <= _MOST_NAMES else None


async def stored_workers(repository: Repository, now: datetime) -> Sequence[Worker]:
    """All workers that have a row: first those that are alive, then the others, each by host and start. Invalid rows are left
    out.
    """
    found = []
    async for rows in pages(repository, partitions.WORKERS, limit=_BULK):
        found += [worker for row in rows if row.state is State.SCHEDULED and (worker := _read(row.key.name, row.spec, now))]
    return sorted(found, key=lambda worker: (not worker.alive, worker.host, worker.started, worker.id))


async def forget_dead(repository: Repository, now: datetime) -> None:
    """Remove the rows of workers that have been dead for an hour, and invalid ones. A worker that was only paused registers
    itself again.
    """
    dead = []
    async for rows in pages(repository, partitions.WORKERS, limit=_BULK):
        for row in rows:
            worker = _read(row.key.name, row.spec, now)
            if worker is None or abs(now - worker.seen) > _FORGOTTEN_AFTER:  # or too far ahead, written with a wrong clock
                dead.append(row.key)
    for start in range(0, len(dead), _BULK):
        await repository.unregister(now, dead[start : start + _BULK])


def registration(worker: Worker) -> Registration:
    """The registration of the row for ``worker``."""
    values = {
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "started": to_microseconds(worker.started),
        "seen": to_microseconds(worker.seen),
        "stopping": worker.stopping,
        "slots": worker.slots,
        "running": worker.running,
        "loop_lag": worker.loop_lag.total_seconds(),
        "runs": worker.runs,
        "failures": worker.failures,
        "polls": worker.polls,
        "blocked": _incident(worker.blocked),
        "store_away": _incident(worker.store_away),
    }
    spec = json.dumps(values, separators=(",", ":"))
    return Registration(Key(partitions.WORKERS, worker.id), spec, _SCHEDULE, Target(_NEVER, _NEVER))


def _incident(incident: Incident | None) -> Sequence[Any] | None:
    if incident is None:
        return None
    return to_microseconds(incident.since), incident.duration.total_seconds(), incident.what[:_MOST_WORDS]


def _read_incident(value: Any) -> Incident | None:
    if value is None:
        return None
    since, seconds, what = value
    return Incident(from_microseconds(int(since)), timedelta(seconds=float(seconds)), str(what))


def _read(name: str, spec: str, now: datetime) -> Worker | None:
    try:
        values = json.loads(spec)
        seen = from_microseconds(int(values["seen"]))
        polls = values.get("polls")
        return Worker(
            id=name,
            host=str(values["host"]),
            pid=int(values["pid"]),
            version=str(values["version"]),
            started=from_microseconds(int(values["started"])),
            seen=seen,
            alive=abs(now - seen) <= _DEAD_AFTER,
            stopping=bool(values.get("stopping")),
            slots=int(values.get("slots", 0)),
            running=int(values.get("running", 0)),
            loop_lag=timedelta(seconds=float(values.get("loop_lag", 0))),
            runs=int(values.get("runs", 0)),
            failures=int(values.get("failures", 0)),
            polls=None
            if polls is None
            else {str(task): some if some is None else [*map(int, some)] for task, some in polls.items()},
            blocked=_read_incident(values.get("blocked")),
            store_away=_read_incident(values.get("store_away")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return None
