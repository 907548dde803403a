"""Hints by LISTEN and NOTIFY: the messages, the channel, and the listener's connection."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pyncette.postgres.connections import Connections
from pyncette.repository import Hint, hints_of

__all__ = ["LONGEST", "NOTIFY", "channel_of", "listening"]

NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"

#: PostgreSQL takes payloads of less than 8,000 bytes.
LONGEST = 7_900
#: How often to check whether the connection is alive (seconds), because a mere listener would never notice.
_ASK_EVERY = 30.0


def channel_of(table: str) -> str:
    """The channel of a table, named by a hash because a channel's name has at most 63 bytes."""
    return f"pyncette_{hashlib.sha256(table.encode()).hexdigest()[:32]}"


async def listening(connections: Connections, channel: str, listener: str) -> AsyncGenerator[Sequence[Hint], None]:
    """Yield the hints of others on ``channel``, see :meth:`pyncette.repository.SupportsWakeUp.wakeups`. Ends at once behind a pooler."""
    heard: asyncio.Queue[Sequence[Hint] | None] = asyncio.Queue()

    def notified(connection: Any, pid: int, channel: str, payload: object) -> None:
        if hints := hints_of(str(payload), listener):
            heard.put_nowait(hints)

    async with connections.alone() as connection:
        if connection is None:
            return
        connection.add_termination_listener(lambda _: heard.put_nowait(None))
        await connection.add_listener(channel, notified)
        yield []
        while not connection.is_closed():
            try:
                async with asyncio.timeout(_ASK_EVERY):
                    hints = await heard.get()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=connections.timeout)
                continue
            if hints is None:
                raise ConnectionError("the connection that receives hints was lost")
            yield hints
