"""Turns at the connections to a server: waiting for others is no fault of the server, and its silence is nobody's wait forever (I7)."""

import asyncio

import pytest

from pyncette.waiting import Turns

TIMEOUT = 10


async def call(turns, lasts, *, urgent=False):
    """The second at which the call ended, and what happened to it."""
    try:
        async with turns.turn(urgent=urgent):
            await asyncio.sleep(lasts)
    except TimeoutError:
        return asyncio.get_running_loop().time(), "timeout"
    return asyncio.get_running_loop().time(), "answered"


def test_any_number_of_calls_wait_as_long_as_others_are_answered(clock):
    async def main():
        turns = Turns(3, TIMEOUT)
        ended = await asyncio.gather(*(call(turns, 3) for _ in range(100)))
        assert {what for _, what in ended} == {"answered"}
        assert clock.elapsed > 10 * TIMEOUT

    clock.run(main())


@pytest.mark.parametrize("answered_before", [False, True])
def test_of_a_server_that_answers_nobody_all_learn_within_two_timeouts(clock, answered_before):
    async def main():
        turns = Turns(3, TIMEOUT)
        waiting = [asyncio.create_task(call(turns, 5 if answered_before and number == 0 else 1000)) for number in range(100)]
        ended = [what for _, what in await asyncio.gather(*waiting)]
        assert ended.count("answered") == answered_before
        assert clock.elapsed <= 2 * TIMEOUT + 5
        assert await call(turns, 9) == (asyncio.get_running_loop().time(), "answered"), "who comes later has all of the time"

    clock.run(main())


def test_a_call_has_all_of_its_time_when_its_turn_comes(clock):
    async def main():
        turns = Turns(1, TIMEOUT)
        ended = await asyncio.gather(*(call(turns, TIMEOUT - 1) for _ in range(5)), call(turns, TIMEOUT + 1))
        assert [what for _, what in ended] == ["answered"] * 5 + ["timeout"]

    clock.run(main())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_is_urgent_waits_for_one_at_most(clock, size):
    async def main():
        turns = Turns(size, TIMEOUT)
        others = [asyncio.create_task(call(turns, 1)) for _ in range(50)]
        await asyncio.sleep(0.5)
        await call(turns, 0, urgent=True)
        assert clock.elapsed <= 2.5
        await asyncio.gather(*others)

    clock.run(main())


def test_connections_are_dropped_once_for_all_the_calls_that_began_on_them(clock):
    async def main():
        dropped = []

        async def drop():
            dropped.append(clock.elapsed)

        turns = Turns(9, TIMEOUT, drop)
        silent = [asyncio.create_task(call(turns, 1000)) for _ in range(2)]
        await asyncio.sleep(1)
        later = asyncio.create_task(call(turns, 1000))
        await asyncio.gather(*silent)
        assert len(dropped) == 1
        again = asyncio.create_task(call(turns, 1000))  # on a new connection
        await later
        assert len(dropped) == 1
        await again
        assert len(dropped) == 2

    clock.run(main())


def test_they_are_not_dropped_for_those_who_had_no_turn_or_another_fault(clock):
    async def main():
        dropped = []

        async def drop():
            dropped.append(clock.elapsed)

        turns = Turns(1, TIMEOUT, drop)
        with pytest.raises(ZeroDivisionError):
            async with turns.turn(urgent=False):
                raise ZeroDivisionError
        task = asyncio.create_task(call(turns, 5))
        await asyncio.sleep(1)
        task.cancel()
        assert not dropped
        ended = await asyncio.gather(*(call(turns, 1000) for _ in range(5)))
        assert {what for _, what in ended} == {"timeout"}
        assert len(dropped) == 1
        turns = Turns(1, TIMEOUT, drop, (TimeoutError, ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            async with turns.turn(urgent=False):
                raise ZeroDivisionError
        assert len(dropped) == 2

    clock.run(main())


def test_one_that_is_cancelled_or_fails_gives_its_turn_back(clock):
    async def main():
        turns = Turns(2, TIMEOUT)
        for _ in range(5):
            cancelled = [asyncio.create_task(call(turns, 5, urgent=urgent)) for urgent in (False, True, False)]
            await asyncio.sleep(1)
            for task in cancelled:
                task.cancel()
            with pytest.raises(ZeroDivisionError):
                async with turns.turn(urgent=False):
                    raise ZeroDivisionError
        assert [what for _, what in await asyncio.gather(*(call(turns, 1) for _ in range(4)))] == ["answered"] * 4

    clock.run(main())


def test_the_end_waits_for_those_who_have_their_turn_but_not_for_ever(clock):
    async def main():
        turns = Turns(2, TIMEOUT)
        ending = asyncio.create_task(call(turns, 3))
        await asyncio.sleep(0)
        await turns.ended()
        assert ending.done()
        stuck = asyncio.create_task(call(turns, 1000))
        await asyncio.sleep(0)
        began = clock.elapsed
        await turns.ended()
        assert clock.elapsed - began <= TIMEOUT
        await stuck

    clock.run(main())
