"""Changing what is stored of a task, whatever its schedule: pausing and resuming."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from pyncette.audit import audit, check_by
from pyncette.checks import check_type
from pyncette.client.base import Opened
from pyncette.errors import RepositoryError, ScheduleError
from pyncette.extra import is_extra
from pyncette.instances import target_of
from pyncette.memo import Memo, Note, carried
from pyncette.policies import CatchUp, count_from, first_to_run
from pyncette.schedules.text import parse
from pyncette.store.contract import Key, Registration, Repository, Row, State, SupportsPause
from pyncette.tasks import StaticTask, Task, TaskInstance

__all__ = ["Changing", "at_resumption", "memo_of_pause", "memo_of_resumption", "names", "resume_rows"]


class Changing(Opened):
    """The calls that change what is stored already."""

    async def pause_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        note: str | None = None,
        by: str | None = None,
    ) -> bool:
        """Keep an instance or a static task from running until :meth:`resume_task`; whether there is one.

        A run in progress continues. Raises RepositoryError where the store can't pause.

        :param note: why, for whoever looks at the task: :attr:`ScheduledTask.note`. Pausing again with another replaces it.
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
        """Let a paused or failed task run again, at once if it became due meanwhile; whether there is one.

        :param catch_up: which of the occurrences that passed during the pause are run after all. None: the latest, or none if the task
            is declared with CatchUp.NONE. What occurs only once is run in any case, and so is the occurrence that a failed task failed at.
        :param by: who resumes it, for the log ``pyncette.audit``.

        What somebody else schedules or unschedules under this name at the same moment may be overwritten.
        """
        by, key, pausable, how = check_by(by), self._key(task, instance_name), self._pausable(), at_resumption(task, catch_up)
        [row] = await self.repository.get([key])
        await self._now()  # aligns the clock if need be
        found = row is not None and bool(await resume_rows(self.repository, pausable, [row], self.clock.now, how))
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
    """What is remembered of ``row`` while it is paused."""
    memo = Memo.read(row.memo)
    if row.locked_until is not None and row.state is State.SCHEDULED and _counts_runs(row):
        memo = memo.running(row.occurrence, row.revision)
    return memo.paused(Note(text=note, by=by, at=now)).text()


def memo_of_resumption(row: Row) -> str:
    """What is remembered of the paused ``row`` when it is resumed."""
    return Memo.read(row.memo).resumed(row.attempt - (row.locked_until is not None), row.occurrence).text()


async def resume_rows(
    repository: Repository, pausable: SupportsPause, rows: Sequence[Row], now: Callable[[], datetime], how: CatchUp
) -> int:
    """Resume ``rows``, of which those that were paused catch up what ``how`` says; how many there are."""
    moved = {row.key: move for row in rows if row.state is State.PAUSED and (move := moved_on(row, now(), how)) is not None}
    if moved:
        await repository.register(now(), [registration for registration, _ in moved.values()], force=True)
    memos = {row.key: memo_of_resumption(row) for row in rows if row.state is State.PAUSED}
    for key, (_, skipped) in moved.items():
        memo = Memo.read(carried(memos[key]))  # to the revision that moving it has made
        memos[key] = replace(memo, seen=0, skipped=memo.skipped + skipped).text()
    return sum(await pausable.resume(now(), [row.key for row in rows], memos))


def at_resumption(task: Task | TaskInstance, catch_up: CatchUp | None) -> CatchUp:
    """What is caught up when ``task`` is resumed with ``catch_up``."""
    if catch_up is None:
        return CatchUp.NONE if task.catch_up is CatchUp.NONE else CatchUp.LATEST
    check_type(catch_up, CatchUp, "catch_up")
    return catch_up


def moved_on(row: Row, now: datetime, catch_up: CatchUp) -> tuple[Registration, int] | None:
    """What moves a paused ``row`` on to the occurrence with which it is resumed, and how many that leaves out; None if none is.

    A row that is held is moved by its run. One that can't be understood is for somebody else to judge.
    """
    held = row.locked_until is not None and row.locked_until > now
    if catch_up is CatchUp.ALL or held or is_extra(row):
        return None
    try:
        schedule = parse(row.schedule)
    except ScheduleError:
        return None
    following = first_to_run(schedule, row.occurrence, now, catch_up, None, row.execute_after - row.occurrence)
    if following is None or following == row.occurrence:
        return None
    target = target_of(schedule, row.key, following)
    return Registration(row.key, row.spec, row.schedule, target), count_from(schedule, row.occurrence, following, now)


def _counts_runs(row: Row) -> bool:
    try:
        return parse(row.schedule).max_runs is not None
    except ScheduleError:
        return False


def names(task: Task | TaskInstance, key: Key) -> tuple[str, str | None]:
    """What goes into the audit log of the row ``key``: the task, and the instance if it is one."""
    return task.template.name, None if isinstance(task, StaticTask) else key.name
