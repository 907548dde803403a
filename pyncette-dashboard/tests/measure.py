"""How long pages take on many instances: python pyncette-dashboard/tests/measure.py URL [INSTANCES]. The store is left filled.

Of each page: the slowest, and the middle one, by the clock; CPU time of the whole process, which counts in the background meanwhile; and
what was asked of the store for it.
"""

import asyncio
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

import httpx

from pyncette import Instance, Pyncette
from pyncette.dashboard import Dashboard

_BATCH = 10_000
PAGES = {
    "overview": "/",
    "template": "/task?name=deliver",
    "by state": "/task?name=deliver&state=failed",
    "by name": "/task?name=deliver&prefix=order+999",
    "instance": "/instance?task=deliver&name=order+77",
    "failed": "/failed",
    "upcoming": "/upcoming",
    "workers": "/workers",
    "undeclared": "/undeclared",
}
#: Which page asks.
PAGE = ContextVar("PAGE", default="in the background")


class Asked:
    """A store whose calls are counted, and timed, by the page that makes them."""

    def __init__(self, repository) -> None:
        self.calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for name in ("get", "list", "stats", "runs", "partitions", "server_time"):
            if hasattr(repository, name):
                setattr(repository, name, self._counted(name, getattr(repository, name)))

    def _counted(self, name, call):
        async def counted(*arguments, **more):
            self.calls[PAGE.get()][name] += 1
            return await call(*arguments, **more)

        return counted


async def main(url: str, count: int) -> None:
    app = Pyncette(url)

    @app.task(schedule="0 2 * * *")
    async def nightly(context): ...

    @app.dynamic_task()
    async def deliver(context): ...

    start = datetime.now(UTC) + timedelta(days=1)
    async with app.client() as client:
        stored = await client.get_task(deliver, f"order {count - 1}")
        for first in range(0, 0 if stored else count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            instances = [Instance(name=f"order {number}", execute_at=start + timedelta(seconds=number)) for number in numbers]
            await client.schedule_tasks(deliver, instances)
    dashboard = Dashboard(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(dashboard), base_url="http://localhost") as viewer:
        took: defaultdict[str, list[float]] = defaultdict(list)
        cpu: defaultdict[str, list[float]] = defaultdict(list)
        statuses: set[int] = set()
        begun = time.monotonic()

        async def view(name: str, path: str) -> str:
            at, used = time.perf_counter(), time.process_time()
            page = await viewer.get(path)
            took[name].append((time.perf_counter() - at) * 1000)
            cpu[name].append((time.process_time() - used) * 1000)
            statuses.add(page.status_code)
            return page.text

        await view("first view", "/")  # opens the store, and begins to count
        asked = Asked((await dashboard._connection.client()).repository)
        rounds, counted = 0, None
        while counted is None or rounds < 30:
            for name, path in PAGES.items():
                PAGE.set(name)
                page = await view(name, path)
                if name == "overview" and counted is None and f"{count:,} scheduled" in page:
                    counted = time.monotonic() - begun
            rounds += 1
            await asyncio.sleep(0.5)
            if time.monotonic() - begun > 600:
                break
    await dashboard.close()
    print(
        f"{count:,} instances, {rounds} rounds, statuses {sorted(statuses)}, counted after {counted or 0:.0f} s, load {os.getloadavg()[0]:.1f}"
    )
    print(f"  {'page':12} {'slowest':>10} {'middle':>10} {'CPU':>10}  calls for it")
    for name, times in took.items():
        calls = ", ".join(f"{number / rounds:.1f} {call}" for call, number in asked.calls[name].items())
        print(
            f"  {name:12} {max(times):7.0f} ms {statistics.median(times):7.0f} ms {statistics.median(cpu[name]):7.0f} ms  {calls or 'none'}"
        )
    print("  in the background:", ", ".join(f"{number} {call}" for call, number in asked.calls["in the background"].items()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000))
