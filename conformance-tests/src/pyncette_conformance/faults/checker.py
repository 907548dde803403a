"""Judges a log: was every promise kept, and has whatever ran again a cause on record?

What had to run is known from :mod:`~pyncette_conformance.faults.oracle`, what did from the bodies' own events. Both are matched
exactly by name and nominal time.
"""

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pyncette.clock import to_microseconds
from pyncette.repository import Row
from pyncette_conformance.faults.history import FOREVER, History, Occurrence, Run, Settled
from pyncette_conformance.faults.oracle import Once
from pyncette_conformance.faults.plan import Plan
from pyncette_conformance.faults.runlog import Event

__all__ = ["Category", "Cause", "Report", "Violation", "check", "pending"]

_APPLIED = ("applied", "already")
#: For how long a worker may have an outcome to store and no call to the store in progress (seconds): processors are busy.
_DAWDLE = 0.5


class Category(enum.StrEnum):
    """What went wrong."""

    #: An occurrence that had to run did not (I3, I7).
    MISSED = "missed"
    #: A body started before its time (I4).
    EARLY = "early"
    #: A body ran again without a cause on record, or for what is not an occurrence of its schedule (I4, I5, I6, I7).
    EXTRA = "extra"
    #: Two live leases of one row, or two bodies under them (I2).
    CONCURRENT = "concurrent"
    #: The store, or a resource outside, was written to under a lease that was over, by somebody who could have known (I1, I2).
    STALE_WRITE = "stale-write"
    #: A row is left leased without a body, or left over (I8, I12).
    ORPHAN = "orphan"
    #: Tokens or times went back, or something ran after the end (I1, I9, I12).
    ORDER = "order"


class Cause(enum.StrEnum):
    """Why an occurrence ran again, or (AT_MOST_ONCE) not at all."""

    KILLED = "killed"
    STOPPED = "stopped"
    EXPIRED = "lease expired"
    UNKNOWN_COMMIT = "unknown commit"
    FAILED = "body failed"
    STORE = "store failed"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    category: Category
    invariant: str
    message: str

    def __str__(self) -> str:
        return f"{self.category} ({self.invariant}): {self.message}"


@dataclass(slots=True)
class Report:
    """What a check found."""

    expected: int = 0
    completed: int = 0
    runs: int = 0
    #: Runs beyond the first of an occurrence, by why they had to be.
    extras: Counter[Cause] = field(default_factory=Counter)
    #: AT_MOST_ONCE occurrences that did not run, by why that is right.
    lost: Counter[Cause] = field(default_factory=Counter)
    #: Writes to the outside that a resource that looks at fencing tokens had to refuse, from holders whose lease had expired.
    fenced: int = 0
    #: Seconds from the nominal time of an occurrence to the start of its first run.
    lateness: Sequence[float] = ()
    violations: list[Violation] = field(default_factory=list)
    #: Filled in by the code that ran the scenario.
    title: str = ""
    notes: str = ""
    seconds: float = 0.0

    def count(self, category: Category) -> int:
        return sum(violation.category is category for violation in self.violations)

    @property
    def categories(self) -> set[Category]:
        return {violation.category for violation in self.violations}

    def summary(self) -> str:
        """One line with everything that can be counted."""

        def causes(counter: Counter[Cause]) -> str:
            named = ", ".join(f"{count} {cause}" for cause, count in sorted(counter.items()))
            return f"{counter.total()}" + (f" ({named})" if named else "")

        wrong = ", ".join(f"{self.count(category)} {category}" for category in Category)
        late = f"; latest {max(self.lateness):.2f} s" if self.lateness else ""
        notes = f"; {self.notes}" if self.notes else ""
        return (
            f"{self.title}: {self.completed} of {self.expected} occurrences in {self.runs} runs; extra runs with a cause "
            f"{causes(self.extras)}; lost with a cause {causes(self.lost)}; fenced {self.fenced}; {wrong}{late}{notes}; "
            f"{self.seconds:.1f} s"
        )

    def verify(self) -> None:
        """Raise AssertionError if there is any violation."""
        if self.violations:
            shown = "\n".join(f"  {violation}" for violation in self.violations[:30])
            raise AssertionError(f"{self.summary()}\n{shown}")


