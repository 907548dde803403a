"""The log of a scenario, indexed: claims, runs and settlements, deaths and pauses of workers, schedules of instances."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pyncette_conformance.faults.failpoints import Action
from pyncette_conformance.faults.oracle import Schedule, Timeline, asked_at, of_task, of_text
from pyncette_conformance.faults.plan import Plan
from pyncette_conformance.faults.runlog import Event, What

__all__ = ["FOREVER", "Generation", "History", "Occurrence", "Run", "Settled"]

FOREVER = float("inf")


class Occurrence(NamedTuple):
    """The runs that are required, matched exactly."""

    name: str
    generation: int
    at: int


@dataclass(slots=True)
class Run:
    """One run of a body, as its own events tell."""

    start: Event
    #: The places of the events in the file.
    index: int
    end: Event | None = None
    end_index: int | None = None

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence(self.start.name, self.start.generation, self.start.at)

    @property
    def completed(self) -> bool:
        return self.end is not None and self.end.ok


@dataclass(slots=True)
class Settled:
    """One settlement that was sent, with its outcome if that became known to the sender."""

    sent: Event
    index: int
    answer: Event | None = None

    @property
    def outcome(self) -> str:
        return "" if self.answer is None else self.answer.outcome


@dataclass(slots=True)
class Generation:
    """One schedule of a name, and how long it was in force."""

    schedule: Schedule
    #: On the shared monotonic clock: when its registration was sent, and acknowledged (``FOREVER``: never).
    sent: float = 0.0
    acknowledged: float = 0.0
    #: When it was surely no longer in force: the acknowledgement of what replaced it.
    replaced: float = FOREVER
    #: When what replaced it was sent: from here on its occurrences may or may not run.
    fading: float = FOREVER
    timeline: Timeline | None = None

    @property
    def required(self) -> bool:
        return self.fading == FOREVER and self.acknowledged != FOREVER


@dataclass(slots=True)
class History:
    """The contents of a log. Built by :meth:`of`."""

    plan: Plan
    runs: list[Run] = field(default_factory=list)
    runs_of: dict[Occurrence, list[Run]] = field(default_factory=lambda: defaultdict(list))
    #: Claims of each name, by their tokens; the same token twice is a violation, so each has a list.
    claims_of: dict[str, dict[int, list[Event]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    settled: list[Settled] = field(default_factory=list)
    settled_of: dict[tuple[str, int], list[Settled]] = field(default_factory=lambda: defaultdict(list))
    #: When each process had a call of settlements in progress; they follow one another.
    settling_of: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    #: Injected faults to claims and to settlements, by claim.
    faults_of: dict[tuple[str, int], list[Event]] = field(default_factory=lambda: defaultdict(list))
    #: Faults and errors of each process, whatever they were in.
    troubles_of: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    generations_of: dict[str, dict[int, Generation]] = field(default_factory=lambda: defaultdict(dict))
    #: When each process that was killed was, and when it closed its fixtures.
    killed: dict[int, float] = field(default_factory=dict)
    down: dict[int, Event] = field(default_factory=dict)
    #: Pauses of each process, and of the store.
    stops_of: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    store_down: list[tuple[float, float]] = field(default_factory=list)
    after_down: list[Event] = field(default_factory=list)
    at_most_once: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, plan: Plan, events: Iterable[Event]) -> "History":
        """Index ``events``, which are in the order of the file."""
        history = cls(plan)
        for task in plan.tasks:
            if task.static:
                history.generations_of[task.name][0] = Generation(of_task(task))
            if task.static and task.at_most_once:
                history.at_most_once.add(task.name)
        registered: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
        open_runs: dict[tuple[int, str, int, int], Run] = {}
        open_calls: dict[tuple[int, int, str, int], Settled] = {}
        for index, event in enumerate(events):
            if event.pid in history.down and event.what in (What.START, What.END):
                history.after_down.append(event)
            match event.what:
                case What.REGISTER:
                    registered[event.name, event.generation].add((event.now, event.at))
                case What.CLAIMED:
                    history.claims_of[event.name][event.token].append(event)
                case What.START:
                    run = Run(event, index)
                    history.runs.append(run)
                    history.runs_of[run.occurrence].append(run)
                    open_runs[event.pid, event.name, event.token, event.at] = run
                case What.END:
                    ended = open_runs.pop((event.pid, event.name, event.token, event.at), None)
                    if ended is not None:
                        ended.end, ended.end_index = event, index
                case What.SETTLING:
                    settled = Settled(event, index)
                    history.settled.append(settled)
                    history.settled_of[event.name, event.token].append(settled)
                    open_calls[event.pid, event.call, event.name, event.token] = settled
                case What.SETTLED:
                    open_calls[event.pid, event.call, event.name, event.token].answer = event
                case What.FAULT | What.ERROR:
                    history._trouble(event)
                case What.SCHEDULE | What.UNSCHEDULE:
                    history._schedule(event)
                case _:
                    history._process(event)
        calls: dict[tuple[int, int], tuple[float, float]] = {}
        for settled in history.settled:
            calls[settled.sent.pid, settled.sent.call] = (
                settled.sent.mono,
                FOREVER if settled.answer is None else settled.answer.mono,
            )
        for (pid, _), call in calls.items():
            history.settling_of[pid].append(call)
        history._expand(registered)
        return history

    def _trouble(self, event: Event) -> None:
        self.troubles_of[event.pid].append(event)
        if event.name:
            self.faults_of[event.name, event.token].append(event)
        if event.outcome == Action.KILL:
            self.killed[event.pid] = event.mono
        elif event.outcome == Action.STOP:
            self.stops_of[event.pid].append((event.mono, FOREVER))

    def _process(self, event: Event) -> None:
        match event.what:
            case What.KILL:
                self.killed.setdefault(event.target, event.mono)
            case What.STOP:
                self.stops_of[event.target].append((event.mono, FOREVER))
            case What.CONT:
                began, ended = self.stops_of[event.target].pop()
                self.stops_of[event.target].append((began, min(ended, event.mono)))
            case What.STORE_DOWN:
                self.store_down.append((event.mono, FOREVER))
            case What.STORE_UP:
                self.store_down.append((self.store_down.pop()[0], event.mono))
            case What.DOWN:
                self.down[event.pid] = event

    def _schedule(self, event: Event) -> None:
        generations = self.generations_of[event.name]
        if event.what is What.SCHEDULE:
            new = generations.get(event.generation)
            if new is None:
                new = generations[event.generation] = Generation(of_text(event.kind), event.mono, FOREVER)
                if self.plan.task(event.note).at_most_once:
                    self.at_most_once.add(event.name)
            if event.ok:
                new.acknowledged = event.mono
        for number, generation in generations.items():
            if event.what is What.UNSCHEDULE or number < event.generation:
                generation.fading = min(generation.fading, event.mono)
                if event.ok:
                    generation.replaced = min(generation.replaced, event.mono)

    def _expand(self, registered: dict[tuple[str, int], set[tuple[int, int]]]) -> None:
        seen: dict[tuple[str, int], set[int]] = defaultdict(set)
        for run in self.runs:
            seen[run.start.name, run.start.generation].add(run.start.at)
        for name, claims in self.claims_of.items():
            for claim in (claim for same in claims.values() for claim in same):
                seen[name, claim.generation].add(claim.at)
        for name, generations in self.generations_of.items():
            for number, generation in generations.items():
                key = name, number
                asked = {asked_at(generation.schedule, now, first) for now, first in registered[key]}
                generation.timeline = Timeline.of(generation.schedule, asked, seen[key])

    # --- questions --------------------------------------------------------------------------------------------------

    def required(self, horizon: int) -> list[Occurrence]:
        """The runs that must have happened when nothing due by ``horizon`` is left."""
        found = []
        for name, generations in self.generations_of.items():
            for number, generation in generations.items():
                if generation.required and generation.timeline is not None:
                    found += [Occurrence(name, number, at) for at in generation.timeline.until(horizon)]
        return found

    def settled_for_good(self, occurrence: Occurrence) -> bool:
        """Whether a commit of the occurrence is known to have taken effect."""
        name, generation, at = occurrence
        return any(
            settled.sent.kind == "commit" and settled.outcome in ("applied", "already", "gone")
            for token, claims in self.claims_of[name].items()
            if any((claim.generation, claim.at) == (generation, at) for claim in claims)
            for settled in self.settled_of[name, token]
        )

    def claim_of(self, run: Run) -> Event | None:
        """The claim that a run is of; None if its worker died before it could log it, or did not log it at all."""
        claims = self.claims_of[run.start.name].get(run.start.token, [])
        return next((claim for claim in claims if claim.pid == run.start.pid), None)

    def deadline_of(self, run: Run, before: float = FOREVER) -> float:
        """Until when the run's worker was entitled to believe in its lease, on the shared monotonic clock.

        Extensions that were answered later than ``before`` don't count.
        """
        ends: dict[int, float] = {}
        answered: set[int] = set()
        for settled in self.settled_of[run.start.name, run.start.token]:
            sent, answer = settled.sent, settled.answer
            if sent.kind == "extend" and sent.pid == run.start.pid:
                # What is sent again names the same end.
                ends.setdefault(sent.until, sent.mono + (sent.until - sent.wall) / 1e6)
                if settled.outcome == "applied" and answer is not None and answer.mono <= before:
                    answered.add(sent.until)
        return max([run.start.deadline, *(ends[until] for until in answered)])

    def stopped(self, pid: int, begin: float, end: float) -> bool:
        """Whether the process was paused at any time in between."""
        return any(began <= end and ended >= begin for began, ended in self.stops_of.get(pid, ()))

    def idle(self, pid: int, begin: float, end: float) -> float:
        """For how many seconds in between the process had no settlements in progress."""
        waited = 0.0
        for sent, answered in sorted(self.settling_of.get(pid, ())):
            waited += max(0.0, min(sent, end) - begin)
            begin = max(begin, answered)
        return waited + max(0.0, end - begin)

    def store_was_down(self, begin: float, end: float) -> bool:
        return any(began <= end and ended >= begin for began, ended in self.store_down)

    def rescheduled(self, name: str, begin: float, end: float) -> bool:
        """Whether the user may have replaced or removed the schedule in between."""
        generations: Sequence[Generation] = list(self.generations_of[name].values())
        return any(g.fading <= end and g.replaced >= begin for g in generations if g.fading != FOREVER)
