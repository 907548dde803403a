"""The shutdown of a worker: bodies first, then their outcomes, within a time limit."""

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.worker.execution import Execution, Runner
from pyncette.worker.executors import Executor
from pyncette.worker.recording import Recorder
from pyncette.worker.settlement import Settler

__all__ = ["GRACE", "Ending"]

logger: logging.Logger = logging.getLogger(__name__)

#: How long the shutdown waits for cancelled bodies, and then for calls to the store, when :meth:`Engine.run` is cancelled (seconds).
_CANCELLATION_GRACE = 5.0
#: The same once the ``shutdown_timeout`` has passed: together with the fixtures they get a second.
GRACE = 0.3
#: How long it then waits for clean-up (seconds).
_COURTESY = 0.1
#: The longest wait for the history (seconds).
_HISTORY = 5.0


class Ending:
    """The shutdown of an engine, with its deadlines."""

    def __init__(
        self, runner: Runner, executor: Executor, settler: Settler, clock: AlignedClock, shutdown_timeout: timedelta | None
    ) -> None:
        self._runner = runner
        self._executor = executor
        self._settler = settler
        self._clock = clock
        self._timeout = float("inf") if shutdown_timeout is None else shutdown_timeout.total_seconds()
        #: The deadline on the monotonic clock; None before the shutdown begins.
        self._end_by: float | None = None
        self._cancelled = asyncio.Event()

    @property
    def begun(self) -> bool:
        return self._end_by is not None

    def begin(self) -> None:
        """Start no more bodies, and start the ``shutdown_timeout``."""
        if self._end_by is None:
            self._end_by = self._clock.monotonic() + self._timeout
        self._runner.draining = True

    def cancel(self) -> None:
        """Stop waiting for bodies."""
        self._cancelled.set()

    async def drain(self, polls: set[asyncio.Task[None]], executions: dict[Execution, Any]) -> None:
        """Wait for polls and bodies; cancel them when the ``shutdown_timeout`` has passed, or :meth:`Engine.run` is cancelled."""
        ending = asyncio.create_task(self._all_ended(polls))
        await self._unless_cancelled(ending, self._left())
        if ending.done():
            return
        grace = GRACE
        if self._cancelled.is_set():
            grace = _CANCELLATION_GRACE
        elif executions:
            logger.warning("Not all bodies finished within the shutdown timeout; cancelling: %s", _names(executions))
        self._runner.cancelling = True
        self._executor.cancel()
        await asyncio.wait([ending], timeout=grace)
        for poll in polls:
            poll.cancel()
        await asyncio.wait([ending], timeout=GRACE)  # gives a driver time to discard its connection
        ending.cancel()
        for execution in list(executions):
            if execution.started_at is None:  # cancelled before its first step
                del executions[execution]
                execution.release_unstarted()
        if executions:
            logger.error("Some bodies did not stop when they were cancelled; leaving them behind: %s", _names(executions))

    async def _all_ended(self, polls: set[asyncio.Task[None]]) -> None:
        while polls:
            await asyncio.wait(polls)
        await self._executor.drain(None)

    async def settle(self, settling: "asyncio.Task[None]") -> None:
        """Store the remaining outcomes, as far as there is time."""
        grace = GRACE
        if not self._cancelled.is_set():
            end = self._left() + grace
            self._settler.close(give_up_at=self._clock.monotonic() + end)
            await self._unless_cancelled(settling, end)
        if self._cancelled.is_set() and not settling.done():
            self._settler.close(give_up_at=self._clock.monotonic() + _CANCELLATION_GRACE)
            await asyncio.wait([settling], timeout=_CANCELLATION_GRACE + grace)
        if not settling.done():
            logger.error("The store is unreachable; %d outcomes are not stored", self._settler.pending)
            settling.cancel()
            await asyncio.wait([settling], timeout=grace)

    async def take_leave(self, leaving: "asyncio.Task[None]") -> None:
        """Wait for clean-up, as far as there is time."""
        await self._unless_cancelled(leaving, min(self._left() + _COURTESY, _CANCELLATION_GRACE))
        if self._cancelled.is_set():
            await asyncio.wait([leaving], timeout=GRACE)

    async def record(self, recorder: Recorder) -> None:
        """Write the remaining history, as far as there is time. It does not justify a long wait."""
        seconds = GRACE if self._cancelled.is_set() else min(self._left() + GRACE, _HISTORY)
        closing = asyncio.create_task(recorder.close(seconds))
        await self._unless_cancelled(closing, seconds)
        if not closing.done():
            closing.cancel()
            await asyncio.wait([closing], timeout=GRACE)

    def _left(self) -> float:
        """The seconds left until the deadline."""
        assert self._end_by is not None
        return max(0.0, self._end_by - self._clock.monotonic())

    async def _unless_cancelled(self, task: "asyncio.Task[None]", seconds: float) -> None:
        """Wait for ``task``, but not longer than the given time, nor after :meth:`Engine.run` is cancelled."""
        cancelled = asyncio.create_task(self._cancelled.wait())
        timeout = None if seconds == float("inf") else seconds
        await asyncio.wait([task, cancelled], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        cancelled.cancel()


def _names(executions: Iterable[Execution]) -> str:
    return ", ".join(f"{execution} for {execution.elapsed:.0f} s" for execution in executions)
