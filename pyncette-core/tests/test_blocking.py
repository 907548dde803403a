"""The client of threads: each call of the asynchronous one, from wherever it comes, across forks, and to the end of the process."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import types
import weakref
from datetime import timedelta

import pytest

from pyncette import Client, ConfigurationError, Instance, Pyncette, PyncetteError, TransientRepositoryError
from pyncette.blocking import BlockingClient
from pyncette.testing import running

HOUR = timedelta(hours=1)
#: Longer than anything here takes.
PATIENCE = 30


async def body(context):
    pass


@pytest.fixture
def app(store):
    return Pyncette(repository_factory=store.open)


@pytest.fixture
def template(app):
    return app.dynamic_task(name="template")(body)


def in_threads(target, count):
    """What ``target`` returned for each number below ``count``, called by as many threads at once."""
    results = [None] * count

    def call(number):
        try:
            results[number] = target(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return results


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pyncette-blocking"]


@pytest.fixture
def stuck(app, store):
    """The events at which a call of the store has arrived that hangs until it is cancelled, and at which it was."""
    arrived, cancelled = threading.Event(), threading.Event()

    asked = store.get

    async def get(keys):
        if keys[0].partition == "layouts":  # while it is opened
            return await asked(keys)
        arrived.set()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    store.get = get
    return types.SimpleNamespace(arrived=arrived, cancelled=cancelled)


# --- the calls ----------------------------------------------------------------------------------------------------------


def test_each_call_of_the_asynchronous_client_is_there_with_its_documentation():
    for name, method in inspect.getmembers(Client, inspect.isroutine):
        if name.startswith("_") or name == "close_registrar":  # which is what close() does
            continue
        blocking = getattr(BlockingClient, name, None)
        assert blocking is not None, f"BlockingClient has no {name}(); add it to those of BlockingCalls"
        assert not inspect.iscoroutinefunction(blocking)
        if name == "within":
            continue
        assert blocking.__doc__ == method.__doc__
        assert list(inspect.signature(blocking).parameters) == list(inspect.signature(method).parameters)


def test_what_threads_schedule_runs_elsewhere(make_app, clock):
    ran = []
    worker = make_app()

    @worker.dynamic_task(name="template")
    async def remind(context):
        ran.append((context.task.name, context.args["text"]))

    web = make_app()
    template = web.dynamic_task(name="template")(body)
    with web.blocking() as client:
        assert client.schedule_task(template, "ada", execute_at=clock.now() + HOUR, text="tea") is None
        client.schedule_tasks(template, (Instance(name=name, interval=HOUR) for name in ("bob", "eve")))
        assert {task.name for task in client.list_tasks(template).tasks} == {"ada", "bob", "eve"}
        assert client.pause_task(template, "bob")
        assert client.resume_task(template, "bob")
        assert client.unschedule_task(template, "bob")
        assert client.get_task(template, "bob") is None
        assert not client.unschedule_task(template, instance_name="bob")

    async def main():
        async with running(worker) as context:
            await context.unschedule_task(remind, "eve")
            await clock.advance(1.1 * HOUR)

    clock.run(main())
    assert ran == [("ada", "tea")]


def test_a_generator_of_instances_runs_in_the_thread_of_its_caller(app, template):
    threads = []

    def instances():
        threads.append(threading.current_thread())
        yield Instance(name="ada", interval=HOUR)

    with app.blocking() as client:
        client.schedule_tasks(template, instances())
    assert threads == [threading.current_thread()]


def test_registrations_of_many_threads_share_calls(app, template, store):
    calls, begun = [], []
    register = store.register

    async def counted(now, registrations, *, force=False):
        calls.append(len(registrations))
        await asyncio.sleep(0.005)
        while len(begun) < 200:  # the first call takes as long as it takes the threads to start
            await asyncio.sleep(0.005)
        await register(now, registrations, force=force)

    def schedule(number):
        begun.append(number)
        client.schedule_task(template, f"{number}", interval=HOUR)

    with app.blocking() as client:
        client.open()
        store.register = counted
        in_threads(schedule, 200)
        assert sum(calls) == 200
        assert len(calls) < 100
        assert len(background_threads()) == 1


def test_an_error_has_the_frames_of_caller_and_callee_and_is_not_kept(app, template):
    with app.blocking() as client:
        with pytest.raises(ConfigurationError, match="'template' is a template") as raised:
            client.get_task(template)
        frames = [frame.name for frame in traceback.extract_tb(raised.tb)]
        assert frames[0] == "test_an_error_has_the_frames_of_caller_and_callee_and_is_not_kept"
        assert frames[-1] == "_instance"

        def fail():
            local = threading.Event()
            with contextlib.suppress(ConfigurationError):
                client.get_task(template)
            return weakref.ref(local)

        gc.disable()
        try:
            assert fail()() is None
        finally:
            gc.enable()


def test_context_variables_of_the_caller_are_those_of_the_call(app, template, store):
    trace = contextvars.ContextVar("trace", default=None)
    seen = []
    get = store.get

    async def traced(keys):
        seen.append(trace.get())
        return await get(keys)

    store.get = traced
    with app.blocking() as client:
        trace.set("request 17")
        client.get_task(template, "ada")
    assert seen[-1] == "request 17"


# --- within a transaction -----------------------------------------------------------------------------------------------


@pytest.fixture
def connection(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        yield connection


@pytest.fixture
def stored_app(tmp_path):
    return Pyncette(f"sqlite:///{tmp_path}/tasks.db")


def test_what_is_scheduled_within_a_transaction_is_there_once_that_is_committed(stored_app, connection):
    template = stored_app.dynamic_task(name="template")(body)
    with stored_app.blocking() as client:
        client.open()
        for end, there in ((connection.rollback, False), (connection.commit, True)):
            connection.execute("BEGIN")
            client.within(connection).schedule_task(template, "ada", interval=HOUR)
            assert client.within(connection).get_task(template, "ada") is not None
            end()
            assert (client.get_task(template, "ada") is not None) is there


def test_the_connection_is_used_in_the_thread_of_the_call(stored_app, connection):
    template = stored_app.dynamic_task(name="template")(body)
    with stored_app.blocking() as client:
        client.open()
        connection.execute("BEGIN")
        joined = client.within(connection)
        joined.schedule_tasks(template, [Instance(name=f"{number}", interval=HOUR) for number in range(500)])
        (error,) = in_threads(lambda number: joined.get_task(template, "1"), 1)
        assert "thread" in str(error)  # sqlite3 says so
        connection.commit()
        assert len(client.list_tasks(template, limit=1000).tasks) == 500


def test_a_connection_in_no_transaction_is_refused(stored_app, connection):
    template = stored_app.dynamic_task(name="template")(body)
    connection.isolation_level = None  # or it would begin one by itself
    with stored_app.blocking() as client, pytest.raises(ConfigurationError, match="transaction"):
        client.within(connection).schedule_task(template, "ada", interval=HOUR)


def test_a_store_that_is_there_is_opened_also_while_the_caller_has_it_locked(stored_app, connection):
    template = stored_app.dynamic_task(name="template")(body)
    with stored_app.blocking() as client:
        client.open()  # tables and layouts are made here
    with stored_app.blocking(timeout=timedelta(seconds=PATIENCE)) as client:
        connection.execute("BEGIN IMMEDIATE")
        client.within(connection).schedule_task(template, "ada", interval=HOUR)
        connection.commit()
        assert client.get_task(template, "ada") is not None


# --- where it may not be used -------------------------------------------------------------------------------------------


def test_in_an_event_loop_it_is_refused_and_another_thread_is_not(app, template):
    async def main(client):
        with pytest.raises(PyncetteError, match="would block the event loop"):
            client.get_task(template, "ada")
        assert await asyncio.to_thread(client.get_task, template, "ada") is None

    with app.blocking() as client:
        asyncio.run(main(client))


def test_in_the_body_of_a_task_it_is_refused(make_app, clock):
    app, errors = make_app(), []

    @app.task(interval=HOUR)
    async def task(context):
        with contextlib.suppress(PyncetteError):
            try:
                client.get_task(task)
            except PyncetteError as error:
                errors.append(str(error))
                raise

    async def main():
        async with running(app):
            await clock.advance(1.5 * HOUR)

    with app.blocking() as client:
        clock.run(main())
    assert "context.app_context" in errors[0]


@pytest.mark.parametrize(
    ("module", "question"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_where_threads_are_replaced_it_is_refused(app, monkeypatch, module, question):
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{question: lambda name: name.startswith("thread")}))
    with app.blocking() as client, pytest.raises(PyncetteError, match="needs real threads"):
        client.open()


# --- a store that does not answer ---------------------------------------------------------------------------------------


def test_a_store_that_is_away_at_first_is_tried_again_at_each_call(store, template, app):
    attempts, away = [], True
    opened = store.open

    @contextlib.asynccontextmanager
    async def open_store():
        attempts.append(None)
        await asyncio.sleep(0.05)
        if away:
            raise TransientRepositoryError("The store is unreachable")
        async with opened() as repository:
            yield repository

    app.use_repository(repository_factory=open_store)
    with app.blocking() as client:
        errors = in_threads(lambda number: client.get_task(template, "ada"), 20)
        assert {str(error) for error in errors} == {"The store is unreachable"}
        assert len({id(error) for error in errors}) == 20  # or threads would add to one traceback
        assert len(attempts) < 20
        away = False
        assert client.get_task(template, "ada") is None


def test_a_call_that_takes_too_long_is_cancelled_and_said_to_be_in_doubt(app, template, stuck):
    with app.blocking(timeout=timedelta(milliseconds=100)) as client:
        with pytest.raises(TransientRepositoryError, match=r"timeout of 0\.1 s, and may have been applied"):
            client.get_task(template, "ada")
        assert stuck.cancelled.wait(PATIENCE)


def test_a_timeout_is_checked(app):
    with pytest.raises(ConfigurationError, match="timeout"):
        app.blocking(timeout=5)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
def test_an_interrupt_returns_at_once_and_cancels_the_call(app, template, stuck):
    def interrupt():
        assert stuck.arrived.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    with app.blocking() as client:
        threading.Thread(target=interrupt).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.get_task(template, "ada")
        assert time.monotonic() - begun < PATIENCE / 2
        assert stuck.cancelled.wait(PATIENCE)
        client.schedule_task(template, "ada", interval=HOUR)  # it can still be used


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
def test_the_handler_of_a_signal_may_make_a_call_in_the_middle_of_one(app, template, store):
    arrived = threading.Event()
    get, handled = store.get, []

    async def slow(keys):
        arrived.set()
        while not handled:
            await asyncio.sleep(0.001)
        return await get(keys)

    with app.blocking() as client:
        client.open()
        store.get = slow
        previous = signal.signal(signal.SIGUSR1, lambda *_: handled.append(client.list_tasks(template)))
        try:
            threading.Thread(target=lambda: arrived.wait(PATIENCE) and os.kill(os.getpid(), signal.SIGUSR1)).start()
            assert client.get_task(template, "ada") is None
            assert len(handled) == 1
        finally:
            signal.signal(signal.SIGUSR1, previous)


# --- the end ------------------------------------------------------------------------------------------------------------


def test_a_call_after_close_is_refused_and_nothing_is_left(app, template):
    with app.blocking() as client:
        client.open()
    client.close()
    assert background_threads() == []
    for call in (lambda: client.get_task(template, "ada"), client.open, client.__enter__):
        with pytest.raises(PyncetteError, match="is closed; create another"):
            call()
    app.task(interval=HOUR)(body)  # it is not in use any more


def test_close_waits_for_calls_on_their_way(app, template, store):
    arrived = threading.Event()
    get = store.get

    async def slow(keys):
        arrived.set()
        await asyncio.sleep(0.1)
        return await get(keys)

    store.get = slow
    client = app.blocking()
    results = []
    thread = threading.Thread(target=lambda: results.append(client.get_task(template, "ada")))
    thread.start()
    assert arrived.wait(PATIENCE)
    client.close()
    thread.join(PATIENCE)
    assert results == [None]


def test_close_does_not_wait_for_ever(app, template, stuck, monkeypatch):
    monkeypatch.setattr(BlockingClient.close.__globals__["Background"].begin_to_end, "__defaults__", (0.05,))
    client = app.blocking()
    errors = []

    def call():
        try:
            client.get_task(template, "ada")
        except PyncetteError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    assert stuck.arrived.wait(PATIENCE)
    client.close()
    thread.join(PATIENCE)
    assert errors == ["The client was closed before this call ended; the call may have been applied"]


def test_one_that_is_forgotten_is_closed_and_warned_of(app, template):
    client = app.blocking()
    client.open()
    (thread,) = background_threads()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del client
        gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_one_that_was_never_used_is_not_warned_of(app, recwarn):
    app.blocking()
    gc.collect()
    assert not recwarn.list


def test_two_apps_have_a_client_each(make_app):
    one, other = (make_app() for _ in range(2))
    first, second = one.dynamic_task(name="first")(body), other.dynamic_task(name="second")(body)
    with one.blocking() as client, other.blocking() as another:
        client.schedule_task(first, "ada", interval=HOUR)
        another.schedule_task(second, "ada", interval=HOUR)
        with pytest.raises(ConfigurationError, match="does not belong to this application"):
            client.schedule_task(second, "ada", interval=HOUR)


# --- real processes -----------------------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, logging, os, signal, sys, threading, time
    from datetime import timedelta
    from pyncette import Pyncette

    # Of callbacks that took long, on a busy machine.
    logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))

    app = Pyncette("sqlite:///tasks.db")

    @app.dynamic_task()
    async def remind(context): ...

    client = app.blocking(timeout=timedelta(seconds=30))

    def schedule(name):
        client.schedule_task(remind, name, interval=timedelta(days=1))
"""


