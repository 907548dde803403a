"""The state of one claim in progress: its name, its start and end, and its memo. Decides nothing."""

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
    """The worker that makes the attempts."""

    def __init__(self, clock: AlignedClock, worker_id: str) -> None:
        self.clock = clock
        #: The worker's name, quoted for memos.
        self.worker_id: str = worker_id
        self.quoted_id: str = quoted(worker_id)


class Lease(NamedTuple):
    """The time until which nobody else runs the claimed occurrence."""

    #: The end on the store's clock.
    expires_at: datetime
    #: The end on the monotonic clock, counted from before the claim was sent, so it is earlier than the store's.
    deadline: float
    #: The difference between the store's clock, since 1970, and the monotonic clock (microseconds).
    offset: int

    @classmethod
    def of(cls, since: datetime, sent: float, duration: timedelta) -> "Lease":
        """The lease of a call that was sent at ``sent`` on the monotonic clock, and ``since`` on the store's."""
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
    #: How many further claims this run adopted: they started no body, so they are not attempts.
    _adopted: int

    def __str__(self) -> str:
        instance = "" if self.name == self.task.name else f" {self.name!r}"
        extra = ", extra run" if self.triggered else ""
        return f"task {self.task.name!r}{instance} of {self.claim.occurrence.isoformat()} (attempt {self.attempt}{extra})"

    @property
    def name(self) -> str:
        """The name of the static task or the instance, even for an extra run."""
        schedule = self.claim.schedule
        # Check before parsing: few runs are extra runs, and nearly every body reads its name.
        return (schedule.startswith(EXTRA_KINDS) and origin_of(schedule)) or self.claim.key.name

    @property
    def triggered(self) -> bool:
        """Whether it is an extra run, rather than one from the task's schedule."""
        return origin_of(self.claim.schedule) is not None

    @property
    def attempt(self) -> int:
        """The number of this attempt at the occurrence, from 1 on."""
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
        """The run, ending now."""
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
        """The previous run, if it was the last one that the task allows."""
        memo, attempt, most = Memo.read(self.claim.memo), self.attempt - 1, self.task.attempts
        if (run := memo.last_run) is not None and not memo.unreported(self.claim.occurrence, self.attempt):
            # it failed when the task allowed more attempts, or was interrupted
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

    # --- reports ----------------------------------------------------------------------------------------------------

    def fields(self) -> dict[str, Any]:
        """The fields of log records about the run."""
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
        """The memo after the body has succeeded."""
        # Computed from numbers, without parsing the previous memo, because this happens for each run of each task.
        runner, offset, claim = self._runner, self.lease.offset, self.claim
        assert self.started_at is not None
        started, ended = offset + int(self.started_at * 1_000_000), offset + int(runner.clock.monotonic() * 1_000_000)
        return of_success(to_microseconds(claim.occurrence), started, ended, claim.attempt - self._adopted, runner.quoted_id)

    def memo_of_start(self) -> str:
        """The memo for a body that is about to start, and whose end will not be stored."""
        started = self._microseconds_at(self._runner.clock.monotonic())
        return of_start(to_microseconds(self.claim.occurrence), started, self.attempt, self._runner.quoted_id)

    def memo_of(self, run: Run, *, failures: int = 1) -> str:
        """The memo for ``run``, which did not succeed and is added to ``failures``."""
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
        """The store's time (microseconds) at ``moment`` on the monotonic clock."""
        return self.lease.offset + int(moment * 1_000_000)
