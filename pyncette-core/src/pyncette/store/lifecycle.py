"""The life of a row, as pure functions: what each call of the contract makes of one row.

A row is *held* while ``locked_until`` is set: from its claim to its Commit, Release or a forced registration, also past the
lease's end, until somebody else claims it. Equality of ``lease`` guards every write, so that neither a re-created row nor a
stepped clock can be mistaken for the old one; ``revision`` tells a claim that its schedule was replaced meanwhile.

The in-memory and SQLite stores call these functions; stores that decide in SQL or Lua state the same rules there, and the
conformance suite compares. Stable, as the contract is: backends of others call these functions, so they continue to mean the same until
:data:`~pyncette.repository.CONTRACT_VERSION` is raised.
"""

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pyncette.clock import to_microseconds
from pyncette.store.contract import Claim, Commit, Extend, Fail, Key, Outcome, Registration, Release, Row, Settlement, State

__all__ = [
    "Settled",
    "Taken",
    "claim",
    "expected",
    "lease_end",
    "new_lease",
    "pause",
    "put_off",
    "register",
    "resume",
    "settle",
    "take",
]


def new_lease() -> str:
    """A random id for the rows of one claim call: a row is claimed at most once in a call, so one id serves them all."""
    return uuid.uuid4().hex


def lease_end(now: datetime, lease_duration: timedelta) -> datetime:
    """When a lease that is claimed at ``now`` ends: no later than time itself."""
    try:
        return now + lease_duration
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def register(row: Row | None, now: datetime, registration: Registration, *, force: bool = False) -> Row:
    """The row after ``registration``; the rules are those of :meth:`~pyncette.repository.Repository.register`."""
    occurrence, execute_after = registration.target
    if row is None or (row.state is State.UNREADABLE and force):
        return Row(
            key=registration.key,
            spec=registration.spec,
            schedule=registration.schedule,
            occurrence=occurrence,
            execute_after=execute_after,
            ready_at=execute_after,
            lease=None,
            locked_until=None,
            # Starting at now keeps tokens rising over a removal, as long as time does not go back.
            epoch=to_microseconds(now),
            revision=0,
            attempt=0,
            state=State.SCHEDULED,
        )
    if row.state is State.UNREADABLE:
        return row  # it may be that of a later release, which can read it
    if row.schedule == registration.schedule and not force:
        return row._replace(spec=registration.spec)
    if registration.keep_overdue and row.execute_after <= now:
        occurrence, execute_after = row.occurrence, row.execute_after
    if force:
        row = row._replace(lease=None, locked_until=None, epoch=_raised(row.epoch, now))
    row = _revived(row)._replace(
        spec=registration.spec,
        schedule=registration.schedule,
        occurrence=occurrence,
        execute_after=execute_after,
        revision=row.revision + 1,
        attempt=0,
    )
    return _ready(row, row.locked_until)


