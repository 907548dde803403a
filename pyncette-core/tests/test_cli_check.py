"""What `pyncette check` says, in sentences, of a setup that is not right. That it finds a store out of reach is in test_cli."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from test_cli import distribution, pyncette, shop  # noqa: F401 - fixtures
from test_workers import worker

from pyncette.cli.diagnosing import differing_workers
from pyncette.history import entry_of, text_of_run
from pyncette.repository import Key
from pyncette.runs import Run, RunOutcome
from pyncette.sqlite import sqlite_repository

APP = """
import os
from datetime import timedelta
from pyncette import *
app = Pyncette(os.environ.get("SHOP_URL"))
lease = dict(lease_duration=timedelta(seconds=60))

@app.task(schedule="0 * * * *", **lease)
async def report(context): ...

@app.dynamic_task(history=timedelta(days=7), **lease)
async def deliver(context): ...

@app.task(schedule="0 * * * *", execution_mode=ExecutionMode.AT_MOST_ONCE, **lease)
async def once(context): ...
"""


def findings(ended):
    return {(each["check"], each["result"]): each["detail"] for each in ended.objects}


@pytest.fixture
def project(shop, monkeypatch):  # noqa: F811
    (shop / "report.py").write_text(APP)
    monkeypatch.setenv("SHOP_URL", "sqlite:///report.db")
    return shop


def remember(path, *runs):
    """Keeps for each of (partition, name, seconds) that a run took that long."""
    now = datetime.now(UTC).replace(microsecond=0)

    async def fill():
        async with sqlite_repository(sqlite_database=str(path)) as repository:
            for number, (partition, name, seconds) in enumerate(runs):
                started = now - timedelta(hours=1, seconds=number)
                ended = started + timedelta(seconds=seconds)
                run = Run(
                    scheduled_at=started, started=started, ended=ended, outcome=RunOutcome.SUCCEEDED, attempt=1, worker="box:1:abcd"
                )
                await repository.append([entry_of(Key(partition, name), ended, timedelta(days=7), text_of_run(run))])

    asyncio.run(fill())


def test_a_url_that_is_not_set_fails_and_says_so(pyncette, project, monkeypatch):  # noqa: F811
    monkeypatch.delenv("SHOP_URL")
    ended = pyncette("check", "report.py:app", "--json")
    assert ended.code == 1
    assert "environment variable that is not set" in findings(ended)["store", "failed"]
    assert pyncette("check", "report.py:app", "--url", "sqlite:///other.db").code == 0


def test_a_lease_shorter_than_the_usual_run_is_told_with_what_to_do(pyncette, project):  # noqa: F811
    slow = [("static", "report", seconds) for seconds in (1, 90, 100)]
    slow += [("dynamic:deliver", f"order {seconds}", seconds) for seconds in (30, 40)]
    remember(project / "report.db", *slow, ("static", "once", 900))
    ended = pyncette("check", "report.py:app")
    [line] = [line for line in ended.lines if line.startswith("leases")]
    for words in ("warning", "'report' usually takes 90 s", "last 3 runs", "60 s", "heartbeat()", "lease_duration to 270 s"):
        assert words in line


def test_who_nobody_runs_is_told_with_the_command_that_does(pyncette, project):  # noqa: F811
    found = findings(pyncette("check", "report.py:app", "--json"))
    assert found["workers", "warning"].endswith("none is alive; nothing runs until you start one: pyncette run APP")


def test_a_backend_of_another_release_is_told_with_what_to_install(pyncette, project, monkeypatch):  # noqa: F811
    monkeypatch.syspath_prepend(distribution(project / "site", "pyncette-redis", "1.9.3", "redis = pyncette.redis:backend"))
    told = findings(pyncette("check", "report.py:app", "--json"))["packages", "warning"]
    assert "pyncette-redis 1.9.3" in told
    assert "pip install --upgrade pyncette-core" in told


def test_workers_of_different_versions_are_counted():
    alive = worker(1, datetime.now(UTC))
    old = dataclasses.replace(alive, version="1.9.0")
    assert differing_workers([alive, alive]) is None
    assert differing_workers([alive, dataclasses.replace(old, alive=False)]) is None
    told = differing_workers([alive, old, old])
    assert "2 on '1.9.0'" in told
    assert "deployment" in told
