"""Hints to other processes that something is ready: sent in the background, and rarely, however much is stored."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pyncette.clock import AlignedClock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.store.contract import Repository
from pyncette.store.hints import Hint, SupportsWakeUp
from pyncette.waiting import Backoff, fault

__all__ = ["Announcer"]

logger: logging.Logger = logging.getLogger(__name__)

#: The pause between two hints about one partition (seconds), doubled up to the limit while more follow.
#: So the first hint of a burst goes out at once, and a burst of any size causes a few hints a second.
_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.25
#: If the store refuses to send hints, the pause before the next try (seconds).
_REFUSED_FOR = 60.0
#: How long sending the remaining hints at shutdown may take (seconds).
_LAST_CHANCE = 0.3


@dataclass(slots=True)
class _Pause:
    """A partition for which a hint was sent a moment ago."""

    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE, _LAST_PAUSE))
    #: The hint to send when the pause ends: the earliest.
    ready_at: datetime | None = None


class Announcer:
    """Sends the hints of one application. Nothing waits for them, and nothing fails if they are lost.

    :param poll_interval: rows that become ready later need no hint, because other processes poll before that.
    """

    def __init__(self, repository: Repository, clock: AlignedClock, poll_interval: timedelta) -> None:
        self._wake = repository.wake if repository.shared and isinstance(repository, SupportsWakeUp) else None
        #: Whether hints are ever sent.
        self.tells: bool = self._wake is not None
        self._clock = clock
        self._poll_interval = poll_interval
        #: The hints to send now, and the partitions whose pause has not ended.
        self._hints: dict[str, datetime] = {}
        self._pauses: dict[str, _Pause] = {}
        self._telling: asyncio.Task[None] | None = None
        self._silent_until = float("-inf")

    def announce(self, partition: str, ready_at: datetime) -> None:
        """Send a hint that a row of ``partition`` is ready at ``ready_at``, if that can change when others poll."""
        if self._wake is None or ready_at - self._clock.now() >= self._poll_interval:
            return
        pause = self._pauses.get(partition)
        if pause is None:
            self._pauses[partition] = _Pause()
            self._tell(partition, ready_at)
        elif pause.ready_at is None or ready_at < pause.ready_at:
            pause.ready_at = ready_at

    def _tell(self, partition: str, ready_at: datetime) -> None:
        self._hints[partition] = min(ready_at, self._hints.get(partition, ready_at))
        if self._telling is None and self._wake is not None:
            self._telling = asyncio.create_task(self._tell_all(self._wake), name="pyncette-hints")
        asyncio.get_running_loop().call_later(self._pauses[partition].backoff.next(), self._pause_over, partition)

    def _pause_over(self, partition: str) -> None:
        pause = self._pauses.get(partition)
        if pause is None or pause.ready_at is None:
            self._pauses.pop(partition, None)
        else:
            ready_at, pause.ready_at = pause.ready_at, None
            self._tell(partition, ready_at)

    async def _tell_all(self, wake: Callable[[Sequence[Hint]], Awaitable[None]]) -> None:
        try:
            while self._hints and self._clock.monotonic() >= self._silent_until:
                hints = [Hint(partition, ready_at) for partition, ready_at in self._hints.items()]
                self._hints.clear()
                try:
                    await wake(hints)
                except (Exception, asyncio.CancelledError) as raised:
                    error = fault(raised)
                    logger.debug("Could not send a hint to other processes; they will find the work at their next poll: %s", error)
                    if isinstance(error, RepositoryError) and not isinstance(error, TransientRepositoryError):
                        self._silent_until = self._clock.monotonic() + _REFUSED_FOR
        finally:
            self._hints.clear()
            self._telling = None

    async def close(self) -> None:
        """Send the waiting hints, if that takes only a moment, before the store is closed."""
        for partition, pause in self._pauses.items():
            if pause.ready_at is not None:
                self._tell(partition, pause.ready_at)
        self._wake = None
        self._pauses.clear()
        if self._telling is not None:
            telling = self._telling
            await asyncio.wait([telling], timeout=_LAST_CHANCE)
            telling.cancel()
            await asyncio.wait([telling], timeout=_LAST_CHANCE)
