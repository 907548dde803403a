"""What becomes of an occurrence after a run of it. Decides only: writes no store."""

from collections.abc import Callable
from datetime import datetime, timedelta

from pyncette.memo import Memo, counted
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Fail, Release, Settlement, Target
from pyncette.tasks import FailureMode, Task

__all__ = ["give_up", "memo_of_commit", "ready_again_at", "retry", "target", "text_of"]

_MAX_ERROR_CHARACTERS = 2000


def target(task: Task, claim: Claim, schedule: Schedule, now: Callable[[], datetime]) -> Target | None:
    """What follows on an occurrence that is done: the next one, or with ``fast_forward`` the next that is not missed yet.

    ``now`` is asked in the latter case only.
    """
    if schedule.max_runs is not None and Memo.read(claim.memo).runs_left(schedule.max_runs, claim.revision) == 1:
        return None
    following = schedule.next_after(claim.occurrence, now()) if task.fast_forward else schedule.next(claim.occurrence)
    return None if following is None else Target(following, schedule.execute_after(following, claim.key))


def memo_of_commit(claim: Claim, schedule: Schedule, memo: str) -> str:
    """``memo``, which counts the run where the schedule ends by their number."""
    return memo if schedule.max_runs is None else counted(memo, claim.memo, claim.revision)


def retry(
    task: Task,
    claim: Claim,
    schedule: Schedule,
    now: Callable[[], datetime],
    memo: str,
    *,
    lease_expires_at: datetime,
    poll_interval: timedelta,
) -> Settlement:
    """The body has failed, and the occurrence has attempts left: what the task's failure mode makes of that."""
    if task.failure_mode is FailureMode.COMMIT:
        return Commit(claim, target(task, claim, schedule, now), memo_of_commit(claim, schedule, memo))
    if task.failure_mode is FailureMode.UNLOCK:
        delay = poll_interval if task.retry_delay is None else task.retry_delay
        return Release(claim, now() + delay, memo=memo)
    return Release(claim, max(now(), lease_expires_at), memo=memo)


def give_up(task: Task, claim: Claim, schedule: Schedule, now: Callable[[], datetime], why: str, memo: str) -> Commit | Fail:
    """The occurrence has no attempts left. The schedule lives on; only what has no further occurrence is kept as failed."""
    following = target(task, claim, schedule, now)
    if following is None:
        return Fail(claim, why[:_MAX_ERROR_CHARACTERS], memo)
    return Commit(claim, following, memo_of_commit(claim, schedule, memo))


def ready_again_at(settlement: Settlement) -> datetime | None:
    """When the row can be claimed next once ``settlement`` is applied; None if it can't, or that is not told by it."""
    if isinstance(settlement, Commit):
        return settlement.next and settlement.next.execute_after
    return settlement.retry_at if isinstance(settlement, Release) else None


def text_of(error: BaseException) -> str:
    """Kind and text of ``error``, as any store can keep it, whatever ``str()`` of it does."""
    try:
        text = str(error)
    except BaseException as failure:
        text = f"(its text raised {type(failure).__name__})"
    return f"{type(error).__name__}: {text}".replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
