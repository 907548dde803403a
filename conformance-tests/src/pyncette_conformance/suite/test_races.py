"""Two calls for the same rows at once: for each row it is as if one had come after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import pytest

from pyncette.memory import MemoryRepository
from pyncette.repository import Claim, Commit, Extend, Fail, Key, Repository, Row, Settlement, SupportsPause
from pyncette_conformance.builders import LEASE, T0, after, commit, poll, register, registration, release
from pyncette_conformance.comparison import differences
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestRaces"]

#: Leases have ended, and nobody has claimed the rows again: now their holders may settle, and others may claim them.
NOW = T0 + LEASE
#: A repository, the claims of T0, and for each of them an answer.
Call: TypeAlias = Callable[[Repository, Sequence[Claim]], Awaitable[Sequence[object]]]


def settling(settlement: Callable[[Claim], Settlement]) -> Call:
    async def settle(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
        return await repository.settle(NOW, [settlement(claim) for claim in claims])

    return settle


def registering(schedule: str | None = None, *, force: bool = False) -> Call:
    async def register(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
        batch = [registration(claim.key, 80, spec="[1]", schedule=schedule or claim.schedule) for claim in claims]
        await repository.register(NOW, batch, force=force)
        return [None] * len(claims)

    return register


async def claim(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
    found = {each.key: each for each in (await poll(repository, claims[0].key.partition, NOW)).claims}
    return [found.get(claim.key) for claim in claims]


async def unregister(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
    return await repository.unregister(NOW, [claim.key for claim in claims])


async def pause(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
    assert isinstance(repository, SupportsPause)
    return await repository.pause(NOW, [claim.key for claim in claims], {claim.key: "paused" for claim in claims})


async def resume(repository: Repository, claims: Sequence[Claim]) -> Sequence[object]:
    assert isinstance(repository, SupportsPause)
    return await repository.resume(NOW, [claim.key for claim in claims])


CALLS: Mapping[str, Call] = {
    "claim": claim,
    "commit": settling(lambda claim: commit(claim, 500, memo="committed")),
    "last commit": settling(lambda claim: Commit(claim, None)),
    "release": settling(lambda claim: release(claim, 70, memo="released")),
    "fail": settling(lambda claim: Fail(claim, "it broke", "failed")),
    "extend": settling(lambda claim: Extend(claim, after(300))),
    "register": registering(),
    "register another schedule": registering("every 90 s"),
    "force": registering(force=True),
    "unregister": unregister,
    "pause": pause,
    "resume": resume,
}
PAUSING = {"pause", "resume"}


async def expired(repository: Repository, keys: Sequence[Key], *, paused: bool) -> Sequence[Claim]:
    """Rows whose leases expire at NOW."""
    await register(repository, *keys)
    claims = sorted((await poll(repository, keys[0].partition)).claims)
    if paused:
        await pause(repository, claims)
    return claims


class TestRaces(Conformance):
    @pytest.mark.parametrize("paused", [False, True], ids=["held", "paused"])
    @pytest.mark.parametrize("other", CALLS)
    @scenario()
    async def test_either_of_two_calls_is_first(self, store: Store, other: str, paused: bool) -> None:
        """I1, I3, I5. Each pair of calls: their answers and the rows left are those of one order of the two."""
        workers = await store.workers(2)
        pausing = isinstance(store.repository, SupportsPause)
        for one in CALLS:
            if not pausing and (paused or {one, other} & PAUSING):
                continue
            keys = store.keys(store.several)
            claims = await expired(store.repository, keys, paused=paused)
            answers = await asyncio.gather(CALLS[one](workers[0], claims), CALLS[other](workers[1], claims))
            calls = [(0, one), (1, other)]
            orders = [calls, calls[::-1]]
            # A claim that meets another call may pass the row over.
            orders += [calls[:place] + calls[place + 1 :] for place, name in calls if name == "claim"]
            allowed = [await in_turn(keys, order, paused=paused) for order in orders]
            found = anonymous(claims, await store.rows(keys), answers)
            for key, result, *expected in zip(keys, found, *allowed, strict=True):
                if result not in expected:
                    raise AssertionError(told(key, one, other, result, expected[:2]))


async def in_turn(keys: Sequence[Key], calls: Sequence[tuple[int, str]], *, paused: bool) -> list[tuple[object, ...]]:
    """For each key, the row and the answers that the reference gives to ``calls``, each with its place among the answers."""
    reference = MemoryRepository()
    claims = await expired(reference, keys, paused=paused)
    answers: list[Sequence[object]] = [[None] * len(keys)] * 2
    for place, name in calls:
        answers[place] = await CALLS[name](reference, claims)
    return anonymous(claims, await reference.get(keys), answers)


def anonymous(claims: Sequence[Claim], rows: Sequence[Row | None], answers: Sequence[Sequence[object]]) -> list[tuple[object, ...]]:
    """For each row, it and the answers, without the random ids of leases: all that counts is whether it is the first."""
    first = {claim.key: claim.lease for claim in claims}

    def named(value: object) -> object:
        if not isinstance(value, Row | Claim) or value.lease is None:
            return value
        return value._replace(lease="the first" if value.lease == first[value.key] else "another")

    return [tuple(map(named, each)) for each in zip(rows, *answers, strict=True)]


def told(key: Key, one: str, other: str, found: Sequence[object], orders: Sequence[Sequence[object]]) -> str:
    """How what was found differs from what each of the orders gives."""
    lines = [f"{one} and {other} at once, on {key.name!r}: the row and the answers are those of neither order"]
    names = ("row", f"answer to {one}", f"answer to {other}")
    for order, first in zip(orders, (one, other), strict=True):
        lines += [f"if {first} had come first:"]
        lines += [f"  {line}" for parts in zip(found, order, names, strict=True) for line in differences(*parts)]
    return "\n".join(lines)
