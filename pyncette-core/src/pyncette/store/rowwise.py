"""The part of the contract that is the same for every store that reads rows, lets core decide, and writes them back.

Stable, like the contract: the methods to override change only with :data:`~pyncette.repository.CONTRACT_VERSION`.
"""

import abc
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypeVar

from pyncette.store import lifecycle
from pyncette.store.contract import Key, Outcome, Registration, Repository, Row, Settlement
from pyncette.store.lifecycle import Settled

__all__ = ["Change", "RowwiseRepository"]

_T = TypeVar("_T")

#: A function from a row to the new row (None: no row) and the answer. Pure: it may be called again on a newer row.
Change: TypeAlias = Callable[[Row | None], tuple[Row | None, _T]]


class RowwiseRepository(Repository):
    """Everything but ``claim``, ``get`` and ``list``, from one primitive; it also supports pausing."""

    @abc.abstractmethod
    async def update(self, changes: Sequence[tuple[Key, Change[_T]]]) -> Sequence[_T]:
        """Apply each change to the row of its key, atomically for each. Returns the answers, in order. A key occurs at most
        once.

        A row that a change returns unchanged need not be written.
        """

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        def change(registration: Registration) -> Change[None]:
            return lambda row: (lifecycle.register(row, now, registration, force=force), None)

        await self.update([(registration.key, change(registration)) for registration in registrations])

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self.update([(key, lambda row: (None, row is not None)) for key in keys])

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        expected = [each for settlement in settlements if (each := lifecycle.expected(settlement, now)) is not None]
        written = await self.write_expected(expected) if expected else ()
        rest = [each for each in settlements if each.claim.key not in written]
        changes = [(each.claim.key, functools.partial(lifecycle.settle, now=now, settlement=each)) for each in rest]
        others = iter(await self.update_settled(changes) if changes else ())
        return [Outcome.APPLIED if each.claim.key in written else next(others) for each in settlements]

    async def write_expected(self, expected: Sequence[Settled]) -> Collection[Key]:
        """Settle rows that are as their claims left them, without reading them. Returns the keys of those that were written.

        Override it if a guarded write costs less than reading a row, deciding and writing it back. Nearly every settlement
        finds its row as the claim left it. Whatever is not written here goes through :meth:`update`, so it is always correct to
        write nothing, which is the default. For each element, atomically:

        - the guard: there is a row with this key, this lease, this revision, a ``locked_until`` and the state scheduled.
          Nothing else about it matters. :meth:`~pyncette.lifecycle.Settled.meets` is the same in Python;
        - where it holds, the row is deleted if ``removed``; else its occurrence, ``execute_after``, ``ready_at`` and attempt are
          replaced, its memo too unless that is None, and ``locked_until`` is None. The rest, such as the arguments, is not sent;
        - where it does not hold, nothing is written, and the key is not in the answer. A store that only learns how many rows a
          statement matched compares that with the expected number: if they differ, it rolls back and returns no keys.

        The rows of the returned keys are stored durably. The others must not have been written, or their outcome would be
        ALREADY instead of APPLIED. So if the outcome of a write is unknown, this raises, as :meth:`update` does, and the caller
        settles again: rows that were written then answer ALREADY, or GONE if they were removed. For the same reason, the two
        parts of a batch need no common transaction. ``expected`` is not empty, and contains each key once.
        """
        return ()

    async def update_settled(self, changes: Sequence[tuple[Key, Change[_T]]]) -> Sequence[_T]:
        """:meth:`update` for settlements. Override it if calls wait for each other, so that settlements don't wait for all
        others.
        """
        return await self.update(changes)

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await self._each(keys, lifecycle.pause, memos)

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await self._each(keys, lifecycle.resume, memos)

    async def _each(
        self, keys: Sequence[Key], change: Callable[[Row, str | None], Row], memos: Mapping[Key, str] | None
    ) -> Sequence[bool]:
        def changed(memo: str | None) -> Change[bool]:
            return lambda row: (row and change(row, memo), row is not None)

        return await self.update([(key, changed((memos or {}).get(key))) for key in keys])