def pending(plan: Plan, events: Iterable[Event], horizon: int) -> tuple[list[Occurrence], list[Occurrence]]:
    """Of all that was due by ``horizon`` (microseconds): what still has to run, and what ran without anybody knowing of its commit."""
    history = History.of(plan, events)
    missed, unsettled = [], []
    for occurrence in history.required(horizon):
        if not _done(history, occurrence) and _why_lost(history, occurrence) is None:
            missed.append(occurrence)
        elif not history.settled_for_good(occurrence):
            unsettled.append(occurrence)
    return missed, unsettled


def check(
    plan: Plan,
    events: Iterable[Event],
    horizon: int,
    *,
    rows: Sequence[Row] | None = None,
    clock_error: float = 0.0,
    ignore: Collection[str] = (),
) -> Report:
    """Judge a log of workers that have all ended.

    :param horizon: up to when (microseconds) each occurrence must have run; later ones may have.
    :param rows: what the store holds at the end; None: that is not judged.
    :param clock_error: by how many seconds the clocks of the workers may differ from the machine's.
    :param ignore: names that are not judged, because the scenario broke their rows.
    """
    history = History.of(plan, events)
    report = Report(runs=len(history.runs))
    _check_completeness(history, report, horizon, ignore)
    for found in (
        _check_runs(history, report, clock_error),
        _check_bodies_apart(history, clock_error),
        _check_claims_apart(history),
        _check_deadlines(history, clock_error),
        _check_tokens(history),
        _check_settlements(history),
        _check_resource(history, report, clock_error),
        _check_order(history),
        _check_rows(history, rows or (), horizon, ignore),
    ):
        report.violations += found
    return report


def _at(occurrence: Occurrence) -> str:
    name, generation, at = occurrence
    return f"{name}" + (f" (schedule {generation})" if generation else "") + f" of {at / 1e6:.6f}"


# --- did everything run? ------------------------------------------------------------------------------------------------


def _done(history: History, occurrence: Occurrence) -> bool:
    runs = history.runs_of.get(occurrence, [])
    if occurrence.name in history.at_most_once:
        return any(run.end is not None or run.start.pid in history.killed for run in runs)
    return any(run.completed for run in runs)


def _why_lost(history: History, occurrence: Occurrence) -> Cause | None:
    """Why an AT_MOST_ONCE occurrence rightly never ran: it was, or may have been, committed by someone who could not continue."""
    if history.runs_of.get(occurrence) or occurrence.name not in history.at_most_once:
        return None
    for same in history.claims_of[occurrence.name].values():
        for claim in same:
            if (claim.generation, claim.at) != occurrence[1:]:
                continue
            commits = [each for each in history.settled_of[claim.name, claim.token] if each.sent.kind == "commit"]
            for commit in commits:
                if commit.sent.pid in history.killed:
                    return Cause.KILLED
                if _unknown(history, commit):
                    return Cause.UNKNOWN_COMMIT
    return None


def _unknown(history: History, settled: Settled) -> bool:
    """Whether the sender could not know the outcome: the call failed, or its answer was kept from the sender."""
    faults = history.faults_of.get((settled.sent.name, settled.sent.token), ())
    return settled.outcome in ("", "error") or any(fault.kind == "settle" and fault.note == settled.sent.kind for fault in faults)


def _check_completeness(history: History, report: Report, horizon: int, ignore: Collection[str]) -> None:
    for occurrence in history.required(horizon):
        if occurrence.name in ignore:
            continue
        report.expected += 1
        if _done(history, occurrence):
            report.completed += 1
        elif (cause := _why_lost(history, occurrence)) is not None:
            report.lost[cause] += 1
        else:
            runs = history.runs_of.get(occurrence, [])
            what = f"started {len(runs)} times, but never ended well" if runs else "never ran"
            report.violations.append(Violation(Category.MISSED, "I3, I7", f"{_at(occurrence)} {what}"))
    for name, generations in history.generations_of.items():
        if name not in ignore and any(each.timeline is None and each.required for each in generations.values()):
            report.violations.append(Violation(Category.MISSED, "I3", f"{name} was never registered"))


# --- did anything run that should not? ----------------------------------------------------------------------------------


