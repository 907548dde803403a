"""The state of all tasks: one background scan for all viewers, which costs the store nothing while nobody looks."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pyncette import Client, RecordedRun, RepositoryError, Run, ScheduledTask, Task, Template, Worker
from pyncette.dashboard.connection import Connection, StoreAwayError
from pyncette.repository import Stats
from pyncette.tasks import StaticTask

__all__ = ["HOURS", "Counts", "Survey"]

HOURS = 24
#: The scan pauses after nobody has looked for this long (seconds).
_ASLEEP_AFTER = 30.0
#: Seconds between two reads of small data, of the history, and of undeclared rows.
_EVERY, _HISTORY_EVERY, _UNDECLARED_EVERY = 2.0, 5.0, 30.0
#: How long the first viewer waits for complete counts after the store has answered (seconds).
_FIRST_LOOK = 0.12
#: The pause after a scan, in multiples of its duration: so scans take at most a tenth of the time, and so does the store's counting.
_REST = 9
#: How many failed rows are kept for each template, and how many tasks are asked for how many of their last runs.
_KEPT = 100
_ASKED, _RUNS = 40, 30


@dataclass
class Counts:
    """The result of scanning a template."""

    states: Counter[str] = field(default_factory=Counter)
    extra: int = 0
    next: datetime | None = None
    oldest_due: datetime | None = None
    last_run: Run | None = None
    #: The first rows that have failed, will be retried, or whose lease has expired.
    attention: list[ScheduledTask] = field(default_factory=list)
    hours: list[int] = field(default_factory=lambda: [0] * HOURS)
    #: When the scan ended; None while it is in progress.
    at: datetime | None = None

    @property
    def total(self) -> int:
        return self.states.total()

    def add(self, found: ScheduledTask, now: datetime) -> None:
        state = found.state_at(now)
        row = found.row
        if state in ("failed", "retrying", "lease expired", "unreadable") and len(self.attention) < _KEPT:
            self.attention.append(found)
        if found.triggered:
            self.extra += 1
            return
        self.states[state] += 1
        if row.ready_at is not None:
            if self.next is None or row.ready_at < self.next:
                self.next = row.ready_at
            if row.ready_at <= now and (self.oldest_due is None or row.ready_at < self.oldest_due):
                self.oldest_due = row.ready_at
            hour = max((row.ready_at - now) // timedelta(hours=1), 0)
            if hour < HOURS:
                self.hours[hour] += 1
        if row.memo:
            run = found.last_run
            if run is not None and (self.last_run is None or _end(run) > _end(self.last_run)):
                self.last_run = run


def _end(run: Run) -> datetime:
    return run.ended or run.started or run.scheduled_at


class Survey:
    """The data that all viewers share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._looked = 0.0
        self._soon = asyncio.Event()
        self._next_scan = self._next_count = 0.0
        self._tick = 0.0
        self.error: str = ""
        self.now: datetime | None = None
        self.static: Mapping[str, ScheduledTask] = {}
        self.paused: Mapping[str, object] = {}
        self.workers: Sequence[Worker] = ()
        self.undeclared: Sequence[object] = ()
        self.runs: Sequence[tuple[Task, RecordedRun]] = ()
        #: By the name of the template: the store's own counts, if it can count.
        self.stats: Mapping[str, Stats] = {}
        #: By the name of the template: the last completed scan, and the one in progress.
        self.counts: dict[str, Counts] = {}
        self.counting: dict[str, Counts] = {}

    async def look(self) -> None:
        """Called for each viewer: start or continue scanning. Returns once there are data; raises StoreAwayError if there are none in time."""
        loop = asyncio.get_running_loop()
        self._looked = time.monotonic()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop, self._soon = loop, asyncio.Event()
            self._ready, self.now = asyncio.Event(), None  # data from earlier viewers are outdated
            self._task = asyncio.create_task(self._go_on(), name="pyncette-dashboard-survey")
        if self.now is None:
            await self._connection.within(self._first())

    async def _first(self) -> None:
        await self._connection.client()
        await self._ready.wait()

    def changed(self) -> None:
        """Called after a viewer has changed something."""
        self._connection.forget()
        self._soon.set()

    @property
    def silence(self) -> float:
        """For how many seconds the store has not answered; 0 while there is no request."""
        return 0.0 if self.now is None or self._task is None or self._task.done() else time.monotonic() - self._tick

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _go_on(self) -> None:
        scan: asyncio.Task[None] | None = None
        history = undeclared = 0.0
        try:
            while time.monotonic() - self._looked < _ASLEEP_AFTER:
                try:
                    client = await self._connection.client()
                    static, self.paused, self.workers = await asyncio.gather(
                        client.list_static_tasks(), client.list_paused_templates(), client.list_workers()
                    )
                    self.static = {each.name: each for each in static}
                    self.now, self._tick, self.error = client.clock.now(), time.monotonic(), ""
                    if not self._ready.is_set():
                        asyncio.get_running_loop().call_later(_FIRST_LOOK, self._ready.set)
                    if time.monotonic() > self._next_count:
                        await self._count(client)
                    if scan is None or (scan.done() and time.monotonic() > self._next_scan):
                        if scan is not None and scan.exception() is not None:
                            self.error = str(scan.exception())
                        scan = asyncio.create_task(self._scan(client))
                        await asyncio.wait([scan], timeout=_FIRST_LOOK)  # a small one is done at once
                    if time.monotonic() > history:
                        self.runs = await self._last_runs(client)
                        history = time.monotonic() + _HISTORY_EVERY
                    self._ready.set()
                    if time.monotonic() > undeclared:
                        self.undeclared = await client.list_undeclared()
                        undeclared = time.monotonic() + _UNDECLARED_EVERY
                except (StoreAwayError, RepositoryError) as error:
                    self.error = str(error)
                try:
                    async with asyncio.timeout(_EVERY):
                        await self._soon.wait()
                except TimeoutError:
                    continue
                self._soon.clear()
                self._next_scan = min(self._next_scan, time.monotonic() + 0.2)
                self._next_count = history = undeclared = 0.0
                await asyncio.sleep(0.2)
        finally:
            if scan is not None:
                scan.cancel()

    async def _count(self, client: Client) -> None:
        begun = time.monotonic()
        templates = [task for task in client.tasks if isinstance(task, Template)]
        found = await asyncio.gather(*map(client.count_tasks, templates))
        self.stats = {task.name: stats for task, stats in zip(templates, found, strict=True) if stats is not None}
        self._next_count = time.monotonic() + _REST * (time.monotonic() - begun)

    async def _scan(self, client: Client) -> None:
        begun, seen = time.monotonic(), 0
        try:
            for task in client.tasks:  # of static ones, their extra runs
                counts = self.counting[task.name] = Counts()
                token: str | None = None
                while True:
                    page = await self._connection.reader.page(client, task, token, seen=seen, extra_runs=True)
                    now = client.clock.now()
                    for number, found in enumerate(page.tasks, 1):
                        counts.add(found, now)
                        if number % 50 == 0:
                            await asyncio.sleep(0)  # requests of viewers go ahead
                    seen += len(page.tasks)
                    token = page.continuation_token
                    if token is None:
                        break
                counts.at = client.clock.now()
                self.counts[task.name] = counts
        finally:
            self.counting.clear()
            self._next_scan = time.monotonic() + max(_EVERY, _REST * (time.monotonic() - begun))

    async def _last_runs(self, client: Client) -> Sequence[tuple[Task, RecordedRun]]:
        asked = [task for task in client.tasks if isinstance(task, StaticTask) or task.history is not None][:_ASKED]
        found: list[tuple[Task, RecordedRun]] = []
        for task in asked:
            if isinstance(task, Template) and len(task.all_partitions()) > _ASKED:
                continue
            try:
                page = await client.list_runs(task, limit=_RUNS)
            except RepositoryError:  # a store without a history
                return found
            found += [(task, run) for run in page.runs]
        return sorted(found, key=lambda each: _end(each[1]), reverse=True)
