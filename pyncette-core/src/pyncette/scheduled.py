"""The stored state of a task, as users see it."""

import functools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyncette.errors import ScheduleError
from pyncette.memo import Memo, Note
from pyncette.runs import Run
from pyncette.schedules import text as schedules
from pyncette.schedules.kinds import Schedule
from pyncette.schedules.wording import in_words
from pyncette.store.contract import Row, State
from pyncette.tasks import Task, stored_arguments

__all__ = ["ScheduledTask", "state_of"]


@dataclass(frozen=True)
class ScheduledTask:
    """The stored state of a static task or an instance, at the moment it was read."""

    task: Task
    row: Row

    def __repr__(self) -> str:
        row = self.row  # without the arguments, which don't belong in logs
        return (
            f"ScheduledTask({row.key.name!r} of {self.task.name!r}, {row.schedule!r}, {row.state.value}, ready_at={row.ready_at})"
        )

    @property
    def name(self) -> str:
        """The name of the instance, or of the static task."""
        return schedules.origin_of(self.row.schedule) or self.row.key.name

    @property
    def triggered(self) -> bool:
        """Whether this is an extra run, see :meth:`~pyncette.PyncetteContext.trigger_task`, rather than the task or instance
        itself.
        """
        return schedules.origin_of(self.row.schedule) is not None

    @property
    def extra_run(self) -> str | None:
        """The id of the extra run, for calls that change a single one; None for the task or instance itself."""
        return self.row.key.name if self.triggered else None

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The stored schedule; raises :class:`ScheduleError` if it can't be read."""
        return schedules.parse(self.row.schedule)

    @property
    def schedule_in_words(self) -> str:
        """The same as a sentence, ``At 09:00 on Monday through Friday, Europe/London``; the stored text if it can't be read."""
        try:
            return in_words(self.schedule)
        except ScheduleError:
            return self.row.schedule

    @functools.cached_property
    def args(self) -> dict[str, Any]:
        """The arguments that a run would get; raises ValueError if the stored ones are not JSON."""
        return self.task.arguments(stored_arguments(self.row.spec))

    @property
    def scheduled_at(self) -> datetime:
        """The time of the current occurrence, in the schedule's time zone."""
        try:
            return self.row.occurrence.astimezone(self.schedule.zone)
        except ScheduleError:
            return self.row.occurrence

    @property
    def state(self) -> State:
        return self.row.state

    def state_at(self, now: datetime) -> str:
        """The state at the time ``now``: scheduled, retrying, due, running, lease expired, paused, failed or unreadable."""
        return state_of(self.row, now)

    @property
    def locked_until(self) -> datetime | None:
        """When the lease of the run in progress expires; None if there is no run."""
        return self.row.locked_until

    @property
    def attempt(self) -> int:
        """How often the current occurrence has been claimed."""
        return self.row.attempt

    @property
    def error(self) -> str | None:
        """Why the task was given up, if it was."""
        return self.row.error

    @functools.cached_property
    def _memo(self) -> Memo:
        return Memo.read(self.row.memo)

    @property
    def last_run(self) -> Run | None:
        """The last run whose end was stored, or, with AT_MOST_ONCE, whose start was; None before the first. A run that ends
        while the task is paused is not recorded.
        """
        return self._memo.last_run

    @property
    def last_success(self) -> datetime | None:
        """When a run last succeeded, even if later ones failed; None if none did, and with AT_MOST_ONCE, where it is not
        known.
        """
        return self._memo.last_success

    @property
    def skipped(self) -> int:
        """How many missed occurrences have been skipped since the last run, see :class:`~pyncette.CatchUp`. Those of an
        interval are calculated; of any other schedule, 200 means 200 or more.
        """
        return self._memo.skipped

    @property
    def failures(self) -> int:
        """How many consecutive attempts did not succeed; not known with AT_MOST_ONCE."""
        return self._memo.failures

    @property
    def retries_at(self) -> datetime | None:
        """When the occurrence is retried after a failed attempt; None if no attempt failed, or if one is in progress."""
        row = self.row
        return row.ready_at if row.attempt and row.locked_until is None else None

    @property
    def runs_left(self) -> int | None:
        """How many runs are left, including that of the current occurrence; None without ``max_runs``."""
        return self._memo.runs_left(self.schedule.max_runs, self.row.revision)

    @property
    def note(self) -> Note | None:
        """Who paused the task, when and why; None if it is not paused, or if that is not known."""
        return self._memo.note if self.row.state is State.PAUSED else None


def state_of(row: Row, now: datetime) -> str:
    """The state of ``row`` as it is shown to people, see :meth:`ScheduledTask.state_at`."""
    if row.state is not State.SCHEDULED:
        return row.state.value
    if row.locked_until is not None:
        return "running" if row.locked_until > now else "lease expired"
    if row.ready_at is not None and row.ready_at <= now:
        return "due"
    return "retrying" if row.attempt else "scheduled"
