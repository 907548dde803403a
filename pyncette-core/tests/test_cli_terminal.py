"""The command line in a real terminal, 80 and 200 columns wide."""

import codecs
import contextlib
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals on Windows")

LONG = "the quarterly report for the department of redundancy department, " * 3
WIDE = "四半期報告書" * 15

SHOP = f"""
import asyncio
from datetime import timedelta
from pyncette import *

app = Pyncette("sqlite:///shop.db", poll_interval=timedelta(hours=1))

@app.task(schedule="0 7 * * MON", timezone="America/Argentina/Buenos_Aires", name={LONG!r})
async def report(context):
    pass

@app.dynamic_task()
async def deliver(context):
    pass

@app.fixture()
async def schedule(app_context):
    await app_context.schedule_task(deliver, {LONG!r}, schedule="0,5,10,15,20,25,30,35,40,45,50,55 9 * * MON,TUE,WED,THU,FRI")
    await app_context.schedule_task(deliver, {WIDE!r}, schedule="0 9 * * *", timezone="Europe/Berlin")
    await app_context.schedule_task(deliver, "short", schedule="30 9 * * *")
    print("set up", flush=True)
    yield
    print("torn down", flush=True)
"""


class Terminal:
    """A process in a terminal of its own, of so many columns."""

    def __init__(self, arguments, directory, columns):
        import fcntl
        import struct
        import termios

        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyncette", *arguments],
            cwd=directory,
            env={**environment, "LC_ALL": "C.UTF-8", "TERM": "xterm"},
            preexec_fn=lambda: os.login_tty(slave),
        )
        os.close(slave)
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self):
        """Close its window."""
        if self._master is not None:
            os.close(self._master)
            self._master = None

    def press(self, keys):
        os.write(self._master, keys)

    def read(self, pattern=None, patience=60):
        """Read until ``pattern`` appears, or to the end."""
        deadline = time.monotonic() + patience
        while pattern is None or re.search(pattern, self.output) is None:
            assert time.monotonic() < deadline, self.output
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the end of a terminal, on Linux
                data = b""
            if not data:
                assert pattern is None, self.output
                break
            self.output += self._decoder.decode(data)  # which may end within a character
        return self.output.replace("\r\n", "\n")


def columns_of(line):
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The directory of an app that has run once."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "shop.py").write_text(SHOP)
    with Terminal(["run", "shop.py:app"], directory, 80) as running:
        running.read("Running 2 tasks")
        wait_until_stored(directory / "shop.db", LONG)
        running.press(b"\x03")
        running.read()
        assert running.process.wait(60) == 0
    return directory


@pytest.fixture
def terminal(shop):
    """Runs a command to its end in a terminal; the lines that it prints."""

    def terminal(*arguments, columns):
        with Terminal(arguments, shop, columns) as running:
            lines = running.read().splitlines()
            assert running.process.wait(60) == 0, lines
            return lines

    return terminal


def wait_until_stored(path, name):
    """Static tasks are stored only once the app runs."""
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(path)) as database:
            query = "SELECT count(*) FROM pyncette_tasks WHERE partition = 'static' AND name = ?"
            if database.execute(query, (name,)).fetchone() == (1,):
                return
        time.sleep(0.05)


def table_of(lines):
    """Without what is said to it."""
    return [line for line in lines if not line.startswith("pyncette: ")]


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    "command", [["list", "shop.py:app"], ["list", "shop.py:app", "deliver"], ["next", "shop.py:app", "--to=+7d"]]
)
def test_a_table_fits_the_terminal(terminal, command, columns):
    lines = table_of(terminal(*command, columns=columns))
    widths = [columns_of(line) for line in lines]
    assert max(widths) <= columns
    assert max(widths) > columns - 20, "and makes use of it"
    assert any("…" in line for line in lines)
    heading = lines[0].split()
    assert heading == [name.upper() for name in heading]


def test_columns_stay_below_their_headings_also_with_wide_characters(terminal):
    lines = terminal("list", "shop.py:app", "deliver", columns=80)
    at = columns_of(lines[0][: lines[0].index("STATE")])
    for line in lines[1:]:
        assert columns_of(line[: line.index("scheduled")]) == at


def test_a_narrow_table_is_not_stretched(terminal):
    lines = terminal("backends", columns=200)
    assert terminal("backends", columns=80) == lines
    assert max(map(len, lines)) < 200


def test_a_terminal_too_narrow_for_a_table_gets_it_all_the_same(terminal):
    lines = table_of(terminal("list", "shop.py:app", columns=20))
    assert len(lines) == 3
    assert lines[2].startswith("deliv")


def test_piped_output_is_in_full(shop):
    ended = subprocess.run(
        [sys.executable, "-m", "pyncette", "list", "shop.py:app", "deliver"],
        cwd=shop,
        env={**os.environ, "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert LONG in ended.stdout
    assert WIDE in ended.stdout
    assert "…" not in ended.stdout


@pytest.mark.parametrize("columns", [80, 200])
def test_what_is_found_wrong_is_never_cut(tmp_path, columns):
    with Terminal(["check", "--url", "redis://localhost:1/0"], tmp_path, columns) as running:
        text = running.read()
        assert running.process.wait(60) == 1
    assert "check the address, and that the server runs" in text


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", ["run", "next", "check"])
def test_help_fits_the_terminal(terminal, columns, command):
    lines = terminal(command, "--help", columns=columns)
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in lines) <= columns


def test_ctrl_c_drains_all_processes_and_each_gets_one_signal(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    with Terminal(["run", "shop.py:app", "--processes=2"], tmp_path, 80) as running:
        running.read("(?s)set up.*set up")
        running.press(b"\x03")
        text = running.read()
        assert running.process.wait(60) == 0
    assert "SIGINT: shutting down 2 processes" in text
    assert "SIGINT: shutting down; " not in text, "the terminal has told the supervisor alone"
    assert text.count("SIGTERM: shutting down; ") == 2
    assert text.count("torn down") == 2


def test_closing_the_terminal_drains_all_processes(tmp_path):
    left = "open(f'torn-down-{os.getpid()}', 'w').close()"
    (tmp_path / "shop.py").write_text("import os\n" + SHOP.replace('print("torn down", flush=True)', left))
    with Terminal(["run", "shop.py:app", "--processes=2"], tmp_path, 80) as running:
        running.read(r"(?s)(Running 2 tasks on .*?\r\n.*){2}")  # after that, they write no more that could fail
        running.close()
        assert running.process.wait(60) == -signal.SIGHUP
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("torn-down-*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_ctrl_c_at_any_other_command_is_no_traceback(tmp_path):
    # Of short sleeps: CPython overlooks a signal that comes in the instant before it waits, until that wait is over.
    (tmp_path / "slow.py").write_text(
        "import asyncio, contextlib\nfrom pyncette import *\n"
        "@contextlib.asynccontextmanager\nasync def store():\n    print('opening', flush=True)\n"
        "    while True:\n        await asyncio.sleep(0.1)\n    yield\n"
        "app = Pyncette(repository_factory=store)\n"
    )
    with Terminal(["list", "slow:app"], tmp_path, 80) as running:
        running.read("opening")
        running.press(b"\x03")
        text = running.read()
        assert running.process.wait(60) == 130
    assert "Traceback" not in text
