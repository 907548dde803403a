"""pause and resume: rows out of claims for a while. Optional."""

from collections.abc import Sequence

import pytest

from pyncette.repository import Fail, Key, Outcome, Repository, State, SupportsPause
from pyncette_conformance.builders import FAR, LEASE, T0, after, claim_one, commit, poll, register, registration, release, settle
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestPause"]


async def pause(repository: Repository, *keys: Key) -> Sequence[bool]:
    assert isinstance(repository, SupportsPause)
    return list(await repository.pause(after(1), keys))


async def resume(repository: Repository, *keys: Key, seconds: float = 2) -> Sequence[bool]:
    assert isinstance(repository, SupportsPause)
    return list(await repository.resume(after(seconds), keys))


class TestPause(Conformance):
    @scenario("supports_pause")
    async def test_a_paused_row_is_in_no_claim_until_it_is_resumed(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        before = await store.row(key)
        assert await pause(store.repository, key) == [True]
        assert await store.row(key) == before._replace(state=State.PAUSED, ready_at=None)
        assert (await poll(store.repository, key.partition, FAR)).claims == []
        assert await resume(store.repository, key) == [True]
        assert await store.row(key) == before
        assert (await claim_one(store.repository, key, after(2))).occurrence == T0

    @scenario("supports_pause")
    async def test_what_became_due_meanwhile_runs_at_once_and_what_did_not_later(self, store: Store) -> None:
        """I4, I7. Resuming neither skips an occurrence nor runs it early."""
        due, later = store.keys(2)
        await store.repository.register(T0, [registration(due, 5), registration(later, 500)])
        await pause(store.repository, due, later)
        await resume(store.repository, due, later, seconds=100)
        assert [row and row.ready_at for row in await store.rows([due, later])] == [after(5), after(500)]
        result = await poll(store.repository, due.partition, after(100))
        assert ([claim.key for claim in result.claims], result.next_ready_at) == ([due], after(500))

    @scenario("supports_pause")
    async def test_each_key_is_answered_for_itself(self, store: Store) -> None:
        one, absent, two, other = store.keys(4)
        elsewhere = Key(store.partition(), one.name)
        await register(store.repository, one, two, other, elsewhere)
        untouched = await store.rows([other, elsewhere])
        for change in (pause, resume):
            assert await change(store.repository, one, absent, two) == [True, False, True]
        assert await store.rows([other, elsewhere]) == untouched
        assert await store.rows([absent]) == [None]
        for change in (pause, resume):
            assert await change(store.repository) == []

    @scenario("supports_pause")
    async def test_each_answer_is_in_the_place_of_its_key(self, store: Store) -> None:
        """Also where keys of several partitions take turns."""
        keys = store.mixed_keys(20)
        present = [key for number, key in enumerate(keys) if number % 3]
        await register(store.repository, *present)
        for change in (pause, resume):
            for asked in (keys, keys[::-1]):
                assert await change(store.repository, *asked) == [key in present for key in asked]

    @scenario("supports_pause")
    async def test_repeating_either_changes_nothing(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key, seconds=10)
        for change in (pause, resume):
            await change(store.repository, key)
            before = await store.row(key)
            assert await change(store.repository, key) == [True]
            assert await store.row(key) == before

    @scenario("supports_pause")
    async def test_resuming_a_row_that_is_scheduled_changes_nothing(self, store: Store) -> None:
        """I11. A row that waits for its retry, or at the end of the queue, keeps its place."""
        waiting, held, retried, queued = store.keys(4)
        await register(store.repository, held, retried, queued, seconds=-100)
        await register(store.repository, waiting, seconds=10)
        await claim_one(store.repository, held)
        await settle(store.repository, T0, release(await claim_one(store.repository, retried), 30))
        await settle(store.repository, T0, commit(await claim_one(store.repository, queued), -40))
        before = await store.rows([waiting, held, retried, queued])
        assert await resume(store.repository, waiting, held, retried, queued) == [True] * 4
        assert await store.rows([waiting, held, retried, queued]) == before

    @pytest.mark.parametrize("paused", [False, True], ids=["failed", "failed and paused"])
    @scenario("supports_pause")
    async def test_resuming_a_failed_row_revives_it(self, store: Store, paused: bool) -> None:
        """The error is forgotten, and the attempts start over: else the next failure would be the last again."""
        key = store.key()
        await register(store.repository, key)
        await settle(store.repository, T0, release(await claim_one(store.repository, key)))
        await settle(store.repository, T0, Fail(await claim_one(store.repository, key), "it broke"))
        if paused:
            await pause(store.repository, key)
        assert await resume(store.repository, key) == [True]
        row = await store.row(key)
        assert_has(row, state=State.SCHEDULED, error=None, attempt=0, ready_at=T0)
        assert (await claim_one(store.repository, key)).attempt == 1

    @scenario("supports_pause")
    async def test_a_paused_row_has_no_error(self, store: Store) -> None:
        """Only the state failed has an error."""
        key = store.key()
        await register(store.repository, key)
        await settle(store.repository, T0, Fail(await claim_one(store.repository, key), "it broke"))
        await pause(store.repository, key)
        row = await store.row(key)
        assert_has(row, state=State.PAUSED, error=None, ready_at=None)

    @scenario("supports_pause")
    async def test_a_held_row_stays_held(self, store: Store) -> None:
        """I2. Pausing stops no run, and resuming gives its row to nobody else before the lease expires."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        before = await store.row(key)
        await pause(store.repository, key)
        assert await store.row(key) == before._replace(state=State.PAUSED, ready_at=None)
        await resume(store.repository, key)
        assert await store.row(key) == before
        assert (await poll(store.repository, key.partition, after(59))).claims == []
        assert await settle(store.repository, after(59), commit(claim, 100)) == [Outcome.APPLIED]

    @scenario("supports_pause")
    async def test_a_lease_that_ends_in_the_pause_is_over_after_it(self, store: Store) -> None:
        """I7. The holder may have died."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        await pause(store.repository, key)
        await resume(store.repository, key, seconds=300)
        assert (await store.row(key)).ready_at == T0 + LEASE
        again = await claim_one(store.repository, key, after(300))
        assert_has(again, attempt=2, occurrence=claim.occurrence)

    @scenario("supports_pause")
    async def test_paused_rows_can_be_removed(self, store: Store) -> None:
        key = store.key()
        await register(store.repository, key)
        await pause(store.repository, key)
        assert list(await store.repository.unregister(T0, [key])) == [True]
        await register(store.repository, key)
        assert (await store.row(key)).state is State.SCHEDULED

    @scenario("supports_pause")
    async def test_a_batch_may_be_large(self, store: Store) -> None:
        keys = store.many_keys()
        await register(store.repository, *keys)
        assert await pause(store.repository, *keys) == [True] * len(keys)
        assert (await poll(store.repository, keys[0].partition)).claims == []
        assert await resume(store.repository, *keys) == [True] * len(keys)
        assert len((await poll(store.repository, keys[0].partition)).claims) == len(keys)
