"""A store as a third party might write it, on the rules of core: what the suite's own tests break in many ways."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pyncette import lifecycle
from pyncette.repository import (
    Claim,
    ClaimResult,
    Entry,
    Key,
    Outcome,
    Page,
    Position,
    Registration,
    Repository,
    Row,
    Settlement,
    State,
    Stats,
)


class TinyStore(Repository):
    """Rows in a dict. Each step is a method of its own, so that it can be broken by itself."""

    shared = False

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.history: list[Entry] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Repository]:
        yield cls()

    def read(self, key: Key) -> Row | None:
        return self.rows.get(key)

    def write(self, key: Key, row: Row | None) -> None:
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row

    def of(self, partition: str) -> list[Row]:
        return sorted(row for key, row in self.rows.items() if key.partition == partition)

    def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
        return lifecycle.register(row, now, registration, force=force)

    def settled(self, row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        return lifecycle.settle(row, now, settlement)

    def claimed(self, row: Row, now: datetime, lease_duration: timedelta, lease: str) -> tuple[Row, Claim] | None:
        return lifecycle.claim(row, now, lease_duration, lease)

    def order(self, row: Row) -> object:
        return row.ready_at, row.key.name

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for registration in registrations:
            self.write(registration.key, self.registered(self.read(registration.key), now, registration, force))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        found = [self.read(key) is not None for key in keys]
        for key in keys:
            self.write(key, None)
        return found

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        asked = [row for row in self.of(partition) if names is None or row.key.name in names]
        ready = sorted((row for row in asked if row.ready_at is not None), key=self.order)
        lease = lifecycle.new_lease()
        taken = [pair for row in ready[:limit] if (pair := self.claimed(row, now, lease_duration, lease)) is not None]
        for row, claim in taken:
            self.write(claim.key, row)
        left = ready[len(taken) :]
        missing = [name for name in names or () if self.read(Key(partition, name)) is None]
        return ClaimResult([claim for _, claim in taken], left[0].ready_at if left else None, missing)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        outcomes = []
        for settlement in settlements:
            row, outcome = self.settled(self.read(settlement.claim.key), now, settlement)
            self.write(settlement.claim.key, row)
            outcomes.append(outcome)
        return outcomes

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [self.read(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        rows = [row for row in self.of(partition) if token is None or row.key.name > token]
        return Page(rows[:limit], rows[limit - 1].key.name if len(rows) > limit else None)

    async def stats(self, now: datetime, partition: str) -> Stats:
        rows = self.of(partition)
        due = [row.ready_at for row in rows if row.ready_at is not None and row.ready_at <= now]
        return Stats(len(rows), len(due), min(due, default=None), sum(row.state is State.FAILED for row in rows))

    async def partitions(self) -> Sequence[str]:
        return list({key.partition for key in self.rows})

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return self.change(keys, lambda row: lifecycle.pause(row, (memos or {}).get(row.key)))

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return self.change(keys, lambda row: lifecycle.resume(row, (memos or {}).get(row.key)))

    def change(self, keys: Sequence[Key], change: Callable[[Row], Row]) -> Sequence[bool]:
        rows = [self.read(key) for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row is not None:
                self.write(key, change(row))
        return [row is not None for row in rows]

    def place(self, entry: Entry) -> Any:
        return entry.position

    def is_of(self, entry: Entry, partition: str, name: str | None) -> bool:
        return entry.key.partition == partition and name in (None, entry.key.name)

    def is_before(self, one: Position, other: Position) -> bool:
        return one < other

    def stored(self, entry: Entry) -> Entry:
        return entry

    def limited(self, entries: Sequence[Entry], limit: int) -> Sequence[Entry]:
        return entries[:limit]

    def is_over(self, entry: Entry, now: datetime) -> bool:
        return entry.expires_at <= now

    def trimmed(self, entries: Sequence[Entry], keep: int, limit: int) -> Sequence[Entry]:
        return entries[keep : keep + limit]

    def forget(self, entries: Sequence[Entry]) -> int:
        self.history = [entry for entry in self.history if entry not in entries]
        return len(entries)

    async def append(self, entries: Sequence[Entry]) -> None:
        for entry in map(self.stored, entries):
            if entry not in self.history:
                self.history.append(entry)

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        found = [entry for entry in self.history if self.is_of(entry, partition, name)]
        found = [entry for entry in found if before is None or self.is_before(entry.position, before)]
        return self.limited(sorted(found, key=self.place, reverse=True), limit)

    async def prune(self, now: datetime, *, limit: int) -> int:
        return self.forget([entry for entry in self.history if self.is_over(entry, now)][:limit])

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        return self.forget(self.trimmed(await self.runs(partition, name, limit=len(self.history)), keep, limit))


class ArrivesLate(TinyStore):
    """A store behind a network, and as right: what is asked arrives there after a while, even if its caller has gone."""

    delays = itertools.cycle(range(7))  # half milliseconds

    async def arriving(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def arrive() -> Any:
            await asyncio.sleep(next(self.delays) / 2000)
            return await call(*args, **options)

        return await asyncio.shield(asyncio.ensure_future(arrive()))


def arriving(name: str) -> Any:
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        return await self.arriving(getattr(TinyStore, name).__get__(self), *args, **options)

    return call


for _name in ("register", "unregister", "claim", "settle", "pause", "resume"):
    setattr(ArrivesLate, _name, arriving(_name))
