"""The health check, over HTTP."""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from textwrap import dedent

import pytest

from pyncette import ConcurrentExecutor, ConfigurationError, Instance, Pyncette, SynchronousExecutor, healthcheck
from pyncette.errors import TransientRepositoryError
from pyncette.healthcheck import is_healthy, use_healthcheck_server
from pyncette.testing import running

SECOND = timedelta(seconds=1)
LOCALHOST = "127.0.0.1"


async def request(port, path="/health", method="GET"):
    """The status and the text of an answer, by hand: this client is as simple as a probe, and knows no virtual time."""
    reader, writer = await asyncio.open_connection(LOCALHOST, port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, _, text = answer.partition("\r\n\r\n")
    return int(head.split()[1]), text


@pytest.fixture
def serve(caplog):
    """Has an app serve its health on a free port, which the function that it returns tells once the app has started."""
    caplog.set_level(logging.INFO, "pyncette.healthcheck")

    def use(app, **options):
        use_healthcheck_server(app, port=0, bind_address=LOCALHOST, **options)
        return lambda: int(re.findall(r"/ready on 127.0.0.1, port (\d+)", caplog.text)[-1])

    return use


@pytest.fixture
def real_app():
    """In real time, since threads and sockets take part."""
    return Pyncette(poll_interval=timedelta(milliseconds=50))


async def until(condition, patience=30.0):
    async with asyncio.timeout(patience):
        while not await condition():
            await asyncio.sleep(0.01)


def declare(app, body=None, **options):
    async def task(context):
        if body is not None:
            await body()

    app.task(**{"interval": SECOND, **options})(task)


# --- healthy or not -------------------------------------------------------------------------------------------------------


def test_it_is_healthy_while_the_store_answers_and_not_when_two_poll_intervals_pass_without(make_app, store, clock):
    app = make_app(poll_interval=SECOND)
    declare(app)
    away = False
    claim = store.claim

    async def flaky(*args, **options):
        if away:
            raise TransientRepositoryError("away")
        return await claim(*args, **options)

    store.claim = flaky

    async def main():
        nonlocal away
        async with app.create() as context:
            assert not await is_healthy(context)  # nothing was polled yet
            run = asyncio.create_task(context.run())
            for _ in range(50):
                await clock.advance(0.37 * SECOND)
                assert await is_healthy(context)
            away = True
            await clock.advance(0.9 * SECOND)
            assert await is_healthy(context)  # for two poll intervals
            await clock.advance(1.2 * SECOND)
            assert not await is_healthy(context)
            away = False
            await clock.advance(3 * SECOND)
            assert await is_healthy(context)
            context.shutdown()
            await run
            assert not await is_healthy(context)  # it runs no more

    clock.run(main())


@pytest.mark.parametrize("executor_cls", [ConcurrentExecutor, SynchronousExecutor])
def test_it_is_healthy_while_live_bodies_take_all_slots(make_app, clock, executor_cls):
    app = make_app(poll_interval=SECOND, concurrency_limit=1, executor_cls=executor_cls)
    declare(app, lambda: asyncio.sleep(60), lease_duration=100 * SECOND)

    async def main():
        async with running(app) as context:
            await clock.advance(1.5 * SECOND)
            assert context.free_slots == 0
            for _ in range(50):
                await clock.advance(SECOND)
                assert await is_healthy(context)

    clock.run(main())


def test_it_is_healthy_while_backlogs_of_several_templates_take_all_slots(make_app, clock):
    app = make_app(poll_interval=SECOND, concurrency_limit=1)

    async def body(context):
        await asyncio.sleep(0.9)

    templates = [app.dynamic_task(name=f"template {number}")(body) for number in range(5)]

    async def main():
        async with running(app) as context:
            for template in templates:
                instances = [Instance(name=str(number), execute_at=clock.now()) for number in range(20)]
                await context.schedule_tasks(template, instances)
            await clock.advance(SECOND)
            for _ in range(300):
                await clock.advance(0.25 * SECOND)
                assert await is_healthy(context)

    clock.run(main())


def test_it_is_healthy_while_a_pass_over_many_partitions_takes_long(make_app, store, clock):
    app = make_app(poll_interval=SECOND)

    @app.partitioned_task(partition_count=32)
    async def template(context): ...

    claim = store.claim

    async def slow(*args, **options):
        await asyncio.sleep(0.1)
        return await claim(*args, **options)

    store.claim = slow

    async def main():
        async with running(app) as context:
            await clock.advance(5 * SECOND)
            for _ in range(200):
                await clock.advance(0.1 * SECOND)
                assert await is_healthy(context)

    clock.run(main())


def test_it_is_healthy_while_it_waits_for_the_last_bodies(make_app, clock):
    app = make_app(poll_interval=SECOND)
    declare(app, lambda: asyncio.sleep(60), lease_duration=100 * SECOND)

    async def main():
        async with running(app) as context:
            assert not context.running  # not yet
            await clock.advance(1.5 * SECOND)
            assert (context.running, context.stopping) == (True, False)
            context.shutdown()
            await clock.advance(30 * SECOND)
            assert (context.running, context.stopping) == (True, True)
            assert await is_healthy(context)

    clock.run(main())


def test_the_poll_interval_is_known(make_app, clock):
    async def main():
        async with make_app(poll_interval=7 * SECOND).create() as context:
            assert context.poll_interval == 7 * SECOND

    clock.run(main())


# --- over HTTP ------------------------------------------------------------------------------------------------------------


def test_health_and_readiness_over_a_life(real_app, serve):
    port, let_go = serve(real_app), asyncio.Event()
    declare(real_app, let_go.wait, interval=timedelta(milliseconds=100))

    async def main():
        async with real_app.create() as context:
            assert await request(port()) == (500, "unhealthy\n")
            assert await request(port(), "/ready") == (503, "starting\n")
            run = asyncio.create_task(context.run())

            async def ready():
                return await request(port(), "/ready") == (200, "ready\n")

            async def busy():
                return context.free_slots < 500

            await until(ready)
            await until(busy)
            assert await request(port()) == (200, "healthy\n")
            context.shutdown()
            assert await request(port()) == (200, "healthy\n")
            assert await request(port(), "/ready") == (503, "shutting down\n")
            let_go.set()
            await run
        with pytest.raises(ConnectionRefusedError):
            await request(port())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/health", (500, "unhealthy\n")),
        ("/health/", (500, "unhealthy\n")),
        ("/", (500, "unhealthy\n")),
        ("/health?verbose=1", (500, "unhealthy\n")),
        ("/ready", (503, "starting\n")),
        ("/ready/", (503, "starting\n")),
    ],
)
def test_paths_are_as_probes_write_them_and_head_is_get_without_the_text(real_app, serve, path, answer):
    port = serve(real_app)

    async def main():
        async with real_app.create():
            assert await request(port(), path) == answer
            assert await request(port(), path, "HEAD") == (answer[0], "")

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405(real_app, serve, path, method):
    port = serve(real_app)

    async def main():
        async with real_app.create():
            assert (await request(port(), path, method))[0] == 405

    asyncio.run(main())