def _check_runs(history: History, report: Report, clock_error: float) -> Iterator[Violation]:
    lateness = []
    for occurrence, runs in history.runs_of.items():
        name, number, at = occurrence
        generation = history.generations_of[name].get(number)
        if generation is None or generation.timeline is None or at not in generation.timeline:
            yield Violation(Category.EXTRA, "I4, I9", f"{_at(occurrence)} ran, but is not an occurrence of its schedule")
            continue
        for run in runs:
            if run.start.wall < at - clock_error * 1e6:
                early = (at - run.start.wall) / 1e6
                yield Violation(Category.EARLY, "I4", f"{_at(occurrence)} started {early:.6f} s before its time")
            claim = history.claim_of(run)
            if claim is not None and claim.sent > generation.replaced:
                yield Violation(Category.EXTRA, "I4", f"{_at(occurrence)} was claimed after its schedule had been replaced")
        lateness.append((runs[0].start.wall - at) / 1e6)
        if len({run.start.execution_id for run in runs}) > 1:
            yield Violation(Category.ORDER, "I5", f"{_at(occurrence)} had different execution ids")
        if name in history.at_most_once:
            if len(runs) > 1:
                yield Violation(Category.EXTRA, "I6", f"{_at(occurrence)} started {len(runs)} times, although AT_MOST_ONCE")
            continue
        for run, following in pairwise(runs):
            cause = _why_again(history, run, following)
            if cause is None:
                yield Violation(
                    Category.EXTRA,
                    "I5, I7",
                    f"{_at(occurrence)} ran under token {run.start.token} (pid {run.start.pid}), and for no reason again under "
                    f"{following.start.token} (pid {following.start.pid}, attempt {following.start.attempt})",
                )
            else:
                report.extras[cause] += 1
    report.lateness = lateness


def _why_again(history: History, run: Run, following: Run) -> Cause | None:
    """Why a run of an AT_LEAST_ONCE occurrence did not settle it; None if that is not to be explained."""
    pid, again = run.start.pid, following.start.mono
    claim, next_claim = history.claim_of(run), history.claim_of(following)
    commits = [
        each
        for each in history.settled_of[run.start.name, run.start.token]
        if each.sent.kind == "commit" and each.sent.pid == pid and each.index < following.index
    ]
    before = again if next_claim is None else next_claim.sent
    if any(each.outcome in _APPLIED and each.answer is not None and each.answer.mono < before for each in commits):
        return None
    if run.end is not None and not run.end.ok:
        return Cause.FAILED
    if history.killed.get(pid, FOREVER) <= again:
        return Cause.KILLED
    began = run.start.mono if claim is None else claim.sent
    if history.stopped(pid, began, again):
        return Cause.STOPPED
    if any(_unknown(history, each) for each in commits):
        return Cause.UNKNOWN_COMMIT
    if history.store_was_down(began, again):
        return Cause.STORE
    deadline = history.deadline_of(run, again)
    if deadline > following.start.mono:
        return None  # its lease was not even over
    if run.end is None or run.end.mono > deadline or commits:
        return Cause.EXPIRED
    # Settlements are sent one call after another. If the store was slow to answer, there was no time left for this one.
    if history.idle(pid, run.end.mono, deadline) < _DAWDLE:
        return Cause.EXPIRED
    if any(began <= trouble.mono <= again for trouble in history.troubles_of.get(pid, ())):
        return Cause.STORE
    return None  # it ended in time, and yet nobody tried to commit it


# --- exclusion ----------------------------------------------------------------------------------------------------------


def _check_bodies_apart(history: History, clock_error: float) -> Iterator[Violation]:
    """No body starts while another of the same row runs, or may be about to be settled, under a lease that its worker may trust."""
    by_name: dict[str, list[Run]] = {}
    for run in history.runs:
        if run.start.name not in history.at_most_once:
            by_name.setdefault(run.start.name, []).append(run)
    # The worker counts its lease from before it asked for it, so there is no need to be generous.
    slack = 0.005 + 2 * clock_error
    for name, runs in by_name.items():
        for i, later in enumerate(runs):
            for run in runs[max(0, i - 5) : i]:
                ended = FOREVER if run.end is None else run.end.mono
                live_until = min(ended, history.deadline_of(run, later.start.mono))
                if later.start.mono < live_until - slack and not history.rescheduled(name, run.start.mono, later.start.mono):
                    yield Violation(
                        Category.CONCURRENT,
                        "I2",
                        f"{_at(later.occurrence)} started (pid {later.start.pid}, token {later.start.token}) while {_at(run.occurrence)} "
                        f"still had {live_until - later.start.mono:.3f} s to run (pid {run.start.pid}, token {run.start.token})",
                    )


