"""When each task had to run: worked out from the schedules alone, by arithmetic on whole microseconds.

Nothing of the code under test is used here, neither its schedules nor its clock.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pyncette_conformance.faults.plan import Kind, TaskPlan

__all__ = ["Every", "Once", "Schedule", "Timeline", "asked_at", "of_task", "of_text", "text_of"]

_SECOND = 1_000_000
#: For how long registrations wait for each other at most.
_PATIENCE = 10 * _SECOND


@dataclass(frozen=True, slots=True)
class Once:
    """One occurrence, at an instant."""

    at: int


@dataclass(frozen=True, slots=True)
class Every:
    """An occurrence each ``period`` microseconds: from the registration on, or ``aligned`` to the minute as cron does."""

    period: int
    aligned: bool = False


Schedule = Once | Every


def of_task(task: TaskPlan) -> Every:
    """The schedule of a static task."""
    return Every(round(task.every * _SECOND), aligned=task.kind is Kind.CRON)


def text_of(schedule: Schedule) -> str:
    """How the driver writes the schedule of an instance into the log."""
    return f"once {schedule.at}" if isinstance(schedule, Once) else f"every {schedule.period}"


def of_text(text: str) -> Schedule:
    """The reverse of :func:`text_of`."""
    match = re.fullmatch(r"(once|every) (\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a schedule of the log")
    return Once(int(match[2])) if match[1] == "once" else Every(int(match[2]))


@dataclass(frozen=True, slots=True)
class Timeline:
    """The occurrences of one schedule, from its first on."""

    schedule: Schedule
    first: int

    @classmethod
    def of(cls, schedule: Schedule, registered: Collection[int], seen: Collection[int]) -> "Timeline | None":
        """The timeline of a schedule that was registered at one of the instants ``registered``.

        Several workers register a static task; only the first does anything. Which was the first is told by the first occurrence
        that was ``seen``: it has to be, to the microsecond, what follows from one of the registrations. If it is not, the
        timeline will not fit what was seen. None if nothing was registered.
        """
        if isinstance(schedule, Once):
            return cls(schedule, schedule.at)
        if not registered:
            return None
        firsts = {_first(schedule, now) for now in registered}
        if seen:
            possible = [first for first in firsts if first <= min(seen)]
            return cls(schedule, max(possible) if possible else min(firsts))
        return cls(schedule, min(firsts))

    def until(self, horizon: int) -> Iterator[int]:
        """The occurrences up to ``horizon``."""
        if isinstance(self.schedule, Once):
            return iter([self.first] if self.first <= horizon else [])
        return iter(range(self.first, horizon + 1, self.schedule.period))

    def __contains__(self, at: int) -> bool:
        if isinstance(self.schedule, Once):
            return at == self.first
        return at >= self.first and (at - self.first) % self.schedule.period == 0


def asked_at(schedule: Schedule, now: int, first: int) -> int:
    """When a registration was asked for whose call to the store was made at ``now``: not long before, since calls wait for each other.

    It is told by the ``first`` occurrence that it was to bring, unless that does not follow from any such instant: then ``now`` counts.
    """
    if isinstance(schedule, Once) or not _first(schedule, now - _PATIENCE) <= first <= _first(schedule, now):
        return now
    if not schedule.aligned:
        return first - schedule.period
    return first - 1 if first % schedule.period == 0 else now


def _first(schedule: Every, now: int) -> int:
    if schedule.aligned:
        return (now // schedule.period + 1) * schedule.period
    return now + schedule.period
