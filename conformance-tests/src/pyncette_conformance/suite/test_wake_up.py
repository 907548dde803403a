"""Hints: how processes wake each other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from pyncette.repository import Hint, Key, Registration, Repository, SupportsWakeUp
from pyncette_conformance.builders import T0, registration
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestWakeUp"]

#: What other repositories tell has to be heard in this time (seconds). On an idle machine it takes a fraction of it.
_SOON = 20.0


class _Listener:
    """Somebody who listens, and what they have heard."""

    def __init__(self) -> None:
        self.heard: list[Hint] = []
        self.news = asyncio.Event()

    async def listen(self, repository: Repository) -> None:
        assert isinstance(repository, SupportsWakeUp)
        async with contextlib.aclosing(repository.wakeups()) as wakeups:
            async for hints in wakeups:
                self.heard += hints
                self.news.set()

    async def hears(self, expected: Sequence[Hint]) -> None:
        async with asyncio.timeout(_SOON):
            while not set(expected) <= set(self.heard):
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def _listening(repository: Repository) -> AsyncIterator[_Listener]:
    listener = _Listener()
    task = asyncio.create_task(listener.listen(repository))
    try:
        heard = asyncio.create_task(listener.news.wait())  # of the first batch, which is empty
        await asyncio.wait([task, heard], timeout=_SOON, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and task.exception() is None:
            pytest.skip("optional: wakeups() ended, so it can't listen here")
        assert not task.done(), f"it can't listen: {task.exception()!r}"
        assert heard.done(), "nothing says that it listens"
        assert listener.heard == [], "the first batch is not empty"
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=_SOON)
        assert task.cancelled() or task.result() is None


async def _tell(repository: Repository, registrations: Sequence[Registration]) -> Sequence[Hint]:
    """Store rows, and tell of them; the hints."""
    assert isinstance(repository, SupportsWakeUp)
    hints = [Hint(each.key.partition, each.target.execute_after) for each in registrations]
    await repository.register(T0, registrations)
    await repository.wake(hints)
    return hints


class TestWakeUp(Conformance):
    @scenario("shared", "supports_wake_up")
    async def test_what_one_tells_the_others_hear(self, store: Store) -> None:
        one, *others = await store.workers(3)
        async with _listening(others[0]) as first, _listening(others[1]) as second:
            hints = await _tell(one, [registration(store.key(), 1.234567)])
            await first.hears(hints)
            await second.hears(hints)

    @scenario("shared", "supports_wake_up")
    async def test_hints_of_many_partitions_of_any_name_are_told_in_one_call(self, store: Store) -> None:
        one, other = await store.workers(2)
        odd = ["'\"\\", " ,:;{}[]", "\n\t\r", "\u00e9\u0065\u0301", "\U0001f553" * 100, "*?", "\u202e", "%s $1 :x", "\x7f\x01"]
        keys = [store.key() for _ in range(40)]
        keys += [key._replace(partition=store.partition(suffix)) for key, suffix in zip(keys, odd, strict=False)]
        keys += [key._replace(partition=store.partition("\U0001f553" * 150)) for key in keys[:10]]
        async with _listening(other) as listener:
            await listener.hears(await _tell(one, [registration(key, number * 1e6) for number, key in enumerate(keys)]))

    @scenario("shared", "supports_wake_up")
    async def test_each_change_of_what_is_ready_first_can_be_told(self, store: Store) -> None:
        one, other = await store.workers(2)
        partition = store.partition()
        async with _listening(other) as listener:
            for hours in (3, 2, 1):
                await listener.hears(await _tell(one, [registration(Key(partition, f"in {hours} hours"), hours * 3600)]))

    @scenario("shared", "supports_wake_up")
    async def test_who_stops_listening_can_go_on_with_all_else_and_listen_again(self, store: Store) -> None:
        one, other = await store.workers(2)
        async with _listening(other):
            pass
        key = store.key()
        hints = await _tell(one, [registration(key)])
        assert (await other.get([key]))[0] is not None
        async with _listening(other) as listener:
            hints = await _tell(one, [registration(store.key())])
            await listener.hears(hints)

    @scenario("supports_wake_up")
    async def test_to_tell_what_nobody_hears_or_knows_of_is_no_fault(self, store: Store) -> None:
        repository = store.repository
        assert isinstance(repository, SupportsWakeUp)
        hint = Hint(store.partition(), T0)
        for _ in range(2):
            await repository.wake([hint])
        await repository.wake([])
        assert await repository.get([store.key()]) == [None]
