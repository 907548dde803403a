"""The history of the reference store."""

import bisect
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from pyncette.store.history import Entry, Position

__all__ = ["MemoryHistory"]

#: The maximum number of entries per partition, because all are in this process's memory.
_KEPT = 10_000


class MemoryHistory:
    """The entries of each partition, oldest first."""

    def __init__(self) -> None:
        self._entries: defaultdict[str, list[Entry]] = defaultdict(list)

    async def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            known = self._entries[entry.key.partition]
            index = _place(known, entry.position)
            if index == len(known) or known[index].position != entry.position:
                known.insert(index, entry)
            if len(known) > _KEPT:
                del known[: _KEPT // 10]

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        known = self._entries.get(partition, [])
        end = len(known) if before is None else _place(known, before)
        found = (known[i] for i in range(end - 1, -1, -1) if name is None or known[i].key.name == name)
        return [entry for _, entry in zip(range(limit), found, strict=False)]

    async def prune(self, now: datetime, *, limit: int) -> int:
        return self._remove([entry for known in self._entries.values() for entry in known if entry.expires_at <= now][:limit])

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        return self._remove((await self.runs(partition, name, limit=keep + limit))[keep:])

    def _remove(self, entries: Sequence[Entry]) -> int:
        removed = set(entries)
        for partition in {entry.key.partition for entry in removed}:
            left = [entry for entry in self._entries.pop(partition) if entry not in removed]
            if left:
                self._entries[partition] = left
        return len(removed)


def _place(entries: Sequence[Entry], position: Position) -> int:
    return bisect.bisect_left(entries, position, key=lambda entry: entry.position)
