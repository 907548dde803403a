"""A run that has started or ended."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Run", "RunOutcome"]


class RunOutcome(enum.StrEnum):
    """How an attempt at an occurrence ended."""

    #: Only under AT_MOST_ONCE, where the run is stored before the body starts: the log and the history say how it ended.
    STARTED = "started"
    SUCCEEDED = "succeeded"
    #: The body raised, or ran longer than its timeout. The task's failure mode says what follows.
    FAILED = "failed"
    #: It failed in the last of ``max_attempts``.
    GIVEN_UP = "given up"
    #: Its worker died or outlasted the lease without a report, in the last of ``max_attempts``.
    DIED = "died"
    #: Its process ended before the body did. The occurrence runs again.
    INTERRUPTED = "interrupted"
    #: It was missed and not run, because of the ``catch_up`` or ``catch_up_window`` of the task or of a resumption.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at an occurrence. Times are aware, UTC, and on the store's clock."""

    #: The time of the occurrence.
    scheduled_at: datetime
    #: When the body was started; None if that was not reported.
    started: datetime | None
    #: When the body ended, or its end was noticed; None if that was not stored.
    ended: datetime | None
    outcome: RunOutcome
    #: The number of the attempt, from 1 on.
    attempt: int
    #: The worker that ran it, see :attr:`PyncetteContext.worker_id`; None if that was not reported.
    worker: str | None
    #: What went wrong: the class and text of the body's exception, cut if it is long.
    error: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """How long the body ran, if both ends are known."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def lateness(self) -> timedelta | None:
        """How long after its scheduled time the body started; for a retry, this includes the earlier attempts."""
        return None if self.started is None else self.started - self.scheduled_at
