"""``app.main()``: real processes, real signals."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
from programs import Program

SECRET = "s3cret-argument"

#: What every program begins with. SAY is flushed at once, so that the tests see it.
HEADER = """
import asyncio, functools, logging, os, signal, sys
from datetime import timedelta
from pyncette import *
say = functools.partial(print, flush=True)
SECOND = timedelta(seconds=1)
"""

#: Nothing is due, and nothing is polled for a minute.
IDLE = """
app = Pyncette("sqlite:///idle.db", poll_interval=60 * SECOND)

@app.task(schedule="0 0 1 1 *", token="s3cret-argument")
async def yearly(context):
    say("ran")

@app.fixture()
async def fixture(app_context):
    yield
    say("fixture closed")

async def tell(app_context):
    while app_context.last_tick is None:
        await asyncio.sleep(0.01)
    say("ready")

@app.fixture()
async def observer(app_context):
    task = asyncio.create_task(tell(app_context))
    yield
    await task
app.main()
say("main returned")
"""

#: A body of two seconds, which begins as soon as it can.
BUSY = """
app = Pyncette("sqlite:///busy.db", poll_interval=60 * SECOND)

@app.fixture()
async def fixture():
    yield
    say("fixture closed")

@app.dynamic_task()
async def body(context):
    say("body begins")
    await asyncio.sleep(2)
    say("body ends")

@app.fixture()
async def schedule(app_context):
    for number in range(3):
        await app_context.schedule_task(body, str(number), interval=SECOND / 2, token="s3cret-argument")
    yield
app.main()
say("main returned")
"""


@pytest.fixture
def program(tmp_path):
    """Makes a program of its source, to be started with ``with``."""

    def program(source, **environment):
        path = tmp_path / "program.py"
        path.write_text(HEADER + textwrap.dedent(source))
        return Program([sys.executable, str(path)], tmp_path, {**os.environ, "PYTHONHASHSEED": "0", **environment})

    return program


def ends_within(running, seconds):
    """Wait for the end of a program; the exit code. It must come within so many seconds, most of which are the machine's."""
    begun = time.monotonic()
    code = running.wait()
    assert time.monotonic() - begun < seconds
    return code


def lines(running):
    """What the program itself has said, without the log."""
    return [line for line in running.stdout.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]


def leased(path):
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT name, locked_until, attempt FROM pyncette_tasks").fetchall()
    return rows, [row for row in rows if row[1] is not None]


# --- signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_application_within_a_second(program, tmp_path, number):
    # I12: also with a poll interval of a minute.
    with program(IDLE) as running:
        running.wait_for("(?m)^ready$")
        running.signal(number)
        assert ends_within(running, 1) == 0
        assert lines(running) == ["ready", "fixture closed", "main returned"]
        assert running.stderr == ""
    rows, held = leased(tmp_path / "idle.db")
    assert [row[0] for row in rows] == ["yearly"]
    assert held == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_bodies_end_closes_fixtures_last_and_leaves_no_row_leased(program, tmp_path, number):
    # I12
    with program(BUSY) as running:
        running.wait_for("(?s)body begins.*body begins.*body begins")
        running.signal(number)
        assert ends_within(running, 5) == 0
        said = lines(running)
        assert said[:3] == ["body begins"] * 3
        assert said[3:] == ["body ends"] * 3 + ["fixture closed", "main returned"]
    rows, held = leased(tmp_path / "busy.db")
    assert len(rows) == 3
    assert held == []
    assert [row[2] for row in rows] == [0, 0, 0], "all are committed"


def test_a_second_signal_ends_the_process_at_once(program):
    with program(BUSY.replace("sleep(2)", "sleep(1000)")) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.wait_for("SIGTERM: shutting down")
        running.signal(signal.SIGTERM)
        assert ends_within(running, 1) == -signal.SIGTERM
        assert "body ends" not in running.stdout
        assert "fixture closed" not in running.stdout


def test_a_second_signal_may_be_the_other_one(program):
    with program(BUSY.replace("sleep(2)", "sleep(1000)")) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGINT)
        running.wait_for("SIGINT: shutting down")
        running.signal(signal.SIGTERM)
        assert ends_within(running, 1) == -signal.SIGTERM


def test_a_signal_while_fixtures_are_set_up_tears_down_those_that_were(program):
    # I14
    source = """
        app = Pyncette()

        @app.fixture()
        async def first():
            try:
                yield
            finally:
                say("first closed")

        @app.fixture()
        async def second():
            say("setting up")
            await asyncio.sleep(1000)
            yield

        app.main()
        say("main returned")
    """
    with program(source) as running:
        running.wait_for("setting up")
        running.signal(signal.SIGTERM)
        assert ends_within(running, 1) == 0
        assert lines(running) == ["setting up", "first closed", "main returned"]


