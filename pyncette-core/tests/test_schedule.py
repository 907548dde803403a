"""When tasks occur: cron expressions, intervals and instants, around changes of the clock and at the ends of time."""

import enum
import json
import os
import re
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from pyncette.errors import ConfigurationError, PyncetteError, ScheduleError
from pyncette.schedule import Cron, Interval, Once, Schedule, from_options, parse
from pyncette.schedules.cron import Calendar, read
from pyncette.timezones import find_zone, instant_of, set_back_at, wall_of

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dst.json").read_text())

PATH = os.pathsep.join(sys.path)
MICROSECOND = timedelta(microseconds=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def following(schedule: Schedule, last: datetime) -> Iterator[datetime]:
    found = schedule.next(last)
    while found is not None:
        yield found
        found = schedule.next(found)


def occurrences(expression: str, zone: str, after: str, count: int) -> list[str]:
    found = islice(following(Cron(expression, zone), utc(after)), count)
    return [instant.strftime("%m-%d %H:%M" if instant.second == 0 else "%m-%d %H:%M:%S") for instant in found]


def days(expression: str, after: str = "2025-12-31", count: int = 4) -> list[str]:
    return [instant.date().isoformat() for instant in islice(following(Cron(expression), utc(after)), count)]


class TestChangesOfTheClock:
    """A time of the day runs once a day; a minute or an hour that begins with * follows elapsed time."""

    @pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['expression']} {case['timezone']} {case['after']}")
    def test_worked_cases_of_an_independent_engine(self, case: dict[str, Any]) -> None:
        found = islice(following(Cron(case["expression"], case["timezone"]), utc(case["after"])), len(case["next"]))
        assert [instant.strftime("%Y-%m-%dT%H:%M:%SZ") for instant in found] == case["next"]

    def test_all_worked_cases_are_there(self) -> None:
        assert len(GOLDEN) == 90

    def test_skipped_time_runs_at_the_end_of_the_gap(self) -> None:
        assert occurrences("30 1 * * *", "Europe/London", "2026-03-28", 3) == [
            "03-28 01:30",
            "03-29 01:00",
            "03-30 00:30",
        ]

    def test_several_skipped_times_run_once(self) -> None:
        assert occurrences("5-55 1 * * *", "Europe/London", "2026-03-29", 2) == ["03-29 01:00", "03-30 00:05"]

    def test_repeated_time_runs_in_the_first_pass_only(self) -> None:
        assert occurrences("30 1 * * *", "Europe/London", "2026-10-25", 2) == ["10-25 00:30", "10-26 01:30"]

    def test_repeated_time_does_not_run_for_a_registration_in_the_second_pass(self) -> None:
        schedule = Cron("5-55 1 * * *", "Europe/London")
        assert schedule.first(utc("2026-10-25 01:10")) == utc("2026-10-26 01:05")

    def test_elapsed_minutes_go_on_through_both_passes(self) -> None:
        found = list(islice(following(Cron("*/20 * * * *", "Europe/London"), utc("2026-10-24 23:50")), 12))
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=20)}

    def test_elapsed_minutes_of_one_hour_run_in_both_passes(self) -> None:
        assert occurrences("*/30 1 * * *", "Europe/London", "2026-10-24 12:00", 5) == [
            "10-25 00:00",
            "10-25 00:30",
            "10-25 01:00",
            "10-25 01:30",
            "10-26 01:00",
        ]

    def test_elapsed_minutes_of_one_day_of_the_year_run_in_both_passes(self) -> None:
        assert occurrences("*/30 1 25 10 *", "Europe/London", "2026-06-01", 5) == [
            "10-25 00:00",
            "10-25 00:30",
            "10-25 01:00",
            "10-25 01:30",
            "10-25 00:00",  # of 2027, when the clock changes on the 31st
        ]

    def test_elapsed_hours_run_in_both_passes(self) -> None:
        assert occurrences("15 * * * *", "Europe/London", "2026-10-25", 3) == [
            "10-25 00:15",
            "10-25 01:15",
            "10-25 02:15",
        ]

    def test_elapsed_minutes_add_nothing_in_a_gap(self) -> None:
        assert occurrences("*/20 1 * * *", "Europe/London", "2026-03-29", 2) == ["03-30 00:00", "03-30 00:20"]

    def test_elapsed_minutes_go_on_across_a_gap(self) -> None:
        assert occurrences("*/30 * * * *", "Europe/London", "2026-03-29 00:20", 3) == [
            "03-29 00:30",
            "03-29 01:00",
            "03-29 01:30",
        ]

    def test_a_list_or_range_of_all_hours_is_no_star(self) -> None:
        assert occurrences("30 0-23 * * *", "Europe/London", "2026-10-25 00:00", 2) == ["10-25 00:30", "10-25 02:30"]

    def test_a_star_in_another_field_makes_no_difference(self) -> None:
        assert occurrences("30 1 */1 * * */30", "Europe/London", "2026-10-25", 3) == [
            "10-25 00:30",
            "10-25 00:30:30",
            "10-26 01:30",
        ]

    def test_a_time_of_the_day_with_seconds_runs_once_too(self) -> None:
        assert occurrences("30 1 * * * 15", "Europe/London", "2026-10-25", 2) == ["10-25 00:30:15", "10-26 01:30:15"]
        assert occurrences("30 1 * * * 15", "Europe/London", "2026-03-29", 2) == ["03-29 01:00", "03-30 00:30:15"]

    def test_elapsed_seconds_run_in_both_passes(self) -> None:
        found = list(islice(following(Cron("* * * * * */30", "Europe/London"), utc("2026-10-25")), 300))
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(seconds=30)}

    def test_change_by_half_an_hour(self) -> None:
        assert occurrences("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", 2) == ["10-03 15:30", "10-04 15:15"]
        assert occurrences("45 1 * * *", "Australia/Lord_Howe", "2026-04-04", 2) == ["04-04 14:45", "04-05 15:15"]
        assert occurrences("45 * * * *", "Australia/Lord_Howe", "2026-04-04 14:00", 3) == [
            "04-04 14:45",
            "04-04 15:15",
            "04-04 16:15",
        ]

    def test_skipped_day(self) -> None:
        assert occurrences("0 9 * * *", "Pacific/Apia", "2011-12-29 10:00", 3) == [
            "12-29 19:00",
            "12-30 10:00",
            "12-30 19:00",
        ]
        assert occurrences("* * 30 12 *", "Pacific/Apia", "2011-12-29 10:00", 1) == ["12-29 10:00"]  # of 2012

    def test_skipped_day_costs_no_search_through_it(self, computed: list[datetime]) -> None:
        Cron("* * * * * *", "Pacific/Apia").next(utc("2011-12-30 09:59:59"))
        assert len(computed) <= 3

    def test_skipped_midnight(self) -> None:
        assert occurrences("0 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00", 2) == ["11-04 03:00", "11-05 02:00"]

    def test_winter_time_that_is_the_exception(self) -> None:
        assert occurrences("30 1 * * *", "Europe/Dublin", "2026-10-25", 2) == ["10-25 00:30", "10-26 01:30"]

    def test_suspended_for_ramadan(self) -> None:
        assert occurrences("30 2 * * *", "Africa/Casablanca", "2025-02-22 03:00", 2) == ["02-23 01:30", "02-24 02:30"]

    def test_rules_hold_after_the_end_of_32_bit_time(self) -> None:
        assert occurrences("30 1 * * *", "Europe/London", "2040-03-24", 3) == [
            "03-24 01:30",
            "03-25 01:00",
            "03-26 00:30",
        ]

    def test_rules_hold_for_zones_given_as_rules(self) -> None:
        zone = "EST5EDT,M3.2.0,M11.1.0"
        for expression in ("30 2 * * *", "30 1 * * *", "*/20 * * * *"):
            for start in ("2026-03-07 12:00", "2026-10-31 12:00"):
                expected = occurrences(expression, "America/New_York", start, 90)
                assert occurrences(expression, zone, start, 90) == expected

    def test_rules_of_a_zone_that_contradict_each_other_end_no_search(self, computed: list[datetime]) -> None:
        zone = "UTC-10EDT,J366,J366/25"  # at the end of the year, its clock shows times that it skips
        found = list(islice(following(Cron("*/15 * * * *", zone), utc("2025-12-31 23:00")), 8))
        assert found == sorted(set(found))


