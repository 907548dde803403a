"""The judge, judged: it accepts a log without fault, and names what is wrong with every other."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pyncette.repository import Claim, Commit, Extend, Fail, Key, Outcome, Registration, Release, Row, Settlement, Target
from pyncette.store import lifecycle
from pyncette.store.history import Entry, Position
from pyncette.task import FailureMode
from simulation import log
from simulation.checker import Rules, TaskRules, check

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = 10.0
A = Key("dynamic:task", "a")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Scene:
    """A history of one row, in the words of the contract; each method appends what would have been seen."""

    def __init__(self, *, at_most_once: bool = False, key: Key = A, **rules: Any) -> None:
        self.key = key
        self.at = 0.0
        task = TaskRules(lease=LEASE, at_most_once=at_most_once, static=key.partition == "static")
        for option in ("failure_mode", "fast_forward", "max_attempts"):
            if option in rules:
                task = replace(task, **{option: rules.pop(option)})
        self.rules = Rules(**{"origin": START, "tasks": {"task": task, "a": task}, "ample": True, **rules})
        self.events: list[log.Event] = []
        self.row: Row | None = None
        self._calls = itertools.count(1)
        self._leases = (f"lease{number}" for number in itertools.count())

    def see(self, event: type[log.Event], **fields: Any) -> None:
        self.events.append(event(self.at, **fields))

    def wait(self, seconds: float) -> None:
        self.at += seconds

    def up(self, *workers: str) -> None:
        for worker in workers:
            self.see(log.Up, worker=worker)

    def change(self, operation: str, after: Row | None, *, worker: str = "", call: int = 0, **more: Any) -> None:
        self.see(
            log.Changed,
            worker=worker,
            call=call,
            operation=operation,
            now=at(self.at),
            key=self.key,
            before=self.row,
            after=after,
            **more,
        )
        self.row = after

    def register(self, *, interval: int | None = 10, v: int = 1, force: bool = False, bounds: str = "") -> None:
        schedule = "once 2026-01-01T00:00:05.000000Z @UTC #0" if interval is None else f"interval {interval} @UTC{bounds}"
        first = at(5) if interval is None else at(self.at + interval)
        registration = Registration(self.key, f'{{"v":{v}}}', schedule, Target(first, first))
        self.change("force" if force else "register", lifecycle.register(self.row, at(self.at), registration, force=force))

    def call(self, worker: str, method: str, *, stale: float = 0.0, runs: tuple[log.Run, ...] = ()) -> int:
        call = next(self._calls)
        self.see(log.Sent, worker=worker, call=call, method=method, stale=stale, runs=runs)
        return call

    def claim(self, worker: str, *, stale: float = 0.0) -> Claim:
        call = self.call(worker, "claim", stale=stale)
        assert self.row is not None
        taken = lifecycle.claim(self.row, at(self.at), timedelta(seconds=LEASE), next(self._leases))
        assert taken is not None
        self.change("claim", taken[0], worker=worker, call=call)
        self.see(log.Delivered, worker=worker, call=call, claims=(taken[1],))
        return taken[1]

    def steal(self, worker: str) -> Claim:
        """A claim that no store may grant."""
        assert self.row is not None
        self.row, row = self.row._replace(ready_at=at(self.at)), self.row
        taken = lifecycle.claim(self.row, at(self.at), timedelta(seconds=LEASE), next(self._leases))
        assert taken is not None
        self.row = row
        call = self.call(worker, "claim")
        self.change("claim", taken[0], worker=worker, call=call)
        self.see(log.Delivered, worker=worker, call=call, claims=(taken[1],))
        return taken[1]

    def start(self, worker: str, claim: Claim, **changes: Any) -> None:
        fields = {"scheduled_at": claim.occurrence, "args": {"v": int(claim.spec[5:-1])}, **changes}
        self.see(log.Started, worker=worker, run=(claim.key, claim.lease), **fields)

    def end(self, worker: str, claim: Claim, how: str = "returned") -> None:
        self.see(log.Ended, worker=worker, run=(claim.key, claim.lease), how=how)

    def settle(self, worker: str, settlement: Settlement, *, after: Any = None) -> Outcome:
        run = (settlement.claim.key, settlement.claim.lease)
        call = self.call(worker, "settle", runs=(run,))
        row, outcome = lifecycle.settle(self.row, at(self.at), settlement)
        self.change("settle", row if after is None else after, worker=worker, call=call, settlement=settlement, outcome=outcome)
        self.see(log.Delivered, worker=worker, call=call, outcomes=(outcome,))
        return outcome

    def fail(self, worker: str, settlement: Settlement, *, refused: bool = False) -> None:
        run = (settlement.claim.key, settlement.claim.lease)
        call = self.call(worker, "settle", runs=(run,))
        self.see(log.Delivered, worker=worker, call=call, error="away", refused=refused)

    def run(self, worker: str) -> Claim:
        """One occurrence, as it should be."""
        claim = self.claim(worker)
        self.start(worker, claim)
        self.end(worker, claim)
        self.settle(worker, commit(claim))
        return claim

    def stop(self, worker: str, *, down: bool = True) -> None:
        self.see(log.Stopping, worker=worker, cancelled=False)
        if down:
            self.see(log.Down, worker=worker, how="ended")

    def verdict(self) -> list[str]:
        return [violation.invariant for violation in check(self.events, self.rules)]


def commit(claim: Claim, by: float = 10.0) -> Commit:
    following = claim.occurrence + timedelta(seconds=by)
    return Commit(claim, None if claim.schedule.startswith("once") else Target(following, following))


def scene(**options: Any) -> Scene:
    scene = Scene(**options)
    scene.up("A", "B")
    scene.register()
    scene.wait(10)
    return scene


def test_a_log_without_fault_is_accepted() -> None:
    s = scene()
    s.run("A")
    s.wait(10)
    claim = s.claim("B")
    s.start("B", claim)
    s.wait(8)
    s.settle("B", Extend(claim, at(s.at + LEASE)))
    s.wait(8)
    s.end("B", claim)
    s.settle("B", commit(claim))
    s.settle("B", commit(claim))  # delivered twice
    s.run("A")
    s.register(interval=7, v=2)
    s.wait(7)
    claim = s.claim("A")
    s.settle("A", Release(claim, at(s.at), started=False))
    s.change("unregister", None)
    s.see(log.Healed)
    s.stop("A")
    s.stop("B")
    s.see(log.Finished)
    assert s.verdict() == []


def test_at_most_once_without_fault_is_accepted() -> None:
    s = scene(at_most_once=True)
    for _ in range(3):
        claim = s.claim("A")
        s.settle("A", commit(claim))
        s.start("A", claim)
        s.wait(10)
    assert s.verdict() == []


def test_a_log_that_is_incomplete_is_noticed() -> None:
    s = scene()
    assert s.row is not None
    s.row = s.row._replace(spec="{}")
    s.claim("A")
    assert "log" in s.verdict()


# --- I1, I2, I4 -------------------------------------------------------------------------------------------------------------


def test_a_token_that_does_not_rise() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.wait(LEASE)
    assert s.row is not None
    s.change("claim", s.row._replace(lease="other", epoch=s.row.epoch), worker="B", call=s.call("B", "claim"))
    assert s.verdict() == ["I1 fencing"]


@pytest.mark.parametrize("settlement", [commit, lambda claim: Release(claim, START), lambda claim: Extend(claim, at(99))])
def test_a_late_settlement_that_is_written(settlement: Callable[[Claim], Settlement]) -> None:
    s = scene()
    late = s.claim("A")
    s.wait(LEASE + 1)
    s.claim("B")
    assert s.row is not None
    s.settle("A", settlement(late), after=s.row._replace(locked_until=None, ready_at=START))
    assert s.verdict() == ["I1 stale write"]


def test_an_extension_after_the_commit_that_is_written() -> None:
    s = scene()
    claim = s.run("A")
    assert s.row is not None
    s.settle("A", Extend(claim, at(99)), after=s.row._replace(locked_until=at(99)))
    assert s.verdict() == ["I1 stale write"]


def test_a_commit_of_another_revision_that_moves_the_row() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.register(interval=3, v=2)
    s.end("A", claim)
    assert s.row is not None
    s.settle("A", commit(claim), after=s.row._replace(locked_until=None, occurrence=at(20), execute_after=at(20)))
    assert s.verdict() == ["I3 no loss"]


def bounded(bounds: str, following: Target | None) -> list[str]:
    """What is wrong with going on to ``following`` after one run of a schedule that is narrowed down."""
    s = Scene()
    s.up("A")
    s.register(bounds=bounds)
    s.wait(10)
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim)
    s.settle("A", Commit(claim, following))
    return s.verdict()


@pytest.mark.parametrize("bounds", [" runs=1", " end=2026-01-01T00:00:19.000000Z"])
def test_a_schedule_that_is_over_goes_away(bounds: str) -> None:
    assert bounded(bounds, None) == []


@pytest.mark.parametrize("bounds", [" runs=2", " end=2026-01-01T00:00:20.000000Z", " jitter=5"])
def test_a_schedule_that_is_not_over_goes_away(bounds: str) -> None:
    assert bounded(bounds, None) == ["I3 no loss"]


@pytest.mark.parametrize("bounds", [" runs=1", " end=2026-01-01T00:00:19.000000Z"])
def test_a_schedule_that_is_over_goes_on(bounds: str) -> None:
    assert bounded(bounds, Target(at(20), at(20))) == ["I7 extra"]


@pytest.mark.parametrize("late", [-1, 1, 5])
def test_a_run_that_is_later_than_its_jitter_lets_it_be_or_early(late: int) -> None:
    assert bounded(" jitter=1", Target(at(20), at(20 + late))) == ["I4 early"]


def test_a_jitter_that_moves() -> None:
    s = Scene()
    s.up("A")
    s.register(bounds=" jitter=5")
    assert s.row is not None
    s.change("unregister", None)
    s.register(bounds=" jitter=5")
    s.change("pause", s.row._replace(execute_after=at(11)))
    assert s.verdict() == ["I9"]


def test_two_live_leases() -> None:
    s = scene()
    s.claim("A")
    s.wait(LEASE / 2)
    s.steal("B")
    assert s.verdict() == ["I2 exclusion", "I4 early"]


def test_a_start_after_the_lease() -> None:
    s = scene()
    claim = s.claim("A")
    s.see(log.Frozen, worker="A")
    s.wait(LEASE + 1)
    s.see(log.Thawed, worker="A")
    s.start("A", claim)
    assert s.verdict() == ["I2 exclusion"]


def test_a_row_that_is_claimed_while_it_runs_well_within_its_lease() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.settle("A", Release(claim, at(s.at)))
    s.claim("B")
    assert s.verdict() == ["I2 concurrent", "I2 concurrent"]


def test_a_claim_with_a_time_that_was_read_before() -> None:
    s = scene()
    s.claim("A", stale=0.5)
    assert s.verdict() == ["I2 exclusion"]


def test_an_early_claim_and_an_early_start() -> None:
    s = Scene()
    s.up("A")
    s.register()
    s.wait(5)
    claim = s.steal("A")
    s.start("A", claim)
    assert s.verdict() == ["I4 early", "I4 early"]


def test_a_start_for_another_time_or_with_other_arguments() -> None:
    s = scene()
    s.start("A", s.claim("A"), scheduled_at=at(3), args={"v": 7})
    assert s.verdict() == ["I4 early", "I9"]


def test_a_start_without_a_claim() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("B", claim)
    assert s.verdict() == ["I1 fencing"]


# --- I3, I5, I6, I7, I8, I9 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, "raised", "cancelled"])
def test_a_commit_of_what_did_not_run_to_its_end(how: str | None) -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    if how is not None:
        s.end("A", claim, how)
    s.settle("A", commit(claim))
    assert s.verdict() == ["I3 no loss"]


def test_a_failure_may_count_as_done() -> None:
    s = scene(failure_mode=FailureMode.COMMIT)
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim, "raised")
    s.settle("A", commit(claim))
    assert s.verdict() == []


def test_a_row_that_disappears() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim)
    s.settle("A", Commit(claim, None))
    assert s.verdict() == ["I3 no loss"]


def test_a_row_that_is_given_up_too_soon() -> None:
    s = scene(max_attempts=2)
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim, "raised")
    s.settle("A", Fail(claim, "error"))
    assert s.verdict() == ["I3 no loss"]


def test_an_occurrence_that_is_left_out() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim)
    s.settle("A", commit(claim, by=20))
    assert s.verdict() == ["I7 missed"]


@pytest.mark.parametrize(("by", "verdict"), [(20, []), (30, ["I7 missed"]), (25, ["I7 missed"])])
def test_what_fast_forward_may_leave_out(by: float, verdict: list[str]) -> None:
    s = Scene(fast_forward=True)
    s.up("A")
    s.register()
    s.wait(25)
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim)
    s.settle("A", commit(claim, by=by))
    assert s.verdict() == verdict


def test_at_most_once_started_without_its_commit() -> None:
    s = scene(at_most_once=True)
    s.start("A", s.claim("A"))
    assert s.verdict() == ["I6 at most once"]


def test_at_most_once_started_twice() -> None:
    s = scene(at_most_once=True)
    late = s.claim("A")
    s.wait(LEASE)
    claim = s.claim("B")
    s.settle("B", commit(claim))
    s.start("B", claim)
    s.start("A", late)
    assert "I6 at most once" in s.verdict()


def test_at_most_once_committed_and_not_started() -> None:
    s = scene(at_most_once=True)
    claim = s.claim("A")
    s.settle("A", commit(claim))
    s.see(log.Finished)
    assert s.verdict() == ["I7 missed"]


def test_a_once_off_that_goes_on() -> None:
    s = Scene()
    s.up("A")
    s.register(interval=None)
    s.wait(5)
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim)
    s.settle("A", Commit(claim, Target(at(15), at(15))))
    assert s.verdict() == ["I8 once-off"]


def test_a_registration_counts_from_when_the_user_asked_and_no_longer() -> None:
    for asked, verdict in ((0.0, []), (2.0, ["I9"]), (None, ["I9"])):
        s = Scene()
        s.up("A")
        if asked is not None:
            s.wait(asked)
            s.see(log.Asked, marker=1)
        s.wait(3 - s.at)
        s.change(
            "register", lifecycle.register(None, at(3), Registration(A, '{"v":1}', "interval 10 @UTC", Target(at(11), at(11))))
        )
        assert s.verdict() == verdict


def test_a_start_that_postpones() -> None:
    s = scene()
    assert s.row is not None
    s.change("register", s.row._replace(occurrence=at(20), execute_after=at(20), ready_at=at(20)))
    assert s.verdict() == ["I9"]


def test_a_schedule_whose_revision_is_not_raised() -> None:
    s = scene()
    assert s.row is not None
    s.change("register", s.row._replace(schedule="interval 5 @UTC", occurrence=at(15), execute_after=at(15), ready_at=at(15)))
    assert s.verdict() == ["I3 no loss"]


# --- I7: extras and their causes -------------------------------------------------------------------------------------------------


def ran_but_not_committed() -> tuple[Scene, Claim]:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.wait(1)
    s.end("A", claim)
    return s, claim


def test_an_extra_run_without_a_cause() -> None:
    s, _ = ran_but_not_committed()
    s.wait(LEASE)
    s.run("B")
    assert s.verdict() == ["I7 extra"]


def test_an_extra_run_after_an_error_that_was_not_tried_again() -> None:
    s, claim = ran_but_not_committed()
    s.fail("A", commit(claim))
    s.wait(LEASE)
    s.run("B")
    assert s.verdict() == ["I7 extra"]


@pytest.mark.parametrize("cause", ["killed", "frozen", "refused", "away", "in progress", "forced", "overrun"])
def test_an_extra_run_with_a_cause(cause: str) -> None:
    s, claim = ran_but_not_committed()
    if cause == "killed":
        s.see(log.Down, worker="A", how="killed")
    elif cause == "frozen":
        s.see(log.Frozen, worker="A")
    elif cause == "refused":
        s.fail("A", commit(claim), refused=True)
    elif cause == "away":
        for _ in range(10):
            s.fail("A", commit(claim))
            s.wait(0.9)
    elif cause == "in progress":
        call = s.call("A", "settle", runs=((claim.key, claim.lease),))
        s.see(log.Failed, worker="A", call=call, method="settle", fault="hung")
    elif cause == "forced":
        s.register(force=True)
    elif cause == "overrun":
        s = scene()
        claim = s.claim("A")
        s.start("A", claim)
        s.wait(LEASE)
        s.end("A", claim)
    s.wait(LEASE)
    s.run("B")
    assert s.verdict() == []


# --- slots, I10, I12 ----------------------------------------------------------------------------------------------------------


def test_a_lease_that_ticks_in_a_queue() -> None:
    s = scene()
    claim = s.claim("A")
    s.wait(1)
    s.start("A", claim)
    assert s.verdict() == ["slots"]


def test_more_bodies_than_slots() -> None:
    s = scene(concurrency_limit=1)
    s.start("A", s.claim("A"))
    s.see(log.Started, worker="A", run=(A, "lease0"), scheduled_at=at(10), args={"v": 1})
    assert s.verdict() == ["I6 at most once"]  # the same run twice
    s.key, s.row = Key("dynamic:task", "b"), None
    s.register()
    s.wait(10)
    s.start("A", s.claim("A"))
    assert s.verdict() == ["I6 at most once", "slots"]


def test_a_task_that_is_late_although_nothing_is_wrong() -> None:
    s = scene(calm=True)
    s.wait(1.1)
    s.run("A")
    s.wait(9.5)
    s.run("A")
    assert s.verdict() == []
    s.wait(11)
    s.run("A")
    assert s.verdict() == ["I10 isolation"]


def test_a_task_that_is_late_while_nobody_is_there_to_run_it() -> None:
    s = Scene(calm=True)
    s.register()
    s.wait(30)
    s.up("A")
    s.wait(0.5)
    s.run("A")
    assert s.verdict() == []


def test_a_lease_that_is_left_at_the_shutdown() -> None:
    s = scene()
    s.claim("A")
    s.stop("A")
    assert s.verdict() == ["I12 shutdown"]


def test_leases_that_may_be_left_at_the_shutdown() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim, "raised")
    s.stop("A")
    s.wait(LEASE)
    claim = s.claim("B")
    s.start("B", claim)
    s.end("B", claim)
    s.fail("B", commit(claim))
    s.stop("B")
    assert s.verdict() == []


def test_a_start_after_the_shutdown_began() -> None:
    s = scene()
    claim = s.claim("A")
    s.stop("A", down=False)
    s.wait(0.01)
    s.start("A", claim)
    assert s.verdict() == ["I12 shutdown"]


def test_a_started_body_that_is_given_back_as_not_started() -> None:
    s = scene()
    claim = s.claim("A")
    s.start("A", claim)
    s.end("A", claim, "cancelled")
    s.settle("A", Release(claim, at(10), started=False))
    assert s.verdict() == ["I12 shutdown"]


def test_a_shutdown_that_takes_for_ever() -> None:
    s = scene()
    s.stop("A", down=False)
    s.wait(100)
    s.see(log.Down, worker="A", how="ended")
    assert s.verdict() == ["I12 shutdown"]


def test_a_backlog_that_is_not_worked_off() -> None:
    s = scene()
    s.see(log.Healed)
    s.wait(20)
    s.stop("A")
    s.stop("B")
    assert s.verdict() == ["I7 missed"]


def test_a_static_row_that_does_not_come_back() -> None:
    s = Scene(key=Key("static", "a"), tasks={"a": TaskRules(lease=LEASE, static=True)})
    s.up("A")
    s.register()
    s.change("poison", None)
    s.see(log.Healed)
    s.stop("A")
    assert s.verdict() == ["I3 no loss"]


def paused_and_resumed(s: Scene) -> None:
    assert s.row is not None
    s.change("pause", lifecycle.pause(s.row))
    s.wait(35)
    since = int(at(s.at).timestamp() * 1e6)
    s.change("resume", lifecycle.resume(s.row, f'{{"since":[{since},"latest"]}}'))


def test_more_than_the_latest_after_a_pause() -> None:
    s = scene()
    paused_and_resumed(s)
    s.run("A")
    assert s.verdict() == ["I9 pause"]


@pytest.mark.parametrize(("how", "expected"), [("looked", ["I9 pause"]), ("blind", []), ("ended before", []), ("unstarted", [])])
def test_a_run_in_progress_that_undoes_a_resumption(how: str, expected: list[str]) -> None:
    s = scene()
    claim = s.claim("A")
    if how != "unstarted":
        s.start("A", claim)
    s.wait(5)
    if how == "ended before":
        s.end("A", claim)
    paused_and_resumed(s)
    if how in ("looked", "blind"):
        s.wait(1)
        s.end("A", claim)
    if how == "blind":
        s.see(log.Failed, worker="A", call=s.call("A", "get"), method="get", fault="refused")
    s.settle("A", commit(claim))
    s.run("A")
    assert [each for each in s.verdict() if each == "I9 pause"] == expected


def entries(*claims: Claim, outcome: str = "succeeded") -> tuple[Entry, ...]:
    """What the history has of runs; each call makes entries at positions of their own."""
    numbers = itertools.count()
    return tuple(
        Entry(
            claim.key,
            Position(claim.occurrence, f"{id(numbers)}-{next(numbers)}"),
            at(999),
            f'{{"run":[{int(claim.occurrence.timestamp() * 1e6)},0,0,"{outcome}",1,"A"]}}',
        )
        for claim in claims
    )


def record(s: Scene, *written: Entry, error: str = "", fault: str = "") -> None:
    s.see(log.Recorded, worker="A", sent_at=s.at, entries=written, applied=error in ("", "transient"), error=error, fault=fault)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("well", 0),
        ("sent again", 0),
        ("refused", 0),
        ("in an outage", 0),
        ("twice", 1),
        ("untrue", 1),
        ("not", 1),
        ("given up", 2),
        ("cut short", 2),
    ],
)
def test_a_history(how: str, expected: int) -> None:
    s = scene(recording=True)
    first = s.run("A")
    s.wait(10)
    second = s.run("A")
    s.wait(1)
    both = entries(first, second)
    match how:
        case "well":
            record(s, *both)
        case "sent again":
            record(s, *both, error="transient", fault="lost")
            record(s, *both)
        case "refused":
            record(s, *both, error="refused", fault="bad")
        case "in an outage":
            s.see(log.Stopping, worker="A", cancelled=False)
            record(s, *both, error="cancelled", fault="hung")
        case "twice":
            record(s, *both)
            record(s, *entries(second))
        case "untrue":
            s.wait(9)
            record(s, *both, *entries(s.claim("A")))
        case "not":
            record(s, *both[:1])
        case "given up":
            record(s, *both, error="cancelled", fault="hung")
            s.wait(5)
        case "cut short":
            s.see(log.Stopping, worker="A", cancelled=False)
            record(s, *both, error="cancelled")
    s.stop("A")
    s.see(log.Finished)
    assert s.verdict().count("history") == expected


def test_many_calls_for_many_runs() -> None:
    s = scene()
    claim = s.claim("A")
    for _ in range(250):
        s.see(log.Started, worker="A", run=(claim.key, claim.lease), scheduled_at=claim.occurrence, args={"v": 1})
        s.call("A", "claim")
        s.call("A", "settle")
    assert "busy loop" not in s.verdict()


def test_a_busy_loop() -> None:
    s = scene()
    for _ in range(499):
        s.call("A", "claim")
    assert s.verdict() == []
    s.call("A", "claim")
    assert s.verdict() == ["busy loop"]


def test_complaints_to_the_event_loop_and_ends_that_nobody_asked_for() -> None:
    s = scene()
    s.see(log.Unexpected, message="Task exception was never retrieved")
    s.see(log.Down, worker="A", how="ended")
    assert s.verdict() == ["unexpected", "unexpected"]
