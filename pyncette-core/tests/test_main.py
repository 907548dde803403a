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

#: What every program begins with. What it says is flushed at once, so that the tests see it.
HEADER = """
import asyncio, functools, logging, os, signal, sys
from datetime import timedelta
from pyncette import *
def say(*words):
    # In one piece: lines of several processes and threads meet in one file, which need not be buffered.
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()
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
        rows = database.execute("SELECT name, locked_until, attempt FROM pyncette_tasks WHERE partition <> 'layouts'").fetchall()
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
        if "can't be read" in record.getMessage():
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
    for said in ("failed: LookupError", "failed: LeaseLostException", "lost its lease", "can't be read", "Traceback"):
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


# --- the end is bounded -------------------------------------------------------------------------------------------------

#: A body that begins as soon as it can; then main() has a second, where its end is bounded.
LAST = """
import ctypes, multiprocessing, threading, time
BOUND = SECOND
app = Pyncette(shutdown_timeout=BOUND)

def stuck():
    # Out of reach of Python and of signals: a mutex that is locked twice.
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)

@app.fixture()
async def first():
    try:
        yield
    finally:
        say("first closed")

@app.dynamic_task()
async def body(context):
    say("body begins")
    BODY

@app.fixture()
async def schedule(app_context):
    await app_context.schedule_task(body, "one", interval=SECOND / 100)
    yield
    TEARDOWN

if __name__ == "__main__":
    app.main()
    say("main returned")
