"""How many tasks a second, and how late: on any store, for one process or several.

Run it:      python examples/benchmark.py populate -n 20000
             python examples/benchmark.py run --processes 2
             python examples/benchmark.py run redis://localhost/0      any other store, for each command; without a URL: benchmark.db
             python examples/benchmark.py lateness --rate 200
             python examples/benchmark.py compare sqlite postgres --rounds 5
             python examples/benchmark.py peers, claims postgres, writes, takeover redis, wakeup postgres, clients redis
You see:     A progress bar while tasks are stored. Then, each second until all are executed, how many were in that second, and how far
             their starts were behind their time; at the end the same for all. `lateness` is about tasks whose time has not come: it
             shows how punctual they are. `compare` does the same work with Pyncette 1.1.0 from PyPI, in an environment of its own, on
             servers that it starts (see tools/servers.py).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import figures
from benchmarks.clients import clients
from benchmarks.compare import COUNTS, STORES, compare
from benchmarks.plots import plot
from benchmarks.wakeup import wakeup

from pyncette import Context, Instance, Pyncette, Template

ROOT = Path(__file__).resolve().parents[1]
BATCH = 1000
#: What is used without a URL: a file in the current directory.
DEFAULT_URL = "sqlite:///benchmark.db"


def application(url: str, *, history: bool = False) -> tuple[Pyncette, list[tuple[float, float]]]:
    """An app with a body that does nothing but note when it was started, and by how many seconds that was too late."""
    app = Pyncette(url)
    started: list[tuple[float, float]] = []

    @app.dynamic_task(name="benchmark", history=timedelta(days=1) if history else None)
    async def benchmark(context: Context) -> None:
        now = time.time()
        started.append((now, now - context.scheduled_at.timestamp()))

    return app, started


async def populate(url: str, count: int, over: timedelta = timedelta(), delay: timedelta = timedelta()) -> None:
    """Store ``count`` tasks, each to run once: at once, or evenly spread over some time from a delay on."""
    app, _ = application(url)
    async with app.create() as app_context:
        (template,) = (task for task in app.tasks if isinstance(task, Template))
        begin = datetime.now(UTC) + delay
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            instances = [
                Instance(name=uuid.uuid4().hex, execute_at=begin + over * (number / count), args={"number": number})
                for number in numbers
            ]
            await app_context.schedule_tasks(template, instances)
            show_progress(numbers.stop, count)


async def run(url: str, *, history: bool = False) -> list[tuple[float, float]]:
    """Run until no task is left: each runs once, and is gone then."""
    app, started = application(url, history=history)
    (template,) = app.tasks
    async with app.create() as app_context:
        running = asyncio.create_task(app_context.run())
        reporting = asyncio.create_task(keep_reporting(started))
        while not running.done() and (await app_context.list_tasks(template, limit=1)).tasks:
            await asyncio.wait([running], timeout=0.5)
        app_context.shutdown()
        await running
        reporting.cancel()
    return started


async def keep_reporting(started: Sequence[tuple[float, float]], every: float = 1.0) -> None:
    """Say in each second how many tasks were started in it, and how late they were."""
    seen = 0
    while True:
        await asyncio.sleep(every)
        new, seen = started[seen:], len(started)
        lag = max((late for _, late in new), default=0.0)
        print(f"[{os.getpid()}] {len(new) / every:,.0f} a second, {seen:,} in all; lag {lag:.3f} s", file=sys.stderr, flush=True)


async def measure_lateness(url: str, rate: int, seconds: int) -> list[tuple[float, float]]:
    """Run that many tasks a second that are all known before their time comes."""
    await populate(url, rate * seconds, over=timedelta(seconds=seconds), delay=timedelta(seconds=5))
    return await run(url)


def run_processes(url: str, count: int, *, history: bool = False) -> list[tuple[float, float]]:
    """The same in several processes."""
    command = [sys.executable, __file__, "run", url, "--json", *(["--history"] if history else [])]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [process.communicate()[0] for process in processes]
    return sorted((started, late) for output in outputs for started, late in json.loads(output))


def show_progress(done: int, count: int, width: int = 40) -> None:
    if sys.stderr.isatty():
        print(
            f"\r[{'#' * (width * done // count):{width}}] {done}/{count}",
            end="\n" if done == count else "",
            file=sys.stderr,
            flush=True,
        )


def report(started: Sequence[tuple[float, float]]) -> str:
    if len(started) < 2:
        return f"{len(started)} executions; populate first"
    times = sorted(at for at, _ in started)
    late = statistics.quantiles((seconds for _, seconds in started), n=1000)
    rate = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    return (
        f"{len(times)} executions, {rate:,.0f} a second; "
        f"late by {late[499]:.3f} s (p50), {late[989]:.3f} s (p99), {late[998]:.3f} s (p99.9)"
    )


# --- the command line --------------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("populate", "run", "lateness"):
        command = commands.add_parser(name)
        command.add_argument("url", nargs="?", default=DEFAULT_URL, help=f"where tasks are kept (default: {DEFAULT_URL})")
    commands.choices["populate"].add_argument("-n", type=int, default=10_000, help="how many tasks")
    commands.choices["run"].add_argument("--processes", type=int, default=1)
    commands.choices["run"].add_argument("--history", action="store_true", help="have the store remember each run")
    commands.choices["run"].add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    commands.choices["lateness"].add_argument("--rate", type=int, default=200, help="tasks a second")
    commands.choices["lateness"].add_argument("--seconds", type=int, default=20)
    command = commands.add_parser("compare", help="beside pyncette 1.1.0")
    command.add_argument("stores", nargs="+", choices=STORES)
    command.add_argument("--kinds", nargs="+", default=list(COUNTS), choices=COUNTS, help="what is compared (default: all)")
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--seconds", type=float, default=4, help="for how long recurring tasks run in each round")
    command = commands.add_parser("peers", help="beside other schedulers, on PostgreSQL and Redis")
    command.add_argument("--rounds", type=int, default=3)
    command = commands.add_parser("claims", help="what a claim costs among rows that are not due")
    command.add_argument("store", choices=STORES)
    command.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    command = commands.add_parser("writes", help="what a run writes to PostgreSQL")
    command.add_argument("--seconds", type=float, default=10)
    command = commands.add_parser("takeover", help="how soon the work of a killed worker continues")
    command.add_argument("store", choices=STORES)
    command.add_argument("--rounds", type=int, default=5)
    command = commands.add_parser("plot", help="draw the tables that the others print, from a page with them; needs matplotlib")
    command.add_argument("source", type=Path, nargs="?", default=ROOT / "docs" / "performance.md")
    command.add_argument("directory", type=Path, nargs="?", default=ROOT / "docs" / "images")
    command = commands.add_parser("wakeup", help="how soon what one process schedules starts in another, which polls seldom")
    command.add_argument("store", choices=("sqlite", "redis", "redis-cluster", "postgres"))
    command.add_argument("-n", type=int, default=300, help="how many tasks")
    command.add_argument("--processes", type=int, default=1, help="how many wait for them")
    command = commands.add_parser("clients", help="what the blocking client of threads costs beside the asynchronous one")
    command.add_argument("store", choices=STORES)
    command.add_argument("-n", type=int, default=5_000, help="how many tasks each of them stores in a round")
    command.add_argument("--callers", type=int, nargs="+", default=[1, 16, 100], help="threads, and coroutines")
    command.add_argument("--rounds", type=int, default=5)
    return parser


def main() -> None:
    options = parser().parse_args()
    match options.command:
        case "populate":
            asyncio.run(populate(options.url, options.n))
        case "run" if options.json:
            print(json.dumps(asyncio.run(run(options.url, history=options.history))))
        case "run":
            if options.processes == 1:
                print(report(asyncio.run(run(options.url, history=options.history))))
            else:
                print(report(run_processes(options.url, options.processes, history=options.history)))
        case "lateness":
            print(report(asyncio.run(measure_lateness(options.url, options.rate, options.seconds))))
        case "compare":
            start_servers(options.stores)
            compare(options.stores, options.rounds, options.seconds, options.kinds)
        case "peers":
            start_servers(["postgres", "redis"])
            from benchmarks.peers import peers  # which needs a driver

            peers(options.rounds)
        case "claims":
            asyncio.run(figures.claims(options.store, url_of(options.store), options.rows))
        case "clients":
            for line in clients(url_of(options.store), options.n, options.callers, options.rounds):
                print(line, flush=True)
        case "writes":
            asyncio.run(figures.writes(url_of("postgres"), options.seconds))
        case "plot":
            for path in plot(options.source, options.directory):
                print(path)
        case "takeover":
            figures.takeover(url_of(options.store), options.rounds)
        case "wakeup":
            asyncio.run(wakeup(figures.place_on(url_of(options.store)), options.n, options.processes))


def url_of(store: str) -> str:
    """The URL of the store: a file here, or a server that is started if the environment names none."""
    start_servers([store])
    return DEFAULT_URL if store == "sqlite" else os.environ[_variable(store)]


def _variable(store: str) -> str:
    """The environment variable that says where a store is."""
    return f"PYNCETTE_TEST_{store.upper().replace('-', '_')}_URL"


def start_servers(stores: Sequence[str]) -> None:
    """Run this very command beside the servers of ``stores``, if the environment doesn't name all of them."""
    missing = [store for store in stores if store != "sqlite" and _variable(store) not in os.environ]
    if missing:
        tool = [sys.executable, str(ROOT / "tools" / "servers.py"), "--durable", *missing, "--"]
        sys.exit(subprocess.run([*tool, sys.executable, *sys.argv], check=False).returncode)


if __name__ == "__main__":
    main()
