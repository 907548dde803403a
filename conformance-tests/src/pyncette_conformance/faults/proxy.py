"""A TCP proxy that stands between workers and a store, and does to their connections what networks do."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

__all__ = ["Proxy", "proxied"]

_CHUNK = 1 << 16
#: A host of this machine with its port, also within an option of a URL.
_ADDRESS = re.compile(r"(127\.0\.0\.1|localhost)(:|%3[Aa])(\d+)")


@dataclass(slots=True, eq=False)
class _Connection:
    """A client, and what it talks to."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: Clear while nothing is to get through. The peers see a connection that is open and silent.
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    #: The next bytes from the server are dropped, and the connection with them.
    cut: bool = False
    #: The last to send was the client.
    asking: bool = False
    #: How many more bytes of replies get through before all is held back; None: any number.
    allowance: int | None = None

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Forwards connections to ``host`` and ``port``. An asynchronous context manager; it listens at :attr:`port` of 127.0.0.1.

    Everything may be changed at any time, by calls from the same event loop.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        #: Whether new connections get through; if not, they are closed at once.
        self.accepting = True
        #: Whether new connections are silent from their beginning.
        self.freeze_new: bool = False
        #: Seconds by which each piece of data is late, in either direction.
        self.delay: float = 0.0
        #: How often clients have sent something that was not the continuation of what they were sending.
        self.round_trips: int = 0
        #: Set once a reply is held back because of :meth:`hold_replies`.
        self.holding: asyncio.Event = asyncio.Event()
        self._allowance: int | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def freeze(self) -> None:
        """Let nothing more through on the connections that are open now; new ones work."""
        for connection in self._connections:
            connection.thawed.clear()

    def hold_replies(self, after: int) -> None:
        """On each connection, also on new ones, let ``after`` more bytes of replies through, and then nothing until :meth:`thaw`."""
        self.holding.clear()
        self._allowance = after
        for connection in self._connections:
            connection.allowance = after

    def thaw(self) -> None:
        """Let everything through that was held back."""
        self.freeze_new = False
        self._allowance = None
        for connection in self._connections:
            connection.allowance = None
            connection.thawed.set()

    def cut_replies(self) -> None:
        """Break each open connection at its next reply: the server has done what was asked, and nobody will hear of it."""
        for connection in self._connections:
            connection.cut = True

    def drop(self) -> None:
        """Reset all open connections."""
        for connection in list(self._connections):
            connection.abort()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if not self.accepting:
            client.transport.abort()
            return
        try:
            server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server, allowance=self._allowance)
        if not self.freeze_new:
            connection.thawed.set()
        self._connections.add(connection)
        pumps = {
            asyncio.create_task(self._pump(connection, reader, server, replies=False)),
            asyncio.create_task(self._pump(connection, server_reader, client, replies=True)),
        }
        self._tasks |= pumps
        try:
            await asyncio.wait(pumps)
        finally:
            connection.abort()
            self._connections.discard(connection)
            self._tasks -= pumps

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                self.round_trips += not replies and not connection.asking
                connection.asking = not replies
                await connection.thawed.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if replies and connection.cut:
                    connection.abort()
                    return
                if replies and connection.allowance is not None and len(data) > connection.allowance:
                    writer.write(data[: connection.allowance])
                    data, connection.allowance = data[connection.allowance :], 0
                    connection.thawed.clear()
                    self.holding.set()
                    await connection.thawed.wait()
                elif replies and connection.allowance is not None:
                    connection.allowance -= len(data)
                writer.write(data)
                await writer.drain()
            await connection.thawed.wait()  # a frozen network does not tell that the other side is gone
            writer.write_eof()
        except OSError:  # one side was reset, and the other is
            await connection.thawed.wait()
            connection.abort()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy in front of the server of ``url``, and the URL that leads through it. Raises ValueError if that has no port of this machine."""
    address = _ADDRESS.search(url)
    if address is None:
        raise ValueError("The URL has no port of this machine, in front of which a proxy could stand")
    async with Proxy("127.0.0.1", int(address[3])) as proxy:
        yield proxy, f"{url[: address.start()]}127.0.0.1{address[2]}{proxy.port}{url[address.end() :]}"
