"""Reports about one claim in progress to the history, listeners and the log."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.errors import LeaseLostException
from pyncette.history import as_triggered, text_of_run
from pyncette.listeners import RunEvent, Telling
from pyncette.memo import Memo
from pyncette.policies import CatchUp
from pyncette.runs import Run, RunOutcome
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Commit, Key, Outcome, Settlement
from pyncette.tasks import StaticTask, Task
from pyncette.worker.attempt import Attempt, Worker
from pyncette.worker.outcomes import ready_again_at
from pyncette.worker.recording import Recorder
from pyncette.worker.settlement import Answer
from pyncette.worker.watch import Watch

__all__ = ["Teller", "ToldAttempt", "described"]

logger: logging.Logger = logging.getLogger("pyncette.worker.execution")

#: How many unreadable rows are remembered, so that each is logged once.
_MOST_REMEMBERED = 10_000


class Teller(Worker):
    """A worker, and the receivers of its reports."""

    def __init__(
        self, clock: AlignedClock, worker_id: str, telling: Telling, recorder: Recorder, lease_lost: Callable[[Task], None]
    ) -> None:
        super().__init__(clock, worker_id)
        self.telling = telling
        #: When each template was resumed, and which of the occurrences missed until then run.
        self.resumed: dict[Task, tuple[datetime, CatchUp]] = {}
        #: Receives entries for the history.
        self.recorder = recorder
        #: Called with a task whose run lost its lease.
        self.lease_lost = lease_lost
        #: Says what blocked the event loop; None where time is virtual.
        self.watch: Watch | None = None
        self._reported: set[Key] = set()

    def is_news(self, key: Key) -> bool:
        """Whether an unreadable row is found for the first time, and so should be logged."""
        if key in self._reported:
            return False
        if len(self._reported) >= _MOST_REMEMBERED:
            self._reported.clear()
        self._reported.add(key)
        return True


class ToldAttempt(Attempt):
    """An attempt with reports."""

    __slots__ = ("_lost",)

    _runner: Teller
    #: Whether the loss of the lease has been reported.
    _lost: bool

    # --- the history ------------------------------------------------------------------------------------------------

    def record(self, run: Run) -> None:
        """Record ``run`` in the history, if the task keeps one."""
        if self.task.history is not None:
            self.record_text(text_of_run(run))

    def record_text(self, text: str) -> None:
        """The same for a run that is already written into a memo. An extra run counts as a run of its origin."""
        task, keep = self.task, self.task.history
        if keep is not None:
            key = task.key if isinstance(task, StaticTask) else Key(self.claim.key.partition, self.name)
            self._runner.recorder.put(task, key, as_triggered(text) if self.triggered else text, keep)

    # --- listeners --------------------------------------------------------------------------------------------------

    def tell(self, hook: str, run: Run, next_at: datetime | None = None, skipped_from: datetime | None = None) -> None:
        """Call ``hook`` of the listeners."""
        event = RunEvent(
            task=self.task,
            instance=self.instance,
            run=run,
            triggered=self.triggered,
            execution_id=self.execution_id,
            next_at=next_at,
            skipped_from=skipped_from,
        )
        self._runner.telling.tell(hook, event)

    def report(self, run: Run, settlement: Settlement, schedule: Schedule, *hooks: str) -> None:
        """Call ``hooks`` of the listeners: the run has ended with ``settlement``."""
        if not self._runner.telling.active:
            return
        for hook in hooks:
            self.tell(hook, run, ready_again_at(settlement))
        if self.task.skips and isinstance(settlement, Commit) and settlement.next is not None:
            first, following = schedule.next(self.claim.occurrence), settlement.next.occurrence
            if first != following:
                self.tell("skipped", run, following, first)

    def tell_begin(self) -> None:
        """Report that the body starts, and the takeover if another worker did not finish the occurrence."""
        started = dataclasses.replace(self.ended_as(RunOutcome.STARTED), ended=None)
        if self.claim.attempt > 1 and (unreported := Memo.read(self.claim.memo).unreported(self.claim.occurrence, self.attempt)):
            error = f"{unreported} attempt{'' if unreported == 1 else 's'} did not finish within the lease"
            died = dataclasses.replace(
                started,
                started=None,
                ended=started.started,
                outcome=RunOutcome.DIED,
                attempt=self.attempt - 1,
                worker=None,
                error=error,
            )
            self.tell("takeover", died)
        self.tell("begin", started)

    # --- the log ----------------------------------------------------------------------------------------------------

    def report_late(self) -> None:
        logger.warning("%s does not start: its lease has already expired%s", self, self.excuse(), extra=self.fields())
        self._runner.lease_lost(self.task)

    def report_adopted(self, ended: bool) -> None:
        if ended:
            logger.warning(
                "%s has finished, but its lease expired before the outcome could be stored; storing it under a new lease",
                self,
                extra=self.fields(),
            )
        else:
            logger.warning(
                "%s has run for %.0f s, longer than its lease of %g s; it continues under a new lease. Send heartbeats, give it a longer "
                "lease_duration, or end it with timeout=",
                self,
                self.elapsed,
                self.task.lease_duration.total_seconds(),
                extra=self.fields(),
            )

    def log_failure(self, error: BaseException) -> None:
        level = logging.WARNING if isinstance(error, LeaseLostException) else logging.ERROR
        logger.log(level, "%s failed: %s", self, type(error).__name__, exc_info=error, extra=self.fields())

    def report_overtaken(self) -> None:
        logger.warning("%s finished earlier, but after its lease expired; storing its outcome now", self, extra=self.fields())

    def report_undecided(self, error: Exception) -> None:
        """Report that code failed which decides what follows the run: a time zone, or a user's Retry."""
        what = "ended, but what follows can't be decided; it runs again when its lease expires"
        logger.error("%s %s: %s", self, what, type(error).__name__, exc_info=error, extra=self.fields())

    def log_answer(self, answer: Answer) -> None:
        outcome, extra = answer.outcome, self.fields()
        if outcome is Outcome.ALREADY:
            return
        if outcome is Outcome.LOST:
            logger.warning("%s finished after it was taken over; it may have run twice%s", self, self.excuse(), extra=extra)
            if not self._lost:
                self._runner.lease_lost(self.task)
        elif outcome is None:
            logger.error("The outcome of %s could not be stored; it may run again: %s", self, answer.error, extra=extra)
        else:
            what = "unscheduled" if outcome is Outcome.GONE else "re-scheduled"
            logger.debug("%s was %s in the meantime", self, what, extra=extra)

    def excuse(self) -> str:
        watch, lease = self._runner.watch, self.task.lease_duration.total_seconds()
        return "" if watch is None else watch.excuse(max(self.elapsed, lease) - min(0.0, self.remaining()))


def described(task: "asyncio.Task[Any]") -> str | None:
    """A description of the execution in ``task``; None if there is none. May be called from another thread."""
    # Read from the frame of Execution.run(), because recording the task of each run would slow down all runs for the few that block.
    frame = getattr(task.get_coro(), "cr_frame", None)
    execution = frame.f_locals.get("self") if frame is not None else None
    return str(execution) if isinstance(execution, ToldAttempt) else None
