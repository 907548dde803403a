"""Cancellation at any await: the store is usable afterwards, and no row is left in between.

A call is interrupted at its first await, then at its second, and so on until it runs to its end; each time once while it
waits for the answer, and once when the answer has come but the call has not seen it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from pyncette.repository import Key, Outcome, Repository, Row, State, SupportsPause
from pyncette_conformance.builders import LEASE, T0, after, claim_one, commit, poll, register, registration, release, settle
from pyncette_conformance.interruption import interrupt
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestCancellation"]

#: No call of a store waits more often than this; most wait a handful of times.
AWAITS = 200
#: A store that holds on to a lock or a connection hangs. Generous: stores may look for lost connections first.
HANGS_AFTER_SECONDS = 30

OTHER = "every 90 s"
BOTH = pytest.mark.parametrize("answered", [False, True], ids=["waiting", "answered"])


async def at_every_await(
    store: Store,
    prepare: Callable[[Sequence[Key]], Awaitable[Callable[[], Coroutine[Any, Any, object]]]],
    check: Callable[[Sequence[Row | None]], None],
    *,
    answered: bool,
) -> None:
    """Interrupt the call that ``prepare`` makes for new keys at each of its awaits; ``check`` what is stored under them.

    After each, another repository must get at the same rows, and the interrupted one must do what it is asked for. What was cut
    off in transit to a server may yet arrive there, once and at any time: so the very rows that it was for are asked until they obey.
    """
    other = (await store.workers(2))[1]
    for at in range(AWAITS):
        keys = store.keys(3)
        call = await prepare(keys)
        ended = await interrupt(call(), at, answered=answered)
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            check(await other.get(keys))
            for repository in (other, store.repository):
                while not await life_goes_on(repository, keys):
                    pass
                assert await life_goes_on(repository, store.keys(3)), "rows that no interrupted call was for do not obey"
        if not ended.reached:
            return
    pytest.fail(f"a call was still not over after {AWAITS} awaits")


async def life_goes_on(repository: Repository, keys: Sequence[Key]) -> bool:
    """Whether all kinds of calls have the effect on the rows that they have if nobody else is at work on them."""
    partition = keys[0].partition
    await repository.register(after(5000), [registration(key, 5000, spec="[]", schedule="new") for key in keys], force=True)
    if isinstance(repository, SupportsPause):
        await repository.resume(after(5000), keys)
    claims = (await poll(repository, partition, after(5000))).claims
    outcomes = await settle(repository, after(5000), *[commit(claim, 6000) for claim in claims])
    rows = await all_rows(repository, partition)
    found = sorted((row.key, row.spec, row.occurrence, row.locked_until) for row in rows)
    expected = [(key, "[]", after(6000), None) for key in sorted(keys)]
    return outcomes == [Outcome.APPLIED] * len(keys) and found == expected


class TestCancellation(Conformance):
    @BOTH
    @scenario()
    async def test_of_register(self, store: Store, answered: bool) -> None:
        """I14. Each row is there whole or not at all."""

        async def prepare(keys: Sequence[Key]) -> Callable[[], Coroutine[Any, Any, object]]:
            return lambda: store.repository.register(T0, [registration(key, 5, spec='{"a": 1}') for key in keys])

        def check(rows: Sequence[Row | None]) -> None:
            for row in rows:
                assert row is None or (row.spec, row.ready_at, row.revision, row.lease) == ('{"a": 1}', after(5), 0, None)

        await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @pytest.mark.parametrize("force", [False, True])
    @scenario()
    async def test_of_register_in_place_of_another_schedule(self, store: Store, answered: bool, force: bool) -> None:
        """I9, I14. Spec, schedule, time and revision change together."""

        async def prepare(keys: Sequence[Key]) -> Callable[[], Coroutine[Any, Any, object]]:
            await register(store.repository, *keys)
            return lambda: store.repository.register(
                T0, [registration(key, 5, spec="[]", schedule=OTHER) for key in keys], force=force
            )

        def check(rows: Sequence[Row | None]) -> None:
            for row in rows:
                assert row is not None
                assert (row.spec, row.schedule == OTHER, row.occurrence, row.ready_at, row.revision) in [
                    ("{}", False, T0, T0, 0),
                    ("[]", True, after(5), after(5), 1),
                ]

        await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @scenario()
    async def test_of_unregister(self, store: Store, answered: bool) -> None:
        """I3, I14."""

        async def prepare(keys: Sequence[Key]) -> Callable[[], Coroutine[Any, Any, object]]:
            await register(store.repository, *keys)
            return lambda: store.repository.unregister(T0, keys)

        def check(rows: Sequence[Row | None]) -> None:
            for row in rows:
                assert row is None or (row.ready_at, row.revision, row.lease) == (T0, 0, None)

        await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_of_claim(self, store: Store, answered: bool, by_name: bool) -> None:
        """I7, I14. A row is claimed or not; if nobody knows of its claim, it comes back when the lease expires."""

        async def prepare(keys: Sequence[Key]) -> Callable[[], Coroutine[Any, Any, object]]:
            await register(store.repository, *keys)
            names = [key.name for key in keys] if by_name else None
            return lambda: poll(store.repository, keys[0].partition, names=names)

        def check(rows: Sequence[Row | None]) -> None:
            for row in rows:
                assert row is not None
                assert (row.ready_at, row.locked_until, row.attempt, row.lease is None) in [
                    (T0, None, 0, True),
                    (T0 + LEASE, T0 + LEASE, 1, False),
                ]

        await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @scenario()
    async def test_of_settle(self, store: Store, answered: bool) -> None:
        """I5, I14. A settlement is applied or not, its memo with it, and its resend says which."""

        async def prepare(keys: Sequence[Key]) -> Callable[[], Coroutine[Any, Any, object]]:
            await register(store.repository, *keys)
            claims = [await claim_one(store.repository, key) for key in keys]
            return lambda: settle(
                store.repository,
                T0,
                commit(claims[0], 500, memo="new"),
                release(claims[1], 30, memo="new"),
                commit(claims[2], 500, memo="new"),
            )

        def check(rows: Sequence[Row | None]) -> None:
            for row, settled in zip(rows, [(after(500), 0), (after(30), 1), (after(500), 0)], strict=True):
                assert row is not None
                assert (row.locked_until, row.ready_at, row.attempt, row.memo) in [
                    (None, *settled, "new"),
                    (T0 + LEASE, T0 + LEASE, 1, ""),
                ]

        await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @scenario()
    async def test_of_settle_and_its_resend(self, store: Store, answered: bool) -> None:
        """I5, I6."""
        for at in range(AWAITS):
            key = store.key()
            await register(store.repository, key)
            claim = await claim_one(store.repository, key)
            ended = await interrupt(settle(store.repository, T0, commit(claim, 500)), at, answered=answered)
            applied = (await store.row(key)).locked_until is None
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                [outcome] = await settle(store.repository, T0, commit(claim, 500))
            # What was cut off may be applied yet, between the look and the resend.
            assert outcome is Outcome.ALREADY or (outcome is Outcome.APPLIED and not applied)
            assert (await store.row(key)).occurrence == after(500)
            if not ended.reached:
                return

    @BOTH
    @scenario()
    async def test_of_reading(self, store: Store, answered: bool) -> None:
        """I14. Reading changes nothing, whether it is heard to the end or not."""
        for read in (
            lambda keys: store.repository.get(keys),
            lambda keys: store.repository.list(keys[0].partition, limit=2),
        ):

            async def prepare(
                keys: Sequence[Key], read: Callable[[Sequence[Key]], Coroutine[Any, Any, object]] = read
            ) -> Callable[[], Coroutine[Any, Any, object]]:
                await register(store.repository, *keys)
                return lambda: read(keys)

            def check(rows: Sequence[Row | None]) -> None:
                assert [row and row.ready_at for row in rows] == [T0, T0, T0]

            await at_every_await(store, prepare, check, answered=answered)

    @BOTH
    @scenario("supports_pause")
    async def test_of_pause_and_resume(self, store: Store, answered: bool) -> None:
        """I14."""
        repository = store.repository
        assert isinstance(repository, SupportsPause)

        for pausing in (True, False):

            async def prepare(keys: Sequence[Key], pausing: bool = pausing) -> Callable[[], Coroutine[Any, Any, object]]:
                await register(repository, *keys)
                if pausing:
                    return lambda: repository.pause(T0, keys, dict.fromkeys(keys, "paused"))
                await repository.pause(T0, keys, dict.fromkeys(keys, "paused"))
                return lambda: repository.resume(T0, keys, dict.fromkeys(keys, ""))

            def check(rows: Sequence[Row | None]) -> None:
                for row in rows:
                    assert row is not None
                    assert (row.state, row.ready_at, row.memo) in [(State.SCHEDULED, T0, ""), (State.PAUSED, None, "paused")]

            await at_every_await(store, prepare, check, answered=answered)

    @scenario()
    async def test_of_many_calls_at_once(self, store: Store) -> None:
        """I14. Those that wait for a connection, a lock or a turn are cancelled as well; the others come to their end."""
        keys = store.keys(60)
        for rounds in range(8):
            tasks = [asyncio.create_task(register(store.repository, key, seconds=rounds)) for key in keys]
            for _ in range(rounds):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert [result for result in ended[1::2] if result is not None] == []
                assert all(result is None or isinstance(result, asyncio.CancelledError) for result in ended)
                rows = await store.rows(keys)
                assert None not in rows[1::2]
                await store.repository.unregister(T0, keys)

    @scenario()
    async def test_of_opening(self, store: Store) -> None:
        """I14. A process that is stopped while it starts leaves nothing behind that keeps others from starting."""
        for answered in (False, True):
            for at in range(AWAITS):
                ended = await interrupt(open_and_close(store), at, answered=answered)
                if not ended.reached:
                    break
        async with asyncio.timeout(HANGS_AFTER_SECONDS), store.factory() as repository:
            key = store.key()
            await register(repository, key)
            assert (await claim_one(repository, key)).attempt == 1
            await repository.unregister(T0, [key])


async def open_and_close(store: Store) -> None:
    async with store.factory() as repository:
        await repository.get([store.key()])
