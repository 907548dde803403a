"""A server, or the master that sentinels name, with its connections."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pyncette.waiting import Turns
from redis import exceptions as driver
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool

__all__ = ["ClosedError", "Command", "Server"]

Command: TypeAlias = tuple[str | bytes | int, ...]


class ClosedError(Exception):
    """The server is closed."""


class Server:
    """Up to ``limit`` connections, opened on demand. An exchange fails if it takes longer than ``timeout`` seconds."""

    def __init__(self, connect: Callable[[], Any], *, timeout: float, limit: int) -> None:
        self._connect = connect
        self._timeout = timeout
        # Some pools of the driver raise an error instead of waiting for a free connection.
        # another sentinel may know better
        self._turns = Turns(limit, timeout, self._renew, (TimeoutError, MasterNotFoundError))
        self._closed = False
        self._client = connect()
        self._retired: dict[Any, asyncio.Task[None]] = {}

    async def exchange(self, commands: Sequence[Command], *, urgent: bool = False) -> list[Any]:
        """The replies to all ``commands``, which are sent in one write; error replies are among them.

        The wait for a connection does not count as long as the server answers others. Raises the driver's errors, or TimeoutError.
        """
        async with self._turns.turn(urgent=urgent):
            if self._closed:
                raise ClosedError
            client = self._client
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if client is self._client and any(isinstance(reply, driver.ReadOnlyError | driver.MasterDownError) for reply in replies):
            await self._renew()  # by now there may be another master
        return replies

    async def alone(self) -> Any:
        """A separate connection, which the caller disconnects. Raises the same errors as :meth:`exchange`."""
        if self._closed:
            raise ClosedError
        connection = self._client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _renew(self) -> None:
        """Use other connections from now on; calls in progress may end on theirs."""
        if self._closed:
            return
        client = self._client
        self._client = self._connect()

        async def retire() -> None:
            await asyncio.sleep(self._timeout)
            await _disconnect(client)
            del self._retired[client]

        self._retired[client] = asyncio.create_task(retire())

    async def close(self) -> None:
        """Let the exchanges in progress end, refuse all others, and disconnect."""
        self._closed = True
        try:
            await self._turns.ended()
        finally:
            for task in self._retired.values():
                task.cancel()
            # Runs to its end even if cancelled, because a half-disconnected connection stays open.
            await asyncio.shield(asyncio.gather(*map(_disconnect, [self._client, *self._retired])))


async def _disconnect(client: Any) -> None:
    pool = client.connection_pool
    clients = [client, *pool.sentinel_manager.sentinels] if isinstance(pool, SentinelConnectionPool) else [client]
    for each in clients:
        # Don't wait for a server that does not answer: close the connection on this side.
        with contextlib.suppress(driver.RedisError, OSError):
            async with asyncio.timeout(1):
                await each.aclose()