def test_other_paths_are_404(real_app, serve):
    port = serve(real_app)

    async def main():
        async with real_app.create():
            assert (await request(port(), "/metrics"))[0] == 404

    asyncio.run(main())


@pytest.mark.parametrize(("answer", "status"), [(True, 200), (False, 500), (None, 500)])
def test_a_handler_decides(real_app, serve, answer, status):
    async def handler(app_context):
        assert app_context.repository is not None
        return answer

    port = serve(real_app, healthcheck_handler=handler)

    async def main():
        async with real_app.create():
            assert (await request(port()))[0] == status

    asyncio.run(main())


def test_a_handler_that_raises_is_unhealthy_and_not_a_crash(real_app, serve, caplog):
    async def handler(app_context):
        raise ZeroDivisionError("secret")

    port = serve(real_app, healthcheck_handler=handler)
    declare(real_app)

    async def main():
        async with running(real_app) as context:

            async def ticked():
                return context.last_tick is not None

            await until(ticked)
            assert await request(port()) == (500, "unhealthy\n")
            assert await request(port(), "/ready") == (503, "unhealthy\n")
            assert await request(port()) == (500, "unhealthy\n")

    asyncio.run(main())
    assert "The health check's handler raised" in caplog.text


# --- the end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n", b"GET /health HTTP/1.1\r\nHo"])
def test_shutdown_is_not_held_up_by_a_client_that_keeps_its_connection(real_app, serve, sent):
    port = serve(real_app)

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            async with real_app.create():
                reader, writer = await asyncio.open_connection(LOCALHOST, port())
                stack.callback(writer.close)
                writer.write(sent)
                if sent.endswith(b"\r\n\r\n"):
                    await reader.readuntil(b"unhealthy\n")
                await asyncio.sleep(0.05)
                began = time.monotonic()
            assert time.monotonic() - began < 5.0

    asyncio.run(main())


