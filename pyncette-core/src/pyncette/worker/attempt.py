"""One claim in progress, as it is known: what it is called, when it started and ended, and what is to be remembered of it. Decides nothing."""

import dataclasses
import uuid
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pyncette.clock import AlignedClock, from_microseconds, to_microseconds
from pyncette.memo import Memo, of_start, of_success, quoted
from pyncette.runs import Run, RunOutcome
from pyncette.schedules.kinds import EXTRA_KINDS
from pyncette.schedules.text import origin_of
from pyncette.store.contract import Claim
from pyncette.tasks import StaticTask, Task
from pyncette.worker.outcomes import text_of

__all__ = ["Attempt", "Lease", "Worker"]

_EXECUTION_NAMESPACE = uuid.UUID("5cbbd8f2-6e66-4d5c-8f3e-8a5a3f6f0f0b")


class Worker:
    """Who makes the attempts."""

    def __init__(self, clock: AlignedClock, worker_id: str) -> None:
        self.clock = clock
        #: Also as it is written into memos.
        self.worker_id: str = worker_id
        self.quoted_id: str = quoted(worker_id)


class Lease(NamedTuple):
    """Until when nobody else runs what was claimed."""

    #: On the store's clock.
    expires_at: datetime
    #: On the monotonic clock, counted from before the claim was sent: the store's own end of the lease is later.
    deadline: float
    #: What is missing on the monotonic clock (microseconds) to the store's, which counts them from 1970.
    offset: int

    @classmethod
    def of(cls, since: datetime, sent: float, duration: timedelta) -> "Lease":
        """That of a call which was sent when it was ``sent`` on the monotonic clock, and ``since`` on the store's."""
        return cls(since + duration, sent + duration.total_seconds(), to_microseconds(since) - int(sent * 1_000_000))


class Attempt:
    """One attempt at an occurrence by this worker."""

    __slots__ = ("_adopted", "_runner", "claim", "lease", "started_at", "task")

    _runner: Worker
    task: Task
    claim: Claim
    lease: Lease
    #: When the body was started, on the monotonic clock; None before that.
    started_at: float | None
    #: Claims that were handed to this run: they started no body, and are not attempts.
    _adopted: int

    def __str__(self) -> str:
        instance = "" if self.name == self.task.name else f" {self.name!r}"
        extra = ", extra run" if self.triggered else ""
        return f"task {self.task.name!r}{instance} of {self.claim.occurrence.isoformat()} (attempt {self.attempt}{extra})"

    @property
    def name(self) -> str:
        """The name of the static task or the instance that is run, also of an extra run."""
        schedule = self.claim.schedule
        # Checked before parsing: hardly any run is an extra run, and nearly each body reads its name.
        return (schedule.startswith(EXTRA_KINDS) and origin_of(schedule)) or self.claim.key.name

    @property
    def triggered(self) -> bool:
        """Whether it is an extra run, and none of the task's own schedule."""
        return origin_of(self.claim.schedule) is not None

    @property
    def attempt(self) -> int:
        """Which attempt at the occurrence this run is, from 1 on."""
        return self.claim.attempt - self._adopted

    @property
    def is_last(self) -> bool:
        return self.task.attempts is not None and self.attempt >= self.task.attempts

    def remaining(self) -> float:
        """Seconds left of the lease; negative once it has expired."""
        return self.lease.deadline - self._runner.clock.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the body was started."""
        return 0.0 if self.started_at is None else self._runner.clock.monotonic() - self.started_at

    def ended_as(self, outcome: RunOutcome, error: BaseException | None = None) -> Run:
        """The run, which has started, and ends now."""
        assert self.started_at is not None
        return Run(
            scheduled_at=self.claim.occurrence,
            started=from_microseconds(self._microseconds_at(self.started_at)),
            ended=from_microseconds(self._microseconds_at(self._runner.clock.monotonic())),
            outcome=outcome,
            attempt=self.attempt,
            worker=self._runner.worker_id,
            error=None if error is None else text_of(error),
        )

    def over(self) -> Run:
        """The run before this, where that was the last that the task allows."""
        memo, attempt, most = Memo.read(self.claim.memo), self.attempt - 1, self.task.attempts
        if (run := memo.last_run) is not None and not memo.unreported(self.claim.occurrence, self.attempt):
            # It failed when the task was allowed more, or was interrupted.
            how = (
                f"was interrupted, and only {most} allowed"
                if run.outcome is RunOutcome.INTERRUPTED
                else f"failed, and {most} are allowed"
            )
            error = f"given up: attempt {attempt} {how}" + (f": {run.error}" if run.error else "")
            return dataclasses.replace(run, outcome=RunOutcome.GIVEN_UP, error=error)
        return Run(
            scheduled_at=self.claim.occurrence,
            started=None,
            ended=self._runner.clock.now(),
            outcome=RunOutcome.DIED,
            attempt=attempt,
            worker=None,
            error=f"given up: attempt {attempt} of {most} did not finish within its lease",
        )

    # --- what others learn ------------------------------------------------------------------------------------------

    def fields(self) -> dict[str, Any]:
        """What records of the log have of the run."""
        return {
            "task": self.task.name,
            "instance": self.instance,
            "scheduled_at": self.claim.occurrence.isoformat(),
            "attempt": self.attempt,
        }

    @property
    def instance(self) -> str | None:
        """The name of the instance; None for a static task."""
        return None if isinstance(self.task, StaticTask) else self.name

    @property
    def execution_id(self) -> str:
        """See :attr:`Context.execution_id`."""
        partition, name = self.claim.key
        return str(uuid.uuid5(_EXECUTION_NAMESPACE, f"{len(partition)}:{partition}{name}@{self.claim.occurrence.isoformat()}"))

    # --- memos ------------------------------------------------------------------------------------------------------

    def memo_of_success(self) -> str:
        """What is to be remembered once the body has ended well."""
        # All in numbers, and without a look at what was remembered before: each run of each task comes by here.
        runner, offset, claim = self._runner, self.lease.offset, self.claim
        assert self.started_at is not None
        started, ended = offset + int(self.started_at * 1_000_000), offset + int(runner.clock.monotonic() * 1_000_000)
        return of_success(to_microseconds(claim.occurrence), started, ended, claim.attempt - self._adopted, runner.quoted_id)

    def memo_of_start(self) -> str:
        """What is to be remembered of a body that is about to be started, if nobody will store its end."""
        started = self._microseconds_at(self._runner.clock.monotonic())
        return of_start(to_microseconds(self.claim.occurrence), started, self.attempt, self._runner.quoted_id)

    def memo_of(self, run: Run, *, failures: int = 1) -> str:
        """What is to be remembered of ``run``, which did not succeed, and so is one of ``failures`` more."""
        claim = self.claim
        memo = Memo.read(claim.memo)
        failures += memo.failures + memo.unreported(claim.occurrence, self.attempt)
        return Memo(
            run,
            failures,
            seen=claim.attempt if self._adopted else 0,
            succeeded=memo.last_success,
            counted=memo.counted,
            since=memo.since,
            adopted=self._adopted,
        ).text()

    def _microseconds_at(self, moment: float) -> int:
        """When it is ``moment`` on the monotonic clock: microseconds on the store's."""
        return self.lease.offset + int(moment * 1_000_000)
