"""The reference store, which keeps everything in the memory of this process.

It is the contract in its shortest form, what ``Pyncette()`` uses, and what the conformance suite compares other stores with.
No call ever suspends, so each is atomic among the tasks of one event loop.
"""

import contextlib
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from pyncette.store import lifecycle
from pyncette.store.contract import (
    Claim,
    ClaimResult,
    Key,
    Outcome,
    Page,
    Registration,
    Repository,
    Row,
    Settlement,
    State,
    Stats,
)
from pyncette.store.memory_history import MemoryHistory
from pyncette.store.urls import Backend

__all__ = ["MemoryRepository", "backend", "memory_repository"]


class MemoryRepository(MemoryHistory, Repository):
    """Rows in dicts, and a heap of ready times for each partition."""

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self._partitions: defaultdict[str, dict[str, Row]] = defaultdict(dict)
        # Entries are never removed from the middle of a heap: an outdated one is dropped when it reaches the top.
        self._ready: defaultdict[str, list[tuple[datetime, str]]] = defaultdict(list)

    def _put(self, key: Key, row: Row | None) -> None:
        rows = self._partitions[key.partition]
        if row is None:
            rows.pop(key.name, None)
            return
        before = rows.get(key.name)
        rows[key.name] = row
        if row.ready_at is not None and (before is None or before.ready_at != row.ready_at):
            heap = self._ready[key.partition]
            heapq.heappush(heap, (row.ready_at, key.name))
            if len(heap) > 2 * len(rows) + 64:  # mostly ends of leases that were settled long ago
                heap[:] = [(row.ready_at, name) for name, row in rows.items() if row.ready_at is not None]
                heapq.heapify(heap)

    def _get(self, key: Key) -> Row | None:
        return self._partitions[key.partition].get(key.name)

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for registration in registrations:
            key = registration.key
            self._put(key, lifecycle.register(self._get(key), now, registration, force=force))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return [self._partitions[key.partition].pop(key.name, None) is not None for key in keys]

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        rows = self._partitions[partition]
        if names is not None:
            missing = [name for name in names if name not in rows]
            ready = sorted((row.ready_at, name) for name in names if (row := rows.get(name)) and row.ready_at is not None)
            due = [name for at, name in ready[:limit] if at <= now]
            claims, unreadable = self._claim(partition, due, now, lease_duration)
            left = ready[len(due) :]
            return ClaimResult(claims, left[0][0] if left else None, missing, unreadable)
        heap = self._ready[partition]
        due = []
        next_ready_at = None
        while heap:
            ready_at, name = heap[0]
            if name not in rows or rows[name].ready_at != ready_at or name in due[-1:]:
                heapq.heappop(heap)
            elif ready_at <= now and len(due) < limit:
                due.append(name)
                heapq.heappop(heap)
            else:
                next_ready_at = ready_at
                break
        claims, unreadable = self._claim(partition, due, now, lease_duration)
        return ClaimResult(claims, next_ready_at, (), unreadable)

    def _claim(
        self, partition: str, names: Sequence[str], now: datetime, lease_duration: timedelta
    ) -> tuple[Sequence[Claim], Sequence[Row]]:
        taken = lifecycle.take([self._partitions[partition][name] for name in names], now, lease_duration)
        for row in (*taken.rows, *taken.unreadable):
            self._put(row.key, row)
        return taken.claims, taken.unreadable

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        outcomes = []
        for settlement in settlements:
            key = settlement.claim.key
            row, outcome = lifecycle.settle(self._get(key), now, settlement)
            self._put(key, row)
            outcomes.append(outcome)
        return outcomes

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [self._get(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        names = heapq.nsmallest(limit + 1, (name for name in self._partitions[partition] if token is None or name > token))
        page = names[:limit]
        return Page([self._partitions[partition][name] for name in page], page[-1] if len(names) > limit else None)

    async def stats(self, now: datetime, partition: str) -> Stats:
        rows = self._partitions[partition].values()
        due = [row.ready_at for row in rows if row.ready_at is not None and row.ready_at <= now]
        failed = sum(row.state is State.FAILED for row in rows)
        return Stats(rows=len(rows), due=len(due), oldest_due=min(due, default=None), failed=failed)

    async def partitions(self) -> Sequence[str]:
        return [partition for partition, rows in self._partitions.items() if rows]

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return self._change(keys, lifecycle.pause, memos or {})

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return self._change(keys, lifecycle.resume, memos or {})

    def _change(self, keys: Sequence[Key], change: Callable[[Row, str | None], Row], memos: Mapping[Key, str]) -> Sequence[bool]:
        rows = [self._get(key) for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row is not None:
                self._put(key, change(row, memos.get(key)))
        return [row is not None for row in rows]


@contextlib.asynccontextmanager
async def memory_repository() -> AsyncIterator[MemoryRepository]:
    """An empty store in this process's memory. It takes no options, and everything in it is gone when it is closed."""
    yield MemoryRepository()


backend: Backend = Backend(contract_version=1, factory=memory_repository, prefix="memory_")
