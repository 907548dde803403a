"""examples/benchmark.py, as real processes: what it counts adds up. What it measures is nobody's business here."""

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
    assert re.fullmatch(r"2500 executions, [\d,]+ a second; late by \d+\.\d{3} s \(p50\), \d+\.\d{3} s \(p99\)\n", report)
    assert benchmark(tmp_path, "run", "sqlite:///tasks.db") == "0 executions; populate first\n"


def test_lateness(tmp_path: Path) -> None:
    report = benchmark(tmp_path, "lateness", "sqlite:///tasks.db", "--rate", "100", "--seconds", "2")
    assert report.startswith("200 executions, ")
