"""Pausing and resuming."""

from dataclasses import replace
from datetime import datetime

from pyncette.audit import audit, check_by
from pyncette.checks import check_type
from pyncette.client.base import Opened
from pyncette.errors import RepositoryError, ScheduleError
from pyncette.memo import Memo, Note
from pyncette.policies import CatchUp
from pyncette.schedules.text import parse
from pyncette.store.contract import Key, Row, State, SupportsPause
from pyncette.tasks import StaticTask, Task, TaskInstance

__all__ = ["Changing", "at_resumption", "memo_of_pause", "memo_of_resumption", "names"]


class Changing(Opened):
    """The calls that pause and resume."""

    async def pause_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        note: str | None = None,
        by: str | None = None,
    ) -> bool:
        """Keep an instance or a static task from running until :meth:`resume_task`. Returns whether there is one.

        A run in progress continues. Raises RepositoryError if the store can't pause tasks.

        :param note: the reason, shown as :attr:`ScheduledTask.note`. Pausing again with another note replaces it.
        :param by: who pauses it, for the same, and for the log ``pyncette.audit``.
        """
        note, by = check_by(note, "note"), check_by(by)
        key, pausable = self._key(task, instance_name), self._pausable()
        [row] = await self.repository.get([key])
        now = await self._now()
        memos = {} if row is None else {key: memo_of_pause(row, note, by, now)}
        [found] = await pausable.pause(now, [key], memos)
        if found:
            audit("pause", *names(task, key), by=by, note=note)
            await self._remember("pause", task, key, by=by, note=note)
        return found

    async def resume_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        catch_up: CatchUp | None = None,
        by: str | None = None,
    ) -> bool:
        """Let a paused or failed task run again, at once if it became due meanwhile. Returns whether there is one.

        :param catch_up: which of the occurrences that passed during the pause run after all. None: the latest, or none if the
            task is declared with CatchUp.NONE. A task that runs only once runs in any case, and so does the occurrence at which
            a task failed.
        :param by: who resumes it, for the log ``pyncette.audit``.
        """
        by, key, pausable, how = check_by(by), self._key(task, instance_name), self._pausable(), at_resumption(task, catch_up)
        [row] = await self.repository.get([key])
        now = await self._now()
        memos = {} if row is None or row.state is not State.PAUSED else {key: memo_of_resumption(row, now, how)}
        [found] = await pausable.resume(now, [key], memos)
        self._announce(key.partition, self.clock.now())
        if found:
            audit("resume", *names(task, key), by=by)
            await self._remember("resume", task, key, by=by)
        return found

    def _pausable(self) -> SupportsPause:
        if not isinstance(self.repository, SupportsPause):
            raise RepositoryError(f"{type(self.repository).__name__} can't pause tasks; unschedule the task instead")
        return self.repository


def memo_of_pause(row: Row, note: str | None, by: str | None, now: datetime) -> str:
    """The memo that ``row`` has while it is paused."""
    memo = Memo.read(row.memo)
    if row.locked_until is not None and row.state is State.SCHEDULED and _counts_runs(row):
        memo = memo.running(row.occurrence, row.revision)
    return memo.paused(Note(text=note, by=by, at=now)).text()


def memo_of_resumption(row: Row, now: datetime, how: CatchUp) -> str:
    """The memo of the paused ``row`` when it is resumed at ``now``; ``how`` says which missed occurrences run."""
    memo = Memo.read(row.memo).resumed(max(0, row.attempt - (row.locked_until is not None)), row.occurrence)
    return replace(memo, since=(now, how.value)).text()


def at_resumption(task: Task | TaskInstance, catch_up: CatchUp | None) -> CatchUp:
    """Which occurrences run when ``task`` is resumed with ``catch_up``."""
    if catch_up is None:
        return CatchUp.NONE if task.catch_up is CatchUp.NONE else CatchUp.LATEST
    check_type(catch_up, CatchUp, "catch_up")
    return catch_up


def _counts_runs(row: Row) -> bool:
    try:
        return parse(row.schedule).max_runs is not None
    except ScheduleError:
        return False


def names(task: Task | TaskInstance, key: Key) -> tuple[str, str | None]:
    """The names of the row ``key`` in the audit log: the task, and the instance if there is one."""
    return task.template.name, None if isinstance(task, StaticTask) else key.name
