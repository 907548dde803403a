"""The life of a row, as pure functions: how each call of the contract changes one row.

A row is *held* while ``locked_until`` is set: from its claim to its Commit, Release or a forced registration, even after the lease has
expired, until somebody else claims it. Every write requires an equal ``lease``, so a re-created row is never mistaken for the old one,
and a stepped clock does no harm; ``revision`` shows a claim that its schedule was replaced meanwhile.

The in-memory and SQLite stores call these functions; stores that decide in SQL or Lua restate the same rules, and the conformance suite
compares them. Stable, like the contract: third-party backends call these functions, so their meaning does not change until
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
    """When a lease claimed at ``now`` ends, within the limits of the calendar."""
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
            # Starting at `now` keeps tokens growing after a removal, unless the clock goes back.
            epoch=to_microseconds(now),
            revision=0,
            attempt=0,
            state=State.SCHEDULED,
        )
    if row.state is State.UNREADABLE:
        return row  # it may come from a later release, which can read it
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
    # Constructing it takes half as long as _replace, and this happens for every run of every task.
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
    """An unreadable ``row`` that is ready at ``now``, postponed by the duration of a lease."""
    if row.ready_at is None or row.ready_at > now or row.state is not State.UNREADABLE:
        return row
    return row._replace(ready_at=lease_end(now, lease_duration))


class Taken(NamedTuple):
    """The result of a claim on the rows that are ready."""

    #: The claimed rows, to be written as they are here.
    rows: list[Row]
    claims: list[Claim]
    #: Unreadable rows. Write only their ``ready_at``; the rest must stay as it is.
    unreadable: list[Row]


def take(ready: Iterable[Row], now: datetime, lease_duration: timedelta) -> Taken:
    """Claim the readable rows of ``ready``, all under one lease, and postpone the unreadable ones."""
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
    """The write of a settlement to the row of ``key``, if the claim left it unchanged.

    Unchanged means: held (``locked_until`` is set) under this ``lease``, with this ``revision``, and scheduled.
    """

    key: Key
    lease: str
    revision: int
    #: The row is removed, and the following fields don't matter.
    removed: bool
    occurrence: datetime
    execute_after: datetime
    ready_at: datetime
    attempt: int
    #: None: the memo of the row stays.
    memo: str | None

    def meets(self, row: Row | None) -> bool:
        """Whether ``row`` is as expected: the condition under which a store writes this without checking the rest of the row."""
        return (
            row is not None
            and row.lease == self.lease
            and row.revision == self.revision
            and row.locked_until is not None
            and row.state is State.SCHEDULED
        )

    def applied(self, row: Row) -> Row | None:
        """``row`` after this write: free, and ready for claims if its state allows it."""
        if self.removed:
            return None
        # constructed for speed, as in _claimed()
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
            # A paused row has the note of the pause in its memo, which the run doesn't know.
            memo if self.memo is None or state is State.PAUSED else self.memo,
        )


def expected(settlement: Settlement, now: datetime) -> Settled | None:
    """The write of ``settlement`` in the usual case, in which nobody has changed the row since its claim.

    None for settlements that are rare or must see the row first: Extend and Fail.
    """
    claim = settlement.claim
    removed, occurrence, execute_after, attempt = False, claim.occurrence, claim.execute_after, 0
    if isinstance(settlement, Commit):
        # Not before now: a row with a backlog goes to the end of the queue after each occurrence, and starves no other.
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
    """The row after ``settlement`` (the same object if nothing has to be written), and the outcome."""
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
    """The row, excluded from claims, with another ``memo`` if there is one.

    A held row stays held, so that the run in progress can be settled. The error of a failed row is removed.
    """
    if row.state is State.UNREADABLE:
        return row
    return _revived(_noted(row, memo))._replace(state=State.PAUSED, ready_at=None)


def resume(row: Row, memo: str | None = None) -> Row:
    """The row, available to claims again, whether it was paused or failed, with another ``memo`` if there is one."""
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
    """The row, ready at its ``execute_after`` but not before ``not_before``, if its state allows claims."""
    if row.state is not State.SCHEDULED:
        return row._replace(ready_at=None)
    return row._replace(ready_at=row.execute_after if not_before is None else max(row.execute_after, not_before))
