"""The judge of layer 3 on trial: it convicts every kind of bad log, made by hand or by a broken Pyncette, and acquits good ones."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from pyncette.clock import from_microseconds
from pyncette.errors import TransientRepositoryError
from pyncette.memory import memory_repository
from pyncette.repository import Key, Row, Settlement, State
from pyncette_conformance.builders import T0, claim_one, registration
from pyncette_conformance.faults import scenarios
from pyncette_conformance.faults.checker import Category, Cause, Report, check, pending
from pyncette_conformance.faults.failpoints import Action, Failpoints, Fault
from pyncette_conformance.faults.oracle import Every, Once, Timeline, asked_at
from pyncette_conformance.faults.plan import Kind, Plan, TaskPlan
from pyncette_conformance.faults.recorder import Wrapper
from pyncette_conformance.faults.runlog import Event, LogReader, RunLog, What

T = TypeVar("T")

PLAN = Plan(
    [
        TaskPlan(name="tick", kind=Kind.INTERVAL, every=10),
        TaskPlan(name="alo", kind=Kind.DYNAMIC),
        TaskPlan(name="amo", kind=Kind.DYNAMIC, at_most_once=True),
    ]
)
BEGIN = 1_800_000_000_000_000
LEASE = 3.0


def us(seconds: float) -> int:
    """An instant of the story, in microseconds since 1970."""
    return BEGIN + round(seconds * 1_000_000)


class Story:
    """Events as workers and driver would have logged them. Times are seconds of the story; pid 0 is the driver."""

    def __init__(self, *, registered: bool = True) -> None:
        self.events: list[Event] = []
        self.calls = 0
        if registered:
            self.tell(0, 1, What.REGISTER, name="tick", now=us(0))

    def tell(self, t: float, pid: int, what: What, **fields: object) -> None:
        self.events.append(Event(what=what, pid=pid, mono=t, wall=us(t), **fields))  # type: ignore[arg-type]

    def scheduled(self, name: str, at: float, *, template: str = "alo", t: float = 0.0, generation: int = 1) -> "Story":
        for ok in (False, True):
            self.tell(t, 0, What.SCHEDULE, name=name, generation=generation, kind=f"once {us(at)}", note=template, ok=ok)
        return self

    def claimed(self, t: float, pid: int, token: int, name: str = "one", at: float = 1.0, generation: int = 1) -> "Story":
        fields = {"name": name, "generation": generation, "at": us(at), "token": token}
        self.tell(t, pid, What.CLAIMED, sent=t, now=us(t), until=us(t + LEASE), **fields)
        return self

    def started(
        self, t: float, pid: int, token: int, name: str = "one", at: float = 1.0, generation: int = 1, deadline: float | None = None
    ) -> "Story":
        fields = {"name": name, "generation": generation, "at": us(at), "token": token, "execution_id": f"{name} {at}"}
        self.tell(t, pid, What.START, deadline=t + LEASE if deadline is None else deadline, **fields)
        return self

    def ended(
        self, t: float, pid: int, token: int, name: str = "one", at: float = 1.0, generation: int = 1, ok: bool = True
    ) -> "Story":
        self.tell(t, pid, What.END, name=name, generation=generation, at=us(at), token=token, ok=ok)
        return self

    def settled(
        self,
        t: float,
        pid: int,
        token: int,
        name: str = "one",
        at: float = 1.0,
        generation: int = 1,
        kind: str = "commit",
        outcome: str = "applied",
        answered: bool = True,
    ) -> "Story":
        self.calls += 1
        fields = {"name": name, "generation": generation, "at": us(at), "token": token, "kind": kind, "call": self.calls}
        until = us(t + LEASE) if kind == "extend" else 0
        self.tell(t, pid, What.SETTLING, sent=t, now=us(t), until=until, **fields)
        if answered:
            self.tell(t + 0.01, pid, What.SETTLED, sent=t, now=us(t), until=until, outcome=outcome, **fields)
        return self

    def ran(self, t: float, pid: int = 1, token: int = 1, name: str = "one", at: float = 1.0, generation: int = 1) -> "Story":
        """A run as it should be: claimed, run for a second, committed."""
        self.claimed(t, pid, token, name, at, generation)
        self.started(t + 0.1, pid, token, name, at, generation, deadline=t + LEASE)
        self.ended(t + 1.1, pid, token, name, at, generation)
        return self.settled(t + 1.2, pid, token, name, at, generation)

    def fault(self, t: float, pid: int, what: What) -> "Story":
        self.tell(t, 0, what, target=pid)
        return self

    def judged(self, until: float = 5.0, rows: list[Row] | None = None) -> Report:
        return check(PLAN, sorted(self.events, key=lambda event: event.mono), us(until), rows=rows)


def convicted(story: Story, category: Category, **options: object) -> Report:
    report = story.judged(**options)  # type: ignore[arg-type]
    assert category in report.categories, report.violations
    with pytest.raises(AssertionError, match=category):
        report.verify()
    return report


def acquitted(story: Story, **options: object) -> Report:
    report = story.judged(**options)  # type: ignore[arg-type]
    report.verify()
    return report


def row(name: str, *, token: int = 1, locked_until: float | None = None, at: float = 1.0) -> Row:
    instant = from_microseconds(us(at))
    locked = None if locked_until is None else from_microseconds(us(locked_until))
    return Row(Key("dynamic:alo", name), "{}", "", instant, instant, instant, "lease", locked, token, 0, 1, State.SCHEDULED)


class TestMissed:
    def test_acquits_what_ran(self) -> None:
        report = acquitted(Story().scheduled("one", 1).ran(1))
        assert (report.expected, report.completed, report.runs) == (1, 1, 1)

    def test_convicts_what_never_ran(self) -> None:
        convicted(Story().scheduled("one", 1).scheduled("two", 1).ran(1), Category.MISSED)

    def test_convicts_what_started_and_never_ended_well(self) -> None:
        convicted(Story().scheduled("one", 1).claimed(1, 1, 1).started(1, 1, 1).ended(2, 1, 1, ok=False), Category.MISSED)

    def test_does_not_ask_for_what_is_not_due_yet(self) -> None:
        acquitted(Story().scheduled("one", 1).scheduled("two", 9).ran(1))

    def test_convicts_a_gap_in_an_interval(self) -> None:
        story = Story()
        for at in (10.0, 30.0):
            story.ran(at, name="tick", at=at, generation=0, token=int(at))
        report = convicted(story, Category.MISSED, until=35)
        assert report.count(Category.MISSED) == 1
        assert pending(PLAN, story.events, us(35)) == ([("tick", 0, us(20))], [])

    def test_convicts_a_lost_first_occurrence_of_an_interval(self) -> None:
        convicted(Story().ran(20, name="tick", at=20, generation=0), Category.MISSED, until=25)

    def test_convicts_a_static_task_that_nobody_registered(self) -> None:
        story = Story(registered=False)
        assert story.judged().categories == {Category.MISSED}

    def test_acquits_at_most_once_lost_between_commit_and_start_by_kill(self) -> None:
        story = Story().scheduled("one", 1, template="amo").claimed(1, 1, 1).settled(1.1, 1, 1).fault(1.2, 1, What.KILL)
        report = acquitted(story)
        assert report.lost == {Cause.KILLED: 1}

    def test_convicts_at_most_once_lost_without_a_cause(self) -> None:
        convicted(Story().scheduled("one", 1, template="amo").claimed(1, 1, 1).settled(1.1, 1, 1), Category.MISSED)

    def test_convicts_at_most_once_lost_before_its_commit(self) -> None:
        story = Story().scheduled("one", 1, template="amo").claimed(1, 1, 1).fault(1.2, 1, What.KILL)
        convicted(story, Category.MISSED)

    def test_asks_only_for_the_last_schedule(self) -> None:
        acquitted(Story().scheduled("one", 1).scheduled("one", 2, t=0.5, generation=2).ran(2, at=2, generation=2))

    def test_convicts_a_schedule_deleted_by_the_commit_of_the_one_before(self) -> None:
        story = Story().scheduled("one", 1).ran(1).scheduled("one", 4, t=1.5, generation=2)
        convicted(story, Category.MISSED)


class TestPending:
    def test_what_ran_is_pending_until_its_commit_is_known(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1).ended(1.5, 1, 1)
        assert pending(PLAN, story.events, us(5)) == ([], [("one", 1, us(1))])
        story.settled(1.6, 1, 1, answered=False)
        assert pending(PLAN, story.events, us(5)) == ([], [("one", 1, us(1))])
        story.settled(1.7, 1, 1, outcome="already")
        assert pending(PLAN, story.events, us(5)) == ([], [])


class TestEarly:
    def test_convicts_a_start_before_its_time(self) -> None:
        convicted(Story().scheduled("one", 1).ran(0.8), Category.EARLY)

    def test_acquits_a_start_within_the_error_of_the_clock(self) -> None:
        story = Story().scheduled("one", 1).ran(0.8)
        assert not check(PLAN, story.events, us(5), clock_error=0.2).violations


class TestExtra:
    def test_convicts_a_second_run_without_a_cause(self) -> None:
        convicted(Story().scheduled("one", 1).ran(1).ran(5, pid=2, token=2), Category.EXTRA)

    def test_convicts_a_second_run_after_a_commit_even_if_the_worker_was_killed(self) -> None:
        convicted(Story().scheduled("one", 1).ran(1).fault(3, 1, What.KILL).ran(5, pid=2, token=2), Category.EXTRA)

    @pytest.mark.parametrize("ended", [False, True])
    def test_acquits_a_second_run_after_kill_before_the_commit(self, ended: bool) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4)
        if ended:
            story.ended(1.5, 1, 1)
        report = acquitted(story.fault(2, 1, What.KILL).ran(4.1, pid=2, token=2))
        assert report.extras == {Cause.KILLED: 1}

    def test_convicts_a_second_run_that_a_later_kill_does_not_explain(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ended(1.5, 1, 1)
        convicted(story.ran(4.1, pid=2, token=2).fault(9, 1, What.KILL), Category.EXTRA)

    def test_acquits_a_second_run_after_a_pause_longer_than_the_lease(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4)
        story.fault(1.5, 1, What.STOP).ran(4.1, pid=2, token=2).fault(6, 1, What.CONT)
        story.ended(6.1, 1, 1).settled(6.2, 1, 1, outcome="lost")
        report = acquitted(story)
        assert report.extras == {Cause.STOPPED: 1}
        assert report.fenced == 1

    def test_acquits_a_second_run_after_an_unknown_commit(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ended(1.5, 1, 1)
        report = acquitted(story.settled(1.6, 1, 1, outcome="error").ran(4.1, pid=2, token=2))
        assert report.extras == {Cause.UNKNOWN_COMMIT: 1}

    def test_acquits_a_second_run_after_a_body_that_outlived_its_lease(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ran(4.1, pid=2, token=2)
        report = acquitted(story.ended(7, 1, 1).settled(7.1, 1, 1, outcome="gone"))
        assert report.extras == {Cause.EXPIRED: 1}

    def test_acquits_a_second_run_after_a_failed_body(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ended(1.5, 1, 1, ok=False)
        assert acquitted(story.ran(4.1, pid=2, token=2)).extras == {Cause.FAILED: 1}

    def test_acquits_an_outcome_that_had_to_wait_for_a_slow_store(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ended(1.5, 1, 1)
        fields = {"name": "amo", "token": 7, "kind": "extend", "call": 99}
        story.tell(1.4, 1, What.SETTLING, **fields)
        story.tell(4.5, 1, What.SETTLED, outcome="lost", **fields)
        story.ran(4.1, pid=2, token=2).settled(4.6, 1, 1, outcome="lost")
        assert acquitted(story).extras == {Cause.EXPIRED: 1}

    def test_convicts_an_outcome_that_nobody_tried_to_store(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).ended(1.5, 1, 1)
        convicted(story.ran(4.1, pid=2, token=2), Category.EXTRA)

    def test_convicts_at_most_once_run_twice_whatever_the_cause(self) -> None:
        story = Story().scheduled("one", 1, template="amo").claimed(1, 1, 1).settled(1.1, 1, 1, outcome="error").started(1.2, 1, 1)
        story.fault(1.5, 1, What.KILL).claimed(4.1, 2, 2).settled(4.2, 2, 2).started(4.3, 2, 2).ended(5, 2, 2)
        convicted(story, Category.EXTRA)

    def test_convicts_an_occurrence_that_is_none(self) -> None:
        convicted(Story().scheduled("one", 1).ran(1).ran(3, name="one", at=2.5, token=3), Category.EXTRA)

    def test_convicts_a_claim_of_a_schedule_that_was_replaced(self) -> None:
        story = Story().scheduled("one", 1).scheduled("one", 4, t=1.5, generation=2).ran(2, at=1, token=1)
        convicted(story.ran(4, at=4, token=4, generation=2), Category.EXTRA)

    def test_convicts_old_arguments_at_a_new_time(self) -> None:
        story = Story().scheduled("one", 1).scheduled("one", 2, t=0.5, generation=2)
        convicted(story.ran(2, at=2, generation=1), Category.EXTRA)

    def test_convicts_an_occurrence_that_was_advanced_twice(self) -> None:
        story = Story().ran(10, name="tick", at=10, generation=0, token=1)
        story.settled(14, 2, 2, name="tick", at=10, generation=0)
        convicted(story, Category.EXTRA, until=11)


class TestConcurrent:
    def test_convicts_two_bodies_under_live_leases(self) -> None:
        story = Story().ran(10, name="tick", at=10, generation=0, token=1)
        story.started(10.5, 2, 2, name="tick", at=20, generation=0, deadline=13)
        convicted(story, Category.CONCURRENT)

    def test_convicts_two_live_leases(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).fault(1.1, 1, What.KILL)
        convicted(story.ran(2, pid=2, token=2), Category.CONCURRENT)

    def test_counts_a_heartbeat(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4)
        story.settled(3, 1, 1, kind="extend").fault(3.5, 1, What.KILL)
        convicted(story.ran(4.5, pid=2, token=2), Category.CONCURRENT)

    def test_does_not_count_a_heartbeat_that_was_lost(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4)
        story.settled(3, 1, 1, kind="extend", outcome="lost").fault(3.5, 1, What.KILL)
        acquitted(story.ran(4.5, pid=2, token=2))

    def test_acquits_the_next_claim_after_a_commit(self) -> None:
        story = Story()
        acquitted(
            story.ran(10, name="tick", at=10, generation=0, token=1).ran(20, name="tick", at=20, generation=0, token=2), until=20
        )

    def test_acquits_a_forced_run(self) -> None:
        story = (
            Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).scheduled("one", 1.5, t=1.5, generation=2)
        )
        story.ran(1.6, pid=2, token=2, at=1.5, generation=2).ended(4, 1, 1).settled(4, 1, 1, outcome="lost")
        acquitted(story)

    def test_convicts_a_claim_with_a_time_long_past(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(2.0, 1, 1, deadline=5).ended(2.5, 1, 1).settled(2.6, 1, 1)
        convicted(story, Category.CONCURRENT)


class TestStaleWrite:
    def test_convicts_a_late_holder_whom_nobody_stopped(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=9).fault(1.2, 2, What.STOP)
        story.ran(2, pid=2, token=2).ended(5, 1, 1)
        convicted(story, Category.STALE_WRITE)

    def test_convicts_a_store_that_takes_a_settlement_under_an_old_token(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).fault(1.5, 1, What.STOP)
        story.claimed(4.1, 2, 2).started(4.2, 2, 2).fault(4.5, 1, What.CONT).ended(4.6, 1, 1).settled(4.7, 1, 1).ended(6, 2, 2)
        convicted(story, Category.STALE_WRITE)

    @pytest.mark.parametrize("kind", ["extend", "commit", "release"])
    def test_convicts_a_store_that_takes_a_settlement_of_what_is_settled(self, kind: str) -> None:
        convicted(Story().scheduled("one", 1).ran(1).settled(3, 1, 1, kind=kind), Category.STALE_WRITE)

    @pytest.mark.parametrize("outcome", ["already", "lost", "gone", "superseded"])
    def test_acquits_a_store_that_refuses_it(self, outcome: str) -> None:
        acquitted(Story().scheduled("one", 1).ran(1).settled(3, 1, 1, outcome=outcome))


class TestOrder:
    def test_convicts_a_token_given_twice(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).fault(1.2, 1, What.KILL).ran(4.1, pid=2, token=1)
        convicted(story, Category.ORDER)

    def test_convicts_falling_tokens(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 5).fault(1.2, 1, What.KILL).ran(4.1, pid=2, token=4)
        convicted(story, Category.ORDER)

    def test_convicts_time_that_goes_back(self) -> None:
        story = Story().ran(20, name="tick", at=20, generation=0, token=1)
        convicted(story.claimed(25, 2, 2, name="tick", at=10, generation=0), Category.ORDER)

    def test_convicts_a_body_after_the_fixtures_were_closed(self) -> None:
        story = Story().scheduled("one", 1).ran(1)
        story.tell(1.5, 1, What.DOWN)
        convicted(story, Category.ORDER)

    def test_convicts_a_commit_before_the_body_has_ended(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).settled(1.2, 1, 1).started(1.3, 1, 1, deadline=4).ended(1.5, 1, 1)
        convicted(story, Category.ORDER)

    def test_convicts_a_body_that_was_left_behind(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4)
        convicted(story.ran(4.1, pid=2, token=2), Category.ORDER)

    def test_convicts_an_execution_id_that_changes_with_the_attempt(self) -> None:
        story = Story().scheduled("one", 1).claimed(1, 1, 1).started(1.1, 1, 1, deadline=4).fault(2, 1, What.KILL)
        story.ran(4.1, pid=2, token=2)
        story.events = [replace(e, execution_id="another") if e.what is What.START and e.pid == 2 else e for e in story.events]
        convicted(story, Category.ORDER)

    def test_convicts_at_most_once_started_before_its_commit(self) -> None:
        story = Story().scheduled("one", 1, template="amo").ran(1)
        convicted(story, Category.ORDER)


class TestRows:
    def test_convicts_a_lease_without_a_body(self) -> None:
        convicted(Story().scheduled("one", 9).ran(1, name="one"), Category.ORPHAN, rows=[row("one", locked_until=4, at=9)])

    def test_acquits_a_lease_of_a_killed_worker(self) -> None:
        story = Story().scheduled("one", 1).ran(1).scheduled("two", 9).claimed(9, 2, 7, name="two", at=9).fault(9.1, 2, What.KILL)
        acquitted(story, rows=[row("two", token=7, locked_until=12, at=9)])

    def test_acquits_a_lease_that_a_failed_body_left(self) -> None:
        story = (
            Story()
            .scheduled("one", 9)
            .claimed(9, 1, 1, at=9)
            .started(9.1, 1, 1, at=9, deadline=12)
            .ended(9.2, 1, 1, at=9, ok=False)
        )
        acquitted(story, rows=[row("one", locked_until=12, at=9)])

    def test_acquits_a_lease_whose_worker_never_heard_of_it(self) -> None:
        story = Story().scheduled("one", 9).claimed(9, 1, 1, at=9)
        story.tell(9.1, 1, What.FAULT, name="one", token=1, kind="claim", outcome="applied-then-error")
        acquitted(story, rows=[row("one", locked_until=12, at=9)])

    def test_convicts_a_once_off_that_stays_after_its_run(self) -> None:
        convicted(Story().scheduled("one", 1).ran(1), Category.ORPHAN, rows=[row("one")])


class TestOracle:
    def test_the_first_occurrence_tells_whose_registration_counted(self) -> None:
        timeline = Timeline.of(Every(10), {3, 5}, {15, 25})
        assert timeline is not None
        assert list(timeline.until(40)) == [15, 25, 35]

    def test_without_any_run_the_first_registration_counts(self) -> None:
        timeline = Timeline.of(Every(10), {3, 5}, set())
        assert timeline is not None
        assert list(timeline.until(25)) == [13, 23]

    def test_a_registration_that_waited_for_others_counts_from_when_it_was_asked_for(self) -> None:
        now, second = 1_000_000_000, 1_000_000
        assert asked_at(Every(10 * second), now, now + 9 * second) == now - second
        assert asked_at(Every(10 * second, aligned=True), now, now) == now - 1
        assert asked_at(Once(7), now, 7) == now

    @pytest.mark.parametrize("schedule", [Every(10_000_000), Every(10_000_000, aligned=True)])
    @pytest.mark.parametrize("first", [0, 985_000_001, 1_010_000_001])
    def test_a_first_occurrence_that_does_not_follow_from_it_is_not_believed(self, schedule: Every, first: int) -> None:
        assert asked_at(schedule, 1_000_000_000, first) == 1_000_000_000

    def test_cron_is_aligned(self) -> None:
        timeline = Timeline.of(Every(10, aligned=True), {20}, set())
        assert timeline is not None
        assert list(timeline.until(45)) == [30, 40]

    def test_a_once_off_occurs_once(self) -> None:
        timeline = Timeline.of(Once(7), set(), set())
        assert timeline is not None
        assert 7 in timeline
        assert list(timeline.until(6)) == []
        assert list(timeline.until(7)) == [7]


class TestFault:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("settle=error", Fault("settle", Action.ERROR)),
            ("settle=applied-then-error%30", Fault("settle", Action.APPLIED_THEN_ERROR, rate=0.3)),
            ("claim.after=stop@3", Fault("claim.after", Action.STOP, nth=3)),
            ("settle=duplicate-late%20:0.5", Fault("settle", Action.DUPLICATE_LATE, rate=0.2, seconds=0.5)),
            ("driver=error%30", Fault("driver", Action.ERROR, rate=0.3)),
            ("clock=ahead:-30", Fault("clock", Action.AHEAD, seconds=-30)),
            ("clock=step@12.5:2", Fault("clock", Action.STEP, nth=12.5, seconds=2)),
        ],
    )
    def test_is_read(self, text: str, fault: Fault) -> None:
        assert Fault.parse(text) == fault
        assert Fault.parse_all(f" {text}\n{text}") == [fault, fault]

    @pytest.mark.parametrize(
        "text",
        [
            *("settle", "settle=nonsense", "nowhere=error", "settle=stop", "settle.before=duplicate", "settle.before=delay:-1"),
            *("driver=delay:1", "driver.before=kill", "clock=error", "settle=ahead:1", "clock.before=step@1:1", "clock=stop"),
        ],
    )
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            Fault.parse(text)

    @pytest.mark.parametrize("module", ["worker", "__main__"])
    @pytest.mark.parametrize("by", ["option", "environment"])
    def test_nonsense_is_one_line_wherever_it_stands(self, module: str, by: str) -> None:
        command = [sys.executable, "-m", f"pyncette_conformance.faults.{module}", "--url", "memory://"]
        command += ["--plan", "x", "--log", "x"] if module == "worker" else []
        option = ["--fault", "settle=nonsense"] if by == "option" else []
        environment = {**os.environ, **({} if option else {"PYNCETTE_FAULTS": "claim=error settle=nonsense"})}
        ended = subprocess.run([*command, *option], env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert "settle=nonsense" in ended.stderr.splitlines()[-1]

    def test_who_asks_once_receives_the_first_answer_when_the_second_delivery_fails(self, tmp_path: Path) -> None:
        class FailingFromTheSecond(Wrapper):
            calls = 0

            async def _call(self, method: str, call: Callable[[], Awaitable[T]], settlements: Sequence[Settlement] = ()) -> T:
                self.calls += method == "claim"
                if self.calls > 1:
                    raise TransientRepositoryError("The server is not there")
                return await call()

        async def test() -> None:
            async with memory_repository() as memory:
                store = FailingFromTheSecond(memory)
                log = RunLog(tmp_path / "run.log")
                repository = Failpoints(store, [Fault.parse("claim=duplicate")], log, seed=1)
                await repository.register(T0, [registration(Key("p", "a"))])
                assert (await claim_one(repository, Key("p", "a"))).key == Key("p", "a")
                assert store.calls == 2
                log.close()

        asyncio.run(test())


class TestRunLog:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        log, reader = RunLog(tmp_path / "log"), LogReader(tmp_path / "log")
        assert reader.read() == []
        first = log.write(What.START, name="Ä\n", at=us(1), ok=False)
        assert list(reader.read()) == [first]
        second = log.write(What.UP)
        assert list(reader.read()) == [first, second]

    def test_a_torn_line_costs_only_itself(self, tmp_path: Path) -> None:
        log, reader = RunLog(tmp_path / "log"), LogReader(tmp_path / "log")
        log.write(What.UP)
        os.truncate(tmp_path / "log", (tmp_path / "log").stat().st_size - 5)
        log.write(What.DOWN)
        assert [event.what for event in reader.read()] == [What.DOWN]
        assert reader.torn == 1


#: What each mutant is to be convicted of, in a scenario that a healthy Pyncette passes in the tests of each backend.
MUTANTS = {
    "no_lease_check": (scenarios.paused_workers, {Category.STALE_WRITE}),
    "non_idempotent_extend": (scenarios.heartbeats, {Category.MISSED}),
    "now_once_per_tick": (scenarios.backlog_at_sigterm, {Category.CONCURRENT}),
    "commit_without_revision": (scenarios.rescheduled_while_running, {Category.MISSED}),
    "late_extend": (scenarios.heartbeats, {Category.STALE_WRITE}),
    "claims_early": (scenarios.poison_rows, {Category.EARLY}),
    "skips_every_other": (scenarios.poison_rows, {Category.MISSED}),
    "runs_before_commit": (scenarios.paused_workers, {Category.EXTRA, Category.ORDER}),
}


async def _categories(mutant: str, directory: Path) -> set[Category]:
    """What the mutant is convicted of."""
    scenario, expected = MUTANTS[mutant]
    options = ["--mutant", f"{Path(__file__).with_name('fault_mutants.py')}:{mutant}"]
    found: set[Category] = set()
    for attempt in range(3):  # a fault may miss the moment at which it hurts
        place = directory / f"{mutant}-{attempt}"
        place.mkdir()
        with contextlib.suppress(AssertionError):  # a mutant may be too broken to get to the end
            found |= (await scenario(f"sqlite:///{place}/store.db", place, options=options, patience=3)).categories
        if expected <= found:
            break
    return found


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="workers are paused and killed with the signals of POSIX")
def test_convicts_every_broken_pyncette(tmp_path: Path) -> None:
    async def convict_all() -> dict[str, set[Category]]:
        at_once = asyncio.Semaphore(3)  # they spend their time waiting, so some can do that together

        async def convict(mutant: str) -> set[Category]:
            async with at_once:
                return await _categories(mutant, tmp_path)

        return dict(zip(MUTANTS, await asyncio.gather(*map(convict, MUTANTS)), strict=True))

    found = asyncio.run(convict_all())
    expected = {mutant: categories for mutant, (_, categories) in MUTANTS.items()}
    assert {mutant: categories & found[mutant] for mutant, categories in expected.items()} == expected
