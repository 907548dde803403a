"""A base for stores that can change one row at a time, and only on a condition.

A key-value store with conditional writes is enough: :class:`CompareAndSetRepository` builds the repository from four methods
for single rows. The rules remain those of :mod:`pyncette.lifecycle`.

Stable, like the contract: the methods to override and their arguments change only with
:data:`~pyncette.repository.CONTRACT_VERSION`. How often and in which order they are called may change at any time.
"""

import abc
import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Generic, NamedTuple, TypeVar

from pyncette.errors import TransientRepositoryError
from pyncette.store import lifecycle
from pyncette.store.contract import Claim, ClaimResult, Key, Row, State
from pyncette.store.rivals import TAG, Rivals
from pyncette.store.rowwise import Change, RowwiseRepository
from pyncette.waiting import Backoff

__all__ = ["CompareAndSetRepository", "Stored", "Write"]

logger: logging.Logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


#: The longest pauses before retrying rows that others changed meanwhile (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.06


class Stored(NamedTuple):
    """A row, with a version that distinguishes this state of it from every other."""

    row: Row
    #: Opaque, not None. Different for any two states of a key, even if the row is removed and inserted again in between.
    version: object


class Write(NamedTuple):
    """A change to one row."""

    key: Key
    #: The row as it was read; None: there must be no row.
    before: Stored | None
    #: The new row; None: remove it.
    after: Row | None


