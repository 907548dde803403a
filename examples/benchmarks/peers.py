"""Beside other schedulers, each at its nearest equivalent: once-off tasks that are due, on the same server, in turns.

What is counted is the same for all: executions a second of one process, from its start until all tasks are executed, and the CPU of that
process for each (not of the server). What is not the same, the text under the table says.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks.compare import Work

__all__ = ["peers"]

_PROGRAMS = Path(__file__).with_name("programs")
_MAVEN = ["mvn", "--quiet", "--file", str(_PROGRAMS / "db_scheduler" / "pom.xml")]


@dataclass(frozen=True)
class Peer:
    """Another scheduler, and how it is run."""

    name: str
    store: str
    #: How many tasks it is given.
    count: int
    program: str
    #: What pip installs; nothing for what Maven does.
    requirements: Sequence[str] = ()


PEERS = [
    Peer(
        "APScheduler 4.0.0a6",
        "postgres",
        1_000,
        "apscheduler_work.py",
        ["apscheduler==4.0.0a6", "sqlalchemy[asyncio]==2.1.9", "asyncpg", "sniffio"],
    ),
    Peer("procrastinate 3.10.0", "postgres", 4_000, "procrastinate_work.py", ["procrastinate==3.10.0"]),
    Peer("db-scheduler 16.7.1", "postgres", 20_000, "db_scheduler"),
    Peer("taskiq 0.13.0 with taskiq-redis 1.2.4", "redis", 4_000, "taskiq_work.py", ["taskiq==0.13.0", "taskiq-redis==1.2.4"]),
]
#: How many tasks Pyncette is given, with batch_size=500 and concurrency_limit=1000.
OURS = 40_000


def peers(rounds: int) -> None:
    """Print a table of medians, line by line as they are known."""
    print("| scheduler | store | executions a second | CPU of one |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        pythons = {peer.name: _install(peer, Path(directory, peer.program)) for peer in PEERS if peer.requirements}
        for store in ("postgres", "redis"):
            runs: dict[str, list[Mapping[str, float]]] = {}
            for _ in range(rounds):
                for peer in PEERS:
                    if peer.store == store and (peer.requirements or shutil.which("mvn")):
                        runs.setdefault(peer.name, []).append(_run(peer, pythons.get(peer.name)))
                option = "namespace" if store == "redis" else "table_name"
                url = f"{_server(store)}?{option}=benchmark_{uuid.uuid4().hex[:8]}"
                runs.setdefault("Pyncette", []).append(Work("once", True, OURS, 0, None, {"url": url}, 1).run(sys.executable))
            for name, figures in runs.items():
                rate, cpu = (statistics.median(run[figure] for run in figures) for figure in ("rate", "cpu"))
                print(f"| {name} | {store} | {rate:,.0f} | {cpu:,.0f} µs |", flush=True)
    print(
        "\nAPScheduler runs a job for each schedule. procrastinate and taskiq, which are task queues, run a job that was deferred to a time. "
        "db-scheduler has 50 threads on all cores, and the others one event loop."
    )


def _install(peer: Peer, environment: Path) -> Path:
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements], check=True)
    return python


def _run(peer: Peer, python: Path | None) -> Mapping[str, float]:
    place = f"benchmark_{uuid.uuid4().hex[:8]}"
    with _database(place) if peer.store == "postgres" else contextlib.nullcontext(_server("redis")) as url:
        if python is not None:
            command = [str(python), str(_PROGRAMS / peer.program), url, str(peer.count), place]
        else:
            parts = re.fullmatch(r"postgresql://(\w+):(\w+)@(.+)", url)
            assert parts is not None, url
            jdbc = f"jdbc:postgresql://{parts[3]}?user={parts[1]}&password={parts[2]}"
            command = [*_MAVEN, "compile", "exec:java", "-Dexec.mainClass=Work", f"-Dexec.args={jdbc} {peer.count}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


@contextlib.contextmanager
def _database(name: str) -> Iterator[str]:
    """A database of its own, for those who name their tables themselves."""
    server = _server("postgres")

    async def execute(sql: str) -> None:
        connection = await asyncpg.connect(server)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(execute(f"CREATE DATABASE {name}"))
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


def _server(store: str) -> str:
    return os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
