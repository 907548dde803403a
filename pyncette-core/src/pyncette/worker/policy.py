"""What the policies of a task decide apart from the outcome of an attempt: which missed occurrences are skipped, and whether to pause."""

import asyncio
import dataclasses
import logging
from datetime import datetime

from pyncette.instances import target_of
from pyncette.memo import Memo, Note
from pyncette.policies import CATCH_UPS, CatchUp, count_from, first_to_run, how_many
from pyncette.runs import Run, RunOutcome
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Repository, SupportsPause
from pyncette.waiting import fault
from pyncette.worker.told import ToldAttempt

__all__ = ["PolicedAttempt"]

logger: logging.Logger = logging.getLogger("pyncette.worker.execution")

#: Shorter runs don't look up their row (seconds); and how long the others wait for the answer, even during shutdown.
_LONG, _LOOK, _HURRY = 1.0, 5.0, 0.2


class PolicedAttempt(ToldAttempt):
    """An attempt to which policies apply."""

    __slots__ = ()

    def skip(self, schedule: Schedule) -> Commit | None:
        """The settlement that skips the occurrence without running it; None if it runs."""
        task, claim = self.task, self.claim
        if self.triggered:
            return None
        now, late = self._runner.clock.now(), claim.execute_after - claim.occurrence
        following: datetime | None = claim.occurrence
        memo = Memo.read(claim.memo)
        since = self._since(memo)
        if since is not None:  # occurrences during the pause; for later ones, the task's own policy applies
            following = first_to_run(schedule, claim.occurrence, since[0], since[1], None, late)
        elif claim.attempt > 1 or (memo.last_run is not None and memo.last_run.scheduled_at == claim.occurrence):
            return None  # it was attempted before, and is retried by policy or on request
        if following is not None and (since is None or since[1] is not CatchUp.ALL) and following <= now:
            chosen = memo.chosen == following
            following = first_to_run(schedule, following, now, task.catch_up, task.catch_up_window, late, chosen=chosen)
        if following == claim.occurrence:
            return None
        count = count_from(schedule, claim.occurrence, following, now)
        what = "1 missed occurrence is" if count == 1 else f"{how_many(count, claim.schedule)} missed occurrences are"
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
        memo = dataclasses.replace(memo, skipped=memo.skipped + count, chosen=following)
        return Commit(claim, target, None if target is None else memo.text())

    @property
    def is_long(self) -> bool:
        """Whether the run may have lasted longer than a pause of its task."""
        return self.elapsed >= _LONG

    async def note_resumption(self, repository: Repository, schedule: Schedule, *, hurry: bool = False) -> None:
        """Find out whether the row was paused and resumed during the run: only the row says so, and the outcome replaces its memo.

        A run that ends before its next occurrence has missed none in a pause, and need not look.
        """
        claim = self.claim
        following = schedule.next(claim.occurrence)
        if following is None or following > self._runner.clock.now():
            return
        try:
            async with asyncio.timeout(min(_HURRY if hurry else _LOOK, max(self.remaining() / 2, _HURRY))):
                [row] = await repository.get([claim.key])
        except (Exception, asyncio.CancelledError):
            return  # then more may run than requested, but nothing is lost, and the outcome is stored
        # the run may have adopted another claim meanwhile
        if row is not None and row.lease == self.claim.lease and row.memo != self.claim.memo:
            memo = dataclasses.replace(Memo.read(self.claim.memo), since=Memo.read(row.memo).since)
            self.claim: Claim = self.claim._replace(memo=memo.text())

    def noting_missed(self, commit: Commit, schedule: Schedule) -> Commit:
        """``commit`` of a run, with a memo that contains what the next occurrence must know about missed ones.

        That is how many the commit skips, and a resumption that decides what follows. If the resumption says that each one runs, the commit
        continues with the next.
        """
        claim, following = commit.claim, commit.next
        if not self.task.skips and '"since"' not in claim.memo:
            return commit
        first = schedule.next(claim.occurrence)
        if following is None or first is None:
            return commit
        memo, since = Memo.read(commit.memo or ""), self._since(Memo.read(claim.memo))
        if since is not None and since[1] is CatchUp.ALL and first < since[0]:
            following = target_of(schedule, claim.key, first)
        if since is not None and following.occurrence < since[0]:
            memo = dataclasses.replace(memo, since=(since[0], since[1].value))
        if first < following.occurrence and not memo.skipped:
            memo = dataclasses.replace(memo, skipped=count_from(schedule, first, following.occurrence, first))
        return dataclasses.replace(commit, next=following, memo=memo.text())

    def _since(self, memo: Memo) -> tuple[datetime, CatchUp] | None:
        """When the row or its template was resumed, and which missed occurrences then run; None if the occurrence comes later."""
        known = [since for since in (self._runner.resumed.get(self.task),) if since is not None]
        if memo.since is not None and memo.since[1] in CATCH_UPS:
            known.append((memo.since[0], CATCH_UPS[memo.since[1]]))
        latest = max(known, key=lambda since: since[0], default=None)
        return latest if latest is not None and self.claim.occurrence < latest[0] else None

    async def pause(self, repository: Repository, claim: Claim, memo: str | None, why: str) -> None:
        """Pause the row, which has moved on to its next occurrence, until somebody has checked it."""
        if not isinstance(repository, SupportsPause):
            logger.error(
                "%s was given up, but %s can't pause tasks; continuing", self, type(repository).__name__, extra=self.fields()
            )
            return
        now = self._runner.clock.now()
        note = Note(text=f"given up: {why}", by=self._runner.worker_id, at=now)
        try:
            await repository.pause(now, [claim.key], {claim.key: Memo.read(memo or "").paused(note).text()})
        except (Exception, asyncio.CancelledError) as error:
            logger.error("%s was given up, but can't be paused; continuing", self, exc_info=fault(error), extra=self.fields())  # noqa: TRY400
