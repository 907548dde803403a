"""Layer 3 of RELIABILITY on SQLite: real processes on one file, real faults, and an independent judge.

The scenarios and the judge are those of the conformance package, which every backend goes through. One is left out here:
``skewed_clocks``. All processes on a file share the clock of one machine, and SQLite has none of its own by which a worker with an
injected clock could correct itself; what can happen to that one clock, a step, is ``clock_steps``.
"""

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyncette_conformance.faults import scenarios
from pyncette_conformance.faults.checker import Cause, Report
from pyncette_conformance.faults.cluster import Cluster, microseconds
from pyncette_conformance.faults.oracle import Once
from pyncette_conformance.faults.plan import Kind, Plan, TaskPlan

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="workers are paused and killed with the signals of POSIX")

Play = Callable[[scenarios.Scenario], Report]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "pyncette.db"


@pytest.fixture
def play(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> Play:
    """Play a scenario, show its summary, and have it judged."""

    def play(scenario: scenarios.Scenario) -> Report:
        report = asyncio.run(scenario(f"sqlite:///{database}", tmp_path))
        record_property("summary", report.summary())
        with capsys.disabled():
            print(f"\n  {report.summary()}")
        report.verify()
        return report

    return play


def held_rows(database: Path) -> list[str]:
    with sqlite3.connect(database) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM pyncette_tasks WHERE locked_until IS NOT NULL")]


def test_three_processes_one_of_them_killed(play: Play) -> None:
    """I1 to I9: 1,000 once-off and 50 interval tasks."""
    report = play(scenarios.three_processes)
    assert report.expected > 1000 + 50
    assert set(report.extras) <= {Cause.KILLED}


def test_workers_paused_for_longer_than_their_lease(play: Play) -> None:
    """I1, I2, I5, I6: in bodies, before the first insert, before a settlement."""
    assert set(play(scenarios.paused_workers).extras) <= {Cause.STOPPED, Cause.EXPIRED}


def test_workers_killed_in_a_loop(play: Play) -> None:
    """I6, I7."""
    assert set(play(scenarios.kill_loop).extras) <= {Cause.KILLED, Cause.EXPIRED}


def test_sigterm_in_a_backlog(play: Play, database: Path) -> None:
    """I11, I12."""
    play(scenarios.backlog_at_sigterm)
    assert held_rows(database) == []


def test_twenty_workers_start_at_once_on_an_empty_file(play: Play) -> None:
    play(scenarios.first_start)


def test_calls_that_fail_are_lost_or_doubled(play: Play) -> None:
    """I1, I5, I6, I7."""
    play(scenarios.unreliable_store)


def test_heartbeats_of_workers_that_are_killed(play: Play) -> None:
    """I2, I7."""
    play(scenarios.heartbeats)


def test_rescheduled_while_running(play: Play) -> None:
    """I3, I4, I8, I9."""
    play(scenarios.rescheduled_while_running)


def test_rows_that_cannot_be_understood(play: Play) -> None:
    """I10."""
    play(scenarios.poison_rows)


def test_steps_of_the_clock(play: Play) -> None:
    """I1, I5, I6."""
    play(scenarios.clock_steps)


def test_arguments_spoilt_in_the_table(tmp_path: Path, database: Path) -> None:
    """I10: as above, by somebody who writes to the table himself."""
    spoilt = {"spoilt-text": "'{\"generation\": '", "spoilt-blob": "x'fffe'", "spoilt-number": "42"}

    async def scenario() -> Report:
        plan = Plan([TaskPlan(name="alo", kind=Kind.DYNAMIC, lease=1.0)])
        async with Cluster(f"sqlite:///{database}", plan, tmp_path) as cluster:
            async with cluster.app() as driver:
                begin = microseconds()
                await driver.schedule(
                    "alo", {name: Once(begin) for name in spoilt} | {f"good-{i}": Once(begin + i) for i in range(50)}
                )
            with sqlite3.connect(database) as connection:
                for name, spec in spoilt.items():
                    connection.execute(f"UPDATE pyncette_tasks SET spec = {spec} WHERE name = ?", (name,))
            connection.close()
            await cluster.until_up(cluster.spawn())
            await cluster.until_done(begin + 1000, 30, ignore=spoilt)
            deadline = time.monotonic() + 30
            while not all(cluster.output(name) for name in spoilt) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            assert all(cluster.output(name) for name in spoilt)
            return await cluster.verdict("spoilt arguments", begin + 1000, ignore=spoilt)

    report = asyncio.run(scenario())
    report.verify()
    with sqlite3.connect(database) as connection:
        kept = {name for (name,) in connection.execute("SELECT name FROM pyncette_tasks WHERE partition != 'layouts'")}
    connection.close()
    assert kept == set(spoilt)
