"""Recurrence rules against the examples of RFC 5545 (section 3.8.5.3), and what is around them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from pyncette.schedule import RRule, parse

NEW_YORK = ZoneInfo("America/New_York")
SECOND = timedelta(seconds=1)


def ours(schedule: RRule, last: datetime) -> Iterator[datetime]:
    found = schedule.next(last)
    while found is not None:
        yield found
        found = schedule.next(found)


def rule(text: str, start: str = "19970902T090000", *more: str) -> RRule:
    return RRule("\n".join([f"DTSTART;TZID=America/New_York:{start}", f"RRULE:{text}", *more]), "America/New_York")


def shown(schedule: RRule, count: int) -> list[str]:
    """``count`` occurrences from the first of all on, as New York's clocks show them; fewer if there are no more."""
    occurrences = islice(ours(schedule, datetime(1990, 1, 1, tzinfo=UTC)), count)
    return [f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M}" for at in occurrences]


def at(days: str, *times: str) -> list[str]:
    """``1997-09: 2 3, 1997-10: 1`` as days, at each of the times (09:00)."""
    found = []
    for month in days.split(", "):
        name, _, numbers = month.partition(": ")
        found += [f"{name}-{int(day):02} {time}" for day in numbers.split() for time in times or ["09:00"]]
    return found


def days(first: int, last: int, step: int = 1) -> str:
    return " ".join(map(str, range(first, last + 1, step)))


