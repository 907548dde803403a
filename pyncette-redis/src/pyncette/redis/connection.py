"""Connections to any kind of Redis, and the meaning of its errors.

Nothing is sent twice: only the caller knows what may be repeated, so all retries of the driver are disabled.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from pyncette.backends import BackendURL
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.redis.cluster import Address, Cluster
from pyncette.redis.server import ClosedError, Command, Server
from redis import exceptions as driver
from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff

__all__ = ["Command", "Connections"]

#: By the code at the start of an error, or one of Pyncette's: whether the call may be repeated, what is wrong and what to do.
_MEANINGS: Mapping[str, tuple[bool, str]] = {
    "AUTH": (False, "refuses the user or the password ({error}); check both in redis_url"),
    "NOPERM": (False, "denies its user a command, a key or a channel ({error}); allow it with ACL SETUSER"),
    "user executing the script": (False, "denies its user a command, a key or a channel ({error}); allow it with ACL SETUSER"),
    "DB index": (False, "has no such database ({error}); choose a lower number, or raise its setting 'databases'"),
    "MOVED": (False, "is a node of a Redis Cluster ({error}); write redis+cluster://, or pass redis_cluster=True"),
    "cluster support": (False, "is not a Redis Cluster ({error}); write redis:// or rediss://, and no redis_cluster=True"),
    "WRONGTYPE": (False, "has something else under Pyncette's keys ({error}); choose another redis_namespace"),
    "LOADING": (True, "is still loading its data ({error})"),
    "READONLY": (True, "is a replica, perhaps since a failover ({error})"),
    "MASTERDOWN": (True, "is a replica without its master ({error})"),
    "NOREPLICAS": (True, "has too few replicas to write ({error}); check them"),
    "CLUSTERDOWN": (True, "has slots that no node serves ({error}); check its nodes"),
    "TRYAGAIN": (True, "is moving slots between its nodes ({error})"),
    "BUSY": (True, "is busy running a script ({error})"),
    "OOM": (True, "has no memory left ({error}); raise its maxmemory, or remove something"),
    "MISCONF": (True, "can't save its data and refuses writes ({error}); see its log"),
    "NO MASTER": (True, "names no master {master!r}; check the sentinels' addresses and redis_sentinel_master"),
    "TIMEOUT": (True, "did not answer within {timeout:g} s; find out what keeps it busy, or raise redis_timeout"),
    "TLS": (
        False,
        "and this program can't agree on TLS ({error}); check the options redis_ssl_...",
    ),
    "UNREACHABLE": (True, "can't be reached ({error}); check the address, and that the server runs{tls}"),
    "": (False, "refused a call ({error})"),
}
#: The driver removes the codes that it knows. The first matching class counts, because some are subclasses of later ones.
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
    (MasterNotFoundError, "NO MASTER"),
    (TimeoutError, "TIMEOUT"),  # the timeout of the whole call; the driver's own is for connecting
)
#: Codes that the driver does not know, and errors inside scripts from older servers, where the code is not at the beginning.
_WORDS = re.compile("|".join(rf"\b{code}\b" for code in _MEANINGS if code))
#: Whether a scheme uses TLS.
_TRANSPORTS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
#: TLS errors of connections that broke or never came about: TLS itself may be fine.
_BROKEN = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class Connections:
    """Sends scripts and commands to any kind of Redis."""

    def __init__(
        self,
        url: BackendURL,
        scripts: Sequence[str],
        *,
        timeout: float,
        limit: int,
        database: int | None,
        cluster: bool,
        master: str,
        sentinel_options: Mapping[str, Any],
        tls_options: Mapping[str, Any],
        tls_context: ssl.SSLContext | None,
    ) -> None:
        transport, _, kind = url.scheme.partition("+")
        self._kind = "cluster" if cluster else kind
        nodes = [dataclasses.replace(url, hosts=host) for host in url.hosts.split(",")]
        secure = _TRANSPORTS.get(transport)
        if secure is None or kind not in ("", "cluster", "sentinel", "unix") or (secure and kind == "unix"):
            raise ConfigurationError(f"The redis_url {url} is not a Redis URL; write for example 'redis://localhost:6379/0'")
        if cluster and kind == "sentinel":
            raise ConfigurationError(f"The redis_url {url} is a Sentinel URL, not that of a cluster; leave out redis_cluster=True")
        if len(nodes) > 1 and not self._kind:
            raise ConfigurationError(f"The redis_url {url} has several hosts; write one, or redis+cluster:// or redis+sentinel://")
        self.where: str = f"Redis at {url}"
        self.is_cluster: bool = self._kind == "cluster"
        self._timeout, self._limit, self._master = timeout, limit, master
        self._tls, self._tls_context = secure, tls_context
        self._path = url.path if kind == "unix" else None
        common = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_keepalive": True,
            **({"ssl": True, **tls_options} if self._tls else {}),
        }
        # The timeout of the whole exchange limits the wait for an answer; connecting gets a little less, so that its error is reported.
        self._options = {"socket_timeout": None, "username": url.username, "password": url.password, **common}
        self._options["socket_connect_timeout"] = timeout * 0.8
        self.database: int = _database(url, self._kind, database)
        self._options["db"] = self.database
        # another sentinel may answer
        self._sentinel_options = {
            "socket_timeout": timeout / 3,
            "socket_connect_timeout": timeout / 3,
            **sentinel_options,
            **common,
        }
        self._hashes = [hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in scripts]
        self._scripts = dict(zip(self._hashes, scripts, strict=True))
        addresses = [(node.hostname(), node.port(26379 if kind == "sentinel" else 6379)) for node in nodes]
        self._target = Cluster(lambda address: self._server([address]), addresses) if self.is_cluster else self._server(addresses)

    def call(
        self,
        keys: Callable[[str], Sequence[str]],
        call: str,
        partition: str,
        arguments: Sequence[Any],
        *,
        script: int = 0,
        errors: str = "strict",
    ) -> Command:
        """The command that runs a script on the ``keys`` of ``partition``, which are in one slot.

        Raises :class:`RepositoryError` for text that can't be encoded.
        """
        try:
            text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":")).encode(errors=errors)
            names = keys(partition)
            return "EVALSHA", self._hashes[script], len(names), *names, call, partition.encode(), text
        except UnicodeEncodeError as error:
            raise RepositoryError(f"A partition, name or argument can't be stored as UTF-8 ({error})") from error

    async def send(self, commands: Sequence[Command], *, urgent: bool = False) -> Sequence[Any]:
        """The replies to all ``commands``, which are sent at once: in one write, or one to each node of a cluster.

        :param urgent: for claims and settlements, for which a connection is reserved.
        """
        try:
            replies = await self._target.exchange(commands, urgent=urgent)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, driver.NoScriptError)]
            if unknown:  # the server was restarted, or somebody flushed its scripts, so these have not run
                texts = [("EVAL", self._scripts[str(commands[i][1])], *commands[i][2:]) for i in unknown]
                again = await self._target.exchange(texts, urgent=urgent)
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies
        except ClosedError:
            raise RepositoryError(f"The repository of {self.where} is closed; use it within its context") from None
        except (driver.RedisError, OSError) as error:
            raise self._failed(error) from error

    @contextlib.asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[Any]:
        """A separate connection to the server that has ``key``; errors of the driver inside the block become Pyncette's."""
        connection = None
        try:
            connection = await (self._target.alone(key) if isinstance(self._target, Cluster) else self._target.alone())
            yield connection
        except ClosedError:
            raise RepositoryError(f"The repository of {self.where} is closed; use it within its context") from None
        except (driver.RedisError, OSError) as error:
            raise self._failed(error) from error
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)

    def _failed(self, error: Exception) -> RepositoryError:
        """The error to report for ``error``."""
        text = " ".join(str(error).split()).rstrip(".")
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
        if code is None:
            word = _WORDS.search(text)
            lost = isinstance(error, driver.ConnectionError | driver.TimeoutError | OSError)
            code = word[0] if word else "UNREACHABLE" if lost else ""
        if code == "MOVED" and self.is_cluster:
            code = "TRYAGAIN"
        if code == "UNREACHABLE" and self._tls and _is_about_tls(error):
            code = "TLS"
        may_be_repeated, meaning = _MEANINGS[code]
        kind = TransientRepositoryError if may_be_repeated else RepositoryError
        tls = ", uses TLS, and accepts your certificate" if self._tls else ""
        return kind(f"{self.where} {meaning.format(error=text, master=self._master, timeout=self._timeout, tls=tls)}")

    def _server(self, addresses: Sequence[Address]) -> Server:
        """The server at the address, or the master that the sentinels name. Connects at the first use."""

        def connect() -> Any:
            if self._kind == "sentinel":
                sentinel = Sentinel(addresses, sentinel_kwargs=self._sentinel_options, **self._options)  # type: ignore[no-untyped-call]
                client = sentinel.master_for(self._master)
                for each in [client, *sentinel.sentinels]:
                    self._trust(each.connection_pool)
                return client
            [(host, port)] = addresses
            place = {"host": host, "port": port} if self._path is None else {"unix_socket_path": self._path}
            client = Redis(**place, **self._options)
            self._trust(client.connection_pool)
            return client

        return Server(connect, timeout=self._timeout, limit=self._limit)

    def _trust(self, pool: Any) -> None:
        """Make the connections of ``pool`` use the given context; the driver itself only supports files."""
        context = self._tls_context
        if context is not None:

            class Connection(pool.connection_class):  # type: ignore[misc]
                def _connection_arguments(self) -> Mapping[str, Any]:
                    return {**super()._connection_arguments(), "ssl": context}

            pool.connection_class = Connection

    async def close(self) -> None:
        """Let the calls in progress end, refuse all others, and disconnect."""
        await self._target.close()


