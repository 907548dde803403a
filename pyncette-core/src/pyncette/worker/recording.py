"""The history of runs: written after their settlements, in batches, on a best-effort basis. No run waits for it or fails because of it."""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from datetime import datetime, timedelta
from typing import NamedTuple

from pyncette.clock import AlignedClock
from pyncette.errors import TransientRepositoryError
from pyncette.history import entry_of
from pyncette.store.contract import Key, Repository
from pyncette.store.history import Entry, SupportsHistory
from pyncette.tasks import PartitionedTask, StaticTask, Task
from pyncette.waiting import Backoff, fault

__all__ = ["Recorder"]

logger: logging.Logger = logging.getLogger(__name__)

#: How long an entry waits for others (seconds), how many are written together, and how many may wait.
_WAIT, _BATCH, _MOST_WAITING = 1.0, 500, 10_000
#: The same at shutdown, when time is short.
_WAIT_AT_END = 0.5
#: The pauses while nothing can be written (seconds), and how long to wait for a call.
_FIRST_PAUSE, _LAST_PAUSE, _TIMEOUT = 1.0, 60.0, 30.0
#: How often expired entries are removed (seconds), how many in one call, and how many for each entry written.
_PRUNE_EVERY, _PRUNED, _MORE = 300.0, 500, 2
#: The maximum number of entries of a static task, and of a template, whatever their ``history``.
_MOST_OF_TASK, _MOST_OF_TEMPLATE = 10_000, 100_000


class _Room(NamedTuple):
    """The unit of the limit: a static task, or a partition of a template."""

    partition: str
    name: str | None
    keep: int


class Recorder:
    """Accepts entries, and writes them a little later, in a task that starts with the first entry."""

    def __init__(self, repository: Repository, clock: AlignedClock) -> None:
        self._repository = repository if isinstance(repository, SupportsHistory) else None
        self._clock = clock
        self._waiting: deque[Entry] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._wakeup = asyncio.Event()
        self._closing = False
        #: How many entries were dropped since the last log line about it.
        self._dropped = 0
        #: How many entries were written since expired ones were last removed, in total and per unit.
        self._written: Counter[_Room] = Counter()
        self._owed = 0
        self._pruned_at = float("-inf")

    @property
    def pending(self) -> int:
        """How many entries are waiting to be written."""
        return len(self._waiting)

    def put(self, task: Task, key: Key, text: str, keep: timedelta) -> None:
        """Record an entry about ``key`` of ``task``, to be kept for the given time."""
        if self._repository is None:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._drop(1)
            return
        now: datetime = self._clock.now()
        self._waiting.append(entry_of(key, now, keep, text))
        self._written[_room(task, key)] += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(self._repository), name="pyncette-history")
        elif len(self._waiting) == 1 or len(self._waiting) == _BATCH:
            self._wakeup.set()

    async def close(self, seconds: float) -> None:
        """Write the remaining entries, within the given time."""
        if self._writing is None:
            return
        self._closing = True
        self._wakeup.set()
        try:
            await asyncio.wait([self._writing], timeout=seconds)
        finally:
            self._writing.cancel()
            if self._waiting:
                logger.warning("The history can't be written; %d entries are missing", self._dropped + len(self._waiting))
                self._waiting.clear()

    async def _write(self, repository: SupportsHistory) -> None:
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE)
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._wakeup.clear()
                await self._wakeup.wait()
            if len(self._waiting) < _BATCH and not self._closing:
                await self._pause(_WAIT)
            batch = [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await repository.append(batch)
            except (TransientRepositoryError, TimeoutError, asyncio.CancelledError) as error:
                logger.debug("The history can't be written: %s", fault(error))
                await self._pause(pauses.next())
                continue
            except Exception as error:
                # Don't retry: it would fail again, and later entries may succeed.
                self._forget(len(batch))
                self._drop(len(batch), error)
                await self._pause(pauses.next())
                continue
            self._forget(len(batch))
            self._owed += len(batch)
            pauses.reset()
            if self._dropped:
                logger.warning("The history can be written again; %d entries are missing", self._dropped)
                self._dropped = 0
            if not self._closing:
                await self._make_room(repository)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()

    def _drop(self, count: int, error: Exception | None = None) -> None:
        if not self._dropped:
            why = "the store can't keep up" if error is None else error
            logger.warning("The history can't be written, so further entries will be missing: %s", why)
        self._dropped += count

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the end has come, or a batch is full."""
        if self._closing:
            await asyncio.sleep(min(seconds, _WAIT_AT_END))
            return
        self._wakeup.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()

    async def _make_room(self, repository: SupportsHistory) -> None:
        """Remove expired entries in small parts: at intervals, and whenever entries are written."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                now = self._clock.monotonic()
                if now - self._pruned_at >= _PRUNE_EVERY or self._owed >= _PRUNED:
                    self._pruned_at = now
                    allowed, self._owed = max(_PRUNED, self._owed * _MORE), 0
                    while allowed > 0 and (removed := await repository.prune(self._clock.now(), limit=_PRUNED)):
                        allowed -= removed
                for room in [room for room, count in self._written.items() if count >= max(1, room.keep // 10)]:
                    partition, name, keep = room
                    del self._written[room]
                    while await repository.trim(partition, name, keep=keep, limit=_PRUNED):
                        pass
        except (Exception, asyncio.CancelledError) as error:
            logger.debug("Expired entries can't be removed from the history: %s", fault(error))
        if len(self._written) > _MOST_WAITING:
            self._written.clear()


def _room(task: Task, key: Key) -> _Room:
    if isinstance(task, StaticTask):
        return _Room(key.partition, key.name, _MOST_OF_TASK)
    count = task.partition_count if isinstance(task, PartitionedTask) else 1
    return _Room(key.partition, None, max(1, _MOST_OF_TEMPLATE // count))
