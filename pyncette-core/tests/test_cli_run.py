"""``pyncette run``: one process or several under supervision, real signals."""

import json
import os
import re
import signal
import sqlite3
import sys
import time

import pytest
from programs import Program

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

HEADER = """
import asyncio, functools, logging, os, signal, sys, time
from datetime import timedelta
from pyncette import *
def say(*words):
    # In one piece: lines of several processes and threads meet in one file, which need not be buffered.
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()
SECOND = timedelta(seconds=1)
app = Pyncette("sqlite:///run.db", poll_interval=SECOND)
"""

#: Each of the processes says what it runs.
SHARED = """
@app.dynamic_task(lease_duration=5 * SECOND)
async def tick(context):
    say("tick", os.getpid(), context.name, context.scheduled_at.isoformat())
    await asyncio.sleep(0.05)

@app.fixture()
async def schedule(app_context):
    for number in range(10):
        await app_context.schedule_task(tick, str(number), interval=SECOND / 2)
    say("started", os.getpid())
    yield
    say("closed", os.getpid())
"""

#: A body that is under way when the signal comes.
BUSY = """
@app.dynamic_task()
async def body(context):
    say("body begins", os.getpid())
    await asyncio.sleep(SLEEP)
    say("body ends", os.getpid())

@app.fixture()
async def schedule(app_context):
    await app_context.schedule_task(body, str(os.getpid()), interval=SECOND / 2)
    say("started", os.getpid())
    yield
    say("fixture closed", os.getpid())
"""


@pytest.fixture
def run(tmp_path):
    """Makes a command that runs an application of this source, to be started with ``with``."""

    def run(source, *arguments, **environment):
        (tmp_path / "program.py").write_text(HEADER + source)
        command = [sys.executable, "-m", "pyncette", "run", "program.py:app", *arguments]
        return Program(command, tmp_path, {**os.environ, **environment})

    return run


def leased(path, after=0):
    """The rows whose lease expires after this many seconds since 1970."""
    with sqlite3.connect(path) as database:
        return database.execute("SELECT name FROM pyncette_tasks WHERE locked_until > ?", [after * 1_000_000]).fetchall()


def pids(running, what):
    """The processes that have said ``what``, in order."""
    return [int(pid) for pid in re.findall(rf"(?m)^{what} (\d+)", running.stdout)]


def wait_until(condition, running, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{running.stdout}\n{running.stderr}"
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- one process --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_0(run, tmp_path, number):
    with run(BUSY.replace("SLEEP", "1")) as running:
        running.wait_for("body begins")
        running.signal(number)
        assert running.wait() == 0
        assert re.search("(?s)body ends .*fixture closed", running.stdout)
        assert running.stderr == ""
    assert leased(tmp_path / "run.db") == []


def test_a_second_signal_ends_it_at_once(run):
    with run(BUSY.replace("SLEEP", "1000")) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.wait_for("SIGTERM: shutting down")
        running.signal(signal.SIGTERM)
        assert running.wait() == -signal.SIGTERM


def test_url_takes_the_place_of_the_apps_own_store(run, tmp_path):
    with run(SHARED, "--url", "sqlite:///other.db") as running:
        running.wait_for("tick")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "run.db").exists()


LOOP = """
@app.task(interval=SECOND / 10)
async def task(context):
    say(type(asyncio.get_running_loop()).__module__)
    context.app_context.shutdown()
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_uvloop_runs_it_in_the_loop_that_uvloop_makes(run, tmp_path, processes):
    (tmp_path / "uvloop.py").write_text(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop): pass\nnew_event_loop = Loop\nLoop.__module__ = 'uvloop'\n"
    )
    # An application may end by itself, and is not started again then.
    with run(LOOP, "--uvloop", "--processes", processes, PYTHONPATH=str(tmp_path)) as running:
        assert running.wait() == 0, running.stderr
        assert "uvloop" in running.stdout.splitlines()


def test_uvloop_that_is_not_installed_is_one_line(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda name, *a: None if name == 'uvloop' else find(name, *a)\n"
    )
    with run(LOOP, "--uvloop", "--processes=2", PYTHONPATH=str(tmp_path)) as running:
        assert running.wait() == 1
        [line] = running.stderr.splitlines()
        assert "pip install 'pyncette-core[uvloop]'" in line


# --- logs ---------------------------------------------------------------------------------------------------------------

FAILING = """
@app.task(interval=SECOND / 10, failure_mode=FailureMode.COMMIT, token="s3cret")
async def fails(context):
    logging.getLogger("shop").debug("about to fail")
    context.app_context.shutdown()
    raise LookupError("no such\\nhost")
