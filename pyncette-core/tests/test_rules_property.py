"""Rules, bounds and jitter against readings that share no code with them: dateutil itself, a clock that is looked at each minute, and sums.

More examples, chosen at random: ``SCHEDULE_EXAMPLES=20000 pytest ...``.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from time import process_time
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr
from hypothesis import assume, given
from hypothesis import strategies as st
from test_schedule_property import changing, few, fewer, instants, zones

from pyncette import FailureMode, Pyncette, ScheduleError
from pyncette.schedule import Bounded, Cron, Interval, RRule, Schedule, from_options, parse
from pyncette.testing import VirtualClock, running
from simulation.scripted import ScriptedStore

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WEEKDAYS = "MO TU WE TH FR SA SU".split()


def numbers(*among: int, most: int = 4) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(among), min_size=1, max_size=most, unique=True).map(lambda some: ",".join(map(str, some)))


def part(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """The part, or none."""
    return st.just([]) | values.map(lambda value: [f"{name}={value}"])


plain_days = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True).map(",".join)
nth_days = st.lists(
    st.tuples(st.sampled_from(["", "1", "2", "-1", "-2", "5"]), st.sampled_from(WEEKDAYS)).map("".join),
    min_size=1,
    max_size=3,
    unique=True,
).map(",".join)
months = part("BYMONTH", numbers(*range(1, 13)))
days_of_month = part("BYMONTHDAY", numbers(*range(1, 32), -1, -2, -15))
minute = part("BYMINUTE", numbers(0, 15, 30, 59))
hours = part("BYHOUR", numbers(*range(24)))
positions = part("BYSETPOS", numbers(1, 2, -1, -2, most=2))
interval = part("INTERVAL", st.integers(1, 5).map(str))
wkst = part("WKST", st.sampled_from(WEEKDAYS))


def ruled(frequency: str, *parts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda given: ";".join([f"FREQ={frequency}", *(each for some in given for each in some)]))


def with_position(rules: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(rules, positions).map(lambda pair: ";".join([pair[0], *(pair[1] if "BY" in pair[0] else [])]))


by_the_day = st.one_of(
    with_position(ruled("DAILY", interval, months, days_of_month, part("BYDAY", plain_days), hours, minute)),
    with_position(ruled("WEEKLY", interval, wkst, months, part("BYDAY", plain_days), hours, minute)),
    with_position(ruled("MONTHLY", interval, months, days_of_month, part("BYDAY", nth_days), hours)),
    with_position(ruled("YEARLY", interval, months, days_of_month, part("BYDAY", nth_days), hours)),
    ruled("YEARLY", interval, part("BYYEARDAY", numbers(1, 60, 100, 366, -1, -366))),
    ruled(
        "YEARLY",
        interval,
        wkst,
        numbers(1, 20, 52, 53, -1).map(lambda weeks: [f"BYWEEKNO={weeks}"]),
        plain_days.map(lambda days: [f"BYDAY={days}"]),
    ),
)
by_the_clock = st.one_of(
    ruled("HOURLY", part("INTERVAL", st.sampled_from("2346")), months, part("BYDAY", plain_days), hours, minute),
    ruled("MINUTELY", part("INTERVAL", st.sampled_from(["5", "20", "30", "120"])), part("BYDAY", plain_days), hours, minute),
    ruled("HOURLY", part("INTERVAL", st.sampled_from(["5", "7", "36"]))),
    ruled("MINUTELY", part("INTERVAL", st.sampled_from(["7", "45", "90", "1441"]))),
)
beginnings = st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)).map(lambda at: at.replace(microsecond=0))


def rule(text: str, start: datetime, zone: str = "UTC") -> RRule:
    try:
        return RRule(f"{text} DTSTART:{start:%Y%m%dT%H%M%S}", zone)
    except ScheduleError as error:
        assume("no time ever matches" not in str(error) and "parts can't be combined" not in str(error))
        raise


def ours(schedule: Schedule, last: datetime) -> Iterator[datetime]:
    found = schedule.next(last)
    while found is not None:
        yield found
        found = schedule.next(found)


@few
@given(text=by_the_day | by_the_clock, start=beginnings, later=st.timedeltas(-DAY, 1500 * DAY))
def test_agrees_with_dateutil_from_the_beginning_on(text: str, start: datetime, later: timedelta) -> None:
    schedule = rule(text, start)
    last = (start + later).replace(tzinfo=UTC)
    found = list(islice(ours(schedule, last), 4))
    if text.startswith("FREQ=MINUTELY"):
        last = min(last, start.replace(tzinfo=UTC) + 3 * DAY)  # dateutil goes through all that was before
        found = list(islice(ours(schedule, last), 4))
    end = max(found, default=last) + DAY
    reference = rrulestr(f"{text};UNTIL={end:%Y%m%dT%H%M%S}", dtstart=start)
    expected = [at.replace(tzinfo=UTC) for at in reference.between(last.replace(tzinfo=None), datetime(9999, 1, 1))]
    assert found == expected[: len(found)]
    assert len(found) == 4 or len(found) == len(expected)


def looked_at(matches: Callable[[datetime], bool], elapsed: bool, zone: str, last: datetime, until: datetime) -> list[datetime]:
    """What a clock shows that is looked at once a minute: the definition of the rules of daylight saving."""
    info, found = ZoneInfo(zone), []
    now = last.replace(second=0, microsecond=0) - DAY
    latest = now.astimezone(info).replace(tzinfo=None)
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


night = part("BYHOUR", numbers(0, 1, 2, 3, 23))
nightly = st.one_of(
    ruled("DAILY", night, minute),
    ruled("WEEKLY", part("BYDAY", plain_days), night, minute),
    ruled("MONTHLY", part("BYDAY", plain_days), night),
    ruled("HOURLY", part("INTERVAL", st.sampled_from("234")), night, minute),
    ruled("MINUTELY", st.sampled_from(["15", "20", "45"]).map(lambda number: [f"INTERVAL={number}"])),
)


@fewer
@given(text=nightly, where=changing())
def test_agrees_with_a_clock_around_a_change(text: str, where: tuple[str, datetime]) -> None:
    zone, last = where
    start = (last - 3 * DAY).replace(tzinfo=None, second=0, microsecond=0)
    until = last + 2 * DAY
    schedule = rule(text, start, zone)
    walls = set(rrulestr(f"{text};UNTIL={until + 3 * DAY:%Y%m%dT%H%M%S}", dtstart=start))
    elapsed = text.startswith(("FREQ=HOURLY", "FREQ=MINUTELY"))
    found = list(takewhile(lambda at: at <= until, ours(schedule, last)))
    assert found == looked_at(walls.__contains__, elapsed, zone, last, until)


@few
@given(
    text=by_the_day,
    start=beginnings,
    zone=zones,
    count=st.integers(1, 20),
    left_out=st.sets(st.integers(0, 25), max_size=4),
)
def test_counts_and_leaves_out_what_it_is_told(text: str, start: datetime, zone: str, count: int, left_out: set[int]) -> None:
    plain = rule(text, start, zone)
    begin = start.replace(tzinfo=UTC) - 2 * DAY
    occurrences = list(islice(ours(plain, begin), 25))
    assume(len(occurrences) == 25)
    excluded = [occurrences[index] for index in left_out if index < 25]
    expected = [at for at in occurrences[:count] if at not in excluded]
    assume(expected)
    text = f"{text};COUNT={count} DTSTART:{start:%Y%m%dT%H%M%S}"
    if excluded:
        # As the clock shows them; where it shows a time that is moved by a gap, nothing that matches is named.
        walls = [at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for at in excluded]
        assume(all(wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) == at for wall, at in zip(walls, excluded, strict=True)))
        assume(
            all(
                (wall.hour, wall.minute)
                in {(at.hour, at.minute) for at in islice(rrulestr(text.partition(";COUNT")[0], dtstart=start), 50)}
                for wall in walls
            )
        )
        text += " EXDATE:" + ",".join(f"{wall:%Y%m%dT%H%M%S}" for wall in walls)
    assert list(ours(RRule(text, zone), begin)) == expected


kinds = st.one_of(
    st.builds(Interval, st.timedeltas(SECOND, 40 * DAY)),
    st.sampled_from(["*/7 * * * *", "0 9 * * *", "30 1 * * *", "15,45 1-3 * * SUN", "0 0 1 * *"]).flatmap(
        lambda expression: zones.map(lambda zone: Cron(expression, zone))
    ),
    st.sampled_from(["FREQ=DAILY;BYHOUR=1;BYMINUTE=30", "FREQ=MINUTELY;INTERVAL=90", "FREQ=MONTHLY;BYDAY=-1SU"]).flatmap(
        lambda text: zones.map(lambda zone: RRule(text, zone))
    ),
)


@few
@given(
    plain=kinds,
    now=instants,
    start=st.none() | st.timedeltas(-40 * DAY, 40 * DAY),
    length=st.none() | st.timedeltas(timedelta(), 80 * DAY),
    jitter=st.timedeltas(timedelta(), 3 * DAY),
    skip=st.integers(0, 5),
)
def test_within_its_bounds_a_schedule_is_what_it_is_without(
    plain: Schedule, now: datetime, start: timedelta | None, length: timedelta | None, jitter: timedelta, skip: int
) -> None:
    start_at = None if start is None else now + start
    end_at = None if length is None else (start_at or now) + length
    schedule = Bounded(plain, jitter, start_at, end_at)
    first = schedule.first(now)
    found = [] if first is None else [first, *islice(ours(schedule, first), 5)]
    assert parse(schedule.text) == schedule or schedule == Bounded(plain)
    if isinstance(plain, Interval):
        origin, steps = (now, 1) if start_at is None else (start_at, max(0, -((start_at - now) // plain.duration)))
        if start_at is not None and start_at < now and (now - start_at) % plain.duration == timedelta():
            steps += 1
        unbounded = [origin + (steps + n) * plain.duration for n in range(6)]
    else:
        unbounded = list(
            islice(ours(plain, now if start_at is None or start_at <= now else start_at - timedelta(microseconds=1)), 6)
        )
    assert found == [at for at in unbounded if end_at is None or at <= end_at]
    key = ("dynamic:task", "name")
    for at in found:
        assert at <= schedule.execute_after(at, key) < at + max(jitter, timedelta(microseconds=1))
    if found:
        after = found[min(skip, len(found) - 1)]
        assert schedule.next_after(found[0], after) == (found[skip + 1] if skip + 1 < len(found) else schedule.next(after))


@st.composite
def options(draw: st.DrawFn) -> dict[str, object]:
    """A schedule of some minutes with whatever narrows it down, as a user gives it."""
    clock = VirtualClock().now()
    given: dict[str, object] = draw(
        st.sampled_from(
            [
                {"schedule": "*/2 * * * *"},
                {"interval": 50 * SECOND},
                {"rrule": "FREQ=MINUTELY;INTERVAL=3"},
                {"schedule": "H(0-3)/2 * * * *"},
            ]
        )
    )
    more = {
        "jitter": st.timedeltas(SECOND, 70 * SECOND),
        "start_at": st.timedeltas(-3 * MINUTE, 3 * MINUTE).map(lambda later: clock + later),
        "end_at": st.timedeltas(4 * MINUTE, 9 * MINUTE).map(lambda later: clock + later),
        "max_runs": st.integers(1, 4),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(more))))
    return given | {option: draw(more[option]) for option in sorted(chosen)}


@fewer
@given(
    options=options(),
    fast_forward=st.booleans(),
    failing=st.sets(st.integers(0, 12)),
    down=st.tuples(st.integers(0, 420), st.integers(5, 230)),  # and a minute is left to catch up
)
def test_through_the_engine_nothing_is_early_or_twice_and_nothing_lost(
    options: dict[str, object], fast_forward: bool, failing: set[int], down: tuple[int, int]
) -> None:
    """With failures, and with a while in which nobody runs. Only ``fast_forward`` may leave something out."""
    clock = VirtualClock()
    begin, end = clock.now(), clock.now() + 12 * MINUTE
    runs: list[tuple[datetime, datetime]] = []
    attempts = 0

    store = ScriptedStore()

    def application() -> Pyncette:
        app = Pyncette(repository_factory=store.open, clock=clock, poll_interval=5 * SECOND)

        async def template(context):
            nonlocal attempts
            attempts += 1
            if attempts in failing:
                raise ValueError
            runs.append((context.scheduled_at, clock.now()))

        app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=SECOND, fast_forward=fast_forward)(template)
        return app

    async def main() -> None:
        app = application()
        async with running(app) as context:
            await context.schedule_task(app.tasks[0], "a", **options)
            await clock.advance(down[0] * SECOND)
        await clock.advance(down[1] * SECOND)
        app = application()
        async with running(app) as context:
            with suppress(ScheduleError):  # it is over; what is stored of it stays
                await context.schedule_task(app.tasks[0], "a", **options)
            await clock.advance(end - clock.now())

    schedule = from_options(**options, name="a")
    first = schedule.first(begin)
    assume(first is not None)
    expected = [first, *takewhile(lambda at: at < end, ours(schedule, first))][: options.get("max_runs")]
    # A program that schedules it again after it has ended starts over; that is another story.
    assume(expected[-1] + 3 * MINUTE > end or expected[-1] > begin + sum(down) * SECOND)
    clock.run(main())
    occurrences = [at for at, _ in runs]
    key = ("dynamic:template", "a")
    assert all(ran >= schedule.execute_after(at, key) for at, ran in runs)
    assert occurrences == sorted(set(occurrences))
    if fast_forward:
        limit = options.get("max_runs")
        assert set(occurrences) <= set(
            takewhile(lambda at: at < end, [first, *takewhile(lambda at: at < end, ours(schedule, first))])
        )
        assert limit is None or len(occurrences) <= limit
    else:
        due = [at for at in expected if schedule.execute_after(at, key) + 30 * SECOND < end]
        assert occurrences[: len(due)] == due
        assert occurrences == expected[: len(occurrences)]


hostile_rules = st.tuples(
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]),
    st.sampled_from(["", "INTERVAL=7", "INTERVAL=100000", "INTERVAL=97", "INTERVAL=24"]),
    st.sampled_from(["", "BYMONTH=2", "BYMONTH=2,4,6"]),
    st.sampled_from(["", "BYMONTHDAY=30", "BYMONTHDAY=29", "BYMONTHDAY=31,-31"]),
    st.sampled_from(["", "BYDAY=FR", "BYDAY=5MO", "BYDAY=53SU"]),
    st.sampled_from(["", "BYYEARDAY=366", "BYWEEKNO=53", "BYSETPOS=366", "BYSETPOS=-300"]),
    st.sampled_from(["", "BYHOUR=" + ",".join(map(str, range(24)))]),
    st.sampled_from(["", "BYMINUTE=" + ",".join(map(str, range(60)))]),
    st.sampled_from(["", "BYSECOND=59", "BYSECOND=" + ",".join(map(str, range(60)))]),
    st.sampled_from(["", "COUNT=5000", "UNTIL=99991231", "UNTIL=19700101"]),
).map(lambda parts: f"FREQ={parts[0]};" + ";".join(each for each in parts[1:] if each))


@fewer
@given(text=hostile_rules, start=st.sampled_from(["", " DTSTART:20260228T000000", " DTSTART:00100101", " DTSTART:99901231"]))
def test_no_rule_asks_for_more_than_bounded_work(text: str, start: str) -> None:
    begun = process_time()
    try:
        schedule = RRule(text + start)
    except ScheduleError as error:
        assert "\n" not in str(error)
    else:
        last = datetime(2026, 11, 26, tzinfo=UTC)
        for last in islice(ours(schedule, last), 3):
            pass
    assert process_time() - begun < 3
