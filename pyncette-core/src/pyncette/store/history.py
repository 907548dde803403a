"""The part of the contract that covers the history: what happened to rows, which may have been removed since.

The general rules of :mod:`pyncette.store.contract` apply.
"""

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

from pyncette.store.contract import Key

__all__ = ["Entry", "Position", "SupportsHistory", "table_of_history"]


class Position(NamedTuple):
    """The position of an entry in the history: by its instant, and within one instant by its id, byte by byte."""

    at: datetime
    #: Random, so that no two entries of a store share it: up to 64 ASCII letters, digits and hyphens.
    id: str


class Entry(NamedTuple):
    """Something that happened to a row, which may have been removed since. An entry never changes."""

    key: Key
    position: Position
    #: The time from which it may be removed.
    expires_at: datetime
    #: JSON written by core: up to 4,000 characters, without NUL. Opaque to the store.
    text: str


@runtime_checkable
class SupportsHistory(Protocol):
    """A store that keeps a history next to the rows. Rows and history are independent of each other."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Store entries. Repeating is safe: an entry that is already stored remains the only one at its position."""
        ...

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        """Return the newest ``limit`` entries of a key or, without a name, of the whole partition, newest first.

        With ``before``, return only older ones. There need be no entry at that position, so a listing continues where it was
        while others append and prune. Fewer than ``limit`` means that there are no more.
        """
        ...

    async def prune(self, now: datetime, *, limit: int) -> int:
        """Remove up to ``limit`` entries with ``expires_at <= now``, in any partition. Returns how many there were.

        It may leave entries that the store itself removes in time.
        """
        ...

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        """Remove up to ``limit`` entries beyond the ``keep`` newest of a key or, without a name, of a partition. Returns how
        many.
        """
        ...


def table_of_history(table: str, longest: int) -> str:
    """The name of the history table that belongs to ``table``; a name has up to ``longest`` UTF-8 bytes."""
    suffix = "_history"
    if len(table.encode()) + len(suffix) > longest:
        suffix = f"_{zlib.crc32(table.encode()):08x}{suffix}"
        table = table.encode()[: longest - len(suffix)].decode(errors="ignore")
    return table + suffix
