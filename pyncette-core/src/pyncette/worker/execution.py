"""One run: from a claim, through the body, to its settlement."""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.errors import LeaseLostException
from pyncette.listeners import Telling
from pyncette.logs import CURRENT, RunFields
from pyncette.memo import Memo
from pyncette.policies import OnGiveUp
from pyncette.runs import Run, RunOutcome
from pyncette.schedules import text as schedules
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Extend, Fail, Key, Outcome, Release, Repository, Settlement
from pyncette.tasks import Task, stored_arguments
from pyncette.worker.attempt import Lease
from pyncette.worker.expecting import Expecting
from pyncette.worker.invoking import invoke_bounded, is_being_closed
from pyncette.worker.outcomes import give_up, is_final, memo_of_commit, ready_again_at, retry, target
from pyncette.worker.overtaken import Overtaken
from pyncette.worker.policy import PolicedAttempt
from pyncette.worker.recording import Recorder
from pyncette.worker.settlement import Answer, Settler
from pyncette.worker.told import Teller

__all__ = ["Execution", "Runner"]

logger: logging.Logger = logging.getLogger(__name__)


class Runner(Teller):
    """The state that all executions of an application share."""

    def __init__(
        self,
        invoke: "Callable[[Execution], Awaitable[Any]]",
        clock: AlignedClock,
        worker_id: str,
        telling: Telling,
        recorder: Recorder,
        *,
        repository: Repository,
        settler: Settler,
        poll_interval: timedelta,
        expect: Callable[[str, datetime], None],
        lease_lost: Callable[[Task], None],
    ) -> None:
        super().__init__(clock, worker_id, telling, recorder, lease_lost)
        #: Runs the body of an execution, inside its middlewares.
        self.invoke = invoke
        self.settler = settler
        #: Also the default pause before a retry.
        self.poll_interval = poll_interval
        #: Called with partitions, and the time at which a row of each can be claimed next.
        self.expecting: Expecting = Expecting(expect)
        self.repository = repository
        #: Set when no new body may start.
        self.draining = False
        #: Set when bodies are being cancelled.
        self.cancelling = False
        #: How many bodies have ended without being cut off, and how many of them failed.
        self.runs = self.failures = 0
        #: The executions in slots, oldest first.
        self.executions: dict[Execution, None] = {}
        #: The runs that hold a lease, from the start of the body until the outcome is stored.
        self.holding: dict[Key, Execution] = {}
        self.overtaken: Overtaken = Overtaken()

    def adopt(self, claim: Claim, lease: Lease) -> bool:
        """Let a run of the same occurrence in this process adopt ``claim``. Returns False if there is none.

        Otherwise a body that outlasts its lease would be started a second time, and neither run could ever be committed (I16).
        """
        execution = self.holding.get(claim.key)
        # Under another revision the schedule was replaced, so this is another occurrence, even if its time is the same.
        if execution is None or (execution.claim.occurrence, execution.claim.revision) != (claim.occurrence, claim.revision):
            return False
        execution.adopt(claim, lease)
        return True


