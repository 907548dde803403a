"""list: every row of a partition, page by page, while rows move."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.repository import Fail, Key, Repository, SupportsPause
from pyncette_conformance.builders import T0, after, claim_one, commit, poll, register, registration, release, settle
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestList"]


async def claim_and_commit(repository: Repository, keys: Sequence[Key], step: int) -> None:
    claims = (await poll(repository, keys[0].partition, after(step), limit=5)).claims
    await settle(repository, after(step), *[commit(claim, step + 50 - number) for number, claim in enumerate(claims)])


async def claim_only(repository: Repository, keys: Sequence[Key], step: int) -> None:
    await poll(repository, keys[0].partition, after(step), limit=5)


async def reschedule(repository: Repository, keys: Sequence[Key], step: int) -> None:
    moved = [keys[step % len(keys)], keys[-step % len(keys)]]
    await repository.register(T0, [registration(key, 9 - step, schedule=f"every {step} s") for key in dict.fromkeys(moved)])


async def add_and_remove(repository: Repository, keys: Sequence[Key], step: int) -> None:
    partition = keys[0].partition
    # Names in between those that stay, before them and behind them; never more of them, so that a listing can end.
    names = [[f"a-{number}", f"{keys[number % len(keys)].name}-x", f"z-{number % 3}"] for number in (step, step - 1)]
    await register(repository, *[Key(partition, name) for name in names[0]])
    await repository.unregister(T0, [Key(partition, name) for name in names[1]])


#: What somebody may try for a token.
JUNK = [
    "",
    " ",
    "0",
    "-1",
    "zz",
    "\0",
    "\ud800",
    "é🙂",
    "null",
    "{}",
    "[[",
    "../..",
    "' OR 1=1 --",
    "%00",
    "ff" * 32,
    "9" * 400,
    "a" * 100_000,
]

CHURN: Sequence[Callable[[Repository, Sequence[Key], int], Awaitable[None]]] = [
    claim_and_commit,
    claim_only,
    reschedule,
    add_and_remove,
]


class TestList(Conformance):
    @scenario()
    async def test_an_empty_partition_has_one_empty_page(self, store: Store) -> None:
        page = await store.repository.list(store.partition(), limit=10)
        assert (list(page.rows), page.token) == ([], None)

    @pytest.mark.parametrize("limit", [1, 2, 7, 24, 25, 26, 1000])
    @scenario()
    async def test_every_row_is_on_one_page(self, store: Store, limit: int) -> None:
        """I15. Also where the limit divides their number, and where it is 1."""
        keys = store.keys(25)
        await register(store.repository, *keys, store.key())
        rows = await all_rows(store.repository, keys[0].partition, limit)
        assert Counter(row.key for row in rows) == Counter(keys)
        assert sorted(rows) == sorted(row for row in await store.rows(keys) if row is not None)

    @scenario()
    async def test_rows_are_listed_in_whatever_state(self, store: Store) -> None:
        waiting, held, released, failed = store.keys(4)
        await register(store.repository, waiting, held, released, failed)
        await claim_one(store.repository, held)
        await settle(store.repository, T0, release(await claim_one(store.repository, released)))
        await settle(store.repository, T0, Fail(await claim_one(store.repository, failed), "it broke"))
        rows = await all_rows(store.repository, held.partition)
        assert {row.key: row for row in rows} == {
            row.key: row for row in await store.rows([waiting, held, released, failed]) if row
        }
        assert len(rows) == 4

    @scenario("supports_pause")
    async def test_paused_rows_are_listed(self, store: Store) -> None:
        key = store.key()
        assert isinstance(store.repository, SupportsPause)
        await register(store.repository, key)
        await store.repository.pause(T0, [key])
        assert list(await all_rows(store.repository, key.partition)) == [await store.row(key)]

    @pytest.mark.parametrize("limit", [1, 4])
    @pytest.mark.parametrize("churn", CHURN, ids=lambda churn: churn.__name__.replace("_", " "))
    @scenario()
    async def test_no_row_is_skipped_while_rows_move(
        self, store: Store, churn: Callable[[Repository, Sequence[Key], int], Awaitable[None]], limit: int
    ) -> None:
        """I15. Between any two pages rows are claimed, settled, re-scheduled, added and removed."""
        keys = store.keys(15)
        lister, mover = await store.workers(2)
        await store.repository.register(T0, [registration(key, number % 4) for number, key in enumerate(keys)])
        seen = set()
        token = None
        for step in range(500):
            page = await lister.list(keys[0].partition, limit=limit, token=token)
            seen |= {row.key for row in page.rows}
            token = page.token
            if token is None:
                break
            await churn(mover, keys, step)
        assert token is None, "the listing does not end"
        assert set(keys) - seen == set()

    @scenario()
    async def test_a_listing_goes_on_where_the_page_before_was_removed(self, store: Store) -> None:
        """I15. The row that a token stands for may be gone; "remove all, page by page" must end and leave nothing."""
        keys = store.keys(20)
        await register(store.repository, *keys)
        seen: list[Key] = []
        token = None
        for _ in range(100):
            page = await store.repository.list(keys[0].partition, limit=3, token=token)
            seen += [row.key for row in page.rows]
            await store.repository.unregister(T0, [row.key for row in page.rows])
            token = page.token
            if token is None:
                break
        assert sorted(seen) == list(keys)
        assert await all_rows(store.repository, keys[0].partition) == []

    @scenario()
    async def test_a_listing_can_be_taken_up_by_another_worker(self, store: Store) -> None:
        """A token is plain text and holds nothing open: an operator's next request may reach another process."""
        keys = store.keys(10)
        workers = await store.workers(2)
        await register(store.repository, *keys)
        seen: list[Key] = []
        token = None
        for step in range(100):
            page = await workers[step % 2].list(keys[0].partition, limit=3, token=token)
            assert page.token is None or isinstance(page.token, str)
            seen += [row.key for row in page.rows]
            token = page.token
            if token is None:
                break
        assert sorted(seen) == list(keys)

    @pytest.mark.parametrize("token", JUNK, ids=lambda token: ascii(token)[:30])
    @scenario()
    async def test_a_token_that_no_page_had_is_refused_or_begins_somewhere(self, store: Store, token: str) -> None:
        """I10. It comes from an operator or over the network: whatever it is, it causes nothing worse than one of Pyncette's errors."""
        keys = store.keys(3)
        others = store.keys(3)
        await register(store.repository, *keys, *others)
        with contextlib.suppress(RepositoryError, ConfigurationError):
            page = await store.repository.list(keys[0].partition, limit=2, token=token)
            assert {row.key for row in page.rows} <= set(keys), "a token leads out of its partition"
        assert [row.key for row in sorted(await all_rows(store.repository, others[0].partition))] == list(others)

    @scenario()
    async def test_listings_do_not_disturb_each_other(self, store: Store) -> None:
        one, other = store.keys(30), store.keys(40)
        await register(store.repository, *one, *other)
        listings = await asyncio.gather(*[all_rows(store.repository, keys[0].partition, 4) for keys in (one, other, one)])
        assert [sorted(row.key for row in rows) for rows in listings] == [list(one), list(other), list(one)]

    @scenario()
    async def test_a_large_partition_is_listed_whole(self, store: Store) -> None:
        keys = store.many_keys()
        await register(store.repository, *keys)
        assert sorted(row.key for row in await all_rows(store.repository, keys[0].partition, 300)) == list(keys)
