"""One server, or the master that sentinels name, and the connections to it."""

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
    """The server is not to be used any more."""


class Server:
    """Up to ``limit`` connections, each opened when it is first needed. An exchange fails if it takes longer than ``timeout`` seconds."""

    def __init__(self, connect: Callable[[], Any], *, timeout: float, limit: int) -> None:
        self._connect = connect
        self._timeout = timeout
        # Some pools of the driver raise where they should wait for a connection to come back.
        # Another sentinel may know better.
        self._turns = Turns(limit, timeout, self._renew, (TimeoutError, MasterNotFoundError))
        self._closed = False
        self._client = connect()
        self._retired: dict[Any, asyncio.Task[None]] = {}

    async def exchange(self, commands: Sequence[Command], *, urgent: bool = False) -> list[Any]:
        """The replies to all ``commands``, which go out in one write; errors of theirs are among them.

        Waiting for a connection is no fault of the server, as long as it answers others. Raises what the driver raises, or TimeoutError.
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
            await self._renew()  # there may be another master by now
        return replies

    async def alone(self) -> Any:
        """A connection beside the others, to be disconnected by the caller. Raises as :meth:`exchange` does."""
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
            # To the end even if cancelled: what is half disconnected stays open.
            await asyncio.shield(asyncio.gather(*map(_disconnect, [self._client, *self._retired])))


async def _disconnect(client: Any) -> None:
    pool = client.connection_pool
    clients = [client, *pool.sentinel_manager.sentinels] if isinstance(pool, SentinelConnectionPool) else [client]
    for each in clients:
        # A server that does not answer is not waited for: the connection is closed on this side.
        with contextlib.suppress(driver.RedisError, OSError):
            async with asyncio.timeout(1):
                await each.aclose()
