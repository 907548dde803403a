"""Hints by publish and subscribe: sharded in a cluster, so that not all of its nodes have to pass them on."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pyncette.errors import RepositoryError
from pyncette.redis.connection import Connections
from pyncette.repository import Hint, hints_of
from redis import exceptions as driver

__all__ = ["listening", "publish"]

#: How often to check whether the connection is alive (seconds), because a mere listener would never notice.
_ASK_EVERY = 30.0
_UNKNOWN = "unknown command"


async def publish(connections: Connections, channel: str, texts: Sequence[str]) -> None:
    """Publish ``texts``."""
    if connections.is_cluster:
        try:
            await connections.send([("SPUBLISH", channel, text) for text in texts])
            return
        except RepositoryError as error:
            if _UNKNOWN not in str(error):
                raise  # before Redis 7, all nodes forward everything
    await connections.send([("PUBLISH", channel, text) for text in texts])


async def listening(connections: Connections, channel: str, listener: str) -> AsyncGenerator[Sequence[Hint], None]:
    """Yield what others publish in ``channel``, see :meth:`pyncette.repository.SupportsWakeUp.wakeups`."""
    async with connections.alone(channel) as connection:
        if not connections.is_cluster or not await _subscribed(connection, "SSUBSCRIBE", channel):
            await _subscribed(connection, "SUBSCRIBE", channel)
        heard = asyncio.Event()
        asking = asyncio.create_task(_ask(connection, heard))
        try:
            yield []
            while True:
                kind, *_, text = await connection.read_response(disable_decoding=True)
                heard.set()
                if kind == b"sunsubscribe":
                    raise driver.ConnectionError("the slot of the channel has moved to another node")
                if kind in (b"message", b"smessage") and (hints := hints_of(text, listener)):
                    yield hints
        finally:
            asking.cancel()


async def _subscribed(connection: Any, command: str, channel: str) -> bool:
    """Subscribe, and wait for the answer; False if the server does not know the command."""
    await connection.send_command(command, channel)
    try:
        await connection.read_response(disable_decoding=True)
    except driver.ResponseError as error:
        if _UNKNOWN in str(error):
            return False
        raise
    return True


async def _ask(connection: Any, heard: asyncio.Event) -> None:
    """Disconnect as soon as the server stops answering, so that the reader gets an error."""
    with contextlib.suppress(driver.RedisError, OSError):
        while True:
            await asyncio.sleep(_ASK_EVERY)
            heard.clear()
            await connection.send_command("PING", check_health=False)
            async with asyncio.timeout(_ASK_EVERY):
                await heard.wait()
    await connection.disconnect(nowait=True)
