"""The options of ``pyncette reschedule`` for the new schedule."""

import argparse
import re
from datetime import datetime, timedelta
from typing import Any

from pyncette.cli.arguments import zone
from pyncette.cli.upcoming import Moment, duration, instant_meant, parse_moment

__all__ = ["add_schedule_options", "schedule_options"]

_DURATION = re.compile(r"(\d{1,9})([smhdw])")


def add_schedule_options(parser: argparse.ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--schedule", metavar="CRON", help="a cron expression")
    way.add_argument("--interval", type=_duration, metavar="DURATION", help="such as 90m (s, m, h, d or w)")
    way.add_argument("--at", type=parse_moment, metavar="INSTANT", help="once: 2026-07-01T09:00, the same with an offset, or +2h")
    way.add_argument("--rrule", metavar="RULE", help="a recurrence rule, such as 'FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17'")
    parser.add_argument("--timezone", metavar="ZONE", help="the time zone of the schedule (default: the present one)")
    parser.add_argument("--jitter", type=_duration, metavar="DURATION", help="delay each run by a fixed part of this")
    parser.add_argument("--start-at", type=parse_moment, metavar="INSTANT", help="not before that")
    parser.add_argument("--end-at", type=parse_moment, metavar="INSTANT", help="not after that")
    parser.add_argument("--max-runs", type=int, metavar="NUMBER", help="remove it after this many runs")


def schedule_options(arguments: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """The given options, as arguments of ``reschedule_task()``."""
    local = zone(arguments.timezone or "UTC")

    def instant(moment: Moment | None) -> datetime | None:
        return None if moment is None else instant_meant(moment, now, local)

    return {
        "schedule": arguments.schedule,
        "interval": arguments.interval,
        "execute_at": instant(arguments.at),
        "rrule": arguments.rrule,
        "timezone": arguments.timezone,
        "jitter": arguments.jitter,
        "start_at": instant(arguments.start_at),
        "end_at": instant(arguments.end_at),
        "max_runs": arguments.max_runs,
    }


def _duration(text: str) -> timedelta:
    parts = _DURATION.fullmatch(text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90s, 5m, 12h, 2d or 1w")
    return duration(parts[1], parts[2])
