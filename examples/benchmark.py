"""How many tasks a second, and how late: on any store, for one process or several.

Run it:      python examples/benchmark.py populate -n 20000
             python examples/benchmark.py run --processes 2
             python examples/benchmark.py run redis://localhost/0      any other store, for each command; without a URL: benchmark.db
             python examples/benchmark.py lateness --rate 200
             python examples/benchmark.py compare sqlite postgres
You see:     A progress bar while tasks are stored. Then, each second until all are executed, how many were in that second, and how far
             their starts were behind their time; at the end the same for all. `lateness` is about tasks whose time has not come: it
             shows how punctual they are. `compare` does the same work with Pyncette 1.1.0 from PyPI, in an environment of its own, on
             servers that it starts (see tools/servers.py).
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import time
import uuid
import venv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyncette import Context, Instance, Pyncette

ROOT = Path(__file__).resolve().parents[1]
BATCH = 1000
#: What is used without a URL: a file in the current directory.
DEFAULT_URL = "sqlite:///benchmark.db"


def application(url: str) -> tuple[Pyncette, list[tuple[float, float]]]:
    """An app with a body that does nothing but note when it was started, and by how many seconds that was too late."""
    app = Pyncette(url)
    started: list[tuple[float, float]] = []

    @app.dynamic_task(name="benchmark")
    async def benchmark(context: Context) -> None:
        now = time.time()
        started.append((now, now - context.scheduled_at.timestamp()))

    return app, started


async def populate(url: str, count: int, over: timedelta = timedelta(), delay: timedelta = timedelta()) -> None:
    """Store ``count`` tasks, each to run once: at once, or evenly spread over some time from a delay on."""
    app, _ = application(url)
    async with app.create() as app_context:
        (template,) = app.tasks
        begin = datetime.now(UTC) + delay
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            instances = [
                Instance(name=uuid.uuid4().hex, execute_at=begin + over * (number / count), args={"number": number})
                for number in numbers
            ]
            await app_context.schedule_tasks(template, instances)
            show_progress(numbers.stop, count)


async def run(url: str) -> list[tuple[float, float]]:
    """Run until no task is left: each runs once, and is gone then."""
    app, started = application(url)
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
    """Run so many tasks a second that are all known before their time comes."""
    await populate(url, rate * seconds, over=timedelta(seconds=seconds), delay=timedelta(seconds=5))
    return await run(url)


def run_processes(url: str, count: int) -> list[tuple[float, float]]:
    """The same in several processes."""
    command = [sys.executable, __file__, "run", url, "--json"]
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
    late = statistics.quantiles((seconds for _, seconds in started), n=100)
    rate = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    return f"{len(times)} executions, {rate:,.0f} a second; late by {late[49]:.3f} s (p50), {late[98]:.3f} s (p99)"


# --- beside Pyncette 1.1.0 ---------------------------------------------------------------------------------------------------------

#: The same work for the original, with what its documentation says.
ORIGINAL = """
import asyncio, datetime, importlib, json, sys, time, uuid
from pyncette import Pyncette

name, options, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
factory = getattr(importlib.import_module(f"pyncette.{name}"), f"{name}_repository")
app = Pyncette(repository_factory=factory, **options)
started = []

@app.dynamic_task()
async def benchmark(context):
    started.append(time.time())

async def main():
    async with app.create() as app_context:
        at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
        for first in range(0, count, 50):
            await asyncio.gather(*(
                app_context.schedule_task(benchmark, uuid.uuid4().hex, execute_at=at, number=number)
                for number in range(first, min(first + 50, count))
            ))
        await asyncio.sleep(1)
        running = asyncio.create_task(app_context.run())
        while len(started) < count and not running.done():
            await asyncio.sleep(0.05)
        print((count - 1) / (started[-1] - started[0]))
        app_context.shutdown()
        await running