def test_after_main_signals_are_what_they_were_before(program):
    source = """
        def handler(number, frame):
            say("the program's own")

        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
        before = signal.getsignal(signal.SIGINT)
        app = Pyncette()

        @app.task(interval=SECOND / 100)
        async def task(context):
            context.app_context.shutdown()

        app.main()
        assert signal.getsignal(signal.SIGINT) is before
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            say("interrupted")
    """
    with program(source) as running:
        assert running.wait() == 0, running.stderr
        assert lines(running) == ["the program's own", "interrupted"]


def test_after_a_first_signal_signals_are_what_they_were_before_too(program):
    source = """
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        app = Pyncette()

        @app.task(interval=SECOND / 100)
        async def task(context):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.1)

        app.main()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        say("as before")
    """
    with program(source) as running:
        assert running.wait() == 0, running.stderr
        assert lines(running) == ["as before"]


# --- errors -------------------------------------------------------------------------------------------------------------

JUST_MAIN = """
app = Pyncette({url!r})

@app.task(interval=SECOND, token="s3cret-argument")
async def task(context):
    say("ran")
app.main()
"""


def refused(program, source, *words, **environment):
    """Run a program that can't start: exit code 1, and one line on standard error, with ``words`` in it."""
    with program(source, **environment) as running:
        assert running.wait() == 1
        [line] = running.stderr.splitlines()
        assert line.startswith("pyncette: ")
        for word in words:
            assert word in line
        assert "Traceback" not in running.stdout
        assert lines(running) == []


def test_a_file_that_is_no_database_is_one_line_and_exit_code_1(program, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"this is not a database, but something else" * 100)
    refused(program, JUST_MAIN.format(url="sqlite:///broken.db"), "broken.db")
    assert (tmp_path / "broken.db").read_bytes().startswith(b"this is not"), "and it is left alone"


def test_a_damaged_database_is_one_line_and_exit_code_1(program, tmp_path):
    path = tmp_path / "damaged.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (x)")
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * (4096 - 100)
    path.write_bytes(content)
    refused(program, JUST_MAIN.format(url="sqlite:///damaged.db"), "damaged.db")


def test_a_table_of_somebody_else_is_one_line_and_exit_code_1(program, tmp_path):
    with sqlite3.connect(tmp_path / "foreign.db") as database:
        database.execute("CREATE TABLE pyncette_tasks (id INTEGER, customer TEXT)")
        database.execute("INSERT INTO pyncette_tasks VALUES (1, 'bill')")
    refused(program, JUST_MAIN.format(url="sqlite:///foreign.db"), "pyncette_tasks", "foreign.db")
    with sqlite3.connect(tmp_path / "foreign.db") as database:
        assert database.execute("SELECT * FROM pyncette_tasks").fetchall() == [(1, "bill")]


def test_a_directory_that_does_not_exist_is_one_line_and_exit_code_1(program):
    refused(program, JUST_MAIN.format(url="sqlite:///no/such/place.db"), "no/such/place.db")


def test_another_partition_count_is_one_line_and_exit_code_1(program):
    source = """
        app = Pyncette("sqlite:///counts.db")

        @app.partitioned_task(partition_count={count})
        async def template(context):
            pass

        @app.fixture()
        async def fixture(app_context):
            app_context.shutdown()
            yield
        app.main()
    """
    with program(source.format(count=4)) as running:
        assert running.wait() == 0
    refused(program, source.format(count=5), "'template'", "partition_count=4")


def test_an_error_of_the_program_itself_is_a_traceback(program):
    source = """
        app = Pyncette()

        @app.fixture()
        async def broken():
            raise LookupError("no such host")
            yield
        app.main()
    """
    with program(source) as running:
        assert running.wait() == 1
        assert "Traceback" in running.stderr
        assert "LookupError: no such host" in running.stderr


def test_main_in_a_running_event_loop_is_refused(program):
    source = """
        app = Pyncette()

        async def main():
            app.main()
        try:
            asyncio.run(main())
        except PyncetteError as error:
            say("refused:", error)
    """
    with program(source) as running:
        assert running.wait() == 0, running.stderr
        [line] = lines(running)
        assert line.startswith("refused: ")
        assert "await app.run()" in line
        assert running.stderr == ""


# --- logs ---------------------------------------------------------------------------------------------------------------

