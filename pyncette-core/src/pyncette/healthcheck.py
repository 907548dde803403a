"""An HTTP endpoint that says whether an application is healthy, and whether it is ready."""

import asyncio
import errno
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.errors import ConfigurationError
from pyncette.signatures import check_coroutine_function

__all__ = ["HealthcheckHandler", "is_healthy", "use_healthcheck_server"]

logger: logging.Logger = logging.getLogger(__name__)

#: Says whether an application is healthy. If it raises an exception, that is logged, and the application counts as unhealthy.
HealthcheckHandler: TypeAlias = Callable[[PyncetteContext], Awaitable[bool]]

#: How long a client may take to send its request (seconds).
_REQUEST_TIMEOUT = 5.0
#: The maximum size of a request (bytes).
_MOST_BYTES = 8192
#: The maximum number of connected clients; a further one replaces the one that has been connected longest.
_MOST_CONNECTIONS = 64
#: How long the shutdown waits for answers in progress (seconds). Clients that have not sent a request are disconnected at once.
_SHUTDOWN_GRACE = 1.0

_REQUEST = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/1\.[01]\r\n")
_PATHS = {b"/health": "health", b"/health/": "health", b"/": "health", b"/ready": "ready", b"/ready/": "ready"}
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


async def is_healthy(app_context: PyncetteContext) -> bool:
    """The default handler: whether the last successful poll was less than two poll intervals ago.

    While bodies occupy all slots, nothing is polled. The application counts as healthy until all of them have outlasted their
    leases, since then they probably hang. It is also healthy while it waits for the last bodies at shutdown.
    """
    if app_context.stopping:
        return app_context.running
    if not app_context.free_slots:
        return not app_context.stuck
    last_tick = app_context.last_tick
    return last_tick is not None and app_context.clock.now() - last_tick < 2 * app_context.poll_interval


