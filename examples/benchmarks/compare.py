"""Beside pyncette 1.1.0: the same work, on the same servers, in turns."""

import dataclasses
import json
import os
import re
import statistics
import string
import subprocess
import sys
import tempfile
import uuid
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["STORES", "Work", "compare"]

ORIGINAL = "pyncette[all]==1.1.0"
STORES = ("sqlite", "redis", "postgres", "mysql", "dynamodb")
#: What is compared: executions of two kinds of tasks with both sides' defaults and tuned, and registrations.
EXECUTIONS = [(kind, tuned) for kind in ("recurring", "once") for tuned in (False, True)]
REGISTRATIONS = ["single", "callers", "again", "bulk"]
#: How many tasks there are: those of this version, of which the original has a tenth, since it takes longer for each.
COUNTS = {"recurring": 2_000, "once": 40_000, "single": 2_000, "callers": 40_000, "again": 20_000, "bulk": 100_000}
#: Coroutines that schedule tasks at once; the original fails if they are more than its pool has connections.
CALLERS, MOST_CALLERS_OF_1 = 500, {"redis": 90}
#: DynamoDB Local takes a millisecond for each write.
SLOW = 10

_WORKLOAD = Path(__file__).with_name("workload.py")


@dataclass(frozen=True)
class Work:
    """What one process is to do."""

    #: ``recurring`` or ``once``: executions; ``single``, ``callers``, ``again`` or ``bulk``: registrations.
    kind: str
    #: batch_size=500 and concurrency_limit=1000 instead of the defaults.
    tuned: bool
    #: How many tasks there are.
    count: int
    #: For how long recurring tasks are run, after a second of warming up.
    seconds: float
    #: MODULE:NAME of the repository's factory; None: the URL among the options says it.
    factory: str | None
    options: Mapping[str, Any]
    #: From how many coroutines `schedule_task` is called.
    callers: int

    def run(self, python: str | Path) -> Mapping[str, float]:
        """The figures of one run in the environment of ``python``."""
        command = [str(python), str(_WORKLOAD), json.dumps(dataclasses.asdict(self))]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)  # type: ignore[no-any-return]


def compare(stores: Sequence[str], rounds: int, seconds: float, kinds: Sequence[str]) -> None:
    """Print a table of medians, and of the ratio of the medians, line by line as they are known."""
    with tempfile.TemporaryDirectory() as directory:
        python = _install_original(Path(directory, "original"))
        print("| store | tasks | options | 1.1.0, per second | 2.0, per second | speedup | CPU, 1.1.0 | CPU, 2.0 | CPU ratio |")
        print("|---|---|---|---|---|---|---|---|---|")
        for store in stores:
            for kind, tuned in [(kind, tuned) for kind, tuned in _all_kinds() if kind in kinds]:
                count = COUNTS[kind] // (SLOW if store == "dynamodb" else 1)
                callers = CALLERS if kind in ("callers", "again") else 1
                theirs, ours = [], []
                for _ in range(rounds):
                    if kind != "bulk":
                        few = count if kind == "recurring" else count // 10
                        most = min(callers, MOST_CALLERS_OF_1.get(store, callers))
                        factory, options = f"pyncette.{store}:{store}_repository", _options_of_1(store, directory)
                        theirs.append(Work(kind, tuned, few, seconds, factory, options, most).run(python))
                    options = {"url": _url(store, directory)}
                    ours.append(Work(kind, tuned, count, seconds, None, options, callers).run(sys.executable))
                print(_line(store, kind, tuned, theirs, ours), flush=True)


def _all_kinds() -> Iterator[tuple[str, bool]]:
    yield from EXECUTIONS
    for kind in REGISTRATIONS:
        yield kind, False


def _line(store: str, kind: str, tuned: bool, theirs: Sequence[Mapping[str, float]], ours: Sequence[Mapping[str, float]]) -> str:
    options = ("tuned" if tuned else "defaults") if kind in ("recurring", "once") else ""
    rate, cpu = (statistics.median(run[figure] for run in ours) for figure in ("rate", "cpu"))
    if not theirs:
        return f"| {store} | {kind} | {options} | | {rate:,.0f} | | | {cpu:,.0f} µs | |"
    before, cpu_before = (statistics.median(run[figure] for run in theirs) for figure in ("rate", "cpu"))
    return (
        f"| {store} | {kind} | {options} | {before:,.0f} | {rate:,.0f} | {rate / before:.1f} "
        f"| {cpu_before:,.0f} µs | {cpu:,.0f} µs | {cpu_before / cpu:.1f} |"
    )


def _install_original(environment: Path) -> Path:
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", ORIGINAL], check=True)
    return python


def _url(store: str, directory: str) -> str:
    """A place of its own, for this version."""
    place = f"benchmark_{uuid.uuid4().hex[:8]}"
    if store == "sqlite":
        return f"sqlite:///{directory}/{place}.db"
    option = {"redis": "namespace", "dynamodb": "partition_prefix"}.get(store, "table_name")
    url = os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
    return f"{url}{'&' if '?' in url else '?'}{option}={place}"


def _options_of_1(store: str, directory: str) -> Mapping[str, Any]:
    """The same for the original; it allows no digits in the name of a table."""
    place = "original_" + uuid.uuid4().hex[:8].translate(str.maketrans(string.digits, "ghijklmnop"))
    if store == "sqlite":
        return {"sqlite_database": f"{directory}/{place}.db"}
    url = os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
    if store == "redis":
        return {"redis_url": url, "redis_namespace": place}
    if store == "postgres":
        return {"postgres_url": url, "postgres_table_name": place}
    if store == "dynamodb":
        parts = re.fullmatch(r"dynamodb://([^/]+)/[^?]+\?endpoint=(.+)", url)
        assert parts is not None, url
        return {"dynamodb_endpoint": parts[2], "dynamodb_region_name": parts[1], "dynamodb_table_name": place}
    server = re.fullmatch(r"\w+://(\w+):(\w+)@([^:/]+):(\d+)/(\w+)", url)
    assert server is not None, url
    names = ("mysql_user", "mysql_password", "mysql_host", "mysql_port", "mysql_database")
    return {**dict(zip(names, server.groups(), strict=True)), "mysql_port": int(server[4]), "mysql_table_name": place}