"""


def test_the_log_is_text_on_standard_output(run):
    with run(FAILING) as running:
        assert running.wait() == 0
        assert re.search(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ERROR pyncette\.worker\.execution: task 'fails'", running.stdout)
        assert "about to fail" not in running.stdout
        assert running.stderr == ""


def test_the_log_as_json_is_an_object_a_line(run):
    with run(FAILING, "--log-format", "json", "--log-runs") as running:
        assert running.wait() == 0
        records = [json.loads(line) for line in running.stdout.splitlines()]
    [ended] = [record for record in records if record["logger"] == "pyncette.runs"]
    assert (ended["level"], ended["task"], ended["attempt"], ended["outcome"]) == ("INFO", "fails", 1, "failed")
    assert re.search("task 'fails' of .*: failed, attempt 1, .* late, took ", ended["message"])
    [failure] = [record for record in records if record["level"] == "ERROR"]
    assert failure["logger"] == "pyncette.worker.execution"
    assert failure["message"].startswith("task 'fails'")
    assert (failure["task"], failure["attempt"], failure["scheduled_at"]) == ("fails", 1, ended["scheduled_at"])
    assert failure["exception"].endswith("LookupError: no such\nhost")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", failure["time"])
    assert isinstance(failure["process"], int)
    assert "s3cret" not in json.dumps(records)


def test_the_log_level_is_for_all_loggers(run):
    with run(FAILING, "--log-level", "DEBUG") as running:
        assert running.wait() == 0
        assert "DEBUG shop: about to fail" in running.stdout
    with run(FAILING, "--log-level", "critical") as running:
        assert running.wait() == 0
        assert running.stdout == ""


def test_the_logging_of_the_program_is_replaced_only_when_asked(run):
    own = 'logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="own %(levelname)s")\n' + FAILING
    with run(own) as running:
        assert running.wait() == 0
        assert running.stdout == ""
        assert running.stderr.startswith("own ERROR\n")
    with run(own, "--log-format=text") as running:
        assert running.wait() == 0
        assert " ERROR pyncette.worker.execution: " in running.stdout
        assert running.stderr == ""


# --- several processes --------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_replaced_and_nothing_stays_leased(run, tmp_path):
    with run(SHARED, "--processes", "3") as running:
        wait_until(lambda: len(pids(running, "started")) == 3, running)
        running.wait_for("tick")
        victim = pids(running, "started")[1]
        os.kill(victim, signal.SIGKILL)
        last_lease = time.time() + 5
        wait_until(lambda: len(pids(running, "started")) == 4, running)
        running.wait_for(
            rf"ERROR \[\d+\] pyncette.cli.supervisor: Process {victim} \(number \d\) was killed by SIGKILL; restarting it in 0.5 s"
        )
        said = len(pids(running, "tick"))
        wait_until(lambda: len(pids(running, "tick")) > said + 10, running)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        survivors = set(pids(running, "started")) - {victim}
        assert set(pids(running, "closed")) == survivors
        assert not any(map(alive, survivors))
        assert running.stderr == ""
    # What the victim had in hand is taken over later; the others have left nothing.
    assert leased(tmp_path / "run.db", after=last_lease) == []


def test_no_occurrence_is_run_twice_by_processes_that_share_a_store(run):
    with run(SHARED, "--processes", "3") as running:
        wait_until(lambda: len(pids(running, "tick")) > 60, running)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        ran = re.findall(r"(?m)^tick \d+ (\d+ \S+)$", running.stdout)
        assert len(ran) == len(set(ran))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all(run, tmp_path, number):
    with run(BUSY.replace("SLEEP", "1"), "--processes", "3") as running:
        wait_until(lambda: len(pids(running, "started")) == 3, running)
        running.wait_for("body begins")
        running.signal(number)
        assert running.wait() == 0
        assert len(pids(running, "fixture closed")) == 3, running.stdout
        assert sorted(pids(running, "body begins")) == sorted(pids(running, "body ends"))
        assert f"{number.name}: shutting down 3 processes" in running.stdout
        assert running.stderr == ""
    assert leased(tmp_path / "run.db") == []


def test_a_second_signal_ends_all_at_once(run):
    with run(BUSY.replace("SLEEP", "1000"), "--processes", "3") as running:
        wait_until(lambda: len(pids(running, "started")) == 3, running)
        running.wait_for("body begins")
        running.signal(signal.SIGINT)
        running.wait_for("SIGINT: shutting down 3 processes")
        begun = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == -signal.SIGTERM
        assert time.monotonic() - begun < 2
        wait_until(lambda: not any(map(alive, pids(running, "started"))), running, patience=5)
        assert "body ends" not in running.stdout


def test_a_second_signal_ends_also_a_process_that_does_not_listen(run):
    with run(BUSY.replace("await asyncio.sleep(SLEEP)", "time.sleep(1000)"), "--processes", "2") as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.wait_for("SIGTERM: shutting down 2 processes")
        running.signal(signal.SIGTERM)
        assert running.wait() == -signal.SIGTERM
        wait_until(lambda: not any(map(alive, pids(running, "started"))), running, patience=5)


def test_a_process_that_dies_while_draining_makes_the_exit_code_1(run):
    with run(BUSY.replace("SLEEP", "1000"), "--processes", "2") as running:
        wait_until(lambda: len(pids(running, "started")) == 2, running)
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.wait_for(r"(?s)SIGTERM: shutting down; .*SIGTERM: shutting down; ")
        busy = set(pids(running, "body begins"))
        for pid in busy:
            os.kill(pid, signal.SIGKILL)
        assert running.wait() == 1
        assert running.stdout.count("was killed by SIGKILL") == len(busy)


def test_the_processes_drain_when_their_supervisor_is_killed(run, tmp_path):
    with run(BUSY.replace("SLEEP", "1"), "--processes", "2") as running:
        wait_until(lambda: len(pids(running, "started")) == 2, running)
        running.wait_for("body begins")
        running.signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        wait_until(lambda: not any(map(alive, pids(running, "started"))), running)
        assert len(pids(running, "fixture closed")) == 2
    assert leased(tmp_path / "run.db") == []


def test_the_pauses_grow_while_processes_die_at_once(run):
    source = """
    @app.fixture()
    async def broken():
        raise LookupError("no such host")
        yield
    """
    with run(re.sub("(?m)^    ", "", source), "--processes", "2") as running:
        running.wait_for("restarting it in 2 s")
        begun = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == 1, "none of them has ended well"
        assert time.monotonic() - begun < 2, "the pause is not waited for"
        pauses = re.findall(r"ended with exit code 1; restarting it in (\S+) s", running.stdout)
        assert pauses[:4] == ["0.5", "0.5", "1", "1"]
        assert "LookupError: no such host" in running.stderr


def test_an_app_that_can_not_start_is_told_once_and_not_tried_again(run):
    with run(SHARED, "--processes", "3", "--url", "sqlite:///no/such/directory/run.db") as running:
        assert running.wait() == 1
        [line] = running.stderr.splitlines()
        assert "no/such/directory" in line
        assert running.stdout == ""


def test_an_app_in_memory_can_not_be_run_by_several_processes(run):
    with run(SHARED, "--processes", "2", "--url", "memory://") as running:
        assert running.wait() == 1
        [line] = running.stderr.splitlines()
        assert "--url" in line


def test_processes_that_end_by_themselves_are_not_replaced(run):
    with run(LOOP, "--processes", "2") as running:
        wait_until(lambda: "asyncio.unix_events" in running.stdout, running)
        assert running.wait() == 0
        assert running.stdout.count("has started") == running.stdout.count("on its own; not replacing it") == 2


def test_lines_of_several_processes_say_whose_they_are(run):
    with run(FAILING, "--processes", "2", "--log-format", "json") as running:
        assert running.wait() == 0
        records = [json.loads(line) for line in running.stdout.splitlines()]
    started = {int(re.search(r"\d+", record["message"])[0]) for record in records if "has started" in record["message"]}
    failed = {record["process"] for record in records if record["level"] == "ERROR"}
    assert len(started) == 2
    assert failed <= started
    assert failed


def test_what_a_process_can_not_start_for_is_logged_with_its_number(run):
    source = """
