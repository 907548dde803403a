"""Answers over HTTP whether an application is healthy, and whether it is ready.

Needs aiohttp: ``pip install "pyncette-core[healthcheck]"``.
"""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.errors import ConfigurationError
from pyncette.signatures import check_coroutine_function

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["HealthcheckHandler", "is_healthy", "use_healthcheck_server"]

logger = logging.getLogger(__name__)

#: Whether an application is healthy. What it raises is logged, and the application counts as unhealthy.
HealthcheckHandler: TypeAlias = Callable[[PyncetteContext], Awaitable[bool]]

#: How long answers on their way are waited for at shutdown (seconds). Idle connections are closed at once.
_SHUTDOWN_GRACE = 1.0


async def is_healthy(app_context: PyncetteContext) -> bool:
    """The default handler: whether the last successful poll is younger than two poll intervals.

    Nothing is polled while all slots are taken by bodies, nor while the application waits for the last ones at its end; that is healthy.
    """
    if app_context.stopping:
        return app_context.running
    if not app_context.free_slots:
        return True
    last_tick = app_context.last_tick
    return last_tick is not None and app_context.clock.now() - last_tick < 2 * app_context.poll_interval


def use_healthcheck_server(
    app: Pyncette,
    port: int = 8080,
    bind_address: str | None = None,
    healthcheck_handler: HealthcheckHandler | None = None,
) -> None:
    """Have ``app`` answer GET /health and GET /ready over HTTP, from its start until its last body has ended.

    /health is 200 if the handler says so, else 500. /ready is 200 if besides the application has polled at least once and is not
    shutting down, else 503. Both answer from the event loop of the bodies: if one of them blocks it, there is no answer.

    :param port: 0 for any that is free; it is logged.
    :param bind_address: the address to listen on; all by default.
    :param healthcheck_handler: ``async def handler(app_context) -> bool``; :func:`is_healthy` by default.

    The server is a fixture of the application: set up in turn with the others, and left out where fixtures are. At the start
    ConfigurationError is raised if aiohttp is not installed or the address can't be had.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigurationError(f"The port of the health check is {port!r}; it must be a number from 0 to 65535")
    handler = is_healthy if healthcheck_handler is None else healthcheck_handler
    check_coroutine_function(handler, "The healthcheck_handler", "app_context")

    async def healthcheck_server(app_context: PyncetteContext) -> AsyncIterator[None]:
        runner = _runner(app_context, handler)
        await runner.setup()
        try:
            await _listen(runner, bind_address, port)
            yield
        finally:
            await runner.cleanup()

    app.use_fixture(f"healthcheck_server_{port}", healthcheck_server)


def _runner(app_context: PyncetteContext, handler: HealthcheckHandler) -> "web.AppRunner":
    try:
        from aiohttp import web
    except ImportError as error:
        raise ConfigurationError(
            "The health check needs aiohttp, which can't be imported: pip install 'pyncette-core[healthcheck]'"
        ) from error

    async def healthy() -> bool:
        try:
            return bool(await handler(app_context))
        except Exception:
            logger.exception("The health check's handler raised; the application counts as unhealthy")
            return False

    async def health(_: web.Request) -> web.Response:
        return answer("healthy") if await healthy() else answer("unhealthy", 500)

    async def ready(_: web.Request) -> web.Response:
        if app_context.stopping:
            return answer("shutting down", 503)
        if app_context.last_tick is None:
            return answer("starting", 503)
        return answer("ready") if await healthy() else answer("unhealthy", 503)

    def answer(text: str, status: int = 200) -> web.Response:
        return web.Response(text=f"{text}\n", status=status, headers={"Cache-Control": "no-store"})

    server = web.Application()
    server.router.add_get("/health", health, allow_head=False)
    server.router.add_get("/ready", ready, allow_head=False)
    return web.AppRunner(server, access_log=None, shutdown_timeout=_SHUTDOWN_GRACE)


async def _listen(runner: "web.AppRunner", bind_address: str | None, port: int) -> None:
    from aiohttp import web

    where = f"port {port}" if bind_address is None else f"{bind_address}, port {port}"
    try:
        await web.TCPSite(runner, bind_address, port).start()
    except OSError as error:
        hint = "; end what listens there, or pass another port=" if error.errno == errno.EADDRINUSE else ""
        # asyncio's own text repeats the address, in a form of its own; the numbers of a resolver are not the system's.
        if isinstance(error, socket.gaierror) or error.errno is None:
            reason = error.strerror or str(error)
        else:
            reason = os.strerror(error.errno)
        raise ConfigurationError(f"The health check can't listen on {where}: {reason}{hint}") from error
    ports = sorted({address[1] for address in runner.addresses})
    logger.info("Answering GET /health and GET /ready on %s", where if port else f"port {', '.join(map(str, ports))}")
