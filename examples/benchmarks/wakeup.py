"""How soon what one process schedules starts in others that poll seldom, and what it costs to be woken."""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyncette import Context, Pyncette, Template
from pyncette.instrumentation import Instrumentation

__all__ = ["wakeup"]

_POLL = timedelta(seconds=10)
#: For how long (seconds) workers are watched while there is nothing to do.
_IDLE = 10.0


def application(url: str, ran: Callable[[str], None]) -> Pyncette:
    """What all processes have in common."""
    app = Pyncette(url, poll_interval=_POLL)

    @app.dynamic_task(name="wakeup")
    async def body(context: Context) -> None:
        ran(context.name)

    return app


class Worker(Instrumentation):
    """In a process of its own: runs tasks, and prints which and when, and what it has cost so far."""

    def __init__(self, url: str) -> None:
        self._claims = 0
        self._app = application(url, self._ran)
        self._app.use_instrumentation(self)

    def claimed(self, count: int) -> None:
        self._claims += 1

    def _ran(self, name: str) -> None:
        print(name, time.time(), self._claims, flush=True)

    async def run(self) -> None:
        await self._app.run()


class Workers:
    """Processes, and what they have told."""

    def __init__(self) -> None:
        #: The names of tasks, and when they were started.
        self.started: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self.claims: dict[int, int] = {}
        self._processes: list[asyncio.subprocess.Process] = []
        self._listening: list[asyncio.Task[None]] = []

    async def start(self, url: str, count: int) -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(sys.executable, __file__, url, stdout=asyncio.subprocess.PIPE)
            self._processes.append(process)
            self._listening.append(asyncio.create_task(self._listen(process)))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            name, at, claims = line.decode().split()
            self.claims[process.pid] = int(claims)
            self.started.put_nowait((name, float(at)))

    def cpu(self) -> float:
        """The seconds of CPU that they have taken, all threads of all; on Linux."""
        tasks = [task for process in self._processes for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    async def kill(self) -> None:
        for process in self._processes:
            process.kill()
            await process.wait()


async def wakeup(url: str, count: int, processes: int) -> None:
    """Schedule ``count`` tasks at random moments, each to run at once, while that many processes wait for them."""
    app = application(url, lambda _: None)
    (template,) = (task for task in app.tasks if isinstance(task, Template))
    took = []
    async with app.client() as client:
        workers = Workers()
        await workers.start(url, processes)
        await asyncio.sleep(2 + processes / 2)
        for number in range(-3, count):
            await asyncio.sleep(random.uniform(0.05, 0.25))
            name, asked = str(number), time.time()
            await client.schedule_task(template, name, execute_at=datetime.now(UTC))
            started = None
            while started != name:
                started, at = await workers.started.get()
            if number >= 0:  # before, statements are prepared, caches filled
                took.append(1000 * (at - asked))
        cpu = workers.cpu()
        await asyncio.sleep(_IDLE)
        idle = (workers.cpu() - cpu) / _IDLE / processes
    await workers.kill()
    parts = statistics.quantiles(took, n=100)
    print(
        f"{count} tasks: started after {parts[49]:.0f} ms (p50), {parts[98]:.0f} ms (p99), {max(took):.0f} ms at most, by "
        f"{processes} process{'es' if processes > 1 else ''} with a poll interval of {_POLL.seconds} s; "
        f"about {sum(workers.claims.values()) / count:.1f} claims a task; idle, a process takes {idle:.2%} of a core"
    )


if __name__ == "__main__":
    asyncio.run(Worker(sys.argv[1]).run())
