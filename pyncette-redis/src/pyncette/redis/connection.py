"""Connections to a Redis of whatever kind, and what its errors mean.

Nothing is sent twice: only the caller knows what may be repeated, so all of the driver's own retries are off.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from pyncette.backends import BackendURL
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from redis import exceptions as driver
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff

__all__ = ["Command", "Connections"]

Command: TypeAlias = tuple[str | bytes | int, ...]

#: By a code, that errors begin with or that is ours: whether the call may be repeated, what is wrong and what to do.
_MEANINGS: Mapping[str, tuple[bool, str]] = {
    "AUTH": (False, "refuses the user or the password ({error}); check both in redis_url"),
    "NOPERM": (False, "denies its user a command or a key ({error}); allow it with ACL SETUSER"),
    "DB index": (False, "has no such database ({error}); choose a lower number, or raise its setting 'databases'"),
    "MOVED": (False, "is a node of a Redis Cluster ({error}); write redis+cluster://, or pass redis_cluster=True"),
    "cluster support": (False, "is no Redis Cluster ({error}); write redis:// or rediss://, and no redis_cluster=True"),
    "WRONGTYPE": (False, "has something else under Pyncette's keys ({error}); choose another redis_namespace"),
    "LOADING": (True, "is still loading its data ({error})"),
    "READONLY": (True, "is a replica, perhaps since a failover ({error})"),
    "MASTERDOWN": (True, "is a replica without its master ({error})"),
    "NOREPLICAS": (True, "has too few replicas to write ({error}); look after them"),
    "CLUSTERDOWN": (True, "has slots that no node serves ({error}); look after its nodes"),
    "TRYAGAIN": (True, "is moving slots between its nodes ({error})"),
    "BUSY": (True, "is busy with somebody's script ({error})"),
    "OOM": (True, "has no memory left ({error}); raise its maxmemory, or remove something"),
    "MISCONF": (True, "can't save its data and refuses writes ({error}); look into its log"),
    "NO MASTER": (True, "names no master {master!r}; check the sentinels' addresses and redis_sentinel_master"),
    "TIMEOUT": (True, "did not answer within {timeout:g} s; see what keeps it busy, or raise redis_timeout"),
    "UNREACHABLE": (True, "can't be reached ({error}); check the address, and that the server runs"),
    "": (False, "refused a call ({error})"),
}
#: The driver cuts off the codes that it knows. The first that fits counts: some of these are subclasses of later ones.
_CODES: Sequence[tuple[type[Exception], str]] = (
    (driver.AuthenticationError, "AUTH"),
    (driver.NoPermissionError, "NOPERM"),
    (driver.BusyLoadingError, "LOADING"),
    (driver.ReadOnlyError, "READONLY"),
    (driver.OutOfMemoryError, "OOM"),
    (driver.MasterDownError, "MASTERDOWN"),
    (driver.ClusterDownError, "CLUSTERDOWN"),
    (driver.MovedError, "MOVED"),
    (driver.AskError, "TRYAGAIN"),
    (driver.TryAgainError, "TRYAGAIN"),
    (driver.ClusterError, "TRYAGAIN"),  # a slot that was still moving after many redirections
    (MasterNotFoundError, "NO MASTER"),
    (TimeoutError, "TIMEOUT"),  # of the whole call; the driver's own is one of connecting
)
#: Those that it does not know; and what older servers report from within a script, where the code is not at the beginning.
_WORDS = re.compile("|".join(rf"\b{code}\b" for code in _MEANINGS if code))
#: What may be otherwise at another address, or through another connection. Pools of the driver see for themselves which of
#: their connections broke, unless they are a cluster's.
_RENEW = {"TIMEOUT", "READONLY", "MASTERDOWN", "NO MASTER"}
_RENEW_CLUSTER = _RENEW | {"UNREACHABLE", "CLUSTERDOWN"}


class Connections:
    """Up to ``limit`` connections, each opened when it is first needed, through which one script and commands are sent."""

    def __init__(
        self,
        url: BackendURL,
        script: str,
        *,
        timeout: float,
        limit: int,
        cluster: bool,
        master: str,
        sentinel_options: Mapping[str, Any],
        tls_options: Mapping[str, Any],
    ) -> None:
        transport, _, kind = url.scheme.partition("+")
        self._kind = "cluster" if cluster else kind
        nodes = [dataclasses.replace(url, hosts=host) for host in url.hosts.split(",")]
        if transport not in ("redis", "rediss") or kind not in ("", "cluster", "sentinel"):
            raise ConfigurationError(f"The redis_url {url} is not one of Redis; write for example 'redis://localhost:6379/0'")
        if cluster and kind == "sentinel":
            raise ConfigurationError(f"The redis_url {url} is one of Sentinel, not of a cluster; leave out redis_cluster=True")
        if len(nodes) > 1 and not self._kind:
            raise ConfigurationError(f"The redis_url {url} has several hosts; write one, or redis+cluster:// or redis+sentinel://")
        if not re.fullmatch(r"/?" if self._kind == "cluster" else r"/?\d*", url.path):
            none = "a cluster has but one, so write none" if self._kind == "cluster" else "write for example redis://localhost/0"
            raise ConfigurationError(f"{url.path!r} in the redis_url {url} is no number of a database; {none}")
        self.where = f"Redis at {url}"
        self._addresses = [(node.hostname(), node.port(26379 if kind == "sentinel" else 6379)) for node in nodes]
        self._discovered: Sequence[tuple[str, int]] = ()
        self._timeout = timeout
        self._master = master
        common = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_keepalive": True,
            # There may be another address to try; waiting for an answer is bounded by the timeout of the whole call.
            "socket_connect_timeout": timeout / 3,
            **({"ssl": True, **tls_options} if transport == "rediss" else {}),
        }
        self._options = {"socket_timeout": None, "username": url.username, "password": url.password, **common}
        if self._kind != "cluster":
            self._options["db"] = int(url.path[1:] or 0)
        self._sentinel_options = {"socket_timeout": timeout / 3, **sentinel_options, **common}
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        # Some pools of the driver raise where they should wait for a connection to come back.
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._closed = False
        self._client = self._connect(self._addresses)
        self._retired: dict[Any, asyncio.Task[None]] = {}

    def call(self, keys: Sequence[str], *arguments: str | bytes) -> Command:
        """The command that runs the script; the keys must be of one slot."""
        return "EVALSHA", self._sha, len(keys), *keys, *arguments

    async def send(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The replies to all ``commands``, which go out at once: in one write, or one to each node of a cluster."""
        client = self._client
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                if self._closed:
                    raise RepositoryError(f"The repository of {self.where} is closed; use it within its context")
                client = self._client
                replies = await self._exchange(client, commands)
                unknown = [i for i, reply in enumerate(replies) if isinstance(reply, driver.NoScriptError)]
                if unknown:  # the server was started anew, or somebody flushed its scripts: these have not run
                    again = await self._exchange(client, [("EVAL", self._script, *commands[i][2:]) for i in unknown])
                    for i, reply in zip(unknown, again, strict=True):
                        replies[i] = reply
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise reply
                return replies
        except (driver.RedisError, driver.RedisClusterException, OSError) as error:
            raise self._failed(client, error) from error

    async def _exchange(self, client: Any, commands: Sequence[Command]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    def _failed(self, client: Any, error: Exception) -> RepositoryError:
        """What ``error`` means to the caller; and if other connections could do better, the next call gets others."""
        while isinstance(error, driver.RedisClusterException) and isinstance(error.__cause__ or error.__context__, Exception):
            error = cast("Exception", error.__cause__ or error.__context__)  # what a node said
        text = " ".join(str(error).split()).rstrip(".")
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
        if code is None:
            word = _WORDS.search(text)
            lost = isinstance(error, driver.ConnectionError | driver.TimeoutError | driver.RedisClusterException | OSError)
            code = word[0] if word else "UNREACHABLE" if lost else ""
        if self._kind == "cluster" and code == "MOVED":
            code = "TRYAGAIN"
        if code in (_RENEW_CLUSTER if self._kind == "cluster" else _RENEW):
            self._renew(client)
        may_be_repeated, meaning = _MEANINGS[code]
        kind = TransientRepositoryError if may_be_repeated else RepositoryError
        return kind(f"{self.where} {meaning.format(error=text, master=self._master, timeout=self._timeout)}")

    def _renew(self, client: Any) -> None:
        """Use other connections from now on, if ``client`` is still the one in use; calls on their way may end on theirs."""
        if client is not self._client or self._closed:
            return
        if self._kind == "cluster" and (nodes := client.get_nodes()):
            self._discovered = [(node.host, int(node.port)) for node in nodes]
        # In a new order: where the first does not answer, there is no time left to try the second.
        addresses = list({*self._addresses, *self._discovered})
        random.shuffle(addresses)
        self._client = self._connect(addresses)

        async def retire() -> None:
            await asyncio.sleep(self._timeout)
            await _disconnect(client)
            del self._retired[client]

        self._retired[client] = asyncio.create_task(retire())

    def _connect(self, addresses: Sequence[tuple[str, int]]) -> Any:
        """A client of the driver; it does not connect before it is used."""
        if self._kind == "cluster":
            return RedisCluster(startup_nodes=[ClusterNode(*address) for address in addresses], **self._options)
        if self._kind == "sentinel":
            sentinel = Sentinel(addresses, sentinel_kwargs=self._sentinel_options, **self._options)  # type: ignore[no-untyped-call]
            return sentinel.master_for(self._master)
        [(host, port)] = addresses
        return Redis(host=host, port=port, **self._options)

    async def close(self) -> None:
        """Let the calls on their way end, refuse all others, and disconnect."""
        self._closed = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    for _ in range(self._limit):
                        await self._slots.acquire()
        finally:
            for task in self._retired.values():
                task.cancel()
            # To the end even if cancelled: what is half disconnected stays open.
            await asyncio.shield(asyncio.gather(*map(_disconnect, [self._client, *self._retired])))


async def _disconnect(client: Any) -> None:
    pool = getattr(client, "connection_pool", None)
    clients = [client, *pool.sentinel_manager.sentinels] if isinstance(pool, SentinelConnectionPool) else [client]
    for each in clients:
        # A server that does not answer is not waited for: the connection is closed on this side.
        with contextlib.suppress(driver.RedisError, OSError):
            async with asyncio.timeout(1):
                await each.aclose()
