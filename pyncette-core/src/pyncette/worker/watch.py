"""A watchdog in a separate thread, which reports a body that blocks the event loop while it does."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Watch"]

logger: logging.Logger = logging.getLogger(__name__)

#: How often the event loop is asked for a sign of life (seconds).
_EVERY = 1.0


class Watch:
    """Logs when the event loop has not run for ``limit`` seconds, again when that has doubled, and when it continues.

    :param describe: returns the description of an asyncio task; None if it is not one of the application's.
    """

    def __init__(self, describe: "Callable[[asyncio.Task[Any]], str | None]", limit: float = 1.0) -> None:
        self._describe = describe
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._thread_of_loop = threading.get_ident()
        self._alive = threading.Event()
        self._stopped = threading.Event()
        #: The last time that the loop did not run: from when until when (monotonic), and the cause.
        self.last: tuple[float, float, str] | None = None
        #: The latencies of the last signs of life (seconds).
        self._lags: deque[float] = deque([0.0], maxlen=round(60 / _EVERY))
        threading.Thread(target=self._run, name="pyncette-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching. Does not wait for the thread to end."""
        self._stopped.set()
        self._alive.set()

    def excuse(self, seconds: float) -> str:
        """An addition to a log line that explains why something late was delayed, if the loop was blocked meanwhile; otherwise empty."""
        if self.last is None or self.last[1] < time.monotonic() - seconds:
            return ""
        since, until, why = self.last
        return f"; {why} for {until - since:.1f} s meanwhile"

    @property
    def lag(self) -> float:
        """The longest that anything waited for the event loop, within the last minute (seconds)."""
        return max(self._lags.copy())  # copied at once, because the thread may add one

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY):
            self._alive.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:  # the loop is closed
                return
            pause, culprit = self._limit, ""
            while not self._alive.wait(pause):
                culprit = self._culprit() or culprit
                self.last = (
                    asked,
                    time.monotonic(),
                    f"{culprit or 'the process was paused and'} kept the event loop from running",
                )
                if culprit:
                    logger.warning(
                        "%s has kept the event loop from running for %.1f s: nothing else runs, and leases may expire. "
                        "Use an asynchronous library, or asyncio.to_thread()",
                        culprit,
                        time.monotonic() - asked,
                    )
                pause *= 2
            self._lags.append(time.monotonic() - asked)
            if self.last is not None and self.last[0] == asked:
                self.last = (asked, time.monotonic(), self.last[2])
            if culprit and not self._stopped.is_set():
                logger.warning("The event loop runs again, after %.1f s", time.monotonic() - asked)

    def _culprit(self) -> str:
        """What the thread of the event loop is doing; empty if it waits for events, as while the process is paused."""
        frame = sys._current_frames().get(self._thread_of_loop)
        task = asyncio.current_task(self._loop)
        if frame is None or task is None:
            return ""
        place = traceback.extract_stack(frame, limit=1)[-1]
        name = self._describe(task) or f"asyncio task {task.get_name()}"
        return f"{name}, in {place.name}() at {place.filename}:{place.lineno},"
