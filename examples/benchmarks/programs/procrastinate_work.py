"""procrastinate: one job for each task, deferred in batches to a time; a worker in this process."""

import asyncio
import sys
from datetime import UTC, datetime
from time import perf_counter, process_time
from typing import Any

import procrastinate
from peer import report

COUNT = int(sys.argv[2])
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1], max_size=10))
executed = 0
all_executed = asyncio.Event()


@app.task(name="body")
async def body(number: int) -> None:
    global executed
    executed += 1
    if executed == COUNT:
        all_executed.set()


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        later: Any = body.configure(schedule_at=datetime.now(UTC))
        for first in range(0, COUNT, 1000):
            await later.batch_defer_async(*({"number": number} for number in range(first, min(first + 1000, COUNT))))
        begun, cpu = perf_counter(), process_time()
        worker = asyncio.create_task(app.run_worker_async(concurrency=1000, install_signal_handlers=False, delete_jobs="always"))
        await all_executed.wait()
        report(COUNT, begun, cpu)
        worker.cancel()


asyncio.run(main())
