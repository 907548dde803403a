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

from pyncette import ConcurrentExecutor, ConfigurationError, Instance, Pyncette, SynchronousExecutor
from pyncette.errors import TransientRepositoryError
from pyncette.healthcheck import is_healthy, use_healthcheck_server
from pyncette.testing import running

pytest.importorskip("aiohttp", reason="the extra [healthcheck] is not installed")

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
        return lambda: int(re.findall(r"/ready on port (\d+)", caplog.text)[-1])

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
                return context.free_slots < 100

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


@pytest.mark.parametrize("path", ["/health", "/ready"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
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
            assert (await request(port(), "/"))[0] == 404

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


@pytest.mark.parametrize("address", [LOCALHOST, None])
def test_a_port_that_is_taken_is_an_error_that_names_it(real_app, address):
    with socket.create_server((address or "", 0)) as taken:
        port = taken.getsockname()[1]
        use_healthcheck_server(real_app, port=port, bind_address=address)

        async def main():
            async with real_app.create():
                pytest.fail("it started")

        with pytest.raises(ConfigurationError, match=rf"can't listen on .*port {port}: [^\n]*; end what listens there"):
            asyncio.run(main())


def test_an_address_that_is_unknown_is_an_error_that_names_it(real_app):
    use_healthcheck_server(real_app, port=0, bind_address="no.such.host.invalid")

    async def main():
        async with real_app.create():
            pytest.fail("it started")

    with pytest.raises(ConfigurationError, match=r"can't listen on no\.such\.host\.invalid, port 0: \w"):
        asyncio.run(main())


PROGRAM = """
    import sys

    {prelude}
    from datetime import timedelta
    from pyncette import Pyncette
    from pyncette.healthcheck import use_healthcheck_server

    app = Pyncette()

    @app.task(interval=timedelta(seconds=1))
    async def task(context): ...

    use_healthcheck_server(app, port={port}, bind_address="127.0.0.1")
    app.main()
"""


def ended(**values):
    program = dedent(PROGRAM).format(**values)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_program_whose_port_is_taken_ends_with_one_line():
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        process = ended(prelude="", port=port)
    assert process.returncode == 1
    assert process.stderr == (
        f"pyncette: The health check can't listen on 127.0.0.1, port {port}: {os.strerror(errno.EADDRINUSE)}; "
        "end what listens there, or pass another port=\n"
    )


def test_a_program_without_aiohttp_ends_with_one_line():
    process = ended(prelude="sys.modules['aiohttp'] = None", port=0)
    assert process.returncode == 1
    assert process.stderr == (
        "pyncette: The health check needs aiohttp, which can't be imported: pip install 'pyncette-core[healthcheck]'\n"
    )


def test_aiohttp_is_not_loaded_until_it_is_needed():
    code = "import pyncette, pyncette.healthcheck, sys; print('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
