"""How far claims look: everything, until that is expensive; and how long what is missed may wait."""

from datetime import UTC, datetime, timedelta

from pyncette.looks import Looks

NOW = datetime(2026, 1, 1, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def expensive(seconds=0.1):
    """Looks at the partition p that know that everything takes so long, with nothing ready before an hour from now; and their clock."""
    clock = Clock()
    looks = Looks(clock)
    for _ in range(2):
        looks.begin("p", NOW).end(NOW + timedelta(hours=1), seconds)
    return looks, clock


def everything(look):
    return look.since is None


def test_everything_is_looked_at_as_long_as_that_is_cheap():
    looks, _ = expensive(0.009)
    assert all(everything(looks.begin("p", NOW)) for _ in range(5))


def test_one_long_look_is_an_accident():
    looks = Looks(Clock())
    for seconds in (0.001, 5.0, 0.001):
        looks.begin("p", NOW).end(None, seconds)
        assert everything(looks.begin("p", NOW))


def test_an_expensive_look_is_not_repeated_before_twenty_times_as_long():
    looks, clock = expensive(0.1)
    look = looks.begin("p", NOW)
    assert (look.since, look.until) == (NOW - 5 * SECOND, NOW + SECOND)
    clock.seconds = 1.9
    assert not everything(looks.begin("p", NOW))
    clock.seconds = 2.1
    assert everything(looks.begin("p", NOW))
    assert everything(looks.begin("another", NOW))


def test_however_expensive_everything_is_looked_at_once_a_minute():
    looks, clock = expensive(9.0)
    clock.seconds = 59.0
    assert not everything(looks.begin("p", NOW))
    clock.seconds = 61.0
    assert everything(looks.begin("p", NOW))


def test_a_look_that_failed_is_not_repeated_at_once():
    looks, clock = expensive(9.0)
    clock.seconds = 61.0
    assert everything(looks.begin("p", NOW))  # and nothing comes of it: it takes longer than a call may
    assert not everything(looks.begin("p", NOW))


def test_a_claim_begins_where_the_one_before_has_left_off():
    looks, _ = expensive()
    an_hour_ago = NOW - 3600 * SECOND
    looks.begin("p", NOW).end(an_hour_ago, 0.001)
    assert looks.begin("p", NOW).since == an_hour_ago - 5 * SECOND


def test_where_nothing_is_ready_soon_it_is_looked_again_soon():
    looks, _ = expensive()
    assert looks.begin("p", NOW).end(None, 0.001) == NOW + SECOND
    assert looks.begin("p", NOW).end(NOW + SECOND / 2, 0.001) == NOW + SECOND / 2
    assert Looks(Clock()).begin("p", NOW).end(None, 0.001) is None


def test_what_this_process_writes_in_the_past_is_looked_for_at_once():
    looks, _ = expensive()
    looks.written("p", NOW)
    looks.written("another", NOW - 3600 * SECOND)
    assert looks.begin("p", NOW).since == NOW - 5 * SECOND
    looks.written("p", NOW - 60 * SECOND)
    assert looks.begin("p", NOW).since == NOW - 60 * SECOND
    looks.written("p")
    assert looks.begin("p", NOW).since == datetime.min.replace(tzinfo=UTC)


def test_a_claim_that_was_on_its_way_meanwhile_does_not_hide_it():
    looks, _ = expensive()
    under_way = looks.begin("p", NOW)
    looks.written("p", NOW - 60 * SECOND)
    under_way.end(NOW + 60 * SECOND, 0.1)
    assert looks.begin("p", NOW).since == NOW - 65 * SECOND


def test_a_clock_that_steps_back_hides_nothing():
    looks, _ = expensive()
    assert everything(looks.begin("p", NOW - 60 * SECOND))


def test_the_ends_of_time_are_times_like_others():
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    looks, _ = expensive()
    looks.begin("p", last).end(None, 0.1)
    assert looks.begin("p", last).until == last
    looks.begin("p", NOW).end(first, 0.1)
    assert looks.begin("p", NOW).since == first
    looks.written("p", first)
