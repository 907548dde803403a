"""Schedules are said in words."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.cli import main
from pyncette.schedules.kinds import Cron
from pyncette.schedules.text import from_options
from pyncette.schedules.wording import in_words

START = datetime(2026, 1, 1, 9, tzinfo=UTC)

SAID = {
    "At 09:00 on Monday through Friday, Europe/London": {"schedule": "0 9 * * MON-FRI", "timezone": "Europe/London"},
    "At 00:00 every day, UTC": {"schedule": "@daily"},
    "At 00:00 on the last Friday of the month, UTC": {"schedule": "0 0 ? * L5"},
    "At 00:00 on Monday through Sunday, UTC": {"schedule": "0 0 * * MON-SUN"},
    "At 09:00:30 every day, UTC": {"schedule": "0 9 * * * 30"},
    "Every second, UTC": {"schedule": "* * * * * *"},
    "At 12:06 every day, UTC": {"schedule": "H H * * *", "name": "x"},
    "Every second at minute 30 past hour 4, UTC (the sixth field is the seconds: '30 4 * * *' is at 04:30 every day)": {
        "schedule": "30 4 * * * *"
    },
    "At 00:00 on every second day of month if it's on Monday, UTC": {"schedule": "0 0 */2 * MON"},
    "Every minute": {"interval": timedelta(minutes=1)},
    "Every 1 hour and 30 minutes, each up to 30 seconds later": {
        "interval": timedelta(minutes=90),
        "jitter": timedelta(seconds=30),
    },
    "Every 0.25 seconds, 3 times": {"interval": timedelta(seconds=0.25), "max_runs": 3},
    "Every 7 days, from 2026-01-01 10:00:00 Europe/Paris on, until 2027-01-01 10:00:00 Europe/Paris, a single time": {
        "interval": timedelta(days=7),
        "timezone": "Europe/Paris",
        "start_at": START,
        "end_at": START.replace(year=2027),
        "max_runs": 1,
    },
    "Once, at 2026-01-01 10:00:00 Europe/Berlin": {"execute_at": START, "timezone": "Europe/Berlin"},
    "Every month on the last Friday at 17:00, Europe/London": {
        "rrule": "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17",
        "timezone": "Europe/London",
    },
    "Every 2 weeks on Monday and Wednesday at 09:00, 5 times, UTC": {
        "rrule": "DTSTART:20260105T090000 FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE;COUNT=5"
    },
    "Every month on Friday at 00:00, BYSETPOS=-1, until 2027-01-01 00:00:00, UTC": {
        "rrule": "FREQ=MONTHLY;BYSETPOS=-1;BYDAY=FR;UNTIL=20270101T000000Z"
    },
    "Every year in January on the last day and day 1 of the month at 09:30, except 2027-01-01 09:30:00, UTC": {
        "rrule": "DTSTART:20260101T093000 RRULE:FREQ=YEARLY;BYMONTH=1;BYMONTHDAY=1,-1 EXDATE:20270101T093000"
    },
    "Every hour at minute 5 and 35, UTC": {"rrule": "FREQ=HOURLY;BYMINUTE=5,35"},
    "Every year on the 21st Monday at 00:00, UTC": {"rrule": "FREQ=YEARLY;BYDAY=21MO"},
}


@pytest.mark.parametrize("words", list(SAID))
def test_each_kind_of_schedule_has_words(words):
    assert in_words(from_options(**SAID[words])) == words


FIELD = st.sampled_from(["*", "*/7", "1", "1,3", "2-5", "2-6/2"])
WEEKDAY = st.sampled_from(["*", "?", "MON-SUN", "SUN", "L5", "5L", "FRI#2", "0-7", "L7", "7#1", "MON,L0"])


@given(st.lists(FIELD, min_size=4, max_size=4), WEEKDAY, st.sampled_from([[], ["0"], ["*/10"], ["5,59"]]))
def test_every_expression_has_words_of_its_own(fields, weekday, second):
    expression = " ".join([*fields, weekday, *second])
    words = in_words(Cron(expression))
    assert words[0].isupper(), "cronsim knows each that is taken here"
    assert expression not in words


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "words_app.py").write_text(
        "from pyncette import *\n"
        "app = Pyncette()\n"
        "@app.task(schedule='0 9 * * MON-FRI', timezone='Europe/London')\n"
        "async def report(context): ...\n"
        "@app.task(schedule='30 4 * * * *')\n"
        "def mistaken(context): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "words_app", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_the_command_line_says_them(shop, capsys):
    assert main(["show", "words_app.py:app", "report"]) == 0
    assert "At 09:00 on Monday through Friday, Europe/London" in capsys.readouterr().out
    assert main(["list", "words_app.py:app"]) == 0
    assert "0 9 * * MON-FRI Europe/London" in capsys.readouterr().out
    assert main(["list", "words_app.py:app", "--words"]) == 0
    out = capsys.readouterr().out
    assert "At 09:00 on Monday through Friday, Europe/London" in out
    assert "the sixth field is the seconds" in out
    assert main(["list", "words_app.py:app", "--json"]) == 0
    assert [json.loads(line)["in_words"][:5] for line in capsys.readouterr().out.splitlines()] == ["At 09", "Every"]
    assert main(["next", "words_app.py:app", "mistaken"]) == 0
    assert "'30 4 * * *' is at 04:30 every day" in capsys.readouterr().err
    assert main(["check", "words_app.py:app"]) == 0
    assert "'mistaken': Every second at minute 30 past hour 4, UTC (the sixth field is the seconds" in capsys.readouterr().out
    assert main(["next", "words_app.py:app", "report", "--words", "--to", "+7d", "--json"]) == 0
    assert all("Monday through Friday" in json.loads(line)["in_words"] for line in capsys.readouterr().out.splitlines())
