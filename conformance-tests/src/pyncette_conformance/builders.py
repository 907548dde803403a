"""Invented instants and rows. Nothing in the suite waits: time is a parameter of the contract."""

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta

from pyncette.clock import to_microseconds
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.repository import Claim, ClaimResult, Commit, Key, Outcome, Registration, Release, Repository, Settlement, Target

__all__ = [
    "FAR",
    "LEASE",
    "SCHEDULE",
    "T0",
    "T1",
    "TICK",
    "advanced",
    "after",
    "claim_one",
    "commit",
    "epoch_at",
    "poll",
    "refused",
    "register",
    "registration",
    "release",
    "settle",
    "target",
]

#: Far from the time of any test run, so that the tests notice a store that reads a clock.
T0 = datetime(2041, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
#: The smallest difference of two instants.
TICK = timedelta(microseconds=1)
LEASE = timedelta(seconds=60)
SCHEDULE = "every 60 s"


def after(seconds: float) -> datetime:
    """The instant ``seconds`` after T0."""
    return T0 + timedelta(seconds=seconds)


T1 = after(60)
FAR = after(86_400)


def target(seconds: float, jitter: float = 0) -> Target:
    """An occurrence ``seconds`` after T0, to be executed ``jitter`` seconds later."""
    return Target(after(seconds), after(seconds + jitter))


def registration(
    key: Key,
    seconds: float = 0,
    *,
    jitter: float = 0,
    spec: str = "{}",
    schedule: str = SCHEDULE,
    keep_overdue: bool = False,
) -> Registration:
    """A schedule that first fires ``seconds`` after T0."""
    return Registration(key, spec, schedule, target(seconds, jitter), keep_overdue=keep_overdue)


async def register(repository: Repository, *keys: Key, seconds: float = 0) -> None:
    """Store one schedule for each key, registered at T0."""
    await repository.register(T0, [registration(key, seconds) for key in keys])


async def refused(call: Awaitable[object]) -> bool:
    """Whether ``call`` is refused permanently, with one of Pyncette's errors; it may raise no others."""
    try:
        await call
    except RepositoryError as error:
        assert not isinstance(error, TransientRepositoryError), "a transient error is retried, although that can't help"
        return True
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} was raised; it must be a RepositoryError") from error
    return False


async def poll(
    repository: Repository,
    partition: str,
    now: datetime = T0,
    *,
    limit: int = 5000,
    names: Sequence[str] | None = None,
    lease_duration: timedelta = LEASE,
) -> ClaimResult:
    """Claim what is due, with lists in the result, so that it can be compared."""
    result = await repository.claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
    return ClaimResult(list(result.claims), result.next_ready_at, list(result.missing), tuple(result.unreadable))


async def settle(repository: Repository, now: datetime, *settlements: Settlement) -> list[Outcome]:
    """The outcomes of ``settlements``."""
    return list(await repository.settle(now, settlements))


async def claim_one(repository: Repository, key: Key, now: datetime = T0, lease_duration: timedelta = LEASE) -> Claim:
    """Claim the row of ``key``, which must be ready."""
    result = await poll(repository, key.partition, now, limit=1, names=[key.name], lease_duration=lease_duration)
    assert len(result.claims) == 1, f"{key} was due at {now}, but a claim for it alone brought {result.claims}"
    assert result.claims[0].key == key
    return result.claims[0]


def commit(claim: Claim, seconds: float = 60, jitter: float = 0, memo: str | None = None) -> Commit:
    """The claim is done; the next occurrence is ``seconds`` after T0."""
    return Commit(claim, target(seconds, jitter), memo)


def release(claim: Claim, seconds: float = 0, *, started: bool = True, memo: str | None = None) -> Release:
    """Release the claim, which can be claimed again from ``seconds`` after T0 on."""
    return Release(claim, after(seconds), started=started, memo=memo)


def epoch_at(now: datetime) -> int:
    """The epoch of a row registered at ``now``, and the smallest epoch of one claimed then."""
    return to_microseconds(now)


def advanced(epoch: int, now: datetime) -> int:
    """The epoch that follows ``epoch`` when its row is claimed at ``now``."""
    return max(epoch + 1, to_microseconds(now))
