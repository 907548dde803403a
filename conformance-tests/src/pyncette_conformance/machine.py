"""Random histories of calls, compared step by step with the reference store.

Hypothesis invents the calls: from several workers, with clocks that lag, with settlements of any age, sent again or never. After each
call the store must have answered as the reference does and hold the same rows, but for the random lease ids. In addition, a
ledger checks what has to hold whatever the reference says: so that an error that both share is found, too.
"""

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyncette.memory import MemoryRepository
from pyncette.repository import (
    Claim,
    Commit,
    Extend,
    Fail,
    Key,
    Outcome,
    Registration,
    Release,
    Repository,
    Row,
    Settlement,
    State,
    Stats,
    SupportsPause,
    SupportsStats,
    Target,
)
from pyncette_conformance.builders import LEASE, T0, TICK, epoch_at
from pyncette_conformance.comparison import same
from pyncette_conformance.store import Session, all_rows

__all__ = ["WORKERS", "RepositoryMachine"]

WORKERS = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Twin:
    """A claim as the store made it, and the reference's for the same row."""

    claim: Claim
    reference: Claim


@dataclass(frozen=True, slots=True)
class Sent:
    """A settlement that was sent, to be sent again."""

    twin: Twin
    settlement: Settlement


@dataclass(slots=True)
class Life:
    """What the ledger knows of a row since it was inserted."""

    born: datetime
    #: The last token that was handed out.
    epoch: int | None = None
    #: The lease that is neither settled nor taken away, and its end.
    live: tuple[str, datetime] | None = None
    #: The occurrences that were committed, by the revision they belong to.
    advanced: set[tuple[int, datetime]] | None = None


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call of the reference, which never waits."""
    try:
        call.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the reference waits")


workers: st.SearchStrategy[int] = st.integers(0, WORKERS - 1)
#: Two partitions and names that a store may confuse; few, so that calls meet.
numbers: st.SearchStrategy[int] = st.integers(0, 2)
some_numbers: st.SearchStrategy[list[int]] = st.lists(numbers, min_size=1, max_size=3, unique=True)
rarely: st.SearchStrategy[bool] = st.sampled_from([False, False, False, True])
#: How long ago something was, in things of its kind.
ages: st.SearchStrategy[int] = st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8])
seconds: st.SearchStrategy[int] = st.sampled_from([0, 1, 30, 60, 90, -30, -600])
jitters: st.SearchStrategy[int] = st.sampled_from([0, 2])
schedules: st.SearchStrategy[str] = st.sampled_from(["A", "B", "a"])
memos: st.SearchStrategy[str | None] = st.sampled_from([None, None, "", "a", '{"run": "é"}'])
specs: st.SearchStrategy[str] = st.sampled_from(["{}", "[1]", '"é\\u0000"'])
#: A clock that lags behind, or a call that was long in progress.
lags: st.SearchStrategy[timedelta] = st.sampled_from([timedelta(), timedelta(), timedelta(), TICK, timedelta(seconds=30), LEASE])
spans: st.SearchStrategy[timedelta] = st.sampled_from(
    [timedelta(), timedelta(), TICK, timedelta(seconds=1), timedelta(seconds=30), LEASE, timedelta(hours=1)]
)


class RepositoryMachine(RuleBasedStateMachine):
    """Calls of several workers on a few rows. Subclass it with the session of an open store."""

    session: ClassVar[Session]

    def __init__(self) -> None:
        super().__init__()
        store = self.session.store
        self.reference: MemoryRepository = MemoryRepository()
        self.now: datetime = T0
        one = store.partition()
        self.partitions: list[str] = [one, store.adopt(one + ":")]
        self.keys: list[Key] = [Key(one, "a"), Key(one, "A"), Key(self.partitions[1], "a")]
        self.leases: dict[tuple[Key, str], str] = {}
        self.lives: dict[Key, Life] = {}
        # Lists and not bundles, so that those which matter are used more often than others.
        self.claims: list[Twin] = []
        self.sent: list[Sent] = []

    # -- the calls --

    @initialize(some=some_numbers)
    def begin(self, some: list[int]) -> None:
        # Most histories are of rows that are there and due.
        self.register(0, some, "A", "{}", 0, 0, keep_overdue=False, force=False, lag=timedelta())

    @rule(
        worker=workers,
        some=some_numbers,
        schedule=schedules,
        spec=specs,
        delay=seconds,
        jitter=jitters,
        keep_overdue=st.booleans(),
        force=st.booleans(),
        lag=lags,
    )
    def register(
        self,
        worker: int,
        some: list[int],
        schedule: str,
        spec: str,
        delay: int,
        jitter: int,
        keep_overdue: bool,
        force: bool,
        lag: timedelta,
    ) -> None:
        now = self.now - lag
        occurrence = self.now + timedelta(seconds=delay)
        target = Target(occurrence, occurrence + timedelta(seconds=jitter))
        batch = [Registration(self.keys[number], spec, schedule, target, keep_overdue=keep_overdue) for number in some]
        self.both(worker, lambda repository: repository.register(now, batch, force=force))
        for registration in batch:
            life = self.lives.setdefault(registration.key, Life(now))
            if force:
                life.live = None

    @rule(worker=workers, number=numbers)
    def unregister(self, worker: int, number: int) -> None:
        key = self.keys[number]
        removed, expected = self.both(worker, lambda repository: repository.unregister(self.now, [key]))
        assert list(removed) == list(expected)
        self.lives.pop(key, None)

    @rule(worker=workers, span=spans)
    def claim_all(self, worker: int, span: timedelta) -> None:
        for second_partition in (False, True):
            self.claim(worker, second_partition, 3, None, span, timedelta(), LEASE)

    @rule(
        worker=workers,
        second_partition=st.booleans(),
        limit=st.integers(1, 3),
        some=st.none() | st.lists(numbers, max_size=3, unique=True),
        span=spans,
        lag=lags,
        lease=st.sampled_from([LEASE, timedelta(seconds=1), timedelta(hours=2)]),
    )
    def claim(
        self,
        worker: int,
        second_partition: bool,
        limit: int,
        some: list[int] | None,
        span: timedelta,
        lag: timedelta,
        lease: timedelta,
    ) -> None:
        self.now += span
        partition = self.partitions[second_partition]
        names = None if some is None else list(dict.fromkeys(self.keys[number].name for number in some))
        now = self.now - lag
        asked = {row.key: row for row in self.reference_rows(partition) if names is None or row.key.name in names}
        ready = {key: row.ready_at for key, row in asked.items() if row.ready_at is not None}
        result = self.session.call(
            self.session.workers[worker].claim(now, partition, lease_duration=lease, limit=limit, names=names)
        )
        # Of several that are ready since the same instant a store may take any.
        assert [ready.get(claim.key) for claim in result.claims] == sorted(at for at in ready.values() if at <= now)[:limit]
        taken = [claim.key for claim in result.claims]
        assert len(set(taken)) == len(taken)
        assert result.next_ready_at == min((at for key, at in ready.items() if key not in taken), default=None)
        assert sorted(result.missing) == sorted({*(names or [])} - {key.name for key in asked})
        for claim in result.claims:
            expected = at_once(self.reference.claim(now, partition, lease_duration=lease, limit=1, names=[claim.key.name])).claims[
                0
            ]
            same("a claim", [claim], [expected._replace(lease=claim.lease)])
            assert (claim.key, claim.lease) not in self.leases, "a lease id was used before"
            self.leases[claim.key, claim.lease] = expected.lease
            self.note_claim(claim, now, now + lease)
            self.claims.append(Twin(claim, expected))

    @precondition(lambda self: self.claims)
    @rule(worker=workers, age=ages, delay=seconds, jitter=jitters, lag=lags, last=rarely, memo=memos)
    def commit(self, worker: int, age: int, delay: int, jitter: int, lag: timedelta, last: bool, memo: str | None) -> None:
        claim = self.twin(age).claim
        occurrence = claim.occurrence + timedelta(seconds=abs(delay) + 1)
        following = None if last else Target(occurrence, occurrence + timedelta(seconds=jitter))
        self.settle(worker, age, Commit(claim, following, memo), lag)

    @precondition(lambda self: self.claims)
    @rule(worker=workers, age=ages, delay=seconds, started=st.booleans(), lag=lags, fail=rarely, memo=memos)
    def release(self, worker: int, age: int, delay: int, started: bool, lag: timedelta, fail: bool, memo: str | None) -> None:
        claim = self.twin(age).claim
        give_back = Release(claim, self.now + timedelta(seconds=delay), started=started, memo=memo)
        self.settle(worker, age, Fail(claim, "it broke", memo) if fail else give_back, lag)

    @precondition(lambda self: self.claims)
    @rule(worker=workers, age=ages, delay=seconds, lag=lags)
    def extend(self, worker: int, age: int, delay: int, lag: timedelta) -> None:
        self.settle(worker, age, Extend(self.twin(age).claim, self.now + timedelta(seconds=delay)), lag)

    @precondition(lambda self: self.sent)
    @rule(worker=workers, some=st.lists(ages, min_size=1, max_size=3, unique=True), span=spans, lag=lags)
    def send_again(self, worker: int, some: list[int], span: timedelta, lag: timedelta) -> None:
        self.now += span
        batch = {each.twin.claim.key: each for each in (self.sent[-1 - min(age, len(self.sent) - 1)] for age in some)}
        self.settle_all(worker, list(batch.values()), self.now - lag)

    @rule(worker=workers, some=some_numbers, pause=st.booleans(), noted=st.dictionaries(numbers, memos.filter(bool)))
    def pause_or_resume(self, worker: int, some: list[int], pause: bool, noted: dict[int, str]) -> None:
        repository, keys = self.session.workers[worker], [self.keys[number] for number in some]
        if not isinstance(repository, SupportsPause):
            return
        calls = [repository.pause, self.reference.pause] if pause else [repository.resume, self.reference.resume]
        notes = {self.keys[number]: memo for number, memo in noted.items() if number in some}
        assert list(self.session.call(calls[0](self.now, keys, notes))) == list(at_once(calls[1](self.now, keys, notes)))

    # -- what has to hold after each --

    @invariant()
    def rows_are_those_of_the_reference(self) -> None:
        first, *_, last = self.session.workers

        async def look() -> tuple[Sequence[Row], Sequence[Row | None], Sequence[Stats]]:
            # Page by page, so that tokens are used as well; and through two workers, so that they can't disagree.
            listed = [row for partition in self.partitions for row in await all_rows(first, partition, limit=2)]
            stats = [await last.stats(self.now, each) for each in self.partitions] if isinstance(last, SupportsStats) else []
            return listed, await last.get(self.keys), stats

        listed, stored, stats = self.session.call(look())
        same("a row", [row and self.translated(row) for row in stored], list(at_once(self.reference.get(self.keys))))
        same("a listed row", sorted(listed), sorted(row for row in stored if row is not None))
        same("a count", list(stats), [self.count(partition) for partition in self.partitions][: len(stats)])
        for row in listed:
            self.check_row(row)

    def count(self, partition: str) -> Stats:
        """What the rows of the reference add up to."""
        rows = self.reference_rows(partition)
        due = [row.ready_at for row in rows if row.ready_at is not None and row.ready_at <= self.now]
        failed = sum(row.state is State.FAILED for row in rows)
        return Stats(rows=len(rows), due=len(due), oldest_due=min(due, default=None), failed=failed)

    def check_row(self, row: Row) -> None:
        """What a row must look like, whatever happened to it."""
        assert (row.ready_at is None) == (row.state is not State.SCHEDULED)
        assert (row.error is None) == (row.state is not State.FAILED)
        assert row.locked_until is None or row.lease is not None
        if row.ready_at is not None:
            assert row.ready_at >= row.execute_after, "I4: it could start early"
            assert row.locked_until is None or row.ready_at >= row.locked_until, "I2: it could be claimed under a live lease"

    def note_claim(self, claim: Claim, now: datetime, until: datetime) -> None:
        """Enter a claim into the ledger, which knows what nobody may claim."""
        life = self.lives[claim.key]
        assert claim.execute_after <= now, "I4: claimed early"
        assert claim.epoch > (epoch_at(life.born) if life.epoch is None else life.epoch), "I1: the token did not rise"
        assert life.live is None or life.live[1] <= now, "I2: claimed under a live lease"
        life.epoch, life.live = claim.epoch, (claim.lease, until)

    def note_outcome(self, settlement: Settlement, outcome: Outcome) -> None:
        """Enter an outcome into the ledger, which knows the permitted answers."""
        claim = settlement.claim
        life = self.lives.get(claim.key)
        holds = life is not None and life.live is not None and life.live[0] == claim.lease
        assert (outcome is Outcome.GONE) == (life is None), "I3: a row appeared or disappeared without a call"
        if life is None:
            return
        if isinstance(settlement, Extend):
            assert (outcome is Outcome.APPLIED) == holds, "I2: a lease was extended that had ended"
            if life.live is not None and holds:
                life.live = claim.lease, max(life.live[1], settlement.until)
            return
        assert (outcome is Outcome.APPLIED) <= holds, "I1, I5: a settlement was applied although its claim had ended"
        if not holds:
            return
        assert outcome in (Outcome.APPLIED, Outcome.SUPERSEDED), "I3: the holder's settlement had no effect"
        life.live = None
        if isinstance(settlement, Commit) and outcome is Outcome.APPLIED:
            life.advanced = life.advanced or set()
            assert (claim.revision, claim.occurrence) not in life.advanced, "I5: advanced twice"
            life.advanced.add((claim.revision, claim.occurrence))
            if settlement.next is None:
                del self.lives[claim.key]

    # -- the two stores --

    def both(self, worker: int, call: Callable[[Repository], Coroutine[Any, Any, T]]) -> tuple[T, T]:
        """The answers of the store and of the reference."""
        return self.session.call(call(self.session.workers[worker])), at_once(call(self.reference))

    def twin(self, age: int) -> Twin:
        """The last claim that has not ended; with a greater ``age``, an older one, or one that has ended."""
        live = {life.live[0] for life in self.lives.values() if life.live is not None}
        claims = sorted(self.claims, key=lambda twin: twin.claim.lease in live)
        return claims[-1 - min(age, len(claims) - 1)]

    def settle(self, worker: int, age: int, settlement: Settlement, lag: timedelta = timedelta()) -> None:
        """Send one settlement, which can be sent again."""
        self.sent.append(Sent(self.twin(age), settlement))
        self.settle_all(worker, self.sent[-1:], self.now - lag)

    def settle_all(self, worker: int, batch: Sequence[Sent], now: datetime) -> None:
        """Send settlements, each with its own claim to the store and with its twin to the reference."""
        settlements = [each.settlement for each in batch]
        outcomes = self.session.call(self.session.workers[worker].settle(now, settlements))
        expected = at_once(self.reference.settle(now, [replace(each.settlement, claim=each.twin.reference) for each in batch]))
        same("an outcome", list(outcomes), list(expected))
        for settlement, outcome in zip(settlements, outcomes, strict=True):
            self.note_outcome(settlement, outcome)

    def reference_rows(self, partition: str) -> Sequence[Row]:
        """What the store should have stored."""
        return at_once(all_rows(self.reference, partition))

    def translated(self, row: Row) -> Row:
        """A row of the store with the reference's lease in place of its own."""
        return row if row.lease is None else row._replace(lease=self.leases[row.key, row.lease])

    def teardown(self) -> None:
        with contextlib.suppress(Exception):  # where the store is broken, the step that found it out is to be reported
            self.session.call(self.session.workers[0].unregister(self.now, self.keys))
            for partition in self.partitions:
                self.session.store.disown(partition)