class TestFractionsOfASecond:
    def test_next_is_a_whole_second_strictly_after(self) -> None:
        schedule = Cron("* * * * * *")
        assert schedule.next(NEW_YEAR - MICROSECOND) == NEW_YEAR
        assert schedule.next(NEW_YEAR) == NEW_YEAR + timedelta(seconds=1)
        assert schedule.next(NEW_YEAR + MICROSECOND) == NEW_YEAR + timedelta(seconds=1)

    def test_around_a_gap(self) -> None:
        schedule = Cron("30 1 * * *", "Europe/London")
        assert schedule.next(utc("2026-03-29 01:00") - MICROSECOND) == utc("2026-03-29 01:00")
        assert schedule.next(utc("2026-03-29 01:00") + MICROSECOND) == utc("2026-03-30 00:30")

    def test_around_the_second_pass(self) -> None:
        schedule = Cron("* * * * *", "Europe/London")
        assert schedule.next(utc("2026-10-25 01:00") - MICROSECOND) == utc("2026-10-25 01:00")
        assert schedule.next(utc("2026-10-25 01:00") + MICROSECOND) == utc("2026-10-25 01:01")

    def test_where_a_float_has_no_room_for_them(self) -> None:
        assert Cron("* * * * *").next(utc("9000-01-01 00:00:59.999999")) == utc("9000-01-01 00:01")


class TestCronFields:
    def test_seconds_come_last(self) -> None:
        assert occurrences("1 2 3 4 * 56", "UTC", "2026-01-01", 1) == ["04-03 02:01:56"]

    def test_five_fields_run_at_second_zero(self) -> None:
        assert occurrences("* * * * *", "UTC", "2026-01-01 00:00:30", 1) == ["01-01 00:01"]

    @pytest.mark.parametrize(
        ("minute", "expected"),
        [
            ("5", [5]),
            ("5,7,9", [5, 7, 9]),
            ("9,5,5", [5, 9]),
            ("50-52", [50, 51, 52]),
            ("10-20/5", [10, 15, 20]),
            ("50/5", [50, 55]),
            ("59/15", [59]),
            ("*/25", [0, 25, 50]),
            ("*/61", [0]),
            ("0-59/61", [0]),
            ("007", [7]),
        ],
    )
    def test_minutes(self, minute: str, expected: list[int]) -> None:
        found = islice(following(Cron(f"{minute} * * * *"), NEW_YEAR - MICROSECOND), len(expected) + 1)
        assert [instant.minute for instant in found] == [*expected, expected[0]]

    def test_names(self) -> None:
        assert days("0 0 * FEB,jun Mon") == ["2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23"]
        assert days("0 0 1 JAN-MAR *") == ["2026-01-01", "2026-02-01", "2026-03-01", "2027-01-01"]

    @pytest.mark.parametrize("sunday", ["0", "7", "sun", "0,7", "*/7"])
    def test_sunday(self, sunday: str) -> None:
        assert days(f"0 0 * * {sunday}", count=2) == ["2026-01-04", "2026-01-11"]

    @pytest.mark.parametrize("weekend", ["6-7", "SAT-SUN", "6,0", "SAT,SUN"])
    def test_ranges_may_end_on_sunday(self, weekend: str) -> None:
        assert days(f"0 0 * * {weekend}", count=3) == ["2026-01-03", "2026-01-04", "2026-01-10"]

    def test_step_of_a_range_that_ends_on_sunday(self) -> None:
        assert days("0 0 * * 1-7/3", count=4) == ["2026-01-01", "2026-01-04", "2026-01-05", "2026-01-08"]

    def test_step_of_all_days_of_the_week_counts_from_sunday_to_saturday(self) -> None:
        assert days("0 0 * * */5", count=4) == ["2026-01-02", "2026-01-04", "2026-01-09", "2026-01-11"]

    def test_last_day_of_the_month(self) -> None:
        assert days("0 0 L * *") == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]
        assert days("0 0 15,L 2 *", count=2) == ["2026-02-15", "2026-02-28"]

    def test_nth_and_last_day_of_the_week_of_the_month(self) -> None:
        assert days("0 0 * * 2#2") == days("0 0 * * tue#2") == ["2026-01-13", "2026-02-10", "2026-03-10", "2026-04-14"]
        assert days("0 0 * * 5L") == days("0 0 * * L5") == ["2026-01-30", "2026-02-27", "2026-03-27", "2026-04-24"]
        assert days("0 0 * * 0L") == days("0 0 * * 7L") == ["2026-01-25", "2026-02-22", "2026-03-29", "2026-04-26"]
        assert days("0 0 * * 7#5") == ["2026-03-29", "2026-05-31", "2026-08-30", "2026-11-29"]

    def test_nth_day_of_the_week_beside_plain_ones(self) -> None:
        assert days("0 0 * 2 MON,3#4,FRI#1") == ["2026-02-02", "2026-02-06", "2026-02-09", "2026-02-16"]

    def test_question_mark_is_a_star(self) -> None:
        assert days("0 0 ? * 1") == days("0 0 * * 1")
        assert days("0 0 1 * ?") == days("0 0 1 * *")

    @pytest.mark.parametrize(
        ("alias", "same"),
        [
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "0 0 1 1 *"),
            ("@monthly", "0 0 1 * *"),
            ("@weekly", "0 0 * * 0"),
            ("@daily", "0 0 * * *"),
            ("@midnight", "0 0 * * *"),
            ("@hourly", "0 * * * *"),
        ],
    )
    def test_aliases(self, alias: str, same: str) -> None:
        moment = utc("2026-03-28 23:30")
        zone = "Europe/London"
        assert list(islice(following(Cron(alias, zone), moment), 4)) == list(islice(following(Cron(same, zone), moment), 4))

    def test_hourly_follows_elapsed_time(self) -> None:
        assert occurrences("@hourly", "Europe/London", "2026-10-24 23:30", 3) == [
            "10-25 00:00",
            "10-25 01:00",
            "10-25 02:00",
        ]

    @pytest.mark.parametrize("late", [29, 30, 31])
    @pytest.mark.parametrize("early", [1, 2, 3])
    def test_days_that_a_month_lacks_hide_no_day_of_the_next(self, early: int, late: int) -> None:
        calendar = read(f"0 0 {early},{late} * *")
        for start in range(120):
            expected = last = datetime(2026, 12, 31) + timedelta(days=start)
            while expected == last or expected.day not in (early, late):
                expected += timedelta(days=1)
            assert calendar.after(last) == expected

    def test_leap_day(self) -> None:
        assert days("0 0 29 2 *", after="2092-01-01", count=3) == ["2092-02-29", "2096-02-29", "2104-02-29"]

    def test_leap_day_on_a_day_of_the_week(self) -> None:
        assert days("0 0 29 2 */7", after="2068-01-01", count=2) == ["2088-02-29", "2128-02-29"]


