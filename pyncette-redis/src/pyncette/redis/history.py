"""The history: separate keys in the same slot as the rows of a partition."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pyncette.redis.connection import Command, Connections
from pyncette.redis.keys import Keys
from pyncette.redis.rows import columns, decode, encode, is_text, loads
from pyncette.repository import Entry, Key, Position

__all__ = ["RedisHistory"]

#: How many entries one script processes, while the server serves no other client.
_SLICE = 500
#: The script for the history.
_SCRIPT = 1
_INSTANT = 19


class RedisHistory:
    """The history methods of the Redis repository."""

    _connections: Connections
    _keys: Keys

    async def append(self, entries: Sequence[Entry]) -> None:
        partitions: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            partitions[entry.key.partition].append(entry)
        commands = [
            self._history("append", partition, *columns([_encode(entry) for entry in some[start : start + _SLICE]]))
            for partition, some in partitions.items()
            for start in range(0, len(some), _SLICE)
        ]
        if commands:
            await self._connections.send(commands)

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        entries: list[Entry] = []
        start = before and encode(before.at) + before.id
        while (asked := min(limit - len(entries), _SLICE)) > 0:
            found = await self._ask("runs", partition, name, start, asked)
            entries += [_decode(partition, *each) for each in found if len(each) > 1]
            if len(found) < asked:
                break
            start = found[-1][0]
        return entries

    async def prune(self, now: datetime, *, limit: int) -> int:
        known = await self._connections.send([("SMEMBERS", key) for key in self._keys.known("histories")])
        partitions = [name.decode() for members in known for name in members if is_text(name)]
        questions = [self._history("expired", partition, encode(now)) for partition in partitions]
        expired = await self._connections.send(questions) if questions else []
        removed = 0
        for partition in [partition for partition, count in zip(partitions, expired, strict=True) if loads(count)]:
            if removed < limit:
                removed += await self._ask("prune", partition, encode(now), min(limit - removed, _SLICE))
        return removed

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        return int(await self._ask("trim", partition, name, keep, min(limit, _SLICE)))

    async def _ask(self, call: str, partition: str, *arguments: Any) -> Any:
        [reply] = await self._connections.send([self._history(call, partition, *arguments)])
        return loads(reply)

    def _history(self, call: str, partition: str, *arguments: Any) -> Command:
        return self._connections.call(self._keys.history, call, partition, arguments, script=_SCRIPT)


def _encode(entry: Entry) -> tuple[str, ...]:
    return encode(entry.position.at) + entry.position.id, encode(entry.expires_at), entry.key.name, entry.text


def _decode(partition: str, position: str, expires_at: str, name: str, text: str) -> Entry:
    at = decode(position[:_INSTANT])
    return Entry(Key(partition, name), Position(at, position[_INSTANT:]), decode(expires_at), text)
