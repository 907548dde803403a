"""Connections to the server, and the turns of calls at them."""

import asyncio
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import aiomysql
from pymysql.constants import CLIENT

from pyncette.errors import RepositoryError
from pyncette.waiting import Turns

__all__ = ["Connection", "Connections", "NoTLSError"]


class NoTLSError(Exception):
    """TLS is required, but the server, or somebody in between, does not offer it. Nothing has been sent."""


#: A connection of the driver, which has no type annotations.
Connection: TypeAlias = Any


class _Connection(aiomysql.Connection):  # type: ignore[misc] # the driver has no types
    """A connection that sends nothing to a server without TLS, if TLS is required: the driver itself would continue in clear text."""

    def __init__(self, **options: Any) -> None:
        self._capabilities = 0
        self._tls_wanted = options.get("ssl") is not None
        super().__init__(**options)

    @property
    def server_capabilities(self) -> int:
        return self._capabilities

    @server_capabilities.setter
    def server_capabilities(self, capabilities: int) -> None:
        # set after reading the server's greeting, before sending the login
        if self._tls_wanted and not capabilities & CLIENT.SSL:
            raise NoTLSError
        self._capabilities = capabilities


class Connections:
    """Up to ``size`` connections, opened on demand. One is reserved for claims and settlements."""

    def __init__(self, options: Callable[[], dict[str, Any]], size: int, timeout: float, where: str) -> None:
        """``options``: those of new connections. ``timeout``: the limit of a turn, and of a connection's idle time (seconds)."""
        self._options = options
        self._timeout = timeout
        self._where = where
        self._turns = Turns(size, timeout)
        self._free: list[Connection] = []
        self._used: set[Connection] = set()
        self._closed = False

    def turn(self, *, urgent: bool) -> AbstractAsyncContextManager[None]:
        """The right to one connection, and the time to use it: see :meth:`pyncette.waiting.Turns.turn`."""
        return self._turns.turn(urgent=urgent)

    async def take(self) -> tuple[Connection, bool]:
        """A connection, and whether it was used before, so that it may be dead."""
        if self._closed:
            raise RepositoryError(f"The repository of {self._where} is closed; use it within its context")
        while self._free:
            connection = self._free.pop()
            if asyncio.get_running_loop().time() - connection.last_usage < self._timeout:
                self._used.add(connection)
                return connection, True
            connection.close()  # the server would close it in a moment
        connection = _Connection(**self._options())
        self._used.add(connection)
        try:
            await connection.ping()  # connects
        except (LookupError, struct.error, TypeError, AssertionError) as error:
            self.discard(connection)
            raise aiomysql.InterfaceError("it does not speak the protocol of MySQL") from error
        except BaseException:
            self.discard(connection)
            raise
        return connection, False

    def keep(self, connection: Connection) -> None:
        """Return a connection without an open transaction or a pending answer."""
        self._used.discard(connection)
        if self._closed:
            connection.close()
        else:
            self._free.append(connection)

    def discard(self, connection: Connection) -> None:
        """Discard a connection that may be in the middle of an answer; the server rolls back its transaction."""
        self._used.discard(connection)
        connection.close()

    def forget(self) -> None:
        """Close idle connections, because another of their age is dead, or because the server may no longer be the primary."""
        while self._free:
            self._free.pop().close()

    def close(self) -> None:
        """Close all connections, even those in use: every call has ended, or need not be waited for."""
        self._closed = True
        self.forget()
        for connection in [*self._used]:
            connection.close()
