"""What the policies of a task decide after an attempt, apart from its outcome: what is skipped because it was missed, and what is paused."""

import dataclasses
import logging
from datetime import datetime

from pyncette.instances import target_of
from pyncette.memo import Memo, Note
from pyncette.policies import CATCH_UPS, CatchUp, count_from, first_to_run
from pyncette.runs import Run, RunOutcome
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Repository, SupportsPause
from pyncette.worker.told import ToldAttempt

__all__ = ["PolicedAttempt"]

logger: logging.Logger = logging.getLogger("pyncette.worker.execution")


class PolicedAttempt(ToldAttempt):
    """An attempt that policies have a say in."""

    __slots__ = ()

    def skip(self, schedule: Schedule) -> Commit | None:
        """What leaves the occurrence out without running it; None if it is to be run."""
        task, claim = self.task, self.claim
        if self.triggered:
            return None
        now, late = self._runner.clock.now(), claim.execute_after - claim.occurrence
        following: datetime | None = claim.occurrence
        memo = Memo.read(claim.memo)
        since = self._since(memo)
        if since is not None:  # whatever passed in the pause; what passed later is the task's own affair
            following = first_to_run(schedule, claim.occurrence, since[0], since[1], None, late)
        elif claim.attempt > 1 or (memo.last_run is not None and memo.last_run.scheduled_at == claim.occurrence):
            return None  # it was attempted before, and is retried because of its policy, or because somebody asked for it
        if following is not None and (since is None or since[1] is not CatchUp.ALL) and following <= now:
            following = first_to_run(schedule, following, now, task.catch_up, task.catch_up_window, late)
        if following == claim.occurrence:
            return None
        count = count_from(schedule, claim.occurrence, following, now)
        what = "1 missed occurrence is" if count == 1 else f"{count} missed occurrences are"
        then = "there is no other" if following is None else f"the next is {following.isoformat()}"
        limit = "" if task.catch_up_window is None else f", catch_up_window={task.catch_up_window}"
        why = f"{task.catch_up}{limit}" if since is None else f"resumed at {since[0].isoformat()} with {since[1]}"
        logger.warning("%s: %s skipped (%s); %s", self, what, why, then, extra=self.fields())
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

    def noting_missed(self, commit: Commit, schedule: Schedule) -> Commit:
        """``commit`` of a run, with a memo of how many occurrences it leaves out, or with the next one if none is to be left out."""
        first = schedule.next(commit.claim.occurrence)
        memo = Memo.read(commit.memo or "")
        if commit.next is None or first is None or memo.skipped or first >= commit.next.occurrence:
            return commit
        since = self._since(Memo.read(commit.claim.memo))
        if since is not None and since[1] is CatchUp.ALL and first < since[0]:
            memo = dataclasses.replace(memo, since=(since[0], since[1].value))
            return dataclasses.replace(commit, next=target_of(schedule, commit.claim.key, first), memo=memo.text())
        count = count_from(schedule, first, commit.next.occurrence, first)
        return dataclasses.replace(commit, memo=dataclasses.replace(memo, skipped=count).text())

    def _since(self, memo: Memo) -> tuple[datetime, CatchUp] | None:
        """When the row or its template was resumed, and how that catches up; None if the occurrence comes after it."""
        known = [since for since in (self._runner.resumed.get(self.task),) if since is not None]
        if memo.since is not None and memo.since[1] in CATCH_UPS:
            known.append((memo.since[0], CATCH_UPS[memo.since[1]]))
        latest = max(known, key=lambda since: since[0], default=None)
        return latest if latest is not None and self.claim.occurrence < latest[0] else None

    async def pause(self, repository: Repository, claim: Claim, memo: str | None, why: str) -> None:
        """Pause the row, which has gone on to its next occurrence, for somebody to look at."""
        if not isinstance(repository, SupportsPause):
            logger.error(
                "%s was given up, but %s can't pause tasks; continuing", self, type(repository).__name__, extra=self.fields()
            )
            return
        now = self._runner.clock.now()
        note = Note(text=f"given up: {why}", by=self._runner.worker_id, at=now)
        try:
            await repository.pause(now, [claim.key], {claim.key: Memo.read(memo or "").paused(note).text()})
        except Exception:
            logger.exception("%s was given up, but can't be paused; continuing", self, extra=self.fields())