class TestDayOfMonthAndDayOfWeek:
    def test_one_suffices_if_neither_begins_with_a_star(self) -> None:
        assert days("0 0 10 1 1") == ["2026-01-05", "2026-01-10", "2026-01-12", "2026-01-19"]

    def test_both_must_match_if_one_begins_with_a_star(self) -> None:
        assert days("0 0 */10 * 1") == ["2026-05-11", "2026-06-01", "2026-08-31", "2026-09-21"]
        assert days("0 0 1-7 * */7") == ["2026-01-04", "2026-02-01", "2026-03-01", "2026-04-05"]

    def test_one_suffices_beside_a_full_range(self) -> None:
        assert days("0 0 1-31 * 1") == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]

    def test_one_suffices_beside_an_impossible_day(self) -> None:
        assert days("0 0 31 2 1", count=2) == ["2026-02-02", "2026-02-09"]

    def test_one_suffices_beside_the_nth_and_the_last(self) -> None:
        assert days("0 0 15 1 2#1") == ["2026-01-06", "2026-01-15", "2027-01-05", "2027-01-15"]
        assert days("0 0 L 1 5L", count=3) == ["2026-01-30", "2026-01-31", "2027-01-29"]

    def test_both_must_match_with_the_nth_and_the_last(self) -> None:
        assert days("0 0 */2 * 2#2", count=3) == ["2026-01-13", "2026-06-09", "2026-08-11"]
        assert days("0 0 */2 * 5L", count=3) == ["2026-02-27", "2026-03-27", "2026-05-29"]
        assert days("0 0 L * */5", count=3) == ["2026-01-31", "2026-02-28", "2026-05-31"][2:] + [
            "2026-07-31",
            "2027-01-31",
        ]


class Rude:
    def __repr__(self) -> str:
        return "\x1b[2J\n\u202e" * 1000


