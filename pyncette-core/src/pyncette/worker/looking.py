"""Reads that claim nothing: when static tasks are ready, which templates are paused, and which tasks have extra runs."""

from collections.abc import Callable, Collection, MutableMapping, Sequence
from datetime import datetime

from pyncette import partitions
from pyncette.clock import AlignedClock
from pyncette.memo import Memo
from pyncette.policies import CATCH_UPS, CatchUp
from pyncette.store.contract import Key, Repository, State
from pyncette.tasks import StaticTask, Task, Template
from pyncette.worker.lanes import Lane, Lanes

__all__ = ["Looking", "look_every"]

#: How often to check which templates are paused, and which tasks have extra runs (seconds).
_LOOK_EVERY, _LOOK_AT_LEAST = 5.0, 9.0


def look_every(poll_every: float) -> float:
    """The interval of these checks: the poll interval, but no shorter than people notice, and short enough for what the documentation promises."""
    return min(max(poll_every, _LOOK_EVERY), _LOOK_AT_LEAST)


class Looking:
    """Reads for all lanes of an application, in one call at a time."""

    def __init__(
        self,
        repository: Repository,
        clock: AlignedClock,
        tasks: Sequence[Task],
        lanes: Lanes,
        poll_every: float,
        expect: Callable[[Lane, datetime], None],
        resumed: MutableMapping[Task, tuple[datetime, CatchUp]],
    ) -> None:
        """``expect`` is called with a lane, and the time at which it has a ready row; ``resumed`` receives when and how templates were resumed."""
        self._repository = repository
        self._clock = clock
        self._static = [task for task in tasks if isinstance(task, StaticTask)]
        self._templates = [task for task in tasks if isinstance(task, Template)]
        self._lanes = lanes
        self._poll_every = poll_every
        self._expect = expect
        self._resumed = resumed
        #: The last values of the static tasks' bells, and when to check for their extra runs again.
        self._heard: dict[StaticTask, str] = {}
        self._again: dict[StaticTask, float] = {}

    async def look(self, lane: Lane) -> Collection[str]:
        """Read for ``lane``; returns the static tasks that are missing in the store."""
        if lane.partition == partitions.LAYOUTS:
            await self._facts(lane)
            return ()
        rows = await self._repository.get([task.key for task in self._static])
        self._lanes.succeeded(lane, 0, 0, None, self._poll_every)
        for task, row in zip(self._static, rows, strict=True):
            if row is not None and row.ready_at is not None:
                self._expect(self._lanes.of_static(task), row.ready_at)
        return {task.name for task, row in zip(self._static, rows, strict=True) if row is None}

    async def _facts(self, lane: Lane) -> None:
        keys = [Key(partitions.LAYOUTS, task.name) for task in self._templates]
        keys += [Key(partitions.BELLS, task.name) for task in self._static]
        rows = await self._repository.get(keys)
        self._lanes.succeeded(lane, 0, 0, None, self._poll_every)
        for template, row in zip(self._templates, rows, strict=False):
            self._lanes.pause(template, row is not None and row.state is State.PAUSED)
            if row is not None and (since := Memo.read(row.memo).since) is not None and since[1] in CATCH_UPS:
                self._resumed[template] = since[0], CATCH_UPS[since[1]]
        now = self._clock.monotonic()
        for task, row in zip(self._static, rows[len(self._templates) :], strict=True):
            if row is not None and self._heard.get(task) != row.schedule:
                self._heard[task] = row.schedule
                # Another process may hold a row at this moment, and die with it, so check again after its lease.
                self._again[task] = now + task.lease_duration.total_seconds()
            elif now < self._again.get(task, float("inf")):
                continue
            else:
                del self._again[task]
            for extra in self._lanes.of(partitions.extra_runs(task.name)):
                self._expect(extra, self._clock.now())
