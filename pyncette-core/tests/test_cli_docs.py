"""The page about the command line is true: its commands print what it says."""

import contextlib
import doctest
import os
import re
import shlex
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from programs import Program
from test_cli import pyncette, shop  # noqa: F401

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()


def blocks(language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGE)


def commands():
    """The commands of the page, with what they are said to print."""
    for block in blocks("console"):
        yield from re.findall(r"(?m)^\$ (.*)\n((?:[^$].*\n)*)", block)


@pytest.mark.skipif(os.name == "nt", reason="--processes needs signals of POSIX")
def test_every_command_of_the_page_prints_what_the_page_says(shop, pyncette):  # noqa: F811
    [source] = blocks("python")
    (shop / "shop.py").write_text(source)
    found = list(commands())
    assert len(found) == PAGE.count("\n$ ") > 5
    for command, expected in found:
        name, *arguments = shlex.split(command)
        assert name == "pyncette"
        if arguments[0] == "run":
            with Program([sys.executable, "-m", "pyncette", *arguments], shop) as program:
                program.wait_for("(?s)has started.*has started.*Running 2 tasks.*Running 2 tasks")
                wait_until_stored(shop / "shop.db", 3)
                program.signal(signal.SIGTERM)
                assert program.wait() == 0, program.stderr
            # Of the log, what comes before the signal.
            output = re.split(r"\n.*SIGTERM", program.stdout)[0] + program.stderr
        else:
            ended = pyncette(*arguments)
            assert ended.code == 0, ended.stderr
            # Of the backends, not which others could be installed.
            output = ended.stdout + ("" if arguments[0] == "backends" else ended.stderr)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(expected, output, flags), f"{command}\n{output}"


def wait_until_stored(path, count):
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(path)) as database:
            if database.execute("SELECT count(*) FROM pyncette_tasks WHERE partition NOT IN ('layouts', 'workers')").fetchone() == (
                count,
            ):
                return
        time.sleep(0.05)
