"""Jobs: actions that take longer than a request. They continue in the background, report progress, and can be stopped."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime

from pyncette import PyncetteError

__all__ = ["Job", "Jobs"]

_KEPT = 50


class Job:
    """A job."""

    def __init__(self, title: str, by: str, at: datetime, work: Callable[["Job"], Awaitable[None]]) -> None:
        self.id: str = secrets.token_hex(8)
        self.title: str = title
        self.by: str = by
        self.at: datetime = at
        self.looked_at = self.done = self.failed = 0
        #: "running", "done", "stopped" or "failed".
        self.state: str = "running"
        self.error: str = ""
        #: The result in words, if it is not a number.
        self.told: str = ""
        self._task = asyncio.create_task(self._run(work), name="pyncette-dashboard-job")

    def stop(self) -> None:
        if self.state == "running":
            self._task.cancel()

    async def wait(self, seconds: float) -> None:
        await asyncio.wait([self._task], timeout=seconds)

    async def _run(self, work: Callable[["Job"], Awaitable[None]]) -> None:
        try:
            await work(self)
            self.state = "done"
        except asyncio.CancelledError:
            self.state = "stopped"
        except PyncetteError as error:
            self.state, self.error = "failed", str(error)
        except Exception as error:
            self.state, self.error = "failed", type(error).__name__


class Jobs:
    """The last jobs."""

    def __init__(self) -> None:
        self.all: dict[str, Job] = {}

    def start(self, title: str, by: str, at: datetime, work: Callable[[Job], Awaitable[None]]) -> Job:
        job = Job(title, by, at, work)
        self.all[job.id] = job
        for old in [each for each in self.all.values() if each.state != "running"][: max(len(self.all) - _KEPT, 0)]:
            del self.all[old.id]
        return job

    def forget(self, job: Job) -> None:
        """The viewer has already seen how ``job`` ended."""
        self.all.pop(job.id, None)

    def stop(self) -> None:
        for job in self.all.values():
            job.stop()