def run(directory, source):
    """The standard output of a program, which ends in order and says nothing else."""
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(source)
    # Newer Pythons warn of any fork beside threads; those of the client have ended by then.
    command = [sys.executable, "-X", "dev", "-W", "ignore:This process:DeprecationWarning", "-c", program]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.parametrize(
    "ending", ["", "client.close()", "threading.Thread(target=lambda: (time.sleep(0.2), schedule('late'))).start()"]
)
def test_a_program_ends_without_noise(tmp_path, ending):
    assert run(tmp_path, f"schedule('ada')\n{ending}\nprint('end')") == "end\n"
    stored = run(tmp_path, "print(sorted(task.name for task in client.list_tasks(remind).tasks))")
    assert stored == ("['ada', 'late']\n" if "late" in ending else "['ada']\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_child_has_a_connection_of_its_own_whatever_its_parent_was_doing(tmp_path):
    output = run(
        tmp_path,
        """
        ending = False

        def work(number):
            while not ending:
                schedule(f"{number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        schedule("before")
        for number in range(8):
            if (child := os.fork()) == 0:
                assert client.get_task(remind, "before")
                schedule(f"child {number}")
                sys.exit() if number % 2 else os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert client.get_task(remind, f"child {number}")
        ending = True
        """,
    )
    assert output == ""
