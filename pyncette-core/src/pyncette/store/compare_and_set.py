"""A base for stores that can change one row at a time, and only on a condition.

A key-value store with a conditional write is all that it takes: :class:`CompareAndSetRepository` makes the repository of four
methods for single rows. The rules stay those of :mod:`pyncette.lifecycle`.
"""

import abc
import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple, TypeVar

from pyncette.errors import TransientRepositoryError
from pyncette.store import lifecycle
from pyncette.store.contract import Claim, ClaimResult, Key, Row, State
from pyncette.store.rowwise import Change, RowwiseRepository
from pyncette.waiting import Backoff

__all__ = ["CompareAndSetRepository", "Stored"]

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


#: The pauses before a row is tried again that others changed meanwhile (seconds), the longest that they can be.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.06


class Stored(NamedTuple):
    """A row, and what tells this state of it from every other."""

    row: Row
    #: Opaque, not None. Never the same for two states of a key, not even if the row is removed and inserted again between them.
    version: object


class CompareAndSetRepository(RowwiseRepository):
    """A repository made of :meth:`read`, :meth:`write`, :meth:`ready` and :meth:`list`.

    Each row of a batch is read, changed and written back on the condition that it has not changed since; if it has, it is read
    again. Rows of one batch go side by side, and one that fails keeps no other from being finished.
    """

    #: Rows of one batch that are read and written at the same time.
    concurrency: ClassVar[int] = 16
    #: Times that a row is tried while others change it, with growing pauses; then the call fails as a transient error.
    attempts: ClassVar[int] = 30

    @abc.abstractmethod
    async def read(self, key: Key) -> Stored | None:
        """The row as the last write has left it: an eventually consistent read will not do. None if there is none.

        One that can't be read is what :func:`pyncette.codec.decode` or ``unreadable`` make of it; it has a version like any other.
        """

    @abc.abstractmethod
    async def write(self, key: Key, expected: object | None, row: Row | None) -> bool:
        """Replace the row whose version is ``expected`` by ``row``, in one atomic step and durably; False if it is not so.

        ``expected`` None: there must be no row yet. ``row`` None: remove it. A write whose outcome is unknown raises
        :class:`~pyncette.errors.TransientRepositoryError` and is not sent again, neither here nor by the driver: turn its retries
        off. A second attempt would find the condition broken by the first, and an APPLIED would become an ALREADY.

        A ``row`` in the state UNREADABLE has only its ``ready_at`` to be written: whatever else is stored has to stay as it is.
        """

    @abc.abstractmethod
    async def ready(self, partition: str, limit: int) -> Sequence[Stored]:
        """The up to ``limit`` rows of ``partition`` with the smallest ``ready_at``, ascending; none where it is None.

        They may be somewhat out of date, since each is written on condition of its version. Unreadable ones are among them, with
        the ``ready_at`` that the index has; what else is in the index is left out.
        """

    async def read_many(self, keys: Sequence[Key]) -> Sequence[Stored | Exception | None]:
        """For each of ``keys``, what :meth:`read` would return or raise. To be overridden where a batch costs less than that."""
        return await self._side_by_side(self.read, keys)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [stored and stored.row for stored in _all(await self.read_many(keys))]

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        missing: set[str] = set()
        errors: list[Exception] = []
        found: list[Stored] = []
        if names is None:
            found += await self.ready(partition, 1)
            if found and found[0].row.ready_at is not None and found[0].row.ready_at <= now:  # an idle poll reads no more than that
                found = [*await self.ready(partition, limit + 1)]  # the one more is what comes next
        else:
            for name, stored in zip(names, await self.read_many([Key(partition, name) for name in names]), strict=True):
                if isinstance(stored, Exception):
                    errors.append(stored)
                elif stored is None:
                    missing.add(name)
                else:
                    found.append(stored)
        ready = sorted(((each.row.ready_at, each) for each in found if each.row.ready_at is not None), key=lambda pair: pair[0])
        due = [each for at, each in ready[:limit] if at <= now]
        left = [at for at, _ in ready[len(due) :]]
        lease = lifecycle.new_lease()

        def take() -> Change[Claim | None]:
            attempted: Claim | None = None

            def change(row: Row | None) -> tuple[Row | None, Claim | None]:
                nonlocal attempted
                if row is not None and row.lease == lease:
                    return row, attempted  # it was written, although the write said that it was not
                taken = row and lifecycle.claim(row, now, lease_duration, lease)
                row, attempted = taken or (row and lifecycle.put_off(row, now, lease_duration), None)
                return row, attempted

            return change

        claims: list[Claim] = []
        unreadable: list[Row] = []
        taken = await self._side_by_side(lambda each: self._update_one(each.row.key, take(), each), due)
        for each, result in zip(due, taken, strict=True):
            if isinstance(result, Exception):
                errors.append(result)
                left += [each.row.ready_at] if each.row.ready_at else []
                continue
            row, claim = result
            if claim is not None:
                claims.append(claim)
            elif row is None:
                missing.add(each.row.key.name)
            elif row.state is State.UNREADABLE:
                unreadable.append(row)
            elif row.ready_at is not None:  # somebody else was faster
                left.append(row.ready_at)
        if errors and not claims and not unreadable:
            raise _first(errors)
        for error in errors:
            # Raised, it would cost the claims that were made their lease, again and again if it is the fault of one row.
            logger.warning("Some rows of the partition %r could not be claimed: %s", partition, error)
        return ClaimResult(claims, min(left, default=None), [name for name in names or () if name in missing], unreadable)

    async def update(self, changes: Sequence[tuple[Key, Change[B]]]) -> Sequence[B]:
        # All come to their end, also if one fails.
        async def update(read: tuple[tuple[Key, Change[B]], Stored | Exception | None]) -> B:
            (key, change), stored = read
            if isinstance(stored, Exception):
                raise stored
            return (await self._update_one(key, change, stored))[1]

        before = await self.read_many([key for key, _ in changes])
        return _all(await self._side_by_side(update, list(zip(changes, before, strict=True))))

    async def _update_one(self, key: Key, change: Change[B], stored: Stored | None) -> tuple[Row | None, B]:
        """Apply ``change`` to a row, as it is ``stored`` or has become since; the row after it, and the answer."""
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
        for _ in range(self.attempts):
            row = stored and stored.row
            after, answer = change(row)
            if after == row or await self.write(key, stored and stored.version, after):
                return after, answer
            await asyncio.sleep(pauses.next())
            stored = await self.read(key)
        raise TransientRepositoryError(f"{key} was changed by others {self.attempts} times in a row; try again")

    async def _side_by_side(self, call: Callable[[A], Awaitable[B]], items: Sequence[A]) -> Sequence[B | Exception]:
        """The result of ``call`` for each item, in order, or what it raised. When this ends, all the calls have."""
        results: dict[int, B | Exception] = {}
        waiting = enumerate(items)

        async def work() -> None:
            for index, item in waiting:
                try:
                    results[index] = await call(item)
                except Exception as error:
                    results[index] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(items))):
                group.create_task(work())
        return [results[index] for index in range(len(items))]


def _all(results: Sequence[B | Exception]) -> list[B]:
    answers = []
    errors = []
    for result in results:
        if isinstance(result, Exception):
            errors.append(result)
        else:
            answers.append(result)
    if errors:
        raise _first(errors)
    return answers


def _first(errors: Sequence[Exception]) -> Exception:
    """The error that stands for all: a transient one if there is any, since then repeating the batch is of use."""
    return next((error for error in errors if isinstance(error, TransientRepositoryError)), errors[0])
