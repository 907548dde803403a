"""Schedules as sentences."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache

from pyncette.schedules.bounds import Bounded
from pyncette.schedules.cron import plain_fields
from pyncette.schedules.kinds import Cron, Extra, Interval, Once, Schedule
from pyncette.schedules.rules import RRule
from pyncette.schedules.rulewords import Words, read_words

__all__ = ["has_seconds_unawares", "in_words"]

_UNITS = (
    ("day", timedelta(days=1)),
    ("hour", timedelta(hours=1)),
    ("minute", timedelta(minutes=1)),
    ("second", timedelta(seconds=1)),
)
_PERIODS = {"YEARLY": "year", "MONTHLY": "month", "WEEKLY": "week", "DAILY": "day", "HOURLY": "hour", "MINUTELY": "minute"}
_DAYS = dict(
    zip(
        ("MO", "TU", "WE", "TH", "FR", "SA", "SU"),
        ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
        strict=True,
    )
)
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}


def in_words(schedule: Schedule) -> str:
    """``schedule`` as a sentence, with its time zone and its bounds: ``At 09:00 on Monday through Friday, Europe/London``.

    Parts without a known wording stay as they were written.
    """
    plain, zone = schedule.plain, schedule.timezone
    if isinstance(plain, Cron):
        words = _cron(plain.expression, zone)
    elif isinstance(plain, RRule):
        words = f"{_rule(plain.expression, zone)}, {zone}"
    elif isinstance(plain, Interval):
        words = f"Every {_duration(plain.duration, every=True)}"
    elif isinstance(plain, Once):
        words = f"Once, at {_instant(plain.at, schedule)}"
    else:
        words = f"Once, {plain.kind}" if isinstance(plain, Extra) else schedule.text
    return words + "".join(f", {bound}" for bound in _bounds(schedule))


def _bounds(schedule: Schedule) -> Iterator[str]:
    if schedule.start_at is not None:
        yield f"from {_instant(schedule.start_at, schedule)} on"
    if schedule.end_at is not None:
        yield f"until {_instant(schedule.end_at, schedule)}"
    if schedule.max_runs is not None:
        yield "a single time" if schedule.max_runs == 1 else f"{schedule.max_runs} times"
    if isinstance(schedule, Bounded) and schedule.jitter:
        yield f"each up to {_duration(schedule.jitter)} later"


def _instant(instant: datetime, schedule: Schedule) -> str:
    try:
        instant = instant.astimezone(schedule.zone)
    except (OverflowError, ValueError):  # at one of the ends of the calendar
        return instant.isoformat(sep=" ")
    return f"{instant.replace(tzinfo=None).isoformat(sep=' ')} {schedule.timezone}"


def _duration(duration: timedelta, *, every: bool = False) -> str:
    """``every``: the form after that word, without a single 1."""
    parts, left = [], duration
    for unit, length in _UNITS:
        if unit == "second":
            number = left / length
            count = f"{number:.6f}".rstrip("0").rstrip(".")
        else:
            number, left = divmod(left, length)
            count = str(number)
        if number:
            parts.append(f"{count} {unit}{'' if count == '1' else 's'}")
    if every and len(parts) == 1:
        return parts[0].removeprefix("1 ")
    return _listed(parts)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# --- cron ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _cron(expression: str, zone: str) -> str:
    fields = plain_fields(expression)
    words = _explained(fields)
    if words is None:
        return f"{expression}, {zone}"
    words = f"{words}, {zone}"
    if _has_seconds_unawares(fields):
        words += (
            f" (the sixth field is the seconds: '{' '.join(fields[:5])}' is {_lowered(_explained(fields[:5]) or 'once a minute')})"
        )
    return words


def has_seconds_unawares(schedule: Schedule) -> bool:
    """Whether it occurs many times within one minute, as if the author took the first of six fields for the seconds."""
    return isinstance(schedule.plain, Cron) and _has_seconds_unawares(plain_fields(schedule.plain.expression))


def _has_seconds_unawares(fields: list[str]) -> bool:
    return len(fields) == 6 and fields[5].startswith("*") and not fields[0].startswith("*")


def _explained(fields: list[str]) -> str | None:
    """``fields`` in cronsim's words, with the seconds first; None if cronsim has none."""
    from cronsim import CronSim, CronSimError  # imported here because few callers need it

    second = [] if fields[5:] in ([], ["0"]) else [fields[5]]
    try:
        return CronSim(" ".join([*second, *fields[:5]]), datetime(2000, 1, 1)).explain()  # noqa: DTZ001 - on the clock
    except (CronSimError, ValueError, LookupError):
        return None


def _lowered(words: str) -> str:
    return words[:1].lower() + words[1:]


# --- recurrence rules ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _rule(expression: str, timezone: str) -> str:
    rule = read_words(expression, RRule(expression, timezone).zone, timezone)
    period = _PERIODS[rule.frequency]
    words = f"Every {period}" if rule.interval == 1 else f"Every {rule.interval} {period}s"
    numbers = dict(rule.numbers)
    if months := numbers.pop("BYMONTH", ()):
        words += f" in {_listed([_MONTHS[month - 1] for month in months])}"
    if rule.weekdays:
        words += f" on {_listed([_weekday(*each) for each in rule.weekdays])}"
    if days := numbers.pop("BYMONTHDAY", ()):
        words += f" on {_listed([_day(day) for day in days])} of the month"
    words += _times(rule, numbers)
    # Parts without plain words are shown as they are written.
    words += "".join(f", {name}={','.join(map(str, values))}" for name, values in numbers.items() if values)
    if rule.count is not None:
        words += f", {rule.count} time{'' if rule.count == 1 else 's'}"
    if rule.until is not None:
        words += f", until {rule.until.replace(tzinfo=None).isoformat(sep=' ')}"
    if rule.excluded:
        words += f", except {_listed(sorted(str(each) for each in rule.excluded))}"
    return words


def _times(rule: Words, numbers: dict[str, tuple[int, ...]]) -> str:
    hours, minutes, seconds = (numbers.pop(name, ()) for name in ("BYHOUR", "BYMINUTE", "BYSECOND"))
    if rule.frequency in ("HOURLY", "MINUTELY"):
        told = (("hour", hours), ("minute", minutes), ("second", seconds))
        return "".join(f" at {name} {_listed(list(map(str, values)))}" for name, values in told if values)
    start = rule.start
    hours = hours or ((start.hour,) if start else (0,))
    minutes = minutes or ((start.minute,) if start else (0,))
    seconds = seconds or ((start.second,) if start else (0,))
    if len(hours) * len(minutes) * len(seconds) > 4:
        told = (("hour", hours), ("minute", minutes), ("second", seconds))
        return "".join(f" at {name} {_listed(list(map(str, values)))}" for name, values in told)
    second = "" if seconds == (0,) else ":{:02d}"
    return f" at {_listed([f'{h:02d}:{m:02d}{second.format(s)}' for h in hours for m in minutes for s in seconds])}"


def _weekday(number: int, day: str) -> str:
    if number == 0:
        return _DAYS[day]
    which = _ORDINALS.get(abs(number), f"{abs(number)}{_SUFFIXES.get(abs(number) % 10, 'th') if abs(number) > 20 else 'th'}")
    if number > 0:
        return f"the {which} {_DAYS[day]}"
    return f"the last {_DAYS[day]}" if number == -1 else f"the {which} {_DAYS[day]} from the end"


def _day(day: int) -> str:
    return f"day {day}" if day > 0 else "the last day" if day == -1 else f"day {-day} from the end"
