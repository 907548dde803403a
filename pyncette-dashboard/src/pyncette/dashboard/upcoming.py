"""The occurrences between two instants."""

import asyncio
import heapq
from collections.abc import Iterator
from datetime import datetime, timedelta

from pyncette import Client, ScheduledTask, Template
from pyncette.dashboard.searching import Reader, Search
from pyncette.errors import ScheduleError

__all__ = ["MOST", "Upcoming"]

#: The maximum number of occurrences shown.
MOST = 200

#: The time, the name of the task, and the name of the instance.
Firing = tuple[datetime, str, str]


class Upcoming(Search):
    """Finds the occurrences of all tasks, or of one."""

    def __init__(self, client: Client, reader: Reader, start: datetime, end: datetime, task: str) -> None:
        self._start, self._end, self._task = start, end, task
        self.found: list[Firing] = []
        super().__init__(client, reader)

    async def look(self) -> None:
        try:
            for static in await self.client.list_static_tasks():
                self._add(static, static.task.name, "")
            for task in self.client.tasks:
                if not isinstance(task, Template) or self._task not in ("", task.name):
                    continue
                token: str | None = None
                while True:
                    page = await self.page(task, token)
                    for number, found in enumerate(page.tasks, 1):
                        self._add(found, task.name, found.name)
                        if number % 50 == 0:
                            await asyncio.sleep(0)
                    token = page.continuation_token
                    if token is None:
                        break
        finally:
            self._keep_first()

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
        at = found.row.occurrence
        if at >= end:
            return
        schedule = found.schedule
        following: datetime | None = at if at >= start else schedule.next_after(at, start - timedelta(microseconds=1))
        while following is not None and following < end:
            yield following
            following = schedule.next(following)
    except (ScheduleError, OverflowError, ValueError):
        return