def _check_claims_apart(history: History) -> Iterator[Violation]:
    """In store time no claim is granted before the previous lease has expired, or its holder has given it up."""
    for name, by_token in history.claims_of.items():
        claims = [claim for token in sorted(by_token) for claim in by_token[token]]
        for claim, following in pairwise(claims):
            settled = history.settled_of.get((name, claim.token), [])
            until = max([claim.until, *(each.sent.until for each in settled if each.outcome == "applied")])
            given_up = any(each.sent.kind != "extend" and each.sent.mono <= following.mono for each in settled)
            if following.now >= until or given_up or history.rescheduled(name, claim.sent, following.mono):
                continue
            yield Violation(
                Category.CONCURRENT,
                "I2",
                f"{name} was claimed at {following.now / 1e6:.6f} (token {following.token}), although its lease of token {claim.token} "
                f"ran until {until / 1e6:.6f}",
            )


def _check_deadlines(history: History, clock_error: float) -> Iterator[Violation]:
    """No worker believes in its lease for longer than the store grants it, as it would if it had claimed with a time long past."""
    for run in history.runs:
        claim = history.claim_of(run)
        if claim is None or run.start.name in history.at_most_once or history.stopped(run.start.pid, claim.sent, run.start.mono):
            continue
        granted = claim.mono + (claim.until - claim.wall) / 1e6
        # A process may have had to wait for the processor between reading the one clock and the other.
        if run.start.deadline > granted + 0.1 + clock_error:
            yield Violation(
                Category.CONCURRENT,
                "I2",
                f"{_at(run.occurrence)} (pid {run.start.pid}, token {run.start.token}) believes in its lease for "
                f"{run.start.deadline - granted:.3f} s longer than the store does",
            )


# --- fencing ------------------------------------------------------------------------------------------------------------


def _check_tokens(history: History) -> Iterator[Violation]:
    for name, by_token in history.claims_of.items():
        claims = [claim for same in by_token.values() for claim in same]
        for token, same in by_token.items():
            if len(same) > 1:
                yield Violation(Category.ORDER, "I1", f"{name} was claimed {len(same)} times with the same token {token}")
        for earlier in claims:
            # Only what had been answered before the other was asked for is known to come first.
            fallen = [later for later in claims if later.sent > earlier.mono and later.token < earlier.token]
            if fallen:
                yield Violation(Category.ORDER, "I1", f"{name}: after token {earlier.token} came {fallen[0].token}")
        in_order = sorted(claims, key=lambda claim: claim.token)
        for before, after in pairwise(in_order):
            if before.generation == after.generation and after.at < before.at:
                yield Violation(
                    Category.ORDER,
                    "I9",
                    f"{name} went back from {before.at / 1e6:.6f} to {after.at / 1e6:.6f} (token {after.token})",
                )


def _check_settlements(history: History) -> Iterator[Violation]:
    """A settlement is applied once, and only while its claim is the row's last (I1, I5)."""
    advanced: dict[Occurrence, Settled] = {}
    for settled in history.settled:
        sent = settled.sent
        if settled.outcome != "applied":
            continue
        newer = [claim for token, same in history.claims_of[sent.name].items() if token > sent.token for claim in same]
        if any(claim.mono < sent.mono for claim in newer):
            yield Violation(
                Category.STALE_WRITE,
                "I1",
                f"the store took a {sent.kind} of {sent.name} under token {sent.token}, after a newer claim",
            )
        earlier = [
            each
            for each in history.settled_of[sent.name, sent.token]
            if each.sent.kind != "extend" and each.outcome == "applied" and each.answer is not None and each.answer.mono < sent.mono
        ]
        if earlier:
            yield Violation(
                Category.STALE_WRITE,
                "I5",
                f"the store took a {sent.kind} of {sent.name} under token {sent.token}, after its {earlier[0].sent.kind}",
            )
        if sent.kind == "commit":
            occurrence = Occurrence(sent.name, sent.generation, sent.at)
            if occurrence in advanced:
                tokens = f"{advanced[occurrence].sent.token} and {sent.token}"
                yield Violation(Category.EXTRA, "I5", f"{_at(occurrence)} was advanced twice, under the tokens {tokens}")
            advanced[occurrence] = settled