class TestRefusals:
    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ("", "Cron expression '' has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("0 0 1 1 * 0 2030", "has 7 fields"),
            ("@reboot", "has 1 field: write minute, hour, .* or one of @yearly"),
            ("60 * * * *", "minute '60' is not understood: write numbers 0-59, ranges, lists or steps"),
            ("* 24 * * *", "hour '24'"),
            ("* * 0 * *", "day-of-month '0'"),
            ("* * 32 * *", "day-of-month '32'"),
            ("* * * 0 *", "month '0'"),
            ("* * * 13 *", "month '13' is not understood: write numbers 1-12 or JAN-DEC"),
            ("* * * * 8", "day-of-week '8' is not understood: write numbers 0-7 or SUN-SAT"),
            ("* * * * * 60", "second '60'"),
            ("* * * MON *", "month 'MON'"),
            ("-1 * * * *", "minute '-1'"),
            ("1,,2 * * * *", "minute ''"),
            ("1- * * * *", "minute '1-'"),
            ("*/0 * * * *", r"the step of minute '\*/0' must be at least 1"),
            ("*/x * * * *", r"minute '\*/X'"),
            ("½ * * * *", "minute '½'"),
            ("٣ * * * *", "minute '٣'"),
            ("30-10 * * * *", "the range of minute '30-10' must go up"),
            ("5-5 * * * *", "the range of minute '5-5' must go up"),
            ("0 0 * * FRI-MON", "the range of day-of-week 'FRI-MON' must go up"),
            ("0 0 * * SUN-SUN", "the range of day-of-week 'SUN-SUN' must go up"),
            ("0 0 * * 1/2", "day-of-week '1/2' has a step without a range: write 1-6/2"),
            ("H * * * *", "minute 'H' is not understood: H is derived from the name of a task"),
            ("R(0-10) * * * *", "a random number would differ between workers; write H"),
            ("? * * * *", r"minute '\?'"),
            ("0 0 15W * *", "day-of-month '15W'"),
            ("0 0 LW * *", "day-of-month 'LW'"),
            ("0 0 L-3 * *", "day-of-month 'L-3'"),
            ("0 0 * * L", "day-of-week 'L'"),
            ("0 0 * * 1#6", "day-of-week '1#6'"),
            ("0 0 * * 1#0", "day-of-week '1#0'"),
            ("0 0 * * 8#1", "day-of-week '8#1'"),
            ("0 0 * * 1-5#2", "day-of-week '1-5#2'"),
            ("L * * * *", "minute 'L'"),
            ("0 0 1#2 * *", "day-of-month '1#2'"),
            ("0 0 5L * *", "day-of-month '5L'"),
            ("0 0 30 2 *", "No day ever matches cron expression '.*': check the days"),
            ("0 0 31 4,6,9,11 *", "No day ever matches cron expression '.*': check the days"),
            ("0 0 */31 * 1#2", "No day ever matches cron expression '.*': check the days"),
        ],
    )
    def test_expressions(self, expression: str, message: str) -> None:
        with pytest.raises(ScheduleError, match=message) as caught:
            Cron(expression)
        assert "\n" not in str(caught.value)
        assert re.match(r"(C|In c|No day ever matches c)ron expression '", str(caught.value))

    @pytest.mark.parametrize("expression", ["x" * 100_000 + " * * * *", " " * 100_000 + "* * * * *", "1," * 500 + "1 * * * *"])
    def test_a_long_expression_is_neither_read_nor_repeated_whole(self, expression: str) -> None:
        with pytest.raises(ScheduleError, match="A cron expression has at most 1000 characters") as caught:
            Cron(expression)
        assert len(str(caught.value)) < 400

    def test_the_longest_expression_that_means_something(self) -> None:
        minutes, hours, days, months = (",".join(map(str, range(*ends))) for ends in ((60,), (24,), (1, 32), (1, 13)))
        weekdays = ",".join(f"{day}#{nth}" for day in range(7) for nth in range(1, 6)) + ",0,1,2,3,4,5,6,0L,1L,2L,3L,4L,5L,6L"
        assert Cron(f"{minutes} {hours} {days},L {months} {weekdays} {minutes}").next(NEW_YEAR) == NEW_YEAR + timedelta(seconds=1)

    @pytest.mark.parametrize(
        "expression",
        ["0 0 12 * * ?", "0 15 10 ? * MON-FRI", "0 0 12 1 * ? 2030", "0 15 10 ? * 6#3", "0 0/5 14 ? * * *", "0 0 9 * * mon"],
    )
    def test_seconds_first_as_in_quartz(self, expression: str) -> None:
        with pytest.raises(ScheduleError, match="has its seconds first, as in Quartz: write them last"):
            Cron(expression)

    @pytest.mark.parametrize("duration", [timedelta(0), timedelta(seconds=-1)])
    def test_intervals_that_are_not_positive(self, duration: timedelta) -> None:
        with pytest.raises(ScheduleError, match="An interval must be more than zero"):
            Interval(duration)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "Give exactly one of schedule, interval, execute_at and rrule, not none of them"),
            ({"timezone": "UTC"}, "not none of them"),
            ({"schedule": "@daily", "interval": timedelta(1)}, "not schedule and interval"),
            ({"interval": timedelta(0), "execute_at": NEW_YEAR}, "not interval and execute_at"),
            ({"interval": True}, r"An interval must be a timedelta such as timedelta\(seconds=10\), not True \(bool\)"),
            ({"interval": "10"}, r"not '10' \(str\)"),
            ({"interval": 10}, r"not 10 \(int\)"),
            ({"interval": 0}, r"not 0 \(int\)"),
            ({"schedule": 5}, "A cron expression must be a string such as '0 9 [*] [*] [*]', not 5"),
            ({"execute_at": "tomorrow"}, r"The instant execute_at must be a datetime, not 'tomorrow' \(str\)"),
            ({"execute_at": date(2026, 1, 1)}, r"The instant execute_at must be a datetime, .* \(date\)"),
            ({"execute_at": True}, r"execute_at must be a datetime, not True \(bool\)"),
            ({"execute_at": 0}, r"execute_at must be a datetime, not 0 \(int\)"),
            ({"execute_at": NEW_YEAR, "digest": "a" * 201}, "A digest consists of at most 200 letters"),
            ({"schedule": "@daily", "timezone": zoneinfo.ZoneInfo("Asia/Tokyo")}, "write 'Asia/Tokyo'"),
            ({"schedule": "@daily", "timezone": "A" * 101}, "at most 100 characters, but .* has 101"),
            ({"execute_at": NEW_YEAR, "digest": "a b"}, "A digest consists of at most 200 letters, digits"),
            ({"execute_at": NEW_YEAR, "digest": "a#b"}, "A digest consists of at most 200 letters, digits"),
            ({"schedule": "@daily", "timezone": ""}, "A timezone must be the name of a zone"),
            ({"schedule": "@daily", "timezone": UTC}, "A timezone must be the name of a zone"),
            ({"schedule": "@daily", "timezone": ["UTC"]}, "A timezone must be the name of a zone"),
            ({"interval": timedelta(1), "timezone": "Nowhere"}, "Unknown time zone 'Nowhere'"),
            ({"execute_at": datetime(2026, 1, 1), "timezone": "Nowhere"}, "Unknown time zone 'Nowhere'"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ScheduleError, match=message) as caught:
            from_options(**options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("option", ["schedule", "interval", "execute_at", "timezone"])
    @pytest.mark.parametrize(
        "value", [10**5000, b"x" * 10**6, [1] * 10**6, {"\x1b[2J": "\n"}, Rude()], ids=lambda value: type(value).__name__
    )
    def test_values_of_any_other_kind_in_a_short_line_without_control_characters(self, option: str, value: Any) -> None:
        other = {"schedule": "@daily"} if option == "timezone" else {}
        with pytest.raises(ScheduleError) as caught:
            from_options(**{**other, option: value})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300

    def test_a_naive_instant(self) -> None:
        with pytest.raises(ScheduleError, match="The instant execute_at must be aware"):
            Once(datetime(2026, 1, 1))

    def test_refusals_are_pyncette_errors_and_value_errors(self) -> None:
        for kind in (PyncetteError, ConfigurationError, ValueError):
            with pytest.raises(kind):
                Cron("nonsense")


class TestIntervals:
    def test_first_occurs_one_interval_after_the_registration(self) -> None:
        assert Interval(timedelta(seconds=10)).first(NEW_YEAR) == NEW_YEAR + timedelta(seconds=10)

    def test_next_occurs_one_interval_later(self) -> None:
        assert Interval(timedelta(days=1, microseconds=1)).next(NEW_YEAR) == NEW_YEAR + timedelta(days=1, microseconds=1)

    def test_zone_does_not_move_it(self) -> None:
        last = utc("2026-03-28 12:00")
        assert Interval(timedelta(days=1), "Europe/London").next(last) == utc("2026-03-29 12:00")

    @pytest.mark.parametrize(
        ("late", "expected"),
        [(-3600, 60), (0, 60), (59, 60), (60, 120), (61, 120), (3601, 3660), (10**9, 10**9 // 60 * 60 + 60)],
    )
    def test_fast_forward_keeps_the_rhythm(self, late: int, expected: int) -> None:
        found = Interval(timedelta(seconds=60)).next_after(NEW_YEAR, NEW_YEAR + timedelta(seconds=late))
        assert found == NEW_YEAR + timedelta(seconds=expected)

    def test_fast_forward_is_no_loop(self) -> None:
        now = NEW_YEAR + timedelta(days=365 * 1000)
        assert Interval(MICROSECOND).next_after(NEW_YEAR, now) == now + MICROSECOND


class TestFastForwardOfCron:
    def test_goes_past_now(self) -> None:
        schedule = Cron("0 9 * * *")
        assert schedule.next_after(utc("2020-01-01 09:00"), utc("2026-01-01 08:00")) == utc("2026-01-01 09:00")
        assert schedule.next_after(utc("2020-01-01 09:00"), utc("2026-01-01 09:00")) == utc("2026-01-02 09:00")

    def test_is_never_before_the_next_occurrence(self) -> None:
        assert Cron("0 9 * * *").next_after(utc("2026-01-05 09:00"), utc("2026-01-01")) == utc("2026-01-06 09:00")

    def test_is_no_loop(self, computed: list[datetime]) -> None:
        Cron("* * * * * *", "Europe/London").next_after(utc("1980-01-01"), utc("2080-01-01"))
        assert len(computed) == 1


class TestOnce:
    def test_occurs_at_its_instant_even_if_that_is_past(self) -> None:
        assert Once(NEW_YEAR).first(NEW_YEAR + timedelta(days=1)) == NEW_YEAR

    def test_occurs_once(self) -> None:
        assert Once(NEW_YEAR).next(NEW_YEAR) is None
        assert Once(NEW_YEAR).next(NEW_YEAR - timedelta(days=1)) is None
        assert Once(NEW_YEAR).next_after(NEW_YEAR, NEW_YEAR - timedelta(days=1)) is None

    def test_is_kept_as_utc(self) -> None:
        schedule = Once(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
        assert schedule == Once(NEW_YEAR)
        assert schedule.at.tzinfo is UTC

    def test_other_arguments_are_another_occurrence(self) -> None:
        assert Once(NEW_YEAR, digest="a") != Once(NEW_YEAR, digest="b")


class TestNaiveInstants:
    def test_is_wall_time_of_the_zone(self) -> None:
        assert from_options(execute_at=datetime(2026, 7, 1, 9), timezone="Europe/London").text == (
            "once 2026-07-01T08:00:00.000000Z @Europe/London"
        )

    def test_keeps_microseconds(self) -> None:
        schedule = from_options(execute_at=datetime(2026, 7, 1, 9, 0, 0, 7), timezone="Europe/London")
        assert schedule == Once(utc("2026-07-01 08:00:00.000007"), "Europe/London")

    def test_skipped_one_is_the_end_of_the_gap(self) -> None:
        schedule = from_options(execute_at=datetime(2026, 3, 29, 1, 30, 0, 1), timezone="Europe/London")
        assert schedule == Once(utc("2026-03-29 01:00"), "Europe/London")

    def test_repeated_one_is_the_first_unless_fold_says_otherwise(self) -> None:
        wall = datetime(2026, 10, 25, 1, 30)
        first, second = (from_options(execute_at=wall.replace(fold=fold), timezone="Europe/London") for fold in (0, 1))
        assert first == Once(utc("2026-10-25 00:30"), "Europe/London")
        assert second == Once(utc("2026-10-25 01:30"), "Europe/London")

    def test_is_local_time_without_a_zone(self) -> None:
        code = "import datetime, pyncette.schedule as s;print(s.from_options(execute_at=datetime.datetime(2026, 1, 1)).text)"
        env = {"TZ": "XYZ-03:00", "PYTHONPATH": PATH}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "once 2025-12-31T21:00:00.000000Z @UTC"

    def test_an_aware_one_keeps_its_instant(self) -> None:
        assert from_options(execute_at=NEW_YEAR, timezone="Asia/Tokyo") == Once(NEW_YEAR, "Asia/Tokyo")


class TestEndsOfTime:
    """What lies past the year 9999 does not occur."""

    @pytest.mark.parametrize(
        "schedule",
        [
            Cron("0 0 1 1 *"),
            Cron("0 12 1 1 *", "Asia/Tokyo"),
            Cron("* 0 1 1 *", "America/New_York"),
            Interval(timedelta(days=10**6)),
        ],
        ids=lambda schedule: schedule.text,
    )
    @pytest.mark.parametrize("last", [utc("9999-01-02"), utc("9999-12-31 23:59:59.999999")])
    def test_schedule_ends(self, schedule: Schedule, last: datetime) -> None:
        assert schedule.next(last) is None
        assert schedule.next_after(last, last) is None
        assert schedule.next_after(NEW_YEAR, last) is None

    def test_interval_longer_than_time(self) -> None:
        assert Interval(timedelta.max).first(NEW_YEAR) is None
        assert parse(Interval(timedelta.max).text) == Interval(timedelta.max)

    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo", "ABC+23:59", "UTC+23:59", "UTC-10EDT,J366,J366/25"])
    @pytest.mark.parametrize("offset", [None, *(timezone(timedelta(minutes=minutes)) for minutes in (-1439, 0, 1439))])
    @pytest.mark.parametrize(("end", "year"), [(datetime.min, 10), (datetime.max, 9990)])
    def test_an_instant_at_an_end_of_the_calendar_is_one_that_every_clock_shows(
        self, end: datetime, year: int, offset: timezone | None, zone: str
    ) -> None:
        schedule = from_options(execute_at=end.replace(tzinfo=offset), timezone=zone)
        assert isinstance(schedule, Once)
        assert parse(schedule.text) == schedule
        assert schedule.at.year == year
        shown = schedule.at.astimezone(schedule.zone)
        assert abs(shown.replace(tzinfo=UTC) - schedule.at) < timedelta(days=1)
        for margin in (timedelta(days=-365), timedelta(days=365)):  # room for what comes after: leases, retries, another zone
            assert (shown + margin).isoformat()
        for other in (Cron("* * * * *", zone), Cron("0 12 31 12 *", zone), Interval(timedelta(days=1), zone)):
            found = other.next(schedule.at)
            assert (found is None) == (year == 9990)

    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
    def test_schedules_go_on_from_the_first_instant_there_is(self, zone: str) -> None:
        first = datetime.min.replace(tzinfo=UTC)
        for schedule in (Cron("* * * * *", zone), Cron("0 12 * * *", zone), Interval(timedelta(hours=1), zone)):
            assert (found := schedule.next(first)) is not None
            assert found.year == 10
            assert schedule.next_after(first, NEW_YEAR) == schedule.next_after(NEW_YEAR - timedelta(days=1), NEW_YEAR)


class Moment(datetime):
    """A subclass whose methods return the subclass, as pendulum's do."""

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "a moment"


class Span(timedelta):
    @property
    def days(self) -> int:
        return -1


class Text(str, enum.Enum):  # noqa: UP042 - prints as Text.TOKYO, which a StrEnum does not
    TOKYO = "Asia/Tokyo"
    DAILY = "@daily"


class NotATime(datetime):
    """As pandas' NaT: a datetime by class alone."""

    year = month = day = float("nan")  # type: ignore[assignment]


class BrokenZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(days=2)

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "broken"


class TestSubclasses:
    """Values become plain where they come in."""

    @pytest.mark.parametrize("offset", [None, UTC, timezone(timedelta(hours=2))])
    def test_of_datetime(self, offset: timezone | None) -> None:
        plain = datetime(2026, 7, 1, 9, 30, 15, 123456, tzinfo=offset, fold=1)
        moment = Moment(2026, 7, 1, 9, 30, 15, 123456, tzinfo=offset, fold=1)
        schedule = from_options(execute_at=moment, timezone="Asia/Tokyo")
        assert schedule == from_options(execute_at=plain, timezone="Asia/Tokyo")
        assert schedule.text.startswith("once 2026-07-01T")
        assert isinstance(schedule, Once)
        assert type(schedule.at) is datetime

    def test_of_datetime_as_the_time_to_go_on_from(self) -> None:
        moment = Moment(2026, 7, 1, 9, 30, 15, 123456, tzinfo=UTC)
        for schedule in (Cron("0 9 * * *", "Europe/London"), Cron("* * * * *"), Interval(timedelta(hours=1))):
            for found in (schedule.first(moment), schedule.next(moment), schedule.next_after(moment, moment)):
                assert type(found) is datetime

    def test_of_timedelta(self) -> None:
        schedule = from_options(interval=Span(minutes=5))
        assert isinstance(schedule, Interval)
        assert type(schedule.duration) is timedelta
        assert schedule == Interval(timedelta(minutes=5))

    def test_of_str(self) -> None:
        schedule = from_options(schedule=Text.DAILY, timezone=Text.TOKYO)
        assert schedule.text == "cron @daily @Asia/Tokyo"
        assert type(schedule.timezone) is str

    @pytest.mark.parametrize("value", [NotATime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=BrokenZone())])
    def test_that_is_no_instant_is_refused(self, value: datetime) -> None:
        with pytest.raises(ScheduleError, match="can't be understood"):
            from_options(execute_at=value)


class TestCanonicalText:
    """Stored and compared: it must never change."""

    @pytest.mark.parametrize(
        ("schedule", "text"),
        [
            (Cron("0 9 * * *", "Europe/London"), "cron 0 9 * * * @Europe/London"),
            (Cron(" 0\t9  * * mon-Fri "), "cron 0 9 * * MON-FRI @UTC"),
            (Cron("*/5 0-23/2 L jan ? 30", "Etc/GMT+1"), "cron */5 0-23/2 L JAN ? 30 @Etc/GMT+1"),
            (Cron("0 9 * * 5l"), "cron 0 9 * * 5L @UTC"),
            (Cron(" @Daily "), "cron @daily @UTC"),
            (Cron("@hourly", "EST5EDT,M3.2.0,M11.1.0"), "cron @hourly @EST5EDT,M3.2.0,M11.1.0"),
            (Interval(timedelta(seconds=10)), "interval 10 @UTC"),
            (Interval(timedelta(seconds=100), "Asia/Tokyo"), "interval 100 @Asia/Tokyo"),
            (Interval(timedelta(milliseconds=1500)), "interval 1.5 @UTC"),
            (Interval(MICROSECOND), "interval 0.000001 @UTC"),
            (Interval(timedelta(days=10**6, microseconds=10)), "interval 86400000000.00001 @UTC"),
            (
                Once(datetime(2026, 11, 21, 10, tzinfo=UTC), digest="digest"),
                "once 2026-11-21T10:00:00.000000Z @UTC #digest",
            ),
            (Once(datetime(2026, 11, 21, 10, tzinfo=UTC)), "once 2026-11-21T10:00:00.000000Z @UTC"),
            (Once(datetime(10, 1, 1, 0, 0, 0, 7, tzinfo=UTC), "UTC+12"), "once 0010-01-01T00:00:00.000007Z @UTC+12"),
        ],
    )
    def test_snapshot(self, schedule: Schedule, text: str) -> None:
        assert schedule.text == text
        assert parse(text) == schedule
        assert hash(parse(text)) == hash(schedule)

    def test_from_options(self) -> None:
        assert from_options(schedule="0 9 * * *").text == "cron 0 9 * * * @UTC"
        assert from_options(schedule="@daily", timezone="Asia/Tokyo", digest="x").text == "cron @daily @Asia/Tokyo"
        assert from_options(interval=timedelta(hours=1), digest="x").text == "interval 3600 @UTC"
        assert from_options(execute_at=NEW_YEAR, digest="x").text == "once 2026-01-01T00:00:00.000000Z @UTC #x"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "cron",
            "cron 0 9 * * *",
            "cron 0 9 * * * @",
            "cron  0 9 * * * @UTC",
            "cron 0 9 * * * @UTC ",
            "cron 0 9 * * * @UTC #x",
            "cron 0 9 * * mon @UTC",
            "cron 0 9 30 2 * @UTC",
            "cron 0 9 * * * @Nowhere",
            "Cron 0 9 * * * @UTC",
            "0 9 * * *",
            "interval 0 @UTC",
            "interval -1 @UTC",
            "interval 010 @UTC",
            "interval 1. @UTC",
            "interval 1.50 @UTC",
            "interval 1.0000001 @UTC",
            "interval 1e3 @UTC",
            "interval 1_0 @UTC",
            "interval ten @UTC",
            "interval 99999999999999999999 @UTC",
            "interval " + "9" * 5000 + " @UTC",
            "interval 10 @UTC #x",
            "once 2026-11-21 @UTC",
            "once 2026-11-21T10:00:00.000000+00:00 @UTC",
            "once 2026-11-21T10:00:00.000000 @UTC",
            "once 2026-11-21T10:00:00Z @UTC",
            "once 2026-11-21T10:00:00.000000Z @UTC #",
            "once 2026-11-21T10:00:00.000000Z @UTC #a b",
            "once never @UTC",
            "\x00",
            None,
            7,
            [],
        ],
    )
    def test_anything_else_is_refused(self, text: Any) -> None:
        with pytest.raises(ScheduleError, match="^(S|A s)tored schedule"):
            parse(text)

    def test_schedules_are_immutable(self) -> None:
        with pytest.raises(AttributeError):
            parse("cron 0 9 * * * @UTC").expression = "@daily"  # type: ignore[attr-defined]
        assert not hasattr(parse("interval 10 @UTC"), "__dict__")


class TestTimeZones:
    @pytest.mark.parametrize(
        ("name", "winter", "summer"),
        [
            ("UTC", 0, 0),
            ("GMT", 0, 0),
            ("Europe/London", 0, 1),
            ("America/Argentina/Buenos_Aires", -3, -3),
            ("Etc/GMT+12", -12, -12),
            ("UTC+12", 12, 12),
            ("UTC-3", -3, -3),
            ("GMT+03:30", 3.5, 3.5),
            ("JST-9", 9, 9),
            ("EST5EDT", -5, -4),
            ("EST5EDT,M3.2.0,M11.1.0", -5, -4),
            ("CET-1CEST,M3.5.0/2,M10.5.0/3", 1, 2),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 11, 10),
            ("AEST-10AEDT-11,M10.1.0/2,M4.1.0/3", 11, 10),
            ("EST5EDT4,M4.1.0/02:00:00,M10-5-0/02:00", -5, -4),
            ("EST5EDT,J60,J300", -5, -4),
            ("UTC+3DST", 3, 4),
            ("utc+3", -3, -3),
            ("A5", -5, -5),
            ("UTC+0330", 3.5, 3.5),
            ("EST5", -5, -5),
            ("America/New York", -5, -4),
        ],
    )
    def test_names(self, name: str, winter: float, summer: float) -> None:
        schedule = Cron("@daily", name)
        assert schedule.timezone_name == schedule.timezone == name
        for month, hours in ((1, winter), (7, summer)):
            assert datetime(2026, month, 1, tzinfo=schedule.zone).utcoffset() == timedelta(hours=hours)

    def test_rules_of_the_iana_database_go_on_after_2037(self) -> None:
        zone = Cron("@daily", "America/New_York").zone
        assert datetime(2060, 7, 1, tzinfo=zone).utcoffset() == timedelta(hours=-4)

    def test_dublin_is_on_daylight_saving_in_winter(self) -> None:
        zone = Cron("@daily", "Europe/Dublin").zone
        assert datetime(2026, 1, 1, tzinfo=zone).dst() == timedelta(hours=-1)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("Europe/Lodnon", "did you mean 'Europe/London'?"),
            ("europe/london", "did you mean 'Europe/London'?"),
            ("america/new york", "did you mean 'America/New_York'?"),
            ("utc", "did you mean 'UTC'?"),
            ("CEST", "did you mean 'Europe/Berlin'?"),
            ("BST", "did you mean 'Europe/London'?"),
            ("IST", "did you mean 'Asia/Kolkata'?"),
            ("PST", "did you mean 'America/Los_Angeles'?"),
            ("edt", "did you mean 'America/New_York'?"),
            ("+02:00", "did you mean 'UTC+2'?"),
            ("-0530", "did you mean 'UTC-5:30'?"),
            ("+5", "did you mean 'UTC+5'?"),
            ("\u22125", "did you mean 'UTC-5'?"),
            ("UTC + 5", "did you mean 'UTC+5'?"),
            ("UTC+1 ", "did you mean 'UTC+1'?"),
            ("+99:00", "write the name of a zone"),
            ("Z", "did you mean 'UTC'?"),
            ("Berlin", "did you mean 'Europe/Berlin'?"),
            ("new york", "did you mean 'America/New_York'?"),
            ("Asia/Calcuta", "did you mean 'Asia/Calcutta'?"),
            ("Europe/Munich", "write the name of a zone"),
            ("W. Europe Standard Time", "did you mean 'Europe/Berlin'?"),
            ("Xyzzy", "write the name of a zone"),
        ],
    )
    def test_unknown_zone_names_the_closest(self, name: str, hint: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            Cron("@daily", name)
        assert f"Unknown time zone {name!r}" in str(caught.value)
        assert hint in str(caught.value)

    REFUSED = (
        "Europe",
        "America/Argentina",
        "zone.tab",
        "Europe/London2",
        "Etc/GMT+15",
        "UTC+1 ",
        " UTC",
        "UTC\n",
        "UTC+25",
        "ABC-24",
        "EST5EDT,M13.1.0,M11.1.0",
        "EST5EDT,4,0,6,7200,10,0,26,7200,999999",
        "EST5EDT,4,0,6,9999999999,10,0,26,7200",
        "UTC+5.5",
        "ABC+60EDT5,J59,J60",
        "ABC+5EDT60,J59,J60",
        "J60A0530",
        "../x3",
        "posix/../../passwd",
        "U" * 300,
        "A" * 100_000,
        "/etc/passwd",
        "/usr/share/zoneinfo/Europe/London",
        ":Europe/London",
        ":/etc/passwd",
        "../zoneinfo/Europe/London",
        "Europe/../London",
        "Europe/./London",
        "~/London",
        "C:\\London",
        "\x00",
        "Europe/London\x00",
        "Eur\udc80pe",
    )

    @pytest.mark.parametrize("name", REFUSED, ids=lambda name: repr(name[:40]))
    @pytest.mark.filterwarnings("ignore:Parsed time zone")
    def test_whatever_is_no_zone_is_refused(self, name: str) -> None:
        with pytest.raises(ScheduleError) as caught:
            Cron("@daily", name)
        assert len(str(caught.value)) < 1000

    def test_every_name_of_the_database(self) -> None:
        for name in zoneinfo.available_timezones():
            assert find_zone(name) is not None

    @pytest.mark.parametrize(
        ("variable", "hours"),
        [
            ("XYZ-03:00", 3),
            ("Asia/Tokyo", 9),
            (":Asia/Tokyo", 9),
            (":/usr/share/zoneinfo/Asia/Tokyo", 9),
            ("localtime", None),
            (None, None),
        ],
    )
    def test_localtime_is_the_zone_of_the_machine(self, variable: str | None, hours: int | None) -> None:
        if variable and variable.startswith(":/") and not Path(variable[1:]).exists():
            pytest.skip("no time zone database in this place")
        code = (
            "from datetime import *; from pyncette.schedule import *; c = Cron('0 0 * * *', 'localtime');"
            "assert parse(c.text) == c; print(datetime(2030, 7, 1, tzinfo=c.zone).utcoffset() // timedelta(hours=1))"
        )
        env = {"PYTHONPATH": PATH} | ({"TZ": variable} if variable else {})
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert hours is None or found.stdout.strip() == str(hours)

    def test_an_abbreviation_of_the_machines_own_clock(self) -> None:
        code = "from pyncette.schedule import Cron; print(Cron('0 12 1 7 *', 'CEST').zone)"
        env = {"PYTHONPATH": PATH, "TZ": "Europe/Berlin"}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "Europe/Berlin"

    def test_a_broken_file_of_the_database_is_no_zone(self, tmp_path: Path) -> None:
        (tmp_path / "Broken").write_text("no zone")
        zoneinfo.reset_tzpath([tmp_path])
        try:
            with pytest.raises(ScheduleError, match="Unknown time zone 'Broken'"):
                Cron("@daily", "Broken")
        finally:
            zoneinfo.reset_tzpath()

    def test_no_file_is_opened_but_those_of_the_database(self) -> None:
        code = f"""
import os, sys, zoneinfo
from pyncette.schedule import Cron
zoneinfo.available_timezones()
roots = tuple(os.path.realpath(path) for path in [*zoneinfo.TZPATH, sys.prefix, sys.base_prefix, *sys.path] if path)
foreign = []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith(roots) or not os.path.isabs(os.fsdecode(args[0])):
            foreign.append(args[0])
sys.addaudithook(hook)
open("/dev/null").close()
assert foreign.pop() == "/dev/null"
for name in {self.REFUSED!r}:
    try:
        Cron("@daily", name)
    except ValueError:
        continue
    raise SystemExit(name)
if foreign:
    raise SystemExit(repr(foreign))
"""
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": PATH}, check=True)

    def test_utc_needs_no_database(self) -> None:
        code = "from pyncette.schedule import Cron; Cron('@daily', 'Europe/London')"
        env = {"PYTHONPATH": PATH, "PYTHONTZPATH": ""}
        block = "import sys; sys.modules['tzdata'] = None; "
        found = subprocess.run([sys.executable, "-c", block + code], env=env, capture_output=True, text=True)
        assert "install one with: pip install tzdata" in found.stderr
        code = code.replace("Europe/London", "UTC")
        subprocess.run([sys.executable, "-c", block + code], env=env, check=True)


class TestWallClock:
    """What schedules are made of: instants behind the times that a clock shows."""

    LONDON = find_zone("Europe/London")

    @pytest.mark.parametrize("second", [0, 0.5])
    @pytest.mark.parametrize("fold", [0, 1])
    def test_set_back_at_the_beginning_of_the_second_pass(self, second: float, fold: int) -> None:
        shown = datetime(2026, 10, 25, 1, 30, tzinfo=self.LONDON, fold=fold) + timedelta(seconds=second)
        assert set_back_at(shown.replace(fold=fold)) == utc("2026-10-25 01:00")

    @pytest.mark.parametrize("hour", [0, 2])
    def test_not_set_back_around_it(self, hour: int) -> None:
        assert set_back_at(datetime(2026, 10, 25, hour, 30, tzinfo=self.LONDON)) is None

    def test_not_set_back_in_a_gap(self) -> None:
        assert set_back_at(datetime(2026, 3, 29, 1, 30, tzinfo=self.LONDON)) is None

    def test_instant_of_is_the_inverse_of_wall_of_but_in_a_gap(self) -> None:
        for minute in range(0, 240, 5):
            instant = utc("2026-03-28 23:00") + timedelta(minutes=minute)
            assert instant_of(wall_of(instant, self.LONDON), self.LONDON) == instant
        assert instant_of(datetime(2026, 3, 29, 1, 0), self.LONDON) == utc("2026-03-29 01:00")
        assert instant_of(datetime(2026, 3, 29, 1, 59, 59, 999999), self.LONDON) == utc("2026-03-29 01:00")


class TestCost:
    def test_ten_million_users_of_one_schedule_cost_one_computation(self, computed: list[datetime]) -> None:
        last = utc("2031-05-05 08:00")
        found = {parse("cron 0 9 * * * @Europe/London").next(last) for _ in range(1000)}
        assert found == {utc("2031-05-06 08:00")}
        assert len(computed) == 1

    def test_registrations_within_a_second_share_a_computation(self, computed: list[datetime]) -> None:
        start = utc("2032-05-05 08:00")
        found = {Cron("0 9 * * *", "Europe/London").first(start + n * timedelta(milliseconds=1)) for n in range(1000)}
        assert found == {utc("2032-05-06 08:00")}
        assert len(computed) == 1

    @pytest.mark.parametrize("pattern", ["*/30 1 25-31 3 */7", "* 1 25-31 3 */7", "* 1 25-31 3 */7 *"])
    def test_a_time_that_the_clock_skips_each_year_ends_the_search(self, pattern: str, computed: list[datetime]) -> None:
        assert Cron(pattern, "Europe/London").next(NEW_YEAR) is None
        assert len(computed) < 100

    def test_a_second_pass_of_many_hours_is_not_searched_second_by_second(self, computed: list[datetime]) -> None:
        schedule = Cron("0-59 0-23 * * * 0-59", "ABC+11EDT-8,M4.1.0,M10.1.0")  # set back by 19 hours
        october = utc("2026-10-01")
        hours = (october + n * timedelta(hours=1) for n in range(31 * 24))
        last = next(hour for hour in hours if hour.astimezone(schedule.zone).fold)
        assert schedule.next(last) == next(hour for hour in hours if not hour.astimezone(schedule.zone).fold)
        assert len(computed) <= 3

    def test_a_stored_text_is_read_once(self) -> None:
        assert parse("cron 1 9 * * * @Europe/London") is parse("cron 1 9 * * * @Europe/London")

    def test_threads_do_not_disturb_each_other(self) -> None:
        calendar = read("0 * * * *")
        wrong: list[datetime] = []

        def work(day: datetime) -> None:
            for n in range(500):
                start = day + timedelta(hours=n)
                if calendar.after(start) != start + timedelta(hours=1):
                    wrong.append(start)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work, args=(datetime(year, 1, 1),)) for year in range(2030, 2038)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert wrong == []


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The times from which the calendar was searched."""
    calls: list[datetime] = []
    search = Calendar.after

    def after(self: Calendar, wall: datetime) -> datetime | None:
        calls.append(wall)
        assert len(calls) < 1000, "searches forever"
        return search(self, wall)

    monkeypatch.setattr(Calendar, "after", after)
    return calls
