"""One server, or the master that sentinels name, and the connections to it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        # One is kept for claims and settlements, whatever else there is to do.
        self._others = asyncio.Semaphore(max(1, limit - 1))
        self._answered = 0.0
        self._closed = False
        self._client = connect()
        self._retired: dict[Any, asyncio.Task[None]] = {}

    async def exchange(self, commands: Sequence[Command], *, urgent: bool = False) -> list[Any]:
        """The replies to all ``commands``, which go out in one write; errors of theirs are among them.

        Waiting for a connection is no fault of the server, as long as it answers others. Raises what the driver raises, or TimeoutError.
        """
        began = asyncio.get_running_loop().time()
        if not urgent:
            await self._turn(self._others)
        try:
            await self._turn(self._slots)
            try:
                return await self._exchange(commands, began)
            finally:
                self._slots.release()
        finally:
            if not urgent:
                self._others.release()

    async def _turn(self, slots: asyncio.Semaphore) -> None:
        """Wait for one of the ``slots``, as long as the server answers others."""
        clock = asyncio.get_running_loop().time
        while slots.locked():
            try:
                async with asyncio.timeout(self._timeout):
                    await slots.acquire()
                return
            except TimeoutError:
                if clock() - self._answered > self._timeout:
                    raise
        await slots.acquire()

    async def _exchange(self, commands: Sequence[Command], began: float) -> list[Any]:
        if self._closed:
            raise ClosedError
        clock, client = asyncio.get_running_loop().time, self._client
        try:
            # A server that has answered nobody meanwhile has had its time already.
            async with asyncio.timeout_at((clock() if self._answered > began else began) + self._timeout):
                pipeline = client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (TimeoutError, MasterNotFoundError):
            # Where one connection is dead and looks alive, the others are, too; another sentinel may know better.
            self._renew(client)
            raise
        if any(isinstance(reply, driver.ReadOnlyError | driver.MasterDownError) for reply in replies):
            self._renew(client)  # there may be another master by now
        self._answered = clock()
        return replies

    def _renew(self, client: Any) -> None:
        """Use other connections from now on, if ``client`` is still the one in use; calls on their way may end on theirs."""
        if client is not self._client or self._closed:
            return
        self._client = self._connect()

        async def retire() -> None:
            await asyncio.sleep(self._timeout)
            await _disconnect(client)
            del self._retired[client]

        self._retired[client] = asyncio.create_task(retire())

    async def close(self) -> None:
        """Let the exchanges on their way end, refuse all others, and disconnect."""
        self._closed = True
        acquired: list[bool] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    while len(acquired) < self._limit:
                        acquired.append(await self._slots.acquire())
        finally:
            for _ in acquired:
                self._slots.release()  # to those who wait, to be refused
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
