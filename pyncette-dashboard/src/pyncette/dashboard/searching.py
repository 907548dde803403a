"""Searches among all rows: in the background, and shared by all who search for the same thing."""

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime

from pyncette import Client, ScheduledTask, Task, TaskPage
from pyncette.dashboard.jobs import Job

__all__ = ["Finding", "Reader", "Search", "Searches", "matches"]

#: How many rows are read and processed at a time while viewers wait.
_PAGE = 250
#: How many rows are read without a pause.
_WITHOUT_PAUSE = 20_000
#: The time after which a search is repeated (seconds), or this many times as long as it took.
_FRESH_FOR, _REST = 3.0, 9
#: A search ends if nobody has asked for it for this long (seconds).
_FORGOTTEN_AFTER = 15.0
_MOST = 20


class Reader:
    """Reads all rows of templates for searches: in turns and, if there are many, for at most half of the time."""

    def __init__(self) -> None:
        self._turn, self._free_at = asyncio.Lock(), 0.0

    async def page(self, client: Client, task: Task, token: str | None, *, seen: int, extra_runs: bool = False) -> TaskPage:
        """The rows after ``token``; ``seen`` is the number of rows read before."""
        async with self._turn:
            await asyncio.sleep(self._free_at - time.monotonic())
            begun = time.monotonic()
            page = await client.list_tasks(task, limit=_PAGE, continuation_token=token, extra_runs=extra_runs)
            if seen > _WITHOUT_PAUSE:
                self._free_at = 2 * time.monotonic() - begun
            return page


class Search:
    """A search, in progress or ended."""

    def __init__(self, client: Client, reader: Reader) -> None:
        self.client: Client = client
        self._reader = reader
        self.begun: float = time.monotonic()
        self.asked: float = self.begun
        self.ended: float | None = None
        self.job: Job = Job("Looking", "", client.clock.now(), self._run)

    async def look(self) -> None:
        """Find it."""
        raise NotImplementedError

    async def page(self, task: Task, token: str | None, *, extra_runs: bool = False) -> TaskPage:
        """The next page of rows to search."""
        if time.monotonic() - self.asked > _FORGOTTEN_AFTER:
            raise asyncio.CancelledError
        page = await self._reader.page(self.client, task, token, seen=self.job.looked_at, extra_runs=extra_runs)
        self.job.looked_at += len(page.tasks)
        return page

    @property
    def age(self) -> float:
        """How many seconds ago the search ended."""
        return 0.0 if self.ended is None else time.monotonic() - self.ended

    @property
    def fresh(self) -> bool:
        """Whether the result is recent enough."""
        if self.ended is None:
            return True
        return self.age < max(_FRESH_FOR, _REST * (self.ended - self.begun))

    async def _run(self, job: Job) -> None:
        try:
            await self.look()
        finally:
            self.ended = time.monotonic()


class Finding(Search):
    """Searches a template for instances by state or prefix, from ``token`` on, until there are enough."""

    def __init__(self, client: Client, reader: Reader, task: Task, token: str | None, state: str, prefix: str, limit: int) -> None:
        self._task, self._state, self._prefix, self._limit = task, state, prefix, limit
        self.found: list[ScheduledTask] = []
        #: Where to continue; None at the end, and while the search is in progress.
        self.following: str | None = None
        self._token = token
        super().__init__(client, reader)

    async def look(self) -> None:
        token = self._token
        while True:
            page = await self.page(self._task, token, extra_runs=True)
            now = self.client.clock.now()
            self.found += [each for each in page.tasks if matches(each, self._state, self._prefix, now)]
            token = page.continuation_token
            if token is None or len(self.found) >= self._limit:
                self.following = token
                return


def matches(found: ScheduledTask, state: str, prefix: str, now: datetime) -> bool:
    """Whether an instance matches."""
    return (not prefix or found.name.startswith(prefix)) and (not state or found.state_at(now) == state)


@dataclass
class _Asked:
    running: Search
    #: The previous search, whose results are shown until this one has ended.
    shown: Search | None = None


class Searches:
    """Recent searches."""

    def __init__(self) -> None:
        self._all: dict[Hashable, _Asked] = {}

    def get(self, key: Hashable, make: Callable[[], Search]) -> Search:
        """The last search for ``key``, preferably one that has ended; restarted if that was long ago."""
        now = time.monotonic()
        self._all = {each: asked for each, asked in self._all.items() if now - asked.running.asked < _FORGOTTEN_AFTER}
        asked = self._all.pop(key, None)
        if asked is None:
            while len(self._all) >= _MOST:
                self._all.pop(next(iter(self._all))).running.job.stop()
            asked = _Asked(make())
        elif not asked.running.fresh:
            asked = _Asked(make(), asked.running)
        self._all[key] = asked
        asked.running.asked = now
        return asked.running if asked.shown is None or asked.running.ended is not None else asked.shown

    def forget(self) -> None:
        """Something was changed, so show no earlier results."""
        self._all = {key: asked for key, asked in self._all.items() if asked.running.ended is None}

    def stop(self) -> None:
        for each in self._all.values():
            each.running.job.stop()
