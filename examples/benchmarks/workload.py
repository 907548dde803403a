"""One process's work, for this version or for pyncette 1.1.0, whichever is installed where it runs: so that the same is compared.

It takes a JSON object of :class:`compare.Work`'s fields as its only argument, and prints one of figures. Only what both versions have is used.
"""

import asyncio
import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from pyncette import Pyncette

#: Recurring tasks always have a next occurrence that is due already.
ALWAYS_DUE = timedelta(milliseconds=1)
#: What the tuned runs of both versions have.
TUNED = {"batch_size": 500, "concurrency_limit": 1000}
#: Calls of `schedule_task` that are in progress at once while a benchmark only prepares.
PREPARING = 50


def application(work: Mapping[str, Any]) -> Pyncette:
    options = dict(work["options"])
    if work["tuned"]:
        options.update(TUNED)
    if work["factory"] is None:
        return Pyncette(**options)
    module, name = work["factory"].split(":")
    return Pyncette(repository_factory=getattr(importlib.import_module(module), name), **options)


async def side_by_side(call: Callable[[int], Awaitable[Any]], count: int, callers: int) -> None:
    """``call`` with each number below ``count``, from so many coroutines."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(caller() for _ in range(callers)))


def report(**figures: float) -> NoReturn:
    print(json.dumps(figures), flush=True)
    os._exit(0)  # a shutdown in the middle of a backlog is not what is measured


async def execute(work: Mapping[str, Any]) -> NoReturn:
    """Executions a second, and the CPU of this process for each (microseconds)."""
    app = application(work)
    recurring, count = work["kind"] == "recurring", work["count"]
    executed = 0
    all_executed = asyncio.Event()

    @app.dynamic_task()  # type: ignore[untyped-decorator, unused-ignore]
    async def body(context: Any) -> None:
        nonlocal executed
        executed += 1
        if executed == count:
            all_executed.set()

    async with app.create() as app_context:
        at = datetime.now(UTC)

        def schedule(number: int) -> Awaitable[Any]:
            when: Any = {"interval": ALWAYS_DUE} if recurring else {"execute_at": at}
            return app_context.schedule_task(body, uuid.uuid4().hex, number=number, **when)

        await side_by_side(schedule, count, PREPARING)
        await asyncio.sleep(0.1)
        running = asyncio.ensure_future(app_context.run())
        if recurring:
            await asyncio.sleep(1)  # statements are prepared, connections opened, caches filled
        before, begun, cpu = executed, time.perf_counter(), time.process_time()
        waiting = asyncio.sleep(work["seconds"]) if recurring else all_executed.wait()
        await asyncio.wait([asyncio.ensure_future(waiting), running], return_when=asyncio.FIRST_COMPLETED)
        elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
        report(rate=(executed - before) / elapsed, cpu=cpu / (executed - before) * 1e6)


async def register(work: Mapping[str, Any]) -> NoReturn:
    """Registrations a second: `schedule_task` from one caller or from many, also again with another time, or one `schedule_tasks`.

    The last is in this version only.
    """
    app = application(work)

    @app.dynamic_task()  # type: ignore[untyped-decorator, unused-ignore]
    async def body(context: Any) -> None:
        pass

    count = work["count"]
    at = datetime.now(UTC) + timedelta(days=1)
    async with app.create() as app_context:
        await app_context.schedule_task(body, "warm", execute_at=at)
        names = [uuid.uuid4().hex for _ in range(count)]

        def schedule(number: int) -> Awaitable[Any]:
            return app_context.schedule_task(body, names[number], execute_at=at, number=number)

        if work["kind"] == "again":
            await side_by_side(schedule, count, work["callers"])
            at += timedelta(days=1)
        begun, cpu = time.perf_counter(), time.process_time()
        if work["kind"] == "bulk":
            from pyncette import Instance

            await app_context.schedule_tasks(
                body, [Instance(name=name, execute_at=at, args={"number": number}) for number, name in enumerate(names)]
            )
        else:
            await side_by_side(schedule, count, work["callers"])
        elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
        report(rate=count / elapsed, cpu=cpu / count * 1e6)


if __name__ == "__main__":
    work = json.loads(sys.argv[1])
    asyncio.run((execute if work["kind"] in ("recurring", "once") else register)(work))
