"""Figures of this version alone: what a claim costs among rows that are not due, what a run writes, and how soon a dead worker's work continues."""

import asyncio
import select
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette import Context, Instance, Pyncette
from pyncette.repository import Commit, Key, Registration, Target

__all__ = ["claims", "place_on", "takeover", "work_until_killed", "writes"]

_BATCH, _CLAIMS, _DUE = 1000, 200, 100
_LEASE = timedelta(seconds=3)


def place_on(url: str) -> str:
    """``url`` with a place of its own on the server."""
    option = {"redis": "namespace", "rediss": "namespace", "dynamodb": "partition_prefix"}.get(
        url.partition(":")[0].partition("+")[0]
    )
    return f"{url}{'&' if '?' in url else '?'}{option or 'table_name'}=benchmark_{uuid.uuid4().hex[:8]}"


async def claims(store: str, url: str, sizes: Sequence[int]) -> None:
    """The time of a claim of a hundred due rows, and of one that finds none, among how many rows that are not due."""
    print("| store | rows not due | claim of 100 | claim of none |\n|---|---|---|---|")
    app = Pyncette(place_on(url))
    async with app.create() as app_context:
        repository = app_context.repository
        far, stored = datetime(2100, 1, 1, tzinfo=UTC), 0
        for size in sizes:
            for first in range(stored, size, _BATCH):
                numbers = range(first, min(first + _BATCH, size))
                rows = [(f"{number:09}", far + timedelta(seconds=number)) for number in numbers]
                await repository.register(datetime.now(UTC), [_registration(name, at) for name, at in rows])
            stored = size
            full: list[float] = []
            empty: list[float] = []
            for _ in range(_CLAIMS):
                now = datetime.now(UTC)
                await repository.register(now, [_registration(f"due {number}", now) for number in range(_DUE)])
                for durations, expected in ((full, _DUE), (empty, 0)):
                    begun = time.perf_counter()
                    result = await repository.claim(now, "benchmark", lease_duration=timedelta(minutes=1), limit=_DUE)
                    durations.append(time.perf_counter() - begun)
                    assert len(result.claims) == expected
                    if result.claims:
                        await repository.settle(now, [Commit(claim, None) for claim in result.claims])
            took = [f"{statistics.median(durations) * 1e3:.1f} ms" for durations in (full, empty)]
            print(f"| {store} | {size:,} | {' | '.join(took)} |", flush=True)


def _registration(name: str, at: datetime) -> Registration:
    return Registration(Key("benchmark", name), "{}", f"once {at.isoformat()}", Target(at, at))


async def writes(url: str, seconds: float) -> None:
    """What a run of a recurring task writes to PostgreSQL, on average: bytes of WAL, row versions, and how many of these are HOT."""
    import asyncpg

    place = place_on(url)
    table = place.rpartition("=")[2]
    app = Pyncette(place, batch_size=500, concurrency_limit=1000)
    executed = 0

    @app.dynamic_task()
    async def body(context: Context) -> None:
        nonlocal executed
        executed += 1

    connection: Any = await asyncpg.connect(url)
    async with app.create() as app_context:
        await app_context.schedule_tasks(
            body, [Instance(name=str(number), interval=timedelta(milliseconds=1)) for number in range(2000)]
        )
        await connection.execute(f"VACUUM ANALYZE {table}")
        before = await connection.fetchval("SELECT pg_current_wal_lsn()")
        running = asyncio.create_task(app_context.run())
        await asyncio.sleep(seconds)
        app_context.shutdown()
        await running
        written = await connection.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", before)
        await asyncio.sleep(1.5)  # the server counts with a delay
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        versions, hot, size = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd, pg_table_size(relid) FROM pg_stat_user_tables WHERE relname = $1", table
        )
    await connection.close()
    print(
        f"{executed} runs: {float(written) / executed:,.0f} bytes of WAL and {versions / executed:.2f} row versions each, "
        f"{hot / max(versions, 1):.0%} of them HOT; the table has {size / 2**20:,.1f} MB"
    )


def takeover(url: str, rounds: int) -> None:
    """How long after a worker is killed another one starts what it was running, with a lease of 3 s and the default poll interval."""
    delays = []
    for _ in range(rounds):
        command = [sys.executable, __file__, place_on(url)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        workers = {process.stdout: process for process in processes if process.stdout is not None}
        started = select.select(list(workers), [], [])[0][0]
        killed = time.time()
        workers.pop(started).kill()
        [(stdout, other)] = workers.items()
        delays.append(float(stdout.readline()) - killed)
        other.kill()
    print(f"after {statistics.median(delays):.2f} s (median of {rounds}), {max(delays):.2f} s at most; the lease is {_LEASE}")


async def work_until_killed(url: str) -> None:
    """A worker of one task that never ends, but says when it starts."""
    app = Pyncette(url)

    @app.task(interval=timedelta(milliseconds=1), lease_duration=_LEASE)
    async def body(context: Context) -> None:
        print(time.time(), flush=True)
        while True:
            await asyncio.sleep(1)
            await context.heartbeat()

    async with app.create() as app_context:
        await app_context.run()


if __name__ == "__main__":
    asyncio.run(work_until_killed(sys.argv[1]))
