"""Schedules against two references that share no code with them.

``cronsim`` is an independent engine that follows Debian's cron. ``simulate`` is the definition of the rules of daylight
saving, acted out minute by minute. More examples, chosen at random: ``SCHEDULE_EXAMPLES=20000 pytest ...``.
"""

import os
import zoneinfo
from calendar import monthrange
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any

import pytest
from croniter import croniter
from cronsim import CronSim
from dateutil import tz
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pyncette.schedules.cron as cron_module
from pyncette.errors import ScheduleError
from pyncette.schedule import Cron, Interval, Once, Schedule, parse
from pyncette.schedules.cron import Calendar

EXAMPLES = int(os.environ.get("SCHEDULE_EXAMPLES", "0"))
few = settings(max_examples=EXAMPLES or 100, derandomize=not EXAMPLES, deadline=None)
fewer = settings(few, max_examples=EXAMPLES or 40)

MINUTE = timedelta(minutes=1)
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
WEEKDAYS = "SUN MON TUE WED THU FRI SAT".split()

# Half an hour; a whole day skipped; clocks that change at midnight; winter time that is the exception; changes for
# Ramadan; a change of the standard offset without daylight saving.
RESTLESS = [
    "Europe/London",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Beirut",
    "Africa/Cairo",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Asia/Pyongyang",
    "Europe/Istanbul",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Tehran",
]
ZONES = sorted(name for name in zoneinfo.available_timezones() if name[0].isupper())

