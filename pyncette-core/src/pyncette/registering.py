"""Group commit of registrations: whatever is registered while a call to the store is in progress goes into the next one.

So a lone registration is sent at once, and a burst of any size needs no more than one connection, and leaves the others to the engine.
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

#: For how long after a failure (seconds) each partition has calls of its own: what one does not answer is not to hold up the others.
_APART = 60.0
#: A caller that has waited this long (seconds) when a call fails does not wait for the next one.
_PATIENCE = 10.0
#: How many may be passed over, to be sent later, on the way to what fits into a batch.
_MOST_PASSED_OVER = 100


class _Caller:
    """Waits until all of its registrations are stored, or have failed."""

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
        if isinstance(self._error, TransientRepositoryError):  # of many callers: each raises one of its own
            own = TransientRepositoryError(str(self._error))
            own.__cause__ = self._error
            self._error = own
        self.done.set_exception(self._error)
        self.done.exception()  # or asyncio would complain if the caller is cancelled at this moment


@dataclass(frozen=True, slots=True)
class _Entry:
    registration: Registration
    force: bool
    caller: _Caller
    #: When it was put into the queue, on the monotonic clock.
    since: float


@dataclass(slots=True)
class _Queue:
    """What waits for a call that is in progress."""

    entries: deque[_Entry] = field(default_factory=deque)
    #: Sends what waits; None while the call is that of a caller itself.
    sending: "asyncio.Task[None] | None" = None


class Registrar:
    """Registers for all callers of one application, in one call at a time."""

    def __init__(self, repository: Repository, clock: AlignedClock, stored: Callable[[Sequence[Registration]], None]) -> None:
        """``stored`` is called with registrations once they are stored."""
        self._repository = repository
        self._clock = clock
        self._stored = stored
        #: Those that have a call in progress: one for all, or for a while one for each partition, by its name.
        self._queues: dict[str, _Queue] = {}
        self._apart_until = float("-inf")

    async def register(self, registrations: Sequence[Registration], *, force: bool = False) -> None:
        """Store ``registrations``, of distinct keys, however many.

        Raises what the store raises; what others register has no part in that, unless the store can't be reached. Cancelled or failed,
        some may be stored.
        """
        for number, batch in enumerate(cut(registrations)):
            if number:
                await asyncio.sleep(0)  # a store in memory does not wait
            await self._register(batch, force)

    async def _register(self, batch: Sequence[Registration], force: bool) -> None:
        names = {self._queue_of(registration) for registration in batch}
        if len(names) == 1 and names.isdisjoint(self._queues):
            (name,) = names
            self._queues[name] = _Queue()
            try:
                await self._send(batch, force)  # by the caller itself: cancelled with it, and part of its trace
            finally:
                self._go_on(name)
            return
        caller, now = _Caller(len(batch)), self._clock.monotonic()
        for registration in batch:
            self._put(_Entry(registration, force, caller, now))
        await caller.done

    async def close(self) -> None:
        """Refuse what waits, and wait for the calls in progress: the store is about to be closed."""
        for queue in list(self._queues.values()):
            _refuse(queue.entries, "The application was closed before this was stored")
            queue.entries.clear()
            if queue.sending is not None:
                await asyncio.wait([queue.sending])

    def _queue_of(self, registration: Registration) -> str:
        partition = registration.key.partition
        # Where there is a queue of its own, it stays in that: registrations of one key keep their order.
        return partition if partition in self._queues or self._clock.monotonic() < self._apart_until else ""

    def _put(self, entry: _Entry) -> None:
        name = self._queue_of(entry.registration)
        if name in self._queues:
            self._queues[name].entries.append(entry)
        else:
            self._queues[name] = _Queue(deque([entry]))
            self._go_on(name)

    def _go_on(self, name: str) -> None:
        """Send what waits in a queue, now that no call is in progress."""
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
            # Only if cut short, with the event loop: nobody is to wait forever.
            _refuse([*batch, *entries], "The application was shut down before this was stored")
            entries.clear()
            raise
        finally:
            del self._queues[name]
            for entry in entries:  # each into the queue of its partition
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
    """The partitions of ``registrations``, each with when the first of it is ready, and how many they are."""
    found: dict[str, tuple[datetime, int]] = {}
    for registration in registrations:
        partition, ready_at = registration.key.partition, registration.target.execute_after
        first, count = found.get(partition, (ready_at, 0))
        found[partition] = min(first, ready_at), count + 1
    return [(partition, first, count) for partition, (first, count) in found.items()]


def _next_batch(entries: deque[_Entry]) -> list[_Entry]:
    """Take from ``entries`` what goes into one call: a key stands at most once in it, and it is forced or not as a whole."""
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
        keys.add(key)  # nothing of the same key overtakes what is passed over
    entries.extendleft(reversed(later))
    return batch


def _refuse(entries: Iterable[_Entry], why: str) -> None:
    for entry in entries:
        entry.caller.answer(RepositoryError(why))