@app.fixture()
async def port():
    if os.environ["PYNCETTE_PROCESS"] == "1":
        raise ConfigurationError("The port is taken;\\ntake another by PYNCETTE_PROCESS")
    yield
    say("closed", os.getpid())
"""
    with run(source, "--processes", "2") as running:
        running.wait_for("(?s)restarting it in 0.5 s.*restarting it in 1 s")
        running.signal(signal.SIGTERM)
        assert running.wait() == 1
        told = re.findall(r"(?m)^[\d-]+ [\d:,]+ ERROR \[\d+\] pyncette.cli.supervisor: Process \d+ (.*)", running.stdout)
        assert told[0] == (
            r"(number 1) ended with exit code 1: The port is taken;\ntake another by PYNCETTE_PROCESS; restarting it in 0.5 s"
        )
        assert len(pids(running, "closed")) == 1
        assert running.stderr == ""


def test_a_process_that_ends_with_0_unasked_is_replaced(run):
    # I17: whatever a body calls, other tasks run on.
    source = """
@app.task(interval=SECOND / 10, lease_duration=SECOND)
async def task(context):
    say("exiting", os.getpid())
    os._exit(0)
"""
    with run(source, "--processes", "1") as running:
        assert running.wait() == 0, "alone, it has nobody who would"
    with run(source, "--processes", "2") as running:
        wait_until(lambda: len(pids(running, "exiting")) >= 3, running)
        running.signal(signal.SIGTERM)
        running.wait()
        assert re.search(
            r"WARNING \[\d+\] pyncette.cli.supervisor: Process \d+ \(number \d\) ended, although nobody asked it to; restarting it in 0.5 s",
            running.stdout,
        )
        assert "not replaced" not in running.stdout


#: A body in C that keeps the whole interpreter: no handler and no thread of the process can do anything.
STUCK = """
import ctypes
app = Pyncette("sqlite:///run.db", shutdown_timeout=SECOND)

