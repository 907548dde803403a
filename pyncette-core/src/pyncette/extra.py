"""Extra runs of a static task or an instance, in addition to its schedule, which does not change.

Each is a separate once-off row. Its schedule names the task that it runs (the origin), and no user's row can have its name. It has the
arguments that the origin had at the time of the request, so it runs whatever happens to the origin, and is removed when it has run.

Extra runs of an instance are in the partition of the instance, which is polled anyway. Extra runs of a static task have a separate
partition, because static tasks are claimed by name. Workers poll it only if they know of an extra run: each one also registers a row
called a *bell* again, and workers read all bells in one call every few seconds.
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

#: The maximum number of runs in one backfill.
MOST = 10_000
_MICROSECOND = timedelta(microseconds=1)


def is_extra(row: Row) -> bool:
    """Whether ``row`` is an extra run, rather than a task or an instance."""
    return is_extra_name(row.key.name) and origin_of(row.schedule) is not None


def place(template: Template, row: Row | Claim) -> Key:
    """The key that ``row`` should have in ``template``: an extra run belongs next to its origin.

    :raises ConfigurationError: no instance can have its name.
    """
    origin = origin_of(row.schedule) if is_extra_name(row.key.name) else None
    return template.key(row.key.name) if origin is None else Key(template.key(origin).partition, row.key.name)


def partition_of_extra_runs(origin: Key) -> str:
    """The partition of the extra runs of a static task or an instance."""
    return partitions.extra_runs(origin.name) if origin.partition == partitions.STATIC else origin.partition


def extra_run(
    origin: Key, kind: str, timezone: str, spec: str, occurrence: datetime, now: datetime, identity: str | None = None
) -> Registration:
    """The registration of an extra run of the task with the key ``origin``, ready at ``now``.

    :param identity: at most one extra run with this identity exists at a time; None: always add another one.
    """
    unique = uuid.uuid4().hex if identity is None else _digest(*origin, kind, identity)
    key = Key(partition_of_extra_runs(origin), f"extra:{unique}")
    return Registration(key, spec, Extra(kind, origin.name, timezone).text, Target(occurrence, now))


def bell(task: StaticTask, now: datetime) -> Registration:
    """The registration of a new bell, which tells workers that ``task`` may have extra runs."""
    return Registration(Key(partitions.BELLS, task.name), "{}", uuid.uuid4().hex, Target(now, now))


def record_of_backfill(origin: Key, schedule: str, start: datetime, end: datetime) -> Registration:
    """The registration of a row which records that a backfill was registered in full."""
    key = Key(partitions.BACKFILLS, _digest(*origin, schedule, start.isoformat(), end.isoformat()))
    return Registration(key, "{}", "backfill", Target(NEVER, NEVER))


def occurrences(schedule: Schedule, current: datetime, start: datetime, end: datetime) -> Iterator[datetime]:
    """The times of ``schedule`` from ``start`` up to, but not including, ``end`` and ``current``, the time of its row."""
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