"""


def last(body, teardown="pass", *, header=""):
    """The program with that body and that end of a fixture."""
    indented = {
        name: textwrap.indent(textwrap.dedent(text), "    ").strip() for name, text in {"BODY": body, "TEARDOWN": teardown}.items()
    }
    source = LAST.replace("BODY", indented["BODY"]).replace("TEARDOWN", indented["TEARDOWN"])
    return source.replace("BOUND)", f"BOUND)\n{header}")


SWALLOWS = """
while True:
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        pass
"""

IN_THE_WAY = {
    "a thread": ("await asyncio.to_thread(time.sleep, 1000)", "asyncio_0"),
    "a thread of its own": ("threading.Thread(target=time.sleep, args=[1000], name='digger').start()", "digger"),
    "a body that swallows cancellation": (SWALLOWS, "task 'body' 'one'"),
    "a body that blocks the loop": ("time.sleep(1000)", ""),
    "a body that is stuck in C": ("stuck()", ""),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("uvloop", ["0", "1"])
def test_whatever_body_is_in_the_way_the_process_ends_and_says_what_is_left(program, what, uvloop):
    # I20
    body, name = IN_THE_WAY[what]
    with program(last(body), USE_UVLOOP=uvloop) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        assert running.wait(30) == 0, running.stderr  # it would be in the way for 1000 s
        [left] = re.findall("WARNING pyncette.ending: .* left behind: (.*)", running.stdout)
        assert name in left
        assert "main returned" not in running.stdout
        assert running.stderr == ""


@pytest.mark.parametrize(
    "teardown", ["await asyncio.sleep(1000)", SWALLOWS, "time.sleep(1000)", "await asyncio.to_thread(time.sleep, 1000)"]
)
def test_a_fixture_that_hangs_at_its_end_is_named_and_the_others_are_closed(program, teardown):
    # I20
    with program(last("pass", teardown)) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        assert running.wait(30) == 0, running.stderr
        assert "WARNING pyncette.ending: The shutdown timeout has passed; cancelling: fixture 'schedule'" in running.stdout
        assert ("first closed" in running.stdout) == teardown.startswith("await")
        assert ("main returned" in running.stdout) == (teardown == "await asyncio.sleep(1000)")


@pytest.mark.parametrize("body", ["await asyncio.to_thread(time.sleep, 1000)", SWALLOWS, "time.sleep(1000)"])
def test_an_application_that_shuts_itself_down_ends_too(program, body):
    # I20, without a signal.
    with program(last("context.app_context.shutdown()\n" + textwrap.dedent(body))) as running:
        assert running.wait(30) == 0, running.stderr
        assert "left behind" in running.stdout


def test_a_start_that_hangs_is_ended(program):
    # I20
    source = last(
        "pass",
        header=textwrap.dedent("""
        @app.fixture()
        async def hanging():
            say("body begins")
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass
            yield
    """),
    )
    with program(source) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert "left behind: the start" in running.stdout


def test_an_application_that_fails_ends_with_its_error_although_a_thread_is_left(program):
    # I20
    source = """
        import sqlite3, time
        app = Pyncette("sqlite:///fails.db", shutdown_timeout=SECOND)

        @app.task(interval=SECOND)
        async def task(context):
            pass

        @app.fixture()
        async def fixture():
            with sqlite3.connect("fails.db") as database:
                database.execute("DROP TABLE pyncette_tasks")
            try:
                yield
            finally:
                await asyncio.to_thread(time.sleep, 1000)
        app.main()
    """
    with program(source) as running:
        assert running.wait(30) == 1
        assert re.search(
            "(?s)ERROR pyncette.ending: The application failed.*no such table.*left behind: thread 'asyncio_0'", running.stdout
        )


def test_without_a_shutdown_timeout_threads_are_waited_for_and_named(program):
    with program(last("await asyncio.to_thread(time.sleep, 2)").replace("BOUND = SECOND", "BOUND = None")) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert re.search("INFO pyncette.ending: Still waiting: task 'body' 'one'.*thread 'asyncio_0'", running.stdout)
        assert lines(running) == ["body begins", "first closed", "main returned"]


def test_idle_pools_are_nothing_to_wait_for(program):
    # They belong to the program, which may continue with them after main().
    source = (
        last(
            """
        assert [await asyncio.get_running_loop().run_in_executor(pool, abs, -1) for pool in pools] == [1, 1]
        context.app_context.shutdown()
        """,
            header="from concurrent.futures import *; pools = [ThreadPoolExecutor(1), ProcessPoolExecutor(1)]",
        )
        + "    assert [pool.submit(abs, -2).result() for pool in pools] == [2, 2]\n"
    )
    with program(source) as running:
        assert running.wait() == 0, running.stderr
        assert "left behind" not in running.stdout
        assert lines(running)[-1] == "main returned"


def test_many_that_are_waited_for_are_counted(program):
    body = "for _ in range(30): asyncio.create_task(beside())\nawait asyncio.sleep(0.1)\ncontext.app_context.shutdown()"
    header = "async def beside():" + textwrap.indent(SWALLOWS, "    ")
    with program(last(body, header=header)) as running:
        assert running.wait(30) == 0, running.stderr
        [left] = re.findall("left behind: (.*)", running.stdout)
        assert left.count("(beside)") == 10
        assert left.endswith(", 20 more")


def test_processes_that_a_body_has_started_are_not_left_behind(program):
    source = last(
        """
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000])
        child.start()
        say("child", child.pid)
        await asyncio.to_thread(child.join)
        """
    )
    with program(source) as running:
        running.wait_for(r"child \d+")
        running.signal(signal.SIGTERM, group=False)
        assert running.wait(30) == 0
        child = int(re.search(r"child (\d+)", running.stdout)[1])
        gone(child)


def gone(pid):
    """Wait until there is no such process, or only what its parent did not ask for."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- the second signal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uvloop", ["0", "1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("body", ["time.sleep(1000)", SWALLOWS, "stuck()"])
def test_a_second_signal_ends_it_at_once_whatever_the_body_is_at(program, body, number, uvloop):
    with program(last(body).replace("BOUND = SECOND", "BOUND = None"), USE_UVLOOP=uvloop) as running:
        running.wait_for("body begins")
        running.signal(number)
        running.wait_for(f"{number.name}: shutting down; send it again to stop immediately")
        running.signal(number)
        # As the shell sees it; only where the main thread can't be had the process says so itself.
        assert running.wait(30) == (128 + number if body == "stuck()" else -number)


def test_signals_in_one_moment_are_one_request(program):
    # timeout(1) sends its signal to the process, and to the group which that is in.
    with program(BUSY) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert "body ends" in running.stdout


@pytest.mark.parametrize("uvloop", ["0", "1"])
def test_a_signal_wakes_a_loop_that_sleeps_for_long(program, uvloop):
    # Nor does it matter that somebody else uses the descriptor by which signals wake the loop.
    own = 'asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, say, "own handler")'
    for handler in ("pass", own):
        with program(
            IDLE.replace("async def fixture(app_context):", f"async def fixture(app_context):\n    {handler}"), USE_UVLOOP=uvloop
        ) as running:
            running.wait_for("(?m)^ready$")
            if handler == own:
                running.signal(signal.SIGHUP)
                running.wait_for("own handler")
            running.signal(signal.SIGTERM)
            assert running.wait(30) == 0  # the next poll is a minute away
            assert lines(running)[-1] == "main returned"


def test_an_interrupt_that_is_ignored_stays_ignored(program, tmp_path):
    # So under nohup, and in the background of a shell script.
    with program("signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + BUSY) as running:
        running.wait_for("body begins")
        running.signal(signal.SIGINT)
        running.wait_for("body ends")
        running.signal(signal.SIGTERM)
        running.wait_for("SIGTERM: shutting down")
        assert running.wait() == 0
        assert "SIGINT" not in running.stdout


# --- children ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uvloop", ["0", "1"])
def test_signals_for_children_are_not_for_the_application(program, uvloop):
    # I17: leaving a Pool sends SIGTERM to its workers, at once after they were forked.
    source = last(
        """
        def compute():
            with multiprocessing.get_context("fork").Pool(2):
                pass
        for _ in range(30):
            await asyncio.to_thread(compute)
        say("computed")
        await asyncio.sleep(0.2)
        context.app_context.shutdown()
        """
    ).replace("BOUND = SECOND", "BOUND = None")
    with program(source, USE_UVLOOP=uvloop) as running:
        assert running.wait() == 0, running.stderr
        assert "SIGTERM" not in running.stdout
        assert lines(running) == ["body begins", "computed", "first closed", "main returned"]


@pytest.mark.parametrize("how", ["os.fork()", "in_thread(os.fork)"])
def test_a_child_has_the_handlers_and_the_descriptor_from_before(program, how):
    source = last(
        f"""
        def in_thread(function):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(lambda: function() or in_child()).result()

        def in_child():
            say(signal.getsignal(signal.SIGTERM).__name__, signal.getsignal(signal.SIGINT) is before, signal.set_wakeup_fd(-1))
            say(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
            os.kill(os.getpid(), signal.SIGTERM)

        _, status = os.waitpid({how} or in_child(), 0)
        say("exit code", os.waitstatus_to_exitcode(status))
        context.app_context.shutdown()
        """,
        header="""
from concurrent.futures import ThreadPoolExecutor
def own(number, frame):
    say("the program's own handler")
    os._exit(7)
signal.signal(signal.SIGTERM, own)
signal.signal(signal.SIGINT, signal.default_int_handler)
before = signal.getsignal(signal.SIGINT)
""",
    )
    with program(source) as running:
        assert running.wait() == 0, running.stderr
        assert lines(running)[1:5] == ["own True -1", "[]", "the program's own handler", "exit code 7"]
        assert lines(running)[-1] == "main returned"


# --- in a thread ------------------------------------------------------------------------------------------------------------


def test_main_runs_in_a_thread_without_signals(program):
    source = """
        import threading, time
        app = Pyncette(shutdown_timeout=SECOND)

        @app.dynamic_task()
        async def body(context):
            context.app_context.shutdown()
            await asyncio.to_thread(time.sleep, {lasts})

        @app.fixture()
        async def schedule(app_context):
            await app_context.schedule_task(body, "one", interval=SECOND / 100)
            yield
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        thread = threading.Thread(target=app.main)
        thread.start()
        thread.join()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        say("continues")
        sys.stdout.flush()
        os._exit(3)
    """
    for lasts in (0, 1000):
        with program(source.format(lasts=lasts)) as running:
            assert running.wait(30) == 3, running.stderr
            assert lines(running) == ["continues"]
            assert "INFO pyncette.program: main() runs outside the main thread, and leaves signals to the program" in running.stdout
            assert ("left behind: thread 'asyncio_0'" in running.stdout) == (lasts > 0)
            assert running.stderr == ""


def test_a_task_beside_the_application_that_exits_ends_it_in_order(program):
    source = last(
        "await asyncio.sleep(0.5); say('body ends')",
        header="""
@app.fixture()
async def beside():
    async def exits():
        await asyncio.sleep(0.2)
        sys.exit(5)
    task = asyncio.create_task(exits())
    yield
    say("beside closed")
""",
    )
    with program(source) as running:
        assert running.wait() == 5, running.stderr
        assert [line for line in lines(running) if line.startswith(("b", "first"))] == [
            "body begins",
            "body ends",
            "first closed",
            "beside closed",
        ]


# --- LOG_LEVEL --------------------------------------------------------------------------------------------------------------

SAYS = """
app = Pyncette()

@app.task(interval=SECOND / 100)
async def task(context):
    logging.getLogger("shop").debug("a detail")
    context.app_context.shutdown()
app.main()
"""


def test_log_level_in_the_environment_is_what_is_logged(program):
    for level, expected in {"debug": True, "DEBUG": True, "": False, "Warning": False}.items():
        with program(SAYS, LOG_LEVEL=level) as running:
            assert running.wait() == 0, running.stderr
            assert ("DEBUG shop: a detail" in running.stdout) == expected
            assert ("INFO" in running.stdout) == (level != "Warning")
            assert running.stderr == ""


def test_a_log_level_that_is_none_is_told_and_info_is_taken(program):
    with program(SAYS, LOG_LEVEL="verbose") as running:
        assert running.wait() == 0, running.stderr
        assert "WARNING pyncette.program: LOG_LEVEL is 'verbose', which is not a level; using INFO" in running.stdout
        assert "INFO pyncette" in running.stdout


def test_a_program_with_logging_of_its_own_keeps_its_level(program):
    own = "logging.basicConfig(stream=sys.stdout, level=logging.ERROR)\n"
    with program(own + SAYS, LOG_LEVEL="debug") as running:
        assert running.wait() == 0, running.stderr
        assert running.stdout == ""
