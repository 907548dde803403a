"""The row in which a worker reports itself, see :mod:`pyncette.workers`, and the facts that it collects for it."""

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

from pyncette.clock import AlignedClock
from pyncette.store.contract import Key, Repository
from pyncette.tasks import Task
from pyncette.waiting import fault
from pyncette.worker.execution import Runner
from pyncette.workers import Incident, Worker, forget_dead, polls_of, registration

__all__ = ["Outage", "Presence"]

logger: logging.Logger = logging.getLogger(__name__)

#: How long after the start the row is first written (seconds), so that a program that ends at once leaves none.
_FIRST = 1.0
#: How often it is written (seconds).
_EVERY = 10.0
#: After this many writes, an hour, the rows of dead workers are removed.
_SWEEP_EVERY = 360
#: The period over which runs are counted (seconds).
_MINUTE = 60.0


class Outage:
    """Whether the store can be reached; one line in the log when it no longer can, and when it is back."""

    def __init__(self, clock: AlignedClock) -> None:
        self._clock = clock
        #: Since when, on the monotonic clock; None while the store can be reached.
        self._since: float | None = None
        self._last: Incident | None = None

    @property
    def last(self) -> Incident | None:
        """The last time that the store could not be reached, perhaps until now."""
        if self._since is not None and self._last is not None:
            return Incident(self._last.since, timedelta(seconds=self._clock.monotonic() - self._since), self._last.what)
        return self._last

    def begin(self, error: Exception) -> None:
        """A call has failed because the store could not be reached."""
        if self._since is None:
            self._since, self._last = self._clock.monotonic(), Incident(self._clock.now(), timedelta(), str(error))
            logger.warning("The store is unreachable; retrying until it is back: %s", error)

    def end(self) -> None:
        """Calls succeed again."""
        if self._since is not None:
            self._last, self._since = self.last, None
            logger.warning("The store is back")


class Presence:
    """Writes one row every ten seconds, in the background; a failure there stops and delays nothing."""

    def __init__(
        self, worker_id: str, repository: Repository, clock: AlignedClock, runner: Runner, outage: Outage, *, slots: int
    ) -> None:
        self._id = worker_id
        self._repository = repository
        self._clock = clock
        self._runner = runner
        self._outage = outage
        self._slots = slots
        self._polls = polls_of(())
        self._started = clock.now()
        #: Samples of the last minute: the time, and the number of runs and failures until then.
        self._counted: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])
        self._closing = asyncio.Event()
        self._written = False

    def begin(self, tasks: Sequence[Task]) -> None:
        """The tasks that run from now on."""
        self._polls, self._started = polls_of(tasks), self._clock.now()

    def close(self) -> None:
        """Let :meth:`run` remove the row and return."""
        self._closing.set()

    async def run(self) -> None:
        """Keep the row until :meth:`close`."""
        # In an unshared store nobody else sees the row, and an idle application in virtual time should not be woken for nothing.
        pause = _FIRST if self._repository.shared else _EVERY if self._clock.is_system else None
        number = 0
        while not await self._closed_within(pause):
            self._count()
            if self._repository.shared:
                await self._write(sweep=number % _SWEEP_EVERY == 0)
            number, pause = number + 1, _EVERY
        if self._written:
            try:
                await self._repository.unregister(self._clock.now(), [Key(registration(self.worker()).key.partition, self._id)])
            except Exception as error:
                logger.debug("The row of this worker could not be removed: %s", error)

    async def _closed_within(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    async def _write(self, *, sweep: bool) -> None:
        try:
            self._written = True  # as far as we know, even if it fails
            await self._repository.register(self._clock.now(), [registration(self.worker())])
            if sweep:
                await forget_dead(self._repository, self._clock.now())
        except (Exception, asyncio.CancelledError) as error:
            logger.debug("The row of this worker could not be written: %s", fault(error))

    def _count(self) -> None:
        now = self._clock.monotonic()
        self._counted.append((now, self._runner.runs, self._runner.failures))
        while len(self._counted) > 1 and self._counted[1][0] <= now - _MINUTE:
            self._counted.popleft()

    def worker(self) -> Worker:
        """The current content of the row."""
        runner, watch = self._runner, self._runner.watch
        host, pid, _ = self._id.rsplit(":", 2)
        _, runs, failures = self._counted[0]
        now = self._clock.now()
        return Worker(
            id=self._id,
            host=host,
            pid=int(pid),
            version=_version(),
            started=self._started,
            seen=now,
            alive=True,
            stopping=runner.draining,
            slots=self._slots,
            running=len(runner.executions),
            loop_lag=timedelta(seconds=watch.lag if watch is not None else 0.0),
            runs=runner.runs - runs,
            failures=runner.failures - failures,
            polls=self._polls,
            blocked=self._blocked(now),
            store_away=self._outage.last,
        )

    def _blocked(self, now: datetime) -> Incident | None:
        watch = self._runner.watch
        if watch is None or watch.last is None:
            return None
        since, until, why = watch.last
        return Incident(now - timedelta(seconds=time.monotonic() - since), timedelta(seconds=until - since), why)


@functools.cache
def _version() -> str:
    import importlib.metadata  # imported here because it is slow, and most programs that import this package only schedule

    return importlib.metadata.version("pyncette-core")
