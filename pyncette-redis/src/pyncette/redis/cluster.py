"""The nodes of a Redis Cluster and their slots. A node that hangs delays only what it stores."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pyncette.redis.server import Command, Server
from redis import exceptions as driver
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

__all__ = ["Address", "Cluster"]

Address: TypeAlias = tuple[str, int]

#: How many redirections a command may follow.
_HOPS = 5


class Cluster:
    """Sends each command to the node that has its key. All keys of a command are in one slot.

    :param connect: returns the server at an address, without connecting.
    :param seeds: addresses of some of the nodes.
    """

    def __init__(self, connect: Callable[[Address], Server], seeds: Sequence[Address]) -> None:
        self._connect = connect
        self._seeds = seeds
        self._nodes: dict[Address, Server] = {}
        #: The known masters, by slot.
        self._owners: dict[int, Address] = {}
        self._replicas: set[Address] = set()
        self._stale = True
        self._looking: asyncio.Task[None] | None = None

    async def exchange(self, commands: Sequence[Command], *, urgent: bool = False) -> list[Any]:
        """The replies to all ``commands``, sent to the nodes concurrently with one write each. Errors are replies, too, including connection errors."""
        replies: list[Any] = [None] * len(commands)
        slots = [_slot(command) for command in commands]
        moving: dict[int, Address] = {}  # by position: the node to which a slot is moving

        async def ask(node: Address, positions: Sequence[int]) -> None:
            sent = [each for i in positions for each in ([("ASKING",), commands[i]] if i in moving else [commands[i]])]
            try:
                answers = await self._node(node).exchange(sent, urgent=urgent)
            except (driver.RedisError, OSError) as error:
                self._stale = True
                answers = [error] * len(sent)
            ours = (answer for command, answer in zip(sent, answers, strict=True) if command != ("ASKING",))
            for i, answer in zip(positions, ours, strict=True):
                replies[i] = answer

        left: Sequence[int] = range(len(commands))
        for _ in range(_HOPS):
            if self._stale:
                await self._look()
            groups = defaultdict(list)
            for i in left:
                node = moving.get(i) or self._owners.get(slots[i])
                if node is None:
                    replies[i] = driver.ClusterDownError(f"no node serves slot {slots[i]}")
                    self._stale = True
                else:
                    groups[node].append(i)
            await asyncio.gather(*(ask(node, positions) for node, positions in groups.items()))
            left = [i for i in left if isinstance(replies[i], driver.AskError)]
            if not left:
                break
            for i in left:
                node = replies[i].host, replies[i].port
                if isinstance(replies[i], driver.MovedError):
                    self._owners[slots[i]] = node
                    moving.pop(i, None)
                else:
                    moving[i] = node
        self._stale = self._stale or any(isinstance(reply, driver.ClusterDownError) for reply in replies)
        return replies

    async def alone(self, key: str) -> Any:
        """A separate connection to the node that has ``key``. The caller disconnects it."""
        if self._stale:
            await self._look()
        node = self._owners.get(key_slot(key.encode()) % REDIS_CLUSTER_HASH_SLOTS)
        # In any case: the next request must not get the same answer.
        self._stale = True
        if node is None:
            raise driver.ClusterDownError(f"no node has {key!r}")
        return await self._node(node).alone()

    async def _look(self) -> None:
        """Read which node has which slot, in one request for all callers that need it. While no node answers, the old map stays in use."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._ask_all())
            self._looking.add_done_callback(self._looked)
        try:
            await asyncio.shield(self._looking)
        except (driver.RedisError, OSError):
            if not self._owners:
                raise

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # those who wait report the error, if any are left

    async def _ask_all(self) -> None:
        """Ask all nodes concurrently, because some may hang. The first answer is used, and redirections correct its errors."""
        nodes = {*self._seeds, *self._owners.values(), *self._replicas}
        questions = {asyncio.create_task(self._ask(node)) for node in nodes}
        failures: list[BaseException] = []
        try:
            for answer in asyncio.as_completed(questions):
                try:
                    owners, self._replicas = await answer
                except (driver.RedisError, OSError) as error:
                    failures.append(error)
                    continue
                self._owners, self._stale = owners, False
                return
        finally:
            for question in questions:
                question.cancel()
        # An error reply says more than the silence of another node.
        raise min(failures, key=lambda error: isinstance(error, driver.ConnectionError | OSError))

    async def _ask(self, node: Address) -> tuple[dict[int, Address], set[Address]]:
        [ranges] = await self._node(node).exchange([("CLUSTER", "SLOTS")], urgent=True)
        if isinstance(ranges, Exception):
            raise ranges
        owners: dict[int, Address] = {}
        replicas: set[Address] = set()
        for first, last, *members in ranges:
            # A node may not know or report its own address: then it is the one that was asked.
            master, *others = [((host or b"").decode() or node[0], port) for host, port, *_ in members]
            owners.update(dict.fromkeys(range(first, last + 1), master))
            replicas.update(others)
        if not owners:
            raise driver.ClusterDownError("no node has any slots")
        return owners, replicas

    def _node(self, address: Address) -> Server:
        if address not in self._nodes:
            self._nodes[address] = self._connect(address)
        return self._nodes[address]

    async def close(self) -> None:
        """Like the method of :class:`~pyncette.redis.server.Server`."""
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


def _slot(command: Command) -> int:
    # Of our commands, only those that run a script have their key in another place than the second.
    key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key_slot(str(key).encode()) % REDIS_CLUSTER_HASH_SLOTS
