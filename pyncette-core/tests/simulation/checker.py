"""The judge: a pure function from what was seen to what was wrong with it. It knows the rules, but nothing of the engine.

Schedules are expanded here independently; what a user may expect is in RELIABILITY.md's invariants I1 to I12, which violations cite.
"""

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pyncette import Retry
from pyncette.repository import Commit, Extend, Fail, Key, Outcome, Release, Row, State
from pyncette.task import FailureMode
from simulation import log

__all__ = ["Rules", "TaskRules", "Violation", "check"]

#: By how much an alignment with the store's clock may be wrong here: half of the longest ordinary round trip (seconds).
_CLOCK_ERROR = 0.01
#: What the simulated network and event loop may take (seconds).
_MOMENT = 0.05
#: Runs that are shorter don't look for a resumption, and a look takes this long at most (seconds).
_SHORT, _LOOK = 1.1, 6.0
#: How long a call to the history may hang (seconds), and the pauses after it.
_HANGS = 100.0
#: The longest pause between two tries to settle (seconds).
_LONGEST_RETRY = 1.0
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRules:
    """What was declared of a task."""

    lease: float
    static: bool = False
    at_most_once: bool = False
    failure_mode: FailureMode = FailureMode.NONE
    fast_forward: bool = False
    max_attempts: int | None = None
    retry: Retry | None = None
    #: At most once, and never beside another run: max_running=1.
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the log is judged by."""

    #: The instant of ``at == 0``.
    origin: datetime
    #: By the name of the task.
    tasks: Mapping[str, TaskRules]
    poll_interval: float = 1.0
    #: After which a call to the store fails (seconds).
    timeout: float = 1.0
    concurrency_limit: int = 100
    shutdown_timeout: float | None = None
    #: Several processes write the store.
    shared: bool = True
    #: Workers' clocks differ, and the store has none to go by.
    unaligned: bool = False
    #: Neither store nor workers fail, and only bodies and rows do.
    calm: bool = False
    #: There are more slots than rows.
    ample: bool = False
    #: A history of all tasks is kept.
    recording: bool = False

    @property
    def recovery(self) -> float:
        """Within how many seconds of the last fault everything has to be on time again."""
        longest_lease = max(task.lease for task in self.tasks.values())
        return 6 + 2.5 * longest_lease + self.timeout + self.poll_interval + (35 if self.unaligned else 0)

    def of(self, key: Key) -> TaskRules:
        """The rules for the row ``key``."""
        kind, _, rest = key.partition.partition(":")
        return self.tasks[key.name if kind == "static" else rest.partition(":")[2] if kind == "partitioned" else rest]


class Violation(NamedTuple):
    """Something that must not happen, and when it was seen."""

    at: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:9.4f} s: {self.invariant}: {self.text}"


def check(events: Sequence[log.Event], rules: Rules) -> list[Violation]:
    """All violations, in order."""
    checker = _Checker(rules)
    for event in events:
        checker.see(event)
    return checker.violations


@dataclass(slots=True)
class _Worker:
    up_at: float
    running: set[log.Run] = field(default_factory=set)
    frozen: list[list[float]] = field(default_factory=list)
    stopping_at: float | None = None
    cancelled: bool = False
    down: str | None = None
    #: Calls of settle(), and those that were hit by a fault, or failed.
    settling: "list[_Call]" = field(default_factory=list)
    failures: "list[_Call]" = field(default_factory=list)
    #: How long its last three readings of the store's clock took (seconds).
    readings: deque[float] = field(default_factory=lambda: deque(maxlen=3))

    def longest_idle(self, begin: float, end: float) -> float:
        """The longest time between ``begin`` and ``end`` in which it did not try to settle anything."""
        longest = 0.0
        for call in self.settling:
            if call.answered_at >= begin:
                longest = max(longest, min(call.at, end) - begin)
                begin = max(begin, call.answered_at)
        return max(longest, end - begin)

    #: The runs that returned here, and when; and the entries of such runs that were stored from here, by their position.
    returned: "list[_Claim]" = field(default_factory=list)
    recorded: dict[object, tuple[Key, datetime]] = field(default_factory=dict)
    #: Up to when what had been put down before was stored; and entries that nobody will store any more.
    recorded_until: float = float("-inf")
    unrecorded: int = 0
    #: When a call to the history last ended, and when badly.
    record_ended_at: float = float("-inf")
    record_failed_at: float = float("-inf")
    #: Calls of get() that were hit by a fault, or failed.
    blind: "list[_Call]" = field(default_factory=list)

    def was_blind(self, begin: float, end: float) -> bool:
        return any(call.at <= end and call.answered_at >= begin for call in self.blind)

    def was_frozen(self, begin: float, end: float) -> bool:
        return any(since <= end and until >= begin for since, until in self.frozen)


@dataclass(slots=True)
class _Resumption:
    """Says that of all that passed before it no more than the latest is to run, and that only once."""

    at: float
    #: As the row has it.
    since: datetime
    generation: "_Generation"
    #: The run that was in progress, from before the pause.
    run: "_Claim | None"


class _Generation(NamedTuple):
    """One schedule of one row: a later registration begins another."""

    key: Key
    incarnation: int
    revision: int


@dataclass(slots=True)
class _Claim:
    worker: str
    generation: _Generation
    row: Row
    at: float
    #: When the lease expires, for the worker.
    deadline: float
    delivered_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    how: str | None = None
    committed_at: float | None = None
    #: Calls that carried a settlement of it.
    sent: list[int] = field(default_factory=list)
    answers: list[Outcome] = field(default_factory=list)
    #: The row was taken away: forced or removed.
    revoked: bool = False
    #: It was missed, and left out on purpose.
    skipped: bool = False

    @property
    def occurrence(self) -> tuple[_Generation, datetime]:
        return self.generation, self.row.occurrence


@dataclass(slots=True)
class _Call:
    worker: str
    method: str
    at: float
    runs: tuple[log.Run, ...]
    fault: str | None = None
    answered_at: float = _NEVER
    failed: bool = False
    refused: bool = False


class _Schedule(NamedTuple):
    """A schedule as it is stored, read independently."""

    #: None for a once-off.
    interval: timedelta | None
    jitter: timedelta = timedelta()
    start: datetime | None = None
    end: datetime | None = None
    runs: int | None = None

    @classmethod
    def read(cls, text: str) -> "_Schedule":
        """ValueError if it is not a schedule."""
        if re.fullmatch(r"once \S+ @UTC #\w+", text):
            return cls(None)
        number = r"(\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"interval {number} @UTC(?: jitter={number})?(?: start=(\S+))?(?: end=(\S+))?(?: runs=(\d+))?", text)
        if found is None:
            raise ValueError(text)
        interval, jitter, start, end, runs = found.groups()
        return cls(
            _seconds(interval),
            _seconds(jitter or "0"),
            start and datetime.fromisoformat(start),
            end and datetime.fromisoformat(end),
            runs and int(runs),
        )

    def first(self, now: datetime) -> datetime | None:
        """The first occurrence of an interval that is registered at ``now``."""
        if self.interval is None or self.start is None:
            return self.interval and now + self.interval
        at = self.start
        while at < now or (at == now and at != self.start):
            at += self.interval
        return at


def _resumed(memo: str) -> datetime | None:
    """When the row was resumed, as its memo has it."""
    found = re.search(r'"since":\[(\d+),', memo)
    return None if found is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(found[1]))


def _seconds(text: str) -> timedelta:
    seconds, _, fraction = text.partition(".")
    return timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0")))


class _Checker:
    def __init__(self, rules: Rules) -> None:
        self.violations: list[Violation] = []
        self._rules = rules
        self._at = 0.0
        #: By how much an honest worker may be wrong about the time (seconds).
        self._tolerance = 1000.0 if rules.unaligned else _CLOCK_ERROR
        self._rows: dict[Key, Row] = {}
        self._changed_at: dict[Key, float] = {}
        self._incarnations: defaultdict[Key, int] = defaultdict(int)
        self._claims: dict[log.Run, _Claim] = {}
        self._attempts: defaultdict[tuple[_Generation, datetime], list[_Claim]] = defaultdict(list)
        self._commits: set[tuple[_Generation, datetime]] = set()
        #: How many runs of a schedule were committed; and how often its row was paused or resumed, when one run may go uncounted.
        self._runs: defaultdict[_Generation, int] = defaultdict(int)
        self._paused: defaultdict[Key, int] = defaultdict(int)
        #: By how much each occurrence is late for its jitter.
        self._resumptions: dict[Key, _Resumption] = {}
        self._late: dict[tuple[Key, datetime, timedelta], timedelta] = {}
        self._epochs: dict[Key, int] = {}
        self._at_most_once: set[tuple[object, ...]] = set()
        self._calls: dict[int, _Call] = {}
        #: When a user asked for the registration of each marker.
        self._asked: dict[int, float] = {}
        self._workers: dict[str, _Worker] = {}
        #: Since when at least one worker has been up without a break.
        self._served_since = float("inf")
        self._healed = False
        self._backlog_judged = False
        self._idle_calls: defaultdict[tuple[str, int], int] = defaultdict(int)

    def see(self, event: log.Event) -> None:
        self._at = event.at
        match event:
            case log.Changed():
                self._changed(event)
            case log.Asked():
                self._asked[event.marker] = event.at
            case log.Sent():
                self._sent(event)
            case log.Failed():
                call = self._calls[event.call]
                call.fault = event.fault
                if call.method == "settle":
                    self._worker(event.worker).failures.append(call)
                elif call.method == "get":
                    self._worker(event.worker).blind.append(call)
            case log.Delivered():
                self._delivered(event)
            case log.Started():
                self._started(event)
            case log.Ended():
                self._ended(event)
            case log.Recorded():
                self._recorded(event)
            case log.Up():
                self._workers[event.worker] = _Worker(event.at)
                self._count_served()
            case log.Frozen():
                self._worker(event.worker).frozen.append([event.at, float("inf")])
            case log.Thawed():
                self._worker(event.worker).frozen[-1][1] = event.at
            case log.Stopping():
                self._stopping(event)
            case log.Down():
                self._down(event)
            case log.Unexpected():
                self._report("unexpected", event.message)
            case log.Healed():
                self._healed = True
            case log.Finished():
                self._finished()

    def _report(self, invariant: str, text: str) -> None:
        self.violations.append(Violation(self._at, invariant, text))

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker(0.0))

    def _true(self, instant: datetime) -> float:
        return (instant - self._rules.origin).total_seconds()

    def _count_served(self) -> None:
        if not any(worker.stopping_at is None and worker.down is None for worker in self._workers.values()):
            self._served_since = float("inf")
        elif self._served_since == float("inf"):
            self._served_since = self._at

    # --- rows --------------------------------------------------------------------------------------------------------

    def _changed(self, event: log.Changed) -> None:
        key, before, after = event.key, event.before, event.after
        if before != self._rows.get(key):
            self._report("log", f"{key} is not what it was: {before} instead of {self._rows.get(key)}")
        if event.operation == "claim":
            self._claimed(event)
        elif event.operation == "settle":
            self._settled(event)
        elif event.operation in ("register", "force"):
            self._registered(event)
        elif event.operation == "unregister" and before is not None:
            self._revoke(key)
        if event.operation in ("pause", "resume"):
            self._paused[key] += 1
        if event.operation == "resume" and before is not None and before.state is State.PAUSED:
            self._resumed(event)
        if after is not None and event.operation != "poison":
            self._spread(before, after)
        if event.operation not in ("unregister", "poison", "settle") and after is None and before is not None:
            self._report("I3 no loss", f"{key} was removed by a {event.operation}")
        if before is None and after is not None:
            self._incarnations[key] += 1
        if after is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = after
        if before != after:
            self._changed_at[key] = event.at

    def _resumed(self, event: log.Changed) -> None:
        after = event.after
        since = None if after is None else _resumed(after.memo)
        if after is None or since is None:
            return
        held = self._claims.get((event.key, after.lease)) if after.lease is not None and after.locked_until is not None else None
        self._resumptions[event.key] = _Resumption(event.at, since, self._generation(after), held)

    def _judge_resumption(self, claim: _Claim) -> None:
        """What passed in a pause, but for the latest, does not run after all, whatever was in progress meanwhile."""
        key, occurrence = claim.row.key, claim.row.occurrence
        resumption = self._resumptions.get(key)
        if resumption is None or resumption.generation != claim.generation or claim.at < resumption.at or claim.row.attempt > 1:
            return
        schedule, slack = _Schedule.read(claim.row.schedule), timedelta(seconds=2 * self._tolerance)
        if schedule.interval is None or (schedule.end is not None and occurrence + schedule.interval > schedule.end):
            return  # nothing comes after it
        if occurrence + schedule.interval < resumption.since - slack and not self._overlooked(resumption):
            self._report("I9 pause", f"{key} of {occurrence} was started, although it was resumed at {resumption.since}")

    def _overlooked(self, resumption: _Resumption) -> bool:
        """Whether the claim that was in progress may have been settled without a look at the resumption."""
        if resumption.run is None:
            return False
        if self._rules.of(resumption.run.row.key).at_most_once:
            return True  # it was settled before the body began
        if resumption.run.generation != resumption.generation:
            return True  # it was scheduled again meanwhile, and what is left out of that the run can't know
        looked, worker = False, self._worker(resumption.run.worker)
        for run in self._attempts[resumption.run.occurrence]:
            if run.worker == resumption.run.worker and run.started_at is not None:
                ended = run.ended_at
                if ended is None or ended < resumption.at + _MOMENT or ended - run.started_at < _SHORT:
                    return True  # it was no longer, or not for long enough to look
                looked = True
                if worker.was_blind(ended, ended + _LOOK) or worker.was_frozen(ended, ended + _LOOK):
                    return True
        return not looked  # it was settled without a body, and what was decided was on its way

    def _spread(self, before: Row | None, after: Row) -> None:
        """A run may be later than its occurrence by less than the jitter; and by how much, nothing changes."""
        if not self._understood(after):
            return
        late, schedule = after.execute_after - after.occurrence, _Schedule.read(after.schedule)
        # A static task's occurrence that is due stays as it is under another schedule.
        kept = before is not None and before[3:5] == after[3:5]
        if late and not kept and not timedelta() < late < schedule.jitter:
            self._report("I4 early", f"{after.key} of {after.occurrence} is for {after.execute_after}: {after.schedule}")
        if kept or not schedule.jitter:
            return
        known = self._late.setdefault((after.key, after.occurrence, schedule.jitter), late)
        if known != late:
            self._report("I9", f"{after.key} of {after.occurrence} is late by {late}, and was by {known}")

    def _generation(self, row: Row) -> _Generation:
        return _Generation(row.key, self._incarnations[row.key], row.revision)

    def _revoke(self, key: Key) -> None:
        for (claimed, _), claim in self._claims.items():
            if claimed == key:
                claim.revoked = True

    def _registered(self, event: log.Changed) -> None:
        before, after = event.before, event.after
        assert after is not None
        forced = event.operation == "force"
        if forced:
            self._revoke(event.key)
        if before is None or before.schedule != after.schedule or forced:
            if before is not None and after.revision <= before.revision:
                self._report("I3 no loss", f"the revision of {event.key} was not raised by another schedule")
            schedule = _Schedule.read(after.schedule)
            first = schedule.first(event.now)
            kept = before is not None and event.key.partition == "static" and after.occurrence == before.occurrence <= event.now
            if first is not None and after.occurrence != first and not kept and not self._waited(event, schedule, first):
                self._report("I9", f"{event.key} was registered for {after.occurrence} instead of {first}")
        elif after != before._replace(spec=after.spec):
            self._report("I9", f"registering {event.key} with the same schedule changed more than its arguments")

    def _is_latest(self, schedule: str, occurrence: datetime, latest: datetime, start: datetime, end: datetime) -> bool:
        """Whether ``latest`` was the last occurrence at a moment from ``start`` to ``end``, and a later one than ``occurrence``."""
        read, slack = _Schedule.read(schedule), timedelta(seconds=2 * self._tolerance)
        if read.interval is None or latest <= occurrence or (latest - occurrence) % read.interval:
            return False
        ends = read.end is not None and latest + read.interval > read.end
        return latest - slack <= end and (ends or start < latest + read.interval + slack)

    def _waited(self, event: log.Changed, schedule: _Schedule, first: datetime) -> bool:
        """Whether the first occurrence comes before ``first`` since it counts from when the user asked, who waited for others' calls."""
        assert event.after is not None
        asked = self._asked.get(json.loads(event.after.spec).get("v"))
        early = (first - event.after.occurrence).total_seconds()
        if schedule.start is not None and schedule.interval is not None:
            # From its beginning on it keeps its rhythm, so it was the first then, or one of those that follow.
            if event.after.occurrence < schedule.start or (event.after.occurrence - schedule.start) % schedule.interval:
                return False
            early = max(early - schedule.interval.total_seconds(), min(early, 0.0))
        # Later than that only where a clock was put right meanwhile that nothing keeps aligned.
        return asked is not None and -max(_CLOCK_ERROR, self._tolerance) < early < event.at - asked + self._tolerance

    def _claimed(self, event: log.Changed) -> None:
        before, after, rules = event.before, event.after, self._rules
        assert before is not None and after is not None and after.lease is not None
        key, tolerance = event.key, self._tolerance
        # Over a removal, tokens rise as far as the clocks agree.
        slack = int(2e6 * tolerance) if self._incarnations[key] > 1 and before.attempt == 0 else 0
        if (key, after.lease) in self._claims or after.epoch <= max(self._epochs.get(key, 0) - slack, before.epoch):
            self._report("I1 fencing", f"{key}: epoch {after.epoch} or lease {after.lease} is not new")
        self._epochs[key] = after.epoch
        if before.locked_until is not None and (
            before.locked_until > event.now or self._true(before.locked_until) > event.at + tolerance
        ):
            self._report("I2 exclusion", f"{key} was claimed by {event.worker}, but leased until {before.locked_until}")
        if before.ready_at is None or before.ready_at > event.now or self._true(before.execute_after) > event.at + tolerance:
            self._report("I4 early", f"{key} was claimed by {event.worker}, but is for {before.execute_after}")
        sent_at = self._calls[event.call].at
        claim = _Claim(event.worker, self._generation(after), after, event.at, sent_at + rules.of(key).lease)
        others = self._attempts[claim.occurrence]
        if not rules.of(key).at_most_once:
            for other in others:
                if self._completed(other) and not self._excused(other):
                    self._report(
                        "I7 extra", f"{key} of {after.occurrence} ran to its end under {other.worker}, but was claimed again"
                    )
                if other.started_at is not None and other.ended_at is None and not self._may_overlap(other):
                    self._report("I2 concurrent", f"{key} was claimed by {event.worker} while it ran under {other.worker}")
        others.append(claim)
        self._claims[key, after.lease] = claim
        if before.ready_at is not None:
            self._judge_lateness(key, before, event)

    def _completed(self, claim: _Claim) -> bool:
        task = self._rules.of(claim.row.key)
        return claim.how == "returned" or (claim.how == "raised" and (task.alone or task.failure_mode is FailureMode.COMMIT))

    def _may_overlap(self, claim: _Claim) -> bool:
        """Whether a body that still runs may have lost its row: its lease expired, or a user took the row away."""
        return claim.revoked or self._at >= claim.deadline - self._tolerance or self._worker(claim.worker).down is not None

    def _excused(self, claim: _Claim) -> bool:
        """Whether there is a cause for a completed run not to have been committed while its lease lasted."""
        assert claim.ended_at is not None
        worker = self._worker(claim.worker)
        if claim.revoked or claim.ended_at >= claim.deadline - self._tolerance:
            return True
        if worker.down is not None or worker.was_frozen(claim.ended_at, claim.deadline):
            return True
        calls = [self._calls[call] for call in claim.sent]
        if any((call.refused and len(call.runs) == 1) or call.fault is not None and call.answered_at == _NEVER for call in calls):
            return True  # refused for good, or still in progress
        if any(call.answered_at != _NEVER and not call.failed for call in calls):
            return True  # it was answered, by whatever has become of the row
        # Tries continue for as long as the lease.
        since = max([claim.ended_at, *(call.answered_at for call in calls)])
        return worker.longest_idle(since, claim.deadline) < _LONGEST_RETRY + _MOMENT + 0.05

    def _judge_lateness(self, key: Key, before: Row, event: log.Changed) -> None:
        rules = self._rules
        if not rules.calm or not rules.ample or before.ready_at is None:
            return
        since = max(self._true(before.ready_at), self._changed_at.get(key, 0.0), self._served_since + 0.1)
        if event.at - since > rules.poll_interval + 0.2:
            self._report("I10 isolation", f"{key} was due at {since:.3f} s and claimed only at {event.at:.3f} s")

    def _settled(self, event: log.Changed) -> None:
        before, after, settlement = event.before, event.after, event.settlement
        assert settlement is not None
        key, claim = event.key, self._claims.get((event.key, settlement.claim.lease))
        if claim is None:
            return self._report("I1 fencing", f"{key}: a settlement of a lease that nobody had")
        if before is None or before.lease != settlement.claim.lease or before.locked_until is None:
            if after != before:
                self._report("I1 stale write", f"{key}: {settlement} of {claim.worker} came too late, but wrote {after}")
            return None
        same = before.revision == settlement.claim.revision
        advances = isinstance(settlement, Commit) and same
        if advances != (event.outcome is Outcome.APPLIED and isinstance(settlement, Commit)):
            self._report("I1 stale write", f"{key}: {settlement} was {event.outcome}")
        if not advances and not isinstance(settlement, Fail):
            kept = after is not None and _identity(after) == _identity(before)
            if not kept:
                self._report("I3 no loss", f"{key}: {settlement} of another revision wrote {after}")
        if isinstance(settlement, Extend):
            if event.outcome is Outcome.APPLIED:
                claim.deadline = max(claim.deadline, self._true(settlement.until))
        elif isinstance(settlement, Release) and event.outcome is Outcome.APPLIED:
            if not settlement.started and claim.started_at is not None:
                self._report("I12 shutdown", f"{key} was given back as not started by {claim.worker}, but it was")
            self._judge_retry(event, claim, settlement)
            if claim.started_at is not None and claim.ended_at is None:
                self._report("I2 concurrent", f"{key} was given back by {claim.worker} while it still ran")
        elif isinstance(settlement, Fail) and event.outcome is Outcome.APPLIED:
            alone = self._rules.of(key).alone
            limit = 1 if alone else self._rules.of(key).max_attempts
            claim.revoked = claim.revoked or alone  # somebody may want it run again, by a resumption
            if limit is None or settlement.claim.attempt < limit:
                self._report("I3 no loss", f"{key} was given up after attempt {settlement.claim.attempt}")
        elif isinstance(settlement, Commit) and advances:
            self._committed(event, claim, settlement)
        return None

    def _judge_retry(self, event: log.Changed, claim: _Claim, release: Release) -> None:
        """A body that raised is tried again after the pause that its Retry names: no earlier, and hardly later."""
        retry = self._rules.of(event.key).retry
        if retry is None or claim.how != "raised" or event.after is None or event.after.ready_at is None:
            return
        assert claim.ended_at is not None
        pause = min(retry.delay.total_seconds() * retry.factor ** (release.claim.attempt - 1), retry.limit.total_seconds())
        pauses = self._true(event.after.ready_at) - claim.ended_at
        slack = pause * retry.jitter + self._tolerance + 1e-3
        if not pause - slack <= pauses <= pause + slack:
            self._report("I17 retry", f"{event.key} is tried again after {pauses:.3f} s instead of {pause:.3f} s")

    def _committed(self, event: log.Changed, claim: _Claim, commit: Commit) -> None:
        key, before, after, task = event.key, event.before, event.after, self._rules.of(event.key)
        assert before is not None
        if claim.occurrence in self._commits:
            self._report("I5 one advance", f"{key} of {before.occurrence} was committed twice")
        self._commits.add(claim.occurrence)
        claim.committed_at = event.at
        # A run that outlasts its lease continues under the next claim of its worker; what is given up continues without having ended well.
        runs = [other for other in self._attempts[claim.occurrence] if other.worker == claim.worker]
        given_up = task.max_attempts is not None and commit.claim.attempt >= task.max_attempts
        resumed = _resumed(claim.row.memo)
        paused = resumed is not None and before.occurrence < resumed  # then the latest that passed in the pause comes next
        delivered = event.at if claim.delivered_at is None else claim.delivered_at
        decided = event.now - timedelta(seconds=event.at - delivered)  # or later, up to when it was settled
        claim.skipped = (
            (paused or (task.fast_forward and commit.claim.attempt == 1))
            and after is not None
            and claim.started_at is None
            and (
                self._is_latest(before.schedule, before.occurrence, after.occurrence, decided, event.now)
                or (resumed is not None and self._is_latest(before.schedule, before.occurrence, after.occurrence, resumed, resumed))
            )
        )
        if claim.skipped:
            return
        if not task.at_most_once and not given_up and not any(map(self._completed, runs)):
            self._report(
                "I3 no loss", f"{key} of {before.occurrence} was committed by {claim.worker}, but not run to its end: {claim.how}"
            )
        if task.at_most_once and claim.started_at is not None:
            self._report("I6 at most once", f"{key} of {before.occurrence} was committed only after it was started")
        schedule = _Schedule.read(before.schedule)
        interval = schedule.interval
        generation = claim.generation
        self._runs[generation] += 1
        runs, unsure = self._runs[generation], self._paused[key]
        if after is None:
            counted = schedule.runs is not None and abs(runs - schedule.runs) <= unsure
            missed = event.now + timedelta(seconds=2 * self._tolerance) if task.fast_forward else before.occurrence
            ended = schedule.end is not None and interval is not None and max(missed, before.occurrence) + interval > schedule.end
            if interval is not None and not counted and not ended:
                self._report("I3 no loss", f"{key} was removed after {runs} runs, but its schedule continues: {before.schedule}")
            return
        if schedule.runs is not None and runs >= schedule.runs + unsure:
            self._report("I7 extra", f"{key} continues after {runs} runs: {before.schedule}")
        if schedule.end is not None and after.occurrence > schedule.end:
            self._report("I7 extra", f"{key} continues to {after.occurrence}, after its end: {before.schedule}")
        if interval is None:
            return self._report("I8 once-off", f"{key} continues to {after.occurrence} after its only occurrence")
        steps, rest = divmod(after.occurrence - before.occurrence, interval)
        skipping = task.fast_forward and after.occurrence - interval <= event.now + timedelta(seconds=2 * self._tolerance)
        if rest or (steps != 1 and not (steps > 1 and skipping)):
            self._report("I7 missed", f"{key} went on from {before.occurrence} to {after.occurrence}")

    # --- calls -------------------------------------------------------------------------------------------------------

    def _sent(self, event: log.Sent) -> None:
        worker = self._worker(event.worker)
        call = self._calls[event.call] = _Call(event.worker, event.method, event.at, event.runs)
        if event.method == "settle":
            worker.settling.append(call)
        for run in event.runs:
            if run in self._claims:
                self._claims[run].sent.append(event.call)
        if abs(event.stale) > self._tolerance and not worker.was_frozen(event.at - abs(event.stale), event.at):
            self._report("I2 exclusion", f"{event.worker} passed a time to {event.method} that is {event.stale:.3f} s old")
        second = int(event.at)
        self._idle_calls[event.worker, second] += 1
        if self._idle_calls[event.worker, second] == 500:
            self._report("busy loop", f"{event.worker} called the store 500 times in a second")

    def _delivered(self, event: log.Delivered) -> None:
        call = self._calls[event.call]
        call.answered_at = event.at
        if call.method == "server_time" and event.error is None:
            readings = self._worker(call.worker).readings
            readings.append(event.at - call.at)
            if len(readings) == 3:
                self._tolerance = max(self._tolerance, min(readings) / 2 + 0.001)
        if event.error is not None:
            call.failed, call.refused = True, event.refused
            if call.method == "settle" and call.fault is None:
                self._worker(call.worker).failures.append(call)
            elif call.method == "get" and call.fault is None:
                self._worker(call.worker).blind.append(call)
        for claim in event.claims:
            self._claims[claim.key, claim.lease].delivered_at = event.at
        for run, outcome in zip(call.runs, event.outcomes, strict=False):
            if run in self._claims:
                self._claims[run].answers.append(outcome)

    # --- runs --------------------------------------------------------------------------------------------------------

    def _started(self, event: log.Started) -> None:
        claim, (key, _), rules = self._claims.get(event.run), event.run, self._rules
        if claim is None or claim.worker != event.worker or claim.delivered_at is None:
            return self._report("I1 fencing", f"{event.worker} runs {key}, which it did not claim")
        worker, task, row = self._worker(event.worker), self._rules.of(key), claim.row
        if claim.started_at is not None:
            self._report("I6 at most once", f"{event.worker} started {key} twice under one lease")
        claim.started_at = event.at
        worker.running.add(event.run)
        # Each run costs calls: what is counted is those without one.
        self._idle_calls[event.worker, int(event.at)] -= 2
        if len(worker.running) > rules.concurrency_limit:
            self._report("slots", f"{event.worker} runs {len(worker.running)} bodies at once")
        if event.scheduled_at != row.occurrence or self._true(row.occurrence) > event.at + self._tolerance:
            self._report("I4 early", f"{key} was started for {event.scheduled_at}, was claimed for {row.occurrence}")
        if _arguments(row.spec) != event.args:
            self._report("I9", f"{key} was started with {event.args}, but claimed with {row.spec}")
        self._judge_resumption(claim)
        before = [other for other in self._attempts[claim.occurrence] if other is not claim and other.started_at is not None]
        if task.alone and not all(other.revoked for other in before):
            self._report("I6 at most once", f"{key} of {row.occurrence} was started twice")
        if task.at_most_once:
            self._started_at_most_once(claim)
        else:
            for other in self._attempts[claim.occurrence]:
                if other.worker == claim.worker and other.started_at is not None and other.ended_at is None and not claim.revoked:
                    if other is not claim:
                        self._report("I16 progress", f"{key} was started by {event.worker} beside itself")
            if event.at > claim.deadline + self._tolerance:
                self._report("I2 exclusion", f"{key} was started {event.at - claim.deadline:.3f} s after its lease expired")
            if event.at > claim.delivered_at + _MOMENT and not worker.was_frozen(claim.delivered_at, event.at):
                self._report("slots", f"{key} was claimed {event.at - claim.delivered_at:.3f} s before it was started")
            if (
                worker.stopping_at is not None
                and event.at > worker.stopping_at + 1e-4
                and not worker.was_frozen(worker.stopping_at, event.at)
            ):
                self._report("I12 shutdown", f"{key} was started by {event.worker} after it had been told to stop")
        return None

    def _started_at_most_once(self, claim: _Claim) -> None:
        key = claim.row.key
        # A static task's occurrence that is due already survives another schedule; other rows start over with one.
        same = claim.generation[:2] if key.partition == "static" else claim.generation
        occurrence = (same, claim.row.occurrence)
        if occurrence in self._at_most_once:
            self._report("I6 at most once", f"{key} of {claim.row.occurrence} was started twice")
        self._at_most_once.add(occurrence)
        if claim.committed_at is None:
            self._report("I6 at most once", f"{key} of {claim.row.occurrence} was started without having been committed")

    def _ended(self, event: log.Ended) -> None:
        claim = self._claims[event.run]
        claim.ended_at, claim.how = event.at, event.how
        if event.how == "returned":
            self._worker(event.worker).returned.append(claim)
        self._worker(event.worker).running.discard(event.run)

    # --- the history -------------------------------------------------------------------------------------------------

    def _recorded(self, event: log.Recorded) -> None:
        worker = self._worker(event.worker)
        if (event.error and not event.fault) or '"change"' in event.entries[0].text:
            return  # the worker did not wait for a call that would have gone well, or it was a user's
        worker.record_ended_at = event.at
        if event.error:
            worker.record_failed_at = event.at
        if event.error == "refused":
            worker.unrecorded += len(event.entries)
        if not event.error:
            worker.recorded_until = event.sent_at
        if not event.applied:
            return
        for key, position, _, text in event.entries:
            run = json.loads(text).get("run")
            if run is not None and run[3] == "succeeded":
                worker.recorded[key.partition, position] = key, datetime.fromtimestamp(0, UTC) + timedelta(microseconds=run[0])

    def _judge_history(self, name: str, worker: _Worker) -> None:
        """What is in the history has happened, and once; and nothing is missing that the store would have taken."""
        told, left = Counter(worker.recorded.values()), Counter[tuple[Key, datetime]]()
        for claim in worker.returned:
            left[claim.row.key, claim.row.occurrence] += 1
        for run in told - left:
            self._report("history", f"{name} recorded {told[run]} successes of {run}, of which it had {left[run]}")
        until = worker.recorded_until
        well = worker.down == "ended" and not worker.cancelled and self._rules.shutdown_timeout is None
        if well and worker.stopping_at is not None:
            # Whatever waits at the end is tried once more, at least.
            if worker.record_failed_at < worker.stopping_at - _HANGS or worker.record_ended_at < worker.stopping_at:
                until = float("inf")
        for claim in worker.returned:
            assert claim.ended_at is not None and claim.started_at is not None
            slow = claim.ended_at - claim.started_at >= 1 or worker.was_frozen(claim.ended_at, until)
            if not slow and claim.ended_at + _MOMENT < until and (claim.row.key, claim.row.occurrence) not in told:
                if worker.unrecorded:
                    worker.unrecorded -= 1
                else:
                    self._report("history", f"the run of {claim.row.key} of {claim.row.occurrence} by {name} is missing")

    # --- workers -----------------------------------------------------------------------------------------------------

    def _stopping(self, event: log.Stopping) -> None:
        worker = self._worker(event.worker)
        worker.stopping_at, worker.cancelled = event.at, event.cancelled
        self._count_served()
        if self._healed and not self._backlog_judged:
            self._backlog_judged = True
            self._judge_backlog()

    def _judge_backlog(self) -> None:
        for name, task in self._rules.tasks.items():
            if task.static and Key("static", name) not in self._rows:
                self._report("I3 no loss", f"the static task {name!r} has no row, although all is well again")
        for row in self._rows.values():
            if row.state is State.SCHEDULED and row.ready_at is not None and self._understood(row):
                late = self._at - self._true(row.ready_at)
                if late > 2 * self._rules.poll_interval + 1:
                    self._report("I7 missed", f"{row.key} has been due for {late:.3f} s, although all is well again")

    def _understood(self, row: Row) -> bool:
        if _arguments(row.spec) is None:
            return False
        try:
            _Schedule.read(row.schedule)
        except ValueError:
            return False
        return True

    def _down(self, event: log.Down) -> None:
        worker = self._worker(event.worker)
        worker.down = event.how
        self._count_served()
        if event.how == "killed":
            worker.running.clear()
            return
        if worker.stopping_at is None and event.how == "ended":
            self._report("unexpected", f"{event.worker} ended without having been told")
        if (
            worker.stopping_at is not None
            and event.at - worker.stopping_at > 60
            and not worker.was_frozen(worker.stopping_at, event.at)
        ):
            self._report("I12 shutdown", f"{event.worker} took {event.at - worker.stopping_at:.1f} s to end")
        for (key, lease), claim in self._claims.items():
            row = self._rows.get(key)
            if claim.worker != event.worker or row is None or row.lease != lease or row.locked_until is None:
                continue
            if claim.delivered_at is not None and event.at < claim.deadline and not self._may_stay_leased(claim, worker):
                self._report("I12 shutdown", f"{event.worker} ended and left the lease of {key}: {claim}")

    def _may_stay_leased(self, claim: _Claim, worker: _Worker) -> bool:
        task = self._rules.of(claim.row.key)
        if not self._understood(claim.row) or (claim.started_at is not None and claim.ended_at is None):
            return True
        if claim.how == "raised" and task.failure_mode is FailureMode.NONE:
            return True
        since = claim.ended_at if claim.ended_at is not None else claim.delivered_at
        assert since is not None
        return any(call.answered_at >= since for call in worker.failures) or worker.was_frozen(since, self._at)

    def _finished(self) -> None:
        if self._rules.recording:
            for name, worker in self._workers.items():
                self._judge_history(name, worker)
        for claim in self._claims.values():
            worker = self._worker(claim.worker)
            told = Outcome.APPLIED in claim.answers or Outcome.ALREADY in claim.answers
            lost = (
                self._rules.of(claim.row.key).at_most_once
                and claim.committed_at is not None
                and claim.started_at is None
                and not claim.skipped
            )
            if lost and told and worker.down != "killed" and not worker.cancelled and self._rules.shutdown_timeout is None:
                self._report(
                    "I7 missed", f"{claim.row.key} of {claim.row.occurrence} was committed by {claim.worker}, but not started"
                )


def _identity(row: Row) -> tuple[object, ...]:
    """What no settlement but a commit of the row's own revision may touch."""
    return row.key, row.spec, row.schedule, row.occurrence, row.execute_after, row.revision, row.epoch, row.lease


def _arguments(spec: str) -> object:
    try:
        arguments = json.loads(spec)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None