def _check_resource(history: History, report: Report, clock_error: float) -> Iterator[Violation]:
    """What a resource outside, which the bodies write to at their start and end, sees of the tokens.

    It would refuse a token lower than the greatest that it has seen. Such a write is only to come from a holder whose lease was
    over by its own account, or who was paused at the wrong moment, as any process can be.
    """
    writes = [(run.index, run.start, run) for run in history.runs]
    writes += [(run.end_index, run.end, run) for run in history.runs if run.end is not None and run.end_index is not None]
    greatest: dict[str, int] = {}
    for _, event, run in sorted(writes, key=lambda write: write[0]):
        if event.name in history.at_most_once:  # its runs may overlap, and hold no lease
            continue
        if event.token >= greatest.get(event.name, 0):
            greatest[event.name] = event.token
            continue
        report.fenced += 1
        over = event.mono >= history.deadline_of(run, event.mono) - 0.005 - 2 * clock_error
        if (
            over
            or history.stopped(event.pid, run.start.mono, event.mono)
            or history.rescheduled(event.name, run.start.mono, event.mono)
        ):
            continue
        yield Violation(
            Category.STALE_WRITE,
            "I2",
            f"{_at(run.occurrence)} wrote under token {event.token} (pid {event.pid}) after {greatest[event.name]}, believing in its lease",
        )


# --- order and end ------------------------------------------------------------------------------------------------------


def _check_order(history: History) -> Iterator[Violation]:
    for event in history.after_down:
        yield Violation(Category.ORDER, "I12", f"{event.name} ({event.what}) after the fixtures of pid {event.pid} were closed")
    for run in history.runs:
        settled = history.settled_of[run.start.name, run.start.token]
        commits = [each for each in settled if each.sent.kind == "commit" and each.sent.pid == run.start.pid]
        if run.start.name in history.at_most_once:
            committed = any(
                each.outcome in _APPLIED and each.answer is not None and each.answer.mono <= run.start.mono for each in commits
            )
            if not committed:
                yield Violation(Category.ORDER, "I6", f"{_at(run.occurrence)} started before it was committed")
        elif any(each.index < (run.end_index or FOREVER) for each in commits):
            yield Violation(Category.ORDER, "I3", f"{_at(run.occurrence)} was committed before its body had ended")
        if run.end is None and run.start.pid not in history.killed:
            yield Violation(Category.ORDER, "I12", f"{_at(run.occurrence)} was left behind by pid {run.start.pid}")


def _check_rows(history: History, rows: Sequence[Row], horizon: int, ignore: Collection[str]) -> Iterator[Violation]:
    failed = {(run.start.name, run.start.token) for run in history.runs if run.end is not None and not run.end.ok}
    # A claim that nobody logged was granted to a worker that died, or its answer was lost.
    lost_claims = bool(history.killed) or any(
        trouble.kind == "claim" for troubles in history.troubles_of.values() for trouble in troubles
    )
    for row in rows:
        name, token = row.key.name, row.epoch
        if name in ignore:
            continue
        if row.locked_until is not None and (name, token) not in failed:
            holders = history.claims_of[name].get(token, [])
            explained = all(holder.pid in history.killed or _gave_up(history, holder) for holder in holders)
            explained = explained or any(fault.kind == "claim" for fault in history.faults_of.get((name, token), ()))
            if not (explained if holders else lost_claims):
                yield Violation(Category.ORPHAN, "I12", f"{name} is left leased (token {token}) without a body")
        generations = history.generations_of.get(name, {})
        current = max(generations, default=0)
        schedule = generations[current].schedule if current in generations else None
        if isinstance(schedule, Once) and to_microseconds(row.occurrence) <= horizon:
            yield Violation(Category.ORPHAN, "I8", f"{name} is left over, although its only occurrence ran")


def _gave_up(history: History, claim: Event) -> bool:
    settled = history.settled_of.get((claim.name, claim.token), [])
    return any(_unknown(history, each) for each in settled)
