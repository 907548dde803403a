"""Where a schedule begins and ends, how its runs are spread, and what becomes of that in the engine."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, ExecutionMode, FailureMode, Instance, ScheduleError
from pyncette.extra import occurrences
from pyncette.moving import move
from pyncette.repository import Key, Registration, State, Target
from pyncette.schedule import Bounded, Cron, Interval, from_options, parse, spread
from pyncette.testing import running

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def seconds(instant):
    return (instant - START).total_seconds()


@pytest.fixture
def runs():
    return []


@pytest.fixture
def template(app, clock, runs):
    """A template whose body remembers (name, seconds of scheduled_at, seconds at which it began)."""

    async def template(context):
        runs.append((context.name, seconds(context.scheduled_at), seconds(clock.now())))

    return app.dynamic_task()(template)


class TestText:
    """Pinned: the text is stored, and has to be the same in every release."""

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"schedule": "0 9 * * *", "timezone": "Europe/London", "jitter": 30 * SECOND},
                "cron 0 9 * * * @Europe/London jitter=30",
            ),
            ({"interval": MINUTE, "jitter": timedelta(milliseconds=1)}, "interval 60 @UTC jitter=0.001"),
            ({"interval": MINUTE, "start_at": START}, "interval 60 @UTC start=2026-01-01T00:00:00.000000Z"),
            (
                {"interval": MINUTE, "jitter": SECOND, "start_at": START, "end_at": START + DAY, "max_runs": 5},
                "interval 60 @UTC jitter=1 start=2026-01-01T00:00:00.000000Z end=2026-01-02T00:00:00.000000Z runs=5",
            ),
            (
                {"execute_at": START, "jitter": HOUR, "digest": "0123abcd"},
                "once 2026-01-01T00:00:00.000000Z @UTC #0123abcd jitter=3600",
            ),
            ({"rrule": "BYHOUR=17;freq=monthly;BYDAY=-1fr"}, "rrule FREQ=MONTHLY;BYHOUR=17;BYDAY=-1FR @UTC"),
            (
                {
                    "rrule": "DTSTART;TZID=Europe/London:20260101T090000\nRRULE:FREQ=DAILY;INTERVAL=1;UNTIL=20260301;WKST=MO;BYHOUR=10,9\n"
                    "EXDATE:20260105T090000Z,20260104"
                },
                "rrule FREQ=DAILY;UNTIL=20260301T235959;BYHOUR=9,10 DTSTART:20260101T090000 EXDATE:20260104,20260105T090000 @Europe/London",
            ),
            ({"rrule": "FREQ=DAILY", "max_runs": 1, "timezone": "UTC+2"}, "rrule FREQ=DAILY @UTC+2 runs=1"),
            ({"schedule": "H H * * *", "name": "ada"}, "cron 1 22 * * * @UTC"),
            ({"schedule": "h(0-29)/10 H/6 H(1-7) h h h", "name": "ada"}, "cron 1-29/10 4-23/6 4 6 3 20 @UTC"),
        ],
    )
    def test_is_canonical_and_gives_the_schedule_back(self, options, text):
        schedule = from_options(**options)
        assert schedule.text == text
        assert parse(text) == schedule

    @pytest.mark.parametrize(
        "text",
        [
            "interval 60 @UTC jitter=0",
            "interval 60 @UTC jitter=1.0",
            "interval 60 @UTC jitter=-1",
            "interval 60 @UTC jitter=1 jitter=1",
            "interval 60 @UTC runs=5 jitter=1",
            "interval 60 @UTC runs=0",
            "interval 60 @UTC runs=05",
            "interval 60 @UTC start=2026-13-01T00:00:00.000000Z",
            "interval 60 @UTC start=2026-01-02T00:00:00.000000Z end=2026-01-01T00:00:00.000000Z",
            "once 2026-01-01T00:00:00.000000Z @UTC runs=2",
            "rrule freq=daily @UTC",
            "rrule FREQ=DAILY;INTERVAL=1 @UTC",
            "rrule FREQ=DAILY",
            "cron H H * * * @UTC",
        ],
    )
    def test_what_is_not_canonical_is_refused(self, text):
        with pytest.raises(ScheduleError, match="can't be read"):
            parse(text)

    def test_no_jitter_is_as_if_there_were_none_said(self):
        assert from_options(interval=MINUTE, jitter=timedelta()) == Interval(MINUTE)

    def test_names_of_extra_runs_may_look_like_bounds(self):
        assert parse("trigger @UTC a jitter=30").origin == "a jitter=30"


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"jitter": 30}, "The jitter must be a timedelta"),
            ({"jitter": -SECOND}, "The jitter must be from zero"),
            ({"jitter": timedelta(days=40_000)}, "The jitter must be from zero"),
            ({"start_at": "tomorrow"}, "The instant start_at must be a datetime"),
            ({"end_at": 5}, "The instant end_at must be a datetime"),
            ({"start_at": START, "end_at": START - SECOND}, "before it starts"),
            ({"max_runs": 0}, "max_runs must be a whole number of at least 1, not 0"),
            ({"max_runs": True}, "max_runs must be a whole number"),
            ({"max_runs": 2.0}, "max_runs must be a whole number"),
            ({"end_at": START}, "nothing would ever run"),
        ],
    )
    def test_what_makes_no_sense(self, app, clock, template, options, message):
        async def schedule():
            async with running(app) as context:
                await clock.advance(10 * MINUTE)
                with pytest.raises(ScheduleError, match=message) as caught:
                    await context.schedule_task(template, "a", interval=MINUTE, **options)
                assert "\n" not in str(caught.value)

        clock.run(schedule())

    def test_an_instant_has_no_bounds(self):
        with pytest.raises(ScheduleError, match="since it occurs once"):
            from_options(execute_at=START, max_runs=1)

    def test_in_code_runs_are_not_counted(self, app):
        with pytest.raises(ConfigurationError, match="use end_at="):
            app.task(interval=MINUTE, max_runs=3)

    def test_a_template_has_no_jitter_of_its_own(self, app):
        with pytest.raises(ConfigurationError, match="pass it to schedule_task"):
            app.dynamic_task(jitter=MINUTE)

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ("H(5) * * * *", "is not understood"),
            ("H(20-10) * * * *", "its range must go up"),
            ("H(0-60) * * * *", "its range must go up, within 0-59"),
            ("H/0 * * * *", "its step must be from 1 to 60"),
            ("H/61 * * * *", "its step must be from 1 to 60"),
            ("HH * * * *", "is not understood"),
            ("H-5 * * * *", "is not understood"),
            ("H(0-99999999999) * * * *", "is not understood"),
        ],
    )
    def test_what_h_can_not_be(self, expression, message):
        with pytest.raises(ScheduleError, match=message):
            from_options(schedule=expression, name="a")


class TestSpreadingByName:
    def test_ten_thousand_instances_are_spread_evenly_over_the_day(self):
        """Over the minutes as chance would: within 20 % of the variance of an even choice. Over hours, and minutes of the hour, of the number."""
        times = Counter(tuple(map(int, spread("H H * * *", f"customer-{number}").split()[:2])) for number in range(10_000))
        expected = 10_000 / 1440
        chi_squared = sum((times[minute, hour] - expected) ** 2 / expected for minute in range(60) for hour in range(24))
        assert 0.8 < chi_squared / 1439 < 1.2
        hours = Counter()
        for (_, hour), count in times.items():
            hours[hour] += count
        assert all(abs(hours[hour] - 10_000 / 24) < 0.2 * 10_000 / 24 for hour in range(24))
        # Any hour that begins at any minute.
        day = [times[minute % 60, minute // 60 % 24] for minute in range(1440 + 60)]
        assert all(abs(sum(day[begin : begin + 60]) - 10_000 / 24) < 0.2 * 10_000 / 24 for begin in range(1440))

    @pytest.mark.parametrize("expression", ["H H H H H H", "H/7 H(9-17)/3 H/10 H/5 H/2 H(30-59)/20", "H,30 0 H(28-31) * SUN"])
    def test_what_it_makes_is_an_expression(self, expression):
        found = set()
        for number in range(200):
            found.add(written := spread(expression, f"n{number}"))
            Cron(written)
        assert len(found) > 25

    def test_the_same_name_gives_the_same_and_a_longer_expression_the_same_beginning(self):
        assert spread("H H * * *", "ada") == spread("h  h * * *", "ada") == spread("H H * * * 7", "ada").removesuffix(" 7")

    def test_static_tasks_are_spread_by_their_names(self, app):
        async def nightly(context): ...

        async def hourly(context): ...

        assert app.task(schedule="H H * * *")(nightly).schedule == Cron(spread("H H * * *", "nightly"))
        assert app.task(schedule="H * * * *", name="other")(hourly).schedule == Cron(spread("H * * * *", "other"))


class TestJitter:
    def test_a_run_is_never_early_and_each_is_late_by_a_part_of_its_own(self, app, clock, template, runs):
        async def main():
            async with running(app) as context:
                await context.schedule_tasks(
                    template, [Instance(name=f"i{n}", interval=MINUTE, jitter=10 * SECOND) for n in range(20)]
                )
                await clock.advance(5 * MINUTE + 11 * SECOND)

        clock.run(main())
        assert Counter(at for _, at, _ in runs) == {60.0 * minute: 20 for minute in range(1, 6)}
        late = [began - at for _, at, began in runs]
        assert min(late) >= 0
        assert max(late) < 11
        assert len({round(each, 1) for each in late}) > 50

    def test_neither_a_retry_nor_another_registration_nor_another_process_moves_it(self, make_app, clock):
        begun = []

        def declare(app):
            async def template(context):
                begun.append((seconds(clock.now()), context.attempt))
                if context.attempt < 3:
                    raise ValueError

            return app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=SECOND)(template)

        async def main():
            for _ in range(3):
                app = make_app()
                template = declare(app)
                async with running(app) as context:
                    await context.schedule_task(template, "a", schedule="5 0 * * *", jitter=5 * MINUTE)
                    ready.append((await context.get_task(template, "a")).row.ready_at)
                    await clock.advance(MINUTE)
            app = make_app()
            declare(app)
            async with running(app):
                await clock.advance(12 * MINUTE)

        ready = []
        clock.run(main())
        [first] = set(ready)
        assert first == Bounded(Cron("5 0 * * *"), jitter=5 * MINUTE).execute_after(
            START + 5 * MINUTE, ready_key := Key("dynamic:template", "a")
        )
        assert ready_key.name == "a"
        assert [attempt for _, attempt in begun] == [1, 2, 3]
        assert begun[0][0] == pytest.approx(seconds(first), abs=1)
        assert begun[2][0] < seconds(first) + 5

    def test_of_one_instant_many_are_spread(self, app, clock, template, runs):
        async def main():
            async with running(app) as context:
                await context.schedule_tasks(
                    template, [Instance(name=str(n), execute_at=START + MINUTE, jitter=MINUTE) for n in range(300)]
                )
                await clock.advance(3 * MINUTE)
                assert (await context.list_tasks(template)).tasks == []

        clock.run(main())
        assert len(runs) == 300
        thirds = Counter((began - at) // 20 for _, at, began in runs)
        assert min(thirds[third] for third in range(3)) > 70

    def test_static_tasks_have_it(self, app, clock, runs):
        @app.task(interval=MINUTE, jitter=20 * SECOND)
        async def hourly(context):
            runs.append((seconds(context.scheduled_at), seconds(clock.now())))

        async def main():
            async with running(app):
                await clock.advance(10 * MINUTE + 30 * SECOND)

        clock.run(main())
        assert [at for at, _ in runs] == [60.0 * minute for minute in range(1, 11)]
        assert all(0 <= began - at < 21 for at, began in runs)
        assert max(began - at for at, began in runs) > 5

    @pytest.mark.parametrize("name", ["ada", "Ада", "🕰" * 60, "a\nb", "", "x" * 255])
    def test_names_of_any_kind_have_one(self, name):
        late = Bounded(Interval(HOUR), jitter=SECOND).execute_after(START, ("dynamic:t", name)) - START
        assert timedelta() <= late < SECOND

    def test_at_the_end_of_time_there_is_no_later(self):
        end = datetime(9990, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert Bounded(Cron("* * * * *"), jitter=DAY).execute_after(end, ("p", "n")) >= end


class TestBeginningAndEnd:
    def test_an_interval_counts_from_its_start(self, app, clock, template, runs):
        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "later", interval=MINUTE, start_at=START + 90 * SECOND)
                await context.schedule_task(template, "before", interval=MINUTE, start_at=START - 20 * SECOND)
                await clock.advance(3 * MINUTE)

        clock.run(main())
        assert [at for name, at, _ in runs if name == "later"] == [90, 150]
        assert [at for name, at, _ in runs if name == "before"] == [40, 100, 160]

    def test_both_ends_belong_to_it_and_then_the_row_is_gone(self, app, clock, template, runs):
        async def main():
            async with running(app) as context:
                bounds = {"start_at": START + 2 * MINUTE, "end_at": START + 4 * MINUTE}
                await context.schedule_task(template, "cron", schedule="* * * * *", **bounds)
                await context.schedule_task(template, "rule", rrule="FREQ=MINUTELY", **bounds)
                await context.schedule_task(template, "interval", interval=MINUTE, **bounds)
                await clock.advance(9 * MINUTE)
                assert (await context.list_tasks(template)).tasks == []

        clock.run(main())
        for name in ("cron", "rule", "interval"):
            assert [at for each, at, _ in runs if each == name] == [120, 180, 240]

    def test_a_naive_bound_is_what_the_clock_of_the_zone_shows(self):
        schedule = from_options(interval=HOUR, timezone="America/New_York", start_at=datetime(2026, 7, 1, 9))
        assert schedule.first(START) == datetime(2026, 7, 1, 13, tzinfo=UTC)

    def test_a_static_task_whose_time_is_over_is_declared_and_never_runs(self, make_app, clock):
        runs = []

        def application(**options):
            app = make_app()

            @app.task(name="campaign", **options)
            async def campaign(context):
                runs.append(seconds(context.scheduled_at))

            return app

        async def main():
            bounds = {"schedule": "* * * * *", "end_at": START + 2 * MINUTE}
            async with running(application(**bounds)) as context:
                await clock.advance(5 * MINUTE)
                assert await context.repository.get([Key("static", "campaign")]) == [None]
            async with running(application(**bounds)):  # deployed again
                await clock.advance(5 * MINUTE)
            async with running(application(interval=MINUTE)):
                await clock.advance(90 * SECOND)
            # The schedule that is stored is replaced by one that is over already.
            async with running(application(**bounds)) as context:
                await clock.advance(5 * MINUTE)
                assert await context.repository.get([Key("static", "campaign")]) == [None]

        clock.run(main())
        assert runs == [60, 120, 660]

    def test_a_backfill_has_the_times_that_the_schedule_had(self):
        bounds = {"start_at": START, "end_at": START + 3 * HOUR}
        for plain in (Interval(HOUR), Cron("0 * * * *")):
            schedule = Bounded(plain, **bounds, jitter=MINUTE)
            for current in (START + 3 * HOUR, START + 2 * HOUR):
                found = list(occurrences(schedule, current, START - DAY, START + DAY))
                assert [seconds(at) / 3600 for at in found] == list(range(round(seconds(current) / 3600)))


class TestNumberOfRuns:
    @pytest.mark.parametrize(
        "options", [{}, {"execution_mode": ExecutionMode.AT_MOST_ONCE}, {"history": DAY}, {"fast_forward": True}]
    )
    def test_after_so_many_it_is_gone(self, app, clock, options):
        runs = []

        async def template(context):
            runs.append(seconds(context.scheduled_at))

        template = app.dynamic_task(**options)(template)

        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=3)
                left.append((await context.get_task(template, "a")).runs_left)
                await clock.advance(90 * SECOND)
                left.append((await context.get_task(template, "a")).runs_left)
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=3)  # as a program does at each start
                await clock.advance(10 * MINUTE)
                assert await context.get_task(template, "a") is None

        left = []
        clock.run(main())
        assert runs == [60, 120, 180]
        assert left == [3, 2]

    def test_failures_and_lost_workers_are_no_runs_but_what_is_given_up_is_one(self, app, clock):
        attempts = []

        async def template(context):
            attempts.append((seconds(context.scheduled_at), context.attempt))
            if seconds(context.scheduled_at) == 60 or context.attempt == 1:
                raise ValueError

        template = app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=SECOND, max_attempts=2)(template)

        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=3)
                await clock.advance(10 * MINUTE)
                assert await context.get_task(template, "a") is None

        clock.run(main())
        assert attempts == [(60, 1), (60, 2), (120, 1), (120, 2), (180, 1), (180, 2)]

    def test_the_last_that_is_given_up_is_kept_as_failed(self, app, clock):
        async def template(context):
            raise ValueError

        template = app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=SECOND, max_attempts=1)(template)

        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=2)
                await clock.advance(10 * MINUTE)
                assert (await context.get_task(template, "a")).state is State.FAILED

        clock.run(main())

    def test_another_schedule_counts_anew_and_so_does_force(self, app, clock, template, runs):
        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=3)
                await clock.advance(150 * SECOND)
                await context.schedule_task(template, "a", interval=2 * MINUTE, max_runs=2)
                await clock.advance(3 * MINUTE)
                await context.schedule_task(template, "a", interval=2 * MINUTE, max_runs=2, force=True)
                await clock.advance(10 * MINUTE)

        clock.run(main())
        assert len(runs) == 2 + 1 + 2

    def test_a_run_that_ends_while_it_is_paused_counts(self, app, clock):
        runs = []

        async def template(context):
            runs.append(seconds(context.scheduled_at))
            await asyncio.sleep(20)

        template = app.dynamic_task()(template)

        async def main():
            async with running(app) as context:
                await context.schedule_task(template, "a", interval=MINUTE, max_runs=3)
                await clock.advance(70 * SECOND)
                await context.pause_task(template, "a")
                await clock.advance(60 * SECOND)
                await context.resume_task(template, "a")
                await clock.advance(5 * SECOND)
                await context.pause_task(template, "a")  # again, and resumed before the run has ended
                await clock.advance(SECOND)
                await context.resume_task(template, "a")
                await clock.advance(10 * MINUTE)

        clock.run(main())
        assert runs == [60, 120, 180]

    def test_what_is_moved_keeps_its_count(self, make_app, clock):
        runs = []

        async def body(context):
            runs.append(seconds(context.scheduled_at))

        async def main():
            app = make_app()
            old = app.dynamic_task(name="old")(body)
            async with running(app) as context:
                await context.schedule_task(old, "a", interval=MINUTE, max_runs=4)
                await context.schedule_task(old, "paused", interval=MINUTE, max_runs=4)
                await clock.advance(130 * SECOND)
                await context.pause_task(old, "paused")
            app = make_app()
            new = app.partitioned_task(name="new", partition_count=2)(body)
            async with app.create() as context:
                await move(context.repository, context.clock, "old", new)
                assert (await context.get_task(new, "a")).runs_left == 2
                assert (await context.get_task(new, "paused")).runs_left == 2
            async with running(app) as context:
                await clock.advance(10 * MINUTE)
                assert await context.get_task(new, "a") is None

        clock.run(main())
        assert len(runs) == 4 + 2


class TestOldAndNewVersionsSideBySide:
    @pytest.mark.parametrize(
        "text",
        [
            "interval 60 @UTC lunar=3",  # of a release to come
            "lunar full-moon @UTC",
            "interval 60 @UTC jitter=1 lunar=3",
        ],
    )
    def test_a_text_that_this_release_can_not_read_costs_its_own_row_only_and_is_said_once(
        self, app, clock, template, store, runs, caplog, text
    ):
        async def main():
            async with running(app) as context:
                for name in ("new", "old"):
                    await context.schedule_task(template, name, interval=MINUTE, max_runs=20)
                key = template.key("new")
                target = Target(START + MINUTE, START + MINUTE)
                await context.repository.register(clock.now(), [Registration(key, "{}", text, target)])
                await clock.advance(10 * MINUTE)
                row = store.rows()["new"]
                assert (row.schedule, row.attempt, row.occurrence) == (text, 0, START + MINUTE)
                # The release that can read it, or a user of this one, goes on with it.
                await context.schedule_task(template, "new", interval=MINUTE)
                await clock.advance(3 * MINUTE)

        with caplog.at_level("ERROR"):
            clock.run(main())
        assert len([record for record in caplog.records if "can't be read" in record.getMessage()]) == 1
        assert [at for name, at, _ in runs if name == "old"] == [60.0 * minute for minute in range(1, 13)]
        assert [at for name, at, _ in runs if name == "new"] == [660, 720]

    @pytest.mark.parametrize(
        "options",
        [
            {"interval": MINUTE, "jitter": SECOND},
            {"schedule": "0 9 * * *", "timezone": "Europe/London", "max_runs": 3},
            {"execute_at": START, "jitter": SECOND, "digest": "0123456789abcdef"},
            {"rrule": "FREQ=DAILY"},
        ],
    )
    def test_what_a_release_without_bounds_makes_of_one_is_an_error(self, options):
        """As that read a text: the zone is what follows the last ``@``, the digest what follows the ``#``."""
        kind, _, rest = from_options(**options).text.partition(" ")
        zone, _, digest = rest.rpartition(" @")[2].partition(" #")
        assert kind not in ("cron", "interval", "once") or " " in zone or " " in digest
        if kind in ("cron", "interval"):
            with pytest.raises(ScheduleError, match="Unknown time zone"):
                Interval(MINUTE, zone)
