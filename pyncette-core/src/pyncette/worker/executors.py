"""Where bodies run: concurrently in the event loop, or one after another for tests."""

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

__all__ = ["ConcurrentExecutor", "Executor", "SynchronousExecutor"]


class Executor(Protocol):
    """Runs executions in a limited number of slots. Nothing is claimed without a free slot, so no lease expires in a queue."""

    def __init__(self, concurrency_limit: int, slot_freed: Callable[[], None]) -> None:
        """Call ``slot_freed`` whenever ``free_slots`` has increased."""

    @property
    def free_slots(self) -> int:
        """How many more executions can be started now."""
        ...

    async def spawn(self, execution: Coroutine[Any, Any, None]) -> None:
        """Start ``execution``; called at most ``free_slots`` times."""
        ...

    async def drain(self, timeout: float | None) -> bool:
        """Wait until all have ended, at most ``timeout`` seconds (None: no limit). Returns whether they have."""
        ...

    def cancel(self) -> None:
        """Cancel all running executions."""
        ...


#: Starts a task. From Python 3.12 on it runs at once until its first wait, so a body that never waits costs no turn of the loop.
if sys.version_info >= (3, 12):
    _task = functools.partial(asyncio.Task, eager_start=True)
else:
    _task = asyncio.Task


class ConcurrentExecutor:
    """Each execution is a task of the event loop."""

    def __init__(self, concurrency_limit: int, slot_freed: Callable[[], None]) -> None:
        self._limit = concurrency_limit
        self._slot_freed = slot_freed
        self._running: dict[asyncio.Task[None], None] = {}  # in the order of their start
        #: 1 while an execution takes its first step, and is not in the collection yet.
        self._starting = 0

    @property
    def free_slots(self) -> int:
        return self._limit - len(self._running) - self._starting

    async def spawn(self, execution: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        self._starting = 1
        try:
            # bypasses the check for a user's task factory if there is none, since that costs half as much as the task itself
            task = _task(execution, loop=loop) if loop.get_task_factory() is None else loop.create_task(execution)
        finally:
            self._starting = 0
        if task.done():
            self._slot_freed()
        else:
            self._running[task] = None
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._slot_freed()

    async def drain(self, timeout: float | None) -> bool:
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
        return not self._running

    def cancel(self) -> None:
        for task in self._running:
            task.cancel()


class SynchronousExecutor(ConcurrentExecutor):
    """Each execution ends before the next one is claimed, whatever the limit, for tests that need a fixed order."""

    def __init__(self, concurrency_limit: int, slot_freed: Callable[[], None]) -> None:
        super().__init__(1, slot_freed)
