"""What the blocking client costs beside the asynchronous one: the same registrations, from as many threads as coroutines, in turns."""

import asyncio
import itertools
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from benchmarks.figures import place_on
from pyncette import Context, Pyncette, Template

__all__ = ["clients"]

#: Registrations a second, and the CPU of this process for each (microseconds).
Figures = tuple[float, float]


def clients(url: str, count: int, callers: Sequence[int], rounds: int) -> Iterator[str]:
    """A table, line by line."""
    app = Pyncette(place_on(url))

    @app.dynamic_task(name="benchmark")
    async def benchmark(context: Context) -> None: ...

    yield "| callers | async: per second | CPU each | blocking: per second | CPU each | per second, blocking to async |"
    yield "|---|---|---|---|---|---|"
    for number in callers:
        pairs = []
        for _ in range(rounds):
            coroutines = asyncio.run(asynchronous(app, benchmark, count, number))
            pairs.append((coroutines, blocking(app, benchmark, count, number)))
        (rate, cpu), (blocking_rate, blocking_cpu) = (
            [statistics.median(each) for each in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
        )
        ratio = statistics.median(threads[0] / coroutines[0] for coroutines, threads in pairs)
        yield f"| {number} | {rate:,.0f} | {cpu:.0f} µs | {blocking_rate:,.0f} | {blocking_cpu:.0f} µs | {ratio:.2f} |"


async def asynchronous(app: Pyncette, task: Template, count: int, callers: int) -> Figures:
    at = datetime.now(UTC) + timedelta(days=365)
    async with app.client() as client:
        names = itertools.repeat(None, count)

        async def caller() -> None:
            for _ in names:
                await client.schedule_task(task, uuid.uuid4().hex, execute_at=at)

        await client.schedule_task(task, "first", execute_at=at)
        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return figures(begun, cpu, count)


def blocking(app: Pyncette, task: Template, count: int, callers: int) -> Figures:
    at = datetime.now(UTC) + timedelta(days=365)
    with app.blocking() as client:

        def caller() -> None:
            for _ in range(count // callers):
                client.schedule_task(task, uuid.uuid4().hex, execute_at=at)

        client.schedule_task(task, "first", execute_at=at)
        begun, cpu = time.perf_counter(), time.process_time()
        in_threads(caller, callers)
        return figures(begun, cpu, count // callers * callers)


def in_threads(target: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def figures(begun: float, cpu: float, count: int) -> Figures:
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return count / elapsed, cpu / count * 1e6