#: What the RFC lists, in its order. The last item says whether that is all there is.
EXAMPLES = [
    ("FREQ=DAILY;COUNT=10", "19970902T090000", at(f"1997-09: {days(2, 11)}"), True),
    (
        "FREQ=DAILY;UNTIL=19971224T000000Z",
        "19970902T090000",
        at(f"1997-09: {days(2, 30)}, 1997-10: {days(1, 31)}, 1997-11: {days(1, 30)}, 1997-12: {days(1, 23)}"),
        True,
    ),
    (
        "FREQ=DAILY;INTERVAL=2",
        "19970902T090000",
        at(f"1997-09: {days(2, 30, 2)}, 1997-10: {days(2, 30, 2)}, 1997-11: 1 3 5"),
        False,
    ),
    ("FREQ=DAILY;INTERVAL=10;COUNT=5", "19970902T090000", at("1997-09: 2 12 22, 1997-10: 2 12"), True),
    (
        "FREQ=YEARLY;UNTIL=20000131T140000Z;BYMONTH=1;BYDAY=SU,MO,TU,WE,TH,FR,SA",
        "19980101T090000",
        at(f"1998-01: {days(1, 31)}, 1999-01: {days(1, 31)}, 2000-01: {days(1, 31)}"),
        True,
    ),
    (
        "FREQ=DAILY;UNTIL=20000131T140000Z;BYMONTH=1",
        "19980101T090000",
        at(f"1998-01: {days(1, 31)}, 1999-01: {days(1, 31)}, 2000-01: {days(1, 31)}"),
        True,
    ),
    ("FREQ=WEEKLY;COUNT=10", "19970902T090000", at("1997-09: 2 9 16 23 30, 1997-10: 7 14 21 28, 1997-11: 4"), True),
    (
        "FREQ=WEEKLY;UNTIL=19971224T000000Z",
        "19970902T090000",
        at("1997-09: 2 9 16 23 30, 1997-10: 7 14 21 28, 1997-11: 4 11 18 25, 1997-12: 2 9 16 23"),
        True,
    ),
    (
        "FREQ=WEEKLY;INTERVAL=2;WKST=SU",
        "19970902T090000",
        at("1997-09: 2 16 30, 1997-10: 14 28, 1997-11: 11 25, 1997-12: 9 23, 1998-01: 6 20, 1998-02: 3 17"),
        False,
    ),
    (
        "FREQ=WEEKLY;UNTIL=19971007T000000Z;WKST=SU;BYDAY=TU,TH",
        "19970902T090000",
        at("1997-09: 2 4 9 11 16 18 23 25 30, 1997-10: 2"),
        True,
    ),
    ("FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", "19970902T090000", at("1997-09: 2 4 9 11 16 18 23 25 30, 1997-10: 2"), True),
    (
        "FREQ=WEEKLY;INTERVAL=2;UNTIL=19971224T000000Z;WKST=SU;BYDAY=MO,WE,FR",
        "19970901T090000",
        at("1997-09: 1 3 5 15 17 19 29, 1997-10: 1 3 13 15 17 27 29 31, 1997-11: 10 12 14 24 26 28, 1997-12: 8 10 12 22"),
        True,
    ),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH", "19970902T090000", at("1997-09: 2 4 16 18 30, 1997-10: 2 14 16"), True),
    (
        "FREQ=MONTHLY;COUNT=10;BYDAY=1FR",
        "19970905T090000",
        at(
            "1997-09: 5, 1997-10: 3, 1997-11: 7, 1997-12: 5, 1998-01: 2, 1998-02: 6, 1998-03: 6, 1998-04: 3, 1998-05: 1, 1998-06: 5"
        ),
        True,
    ),
    (
        "FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR",
        "19970905T090000",
        at("1997-09: 5, 1997-10: 3, 1997-11: 7, 1997-12: 5"),
        True,
    ),
    (
        "FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU",
        "19970907T090000",
        at("1997-09: 7 28, 1997-11: 2 30, 1998-01: 4 25, 1998-03: 1 29, 1998-05: 3 31"),
        True,
    ),
    (
        "FREQ=MONTHLY;COUNT=6;BYDAY=-2MO",
        "19970922T090000",
        at("1997-09: 22, 1997-10: 20, 1997-11: 17, 1997-12: 22, 1998-01: 19, 1998-02: 16"),
        True,
    ),
    (
        "FREQ=MONTHLY;BYMONTHDAY=-3",
        "19970928T090000",
        at("1997-09: 28, 1997-10: 29, 1997-11: 28, 1997-12: 29, 1998-01: 29, 1998-02: 26"),
        False,
    ),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15",
        "19970902T090000",
        at("1997-09: 2 15, 1997-10: 2 15, 1997-11: 2 15, 1997-12: 2 15, 1998-01: 2 15"),
        True,
    ),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1",
        "19970930T090000",
        at("1997-09: 30, 1997-10: 1 31, 1997-11: 1 30, 1997-12: 1 31, 1998-01: 1 31, 1998-02: 1"),
        True,
    ),
    (
        "FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15",
        "19970910T090000",
        at("1997-09: 10 11 12 13 14 15, 1999-03: 10 11 12 13"),
        True,
    ),
    (
        "FREQ=MONTHLY;INTERVAL=2;BYDAY=TU",
        "19970902T090000",
        at("1997-09: 2 9 16 23 30, 1997-11: 4 11 18 25, 1998-01: 6 13 20 27, 1998-03: 3 10 17 24 31"),
        False,
    ),
    (
        "FREQ=YEARLY;COUNT=10;BYMONTH=6,7",
        "19970610T090000",
        at(", ".join(f"{year}-06: 10, {year}-07: 10" for year in range(1997, 2002))),
        True,
    ),
    (
        "FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3",
        "19970310T090000",
        at("1997-03: 10, " + ", ".join(f"{year}-01: 10, {year}-02: 10, {year}-03: 10" for year in (1999, 2001, 2003))),
        True,
    ),
    (
        "FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200",
        "19970101T090000",
        at(
            "1997-01: 1, 1997-04: 10, 1997-07: 19, 2000-01: 1, 2000-04: 9, 2000-07: 18, "
            "2003-01: 1, 2003-04: 10, 2003-07: 19, 2006-01: 1"
        ),
        True,
    ),
    ("FREQ=YEARLY;BYDAY=20MO", "19970519T090000", at("1997-05: 19, 1998-05: 18, 1999-05: 17"), False),
    ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", "19970512T090000", at("1997-05: 12, 1998-05: 11, 1999-05: 17"), False),
    (
        "FREQ=YEARLY;BYMONTH=3;BYDAY=TH",
        "19970313T090000",
        at("1997-03: 13 20 27, 1998-03: 5 12 19 26, 1999-03: 4 11 18 25"),
        False,
    ),
    (
        "FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8",
        "19970605T090000",
        at("1997-06: 5 12 19 26, 1997-07: 3 10 17 24 31, 1997-08: 7 14 21 28, 1998-06: 4 11 18 25, 1998-07: 2 9 16 23 30"),
        False,
    ),
    (
        "FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13",
        "19970902T090000",
        at("1998-02: 13, 1998-03: 13, 1998-11: 13, 1999-08: 13, 2000-10: 13"),
        False,
    ),
    (
        "FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13",
        "19970913T090000",
        at(
            "1997-09: 13, 1997-10: 11, 1997-11: 8, 1997-12: 13, 1998-01: 10, 1998-02: 7, 1998-03: 7, 1998-04: 11, 1998-05: 9, 1998-06: 13"
        ),
        False,
    ),
    (
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
        "19961105T090000",
        at("1996-11: 5, 2000-11: 7, 2004-11: 2"),
        False,
    ),
    ("FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3", "19970904T090000", at("1997-09: 4, 1997-10: 7, 1997-11: 6"), True),
    (
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2",
        "19970929T090000",
        at("1997-09: 29, 1997-10: 30, 1997-11: 27, 1997-12: 30, 1998-01: 29, 1998-02: 26, 1998-03: 30"),
        False,
    ),
    ("FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T210000Z", "19970902T090000", at("1997-09: 2", "09:00", "12:00", "15:00"), True),
    (
        "FREQ=MINUTELY;INTERVAL=15;COUNT=6",
        "19970902T090000",
        at("1997-09: 2", "09:00", "09:15", "09:30", "09:45", "10:00", "10:15"),
        True,
    ),
    ("FREQ=MINUTELY;INTERVAL=90;COUNT=4", "19970902T090000", at("1997-09: 2", "09:00", "10:30", "12:00", "13:30"), True),
    (
        "FREQ=DAILY;BYHOUR=9,10,11,12,13,14,15,16;BYMINUTE=0,20,40",
        "19970902T090000",
        at("1997-09: 2 3", *(f"{hour:02}:{minute:02}" for hour in range(9, 17) for minute in (0, 20, 40))),
        False,
    ),
    (
        "FREQ=MINUTELY;INTERVAL=20;BYHOUR=9,10,11,12,13,14,15,16",
        "19970902T090000",
        at("1997-09: 2 3", *(f"{hour:02}:{minute:02}" for hour in range(9, 17) for minute in (0, 20, 40))),
        False,
    ),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "19970805T090000", at("1997-08: 5 10 19 24"), True),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "19970805T090000", at("1997-08: 5 17 19 31"), True),
    (
        "FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5",
        "20070115T090000",
        at("2007-01: 15 30, 2007-02: 15, 2007-03: 15 30"),
        True,
    ),
]


class TestExamplesOfTheRFC:
    @pytest.mark.parametrize(("text", "start", "expected", "ends"), EXAMPLES, ids=[each[0] for each in EXAMPLES])
    def test_occurs_as_the_rfc_lists(self, text: str, start: str, expected: list[str], ends: bool) -> None:
        assert shown(rule(text, start), len(expected) + ends) == expected

    @pytest.mark.parametrize(("text", "start", "expected"), [each[:3] for each in EXAMPLES], ids=[each[0] for each in EXAMPLES])
    def test_the_text_that_is_stored_gives_the_same(self, text: str, start: str, expected: list[str]) -> None:
        stored = parse(rule(text, start).text)
        assert stored == rule(text, start)
        assert shown(stored, 3) == expected[:3]

    def test_every_friday_the_13th_but_for_what_is_excluded(self) -> None:
        found = rule("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "19970902T090000", "EXDATE;TZID=America/New_York:19980213T090000")
        assert shown(found, 2) == at("1998-03: 13, 1998-11: 13")
