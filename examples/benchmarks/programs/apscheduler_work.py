"""APScheduler 4: one schedule with a date trigger for each task, in a SQLAlchemy data store; scheduler and worker in this process."""

import asyncio
import sys
from datetime import UTC, datetime
from time import perf_counter, process_time

from apscheduler import AsyncScheduler, ConflictPolicy
from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
from apscheduler.triggers.date import DateTrigger
from peer import report
from sqlalchemy.ext.asyncio import create_async_engine

COUNT = int(sys.argv[2])
executed = 0
all_executed = asyncio.Event()


async def body() -> None:
    global executed
    executed += 1
    if executed == COUNT:
        all_executed.set()


async def main() -> None:
    engine = create_async_engine(sys.argv[1].replace("postgresql://", "postgresql+asyncpg://"))
    store = SQLAlchemyDataStore(engine, schema=None)
    async with AsyncScheduler(store, max_concurrent_jobs=1000) as scheduler:
        await scheduler.configure_task("body", func=body, max_running_jobs=1000, misfire_grace_time=None)
        at = datetime.now(UTC)
        for number in range(COUNT):
            await scheduler.add_schedule("body", DateTrigger(at), id=str(number), conflict_policy=ConflictPolicy.replace)
        begun, cpu = perf_counter(), process_time()
        await scheduler.start_in_background()
        await all_executed.wait()
        report(COUNT, begun, cpu)


asyncio.run(main())
