"""Calls that are part of a transaction on a user's own connection. Optional."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyncette.errors import ConfigurationError
from pyncette.repository import Fail, Key, Outcome, Repository, Row, State, SupportsPause, SupportsTransactions
from pyncette_conformance.builders import (
    LEASE,
    T0,
    T1,
    after,
    claim_one,
    commit,
    poll,
    refused,
    register,
    registration,
    settle,
)
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance
from pyncette_conformance.transactions import UserTransaction, UserTransactions

__all__ = ["TestTransactions"]


def joined(store: Store, transaction: UserTransaction) -> Any:
    """The repository within ``transaction``."""
    assert isinstance(store.repository, SupportsTransactions)
    repository = store.repository.within(transaction.connection)
    assert isinstance(repository, Repository)
    assert isinstance(repository, SupportsPause)
    return repository


def same(rows: Sequence[Row | None], name: str) -> Row | None:
    """What the rows are, whatever their names and leases: they have to be the same."""
    first, *others = [row and row._replace(key=row.key._replace(name=name), lease=row.lease and "a lease") for row in rows]
    for other in others:
        assert other == first
    return first


class TestTransactions(Conformance):
    @pytest.fixture
    def begin(self, user_transactions: UserTransactions | None) -> UserTransactions:
        """Opens a connection of a user's, and begins a transaction on it."""

        def missing() -> Any:
            pytest.fail("The store supports transactions; override the fixture user_transactions, so that this can be tested")

        return user_transactions or missing

    @scenario("supports_transactions", "shared")
    async def test_what_is_registered_is_there_with_the_commit_and_not_before(self, store: Store, begin: UserTransactions) -> None:
        """I3, I4."""
        one, two = store.keys(2)
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.register(T0, [registration(one), registration(two, 60)])
            assert await store.rows([one, two]) == [None, None]
            assert (await poll(store.repository, one.partition)).claims == []
            await transaction.commit()
        assert [row and row.ready_at for row in await store.rows([one, two])] == [T0, T1]
        assert (await claim_one(store.repository, one)).occurrence == T0

    @scenario("supports_transactions", "shared")
    async def test_nothing_is_left_of_what_is_rolled_back(self, store: Store, begin: UserTransactions) -> None:
        new, replaced, removed, paused, resumed = keys = store.keys(5)
        await register(store.repository, *keys[1:])
        assert isinstance(store.repository, SupportsPause)
        await store.repository.pause(T0, [resumed])
        before = await store.rows(keys)
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.register(T1, [registration(new), registration(replaced, 5, schedule="another")])
            assert list(await within.unregister(T1, [removed])) == [True]
            assert list(await within.pause(T1, [paused])) == [True]
            assert list(await within.resume(T1, [resumed])) == [True]
            assert [row and row.state for row in await within.get(keys)] == [
                *(State.SCHEDULED, State.SCHEDULED, None),
                *(State.PAUSED, State.SCHEDULED),
            ]
            await transaction.rollback()
        assert await store.rows(keys) == before

    @scenario("supports_transactions", "shared")
    async def test_it_is_the_owner_who_ends_it_after_many_calls(self, store: Store, begin: UserTransactions) -> None:
        """Nothing in between commits or rolls back, as some servers do automatically."""
        keys = store.many_keys()
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.register(T0, [registration(key) for key in keys])
            assert list(await within.pause(T0, keys[:3], {keys[0]: "a note"})) == [True] * 3
            await within.register(T0, [registration(key, 7, schedule="another") for key in keys[2:5]], force=True)
            assert list(await within.unregister(T0, keys[5:])) == [True] * len(keys[5:])
            assert [row.key for row in await all_rows(within, keys[0].partition)] == list(keys[:5])
            assert await all_rows(store.repository, keys[0].partition) == []
            await transaction.commit()
        rows = await all_rows(store.repository, keys[0].partition)
        assert [row.key for row in rows] == list(keys[:5])
        assert (rows[0].state, rows[0].memo) == (State.PAUSED, "a note")

    @scenario("supports_transactions", "shared")
    async def test_the_rules_are_those_of_the_repository(self, store: Store, begin: UserTransactions) -> None:
        """A row of each kind, and another like it; what is done to the one within a transaction and to the other without has one result."""
        partition = store.partition()
        kinds = ("absent", "waiting", "held", "paused", "failed")
        calls: dict[str, Callable[[Any, Key], Any]] = {
            "again": lambda repository, key: repository.register(after(9), [registration(key, 40, spec='{"other": 1}')]),
            "another schedule": lambda repository, key: repository.register(
                after(9), [registration(key, 40, jitter=2, schedule="another")]
            ),
            "overdue": lambda repository, key: repository.register(
                after(9), [registration(key, 40, schedule="another", keep_overdue=True)]
            ),
            "force": lambda repository, key: repository.register(after(9), [registration(key, 40)], force=True),
            "unregister": lambda repository, key: repository.unregister(after(9), [key]),
            "pause": lambda repository, key: repository.pause(after(9), [key], {key: "paused"}),
            "resume": lambda repository, key: repository.resume(after(9), [key], {key: "resumed"}),
        }
        pairs = {(kind, call): [Key(partition, f"{kind} {call} {number}") for number in (1, 2)] for kind in kinds for call in calls}
        there = [key for (kind, _), keys in pairs.items() for key in keys if kind != "absent"]
        await register(store.repository, *there)
        for (kind, _), keys in pairs.items():
            assert isinstance(store.repository, SupportsPause)
            if kind == "paused":
                await store.repository.pause(T0, keys)
            if kind in ("held", "failed"):
                claims = [await claim_one(store.repository, key) for key in keys]
                if kind == "failed":
                    await settle(store.repository, T0, *[Fail(claim, "it broke", "so") for claim in claims])
        answers = {}
        for (kind, call), (_, other) in pairs.items():
            answers[kind, call] = await calls[call](store.repository, other)
        async with begin() as transaction:
            within = joined(store, transaction)
            for (kind, call), (one, _) in pairs.items():
                assert await calls[call](within, one) == answers[kind, call], (kind, call)
            seen = {pair: (await within.get([one]))[0] for pair, (one, _) in pairs.items()}
            await transaction.commit()
        for (kind, call), keys in pairs.items():
            rows = await store.rows(keys)
            assert rows[0] == seen[kind, call]
            same(rows, f"{kind} {call}")

    @scenario("supports_transactions", "shared")
    async def test_a_run_on_its_way_is_superseded_by_the_commit(self, store: Store, begin: UserTransactions) -> None:
        """I9."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        async with begin() as transaction:
            await joined(store, transaction).register(T0, [registration(key, 30, schedule="another")])
            await transaction.commit()
        assert (await store.row(key)).ready_at == T0 + LEASE
        assert await settle(store.repository, after(1), commit(claim)) == [Outcome.SUPERSEDED]
        assert (await store.row(key)).occurrence == after(30)

    @scenario("supports_transactions", "shared")
    async def test_transactions_side_by_side_do_not_fail(self, store: Store, begin: UserTransactions) -> None:
        """Each stores new rows between those of others: neither a lock on a gap nor a cycle of locks blocks them."""
        keys = store.keys(2 * store.several)

        async def play(*mine: Key) -> None:
            async with begin() as transaction:
                within = joined(store, transaction)
                for key in mine:
                    await within.register(T0, [registration(key)])
                await transaction.commit()

        half = len(keys) // 2
        await asyncio.gather(*[play(*pair) for pair in zip(keys[:half], keys[half:], strict=True)])
        assert len((await poll(store.repository, keys[0].partition)).claims) == len(keys)

    @scenario("supports_transactions", "shared")
    async def test_calls_at_once_take_turns(self, store: Store, begin: UserTransactions) -> None:
        keys = store.keys(6)
        async with begin() as transaction:
            within = joined(store, transaction)
            await asyncio.gather(*[within.register(T0, [registration(key)]) for key in keys])
            await transaction.commit()
        assert None not in await store.rows(keys)

    @scenario("supports_transactions", "shared")
    async def test_names_and_values_are_stored_as_they_are(self, store: Store, begin: UserTransactions) -> None:
        """I13."""
        names = ("é", "e\u0301", "a", "a ", "A", "🙂", "%s", "$1", "?", "'\"\\", "{}", "\n")
        partition = store.partition("-🙂 %s ?")
        spec = '{"text": "ä€🙂 \'\\" $1 %(a)s ? \\\\n"}'
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.register(T0, [registration(Key(partition, name), spec=spec) for name in names])
            inside = [row.key.name for row in await all_rows(within, partition)]
            await transaction.commit()
        rows = await store.rows([Key(partition, name) for name in names])
        assert [row and (row.key.name, row.spec) for row in rows] == [(name, spec) for name in names]
        assert sorted(inside) == sorted(names)

    @scenario("supports_transactions", "shared")
    async def test_a_value_that_no_store_can_have_does_not_end_it(self, store: Store, begin: UserTransactions) -> None:
        good, bad = store.keys(2)
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.register(T0, [registration(good)])
            assert await refused(within.register(T0, [registration(bad, spec='{"half": "\ud800"}')]))
            await transaction.commit()
        assert [row is not None for row in await store.rows([good, bad])] == [True, False]

    @scenario("supports_transactions", "shared")
    async def test_nothing_is_claimed_or_settled_within(self, store: Store, begin: UserTransactions) -> None:
        """I2. A rollback would give a lease back that somebody relies on."""
        key = store.key()
        await register(store.repository, key)
        claim = await claim_one(store.repository, key)
        async with begin() as transaction:
            within = joined(store, transaction)
            assert await refused(within.claim(T1, key.partition, lease_duration=LEASE, limit=1))
            assert await refused(within.settle(T1, [commit(claim)]))
            await transaction.commit()
        assert await settle(store.repository, T0, commit(claim)) == [Outcome.APPLIED]

    @scenario("supports_transactions", "shared")
    async def test_a_connection_without_a_transaction_is_refused(self, store: Store, begin: UserTransactions) -> None:
        """Each call would be committed separately, which is not what its owner relies on."""
        key = store.key()
        async with begin() as transaction:
            within = joined(store, transaction)
            await within.get([key])
            await transaction.rollback()
            with pytest.raises(ConfigurationError):
                await within.register(T0, [registration(key)])
        assert await store.rows([key]) == [None]

    @scenario("supports_transactions", "shared")
    async def test_a_closed_connection_is_refused(self, store: Store, begin: UserTransactions) -> None:
        key = store.key()
        async with begin() as transaction:
            within = joined(store, transaction)
        with pytest.raises(ConfigurationError):
            await within.register(T0, [registration(key)])
        assert await store.rows([key]) == [None]

    @scenario("supports_transactions", "shared")
    async def test_what_is_no_connection_is_refused(self, store: Store, begin: UserTransactions) -> None:
        assert isinstance(store.repository, SupportsTransactions)
        for wrong in (object(), None, "postgresql://user:secret@host/db"):
            with pytest.raises(ConfigurationError) as caught:
                store.repository.within(wrong)
            assert "secret" not in str(caught.value)
