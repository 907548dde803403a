"""What the command line makes of bounds, jitter and rules: next, show, list, reschedule, trigger and backfill."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from test_cli import one_line_error, pyncette, shop  # noqa: F401 - fixtures

from pyncette import Pyncette
from pyncette.schedule import Bounded, Interval

HOUR = timedelta(hours=1)
APP = """
from datetime import *
from pyncette import *
app = Pyncette("sqlite:///shop.db")

@app.task(rrule="FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", timezone="Europe/London")
async def payday(context): ...

@app.task(schedule="0 9 * * *", end_at=datetime(2020, 1, 1, tzinfo=UTC))
async def over(context): ...

@app.dynamic_task()
async def remind(context): ...
"""
BEGIN = datetime(2035, 1, 1, tzinfo=UTC)
WINDOW = ["--from", "2035-01-01T00:00Z", "--to", "+12h"]


@pytest.fixture
def stored(shop):  # noqa: F811
    """Three instances: one spread, one that ends, one that is limited."""
    (shop / "shop.py").write_text(APP)

    async def body(context): ...

    async def main():
        app = Pyncette(f"sqlite:///{shop}/shop.db")
        remind = app.dynamic_task(name="remind")(body)
        async with app.create() as context:
            await context.schedule_task(remind, "spread", interval=4 * HOUR, start_at=BEGIN, jitter=HOUR)
            await context.schedule_task(remind, "ends", rrule="FREQ=HOURLY;INTERVAL=4", start_at=BEGIN, end_at=BEGIN + 6 * HOUR)
            await context.schedule_task(remind, "limited", schedule="30 * * * *", start_at=BEGIN, max_runs=3)

    asyncio.run(main())


def test_next_stops_where_a_schedule_ends_and_says_when_runs_are(pyncette, stored):  # noqa: F811
    found = pyncette("next", "shop:app", "remind", *WINDOW, "--json").objects
    jitter = Bounded(Interval(4 * HOUR), jitter=HOUR)
    spread = [BEGIN + number * 4 * HOUR for number in range(3)]
    assert [each for each in found if each["instance"] == "spread"] == [
        {
            "at": at.isoformat(),
            "task": "remind",
            "instance": "spread",
            "runs_at": jitter.execute_after(at, ("dynamic:remind", "spread")).isoformat(),
        }
        for at in spread
    ]
    assert [(each["at"][11:16], each.get("last")) for each in found if each["instance"] == "ends"] == [
        ("00:00", None),
        ("04:00", True),
    ]
    limited = [(each["at"][11:16], each.get("last")) for each in found if each["instance"] == "limited"]
    assert limited == [("00:30", None), ("01:30", None), ("02:30", True)]
    lines = pyncette("next", "shop:app", "remind", *WINDOW).lines
    assert lines[0].split() == ["AT", "DAY", "TASK", "INSTANCE", "NOTE"]
    assert [line.split("limited")[1].strip() for line in lines if "limited" in line] == ["", "", "the last"]
    assert sum("for its jitter" in line for line in lines) == 3


def test_next_counts_the_runs_before_its_window(pyncette, stored):  # noqa: F811
    found = pyncette("next", "shop:app", "remind", "limited", "--from", "2035-01-01T01:00Z", "--to", "+12h", "--json").objects
    assert [each["at"][11:16] for each in found] == ["01:30", "02:30"]
    assert pyncette("next", "shop:app", "remind", "limited", "--from", "2035-01-01T03:00Z", "--to", "+12h", "--json").objects == []


def test_next_of_what_is_in_code(pyncette, stored):  # noqa: F811
    found = pyncette("next", "shop:app", "--from", "2035-01-20T00:00Z", "--to", "+30d", "--json").objects
    assert [each["at"] for each in found if each["task"] == "payday"] == ["2035-01-26T17:00:00+00:00"]
    assert not [each for each in found if each["task"] == "over"]


def test_show_and_list_tell_them(pyncette, stored):  # noqa: F811
    shown = pyncette("show", "shop:app", "remind", "limited", "--json").objects[0]
    assert shown["schedule"] == "30 * * * *, from 2035-01-01 00:00:00+00:00, 3 runs"
    assert shown["runs_left"] == 3
    lines = "\n".join(pyncette("list", "shop:app", "remind").lines)
    assert "every 4:00:00, from 2035-01-01 00:00:00+00:00, jitter 1:00:00" in lines
    assert "FREQ=HOURLY;INTERVAL=4, from 2035-01-01 00:00:00+00:00, until 2035-01-01 06:00:00+00:00" in lines
    assert "FREQ=MONTHLY;BYHOUR=17;BYDAY=-1FR" in "\n".join(pyncette("show", "shop:app", "payday").lines)
    assert pyncette("show", "shop:app", "over").code == 0


def test_reschedule_takes_them(pyncette, stored):  # noqa: F811
    more = ["--jitter", "5m", "--start-at", "2036-01-01T00:00", "--end-at", "2037-01-01T00:00", "--max-runs", "12"]
    ended = pyncette("reschedule", "shop:app", "remind", "ends", "--rrule", "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", *more, "--json")
    assert ended.code == 0
    shown = pyncette("show", "shop:app", "remind", "ends", "--json").objects[0]
    assert shown["schedule"] == (
        "FREQ=MONTHLY;BYHOUR=17;BYDAY=-1FR, from 2036-01-01 00:00:00+00:00, until 2037-01-01 00:00:00+00:00, 12 runs, jitter 0:05:00"
    )
    assert shown["next"] == "2036-01-25T17:00:00+00:00"
    for wrong in (
        ["--schedule", "@daily", "--max-runs", "0"],
        ["--rrule", "FREQ=DAILY;COUNT=5"],
        ["--interval", "5m", "--end-at", "2020-01-01"],
    ):
        one_line_error(pyncette("reschedule", "shop:app", "remind", "ends", *wrong))


def test_trigger_and_backfill_know_them(pyncette, stored):  # noqa: F811
    for name in ("spread", "ends", "limited"):
        assert pyncette("trigger", "shop:app", "remind", name).code == 0
    window = ["--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z"]
    # Before they begin there is nothing to make up for.
    for name in ("spread", "ends", "limited"):
        assert "will run 0 times in addition" in pyncette("backfill", "shop:app", "remind", name, *window).stderr
    assert pyncette("trigger", "shop:app", "over").code == 0