def test_shutdown_is_not_held_up_by_a_handler_that_hangs(real_app, serve):
    async def handler(app_context):
        await asyncio.sleep(3600)
        return True

    port = serve(real_app, healthcheck_handler=handler)

    async def main():
        async with real_app.create():
            asking = asyncio.create_task(request(port()))
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 10.0
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(main())


# --- mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [-1, 65536, "8080", True, None])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigurationError, match="it must be a number from 0 to 65535"):
        use_healthcheck_server(Pyncette(), port=port)


@pytest.mark.parametrize("address", [LOCALHOST, None, "0.0.0.0"])
def test_a_port_that_is_taken_is_an_error_that_names_it(real_app, address):
    with socket.create_server((address or LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        use_healthcheck_server(real_app, port=port, bind_address=address)

        async def main():
            async with real_app.create():
                pytest.fail("it started")

        with pytest.raises(ConfigurationError, match=rf"can't listen on .*port {port}: [^\n]*; stop what listens there"):
            asyncio.run(main())


def test_an_address_that_is_unknown_is_an_error_that_names_it(real_app):
    use_healthcheck_server(real_app, port=0, bind_address="no.such.host.invalid")

    async def main():
        async with real_app.create():
            pytest.fail("it started")

    with pytest.raises(ConfigurationError, match=r"can't listen on no\.such\.host\.invalid, port 0: \w"):
        asyncio.run(main())


PROGRAM = """
    from datetime import timedelta
    from pyncette import Pyncette
    from pyncette.healthcheck import use_healthcheck_server

    app = Pyncette()

    @app.task(interval=timedelta(seconds=1))
    async def task(context): ...

    use_healthcheck_server(app, port={port}, bind_address="127.0.0.1")
    app.main()
"""


def ended(port, **environment):
    program = dedent(PROGRAM).format(port=port)
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_whose_port_is_taken_ends_with_one_line():
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        process = ended(port=port)
    assert process.returncode == 1
    assert process.stderr == (
        f"pyncette: The health check can't listen on 127.0.0.1, port {port}: {os.strerror(errno.EADDRINUSE)}; "
        "stop what listens there, or pass another port=\n"
    )


def test_processes_that_want_the_same_port_are_told_how_to_have_their_own():
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        process = ended(port=port, PYNCETTE_PROCESS="1")
    assert process.returncode == 1
    assert f'a separate port: port={port} + int(os.environ.get("PYNCETTE_PROCESS", "0"))' in process.stderr


@pytest.mark.parametrize("address", ["", " ", 127, b"127.0.0.1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigurationError, match="bind_address of the health check is .*; pass an address"):
        use_healthcheck_server(Pyncette(), bind_address=address)


# --- who may ask, and how much --------------------------------------------------------------------------------------------


def test_nobody_but_this_machine_is_answered_unless_told_otherwise(real_app, monkeypatch):
    asked = []
    listen = asyncio.start_server

    async def noted(serve, address, port, **options):
        asked.append(address)
        return await listen(serve, address, port, **options)

    monkeypatch.setattr(asyncio, "start_server", noted)
    use_healthcheck_server(real_app, port=0)
    use_healthcheck_server(other := Pyncette(), port=0, bind_address="0.0.0.0")

    async def main():
        async with real_app.create(), other.create():
            pass

    asyncio.run(main())
    assert asked == ["127.0.0.1", "0.0.0.0"]


async def answer_to(port, sent):
    """All that comes back."""
    reader, writer = await asyncio.open_connection(LOCALHOST, port)
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 9000, b"431"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"GET  /health HTTP/1.1\r\n\r\n", b"400"),
    ],
    ids=["long header", "long path", "TLS", "HTTP/2", "nothing", "not ASCII", "two spaces"],
)
def test_what_is_no_request_of_a_probe_is_refused(real_app, serve, sent, status):
    port = serve(real_app)

    async def main():
        async with real_app.create():
            assert (await answer_to(port(), sent)).startswith(b"HTTP/1.1 " + status)
            assert (await request(port()))[0] == 500

    asyncio.run(main())


def test_of_several_requests_in_one_connection_the_first_is_answered(real_app, serve):
    port = serve(real_app)

    async def main():
        async with real_app.create():
            answer = await answer_to(port(), b"GET /health HTTP/1.1\r\n\r\n" * 100)
            assert answer.count(b"HTTP/1.1") == 1
            assert b"Connection: close" in answer

    asyncio.run(main())


def test_a_client_that_does_not_ask_soon_is_left(real_app, serve, monkeypatch):
    monkeypatch.setattr(healthcheck, "_REQUEST_TIMEOUT", 0.1)
    port = serve(real_app)

    async def main():
        async with real_app.create():
            reader, writer = await asyncio.open_connection(LOCALHOST, port())

            async def dribble():
                with contextlib.suppress(ConnectionError):
                    for byte in b"GET /health HTTP/1.1\r\nX: " + b"a" * 5000:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.01)

            dribbling = asyncio.create_task(dribble())
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            dribbling.cancel()
            writer.close()

    asyncio.run(main())


