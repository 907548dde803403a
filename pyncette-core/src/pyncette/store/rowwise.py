"""The part of the contract that is the same for every store which reads rows, lets core decide, and writes them back."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypeVar

from pyncette.store import lifecycle
from pyncette.store.contract import Key, Outcome, Registration, Repository, Row, Settlement

__all__ = ["Change", "RowwiseRepository"]

_T = TypeVar("_T")

#: What a call makes of one row: the row to be stored (None: none), and the answer. Pure: it may be called again on a newer row.
Change: TypeAlias = Callable[[Row | None], tuple[Row | None, _T]]


class RowwiseRepository(Repository):
    """Everything but ``claim``, ``get`` and ``list``, from one primitive; it also supports pausing."""

    @abc.abstractmethod
    async def update(self, changes: Sequence[tuple[Key, Change[_T]]]) -> Sequence[_T]:
        """Apply each change to the row of its key, atomically for each; the answers, in order. A key stands once at most.

        A row that a change returns unchanged need not be written.
        """

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        def change(registration: Registration) -> Change[None]:
            return lambda row: (lifecycle.register(row, now, registration, force=force), None)

        await self.update([(registration.key, change(registration)) for registration in registrations])

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self.update([(key, lambda row: (None, row is not None)) for key in keys])

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        return await self.update(
            [(each.claim.key, functools.partial(lifecycle.settle, now=now, settlement=each)) for each in settlements]
        )

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
