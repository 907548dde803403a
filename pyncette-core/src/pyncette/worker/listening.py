"""What a worker receives from the store apart from polls: the store's time, and hints from other processes."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from pyncette.clock import AlignedClock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.store.contract import Repository, SupportsServerTime
from pyncette.store.hints import SupportsWakeUp
from pyncette.waiting import Backoff, fault

__all__ = ["Listening"]

logger: logging.Logger = logging.getLogger(__name__)

#: How often the offset to the store's clock is measured (seconds).
_ALIGN_EVERY = 30.0
#: The first and the longest pause before listening for hints again after an error (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 30.0


class Listening:
    """Listens in the background until it is stopped. Nothing depends on it, because workers also poll.

    :param expect: called with a partition, the time at which a row of it can be claimed, and ``hinted=True``; without a partition if
        hints may have been missed.
    """

    def __init__(self, repository: Repository, clock: AlignedClock, expect: Callable[..., None]) -> None:
        self._repository = repository
        self._clock = clock
        self._expect = expect
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep_aligned(), name="pyncette-clock"),
            asyncio.create_task(self._listen(), name="pyncette-hints"),
        ]

    async def stop(self, timeout: float) -> None:
        """Stop, and wait for the connection to be closed, for ``timeout`` seconds at most."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def _keep_aligned(self) -> None:
        if not isinstance(self._repository, SupportsServerTime):
            return
        while True:
            await asyncio.sleep(_ALIGN_EVERY)
            try:
                await self._clock.align(self._repository.server_time)
            except (Exception, asyncio.CancelledError) as error:
                logger.debug("The store's clock could not be read: %s", fault(error))

    async def _listen(self) -> None:
        if not self._repository.shared or not isinstance(self._repository, SupportsWakeUp):
            return
        pauses, refused = Backoff(_FIRST_PAUSE, _LAST_PAUSE), False
        while True:
            try:
                async with aclosing(self._repository.wakeups()) as wakeups:
                    async for hints in wakeups:
                        pauses.reset()
                        for hint in hints:
                            self._expect(hint.partition, hint.ready_at, hinted=True)
                        if not hints:
                            self._expect(None, self._clock.now())
                return
            except (TransientRepositoryError, asyncio.CancelledError) as error:
                logger.debug("Can't receive hints from other processes at present: %s", fault(error))
            except RepositoryError as error:
                level = logging.DEBUG if refused else logging.INFO
                logger.log(level, "Can't receive hints from other processes; polling finds what they schedule: %s", error)
                refused = True
            except Exception as error:
                level = logging.DEBUG if refused else logging.ERROR
                logger.log(level, "Listening for hints failed; polling finds what others schedule", exc_info=error)
                refused = True
            await asyncio.sleep(pauses.next())
