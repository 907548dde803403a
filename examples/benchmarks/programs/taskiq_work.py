"""taskiq: tasks scheduled by time in Redis; a scheduler that sends them to a stream of Redis, and a worker, both in this process."""

import asyncio
import sys
from datetime import UTC, datetime
from time import perf_counter, process_time

from peer import report
from taskiq import TaskiqScheduler
from taskiq.api import run_receiver_task, run_scheduler_task
from taskiq_redis import ListRedisScheduleSource, RedisStreamBroker

COUNT = int(sys.argv[2])
broker = RedisStreamBroker(sys.argv[1], queue_name=sys.argv[3])
source = ListRedisScheduleSource(sys.argv[1], prefix=f"{sys.argv[3]}_schedules")
scheduler = TaskiqScheduler(broker, [source])
executed = 0
all_executed = asyncio.Event()


@broker.task("body")
async def body(number: int) -> None:
    global executed
    executed += 1
    if executed == COUNT:
        all_executed.set()


async def main() -> None:
    broker.is_worker_process = True
    await broker.startup()
    await source.startup()
    at = datetime.now(UTC)
    for number in range(COUNT):
        await body.schedule_by_time(source, at, number)
    begun, cpu = perf_counter(), process_time()
    working = [
        asyncio.create_task(run_scheduler_task(scheduler, run_startup=False)),
        asyncio.create_task(run_receiver_task(broker, run_startup=False, max_async_tasks=1000)),
    ]
    await all_executed.wait()
    report(COUNT, begun, cpu)
    for each in working:
        each.cancel()


asyncio.run(main())