def _database(url: BackendURL, kind: str, number: int | None) -> int:
    """The number of the database, from the path or an option."""
    if number is not None and number < 0:
        raise ConfigurationError(f"redis_db={number} is not a number of a database; write 0 or above")
    if kind == "unix":
        if not url.path.startswith("/") or url.hosts:
            raise ConfigurationError(f"The redis_url {url} has no path of a socket; write for example redis+unix:///run/redis.sock")
        return number or 0
    if not re.fullmatch(r"/?" if kind == "cluster" else r"/?\d*", url.path) or (kind == "cluster" and number):
        none = "a cluster has only one database, so leave it out" if kind == "cluster" else "write for example redis://localhost/0"
        what = repr(url.path) if url.path.strip("/") else f"redis_db={number}"
        raise ConfigurationError(f"{what} in the redis_url {url} is not the number of a database; {none}")
    if number is not None and url.path[1:] not in ("", str(number)):
        raise ConfigurationError(f"The redis_url {url} has a different database from redis_db={number}; write one of them")
    return int(url.path[1:] or number or 0)


def _is_about_tls(error: BaseException | None) -> bool:
    """Whether a TLS setting on either side is at fault, so that a retry would not help."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return not isinstance(error, _BROKEN)
        if isinstance(error, FileNotFoundError | PermissionError):  # raised for a file of certificates
            return True
        error = error.__cause__ or error.__context__
    return False
