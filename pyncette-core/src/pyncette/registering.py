"""Group commit of registrations: everything registered while a call to the store is in progress goes into the next call.

So a single registration is sent at once, and a burst of any size uses one connection, which leaves the others to the engine.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pyncette.batches import BATCH_CHARACTERS, BATCH_ROWS, cut, in_halves
from pyncette.clock import AlignedClock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.store.contract import Registration, Repository

__all__ = ["Registrar", "earliest"]

#: For how long after a failure (seconds) each partition gets separate calls, so that a partition that hangs doesn't delay the others.
_APART = 60.0
#: A caller that has waited this long (seconds) when a call fails gets the error instead of waiting for the next call.
_PATIENCE = 10.0
#: How many waiting entries may be passed over while filling a batch; they are sent later.
_MOST_PASSED_OVER = 100


class _Caller:
    """A caller, which waits until all of its registrations are stored or have failed."""

    __slots__ = ("_error", "_left", "done")

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count
        self._error: Exception | None = None

    def answer(self, error: Exception | None) -> None:
        self._left -= 1
        self._error = self._error or error
        if self._left or self.done.done():
            return
        if self._error is None:
            self.done.set_result(None)
            return
        if isinstance(self._error, TransientRepositoryError):  # each of many callers raises a separate exception
            own = TransientRepositoryError(str(self._error))
            own.__cause__ = self._error
            self._error = own
        self.done.set_exception(self._error)
        self.done.exception()  # otherwise asyncio would complain if the caller is cancelled at this moment


@dataclass(frozen=True, slots=True)
class _Entry:
    registration: Registration
    force: bool
    caller: _Caller
    #: When it entered the queue, on the monotonic clock.
    since: float


@dataclass(slots=True)
class _Queue:
    """The registrations that wait while a call is in progress."""

    entries: deque[_Entry] = field(default_factory=deque)
    #: The task that sends waiting registrations; None while a caller sends its own.
    sending: "asyncio.Task[None] | None" = None


class Registrar:
    """Registers for all callers of one application, in one call at a time."""

    def __init__(self, repository: Repository, clock: AlignedClock, stored: Callable[[Sequence[Registration]], None]) -> None:
        """``stored`` is called with registrations once they are stored."""
        self._repository = repository
        self._clock = clock
        self._stored = stored
        #: The queues with a call in progress: one for all partitions, or for a while one for each, by its name.
        self._queues: dict[str, _Queue] = {}
        self._apart_until = float("-inf")

    async def register(self, registrations: Sequence[Registration], *, force: bool = False) -> None:
        """Store any number of ``registrations`` with distinct keys.

        Raises the store's errors, but none that registrations of others cause, unless the store can't be reached. After a cancellation
        or an error, some may be stored.
        """
        for number, batch in enumerate(cut(registrations)):
            if number:
                await asyncio.sleep(0)  # a store in memory never waits
            await self._register(batch, force)

    async def _register(self, batch: Sequence[Registration], force: bool) -> None:
        names = {self._queue_of(registration) for registration in batch}
        if len(names) == 1 and names.isdisjoint(self._queues):
            (name,) = names
            self._queues[name] = _Queue()
            try:
                await self._send(batch, force)  # in the caller's task: cancelled with it, and part of its trace
            finally:
                self._go_on(name)
            return
        caller, now = _Caller(len(batch)), self._clock.monotonic()
        for registration in batch:
            self._put(_Entry(registration, force, caller, now))
        await caller.done

    async def close(self) -> None:
        """Refuse waiting registrations, and wait for the calls in progress, before the store is closed."""
        for queue in list(self._queues.values()):
            _refuse(queue.entries, "The application was closed before this was stored")
            queue.entries.clear()
            if queue.sending is not None:
                await asyncio.wait([queue.sending])

    def _queue_of(self, registration: Registration) -> str:
        partition = registration.key.partition
        # An existing queue for the partition is used further, so that registrations of one key keep their order.
        return partition if partition in self._queues or self._clock.monotonic() < self._apart_until else ""

    def _put(self, entry: _Entry) -> None:
        name = self._queue_of(entry.registration)
        if name in self._queues:
            self._queues[name].entries.append(entry)
        else:
            self._queues[name] = _Queue(deque([entry]))
            self._go_on(name)

    def _go_on(self, name: str) -> None:
        """Send the registrations that wait in a queue, now that no call is in progress."""
        queue = self._queues[name]
        if queue.entries:
            queue.sending = asyncio.create_task(self._send_all(name, queue.entries), name="pyncette-register")
        else:
            del self._queues[name]

    async def _send_all(self, name: str, entries: deque[_Entry]) -> None:
        batch: list[_Entry] = []
        try:
            while entries:
                if not name and self._clock.monotonic() < self._apart_until:
                    break
                batch = _next_batch(entries)
                async for part, result in in_halves(batch, self._send_entries):
                    error = result if isinstance(result, Exception) else None
                    for entry in part:
                        entry.caller.answer(error)
                    if isinstance(error, TransientRepositoryError):
                        late = self._clock.monotonic() - _PATIENCE
                        while entries and entries[0].since <= late:
                            entries.popleft().caller.answer(error)
        except BaseException:
            # Only if the event loop ends: nobody may wait forever.
            _refuse([*batch, *entries], "The application was shut down before this was stored")
            entries.clear()
            raise
        finally:
            del self._queues[name]
            for entry in entries:  # move each into the queue of its partition
                self._put(entry)

    async def _send_entries(self, entries: Sequence[_Entry]) -> None:
        await self._send([entry.registration for entry in entries], entries[0].force)

    async def _send(self, registrations: Sequence[Registration], force: bool) -> None:
        try:
            await self._repository.register(self._clock.now(), registrations, force=force)
        except TransientRepositoryError:
            self._apart_until = self._clock.monotonic() + _APART
            raise
        self._stored(registrations)


def earliest(registrations: Sequence[Registration]) -> Iterable[tuple[str, datetime, int]]:
    """The partitions of ``registrations``, each with the time of its first ready row, and the number of its rows."""
    found: dict[str, tuple[datetime, int]] = {}
    for registration in registrations:
        partition, ready_at = registration.key.partition, registration.target.execute_after
        first, count = found.get(partition, (ready_at, 0))
        found[partition] = min(first, ready_at), count + 1
    return [(partition, first, count) for partition, (first, count) in found.items()]


def _next_batch(entries: deque[_Entry]) -> list[_Entry]:
    """Take entries for one call from ``entries``: each key at most once, and either all forced or none."""
    batch: list[_Entry] = []
    later: list[_Entry] = []
    keys = set()
    characters = 0
    while entries and len(batch) < BATCH_ROWS and len(later) < _MOST_PASSED_OVER:
        entry = entries[0]
        key = entry.registration.key
        if key in keys or (batch and entry.force is not batch[0].force):
            later.append(entries.popleft())
        else:
            characters += len(entry.registration.spec)
            if batch and characters > BATCH_CHARACTERS:
                break
            batch.append(entries.popleft())
        keys.add(key)  # no later entry of the same key may overtake it
    entries.extendleft(reversed(later))
    return batch


def _refuse(entries: Iterable[_Entry], why: str) -> None:
    for entry in entries:
        entry.caller.answer(RepositoryError(why))
