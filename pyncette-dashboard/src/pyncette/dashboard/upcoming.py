"""What fires between two instants: looked for in the background, and shared by all who ask for the same."""

import asyncio
import heapq
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from pyncette import Client, ScheduledTask
from pyncette.dashboard.jobs import Job
from pyncette.errors import ScheduleError
from pyncette.tasks import Template

__all__ = ["MOST", "Search", "Searches"]

#: How many are shown.
MOST = 200
_KEPT_FOR = 30.0
_MOST_SEARCHES = 20
_PAGE = 1000

#: The time, the name of the task, and that of the instance.
Firing = tuple[datetime, str, str]


class Search:
    """One that continues, or has ended."""

    def __init__(self, client: Client, start: datetime, end: datetime, task: str) -> None:
        self._client, self._start, self._end, self._task = client, start, end, task
        self.found: list[Firing] = []
        self.ended_at: float | None = None
        self.job = Job("Looking", "", start, self._run)

    async def _run(self, job: Job) -> None:
        try:
            for static in await self._client.list_static_tasks():
                self._add(static, static.task.name, "")
            for task in self._client.tasks:
                if not isinstance(task, Template) or self._task not in ("", task.name):
                    continue
                token: str | None = None
                while True:
                    page = await self._client.list_tasks(task, limit=_PAGE, continuation_token=token)
                    for number, found in enumerate(page.tasks, 1):
                        self._add(found, task.name, found.name)
                        if number % 100 == 0:
                            await asyncio.sleep(0)
                    job.looked_at += len(page.tasks)
                    token = page.continuation_token
                    if token is None:
                        break
        finally:
            self._keep_first()
            self.ended_at = time.monotonic()

    def _add(self, found: ScheduledTask, task: str, name: str) -> None:
        if self._task not in ("", task) or found.state_at(self._start) in ("paused", "failed", "unreadable"):
            return
        for number, at in enumerate(_times(found, self._start, self._end)):
            if number == MOST:
                break
            self.found.append((at, task, name))
        if len(self.found) > 10 * MOST:
            self._keep_first()

    def _keep_first(self) -> None:
        self.found = heapq.nsmallest(MOST + 1, self.found)
        if len(self.found) > MOST:
            self._end = self.found[-1][0] + timedelta(microseconds=1)  # what comes later is not shown


def _times(found: ScheduledTask, start: datetime, end: datetime) -> Iterator[datetime]:
    try:
        schedule, at = found.schedule, found.row.occurrence
        following: datetime | None = at if at >= start else schedule.next_after(at, start - timedelta(microseconds=1))
        while following is not None and following < end:
            yield following
            following = schedule.next(following)
    except (ScheduleError, OverflowError, ValueError):
        return


class Searches:
    """Those that somebody asked for lately."""

    def __init__(self) -> None:
        self._all: dict[tuple[datetime, datetime, str], Search] = {}

    def get(self, client: Client, start: datetime, end: datetime, task: str) -> Search:
        now = time.monotonic()
        self._all = {key: each for key, each in self._all.items() if each.ended_at is None or now - each.ended_at < _KEPT_FOR}
        key = start, end, task
        if key not in self._all:
            while len(self._all) >= _MOST_SEARCHES:
                self._all.pop(next(iter(self._all))).job.stop()
            self._all[key] = Search(client, start, end, task)
        return self._all[key]

    def stop(self) -> None:
        for each in self._all.values():
            each.job.stop()
