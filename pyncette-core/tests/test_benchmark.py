"""examples/benchmark.py, as real processes: what it counts adds up. What it measures is nobody's business here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "examples" / "benchmark.py"


def benchmark(directory: Path, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARK), *arguments]
    return subprocess.run(command, cwd=directory, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


@pytest.mark.parametrize("processes", [1, 3])
def test_all_that_was_stored_is_executed_once(tmp_path: Path, processes: int) -> None:
    assert benchmark(tmp_path, "populate", "sqlite:///tasks.db", "-n", "2500") == ""
    report = benchmark(tmp_path, "run", "sqlite:///tasks.db", "--processes", str(processes))
    assert re.fullmatch(
        r"2500 executions, [\d,]+ a second; late by \d+\.\d{3} s \(p50\), \d+\.\d{3} s \(p99\), \d+\.\d{3} s \(p99\.9\)\n", report
    )
    assert benchmark(tmp_path, "run", "sqlite:///tasks.db") == "0 executions; populate first\n"


def test_without_a_url_tasks_are_in_a_file_here_and_the_rate_is_told_on_the_way(tmp_path: Path) -> None:
    benchmark(tmp_path, "populate", "-n", "50")
    assert (tmp_path / "benchmark.db").exists()
    command = [sys.executable, str(BENCHMARK), "lateness", "--rate", "20", "--seconds", "3"]
    ended = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    told = re.findall(r"^\[\d+\] ([\d,]+) a second, ([\d,]+) in all; lag \d+\.\d{3} s$", ended.stderr, re.MULTILINE)
    totals = [int(total) for _, total in told]
    assert totals == sorted(totals)
    assert totals[-1] <= 110
    assert ended.stdout.startswith("110 executions, ")


def test_lateness(tmp_path: Path) -> None:
    report = benchmark(tmp_path, "lateness", "sqlite:///tasks.db", "--rate", "100", "--seconds", "2")
    assert report.startswith("200 executions, ")


@pytest.mark.parametrize(
    ("kind", "tuned"),
    [("recurring", False), ("once", True), ("single", False), ("callers", False), ("again", False), ("bulk", False)],
)
def test_what_is_compared_is_done_by_this_version(tmp_path: Path, kind: str, tuned: bool) -> None:
    work = {"kind": kind, "tuned": tuned, "count": 60, "seconds": 0.5, "factory": None, "callers": 20}
    options = {"url": f"sqlite:///{tmp_path}/tasks.db"}
    command = [sys.executable, str(BENCHMARK.with_name("benchmarks") / "workload.py"), json.dumps({**work, "options": options})]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout)
    assert figures["rate"] > 0
    assert figures["cpu"] > 0


def test_claims_among_rows_that_are_not_due(tmp_path: Path) -> None:
    lines = benchmark(tmp_path, "claims", "sqlite", "--rows", "200", "2000").splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| sqlite", "200"], ["| sqlite", "2,000"]]


def test_plots_show_what_the_tables_of_a_page_say(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "| store | tasks | options | 1.1.0, per second | 2.0, per second | speedup | CPU, 1.1.0 | CPU, 2.0 | CPU ratio |\n|---|\n"
        "| sqlite | once | tuned | 407 | 21,093 | 51.9 | 1,469 µs | 43 µs | 33.8 |\n\nMore\n\n"
        "| store | rows not due | claim of 100 | claim of none |\n|---|\n| redis | 10,000 | 4.3 ms | 2.8 ms |\n"
        "| redis | 1,000,000 | 6.5 ms | 4.0 ms |\n\n| what | else |\n|---|\n| 1 | 2 |\n"
    )
    drawn = benchmark(tmp_path, "plot", "page.md", "images").splitlines()
    assert drawn == [str(Path("images", name)) for name in ("executions.svg", "claims.svg")]
    executions, claims = ((tmp_path / name).read_text() for name in drawn)
    assert ">52 x<" in executions
    assert ">redis, claim of none<" in claims


def test_the_work_of_a_killed_worker_goes_on_when_its_lease_ends(tmp_path: Path) -> None:
    found = re.fullmatch(r"after (\d+\.\d\d) s \(median of 1\), .*\n", benchmark(tmp_path, "takeover", "sqlite", "--rounds", "1"))
    assert found is not None
    assert float(found[1]) > 0.5


def test_threads_beside_coroutines(tmp_path: Path) -> None:
    lines = benchmark(tmp_path, "clients", "sqlite", "-n", "60", "--callers", "1", "8", "--rounds", "1").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 8"]
