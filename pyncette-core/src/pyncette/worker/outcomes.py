"""What happens to an occurrence after a run. Only decides, and writes to no store."""

from collections.abc import Callable
from datetime import datetime, timedelta

from pyncette.memo import Memo, counted
from pyncette.policies import CatchUp, FailureMode, GiveUp, OnGiveUp, RetryAfter
from pyncette.schedules.kinds import Schedule
from pyncette.store.contract import Claim, Commit, Fail, Release, Settlement, Target
from pyncette.tasks import Task

__all__ = ["give_up", "is_final", "memo_of_commit", "ready_again_at", "retry", "target", "text_of"]

_MAX_ERROR_CHARACTERS = 2000


def target(task: Task, claim: Claim, schedule: Schedule, now: Callable[[], datetime]) -> Target | None:
    """The occurrence after one that is done: the next one or, unless all missed ones are caught up, the next that is not missed.

    ``now`` is called only in the second case.
    """
    if schedule.max_runs is not None and Memo.read(claim.memo).runs_left(schedule.max_runs, claim.revision) == 1:
        return None
    all_run = task.catch_up is CatchUp.ALL
    following = schedule.next(claim.occurrence) if all_run else schedule.next_after(claim.occurrence, now())
    if following is None:
        return None
    return Target(following, schedule.execute_after(following, claim.key) if schedule.jitter else following)


def memo_of_commit(claim: Claim, schedule: Schedule, memo: str) -> str:
    """``memo``, with the run counted if the schedule has ``max_runs``."""
    return memo if schedule.max_runs is None else counted(memo, claim.memo, claim.revision)


def retry(
    task: Task,
    claim: Claim,
    schedule: Schedule,
    now: Callable[[], datetime],
    memo: str,
    *,
    error: BaseException,
    attempt: int,
    execution_id: Callable[[], str],
    lease_expires_at: datetime,
    poll_interval: timedelta,
) -> Settlement:
    """The settlement after the body raised ``error`` in ``attempt`` and the occurrence has attempts left, by the task's policies."""
    if isinstance(error, RetryAfter):
        return Release(claim, now() + error.delay, memo=memo)
    if task.retry is not None:
        return Release(claim, now() + task.retry.pause(attempt, execution_id()), memo=memo)
    if task.failure_mode is FailureMode.COMMIT:
        return Commit(claim, target(task, claim, schedule, now), memo_of_commit(claim, schedule, memo))
    if task.failure_mode is FailureMode.UNLOCK:
        delay = poll_interval if task.retry_delay is None else task.retry_delay
        return Release(claim, now() + delay, memo=memo)
    return Release(claim, max(now(), lease_expires_at), memo=memo)


def give_up(task: Task, claim: Claim, schedule: Schedule, now: Callable[[], datetime], why: str, memo: str) -> Commit | Fail:
    """The settlement of an occurrence without attempts left. The schedule continues, and only a row without a further occurrence is kept as
    failed, unless the task says otherwise. A pause follows separately.
    """
    following, then = target(task, claim, schedule, now), None if task.retry is None else task.retry.on_give_up
    kept = then is OnGiveUp.FAIL or (following is None and then is not OnGiveUp.NEXT)
    return (
        Fail(claim, why[:_MAX_ERROR_CHARACTERS], memo) if kept else Commit(claim, following, memo_of_commit(claim, schedule, memo))
    )


def is_final(task: Task, error: BaseException) -> bool:
    """Whether no further attempt would help after ``error``, according to its class or the task."""
    return isinstance(error, GiveUp) or (task.retry is not None and isinstance(error, task.retry.give_up_on))


def ready_again_at(settlement: Settlement) -> datetime | None:
    """When the row can be claimed next once ``settlement`` is applied; None if it can't, or if the settlement does not say."""
    if isinstance(settlement, Commit):
        return settlement.next and settlement.next.execute_after
    return settlement.retry_at if isinstance(settlement, Release) else None


def text_of(error: BaseException) -> str:
    """The class and text of ``error``, in a form that every store can keep, whatever its ``str()`` does."""
    try:
        text = str(error)
    except BaseException as failure:
        text = f"(its text raised {type(failure).__name__})"
    return f"{type(error).__name__}: {text}".replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
