"""Each example does what its docstring says, as a real process."""

import re
import signal
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from programs import Program

EXAMPLES = Path(__file__).parents[2] / "examples"

#: What each prints, as regular expressions.
EXPECTED = {
    "basic": [r"every_second, meant for \d", r"every_five_seconds, meant for \d\d:\d\d:\d[05]: Good day"],
    "persistence": [r"refresh: meant for", r"count: meant for \d\d:\d\d:\d[05]\.000000, \d\.\d{3} s ago, in process \d+"],
    "dynamic_tasks": [
        r"greet: Hello, Ada!",
        r"greet: Bonjour, Émile!",
        r"guest_book: Ada \(next at .* UTC\), Émile \(next at .* CES?T\)",
        r"arrive: guest 1\n(.*\n)*(.*welcome, guest 1\n(.*\n)*){3}.*good bye, guest 1\n",
    ],
    "delay_queue": [
        r"delivered message 1, .* at attempt 1",
        r"delivered message 3, .* at attempt 2",
        r"message 5(.*\n)*.*\(attempt 1\) failed(.*\n)*.*\(attempt 2\) failed(.*\n)*.*\(attempt 3\) failed",
        r"dead letter: message 5 after attempt 3: UndeliverableError: nobody opened for message 5",
    ],
    "fixtures_and_middlewares": [
        r"database: open\n(.*\n)*.*order: number \d+, of 1 so far\n.*in_transaction: committed\n.*timed: order took",
        r"in_transaction: rolled back\n.*timed: order took .*\n.*failed: ValueError",
        r"of 2 so far",
    ],
    "heartbeat": [
        r"automatic: done after five seconds, at attempt 1\n",
        r"cooperative: step 4 of 5(.*\n)*.*cooperative: done after five seconds, at attempt 1\n",
        r"forgetful: attempt 2, fencing token",
        r"'forgetful' .*\(attempt 1\) ended after its lease was taken over",
    ],
}


def test_all_are_tested_and_on_the_tour() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tour = (EXAMPLES / "README.md").read_text()
    assert names == EXPECTED.keys()
    assert [name for name in names if f"]({name}.py)" not in tour] == []


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path) -> None:
    with Program([sys.executable, str(EXAMPLES / f"{name}.py")], tmp_path) as program:
        program.wait_for(*EXPECTED[name])
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert "SIGTERM: shutting down" in program.stdout
        assert program.stderr == ""
        if name == "fixtures_and_middlewares":
            assert program.stdout.endswith("database: closed\n")


def test_persistence_goes_on_after_a_restart(tmp_path: Path) -> None:
    counted = []
    for _start in range(2):
        with Program([sys.executable, str(EXAMPLES / "persistence.py")], tmp_path) as program:
            program.wait_for(*EXPECTED["persistence"])
            program.signal(signal.SIGTERM)
            program.wait()
            counted += [int(second) for second in re.findall(r"count: meant for \d\d:\d\d:(\d\d)", program.stdout)]
    # Each run has its turn, however long the restart took.
    assert all((following - previous) % 60 == 5 for previous, following in pairwise(counted))
