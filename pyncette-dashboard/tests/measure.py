"""How long pages take on many instances: python pyncette-dashboard/tests/measure.py URL [INSTANCES]. The store is left filled."""

import asyncio
import sys
import time
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
        begun = time.monotonic()
        worst: dict[str, float] = {}
        statuses: set[int] = set()
        rounds, counted = 0, None
        while counted is None or rounds < 30:
            for name, path in PAGES.items():
                at = time.perf_counter()
                page = await viewer.get(path)
                worst[name] = max(worst.get(name, 0.0), time.perf_counter() - at)
                statuses.add(page.status_code)
                if name == "overview" and counted is None and f"{count:,} scheduled" in page.text:
                    counted = time.monotonic() - begun
            rounds += 1
            await asyncio.sleep(0.5)
            if time.monotonic() - begun > 600:
                break
    await dashboard.close()
    print(
        f"{count:,} instances, {rounds} rounds, statuses {sorted(statuses)}, counted after {counted or 0:.0f} s; the slowest of each page:"
    )
    for name, seconds in worst.items():
        print(f"  {name:12} {seconds * 1000:6.0f} ms")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000))