def test_a_crowd_that_sends_nothing_does_not_keep_a_probe_out(real_app, serve):
    port = serve(real_app)

    async def main():
        async with real_app.create(), contextlib.AsyncExitStack() as stack:
            crowd = []
            for _ in range(200):
                reader, writer = await asyncio.open_connection(LOCALHOST, port())
                stack.callback(writer.close)
                crowd.append(reader)
            assert (await request(port()))[0] == 500
            # The first to come are the first to go.
            left = await asyncio.gather(*(reader.read() for reader in crowd[:137]))
            assert set(left) == {b""}
            assert not crowd[-1].at_eof()

    asyncio.run(main())


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=repr)
def test_a_handler_can_end_nothing(real_app, serve, error):
    async def handler(app_context):
        raise error

    port = serve(real_app, healthcheck_handler=handler)

    async def main():
        async with real_app.create():
            assert await request(port()) == (500, "unhealthy\n")
            assert await request(port()) == (500, "unhealthy\n")

    asyncio.run(main())


def test_it_is_not_healthy_once_all_slots_are_held_by_bodies_that_outlasted_their_leases(make_app, clock):
    app = make_app(poll_interval=SECOND, concurrency_limit=2)
    declare(app, lambda: asyncio.sleep(3600), interval=30 * SECOND, lease_duration=60 * SECOND)

    @app.task(interval=30 * SECOND, lease_duration=10 * SECOND)
    async def other(context):
        await asyncio.sleep(3600 if context.attempt == 1 else 0)

    async def main():
        async with app.create() as context:
            run = asyncio.create_task(context.run())
            await clock.advance(85 * SECOND)
            assert context.free_slots == 0
            assert await is_healthy(context)  # one of them is within its lease
            await clock.advance(10 * SECOND)
            assert not await is_healthy(context)
            run.cancel()
            await asyncio.wait([run])

    clock.run(main())
