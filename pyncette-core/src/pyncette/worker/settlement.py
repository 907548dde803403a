"""Group commit of outcomes: everything settled while a call to the store is in progress goes into the next call.

So a single outcome is written at once, and under load the batches grow.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pyncette.batches import in_halves
from pyncette.clock import AlignedClock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.store.contract import Outcome, Repository, Settlement
from pyncette.waiting import Backoff

__all__ = ["Answer", "Settler"]

logger: logging.Logger = logging.getLogger(__name__)

#: The pauses between tries while the store can't be reached (seconds), also while the process ends.
_FIRST_PAUSE, _LAST_PAUSE, _PAUSE_AT_END = 0.05, 1.0, 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a settlement, once it is known or given up."""

    #: The outcome; None if the store could not be reached in time, or refused.
    outcome: Outcome | None
    #: True if an earlier try may have been applied although it failed.
    resent: bool
    error: BaseException | None = None


#: The answer to nearly every settlement.
_APPLIED = Answer(Outcome.APPLIED, resent=False)

Done: TypeAlias = Callable[[Answer], None]


@dataclass(slots=True, eq=False)
class _Entry:
    settlement: Settlement
    #: Until when transient errors are retried, on the monotonic clock; the first try happens in any case.
    give_up_at: float
    done: Done
    resent: bool = False
    answered: bool = False


class Settler:
    """Collects settlements and sends them, one batch at a time."""

    def __init__(self, repository: Repository, clock: AlignedClock, batch_size: int, progress: Callable[[], None]) -> None:
        """``progress`` is called whenever :attr:`pending` has decreased."""
        self._repository = repository
        self._clock = clock
        self._batch_size = batch_size
        self._progress = progress
        self._queue: deque[_Entry] = deque()
        self._in_flight: list[_Entry] = []
        #: How many settlements have no answer yet.
        self._unanswered = 0
        #: The batch size: smaller after each failure, so that a settlement that always fails delays fewer and fewer others.
        self._limit = batch_size
        self._wakeup = asyncio.Event()
        #: When the store last answered, or there was nothing to send, on the monotonic clock.
        self._progressed_at = clock.monotonic()
        self._closed = asyncio.Event()
        self._ended = False
        self._give_up_at = float("inf")

    @property
    def pending(self) -> int:
        """How many settlements have no answer yet."""
        return len(self._queue) + self._unanswered

    @property
    def stalled_for(self) -> float:
        """For how many seconds nothing has been settled although settlements wait."""
        return self._clock.monotonic() - self._progressed_at if self.pending else 0.0

    def put(self, settlement: Settlement, give_up_at: float, done: Done) -> None:
        """Queue ``settlement``. ``done`` is called later, exactly once, with the answer, and must not raise."""
        entry = _Entry(settlement, give_up_at, done)
        if self._ended:  # from a body that was left behind, which would wait forever
            asyncio.get_running_loop().call_soon(done, Answer(None, False, RepositoryError("The application has been shut down")))
            return
        if not self._queue:
            self._wakeup.set()
        self._queue.append(entry)

    async def submit(self, settlement: Settlement, give_up_at: float) -> Answer:
        """Queue ``settlement``, and wait for the answer. If cancelled, it may be sent anyway."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(result: Answer) -> None:
            if not answer.done():
                answer.set_result(result)

        self.put(settlement, give_up_at, done)
        return await answer

    def close(self, give_up_at: float) -> None:
        """Let :meth:`run` end when everything is settled, or at ``give_up_at`` on the monotonic clock."""
        self._closed.set()
        self._give_up_at = give_up_at
        self._wakeup.set()

    async def run(self) -> None:
        """Send settlements until closed."""
        try:
            await self._run()
        finally:
            self._ended = True
            for entry in (*self._in_flight, *self._queue):  # only if cut short: nobody may wait forever
                if not entry.answered:
                    entry.done(Answer(None, True, RepositoryError("The application was shut down before this was settled")))

    async def _run(self) -> None:
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE)
        while True:
            while not self._queue:
                if self._closed.is_set():
                    return
                self._wakeup.clear()
                await self._wakeup.wait()
                self._progressed_at = self._clock.monotonic()
            self._in_flight = batch = self._next_batch()
            self._unanswered = len(batch)
            again = await self._send(batch)
            self._in_flight, self._unanswered = [], 0
            self._queue.extend(again)  # behind those that wait, because one that always fails must not block them
            if len(again) < len(batch):
                self._progressed_at = self._clock.monotonic()
            self._progress()
            if again:
                self._limit = max(1, len(batch) // 2)
                await self._pause(pauses.next())
            else:
                self._limit = min(2 * self._limit, self._batch_size)
                pauses.reset()

    async def _pause(self, seconds: float) -> None:
        """Pause, but not after closing, because new settlements have not been tried yet."""
        if self._closed.is_set():
            await asyncio.sleep(min(seconds, _PAUSE_AT_END))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        keys = set()
        while self._queue and len(batch) < self._limit:
            key = self._queue[0].settlement.claim.key
            if key in keys:
                break  # a heartbeat and the commit of the same run: a batch contains each key at most once
            keys.add(key)
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: Sequence[_Entry]) -> list[_Entry]:
        """Settle ``batch``; returns the settlements to send again."""
        again: list[_Entry] = []
        async for part, outcomes in in_halves(batch, self._settle):
            if part is not batch:  # a batch that raised may have been applied partly
                for entry in part:
                    entry.resent = True
            if isinstance(outcomes, TransientRepositoryError):
                logger.warning("%d outcomes could not be stored: %s", len(part), outcomes)
                again += self._unless_too_late(part, outcomes)
            elif isinstance(outcomes, Exception):
                self._answer(part[0], Answer(None, part[0].resent, outcomes))
            else:
                for entry, outcome in zip(part, outcomes, strict=True):
                    usual = outcome is Outcome.APPLIED and not entry.resent
                    self._answer(entry, _APPLIED if usual else Answer(outcome, entry.resent))
        return again

    async def _settle(self, batch: Sequence[_Entry]) -> Sequence[Outcome]:
        outcomes = await self._repository.settle(self._clock.now(), [entry.settlement for entry in batch])
        if len(outcomes) != len(batch):
            raise RepositoryError(f"The store returned {len(outcomes)} outcomes for {len(batch)} settlements")
        return outcomes

    def _answer(self, entry: _Entry, answer: Answer) -> None:
        entry.answered = True
        self._unanswered -= 1
        entry.done(answer)

    def _unless_too_late(self, batch: Sequence[_Entry], error: TransientRepositoryError) -> list[_Entry]:
        now = self._clock.monotonic()
        again = []
        for entry in batch:
            entry.resent = True
            if now < min(entry.give_up_at, self._give_up_at):
                again.append(entry)
            else:
                self._answer(entry, Answer(None, True, error))
        return again
