"""How a user describes an instance, and how it is stored."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pyncette.arguments import dump_arguments
from pyncette.errors import ScheduleError
from pyncette.schedules import text as schedules
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Key, Registration, Target

__all__ = ["Instance", "registration", "target_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of a template, for scheduling many at once. The options are those of ``schedule_task``."""

    name: str
    schedule: str | None = None
    interval: timedelta | None = None
    execute_at: datetime | None = None
    rrule: str | None = None
    timezone: str | None = None
    jitter: timedelta | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    max_runs: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def registration(self, key: Key, template: str, now: datetime) -> Registration:
        """The registration of the instance of ``template`` under ``key``."""
        spec = dump_arguments(self.args, f"instance {self.name!r} of {template!r}")
        schedule = schedules.from_options(
            schedule=self.schedule,
            interval=self.interval,
            execute_at=self.execute_at,
            rrule=self.rrule,
            timezone=self.timezone,
            jitter=self.jitter,
            start_at=self.start_at,
            end_at=self.end_at,
            max_runs=self.max_runs,
            name=key.name,
            # Without the digest, new arguments for the same instant would count as the old occurrence.
            digest=hashlib.sha256(spec.encode()).hexdigest()[:16] if self.execute_at is not None else "",
        )
        return registration(key, spec, schedule, now)


def registration(key: Key, spec: str, schedule: Schedule, now: datetime, *, keep_overdue: bool = False) -> Registration:
    """The registration of ``key``, with the first occurrence from ``now`` on.

    :raises ScheduleError: there is no such occurrence.
    """
    first = schedule.first(now)
    if first is None:
        raise ScheduleError(
            f"The schedule {schedule.text!r} of {key.name!r} has no occurrence after {now}, so nothing would ever run"
        )
    return Registration(key, spec, schedule.text, target_of(schedule, key, first), keep_overdue)


def target_of(schedule: Schedule, key: Key, occurrence: datetime) -> Target:
    """``occurrence``, with the time from which it may run."""
    return Target(occurrence, schedule.execute_after(occurrence, key))