zones = st.sampled_from(RESTLESS) | st.sampled_from(ZONES)
instants = st.datetimes(datetime(1980, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


@cache
def changes(zone: str) -> list[datetime]:
    """The instants, to the minute, at which the offset of a zone changes, as far as three occurrences may lie ahead."""
    info = zoneinfo.ZoneInfo(zone)
    found = []
    low = datetime(1980, 1, 1, tzinfo=UTC)
    offset = low.astimezone(info).utcoffset()
    while low.year < 2140:
        high = low + timedelta(days=7)
        if (after := high.astimezone(info).utcoffset()) != offset:
            start, end = low, high
            while end - start > MINUTE:
                middle = start + (end - start) // 2
                start, end = (middle, end) if middle.astimezone(info).utcoffset() == offset else (start, middle)
            found.append(end.replace(second=0, microsecond=0))
        low, offset = high, after
    return found


@st.composite
def changing(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and an instant within a day and a half of a change of its clock."""
    zone = draw(zones)
    assume(changes(zone) and changes(zone)[0].year < 2060)
    change = draw(st.sampled_from([change for change in changes(zone) if change.year < 2060]))
    before = draw(st.sampled_from([0, 1, 30, 60, 61, 90, 120, 600]) | st.integers(-2160, 2160))
    return zone, change - before * MINUTE + timedelta(microseconds=draw(st.sampled_from([-1, 0, 1])))


def field(low: int, high: int, names: list[str] | None = None) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    if names:
        number |= st.sampled_from(names)

    def value(text: str) -> int:
        return names.index(text) + low if names and text in names else int(text)

    pairs = st.tuples(number, number).filter(lambda pair: value(pair[0]) < value(pair[1])).map("-".join)
    step = st.integers(1, high + 2).map(str)
    stepped = [st.just("*"), pairs] + ([] if names is WEEKDAYS else [number])
    term = number | pairs | st.tuples(st.one_of(*stepped), step).map("/".join)
    return st.just("*") | term | st.lists(term, min_size=2, max_size=4).map(",".join)


minutes, hours, months = field(0, 59), field(0, 23), field(1, 12, MONTHS)
early = field(0, 4)  # most clocks change in the small hours
days = field(1, 31) | st.sampled_from(["L", "1,L", "29", "31", "30,31"])
weekdays = field(0, 7, WEEKDAYS) | st.sampled_from(["5L", "0L", "7L", "MON#1", "7#5", "1#1,3#2", "2,5L", "MON-FRI,0#2"])
often = st.just("*")
expressions = st.tuples(minutes, hours | early, often | often | days, often | often | months, often | often | weekdays).map(
    " ".join
)
daily = st.tuples(minutes, hours | early | early, st.just("* * *")).map(" ".join)


def cron(expression: str, zone: str) -> Cron:
    try:
        return Cron(expression, zone)
    except ValueError:
        assume(False)
        raise


def cronsim_stumbles(expression: str, zone: str, last: datetime, results: list[datetime]) -> bool:
    """Whether cronsim may miss the definition (``simulate``), as it does for some expressions that follow elapsed time.

    It goes by the hour from where it is: after a change by half an hour, or at one minute past, it misses a part of the
    next hour that matches. And it begins a day at 00:00 even where the clock skips that.
    """
    if not any(part.startswith("*") for part in expression.split()[:2]):
        return False
    info = zoneinfo.ZoneInfo(zone)
    for change in changes(zone):
        if last - timedelta(days=1) < change < max(results, default=last) + timedelta(days=1):
            before, after = ((change + n * MINUTE).astimezone(info).replace(tzinfo=None) for n in (-1, 0))
            if after.minute or (before + MINUTE).minute or before.date() != after.date():
                return True
    return False


def by_cronsim(expression: str, zone: str, last: datetime) -> Iterator[datetime]:
    parts = expression.split()
    seconds_first = " ".join(parts[5:] + parts[:5])
    for found in CronSim(seconds_first, last.astimezone(zoneinfo.ZoneInfo(zone))):
        if found.astimezone(UTC) > last:
            yield found.astimezone(UTC)


def ours(schedule: Schedule, last: datetime) -> Iterator[datetime]:
    found = schedule.next(last)
    while found is not None:
        yield found
        found = schedule.next(found)


def simulate(expression: str, zone: str, last: datetime, until: datetime) -> list[datetime]:
    """Look at the clock once a minute, as a cron daemon does."""
    info = zoneinfo.ZoneInfo(zone)
    rule = CronSim(expression, datetime(2000, 1, 1))
    elapsed = any(part.startswith("*") for part in expression.split()[:2])

    def matches(wall: datetime) -> bool:
        return wall.minute in rule.minutes and wall.hour in rule.hours and wall.month in rule.months and rule.match_day(wall.date())

    found = []
    now = last.replace(second=0, microsecond=0) - timedelta(days=1)
    latest = now.astimezone(info).replace(tzinfo=None)  # what the clock has shown so far
    while now + MINUTE <= until:
        now += MINUTE
        wall = now.astimezone(info).replace(tzinfo=None)
        if elapsed:
            due = matches(wall)
        else:
            due = any(matches(latest + n * MINUTE) for n in range(1, (wall - latest) // MINUTE + 1))
            latest = max(latest, wall)
        if due and now > last:
            found.append(now)
    return found


@few
@given(expression=expressions, zone=zones, last=instants)
def test_agrees_with_cronsim_at_any_time(expression: str, zone: str, last: datetime) -> None:
    found = list(islice(ours(cron(expression, zone), last), 3))
    assume(not cronsim_stumbles(expression, zone, last, found))
    assert found == list(islice(by_cronsim(expression, zone, last), 3))


@few
@given(expression=expressions, where=changing())
def test_agrees_with_cronsim_around_a_change_of_the_clock(expression: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    found = list(islice(ours(cron(expression, zone), last), 3))
    assume(not cronsim_stumbles(expression, zone, last, found))
    assert found == list(islice(by_cronsim(expression, zone, last), 3))


@few
@given(expression=expressions, seconds=field(0, 59), where=changing())
def test_agrees_with_cronsim_on_seconds(expression: str, seconds: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    if not any(part.startswith("*") for part in expression.split()[:2]):
        zone = "UTC"  # with seconds, cronsim lets a time of the day follow elapsed time too
    found = list(islice(ours(cron(f"{expression} {seconds}", zone), last), 3))
    assume(not cronsim_stumbles(expression, zone, last, found))
    assert found == list(islice(by_cronsim(f"{expression} {seconds}", zone, last), 3))


@fewer
@given(expression=daily, where=changing())
def test_agrees_with_the_definition_around_a_change_of_the_clock(expression: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    until = last + timedelta(days=2)
    found = []
    for instant in ours(cron(expression, zone), last):
        if instant > until:
            break
        found.append(instant)
    assert found == simulate(expression, zone, last, until)


schedules = st.one_of(
    st.builds(cron, expressions, zones),
    st.builds(Interval, st.timedeltas(timedelta(microseconds=1), timedelta(days=4000)), zones),
    st.builds(Once, instants, zones, st.text("0123456789abcdefXYZ_+/=.:-")),
)


@few
@given(schedule=schedules)
def test_text_gives_the_schedule_back(schedule: Schedule) -> None:
    assert parse(schedule.text) == schedule
    assert parse(schedule.text).text == schedule.text


@few
@given(text=st.text("crointevalc 0123456789*/-,#@LUTC.:Z+") | st.text())
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        assert parse(text).text == text
    except ScheduleError:
        pass


@few
@given(expression=expressions, where=changing())
def test_next_is_later(expression: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    for found in islice(ours(cron(expression, zone), last), 20):
        assert found > last
        assert found.microsecond == 0
        last = found


@few
@given(expression=expressions, where=changing())
def test_nothing_is_between_two_occurrences(expression: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    schedule = cron(expression, zone)
    found = schedule.next(last)
    assert found is not None
    for instant in (last + (found - last) / 2, found - timedelta(microseconds=1), last + timedelta(microseconds=1)):
        if last <= instant < found:
            assert schedule.next(instant) == found


@few
@given(schedule=schedules, where=changing(), late=st.timedeltas(timedelta(days=-2), timedelta(days=2)))
def test_fast_forward_is_next_repeated_until_after_now(schedule: Schedule, where: tuple[str, datetime], late: timedelta) -> None:
    _, last = where
    if isinstance(schedule, Interval):
        assume(abs(late) / schedule.duration < 3000)
    now = last + late
    expected = schedule.next(last)
    while expected is not None and expected <= now:
        expected = schedule.next(expected)
    assert schedule.next_after(last, now) == expected


class Work:
    """Counts what costs time: steps of croniter, of the calendar, and what a clock is asked to show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for owner, name in (
            (croniter, "get_next"),
            (croniter, "__init__"),
            (Calendar, "after"),
            (tz.tzrange, "utcoffset"),
            (zoneinfo, "ZoneInfo"),
            (cron_module, "monthrange"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return original(*args, **kwargs)

        return counted


NTH = [f"{day}#{nth}" for day in [*range(8), *WEEKDAYS] for nth in range(1, 6)]
LAST = [f"{day}L" for day in range(8)] + [f"L{day}" for day in range(8)]


def hostile(low: int, high: int, terms: list[str]) -> st.SearchStrategy[str]:
    """A field that takes the most work that a text can ask for: stars, everything in a range, long lists, things said again."""
    wide = ["*", f"{low}-{high}", f"*/{high}", f"{low}-{high}/{high}", f"*/{high - 1}", str(high), *terms]
    return st.sampled_from(wide) | st.lists(st.sampled_from(wide), max_size=40).map(lambda few: ",".join([*few, wide[-1]]))


hostile_expressions = st.tuples(
    hostile(0, 59, []),
    hostile(0, 23, []),
    hostile(1, 31, ["L", "29", "30", "*/29"]),
    hostile(1, 12, ["2", "FEB"]),
    hostile(0, 7, [*NTH, *LAST]),
    hostile(0, 59, []) | st.none(),
).map(lambda fields: " ".join(field for field in fields if field is not None))

hours_and_minutes = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda pair: f"{pair[0]}:{pair[1]:02}")
offset = st.tuples(st.sampled_from("+-"), hours_and_minutes | st.integers(0, 30).map(str)).map("".join)
change_of_clock = st.tuples(
    st.integers(1, 366).map("J{}".format)
    | st.integers(0, 366).map(str)
    | st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(0, 6)).map(lambda rule: "M{}.{}.{}".format(*rule)),
    st.just("") | st.integers(0, 99).map("/{}".format) | hours_and_minutes.map("/{}".format),
).map("".join)
hostile_zones = st.builds(
    "{}{}EDT{},{},{}".format, st.sampled_from(["ABC", "UTC"]), offset, offset | st.just(""), change_of_clock, change_of_clock
)


@few
@given(
    expression=hostile_expressions,
    zone=hostile_zones | st.just("Europe/London"),
    change=st.integers(0, 1),
    seconds=st.integers(-72 * 3600, 72 * 3600),
    year=st.sampled_from([10, 2026, 2028, 2096, 9990]),
)
def test_no_text_asks_for_more_than_little_work(expression: str, zone: str, change: int, seconds: int, year: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        work = Work(monkeypatch)
        try:
            schedule = Cron(expression, zone)
        except ScheduleError:
            assert work.count < 500
            return
        assert work.count < 500
        rules = schedule.zone
        near = rules.transitions(year)[change] if isinstance(rules, tz.tzrange) else datetime(year, 3, 29)
        last = near.replace(tzinfo=UTC) + timedelta(seconds=seconds)
        for _ in range(3):
            work.count = 0
            found = schedule.next(last)
            assert work.count < 8000  # of some microseconds each
            if found is None:
                break
            assert found > last
            last = found


ZONE_PIECES = [
    "EST",
    "EDT",
    "UTC",
    "A",
    "J60",
    "300",
    "4",
    "+5",
    "-5",
    "05:30",
    "60",
    ":",
    ",",
    "M3.2.0",
    "/2",
    "/02:00",
    ";",
    ".",
    " ",
]


@few
@given(
    text=st.text("0123456789*/-,#?L MONTUEFB") | st.text("0123456789*/-,#?L ", min_size=900) | st.text(),
    zone=st.lists(st.sampled_from(ZONE_PIECES), max_size=7).map("".join) | st.text(),
)
def test_any_expression_and_any_zone_is_read_or_refused_in_one_short_line(text: str, zone: str) -> None:
    for expression, name in ((text, "UTC"), ("@daily", zone)):
        try:
            schedule = Cron(expression, name)
        except ScheduleError as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 500
            assert message[0].isupper()
        else:
            assert parse(schedule.text) == schedule
            schedule.next(datetime(2026, 1, 1, tzinfo=UTC))


@few
@given(expression=hostile_expressions, start=st.dates(date(1990, 1, 1), date(2090, 1, 1)))
def test_days_are_those_that_the_fields_name(expression: str, start: date) -> None:
    """Day by day, with the fields read by the words of the documentation."""
    _, _, day, month, weekday, *_ = expression.split()

    def plain(term: str, low: int, high: int) -> set[int]:
        name, _, step = term.partition("/")
        ends = [low, high] if name == "*" else [int(MONTHS.index(end) + 1 if end in MONTHS else end) for end in name.split("-")]
        return set(range(ends[0], ends[-1] + 1, int(step or 1)))

    def matches(on: date) -> bool:
        last = monthrange(on.year, on.month)[1]
        number = on.isoweekday() % 7
        by_day = any(on.day == last if term == "L" else on.day in plain(term, 1, 31) for term in day.split(","))

        def by_weekday(term: str) -> bool:
            if "#" in term:
                name, nth = term.split("#")
                named = WEEKDAYS.index(name) if name in WEEKDAYS else int(name) % 7
                return number == named and (on.day - 1) // 7 + 1 == int(nth)
            if "L" in term:
                return number == int(term.strip("L")) % 7 and on.day + 7 > last
            high = 6 if term.startswith("*") else 7
            return number in {value % 7 for value in plain(term, 0, high)}

        days = [by_day, any(by_weekday(term) for term in weekday.split(","))]
        both = day.startswith("*") or weekday.startswith("*")
        return on.month in {m for term in month.split(",") for m in plain(term, 1, 12)} and (all(days) if both else any(days))

    schedule = cron(f"0 0 {day} {month} {weekday}", "UTC")
    midnight = datetime.combine(start, datetime.min.time(), tzinfo=UTC)
    found = schedule.next(midnight)
    assert found is not None
    following = (start + timedelta(days=n) for n in range(1, 400))
    expected = next((on for on in following if matches(on)), None)
    if expected is None:
        assert found.date() > start + timedelta(days=399)
    else:
        assert found.date() == expected