TALKATIVE = """
if "{level}":
    logging.basicConfig(stream=sys.stdout, level="{level}", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
app = Pyncette("sqlite:///talkative.db")
seen = set()

class Observer(logging.Handler):
    def emit(self, record):
        if "can't be understood" in record.getMessage():
            seen.add("poisoned")

logging.getLogger("pyncette.worker.execution").addHandler(Observer())

@app.dynamic_task(token="s3cret-argument", failure_mode=FailureMode.COMMIT)
async def fails(context):
    assert context.args["token"] == context.args["own"] == "s3cret-argument"
    seen.add(context.task.template.name)
    raise LookupError("of the body")

@app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE, failure_mode=FailureMode.COMMIT)
async def fails_once(context):
    seen.add(context.task.template.name)
    raise LookupError("of the body")

@app.dynamic_task(lease_duration=2 * SECOND)
@with_heartbeat(cancel_on_lease_lost=True)
async def loses(context):
    await app_context.schedule_task(loses, context.name, interval=1000 * SECOND, token="s3cret-argument", force=True)
    try:
        await asyncio.sleep(1000)
    finally:
        seen.add(context.task.template.name)

@app.task(interval=SECOND / 10, token="s3cret-argument")
async def succeeds(context):
    if seen == {{"fails", "fails_once", "loses", "poisoned"}}:
        context.app_context.shutdown()

@app.dynamic_task()
async def poisoned(context):
    pass

app_context = None

@app.fixture()
async def schedule(given):
    global app_context
    app_context = given
    for template in (fails, fails_once, loses, poisoned):
        await app_context.schedule_task(template, "one", interval=SECOND / 10, token="s3cret-argument", own="s3cret-argument")
    import sqlite3
    with sqlite3.connect("talkative.db") as database:
        database.execute("UPDATE pyncette_tasks SET spec = substr(spec, 1, length(spec) - 1) WHERE partition = 'dynamic:poisoned'")
    for wrong in (dict(), dict(interval=5), dict(interval=SECOND, tags=set())):
        try:
            await app_context.schedule_task(poisoned, "two", token="s3cret-argument", **wrong)
        except ConfigurationError as error:
            say(error)
        else:
            raise AssertionError
    yield
app.main()
"""


@pytest.mark.parametrize("level", ["", "WARNING"])
def test_logs_go_to_standard_output_and_show_no_arguments(program, level):
    with program(TALKATIVE.format(level=level)) as running:
        assert running.wait() == 0, running.stderr
        output = running.stdout
    for said in ("failed: LookupError", "failed: LeaseLostException", "lost its lease", "can't be understood", "Traceback"):
        assert said in output, said
    assert SECRET not in output
    assert running.stderr == ""
    assert re.search(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ERROR pyncette\.worker\.execution: task 'fails' 'one'", output)


def test_main_leaves_the_logging_of_the_program_alone(program):
    source = """
        logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="own %(levelname)s")
        app = Pyncette()

        @app.task(interval=SECOND / 10, failure_mode=FailureMode.COMMIT)
        async def task(context):
            context.app_context.shutdown()
            raise LookupError
        app.main()
    """
    with program(source) as running:
        assert running.wait() == 0
        assert running.stdout == ""
        assert running.stderr.startswith("own ERROR\n")


# --- uvloop -------------------------------------------------------------------------------------------------------------

LOOP = """
app = Pyncette("sqlite:///loop.db")

@app.task(interval=SECOND / 10)
async def task(context):
    say(type(asyncio.get_running_loop()).__module__)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    say("body ends")
app.main()
"""


def test_without_use_uvloop_the_loop_is_that_of_asyncio(program):
    for value in ("", "0", "false", "No"):
        with program(LOOP, USE_UVLOOP=value) as running:
            assert running.wait() == 0, running.stderr
            assert lines(running) == ["asyncio.unix_events", "body ends"]


def test_use_uvloop_without_uvloop_names_the_command_that_installs_it(program):
    absent = "sys.modules['uvloop'] = None\n"
    refused(program, absent + textwrap.dedent(LOOP), "USE_UVLOOP", "pip install", "pyncette-core[uvloop]", USE_UVLOOP="1")


def test_use_uvloop_runs_in_the_loop_that_uvloop_makes(program, tmp_path):
    # Also where uvloop has no release for this Python: what counts is that its own function makes the loop.
    (tmp_path / "uvloop.py").write_text(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop): pass\nnew_event_loop = Loop\nLoop.__module__ = 'uvloop'\n"
    )
    with program(LOOP, USE_UVLOOP="1") as running:
        assert running.wait() == 0, running.stderr
        assert lines(running) == ["uvloop", "body ends"]


def test_uvloop_itself_runs_an_application_and_its_signals(program, tmp_path):
    installed = subprocess.run([sys.executable, "-c", "import uvloop"], check=False, capture_output=True)
    assert installed.returncode == 0, "install uvloop beside the tests"
    with program(LOOP, USE_UVLOOP="1") as running:
        assert running.wait() == 0, running.stderr
        assert lines(running) == ["uvloop", "body ends"]
    _, held = leased(tmp_path / "loop.db")
    assert held == []
