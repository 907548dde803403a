"""The policies of a task, which decide what happens to failed and missed occurrences, as pure functions.

Stores know nothing about them, and rows don't contain them: all workers decide alike because they run the same code.
"""

import enum
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pyncette.checks import check_count, check_duration, check_type
from pyncette.errors import ConfigurationError
from pyncette.schedules.kinds import Interval, Once, Schedule
from pyncette.values import plain_duration, shown

__all__ = [
    "CATCH_UPS",
    "CatchUp",
    "ExecutionMode",
    "FailureMode",
    "GiveUp",
    "OnGiveUp",
    "Retry",
    "RetryAfter",
    "check_policies",
    "count_from",
    "first_to_run",
    "how_many",
]


class ExecutionMode(enum.Enum):
    """In which order an occurrence is run and committed."""

    #: Run, then commit: nothing is lost, but a worker that dies in between makes it run again.
    AT_LEAST_ONCE = "at_least_once"
    #: Commit, then run: nothing runs twice, but a worker that dies in between loses the run.
    AT_MOST_ONCE = "at_most_once"
    #: An alias of AT_MOST_ONCE.
    BEST_EFFORT = "at_most_once"  # noqa: PIE796 - meant as an alias


class FailureMode(enum.Enum):
    """What happens to an occurrence whose body raised (AT_LEAST_ONCE only)."""

    #: Leave the lease: it runs again when the lease expires.
    NONE = "none"
    #: Release the lease: it runs again after ``retry_delay``, or else at the next poll.
    UNLOCK = "unlock"
    #: Treat the failure as done: continue to the next occurrence.
    COMMIT = "commit"


# --- retries ----------------------------------------------------------------------------------------------------------


class OnGiveUp(enum.Enum):
    """What happens when an occurrence is given up."""

    #: Continue with the next occurrence; a task that has none is removed.
    NEXT = "next"
    #: Keep the task as failed, with its error: it does not run until it is retried or scheduled again.
    FAIL = "fail"
    #: Move on to the next occurrence, but pause the task before it, until it is resumed.
    PAUSE = "pause"


class GiveUp(Exception):
    """Raised by a body to give up this occurrence now, however many attempts are left. The message is kept as the reason."""


