"""Stores that join a user's transaction and forget whose it is."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from broken_stores import STORES, caught_by
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.repository import ClaimResult, Key, Outcome, Registration, Repository, Row, Settlement
from pyncette_conformance.transactions import UserTransaction
from tiny_store import TinyStore

COMMITTED = "TestTransactions::test_what_is_registered_is_there_with_the_commit_and_not_before"
ROLLED_BACK = "TestTransactions::test_nothing_is_left_of_what_is_rolled_back"
OWNER = "TestTransactions::test_it_is_the_owner_who_ends_it_after_many_calls"
RULES = "TestTransactions::test_the_rules_are_those_of_the_repository"
NOTHING_RUNS = "TestTransactions::test_nothing_is_claimed_or_settled_within"


@dataclass
class Connection:
    """A user's: what its transaction has written, by key."""

    store: "JoinsTransactions"
    written: dict[Key, Row | None] = field(default_factory=dict)
    is_open: bool = True
    in_transaction: bool = True

    async def commit(self) -> None:
        for key, row in self.written.items():
            self.store.write(key, row)
        await self.rollback()

    async def rollback(self) -> None:
        self.written.clear()
        self.in_transaction = False


class Within(TinyStore):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def check(self) -> None:
        if not self.connection.is_open:
            raise ConfigurationError("This connection is closed; pass one that is open")
        if not self.connection.in_transaction:
            raise ConfigurationError("This connection is in no transaction; begin one")

    @property  # type: ignore[override]
    def rows(self) -> dict[Key, Row]:
        self.check()
        seen = {**self.connection.store.rows, **self.connection.written}
        return {key: row for key, row in seen.items() if row is not None}

    def write(self, key: Key, row: Row | None) -> None:
        self.check()
        self.connection.written[key] = row

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        if any("\ud800" in registration.spec for registration in registrations):
            raise RepositoryError("Half a character can't be stored; leave it out")
        await super().register(now, registrations, force=force)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        raise RepositoryError("Nothing is claimed within a transaction")

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        raise RepositoryError("Nothing is settled within a transaction")


class JoinsTransactions(TinyStore):
    """A right one."""

    within_class = Within
    opened: "JoinsTransactions"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Repository]:
        cls.opened = cls()
        yield cls.opened

    @classmethod
    @contextlib.asynccontextmanager
    async def begin(cls) -> AsyncIterator[UserTransaction]:
        connection = Connection(cls.opened)
        yield UserTransaction(connection, connection.commit, connection.rollback)
        connection.is_open = False

    def within(self, connection: object) -> Repository:
        if not isinstance(connection, Connection):
            raise ConfigurationError("This is not a connection; pass one")
        return self.within_class(connection)


STORES["JoinsTransactions"] = JoinsTransactions


@caught_by(COMMITTED, ROLLED_BACK)
class GoesItsOwnWay(JoinsTransactions):
    """Does not take part at all."""

    def within(self, connection: object) -> Repository:
        return self


@caught_by(COMMITTED, ROLLED_BACK)
class CommitsByItself(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
            await super().register(now, registrations, force=force)
            await self.connection.commit()
            self.connection.in_transaction = True


@caught_by(OWNER)
class CommitsLargeBatches(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
            await super().register(now, registrations, force=force)
            if len(registrations) > 10:
                await self.connection.commit()
                self.connection.in_transaction = True


@caught_by("TestTransactions::test_a_value_that_no_store_can_have_does_not_end_it")
class RollsBackAfterAnError(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
            try:
                await super().register(now, registrations, force=force)
            except RepositoryError:
                self.connection.written.clear()
                raise


@caught_by(ROLLED_BACK)
class RemovesOutside(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
            return await self.connection.store.unregister(now, keys)


@caught_by(ROLLED_BACK)
class PausesOutside(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
            return await self.connection.store.pause(now, keys, memos)


@caught_by(ROLLED_BACK)
class ReadsOutside(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
            return await self.connection.store.get(keys)


@caught_by(OWNER)
class ListsOutside(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def list(self, partition: str, **options: Any) -> Any:
            return await self.connection.store.list(partition, **options)


@caught_by(RULES)
class AlwaysForces(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
            await super().register(now, registrations, force=True)


@caught_by(OWNER, RULES)
class LosesNotes(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
            return await super().pause(now, keys)


@caught_by(NOTHING_RUNS)
class ClaimsWithin(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
            return await TinyStore.claim(self, now, partition, **options)


@caught_by(NOTHING_RUNS)
class SettlesWithin(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
            return await TinyStore.settle(self, now, settlements)


@caught_by("TestTransactions::test_a_connection_without_a_transaction_is_refused")
class NeedsNoTransaction(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        def check(self) -> None:
            if not self.connection.is_open:
                raise ConfigurationError("This connection is closed; pass one that is open")

        def write(self, key: Key, row: Row | None) -> None:
            super().write(key, row)
            if not self.connection.in_transaction:
                self.connection.store.write(key, row)


@caught_by("TestTransactions::test_a_closed_connection_is_refused")
class WritesNowhere(JoinsTransactions):
    class within_class(Within):  # noqa: N801
        def check(self) -> None:
            if self.connection.is_open and not self.connection.in_transaction:
                raise ConfigurationError("This connection is in no transaction; begin one")


@caught_by("TestTransactions::test_what_is_no_connection_is_refused")
class TakesAnything(JoinsTransactions):
    def within(self, connection: Any) -> Repository:
        return self.within_class(connection)
