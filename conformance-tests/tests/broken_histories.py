"""Stores that forget what has happened, or tell it in another order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from broken_values import cut_after

from broken_stores import caught_by
from pyncette.repository import Entry, Key, Position
from tiny_store import TinyStore

ORDER = "TestHistory::test_entries_come_back_the_newest_first"
TIES = "TestHistory::test_those_of_one_instant_are_in_the_order_of_their_ids"
INSTANTS = "TestHistory::test_instants_are_told_apart_to_the_microsecond"
PAGES = "TestHistory::test_a_listing_goes_on_where_it_was"
ONCE = "TestHistory::test_an_entry_that_is_appended_again_is_one"
NAMES = "TestHistory::test_names_and_partitions_are_told_apart_byte_by_byte"
TEXTS = "TestHistory::test_texts_are_not_looked_into"
EXPIRY = "TestHistory::test_expired_entries_are_removed_and_no_others"
OF_KEY = "TestHistory::test_of_a_key_the_newest_are_kept"
OF_PARTITION = "TestHistory::test_of_a_partition_the_newest_are_kept"
MANY = "TestHistory::test_many_entries"


@dataclass
class Mistake:
    test: str
    place: Callable[[Entry], Any] | None = None
    is_of: Callable[[Entry, str, str | None], bool] | None = None
    is_before: Callable[[Position, Position], bool] | None = None
    stored: Callable[[Entry], Entry] | None = None
    limited: Callable[[Sequence[Entry], int], Sequence[Entry]] | None = None
    is_over: Callable[[Entry, datetime], bool] | None = None
    trimmed: Callable[[Sequence[Entry], int, int], Sequence[Entry]] | None = None


MISTAKES = {
    "OldestFirst": Mistake(ORDER, place=lambda entry: -entry.position.at.timestamp()),
    "InTheOrderOfArrival": Mistake(ORDER, place=lambda _: 0),
    "ByInstantAlone": Mistake(TIES, place=lambda entry: entry.position.at),
    "IdsWithoutCase": Mistake(TIES, place=lambda entry: (entry.position.at, entry.position.id.lower())),
    "InstantsInMilliseconds": Mistake(
        INSTANTS,
        stored=lambda entry: entry._replace(
            position=entry.position._replace(at=entry.position.at.replace(microsecond=entry.position.at.microsecond // 1000 * 1000))
        ),
    ),
    "PagesByInstant": Mistake(TIES, is_before=lambda one, other: one.at < other.at),
    "PagesWithTheLastOnce": Mistake(TIES, is_before=lambda one, other: one <= other),
    "AllOfThePartition": Mistake(ORDER, is_of=lambda entry, partition, _: entry.key.partition == partition),
    "NamesWithoutBlanks": Mistake(
        NAMES,
        is_of=lambda entry, partition, name: (
            entry.key.partition == partition and (name is None or entry.key.name.rstrip() == name.rstrip())
        ),
    ),
    "PartitionsByTheirBeginning": Mistake(
        NAMES,
        is_of=lambda entry, partition, name: entry.key.partition.startswith(partition) and name in (None, entry.key.name),
    ),
    "TextsOf4000Bytes": Mistake(TEXTS, stored=lambda entry: entry._replace(text=cut_after(4000)(entry.text))),
    "NoMoreThan50": Mistake(MANY, limited=lambda entries, limit: entries[: min(limit, 50)]),
    "NoLimit": Mistake(PAGES, limited=lambda entries, limit: entries),
    "ExpiresATickLate": Mistake(EXPIRY, is_over=lambda entry, now: entry.expires_at < now),
    "ExpiresATickEarly": Mistake(EXPIRY, is_over=lambda entry, now: entry.expires_at <= now + timedelta(microseconds=1)),
    "ExpiresByTheInstant": Mistake(EXPIRY, is_over=lambda entry, now: entry.position.at <= now),
    "TrimsTheNewest": Mistake(
        OF_KEY, trimmed=lambda entries, keep, limit: entries[: min(limit, max(0, len(entries) - keep))]
    ),
    "TrimsOneTooMany": Mistake(OF_PARTITION, trimmed=lambda entries, keep, limit: entries[max(0, keep - 1) :][:limit]),
    "TrimsWithoutLimit": Mistake(OF_KEY, trimmed=lambda entries, keep, _: entries[keep:]),
}  # fmt: skip


def broken(mistake: Mistake) -> type[TinyStore]:
    """A store with a history that makes this mistake."""

    class Store(TinyStore):
        pass

    for step in ("place", "is_of", "is_before", "stored", "limited", "is_over", "trimmed"):
        if (function := getattr(mistake, step)) is not None:
            setattr(Store, step, staticmethod(function))
    return Store


for _name, _mistake in MISTAKES.items():
    _store = broken(_mistake)
    _store.__name__ = _name
    caught_by(_mistake.test)(_store)


@caught_by(ONCE)
class AppendsAgain(TinyStore):
    async def append(self, entries: Sequence[Entry]) -> None:
        self.history += [self.stored(entry) for entry in entries]


@caught_by("TestHistory::test_it_is_independent_of_the_rows")
class ForgetsWithTheRow(TinyStore):
    def write(self, key: Key, row: Any) -> None:
        super().write(key, row)
        self.history = [entry for entry in self.history if row is not None or entry.key != key]


@caught_by("TestHistory::test_what_can_not_be_encoded_is_refused_or_kept")
class LetsEncodingErrorsOut(TinyStore):
    async def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            entry.text.encode()
        await super().append(entries)


@caught_by(EXPIRY)
class PrunesOnePartition(TinyStore):
    async def prune(self, now: datetime, *, limit: int) -> int:
        first = min((entry.key.partition for entry in self.history), default="")
        over = [entry for entry in self.history if entry.key.partition == first and self.is_over(entry, now)][:limit]
        return self.forget(over)


@caught_by(EXPIRY)
class PrunesAtOnce(TinyStore):
    async def prune(self, now: datetime, *, limit: int) -> int:
        return await super().prune(now, limit=limit * 100)