def use_healthcheck_server(
    app: Pyncette,
    port: int = 8080,
    bind_address: str | None = None,
    healthcheck_handler: HealthcheckHandler | None = None,
) -> None:
    """Have ``app`` answer GET and HEAD requests for /health and /ready over HTTP, from startup until its last body has ended.

    /health, and also /health/ and /, returns 200 if the handler returns True, else 500. /ready returns 200 if, in addition, the
    application has polled at least once and is not shutting down, else 503. Both answer from the event loop of the bodies: if a
    body blocks it, there is no answer.

    :param port: 0 chooses a free port, which is logged. Several processes on one machine need different ports, see
        PYNCETTE_PROCESS.
    :param bind_address: the address to listen on; 127.0.0.1 by default, which only this machine can reach. In a container, pass
        "0.0.0.0".
    :param healthcheck_handler: ``async def handler(app_context) -> bool``; :func:`is_healthy` by default.

    The server is a fixture of the application, set up in order with the others, and left out where fixtures are. Startup raises
    ConfigurationError if the address is not available.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigurationError(f"The port of the health check is {port!r}; it must be a number from 0 to 65535")
    if bind_address is not None and (not isinstance(bind_address, str) or not bind_address.strip()):
        raise ConfigurationError(
            f"The bind_address of the health check is {bind_address!r}; pass an address, such as '0.0.0.0' for all interfaces"
        )
    address = "127.0.0.1" if bind_address is None else bind_address
    handler = is_healthy if healthcheck_handler is None else healthcheck_handler
    check_coroutine_function(handler, "The healthcheck_handler", "app_context")

    async def healthcheck_server(app_context: PyncetteContext) -> AsyncIterator[None]:
        server = _Server(app_context, handler)
        listening = await _listen(server, address, port)
        try:
            yield
        finally:
            listening.close()
            await server.close()

    app.use_fixture(f"healthcheck_server_{port}", healthcheck_server)


class _Server:
    """A minimal HTTP server for probes: one small request per connection, within a few seconds."""

    def __init__(self, app_context: PyncetteContext, handler: HealthcheckHandler) -> None:
        self._app_context = app_context
        self._handler = handler
        #: The connected clients, longest first, and whether they have sent a request.
        self._clients: dict[asyncio.Task[None], bool] = {}
        self._closed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed:
            writer.close()
            return
        if len(self._clients) >= _MOST_CONNECTIONS:
            # A flood of silent clients must not keep the probe out, which is answered as soon as it connects.
            longest = next(iter(self._clients))
            del self._clients[longest]
            longest.cancel()
        self._clients[task] = False
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                request = await reader.readuntil(b"\r\n\r\n")
            self._clients[task] = True
            writer.write(await self._answer(request))
        except asyncio.LimitOverrunError:
            writer.write(_response(431, "too large"))
        except (asyncio.IncompleteReadError, TimeoutError, OSError, asyncio.CancelledError):
            pass  # the client disconnected, or was disconnected
        finally:
            self._clients.pop(task, None)
            writer.close()

    async def close(self) -> None:
        """Disconnect clients that have not sent a request, and give the others a moment."""
        self._closed = True
        for client, asked in list(self._clients.items()):
            if not asked:
                client.cancel()
        if self._clients:
            await asyncio.wait(list(self._clients), timeout=_SHUTDOWN_GRACE)
        for client in list(self._clients):
            client.cancel()
        if self._clients:
            await asyncio.wait(list(self._clients), timeout=_SHUTDOWN_GRACE)

    async def _answer(self, request: bytes) -> bytes:
        parsed = _REQUEST.match(request)
        if parsed is None:
            return _response(400, "bad request")
        method, target = parsed.groups()
        about = _PATHS.get(target.partition(b"?")[0])
        if about is None:
            return _response(404, "not found")
        if method not in (b"GET", b"HEAD"):
            return _response(405, "method not allowed", allow="GET, HEAD")
        status, text = await (self._health() if about == "health" else self._ready())
        return _response(status, text, body=method == b"GET")

    async def _health(self) -> tuple[int, str]:
        return (200, "healthy") if await self._healthy() else (500, "unhealthy")

    async def _ready(self) -> tuple[int, str]:
        if self._app_context.stopping:
            return 503, "shutting down"
        if self._app_context.last_tick is None:
            return 503, "starting"
        return (200, "ready") if await self._healthy() else (503, "unhealthy")

    async def _healthy(self) -> bool:
        task = asyncio.current_task()
        try:
            return bool(await self._handler(self._app_context))
        except BaseException as error:
            # Including SystemExit, which would end the whole program, but neither the end of this connection nor Ctrl-C.
            if isinstance(error, KeyboardInterrupt | GeneratorExit) or (task is not None and task.cancelling()):
                raise
            logger.exception("The health check's handler raised; the application counts as unhealthy")
            return False


def _response(status: int, text: str, *, allow: str | None = None, body: bool = True) -> bytes:
    content = f"{text}\n"
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if allow is not None:
        lines.append(f"Allow: {allow}")
    return "\r\n".join([*lines, "", content if body else ""]).encode()


async def _listen(server: _Server, address: str, port: int) -> asyncio.Server:
    where = f"{address}, port {port}"
    try:
        listening = await asyncio.start_server(server.serve, address, port, limit=_MOST_BYTES)
    except (OSError, UnicodeError) as error:
        # asyncio's text repeats the address in another form, and the numbers of resolver errors are not the system's.
        if isinstance(error, UnicodeError):
            reason = "that is not a host name"
        elif isinstance(error, socket.gaierror) or error.errno is None:
            reason = error.strerror or str(error)
        else:
            reason = os.strerror(error.errno)
        raise ConfigurationError(f"The health check can't listen on {where}: {reason}{_hint(error, port)}") from error
    ports = sorted({each.getsockname()[1] for each in listening.sockets})
    logger.info("Answering GET /health and GET /ready on %s, port %s", address, ", ".join(map(str, ports)))
    return listening


def _hint(error: Exception, port: int) -> str:
    if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
        return ""
    if "PYNCETTE_PROCESS" in os.environ:
        own = f'port={port} + int(os.environ.get("PYNCETTE_PROCESS", "0"))'
        return f"; stop what listens there, or give each process of this program a separate port: {own}"
    return "; stop what listens there, or pass another port="
