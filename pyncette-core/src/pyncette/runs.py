"""What is known about one run, once it has started or ended."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Run", "RunOutcome"]


class RunOutcome(enum.StrEnum):
    """How an attempt at an occurrence ended."""

    #: Only of AT_MOST_ONCE, where this is stored before the body starts: how that ended is in the log and in the history.
    STARTED = "started"
    SUCCEEDED = "succeeded"
    #: The body raised, or ran longer than its timeout. The task's failure mode says what follows.
    FAILED = "failed"
    #: It failed in the last of ``max_attempts``.
    GIVEN_UP = "given up"
    #: Its worker died, or overran the lease, and reported nothing; in the last of ``max_attempts``.
    DIED = "died"
    #: Its process ended before the body did. It is run again.
    INTERRUPTED = "interrupted"
    #: It was missed and not run: ``catch_up`` or ``catch_up_window`` of the task, or of a resumption, left it out.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at an occurrence. Times are aware, UTC, and on the store's clock."""

    #: The time of the occurrence.
    scheduled_at: datetime
    #: When the body was started; None if that was not reported.
    started: datetime | None
    #: When the body ended, or its end was noticed; None where that was not stored.
    ended: datetime | None
    outcome: RunOutcome
    #: From 1 on.
    attempt: int
    #: Which application ran it, see :attr:`PyncetteContext.worker_id`; None if that was not reported.
    worker: str | None
    #: What went wrong: kind and text of what the body raised, cut where it is long.
    error: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """How long the body ran, if both ends are known."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def lateness(self) -> timedelta | None:
        """How long after its scheduled time the body started; for a retry, this includes the earlier attempts."""
        return None if self.started is None else self.started - self.scheduled_at
