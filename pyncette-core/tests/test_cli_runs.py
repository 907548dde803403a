"""``pyncette runs``: what has happened to a task, and who did what to it."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from test_cli import one_line_error, pyncette, shop  # noqa: F401 - fixtures

from pyncette.history import entry_of, text_of_change, text_of_run
from pyncette.repository import Key
from pyncette.runs import Run, RunOutcome
from pyncette.sqlite import sqlite_repository

DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)
APP = """
from datetime import timedelta
from pyncette import *
app = Pyncette("sqlite:///shop.db")

@app.task(schedule="0 * * * *")
async def report(context): ...

@app.dynamic_task()
async def deliver(context): ...
"""


def run(at, outcome=RunOutcome.SUCCEEDED, error=None):
    return text_of_run(
        Run(
            scheduled_at=at,
            started=at + SECOND,
            ended=at + 3 * SECOND,
            outcome=outcome,
            attempt=1,
            worker="box:1:abcd",
            error=error,
        )
    )


@pytest.fixture
def past(shop):  # noqa: F811
    """An hour ago, when two runs of each task ended, and a day before, when one of the static task did."""
    (shop / "shop.py").write_text(APP)
    now = datetime.now(UTC).replace(microsecond=0)
    at = now - timedelta(hours=1)

    async def fill():
        async with sqlite_repository(sqlite_database=str(shop / "shop.db")) as repository:
            entries = []
            for key in (Key("static", "report"), Key("dynamic:deliver", "é\x1b[31m")):
                entries.append(entry_of(key, at, DAY * 7, run(at)))
                entries.append(entry_of(key, at + MINUTE, DAY * 7, run(at + MINUTE, RunOutcome.FAILED, "ValueError: no\nluck")))
            entries.append(entry_of(Key("static", "report"), at - DAY, DAY * 7, run(at - DAY, RunOutcome.GIVEN_UP, "old")))
            entries.append(
                entry_of(Key("static", "report"), at + 2 * MINUTE, DAY * 7, text_of_change("pause", "ann", {"note": "wait"}))
            )
            await repository.append(entries)

    asyncio.run(fill())
    return at


def found(pyncette, *arguments):  # noqa: F811
    return [json.loads(line) for line in pyncette("runs", "shop.py:app", *arguments, "--json").stdout.splitlines()]


def test_runs_and_changes_are_listed_the_newest_first(pyncette, past):  # noqa: F811
    lines = pyncette("runs", "shop.py:app", "report").stdout.splitlines()
    assert lines[0].split() == ["SCHEDULED", "STARTED", "TOOK", "LATE", "OUTCOME", "ATTEMPT", "WORKER", "ERROR"]
    assert [("pause" in line, "failed" in line, "succeeded" in line, "given up" in line) for line in lines[1:]] == [
        tuple(number == place for number in range(4)) for place in range(4)
    ]
    assert "by ann" in lines[1]
    assert "note 'wait'" in lines[1]
    assert "2.000 s" in lines[2]
    assert "box:1:abcd" in lines[2]


def test_of_a_template_those_of_all_instances_or_of_one(pyncette, past):  # noqa: F811
    output = pyncette("runs", "shop.py:app", "deliver").stdout
    assert "\x1b" not in output
    assert len(output.splitlines()) == 3
    assert [each["instance"] for each in found(pyncette, "deliver")] == ["é\x1b[31m"] * 2
    assert len(found(pyncette, "deliver", "é\x1b[31m")) == 2
    assert found(pyncette, "deliver", "another") == []


def test_only_what_failed_and_what_is_recent(pyncette, past):  # noqa: F811
    assert [each["outcome"] for each in found(pyncette, "report", "--failed")] == ["failed", "given up"]
    assert [each["error"] for each in found(pyncette, "report", "--failed", "--since=-2h")] == ["ValueError: no\nluck"]
    assert found(pyncette, "report", "--since=now") == []
    assert [each.get("change") for each in found(pyncette, "report", "--limit", "1")] == ["pause"]


def test_what_has_no_history_says_so(pyncette, past):  # noqa: F811
    result = pyncette("runs", "shop.py:app", "deliver", "another")
    assert "'deliver' keeps no history; declare it with history=timedelta(days=7)" in result.stderr


def test_looking_creates_nothing(pyncette, shop):  # noqa: F811
    (shop / "shop.py").write_text(APP)
    pyncette("runs", "shop.py:app", "report")
    assert not (shop / "shop.db").exists()