def claim(row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
    """The row under a new ``lease``, and the claim to it; None if the row is not ready at ``now``, or can't be read."""
    if row.ready_at is None or row.ready_at > now or row.state is State.UNREADABLE:
        return None
    return _claimed(row, lease, lease_end(now, lease_duration), to_microseconds(now))


def _claimed(row: Row, lease: str, locked_until: datetime, least_epoch: int) -> tuple[Row, Claim]:
    # Made again, which takes half as long as _replace: it is done for every run of every task.
    key, spec, schedule, occurrence, execute_after, _, _, _, epoch, revision, attempt, state, error, memo = row
    epoch = max(epoch + 1, least_epoch)
    attempt += 1
    return (
        Row(
            key,
            spec,
            schedule,
            occurrence,
            execute_after,
            locked_until,
            lease,
            locked_until,
            epoch,
            revision,
            attempt,
            state,
            error,
            memo,
        ),
        Claim(key, spec, schedule, occurrence, execute_after, lease, epoch, attempt, revision, memo),
    )


def put_off(row: Row, now: datetime, lease_duration: timedelta) -> Row:
    """An unreadable ``row`` that is ready at ``now``, out of the way of others for as long as if it were claimed."""
    if row.ready_at is None or row.ready_at > now or row.state is not State.UNREADABLE:
        return row
    return row._replace(ready_at=lease_end(now, lease_duration))


class Taken(NamedTuple):
    """What a claim makes of the rows that are ready."""

    #: Those that were claimed, as they are to be written.
    rows: list[Row]
    claims: list[Claim]
    #: Those that can't be read. Nothing but their ``ready_at`` is to be written: the rest has to stay as it is.
    unreadable: list[Row]


def take(ready: Iterable[Row], now: datetime, lease_duration: timedelta) -> Taken:
    """Claim what can be read of ``ready``, all under one lease, and put off what can't."""
    lease = new_lease()
    locked_until = lease_end(now, lease_duration)
    least_epoch = to_microseconds(now)
    taken = Taken([], [], [])
    for row in ready:
        if row.state is State.UNREADABLE:
            taken.unreadable.append(put_off(row, now, lease_duration))
        elif row.ready_at is not None and row.ready_at <= now:
            claimed, claim = _claimed(row, lease, locked_until, least_epoch)
            taken.rows.append(claimed)
            taken.claims.append(claim)
    return taken


class Settled(NamedTuple):
    """What a settlement writes to the row of ``key`` if that is as its claim has left it.

    That is: held (``locked_until`` is set) under this very ``lease``, of this ``revision``, and scheduled.
    """

    key: Key
    lease: str
    revision: int
    #: The row goes away, and what follows here is of no interest.
    removed: bool
    occurrence: datetime
    execute_after: datetime
    ready_at: datetime
    attempt: int
    #: None: that of the row stays.
    memo: str | None

    def meets(self, row: Row | None) -> bool:
        """Whether ``row`` is as expected: the condition under which a store writes this without a look at the rest of the row."""
        return (
            row is not None
            and row.lease == self.lease
            and row.revision == self.revision
            and row.locked_until is not None
            and row.state is State.SCHEDULED
        )

    def applied(self, row: Row) -> Row | None:
        """``row`` after this: free, and to be claimed unless its state is against it."""
        if self.removed:
            return None
        # Made again, as in _claimed().
        key, spec, schedule, _, _, _, lease, _, epoch, revision, _, state, error, memo = row
        scheduled = state is State.SCHEDULED
        return Row(
            key,
            spec,
            schedule,
            self.occurrence,
            self.execute_after,
            self.ready_at if scheduled else None,
            lease,
            None,
            epoch,
            revision,
            self.attempt,
            state,
            error,
            # The note of a pause is in the memo of a paused row, and the run knows nothing of it.
            memo if self.memo is None or state is State.PAUSED else self.memo,
        )


def expected(settlement: Settlement, now: datetime) -> Settled | None:
    """What ``settlement`` writes in the usual case, which is that nobody has touched the row since its claim.

    None for what is rare or has to see the row first: Extend and Fail.
    """
    claim = settlement.claim
    removed, occurrence, execute_after, attempt = False, claim.occurrence, claim.execute_after, 0
    if isinstance(settlement, Commit):
        # Not before now: a backlog of one row goes to the end of the queue after each occurrence and starves no other.
        not_before = now
        if settlement.next is None:
            removed = True
        else:
            occurrence, execute_after = settlement.next
    elif isinstance(settlement, Release):
        not_before = settlement.retry_at
        attempt = claim.attempt if settlement.started else claim.attempt - 1
    else:
        return None
    ready_at = max(execute_after, not_before)
    return Settled(claim.key, claim.lease, claim.revision, removed, occurrence, execute_after, ready_at, attempt, settlement.memo)


def settle(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
    """The row after ``settlement`` (the very same object where nothing is to be written), and the outcome."""
    if row is None:
        return None, Outcome.GONE
    claim = settlement.claim
    if row.lease != claim.lease:
        return row, Outcome.LOST
    same = row.revision == claim.revision
    if row.locked_until is None:  # settled before
        if isinstance(settlement, Extend):
            return row, Outcome.LOST
        return row, Outcome.ALREADY if same else Outcome.SUPERSEDED
    if isinstance(settlement, Extend):
        locked_until = max(row.locked_until, settlement.until)
        return _ready(row._replace(locked_until=locked_until), locked_until), Outcome.APPLIED
    if same and (settled := expected(settlement, now)) is not None:
        return settled.applied(row), Outcome.APPLIED
    if settlement.memo is not None and row.state is not State.PAUSED:  # see Settled.applied
        row = row._replace(memo=settlement.memo)
    if same and isinstance(settlement, Fail):
        return row._replace(locked_until=None, ready_at=None, state=State.FAILED, error=settlement.error), Outcome.APPLIED
    return _ready(row._replace(locked_until=None), now), Outcome.SUPERSEDED


def pause(row: Row, memo: str | None = None) -> Row:
    """The row out of claims, and with another ``memo`` if there is one.

    A held row stays held, so that the run in progress can be settled. A failed row's error is forgotten.
    """
    if row.state is State.UNREADABLE:
        return row
    return _revived(_noted(row, memo))._replace(state=State.PAUSED, ready_at=None)


def resume(row: Row, memo: str | None = None) -> Row:
    """The row back in claims, whether it was paused or failed, and with another ``memo`` if there is one."""
    if row.state is State.UNREADABLE:
        return row
    row = _noted(row, memo)
    if row.state is State.SCHEDULED:
        return row
    return _ready(_revived(row)._replace(state=State.SCHEDULED), row.locked_until)


def _noted(row: Row, memo: str | None) -> Row:
    return row if memo is None else row._replace(memo=memo)


def _revived(row: Row) -> Row:
    return row._replace(state=State.SCHEDULED, error=None, attempt=0) if row.state is State.FAILED else row


def _raised(epoch: int, now: datetime) -> int:
    return max(epoch + 1, to_microseconds(now))


def _ready(row: Row, not_before: datetime | None) -> Row:
    """The row, ready at its ``execute_after`` but not before ``not_before``, if its state lets it be claimed at all."""
    if row.state is not State.SCHEDULED:
        return row._replace(ready_at=None)
    return row._replace(ready_at=row.execute_after if not_before is None else max(row.execute_after, not_before))