asyncio.run(main())
"""


def compare(stores: Sequence[str], count: int, rounds: int) -> None:
    """Executions a second of one process each, in turns, on the same servers."""
    with tempfile.TemporaryDirectory() as directory:
        original = Path(directory, "original")
        venv.create(original, with_pip=True)
        python = original / ("Scripts" if os.name == "nt" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pyncette[all]==1.1.0"], check=True)
        print("| store | pyncette 1.1.0 | this | times |\n|---|---|---|---|")
        for store in stores:
            url = "" if store == "sqlite" else os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
            theirs, ours = [], []
            for _ in range(rounds):
                theirs.append(_original(python, store, url, directory, count // 10))
                ours.append(_ours(url or f"sqlite:///{directory}/{uuid.uuid4().hex}.db", count))
            before, after = statistics.median(theirs), statistics.median(ours)
            print(f"| {store} | {before:,.0f}/s | {after:,.0f}/s | {after / before:.1f} |", flush=True)


def _ours(url: str, count: int) -> float:
    option = (
        ""
        if url.startswith("sqlite")
        else f"?{'namespace' if url.startswith('redis') else 'table_name'}=benchmark_{uuid.uuid4().hex[:8]}"
    )
    script = [sys.executable, __file__]
    subprocess.run([*script, "populate", url + option, "-n", str(count)], check=True)
    output = subprocess.run([*script, "run", url + option], check=True, capture_output=True, text=True).stdout
    found = re.search(r"([\d,]+) a second", output)
    assert found is not None, output
    return float(found[1].replace(",", ""))


def _original(python: Path, store: str, url: str, directory: str, count: int) -> float:
    table = "original_" + "".join(random.choices(string.ascii_lowercase, k=8))  # it allows no digits
    user = re.match(r"\w+://(?:(\w+):(\w+)@)?([^:/]+):(\d+)/(\w+)", url)
    options: dict[str, object] = {"sqlite_database": f"{directory}/{table}.db"}
    if store == "redis":
        options = {"redis_url": url, "redis_namespace": table}
    elif store == "postgres":
        options = {"postgres_url": url, "postgres_table_name": table}
    elif store == "mysql" and user is not None:
        names = ("mysql_user", "mysql_password", "mysql_host", "mysql_port", "mysql_database")
        options = {**dict(zip(names, user.groups(), strict=True)), "mysql_port": int(user[4]), "mysql_table_name": table}
    command = [str(python), "-c", ORIGINAL, store, json.dumps(options), str(count)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# --- the command line --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("populate", "run", "lateness"):
        command = commands.add_parser(name)
        command.add_argument("url", nargs="?", default=DEFAULT_URL, help=f"where tasks are kept (default: {DEFAULT_URL})")
    commands.choices["populate"].add_argument("-n", type=int, default=10_000, help="how many tasks")
    commands.choices["run"].add_argument("--processes", type=int, default=1)
    commands.choices["run"].add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    commands.choices["lateness"].add_argument("--rate", type=int, default=200, help="tasks a second")
    commands.choices["lateness"].add_argument("--seconds", type=int, default=20)
    command = commands.add_parser("compare")
    command.add_argument("stores", nargs="+", choices=["sqlite", "redis", "postgres", "mysql"])
    command.add_argument("-n", type=int, default=20_000, help="how many tasks; a tenth of it for the original")
    command.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    match options.command:
        case "populate":
            asyncio.run(populate(options.url, options.n))
        case "run" if options.json:
            print(json.dumps(asyncio.run(run(options.url))))
        case "run":
            print(
                report(asyncio.run(run(options.url)) if options.processes == 1 else run_processes(options.url, options.processes))
            )
        case "lateness":
            print(report(asyncio.run(measure_lateness(options.url, options.rate, options.seconds))))
        case "compare":
            servers = [
                store for store in options.stores if store != "sqlite" and f"PYNCETTE_TEST_{store.upper()}_URL" not in os.environ
            ]
            if servers:
                tool = [sys.executable, str(ROOT / "tools" / "servers.py"), "--durable", *servers, "--"]
                sys.exit(subprocess.run([*tool, sys.executable, *sys.argv], check=False).returncode)
            compare(options.stores, options.n, options.rounds)


if __name__ == "__main__":
    main()
