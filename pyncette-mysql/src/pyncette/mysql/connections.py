"""Connections to the server: how they are made, and whose turn it is to have one."""

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
    """The server, or somebody in between, offers no TLS where it is wanted. Nothing has been sent."""


#: One of the driver's, which has no types.
Connection: TypeAlias = Any


class _Connection(aiomysql.Connection):  # type: ignore[misc] # the driver has no types
    """One that sends nothing to a server without TLS, if TLS is wanted: the driver itself would continue in clear."""

    def __init__(self, **options: Any) -> None:
        self._capabilities = 0
        self._tls_wanted = options.get("ssl") is not None
        super().__init__(**options)

    @property
    def server_capabilities(self) -> int:
        return self._capabilities

    @server_capabilities.setter
    def server_capabilities(self, capabilities: int) -> None:
        # Set when the greeting of the server has been read, to which the answer would be the login.
        if self._tls_wanted and not capabilities & CLIENT.SSL:
            raise NoTLSError
        self._capabilities = capabilities


class Connections:
    """Up to ``size`` connections, opened when they are needed. One is kept for the calls that the engine lives on."""

    def __init__(self, options: Callable[[], dict[str, Any]], size: int, timeout: float, where: str) -> None:
        """``options``: those of a new connection. ``timeout``: in seconds, of a turn, and for how long a connection may be idle."""
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
        """A connection, and whether it was used before: then it may be dead."""
        if self._closed:
            raise RepositoryError(f"The repository of {self._where} is closed; use it within its context")
        while self._free:
            connection = self._free.pop()
            if asyncio.get_running_loop().time() - connection.last_usage < self._timeout:
                self._used.add(connection)
                return connection, True
            connection.close()  # the server does so in a moment
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
        """It is free again, with no transaction open and no answer to come."""
        self._used.discard(connection)
        if self._closed:
            connection.close()
        else:
            self._free.append(connection)

    def discard(self, connection: Connection) -> None:
        """It is perhaps in the middle of an answer; the server rolls back what it has begun."""
        self._used.discard(connection)
        connection.close()

    def forget(self) -> None:
        """Close those that are free: they are as old as one that was found dead, or lead to a server that may no longer be the primary."""
        while self._free:
            self._free.pop().close()

    def close(self) -> None:
        """Close all, also those in use: every call has ended, or is not worth waiting for."""
        self._closed = True
        self.forget()
        for connection in [*self._used]:
            connection.close()
