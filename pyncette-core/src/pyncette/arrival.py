"""What a worker checks and logs when it starts: the stored static tasks, compared with the declared ones."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from pyncette.audit import audit
from pyncette.clock import AlignedClock
from pyncette.history import remember
from pyncette.instances import target_of
from pyncette.policies import CatchUp
from pyncette.schedules.kinds import Cron, Interval, Schedule
from pyncette.schedules.rules import RRule
from pyncette.store.contract import Key, Registration, Repository, Row, State
from pyncette.tasks import StaticTask

__all__ = ["compare_static_tasks"]

logger: logging.Logger = logging.getLogger(__name__)

_MICROSECOND = timedelta(microseconds=1)
#: The maximum number of occurrences of a cron schedule that are counted.
_MOST = 100


async def compare_static_tasks(repository: Repository, clock: AlignedClock, tasks: Sequence[StaticTask], by: str) -> None:
    """Before ``tasks`` are registered: log which schedules change and which tasks are behind, and correct invalid times.

    If the next time of a cron task is not an occurrence of its schedule, it was stored with a wrong clock, or with other time zone
    data. The task gets its next occurrence, unless it is already due: then it runs first. Takes one call to the store, and another
    if there is anything to correct.
    """
    if not tasks:
        return
    now = clock.now()
    mended: list[Registration] = []
    over: list[Key] = []
    for task, row in zip(tasks, await repository.get([task.key for task in tasks]), strict=True):
        if ended := task.has_ended(now):
            logger.info(
                "Task %r has no occurrence after %s by its schedule %r, and is not registered", task.name, now, task.schedule.text
            )
        if row is None or row.state is State.UNREADABLE:
            continue
        if row.schedule != task.schedule.text:
            audit("replace", task.name, by=by, was=row.schedule, now=task.schedule.text)
            change = {"was": row.schedule, "now": task.schedule.text}
            await remember(repository, task.key, now, task.history, "replace", by, **change)
            if ended:
                over.append(task.key)  # otherwise it would continue with the replaced schedule
        elif row.state is State.SCHEDULED and row.locked_until is None:
            if row.execute_after <= now:
                _tell_backlog(task, row, now)
            elif (
                isinstance(task.schedule.plain, Cron | RRule)
                and task.schedule.next(row.occurrence - _MICROSECOND) != row.occurrence
            ):
                first = task.schedule.first(now)
                if first is not None:
                    logger.warning(
                        "Task %r was stored for %s, which is not in its schedule %r: the clock was wrong then, or the data of its "
                        "time zone has changed; it is moved to %s",
                        task.name,
                        row.occurrence,
                        task.schedule.text,
                        first,
                    )
                    mended.append(Registration(task.key, row.spec, row.schedule, target_of(task.schedule, task.key, first)))
    if over:
        await repository.unregister(clock.now(), over)
    if mended:
        await repository.register(clock.now(), mended, force=True)  # not due yet, so no worker holds it


def _tell_backlog(task: StaticTask, row: Row, now: datetime) -> None:
    schedule, plain = task.schedule, task.schedule.plain
    if isinstance(plain, Interval) and plain is schedule:
        due, more = (now - row.occurrence) // plain.duration + 1, ""
    else:
        # A time outside the schedule comes first in any case.
        due = sum(1 for _ in itertools.islice(_occurrences(schedule, row.occurrence, now), _MOST))
        more = " or more" if due == _MOST else ""
    if due > 1:
        what = "each is run" if task.catch_up is CatchUp.ALL else "all but the latest are skipped"
        logger.info("Task %r resumes: %d%s occurrences have been due since %s; %s", task.name, due, more, row.occurrence, what)


def _occurrences(schedule: Schedule, first: datetime, now: datetime) -> Iterator[datetime]:
    at: datetime | None = first
    while at is not None and at <= now:
        yield at
        at = schedule.next(at)