@app.dynamic_task()
async def body(context):
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex)
    say("body begins", os.getpid())
    lock(mutex)

@app.fixture()
async def schedule(app_context):
    await app_context.schedule_task(body, str(os.getpid()), interval=SECOND / 2)
    yield
"""


def test_a_process_that_can_not_end_itself_is_killed_after_the_shutdown_timeout(run):
    # I20
    with run(STUCK, "--processes", "2") as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        assert running.wait(30) == 1
        assert "did not stop within the shutdown timeout; killing it" in running.stdout
        assert not any(map(alive, pids(running, "body begins")))


def test_processes_that_drain_go_on_when_their_supervisor_is_killed(run, tmp_path):
    with run(BUSY.replace("SLEEP", "2"), "--processes", "2") as running:
        wait_until(lambda: len(pids(running, "started")) == 2, running)
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.wait_for("(?s)SIGTERM: shutting down; .*SIGTERM: shutting down; ")
        running.signal(signal.SIGKILL)
        running.wait()
        wait_until(lambda: not any(map(alive, pids(running, "started"))), running)
        assert len(pids(running, "fixture closed")) == 2
        assert pids(running, "body ends")
    assert leased(tmp_path / "run.db") == []


def test_a_level_that_is_asked_for_goes_before_the_one_in_the_environment(run):
    with run(FAILING, LOG_LEVEL="debug") as running:
        assert running.wait() == 0
        assert "DEBUG shop: about to fail" in running.stdout
    with run(FAILING, "--log-level", "info", LOG_LEVEL="debug") as running:
        assert running.wait() == 0
        assert "INFO" in running.stdout
        assert "DEBUG" not in running.stdout