class CompareAndSetRepository(RowwiseRepository):
    """A repository built from :meth:`read`, :meth:`write`, :meth:`ready` and :meth:`list`.

    The rows of a batch are read, changed and written back, each on condition that it has not changed since; rows that have
    changed are read again. A row that fails does not affect the others. If the store accepts many rows in one request, override
    :meth:`read_many` and :meth:`write_many`: then a batch costs as many requests as a single row.

    Several processes that claim from one partition find the same rows due. They soon divide them: see
    :mod:`pyncette.store.rivals`.
    """

    #: How many rows of a batch are read or written concurrently, if each takes a separate request.
    concurrency: ClassVar[int] = 16
    #: How often a row is tried, with growing pauses, while others change it; then the call raises a transient error.
    attempts: ClassVar[int] = 30

    _rivals: defaultdict[tuple[str, bool], Rivals]
    _tag: str

    @abc.abstractmethod
    async def read(self, key: Key) -> Stored | None:
        """Return the row as the last write left it: an eventually consistent read is not enough. None if there is none.

        For a row that can't be read, return what :func:`pyncette.codec.decode` or ``unreadable`` return; it has a version like
        any other.
        """

    @abc.abstractmethod
    async def write(self, write: Write) -> bool:
        """Replace ``write.before`` with ``write.after``, atomically and durably. Return False and write nothing if the row no
        longer has the version of ``before``, or if there is a row although ``before`` is None.

        The stored row has the version of ``before`` and, if it can be read, its values, so it is enough to send what differs.

        A write whose outcome is unknown raises :class:`~pyncette.errors.TransientRepositoryError` and is not sent again, neither here
        nor by the driver: turn its retries off. A second attempt would find the condition broken by the first, and an APPLIED would
        become an ALREADY.

        If ``after`` is in the state UNREADABLE, write only its ``ready_at``; everything else that is stored must stay as it is.
        """

    @abc.abstractmethod
    async def ready(self, partition: str, limit: int) -> Sequence[Stored]:
        """Return up to ``limit`` rows of ``partition`` with the smallest ``ready_at``, ascending, without those where it is
        None.

        They may be somewhat out of date, since each is written on condition of its version. Include unreadable rows, with the
        ``ready_at`` from the index; leave out anything else in the index.
        """

    async def read_many(self, keys: Sequence[Key]) -> Sequence[Stored | Exception | None]:
        """Return for each of ``keys`` what :meth:`read` would return or raise. Override it if the store can read many rows at
        lower cost.
        """
        return await self._side_by_side(self.read, keys)

    async def write_many(self, writes: Sequence[Write]) -> Sequence[bool | Exception]:
        """Return for each of ``writes`` what :meth:`write` would return or raise. Override it if the store can write many rows
        at lower cost.

        The keys differ. Each is written on its own condition, independently of the others. If the store has only all-or-nothing
        batches, finish those whose condition failed, and send the rest again.
        """
        return await self._side_by_side(self.write, writes)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [stored and stored.row for stored in _all(await self.read_many(keys))]

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        missing: set[str] = set()
        errors: list[Exception] = []
        found: list[Stored] = []
        rivals = self._rivals_in(partition, named=names is not None)
        if names is None:
            found += await self._due(partition, now, limit, rivals)
        else:
            for name, stored in zip(names, await self.read_many([Key(partition, name) for name in names]), strict=True):
                if isinstance(stored, Exception):
                    errors.append(stored)
                elif stored is None:
                    missing.add(name)
                else:
                    found.append(stored)
        ready = sorted(((each.row.ready_at, each) for each in found if each.row.ready_at is not None), key=lambda pair: pair[0])
        due = [each for at, each in ready if at <= now]
        # a caller that names a single row can't take another instead
        alone = names is not None and len(names) == 1
        chosen = due[:limit] if alone else [due[place] for place in rivals.mine([each.row.key.name for each in due], limit)]
        taken = await self._take(chosen, now, lease_duration, rivals)
        left = {each.row.key: at for at, each in ready}
        claims: list[Claim] = []
        unreadable: list[Row] = []
        for tried, result in zip(chosen, taken, strict=False):
            key = tried.row.key
            if isinstance(result, Exception):
                errors.append(result)
                continue
            del left[key]
            row, claim = result
            if claim is not None:
                claims.append(claim)
            elif row is None:
                missing.add(key.name)
            elif row.state is State.UNREADABLE:
                unreadable.append(row)
            elif row.ready_at is not None:  # another process was faster
                left[key] = row.ready_at
        next_ready_at = min(left.values(), default=None)
        rivals.more = names is None and next_ready_at is not None and next_ready_at <= now
        if errors and not claims and not unreadable:
            raise _first(errors)
        for error in errors:
            # If this raised, the claims already made would be lost until their leases expire, repeatedly if one row is at fault.
            logger.warning("Some rows of the partition %r could not be claimed: %s", partition, error)
        return ClaimResult(claims, next_ready_at, [name for name in names or () if name in missing], unreadable)

    async def update(self, changes: Sequence[tuple[Key, Change[B]]]) -> Sequence[B]:
        before = await self.read_many([key for key, _ in changes])
        attempts = [_Attempt(key, change, stored) for (key, change), stored in zip(changes, before, strict=True)]
        await self._apply(attempts)
        return [answer for _, answer in _all([attempt.result for attempt in attempts])]

    def _rivals_in(self, partition: str, *, named: bool) -> Rivals:
        if not hasattr(self, "_rivals"):  # so that authors need not call super().__init__()
            self._tag = lifecycle.new_lease()[:TAG]
            self._rivals = defaultdict(lambda: Rivals(self._tag))
        return self._rivals[partition, named]

    async def _due(self, partition: str, now: datetime, limit: int, rivals: Rivals) -> Sequence[Stored]:
        if not rivals.more:  # an idle poll reads a single row
            first = await self.ready(partition, 1)
            if not first or first[0].row.ready_at is None or first[0].row.ready_at > now:
                return first
        return await self.ready(partition, limit * rivals.reading + 1)  # one more, to learn when the next is ready

    async def _take(
        self, due: Sequence[Stored], now: datetime, lease_duration: timedelta, rivals: Rivals
    ) -> "Sequence[tuple[Row | None, Claim | None] | Exception]":
        """Claim rows; returns the results of those that were tried, the first ones of ``due``."""
        lease = (self._tag + lifecycle.new_lease())[:32]

        def take() -> Change[Claim | None]:
            attempted: Claim | None = None

            def change(row: Row | None) -> tuple[Row | None, Claim | None]:
                nonlocal attempted
                if row is not None and row.lease == lease:
                    return row, attempted  # it was written, although the write reported otherwise
                taken = row and lifecycle.claim(row, now, lease_duration, lease)
                row, attempted = taken or (row and lifecycle.put_off(row, now, lease_duration), None)
                return row, attempted

            return change

        attempts = [_Attempt(each.row.key, take(), each) for each in due]
        if attempts:
            first = rivals.first(len(attempts))
            lost = await self._apply(attempts[:first])
            if 8 * len(lost) <= first < len(attempts):
                lost += await self._apply(attempts[first:])
                first = len(attempts)
            rivals.ended([result[0] for each in lost if isinstance(result := each.result, tuple)], 8 * len(lost) <= first)
            del attempts[first:]
        return [attempt.result for attempt in attempts]

    async def _apply(self, attempts: "Sequence[_Attempt[B]]") -> "list[_Attempt[B]]":
        """Carry out all ``attempts``, even if one fails; returns those that met another process at their first try."""
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
        left = list(attempts)
        met_others: list[_Attempt[B]] = []
        for number in range(self.attempts):
            writes = [(attempt, write) for attempt in left if (write := attempt.plan()) is not None]
            written = await self.write_many([write for _, write in writes]) if writes else ()
            left = []
            for (attempt, _), answer in zip(writes, written, strict=True):
                if isinstance(answer, Exception):
                    attempt.result = answer
                elif not answer:
                    left.append(attempt)
            met_others = left if number == 0 else met_others
            if not left:
                return met_others
            await asyncio.sleep(pauses.next())
            for attempt, stored in zip(left, await self.read_many([attempt.key for attempt in left]), strict=True):
                attempt.stored = stored
        for attempt in left:
            attempt.result = TransientRepositoryError(
                f"{attempt.key} was changed by others {self.attempts} times in a row; try again"
            )
        return met_others

    async def _side_by_side(self, call: Callable[[A], Awaitable[B]], items: Sequence[A]) -> Sequence[B | Exception]:
        """The result or exception of ``call`` for each item, in order. Returns after all calls have ended."""
        results: dict[int, B | Exception] = {}
        waiting = enumerate(items)

        async def work() -> None:
            for index, item in waiting:
                try:
                    results[index] = await call(item)
                except Exception as error:
                    results[index] = error

        if len(items) == 1:
            await work()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(items))):
                    group.create_task(work())
        return [results[index] for index in range(len(items))]


class _Attempt(Generic[B]):
    """A change in progress."""

    __slots__ = ("_change", "key", "result", "stored")

    def __init__(self, key: Key, change: Change[B], stored: Stored | Exception | None) -> None:
        self.key = key
        self._change = change
        self.stored = stored
        #: The new row and the answer, or the exception.
        self.result: tuple[Row | None, B] | Exception

    def plan(self) -> Write | None:
        """The write that the change needs; None if none is needed."""
        if isinstance(self.stored, Exception):
            self.result = self.stored
            return None
        before = self.stored and self.stored.row
        self.result = self._change(before)
        after = self.result[0]
        return None if after is before or after == before else Write(self.key, self.stored, after)


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
    """One error for all: a transient one if there is any, because then repeating the batch helps."""
    return next((error for error in errors if isinstance(error, TransientRepositoryError)), errors[0])
