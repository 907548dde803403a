"""Rules with one mistake each, which the exhaustive exploration must find; otherwise it proves nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pyncette.clock import to_microseconds
from pyncette.repository import Claim, Commit, Extend, Outcome, Registration, Release, Row, Settlement, State
from pyncette.store import lifecycle
from pyncette_conformance.rules import Rules

__all__ = ["MUTANTS", "Mutant"]

Settled = tuple[Row | None, Outcome]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake, the configuration in which it shows, and the invariant that it breaks."""

    rules: Rules
    configuration: str
    breaks: str


# -- register --


def registering(change: Callable[[Row, Row, datetime, Registration, bool], Row]) -> Rules:
    """Rules in which a registration of a present row is changed: given before, after, now, registration and force."""

    def register(row: Row | None, now: datetime, registration: Registration, *, force: bool = False) -> Row:
        after = lifecycle.register(row, now, registration, force=force)
        return after if row is None else change(row, after, now, registration, force)

    return Rules(register=register)


def ready_untouched(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return after._replace(ready_at=before.ready_at) if before.locked_until is not None and not force else after


def ready_of_held(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return after if after.ready_at is None else after._replace(ready_at=after.execute_after)


def stale_spec(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return after._replace(spec=before.spec) if after.revision == before.revision else after


def postponing(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    occurrence, execute_after = registration.target
    if after.revision != before.revision or before.locked_until is not None or before.ready_at is None:
        return after
    return after._replace(occurrence=occurrence, execute_after=execute_after, ready_at=execute_after)


def dropping_overdue(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return lifecycle.register(before, now, replace(registration, keep_overdue=False), force=force)


def reviving_paused(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return lifecycle.resume(after) if after.state is State.PAUSED else after


def force_keeps_lease(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return after._replace(lease=before.lease, locked_until=before.locked_until)


def force_lowers_epoch(before: Row, after: Row, now: datetime, registration: Registration, force: bool) -> Row:
    return after._replace(epoch=0) if force else after


# -- claim --


def epoch_of(epoch: Callable[[int, datetime], int]) -> Callable[..., tuple[Row, Claim] | None]:
    """A claim that computes the token from the one before and the time."""

    def claim(row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
        taken = lifecycle.claim(row, now, lease_duration, lease)
        if taken is None:
            return None
        token = epoch(row.epoch, now)
        return taken[0]._replace(epoch=token), taken[1]._replace(epoch=token)

    return claim


def register_from_zero(row: Row | None, now: datetime, registration: Registration, *, force: bool = False) -> Row:
    after = lifecycle.register(row, now, registration, force=force)
    return after._replace(epoch=0) if row is None else after


def claim_during_lease(row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
    # Looks at the time of the occurrence, as if nobody could hold the row.
    ready = row.ready_at and row.execute_after
    return lifecycle.claim(row._replace(ready_at=ready), now, lease_duration, lease)


# -- settle --


def with_claim(settlement: Settlement, **changes: Any) -> Settlement:
    return replace(settlement, claim=settlement.claim._replace(**changes))


def no_lease_check(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    return lifecycle.settle(row, now, with_claim(settlement, lease=row.lease) if row else settlement)


def schedule_text(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    if row is not None and row.schedule == settlement.claim.schedule:
        settlement = with_claim(settlement, revision=row.revision)
    return lifecycle.settle(row, now, settlement)


def late_commit_writes(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    if row is not None and row.locked_until is None and isinstance(settlement, Commit):
        row = row._replace(locked_until=now)
    return lifecycle.settle(row, now, settlement)


def already_superseded(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    over = row is not None and row.locked_until is None
    return after, Outcome.ALREADY if over and outcome is Outcome.SUPERSEDED else outcome


def superseded_applied(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    return after, Outcome.APPLIED if outcome is Outcome.SUPERSEDED else outcome


def late_extend(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    if row is not None and row.locked_until is None and isinstance(settlement, Extend):
        row = row._replace(locked_until=now)
    return lifecycle.settle(row, now, settlement)


def shortening_extend(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    if after is not None and after.ready_at is not None and isinstance(settlement, Extend) and outcome is Outcome.APPLIED:
        after = after._replace(locked_until=settlement.until, ready_at=max(after.execute_after, settlement.until))
    return after, outcome


def ready_now(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    if after is not None and after.ready_at is not None and outcome is Outcome.SUPERSEDED and after != row:
        after = after._replace(ready_at=now)
    return after, outcome


def superseded_stays_held(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    if row is not None and row.locked_until is not None and outcome is Outcome.SUPERSEDED:
        return row._replace(ready_at=None), outcome
    return after, outcome


def resurrecting_commit(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    if row is None and isinstance(settlement, Commit) and settlement.next is not None:
        claim, (occurrence, execute_after) = settlement.claim, settlement.next
        state, attempt = State.SCHEDULED, 0
        values = claim.key, claim.spec, claim.schedule, occurrence, execute_after, execute_after, claim.lease
        return Row(*values, None, claim.epoch, claim.revision, attempt, state), Outcome.APPLIED
    return lifecycle.settle(row, now, settlement)


def commit_unpauses(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    if after is not None and after.state is State.PAUSED and isinstance(settlement, Commit) and outcome is Outcome.APPLIED:
        after = lifecycle.resume(after)
    return after, outcome


def release_advances(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
    after, outcome = lifecycle.settle(row, now, settlement)
    if after is not None and after.ready_at is not None and isinstance(settlement, Release) and outcome is Outcome.APPLIED:
        after = after._replace(occurrence=after.ready_at, execute_after=after.ready_at)
    return after, outcome


def resume_ignores_lease(row: Row, memo: str | None) -> Row:
    return lifecycle.resume(row._replace(locked_until=None), memo)._replace(locked_until=row.locked_until)


# -- the memo --


def memo_is_no_part_of_a_claim(row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
    taken = lifecycle.claim(row, now, lease_duration, lease)
    return taken and (taken[0], taken[1]._replace(memo=""))


def memo_is_lost_in_a_claim(row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
    taken = lifecycle.claim(row, now, lease_duration, lease)
    return taken and (taken[0]._replace(memo=""), taken[1])


def noting(note: Callable[[Row, Row, Settlement, Outcome], str | None]) -> Rules:
    """Rules in which a settlement leaves another memo: given the row before and after, the settlement and its outcome."""

    def settle(row: Row | None, now: datetime, settlement: Settlement) -> Settled:
        after, outcome = lifecycle.settle(row, now, settlement)
        if row is None or after is None or isinstance(settlement, Extend):
            return after, outcome
        return after._replace(memo=note(row, after, settlement, outcome) or ""), outcome

    return Rules(settle=settle)


def sent(row: Row, after: Row, settlement: Settlement, outcome: Outcome) -> str | None:
    """The memo of the settlement, whichever worker holds the row."""
    return after.memo if isinstance(settlement, Extend) or settlement.memo is None else settlement.memo


#: The first seven are those of the contract's model.
MUTANTS: Mapping[str, Mutant] = {
    "no-revision": Mutant(registering(lambda before, after, *_: after._replace(revision=before.revision)), "release", "I3"),
    "ready-untouched": Mutant(registering(ready_untouched), "extend", "I4"),
    "no-lease-check": Mutant(Rules(settle=no_lease_check), "unreduced", "I1"),
    "schedule-text": Mutant(Rules(settle=schedule_text), "release", "I3"),
    "late-commit-writes": Mutant(Rules(settle=late_commit_writes), "release", "I5"),
    "already-superseded": Mutant(Rules(settle=already_superseded), "at most once", "I5"),
    "late-extend": Mutant(Rules(settle=late_extend), "extend", "I5"),
    "epoch-stays": Mutant(Rules(claim=epoch_of(lambda epoch, now: epoch)), "extend", "I1"),
    "epoch-is-the-time": Mutant(Rules(claim=epoch_of(lambda epoch, now: to_microseconds(now))), "release", "I1"),
    "epoch-is-a-count": Mutant(Rules(register=register_from_zero, claim=epoch_of(lambda epoch, now: epoch + 1)), "extend", "I1"),
    "force-lowers-the-epoch": Mutant(registering(force_lowers_epoch), "once-off", "I1"),
    "force-keeps-the-lease": Mutant(registering(force_keeps_lease), "extend", "I5"),
    "ready-during-the-lease": Mutant(registering(ready_of_held), "extend", "I2"),
    "claimed-during-the-lease": Mutant(Rules(claim=claim_during_lease), "extend", "I2"),
    "stale-arguments": Mutant(registering(stale_spec), "extend", "I3"),
    "registering-postpones": Mutant(registering(postponing), "extend", "I9"),
    "overdue-is-dropped": Mutant(registering(dropping_overdue), "extend", "I9"),
    "registering-unpauses": Mutant(registering(reviving_paused), "pause", "I3"),
    "superseded-is-applied": Mutant(Rules(settle=superseded_applied), "extend", "I3"),
    "superseded-stays-held": Mutant(Rules(settle=superseded_stays_held), "extend", "I7"),
    "superseded-runs-early": Mutant(Rules(settle=ready_now), "extend", "I4"),
    "extend-shortens": Mutant(Rules(settle=shortening_extend), "extend", "I2"),
    "commit-resurrects": Mutant(Rules(settle=resurrecting_commit), "unreduced", "I1"),
    "commit-unpauses": Mutant(Rules(settle=commit_unpauses), "pause", "I3"),
    "release-moves-the-occurrence": Mutant(Rules(settle=release_advances), "release", "I9"),
    "resume-ignores-the-lease": Mutant(Rules(resume=resume_ignores_lease), "pause", "I2"),
    "memo-is-no-part-of-a-claim": Mutant(Rules(claim=memo_is_no_part_of_a_claim), "memo", "I9"),
    "memo-is-lost-in-a-claim": Mutant(Rules(claim=memo_is_lost_in_a_claim), "memo", "I3"),
    "memo-is-not-written": Mutant(noting(lambda row, after, *_: row.memo), "memo", "I3"),
    "no-memo-wipes-it": Mutant(
        noting(lambda row, after, *of: after.memo if row.locked_until is None else getattr(of[0], "memo", None)), "memo", "I3"
    ),
    "late-memo-writes": Mutant(noting(sent), "memo", "I5"),
    "superseded-leaves-the-memo": Mutant(
        noting(lambda row, after, _, outcome: row.memo if outcome is Outcome.SUPERSEDED else after.memo), "memo", "I3"
    ),
    "memo-of-a-pause-is-overwritten": Mutant(
        noting(lambda *of: sent(*of) if of[0].locked_until is not None else of[1].memo), "memo", "I3"
    ),
    "registering-wipes-the-memo": Mutant(registering(lambda before, after, *_: after._replace(memo="")), "memo", "I3"),
    "another-schedule-wipes-the-memo": Mutant(
        registering(lambda before, after, *_: after if after.revision == before.revision else after._replace(memo="")), "memo", "I3"
    ),
    "force-wipes-the-memo": Mutant(registering(lambda *of: of[1]._replace(memo="") if of[4] else of[1]), "memo", "I3"),
    "pause-leaves-the-memo": Mutant(Rules(pause=lambda row, memo: lifecycle.pause(row, None)), "memo", "I3"),
    "resume-wipes-the-memo": Mutant(Rules(resume=lambda row, memo: lifecycle.resume(row, memo or "")), "memo", "I3"),
}
