"""Every history of one row within small bounds: several workers, a user and a clock, with messages late, doubled and lost.

What is explored is :mod:`pyncette.lifecycle` itself, the rules that the in-memory and SQLite stores apply. It is driven directly
and not through a repository: the functions are pure, so a row is a value, a state of the world is a tuple of such values, and
each transition is computed once however many histories share it; a repository would have to be built again for every
state, and would add nothing to the life of a single row. That stores keep to these rules is for the other tests.

``python -m pyncette_conformance.exhaustive [--mutant NAME]`` prints the states seen and the first violation of I1 to I9.

A state holds what really is (the row, what the workers know, the messages in transit) and what should be: the *promise*, which
is what the user was told last and what applied commits have made of it, and the *grant*, the lease that somebody may
believe in. The invariants compare the two.
"""

import argparse
import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from pyncette.repository import Claim, Commit, Extend, Fail, Key, Outcome, Registration, Release, Row, Settlement, State, Target
from pyncette_conformance.broken_rules import MUTANTS
from pyncette_conformance.rules import Rules

__all__ = ["CONFIGURATIONS", "Bounds", "Report", "explore"]

KEY = Key("partition", "task")
#: In ticks. Two, so that there is an instant at which a lease is neither new nor over.
LEASE_TICKS = 2
PERIOD = 2
#: Of each schedule, the tick of its first occurrence, and how many ticks of jitter it has.
FIRST = {"A": 1, "B": 3}
JITTER = {"A": 0, "B": 1}
TICK = timedelta(seconds=1)
INSTANTS = [datetime(2040, 1, 1, tzinfo=UTC) + tick * TICK for tick in range(60)]
#: What a worker may send after running its body, or instead. At most once, only "commit", "fail" and "unstarted release".
KINDS = ("commit", "release", "unstarted release", "fail", "extend", "short extend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is explored, and how far."""

    #: Commit, then run; else run, then commit.
    at_most_once: bool = False
    #: The row goes away with its first commit; each registration has arguments, and so a schedule, of its own.
    once_off: bool = False
    #: The last tick of the clock.
    end: int = 5
    #: How often the user registers, forces, unregisters, pauses or resumes.
    user_calls: int = 2
    claims: int = 3
    #: Whether the user may pause and resume.
    pausing: bool = False
    #: Whether commits, failures and pauses leave a memo. Releases and resumptions never do.
    memos: bool = False
    #: What workers send.
    kinds: Sequence[str] = KINDS
    #: Forget workers and messages of a lease that the row no longer has. Sound where rules write nothing under another lease,
    #: which is then checked for every row and every claim that were seen.
    reduced: bool = True


#: Together every kind of message and both orders of running and committing, each in a space that takes seconds.
CONFIGURATIONS: Mapping[str, Bounds] = {
    "extend": Bounds(kinds=("commit", "extend", "short extend")),
    "release": Bounds(kinds=("commit", "release", "fail")),
    "unstarted release": Bounds(kinds=("commit", "unstarted release"), claims=4, user_calls=1),
    "pause": Bounds(kinds=("commit",), pausing=True),
    "memo": Bounds(kinds=("commit", "fail", "release"), claims=2, pausing=True, memos=True),
    "once-off": Bounds(once_off=True, kinds=("commit", "extend")),
    "once-off, release": Bounds(once_off=True, kinds=("commit", "unstarted release"), user_calls=1),
    "at most once": Bounds(at_most_once=True, kinds=("commit",)),
    "at most once, unstarted release": Bounds(at_most_once=True, kinds=("commit", "unstarted release"), user_calls=1),
    "at most once, once-off": Bounds(at_most_once=True, once_off=True, kinds=("commit",)),
    "unreduced": Bounds(kinds=("commit", "extend"), claims=2, user_calls=1, end=4, reduced=False),
    "at most once, unreduced": Bounds(at_most_once=True, kinds=("commit",), claims=2, user_calls=1, end=4, reduced=False),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an exploration has found."""

    states: int
    violation: str | None = None
    trail: Sequence[str] = ()

    def __str__(self) -> str:
        if self.violation is None:
            return f"{self.states} states, no violation"
        return f"{self.violation}, after {self.states} states:\n  " + "\n  ".join(self.trail)


class Violation(Exception):
    """An invariant does not hold."""


class Promise(NamedTuple):
    """What the user may rely on."""

    spec: str
    schedule: str
    occurrence: datetime
    execute_after: datetime
    state: State
    #: Counts the schedules of this history, so that the same one set again is another one.
    generation: int
    memo: str = ""


class Held(NamedTuple):
    """A claim in a worker's hands. A worker that does nothing with it any more is a dead one."""

    claim: int
    waiting: bool = False
    #: Of a commit whose answer the worker has given up; it has sent another.
    resent: bool = False
    extended: bool = False


class Message(NamedTuple):
    """A settlement that was sent. From then on it may arrive at any time, any number of times or never."""

    claim: int
    kind: str
    sent: int


Grant: TypeAlias = tuple[str, datetime]
Label: TypeAlias = tuple[object, ...]


def _claims_of(held: tuple[Held, ...], messages: tuple[Message, ...]) -> set[int]:
    return {each.claim for each in held} | {each.claim for each in messages}


class World(NamedTuple):
    """One state. Rows and claims are numbers in the tables of the :class:`Explorer`; everything is hashable and small."""

    tick: int
    row: int
    promise: Promise | None
    grant: Grant | None
    #: The last token, the tick at which it was handed out, and whether the row is still the one that it was for.
    token: tuple[int, int, bool]
    held: tuple[Held, ...]
    messages: tuple[Message, ...]
    #: What happened to claims that can still be heard of.
    fates: tuple[tuple[int, Outcome], ...]
    #: At most once: the occurrences that were started.
    started: tuple[tuple[int, datetime], ...]
    generation: int
    user_calls: int
    claims: int


@dataclass(slots=True)
class Explorer:
    """Breadth first, so that the first violation has a shortest history."""

    bounds: Bounds
    rules: Rules
    rows: list[Row | None] = field(default_factory=lambda: [None])
    row_numbers: dict[Row | None, int] = field(default_factory=lambda: {None: 0})
    #: With the generation of the promise under which each was made.
    claims: list[tuple[Claim, int]] = field(default_factory=list)
    claim_numbers: dict[tuple[Claim, int], int] = field(default_factory=dict)
    registered: dict[tuple[int, int, str, str, str], int] = field(default_factory=dict)
    claimed: dict[tuple[int, int, str], tuple[int, Claim] | None] = field(default_factory=dict)
    settled: dict[tuple[int, int, str, int], tuple[int, Outcome]] = field(default_factory=dict)

    def run(self, limit: int) -> Report:
        """Explore all there is within the bounds, or the first ``limit`` states."""
        empty = World(0, 0, None, None, (0, 0, False), (), (), (), (), 0, 0, 0)
        begin = self.register(empty, "A", "plain")._replace(user_calls=0)
        seen: dict[World, tuple[World, Label] | None] = {begin: None}
        todo = deque([begin])
        world = begin
        try:
            while todo and len(seen) < limit:
                world = todo.popleft()
                self.check(world)
                for label, after in self.successors(world):
                    if after not in seen:
                        seen[after] = (world, label)
                        todo.append(after)
            if self.bounds.reduced:
                self.check_other_leases()
        except Violation as violation:
            return Report(len(seen), str(violation), self.trail(seen, world))
        return Report(len(seen))

    @staticmethod
    def trail(seen: dict[World, tuple[World, Label] | None], world: World) -> Sequence[str]:
        labels: list[str] = []
        step = seen[world]
        while step is not None:
            world, label = step
            labels.append(" ".join(map(str, label)))
            step = seen[world]
        return labels[::-1]

    # -- what may happen next --

    def successors(self, world: World) -> Iterator[tuple[Label, World]]:
        if world.tick < self.bounds.end:
            yield ("time passes",), world._replace(tick=world.tick + 1)
        if world.claims < self.bounds.claims:
            yield from self.claim(world)
        for held in world.held:
            yield from self.work(world, held)
        for message in world.messages:
            yield from self.deliver(world, message)
        if world.user_calls < self.bounds.user_calls:
            yield from self.use(world)

    def claim(self, world: World) -> Iterator[tuple[Label, World]]:
        """A worker claims, with the right time or a tick behind it."""
        for now in {world.tick, max(0, world.tick - 1)}:
            taken = self.apply_claim(world.row, now, self.unused_lease(world))
            if taken is None:
                continue
            row, claim = taken
            self.check_claim(world, claim, now)
            assert world.promise is not None
            index = self.index((claim, world.promise.generation))
            yield (
                ("claim at", now),
                self.settle_down(
                    world._replace(
                        row=row,
                        grant=(claim.lease, at(now + LEASE_TICKS)),
                        token=(claim.epoch, world.tick, True),
                        held=(*world.held, Held(index)),
                        claims=world.claims + 1,
                    )
                ),
            )

    def work(self, world: World, held: Held) -> Iterator[tuple[Label, World]]:
        """What a worker may do with a claim: report on it, now or much later, and send again what was not answered."""
        if held.waiting:
            if not held.resent:
                yield ("commit is sent again",), self.send(world, held, "commit", held._replace(resent=True))
            return
        for kind in self.bounds.kinds:
            if kind in ("extend", "short extend"):
                if not held.extended:
                    yield (f"{kind} is sent",), self.send(world, held, kind, held._replace(extended=True))
            elif kind == "commit" and self.bounds.at_most_once:
                yield ("commit is sent",), self.send(world, held, kind, held._replace(waiting=True))
            else:
                # What the worker is told makes no difference to it: whatever it may send again is in progress already.
                yield (f"{kind} is sent",), self.send(world, held, kind, None)

    def send(self, world: World, held: Held, kind: str, then: Held | None) -> World:
        message = Message(held.claim, kind, world.tick)
        messages = world.messages if message in world.messages else tuple(sorted((*world.messages, message)))
        return world._replace(held=replaced(world.held, held, then), messages=messages)

    def deliver(self, world: World, message: Message) -> Iterator[tuple[Label, World]]:
        """A message arrives; its answer does, too, or is lost."""
        claim, generation = self.claims[message.claim]
        row, outcome = self.apply_settle(world.row, message)
        promise, grant, token = world.promise, world.grant, world.token
        fates = dict(world.fates)
        self.check_settle(world, message, row, outcome)
        settlement = self.settlement(message)
        if promise is not None and promise.state is not State.PAUSED and grant is not None and grant[0] == claim.lease:
            # It ends the hold, whether it moves the row or not.
            memo = None if isinstance(settlement, Extend) else settlement.memo
            promise = promise if memo is None else promise._replace(memo=memo)
        if outcome is Outcome.APPLIED:
            assert promise is not None
            if isinstance(settlement, Extend):
                assert grant is not None
                grant = claim.lease, max(grant[1], settlement.until)
            else:
                grant = None
                fates[message.claim] = outcome
            if message.kind == "fail":
                promise = promise._replace(state=State.FAILED)
            elif message.kind == "commit":
                following = self.following(claim)
                promise = following and promise._replace(occurrence=following[0], execute_after=following[1])
                token = token if promise is not None else (*token[:2], False)
        elif outcome is Outcome.SUPERSEDED:
            grant = None if grant is not None and grant[0] == claim.lease else grant
            fates[message.claim] = outcome
        after = world._replace(
            row=row, promise=promise, grant=grant, token=token, fates=tuple(sorted(fates.items(), key=itemgetter(0)))
        )
        label = (f"{message.kind} of {message.sent} arrives:", outcome.name)
        waiting = [held for held in world.held if held.waiting and held.claim == message.claim]
        if message.kind != "commit" or not waiting:
            yield label, self.settle_down(after)
            return
        yield (*label, "(the answer is lost)"), self.settle_down(after)
        started = after.started
        if outcome is Outcome.APPLIED or (outcome is Outcome.ALREADY and waiting[0].resent):
            if fates.get(message.claim) is not Outcome.APPLIED:
                raise Violation("I6: an occurrence was started whose commit was not applied")
            if (generation, claim.occurrence) in started:
                raise Violation("I6: an occurrence was started twice")
            started = tuple(sorted([*started, (generation, claim.occurrence)]))
        yield label, self.settle_down(after._replace(started=started, held=replaced(after.held, waiting[0], None)))

    def use(self, world: World) -> Iterator[tuple[Label, World]]:
        """What the user may do."""
        for schedule in "AB":
            for mode in ("plain",) if world.promise is None else ("plain", "force", "keep overdue"):
                yield ("register", schedule, mode), self.register(world, schedule, mode)
        if world.promise is None:
            return
        calls = world.user_calls + 1
        gone = world._replace(row=0, promise=None, grant=None, token=(*world.token[:2], False), user_calls=calls)
        yield ("unregister",), self.settle_down(gone)
        if self.bounds.pausing:
            row = self.rows[world.row]
            assert row is not None
            memo = self.memo("pause")
            paused = world.promise._replace(state=State.PAUSED, memo=world.promise.memo if memo is None else memo)
            yield ("pause",), world._replace(row=self.number(self.rules.pause(row, memo)), promise=paused, user_calls=calls)
            resumed = world.promise._replace(state=State.SCHEDULED)
            yield ("resume",), world._replace(row=self.number(self.rules.resume(row, None)), promise=resumed, user_calls=calls)

    def register(self, world: World, schedule: str, mode: str) -> World:
        now = world.tick
        spec = str(world.user_calls)
        text = f"{schedule} with {spec}" if self.bounds.once_off else schedule
        first = FIRST[schedule] if self.bounds.once_off or FIRST[schedule] > now else now + 1
        target = Target(at(first), at(first + JITTER[schedule]))
        registration = Registration(KEY, spec, text, target, keep_overdue=mode == "keep overdue")
        key = (world.row, now, schedule, mode, spec)
        if key not in self.registered:
            row = self.rules.register(self.rows[world.row], at(now), registration, force=mode == "force")
            self.registered[key] = self.number(row)
        promise, grant, generation = world.promise, world.grant, world.generation
        if promise is not None and promise.schedule == text and mode != "force":
            promise = promise._replace(spec=spec)
        else:
            generation += 1
            if promise is not None and mode == "keep overdue" and promise.execute_after <= at(now):
                target = Target(promise.occurrence, promise.execute_after)
            state = State.PAUSED if promise is not None and promise.state is State.PAUSED else State.SCHEDULED
            promise = Promise(spec, text, *target, state, generation, promise.memo if promise is not None else "")
            if mode == "force":
                grant = None
        return self.settle_down(
            world._replace(
                row=self.registered[key],
                promise=promise,
                grant=grant,
                generation=generation,
                user_calls=world.user_calls + 1,
            )
        )

    def following(self, claim: Claim) -> Target | None:
        if self.bounds.once_off:
            return None
        occurrence = claim.occurrence + PERIOD * TICK
        return Target(occurrence, occurrence + JITTER[claim.schedule[0]] * TICK)

    def memo(self, kind: str) -> str | None:
        return f"of a {kind}" if self.bounds.memos else None

    # -- the rules, each transition computed once --

    def apply_claim(self, row: int, now: int, lease: str) -> tuple[int, Claim] | None:
        key = (row, now, lease)
        if key not in self.claimed:
            before = self.rows[row]
            taken = before and self.rules.claim(before, at(now), LEASE_TICKS * TICK, lease)
            self.claimed[key] = taken and (self.number(taken[0]), taken[1])
        return self.claimed[key]

    def apply_settle(self, row: int, message: Message) -> tuple[int, Outcome]:
        key = (row, *message)
        if key not in self.settled:
            after, outcome = self.rules.settle(self.rows[row], at(message.sent), self.settlement(message))
            self.settled[key] = self.number(after), outcome
        return self.settled[key]

    def settlement(self, message: Message) -> Settlement:
        claim, _ = self.claims[message.claim]
        match message.kind:
            case "commit":
                return Commit(claim, self.following(claim), self.memo("commit"))
            case "release":
                return Release(claim, at(message.sent + 1))
            case "unstarted release":
                return Release(claim, at(message.sent), started=False)
            case "fail":
                return Fail(claim, "it broke", self.memo("fail"))
            case _:
                return Extend(claim, at(message.sent + (LEASE_TICKS if message.kind == "extend" else 1)))

    # -- what has to hold --

    def check(self, world: World) -> None:
        """The row is as promised, and is ready neither too early nor never."""
        row, promise = self.rows[world.row], world.promise
        if (row is None) != (promise is None):
            raise Violation("I3: an acknowledged schedule is gone" if row is None else "I8: a removed row is back")
        if row is None or promise is None:
            return
        if (row.spec, row.schedule) != promise[:2]:
            raise Violation("I3: the row is not what was registered last")
        if (row.occurrence, row.execute_after) != promise[2:4]:
            raise Violation(f"I9: the row is at {row.occurrence:%S}, where it should be at {promise.occurrence:%S}")
        if row.state is not promise.state or (row.error is None) != (row.state is not State.FAILED):
            raise Violation(f"I3: the row is {row.state}, where it should be {promise.state}")
        if row.memo != promise.memo:
            raise Violation(f"I3: the row's memo is {row.memo!r}, where it should be {promise.memo!r}")
        if (row.ready_at is None) != (row.state is not State.SCHEDULED):
            raise Violation("I7: the row is never ready")
        if row.ready_at is None:
            return
        if row.ready_at < row.execute_after:
            raise Violation("I4: the row is ready early")
        if world.grant is not None and row.ready_at < world.grant[1]:
            raise Violation("I2: the row is ready under a live lease")
        if row.ready_at > max(row.execute_after, at(world.tick + LEASE_TICKS)):
            raise Violation("I7: the row is ready late")

    def check_claim(self, world: World, claim: Claim, now: int) -> None:
        if world.grant is not None and world.grant[1] > at(world.tick):
            raise Violation("I2: claimed under a live lease")
        if claim.execute_after > at(world.tick):
            raise Violation("I4: claimed early")
        token, handed_out, same_row = world.token
        # Across removal and insertion only if time has passed: within a tick there may be more claims here than microseconds.
        if claim.epoch <= token and (same_row or now > handed_out):
            raise Violation("I1: the token did not rise")
        promise = world.promise
        if promise is None or (claim.spec, claim.schedule, claim.occurrence, claim.execute_after) != promise[:4]:
            raise Violation("I9: a claim is not what was promised")
        if claim.memo != promise.memo:
            raise Violation(f"I9: the claim's memo is {claim.memo!r}, the row's {promise.memo!r}")

    def check_settle(self, world: World, message: Message, row: int, outcome: Outcome) -> None:
        claim, generation = self.claims[message.claim]
        before, promise = self.rows[world.row], world.promise
        holds = world.grant is not None and world.grant[0] == claim.lease
        current = promise is not None and promise.generation == generation
        if row != world.row and (before is None or before.lease != claim.lease):
            raise Violation("I1: a settlement under another lease wrote")
        if (outcome is Outcome.GONE) != (promise is None):
            raise Violation("I3: GONE and the row is there, or the other way round")
        match outcome:
            case Outcome.APPLIED if not holds:
                raise Violation(f"I5: {message.kind} was applied after the claim was over")
            case Outcome.APPLIED if not message.kind.endswith("extend") and not current:
                raise Violation(f"I3: {message.kind} was applied to a schedule that it does not belong to")
            case Outcome.APPLIED if message.kind == "commit" and promise and promise.occurrence != claim.occurrence:
                raise Violation("I5: an occurrence was advanced that had ended")
            case Outcome.SUPERSEDED if current:
                raise Violation("I3: superseded by nothing")
            case Outcome.ALREADY if dict(world.fates).get(message.claim) is not Outcome.APPLIED:
                raise Violation("I5: ALREADY in answer to what was never applied")
            case Outcome.LOST if holds:
                raise Violation("I7: the holder was told that it lost")
            case Outcome.ALREADY | Outcome.LOST if row != world.row:
                raise Violation(f"I5: {outcome.name}, and yet it wrote")

    def check_other_leases(self) -> None:
        """I1, the half of it that the reduction relies on: for every row and every kind of claim that were seen."""
        # The lease is made another than any row's; but for it and their tokens, many claims are alike.
        kinds = {(claim.revision, claim.schedule, claim.occurrence): index for index, (claim, _) in enumerate(self.claims)}
        late = [self.settlement(Message(index, kind, self.bounds.end)) for index in kinds.values() for kind in KINDS]
        late = [replace(each, claim=each.claim._replace(lease="another")) for each in late]
        for before, settlement in itertools.product(self.rows, late):
            after, outcome = self.rules.settle(before, at(self.bounds.end), settlement)
            if after != before or outcome is not (Outcome.GONE if before is None else Outcome.LOST):
                raise Violation(f"I1: {type(settlement).__name__} under another lease was {outcome.name}")

    # -- book-keeping --

    def settle_down(self, world: World) -> World:
        """Forget what can't matter any more, so that states which differ in nothing else are one."""
        held, messages, fates, started = world.held, world.messages, world.fates, world.started
        if not (held or messages or fates or started):
            return world
        if self.bounds.reduced and (held or messages):
            row = self.rows[world.row]
            lease = row and row.lease
            held = tuple(each for each in held if self.claims[each.claim][0].lease == lease)
            messages = tuple(each for each in messages if self.claims[each.claim][0].lease == lease)
        if fates:
            known = _claims_of(held, messages)
            fates = tuple(fate for fate in fates if fate[0] in known)
        if started:
            # Others can't be claimed any more: a claim is always of the promised occurrence, which is checked.
            current = {
                (generation, claim.occurrence)
                for claim, generation in (self.claims[number] for number in _claims_of(held, messages))
            }
            if world.promise is not None:
                current.add((world.promise.generation, world.promise.occurrence))
            started = tuple(each for each in started if each in current)
        if (held, messages, fates, started) == (world.held, world.messages, world.fates, world.started):
            return world
        return world._replace(held=held, messages=messages, fates=fates, started=started)

    def unused_lease(self, world: World) -> str:
        """Ids are random, so only their equality counts: take the first that nobody knows."""
        row = self.rows[world.row]
        used = {row and row.lease}
        used |= {self.claims[number][0].lease for number in _claims_of(world.held, world.messages)}
        return next(lease for lease in map(str, itertools.count(1)) if lease not in used)

    def number(self, row: Row | None) -> int:
        number = self.row_numbers.setdefault(row, len(self.rows))
        if number == len(self.rows):
            self.rows.append(row)
        return number

    def index(self, claim: tuple[Claim, int]) -> int:
        index = self.claim_numbers.setdefault(claim, len(self.claims))
        if index == len(self.claims):
            self.claims.append(claim)
        return index


def replaced(all_held: tuple[Held, ...], held: Held, then: Held | None) -> tuple[Held, ...]:
    """``all_held`` with ``then`` in place of ``held``, in an order that does not tell who came first."""
    return tuple(sorted(each for each in (*(other for other in all_held if other is not held), then) if each is not None))


def at(tick: int) -> datetime:
    return INSTANTS[tick]


def explore(bounds: Bounds, rules: Rules | None = None, *, limit: int = 10_000_000) -> Report:
    """Every history within ``bounds`` under ``rules``, by default the real ones; ends at the first violation."""
    return Explorer(bounds, rules or Rules()).run(limit)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pyncette_conformance.exhaustive", description=__doc__.partition("\n")[0])
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the rules, and show how that is found out")
    parser.add_argument("--configuration", choices=CONFIGURATIONS, help="explore only this one")
    for name in ("end", "user-calls", "claims"):
        parser.add_argument(f"--{name}", type=int, help="a larger (or smaller) bound")
    parser.add_argument("--all-kinds", action="store_true", help="let workers send every kind of settlement in every configuration")
    parser.add_argument("--limit", type=int, default=10_000_000, help="states per configuration")
    arguments = parser.parse_args()
    mutant = MUTANTS.get(arguments.mutant)
    names = [arguments.configuration] if arguments.configuration else [mutant.configuration] if mutant else list(CONFIGURATIONS)
    larger: dict[str, Any] = {
        name: value for name in ("end", "user_calls", "claims") if (value := getattr(arguments, name)) is not None
    }
    if arguments.all_kinds:
        larger["kinds"] = KINDS
    found = False
    for name in names:
        began = time.perf_counter()
        report = explore(replace(CONFIGURATIONS[name], **larger), mutant.rules if mutant else None, limit=arguments.limit)
        print(f"{name}: {report} ({time.perf_counter() - began:.1f} s)", flush=True)
        found = found or report.violation is not None
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