class RetryAfter(Exception):
    """Raised by a body to retry this occurrence after ``delay``, if attempts are left. Created by ``context.retry_after()``."""

    def __init__(self, delay: timedelta) -> None:
        check_duration(delay, "The delay of retry_after()", zero=True)
        self.delay: timedelta = plain_duration(delay)
        super().__init__(f"retry after {self.delay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and when an occurrence whose body failed is retried.

    The delay after attempt *n* is ``delay * factor ** (n - 1)``, at most ``limit``, and spread by ``jitter``. It depends only
    on the attempt and the occurrence, so all workers agree on it.
    """

    #: The maximum number of attempts at an occurrence, including the first; None: until one succeeds.
    attempts: int | None = None
    #: The pause after the first attempt.
    delay: timedelta = timedelta(seconds=1)
    #: The ratio of each further pause to the one before; at least 1.
    factor: float = 2.0
    #: The longest pause.
    limit: timedelta = timedelta(hours=1)
    #: The largest fraction, from 0 to 1, by which a pause is made longer or shorter, so that runs that failed together are not retried together.
    jitter: float = 0.1
    #: Exception classes for which another attempt would not help: the occurrence is given up at once.
    give_up_on: tuple[type[Exception], ...] = ()
    #: What happens when an occurrence is given up. None: NEXT if there is a next occurrence, otherwise FAIL.
    on_give_up: OnGiveUp | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            check_count(self.attempts, "attempts of Retry")
        for name in ("delay", "limit"):
            check_duration(getattr(self, name), f"{name} of Retry", zero=name == "delay")
            object.__setattr__(self, name, plain_duration(getattr(self, name)))
        _check_number("factor", self.factor, 1.0, float("inf"))
        _check_number("jitter", self.jitter, 0.0, 1.0)
        given = self.give_up_on if isinstance(self.give_up_on, tuple) else (self.give_up_on,)
        for error in given:
            if not (isinstance(error, type) and issubclass(error, Exception)):
                raise ConfigurationError(
                    f"give_up_on of Retry contains {shown(error)}; pass classes of exceptions, such as (ValueError,)"
                )
        object.__setattr__(self, "give_up_on", given)
        if self.on_give_up is not None:
            check_type(self.on_give_up, OnGiveUp, "on_give_up of Retry")

    def __str__(self) -> str:
        attempts = "any number of attempts" if self.attempts is None else f"{self.attempts} attempts"
        spread = f", give or take {self.jitter:.0%}" if self.jitter else ""
        then = "" if self.on_give_up is None else f"; then {self.on_give_up.value}"
        return f"{attempts}, {self.delay} apart, each pause {self.factor:g} times the last, up to {self.limit}{spread}{then}"

    def pause(self, attempt: int, execution_id: str) -> timedelta:
        """How long to wait after ``attempt`` (from 1 on) at the occurrence ``execution_id``."""
        try:
            pause = min(self.limit.total_seconds(), self.delay.total_seconds() * float(self.factor) ** (attempt - 1))
        except OverflowError:
            pause = self.limit.total_seconds() if self.delay else 0.0
        return timedelta(seconds=pause * (1 + self.jitter * (2 * _fraction(f"{execution_id} {attempt}") - 1)))


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value == float("inf"):
        raise ConfigurationError(
            f"{name} of Retry is {shown(value)}; pass a number {f'from {least:g} to {most:g}' if most < 2 else f'of at least {least:g}'}"
        )


def _fraction(text: str) -> float:
    """A number from 0 to 1 that depends only on ``text``, evenly distributed over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


# --- combinations ---------------------------------------------------------------------------------------------------------


class _Declared(Protocol):
    """The policies of a task."""

    @property
    def execution_mode(self) -> ExecutionMode: ...
    @property
    def failure_mode(self) -> FailureMode: ...
    @property
    def max_attempts(self) -> int | None: ...
    @property
    def retry_delay(self) -> timedelta | None: ...
    @property
    def retry(self) -> Retry | None: ...
    @property
    def catch_up(self) -> "CatchUp": ...
    @property
    def fast_forward(self) -> bool: ...
    @property
    def max_running(self) -> int | None: ...


def check_policies(task: _Declared, what: str) -> None:
    """Raise ConfigurationError if the policies of ``task`` are invalid, or contradict each other."""
    check_type(task.catch_up, CatchUp, f"catch_up of {what}")
    if task.fast_forward and task.catch_up is CatchUp.NONE:
        raise ConfigurationError(
            f"fast_forward=True of {what} is catch_up=CatchUp.LATEST, but {task.catch_up} is given; leave one out"
        )
    at_most_once = task.execution_mode is ExecutionMode.AT_MOST_ONCE
    if at_most_once and task.failure_mode is FailureMode.UNLOCK:
        raise ConfigurationError(
            f"FailureMode.UNLOCK of {what} would run it again, which AT_MOST_ONCE rules out; use NONE, or AT_LEAST_ONCE"
        )
    if task.max_running is not None:
        if task.max_running != 1 or isinstance(task.max_running, bool):
            raise ConfigurationError(f"max_running of {what} is {shown(task.max_running)}; pass 1, or leave it out for no limit")
        if not at_most_once:
            raise ConfigurationError(
                f"max_running of {what} has no effect, because the lease keeps its runs apart; leave it out, or use AT_MOST_ONCE"
            )
    if task.retry is not None:
        check_type(task.retry, Retry, f"retry of {what}")
        if at_most_once:
            raise ConfigurationError(
                f"retry of {what} would run it again, which AT_MOST_ONCE rules out; leave it out, or use AT_LEAST_ONCE"
            )
        if task.max_attempts is not None or task.retry_delay is not None:
            short = "max_attempts" if task.max_attempts is not None else "retry_delay"
            raise ConfigurationError(
                f"{short} of {what} is given along with retry=; put it there, as attempts= and delay= of Retry"
            )
        return
    if task.max_attempts is not None and (at_most_once or task.failure_mode is FailureMode.COMMIT):
        raise ConfigurationError(f"max_attempts of {what} has no effect, because nothing is retried; leave it out")
    if task.retry_delay is not None and task.failure_mode is not FailureMode.UNLOCK:
        raise ConfigurationError(
            f"retry_delay of {what} has no effect under {task.failure_mode}; use failure_mode=FailureMode.UNLOCK, or leave it out"
        )


# --- missed occurrences ------------------------------------------------------------------------------------------------


class CatchUp(enum.Enum):
    """Which occurrences run after all if they were missed because no worker ran or the task was paused."""

    #: Each, one after another.
    ALL = "all"
    #: The latest of them, once. Occurrences that pass while a body runs are skipped, too.
    LATEST = "latest"
    #: None that is later than ``catch_up_window``, or a minute if that is not set. Occurrences that pass while a body runs are skipped, too.
    NONE = "none"


#: The policies by their stored value.
CATCH_UPS = {each.value: each for each in CatchUp}
#: How late still counts as on time under CatchUp.NONE: a worker needs a moment to start, and a poll interval to notice.
_ON_TIME = timedelta(minutes=1)
#: The maximum number of skipped occurrences that are counted one by one.
_MOST = 200


def first_to_run(
    schedule: Schedule,
    occurrence: datetime,
    now: datetime,
    catch_up: CatchUp,
    window: timedelta | None,
    late: timedelta,
    *,
    chosen: bool = False,
) -> datetime | None:
    """The occurrence to run: ``occurrence`` or, if the policy skips that, a later one; None if there is none left.

    A once-off occurrence is only skipped by an explicit ``window``.

    :param late: how much later than its time ``occurrence`` may run (its jitter).
    :param chosen: the occurrence that was the latest when those before it were skipped. It runs even if more have passed since:
        otherwise a task whose interval is shorter than a claim takes would never run.
    """
    found: datetime | None = occurrence
    if isinstance(schedule.plain, Once):
        return None if window is not None and now - occurrence - late > window else occurrence
    if window is None and catch_up is CatchUp.NONE:
        window = _ON_TIME
    if window is not None and now - occurrence - late > window:
        found = schedule.next_after(occurrence, now - window)
    if found is None or found > now or catch_up is CatchUp.ALL or (chosen and found == occurrence):
        return found
    return _latest(schedule, found, now)


def _latest(schedule: Schedule, occurrence: datetime, now: datetime) -> datetime:
    """The last occurrence up to ``now``, from ``occurrence`` on."""
    low, high = occurrence, now
    while high - low > timedelta(microseconds=1):
        middle = low + (high - low) / 2
        found = schedule.next_after(occurrence, middle)
        if found is not None and found <= now:
            occurrence = low = found
        else:
            high = middle
    return occurrence


def count_from(schedule: Schedule, occurrence: datetime, until: datetime | None, now: datetime) -> int:
    """The number of occurrences from ``occurrence`` on, before ``until`` or else up to ``now``.

    Calculated for an interval if ``until`` is given; all others are counted one by one, up to 200.
    """
    if until is not None and isinstance(schedule.plain, Interval):
        return -((occurrence - until) // schedule.plain.duration)
    count, at = 0, occurrence
    while count < _MOST and (at < until if until is not None else at <= now):
        count += 1
        following = schedule.next(at)
        if following is None:
            break
        at = following
    return count


def how_many(count: int, schedule: str) -> str:
    """``count``, a result of :func:`count_from`, as text for people."""
    return f"{count} or more" if count >= _MOST and not schedule.startswith("interval ") else str(count)
