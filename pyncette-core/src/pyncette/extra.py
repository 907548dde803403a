"""Extra runs: of a static task or an instance, beside those of its schedule, which is left alone.

Each is a separate once-off row. Its schedule says which task it is a run of, and its name is one that no user's row can have. It has the
arguments that the origin had when it was asked for, so it runs whatever happens to the origin, and goes away when it has run.

Those of an instance are in the partition of the instance, which is polled anyway. Those of a static task are in a partition of their own,
for static tasks are claimed by their names. It is polled only by who knows that there is something: a *bell*, a row that is registered again
with each extra run, tells the others, who look at all bells at once every few seconds.
"""

import hashlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

from pyncette import partitions
from pyncette.checks import is_extra_name
from pyncette.layout import NEVER
from pyncette.schedules.kinds import Extra, Interval, Schedule
from pyncette.schedules.text import origin_of
from pyncette.store.contract import Claim, Key, Registration, Row, Target
from pyncette.tasks import StaticTask, Template

__all__ = ["MOST", "bell", "extra_run", "is_extra", "occurrences", "partition_of_extra_runs", "place", "record_of_backfill"]

#: How many runs can be asked for in one backfill.
MOST = 10_000
_MICROSECOND = timedelta(microseconds=1)


def is_extra(row: Row) -> bool:
    """Whether ``row`` is an extra run, and no task or instance."""
    return is_extra_name(row.key.name) and origin_of(row.schedule) is not None


def place(template: Template, row: Row | Claim) -> Key:
    """The key of a row of ``template``: of an instance its own, of an extra run that beside its origin.

    :raises ConfigurationError: it has no name that an instance can have.
    """
    origin = origin_of(row.schedule) if is_extra_name(row.key.name) else None
    return template.key(row.key.name) if origin is None else Key(template.key(origin).partition, row.key.name)


def partition_of_extra_runs(origin: Key) -> str:
    """Where the extra runs of a static task or an instance are."""
    return partitions.extra_runs(origin.name) if origin.partition == partitions.STATIC else origin.partition


def extra_run(
    origin: Key, kind: str, timezone: str, spec: str, occurrence: datetime, now: datetime, identity: str | None = None
) -> Registration:
    """An extra run of the task with the key ``origin``, ready at ``now``.

    :param identity: of one identity there is one at a time; None: this is one more.
    """
    unique = uuid.uuid4().hex if identity is None else _digest(*origin, kind, identity)
    key = Key(partition_of_extra_runs(origin), f"extra:{unique}")
    return Registration(key, spec, Extra(kind, origin.name, timezone).text, Target(occurrence, now))


def bell(task: StaticTask, now: datetime) -> Registration:
    """Tells workers that have seen another bell of ``task`` that there may be extra runs."""
    return Registration(Key(partitions.BELLS, task.name), "{}", uuid.uuid4().hex, Target(now, now))


def record_of_backfill(origin: Key, schedule: str, start: datetime, end: datetime) -> Registration:
    """What says that a backfill was registered in full."""
    key = Key(partitions.BACKFILLS, _digest(*origin, schedule, start.isoformat(), end.isoformat()))
    return Registration(key, "{}", "backfill", Target(NEVER, NEVER))


def occurrences(schedule: Schedule, current: datetime, start: datetime, end: datetime) -> Iterator[datetime]:
    """The times of ``schedule`` from ``start`` until before ``end`` and before ``current``, the time that its row has."""
    start, end = max(start, schedule.start_at or start), min(end, current)
    if schedule.end_at is not None:
        end = min(end, schedule.end_at + _MICROSECOND)
    at: datetime | None
    plain = schedule.plain
    if isinstance(plain, Interval):
        at = current - (current - start) // plain.duration * plain.duration
    else:
        at = schedule.next(start - _MICROSECOND)
    while at is not None and at < end:
        yield at
        at = schedule.next(at)


def _digest(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