class Execution(PolicedAttempt):
    """One claim in progress."""

    __slots__ = ("_ended", "_schedule", "_stored")

    def __init__(self, runner: Runner, task: Task, claim: Claim, lease: Lease) -> None:
        self._runner: Runner = runner
        self.task = task
        self.claim: Claim = claim
        self.lease: Lease = lease
        self.started_at = None
        self._adopted = 0 if claim.attempt == 1 else Memo.read(claim.memo).adopted_before(claim.attempt)
        self._lost = self._ended = False

    @property
    def scheduled_at(self) -> datetime:
        """The time of the occurrence in the schedule's time zone; known once it runs."""
        return self.claim.occurrence.astimezone(self._schedule.zone)

    def arguments(self) -> dict[str, Any]:
        """The arguments, as a fresh copy; known once it runs."""
        return self.task.arguments(self._stored)

    def adopt(self, claim: Claim, lease: Lease) -> None:
        """Continue under ``claim``, which this process made after the lease had expired."""
        self.report_adopted(self._ended)
        self.claim, self.lease = claim, lease
        self._lost = False
        self._adopted += 1

    async def run(self) -> None:
        """Run and commit the occurrence in the order of its execution mode, and report the outcome. Raises only cancellation."""
        task, claim, runner = self.task, self.claim, self._runner
        try:
            if runner.draining:
                self.release_unstarted()
                return
            try:
                self._schedule = schedule = schedules.parse(claim.schedule)
                self._stored = stored_arguments(claim.spec)
            except Exception:
                # A newer version of the code may understand the row, so leave it alone: it is claimed again after a lease.
                if runner.is_news(claim.key):
                    logger.exception("%s can't run: its stored row can't be read", self, extra=self.fields())
                self._settle(Release(claim, self.lease.expires_at, started=False))
                return
            if runner.overtaken and (ended := runner.overtaken.commit_of(claim)) is not None:
                self.report_overtaken()
                self._settle(ended)
                return
            if (task.skips or runner.resumed or '"since"' in claim.memo) and (skip := self.skip(schedule)) is not None:
                self._settle(skip)
                return
            if task.attempts is not None and self.attempt > task.attempts:
                # Its last worker died or outlasted its lease, and nobody else will report that.
                await self._give_up(self.over(), schedule)
                return
            commit = await self._commit(schedule) if task.commits_first else None
            if task.commits_first and commit is None:
                return
            self.started_at = runner.clock.monotonic()
            if not task.commits_first:
                if self.started_at >= self.lease.deadline:
                    self.started_at = None
                    self.report_late()
                    self.release_unstarted()
                    return
                runner.holding[claim.key] = self
            if runner.telling.active:
                self.tell_begin()
            if RunFields.wanted:
                CURRENT.set(self)
            error: BaseException | None = None
            try:
                await (self._invoke_bounded() if task.bounded else runner.invoke(self))
            except asyncio.CancelledError as cancelled:
                if runner.cancelling:
                    await self._interrupted(schedule, commit)
                    return
                error = cancelled
            except BaseException as raised:
                if is_being_closed():
                    raise
                error = raised
            else:
                if logger.isEnabledFor(logging.DEBUG):
                    logger.debug("%s ran", self, extra=self.fields())
            runner.runs += 1
            runner.failures += error is not None
            if commit is None and self.is_long:
                await self.note_resumption(runner.repository, schedule)
            if commit is not None:
                outcome, hook = (RunOutcome.SUCCEEDED, "end") if error is None else (RunOutcome.FAILED, "failure")
                if runner.telling.active or task.history is not None:
                    self.record(run := self.ended_as(outcome, error))
                    self.report(run, commit, schedule, hook)
                if error is not None:
                    self.log_failure(error)
            elif error is None:
                self._succeeded(schedule)
            elif self.is_last or is_final(task, error):
                await self._give_up(self.ended_as(RunOutcome.GIVEN_UP, error), schedule, error)
            else:
                self.log_failure(error)
                self._failed(schedule, error)
        except Exception as undecided:
            self.report_undecided(undecided)
            runner.holding.pop(claim.key, None)
        finally:
            runner.executions.pop(self, None)

    async def _commit(self, schedule: Schedule) -> Commit | None:
        """Commit before the body starts; None if it must not start."""
        runner, claim = self._runner, self.claim
        following = target(self.task, claim, schedule, runner.clock.now)
        memo = following and memo_of_commit(claim, schedule, self.memo_of_start())  # a removed row has no memo
        commit = self.noting_missed(Commit(claim, following, memo), schedule)
        answer = await self._runner.settler.submit(commit, self.lease.deadline)
        if answer.outcome is not Outcome.APPLIED:
            self.log_answer(answer)
        self._expect_after(answer, commit)
        return commit if answer.outcome is Outcome.APPLIED or (answer.outcome is Outcome.ALREADY and answer.resent) else None

    def _invoke_bounded(self) -> Awaitable[Any]:
        task, invoke = self.task, self._runner.invoke
        if task.max_running is None:
            return invoke_bounded(lambda: invoke(self), task.timeout)
        return invoke_bounded(lambda: invoke(self), task.timeout, self.heartbeat, task.lease_duration / 3)

    def release_unstarted(self) -> None:
        """Release the claim as if it had not been made."""
        self._settle(Release(self.claim, self._runner.clock.now(), started=False))

    @property
    def is_late(self) -> bool:
        """Whether the lease has expired before the body started, so that it must not start."""
        return not self.task.commits_first and self.remaining() <= 0

    async def return_late(self) -> None:
        """Release a claim whose answer arrived after its lease, and wait until that is stored; otherwise the next claim would count as another attempt."""
        self.report_late()
        release = Release(self.claim, self._runner.clock.now(), started=False)
        self._expect_after(await self._runner.settler.submit(release, self.lease.deadline), release)

    async def heartbeat(self) -> None:
        if self.task.commits_first:
            return
        if not self._lost:
            clock, claim, duration = self._runner.clock, self.claim, self.task.lease_duration
            # Read the clock before sending the call, so that the local end of the lease comes before the store's.
            sent = clock.monotonic()
            lease = Lease.of(clock.now(), sent, duration)
            answer = await self._runner.settler.submit(Extend(claim, lease.expires_at), self.lease.deadline)
            if self.claim is not claim:
                return  # the run adopted another claim meanwhile, and has a new lease
            if answer.outcome is Outcome.APPLIED:
                self.lease = lease
                return
            self._lost = True
            logger.warning("%s lost its lease: %s%s", self, answer.error or answer.outcome, self.excuse(), extra=self.fields())
            self._runner.lease_lost(self.task)
        raise LeaseLostException(f"The lease of {self} is lost; another worker may run it now")

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def _succeeded(self, schedule: Schedule) -> None:
        runner, claim = self._runner, self.claim
        following = target(self.task, claim, schedule, runner.clock.now)
        kept = self.task.history is not None
        # The row and the history get the same text, which is built once.
        memo = self.memo_of_success() if kept or following is not None else None
        if kept and memo is not None:
            self.record_text(memo)
        commit = Commit(claim, following, memo and following and memo_of_commit(claim, schedule, memo))
        if runner.telling.active:
            self.report(self.ended_as(RunOutcome.SUCCEEDED), commit, schedule, "end")
        self._settle(commit)

    async def _interrupted(self, schedule: Schedule, commit: Commit | None) -> None:
        """The process ends before the body does."""
        self.record(run := self.ended_as(RunOutcome.INTERRUPTED))
        if commit is not None:
            return
        await self.note_resumption(self._runner.repository, schedule, hurry=True)
        release = Release(self.claim, self._runner.clock.now(), memo=self.memo_of(run, failures=0))
        self.report(run, release, schedule, "retry")
        self._settle(release)

    def _failed(self, schedule: Schedule, error: BaseException) -> None:
        """The settlement of an occurrence that has attempts left."""
        runner, run = self._runner, self.ended_as(RunOutcome.FAILED, error)
        settlement = retry(
            self.task,
            self.claim,
            schedule,
            runner.clock.now,
            self.memo_of(run),
            error=error,
            attempt=self.attempt,
            execution_id=lambda: self.execution_id,
            lease_expires_at=self.lease.expires_at,
            poll_interval=runner.poll_interval,
        )
        self.record(run)
        self.report(run, settlement, schedule, "failure", *(("retry",) if isinstance(settlement, Release) else ()))
        self._settle(settlement)

    async def _give_up(self, run: Run, schedule: Schedule, error: BaseException | None = None) -> None:
        why, memo = run.error or "", self.memo_of(run, failures=error is not None)
        settlement = give_up(self.task, self.claim, schedule, self._runner.clock.now, why, memo)
        what = "it is kept as failed" if (at := ready_again_at(settlement)) is None else f"the next occurrence is {at.isoformat()}"
        logger.error("%s is given up; %s: %s", self, what, why, exc_info=error, extra=self.fields())
        self.record(run)
        self.report(run, settlement, schedule, *(("failure",) if error is not None else ()), "given_up")
        if self.task.retry is None or self.task.retry.on_give_up is not OnGiveUp.PAUSE or isinstance(settlement, Fail):
            self._settle(settlement)
        elif await self._settled(settlement):  # only now, because the task may have been scheduled again meanwhile
            await self.pause(self._runner.repository, settlement.claim, settlement.memo, why)

    def _settled(self, settlement: Settlement) -> Awaitable[bool]:
        """Like :meth:`_settle`; returns whether it was applied."""
        applied: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def then(outcome: Outcome | None) -> None:
            if not applied.done():
                applied.set_result(outcome is Outcome.APPLIED)

        self._settle(settlement, then)
        return applied

    def _settle(self, settlement: Settlement, then: Callable[[Outcome | None], Any] | None = None) -> None:
        """Report an outcome. If the store refuses, the lease expires and the occurrence runs again."""
        if isinstance(settlement, Commit):
            settlement = self.noting_missed(settlement, self._schedule)
        self._ended, holding, key = True, self._runner.holding, settlement.claim.key

        def done(answer: Answer) -> None:
            adopted = self.claim is not settlement.claim
            if adopted and answer.outcome is Outcome.LOST:  # by the claim that this run has adopted since
                self._settle(dataclasses.replace(settlement, claim=self.claim), then)
                return
            if holding.get(key) is self:
                del holding[key]
            if adopted:  # the outcome was stored before, and the claim is for another attempt, which nobody runs
                self.release_unstarted()
            if answer.outcome is not Outcome.APPLIED:
                self.log_answer(answer)
                if answer.outcome is Outcome.LOST and isinstance(settlement, Commit):
                    self._runner.overtaken.remember(settlement)
            self._expect_after(answer, settlement)
            if then is not None:
                then(answer.outcome)

        self._runner.settler.put(settlement, self.lease.deadline, done)

    def _expect_after(self, answer: Answer, settlement: Settlement) -> None:
        """Report when the row can be claimed next, if that is known."""
        again = None
        if answer.outcome is Outcome.APPLIED or answer.outcome is Outcome.ALREADY:
            again = ready_again_at(settlement)
        elif answer.outcome is Outcome.SUPERSEDED:  # with a new schedule, which may have become due while the row was held
            again = self._runner.clock.now()
        if again is not None:
            self._runner.expecting.soon(settlement.claim.key.partition, again)
