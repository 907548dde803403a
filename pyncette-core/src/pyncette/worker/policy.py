"""What the policies of a task make of an attempt besides its outcome: what is skipped since it was missed, and what is paused."""

import dataclasses
import logging
from collections.abc import Mapping
from datetime import datetime

from pyncette.instances import target_of
from pyncette.memo import Memo, Note
from pyncette.policies import CatchUp, count_from, first_to_run
from pyncette.runs import Run, RunOutcome
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Repository, SupportsPause
from pyncette.tasks import Task
from pyncette.worker.told import ToldAttempt

__all__ = ["PolicedAttempt", "Resumed"]

logger = logging.getLogger("pyncette.worker.execution")

#: When each template that was paused has been resumed, and what is to be caught up of what was missed until then.
Resumed = Mapping[Task, tuple[datetime, CatchUp]]


class PolicedAttempt(ToldAttempt):
    """An attempt that policies have a say in."""

    __slots__ = ()

    def skip(self, schedule: Schedule, resumed: Resumed) -> Commit | None:
        """What leaves the occurrence out without running it; None if it is to be run."""
        task, claim = self.task, self.claim
        if claim.attempt > 1 or self.triggered:
            return None
        now, late = self._runner.clock.now(), claim.execute_after - claim.occurrence
        following: datetime | None = claim.occurrence
        since, how = resumed.get(task, (None, task.catch_up))
        if (
            since is not None and claim.occurrence < since
        ):  # of what passed in the pause; what passed later is the task's own affair
            following = first_to_run(schedule, claim.occurrence, since, how, None, late)
        if following is not None and following <= now and not (since is not None and following < since and how is CatchUp.ALL):
            following = first_to_run(schedule, following, now, task.catch_up, task.catch_up_window, late)
        memo = Memo.read(claim.memo)
        if following == claim.occurrence or (memo.last_run is not None and memo.last_run.scheduled_at == claim.occurrence):
            return None  # the latter was tried before, and is tried again because somebody wants that
        count = count_from(schedule, claim.occurrence, following, now)
        what = "1 missed occurrence is" if count == 1 else f"{count} missed occurrences are"
        then = "there is no other" if following is None else f"the next is {following.isoformat()}"
        limit = "" if task.catch_up_window is None else f", catch_up_window={task.catch_up_window}"
        logger.warning("%s: %s skipped (%s%s); %s", self, what, task.catch_up, limit, then, extra=self.fields())
        run = Run(
            scheduled_at=claim.occurrence,
            started=None,
            ended=now,
            outcome=RunOutcome.SKIPPED,
            attempt=claim.attempt,
            worker=self._runner.worker_id,
            error=f"{what} skipped; {then}",
        )
        self.record(run)
        if self._runner.telling.active:
            self.tell("skipped", run, following, claim.occurrence)
        target = None if following is None else target_of(schedule, claim.key, following)
        return Commit(claim, target, None if target is None else dataclasses.replace(memo, skipped=memo.skipped + count).text())

    def counting_skipped(self, commit: Commit, schedule: Schedule) -> Commit:
        """``commit`` of a run, with a memo of how many occurrences it leaves out."""
        first = schedule.next(commit.claim.occurrence)
        if commit.next is None or commit.memo is None or first is None or first >= commit.next.occurrence:
            return commit
        if Memo.read(commit.memo).skipped:  # of an occurrence that was left out itself
            return commit
        count = count_from(schedule, first, commit.next.occurrence, first)
        return dataclasses.replace(commit, memo=dataclasses.replace(Memo.read(commit.memo), skipped=count).text())

    async def pause(self, repository: Repository, claim: Claim, memo: str | None, why: str) -> None:
        """Pause the row, which has gone on to its next occurrence, for somebody to look at."""
        now = self._runner.clock.now()
        note = Note(text=f"given up: {why}", by=self._runner.worker_id, at=now)
        try:
            if not isinstance(repository, SupportsPause):
                raise NotImplementedError(f"{type(repository).__name__} can't pause tasks")
            await repository.pause(now, [claim.key], {claim.key: Memo.read(memo or "").paused(note).text()})
        except Exception:
            logger.exception("%s was given up, but can't be paused; continuing", self, extra=self.fields())
