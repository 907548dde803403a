"""What time it is: here, and in the store."""

import logging
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.clock import AlignedClock, SystemClock, from_microseconds, to_microseconds
from pyncette.testing import VirtualClock

SECOND = timedelta(seconds=1)

instants = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))]))


@given(instants)
def test_microseconds_keep_an_instant_exactly(instant):
    assert from_microseconds(to_microseconds(instant)) == instant
    assert isinstance(to_microseconds(instant), int)


@given(instants, instants)
def test_microseconds_keep_the_order_of_instants(one, other):
    assert (one < other) == (to_microseconds(one) < to_microseconds(other))


def test_the_values_of_microseconds_are_those_of_unix():
    assert to_microseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert to_microseconds(datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1767225600000001
    assert to_microseconds(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1
    assert from_microseconds(-1).tzinfo is UTC


def test_the_clock_of_the_system_is_aware_and_its_monotonic_one_does_not_go_back():
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert abs(clock.now().timestamp() - time.time()) < 5
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has a clock that runs on while suspended")
def test_the_monotonic_clock_runs_on_while_the_machine_is_suspended():
    # I2: CLOCK_MONOTONIC stands still meanwhile, leases don't.
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    reading = SystemClock().monotonic()
    assert before <= reading <= time.clock_gettime(time.CLOCK_BOOTTIME)


class Server:
    """The clock of a store, so much ahead of the local one, and so far away at each of its answers (there and back, in seconds)."""

    def __init__(self, clock, ahead, *ways):
        self.clock = clock
        self.ahead = ahead
        self.ways = list(ways) or [(0, 0)]
        self.calls = 0

    async def time(self):
        there, back = self.ways[self.calls % len(self.ways)]
        self.calls += 1
        await self.clock.advance(timedelta(seconds=there))
        answer = self.clock.now() + self.ahead
        await self.clock.advance(timedelta(seconds=back))
        return answer


def test_until_it_is_aligned_it_is_the_wall_clock(clock):
    aligned = AlignedClock(clock)
    assert aligned.now() == clock.now()
    clock.set(clock.now() + timedelta(days=1))
    assert aligned.now() == clock.now()
    assert (aligned.skew, aligned.error) == (timedelta(), timedelta())


@pytest.mark.parametrize("ahead", [timedelta(), 30 * SECOND, -30 * SECOND, timedelta(days=-400)])
def test_aligned_it_is_the_clock_of_the_store(clock, ahead):
    aligned = AlignedClock(clock)

    async def main():
        await aligned.align(Server(clock, ahead, (0.01, 0.01)).time)
        assert aligned.now() == pytest.approx(clock.now() + ahead, abs=SECOND / 10**5)
        assert aligned.skew == pytest.approx(-ahead, abs=SECOND / 10**5)
        assert aligned.error == pytest.approx(SECOND / 100, abs=SECOND / 10**5)
        await clock.advance(100 * SECOND)
        assert aligned.now() == pytest.approx(clock.now() + ahead, abs=SECOND / 10**5)

    clock.run(main())


def test_once_aligned_a_step_of_the_wall_clock_does_not_move_it(clock):
    # I2, I4
    aligned = AlignedClock(clock)

    async def main():
        await aligned.align(Server(clock, timedelta()).time)
        before = aligned.now()
        for step in (timedelta(hours=-5), timedelta(days=300)):
            clock.set(clock.now() + step)
            assert aligned.now() == before
        await clock.advance(SECOND)
        assert aligned.now() == before + SECOND

    clock.run(main())


@pytest.mark.parametrize(
    "ways", [[(0, 0.2), (0.001, 0.001), (0.5, 0)], [(0.001, 0.001), (0, 3), (3, 0)], [(3, 0), (0, 3), (0.001, 0.001)]]
)
def test_the_answer_with_the_shortest_way_counts(clock, ways):
    aligned = AlignedClock(clock)

    async def main():
        server = Server(clock, 7 * SECOND, *ways)
        await aligned.align(server.time)
        assert server.calls == 3
        assert aligned.error == pytest.approx(SECOND / 1000, abs=SECOND / 10**5)
        assert abs(aligned.now() - (clock.now() + 7 * SECOND)) < SECOND / 10**4

    clock.run(main())


@given(there=st.floats(0, 5), back=st.floats(0, 5))
def test_the_clock_is_never_farther_off_than_its_error_says(there, back):
    # I4: so much earlier than its time may a run begin, and no more.
    clock = VirtualClock()
    aligned = AlignedClock(clock)

    async def main():
        await aligned.align(Server(clock, -9 * SECOND, (there, back)).time)
        assert abs(aligned.now() - (clock.now() - 9 * SECOND)) <= aligned.error + timedelta(microseconds=5)

    clock.run(main())


def test_a_store_that_cannot_tell_leaves_the_alignment_as_it_was(clock):
    aligned = AlignedClock(clock)

    async def broken():
        raise ConnectionError

    async def main():
        await aligned.align(Server(clock, 7 * SECOND).time)
        with pytest.raises(ConnectionError):
            await aligned.align(broken)
        assert aligned.now() == clock.now() + 7 * SECOND
        assert aligned.skew == -7 * SECOND

    clock.run(main())


def test_a_skew_is_warned_of_once_and_again_when_it_changes(clock, caplog):
    aligned = AlignedClock(clock)

    def warnings():
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    async def main():
        await aligned.align(Server(clock, SECOND / 2).time)
        assert not warnings()
        for _ in range(3):
            await aligned.align(Server(clock, -30 * SECOND).time)
        assert len(warnings()) == 1
        assert "+30.000 s" in warnings()[0]
        await aligned.align(Server(clock, 30 * SECOND).time)
        assert len(warnings()) == 2
        assert "-30.000 s" in warnings()[1]

    clock.run(main())


def test_both_clocks_run_at_the_same_pace(clock):
    aligned = AlignedClock(clock)

    async def main():
        await aligned.align(Server(clock, 5 * SECOND).time)
        assert aligned.monotonic() == clock.monotonic()
        await clock.advance(SECOND)
        assert aligned.monotonic() == clock.monotonic()

    clock.run(main())
