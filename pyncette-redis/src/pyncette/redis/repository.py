"""The contract on Redis: each call runs a script once for each partition concerned, all in one round trip."""

import contextlib
import importlib.resources
import json
import re
import secrets
import ssl
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.codec import name_in_bytes
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.redis.connection import Command, Connections
from pyncette.redis.hints import listening, publish
from pyncette.redis.history import RedisHistory
from pyncette.redis.keys import Keys
from pyncette.redis.rows import (
    columns,
    encode,
    instant,
    is_text,
    loads,
    names_of,
    of_expected,
    of_registrations,
    of_settlements,
    read_claims,
    read_row,
)
from pyncette.repository import (
    ClaimResult,
    Hint,
    Key,
    Outcome,
    Page,
    Registration,
    Repository,
    Row,
    Settlement,
    Stats,
    texts_of,
)

__all__ = ["RedisRepository", "backend", "redis_repository"]

#: Raised when the meaning of stored data changes.
FORMAT = 1

_SCRIPTS = [
    importlib.resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")
    for name in ("partition.lua", "history.lua")
]
#: The maximum number of rows, and of characters of arguments, per script, which blocks the server for a few milliseconds.
_SLICE, _SLICE_LENGTH = 1000, 1_000_000
#: Times 10,000 keys: how far an empty namespace is searched for data of Pyncette 1.
_LOOKS = 10

#: The encoding for names from the store that may not be text, to pass them back unchanged.
_ANY = "surrogateescape"
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class RedisRepository(RedisHistory, Repository):
    """Rows in four keys per partition, all in one slot. Opened by :func:`redis_repository`."""

    def __init__(self, connections: Connections, namespace: str) -> None:
        self._connections = connections
        self._namespace = namespace
        self._keys = Keys(namespace)
        self._format: Sequence[Command] = ()
        self._channel = self._keys.hints(connections.database)
        #: Identifies this object's own hints.
        self._sender = secrets.token_hex(4)

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        keys = [registration.key for registration in registrations]
        await self._each("register", keys, registrations, of_registrations, encode(now), force, before=self._format)
        self._format = self._format if not registrations else ()

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await self._each("unregister", keys))
        for i, key in enumerate(keys):
            if not removed[i] and (name := name_in_bytes(key.name)) is not None:
                [removed[i]] = await self._one("unregister", key.partition, [name.decode(errors=_ANY)], errors=_ANY)
        return removed

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease = lifecycle.new_lease()
        among = None if names is None else list(dict.fromkeys(names))
        locked_until = lifecycle.lease_end(now, lease_duration)
        command = self._command("claim", partition, encode(now), encode(locked_until), lease, limit, among)
        [(rest, found)] = await self._connections.send([command], urgent=True)
        next_ready_at, missing, unread = loads(rest)
        claims, untold = read_claims(partition, lease, found)
        rows = [*(read_row(partition, row) for row in unread), *untold]
        return ClaimResult(claims, instant(next_ready_at), list(missing), rows or ())

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        usual = [lifecycle.expected(settlement, now) for settlement in settlements]
        these = [each for each in usual if each is not None]
        written = iter(await self._each("settle_expected", [each.key for each in these], these, of_expected))
        outcomes = [Outcome.APPLIED if each is not None and next(written) == "1" else None for each in usual]
        # rare settlements, and rows that changed since their claim
        left = [i for i, outcome in enumerate(outcomes) if outcome is None]
        if left:
            others = [settlements[i] for i in left]
            answers = await self._each("settle", [each.claim.key for each in others], others, of_settlements, encode(now))
            for i, answer in zip(left, answers, strict=True):
                outcomes[i] = _OUTCOMES[answer]
        return cast("list[Outcome]", outcomes)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        found = await self._each("get", keys)
        return [read_row(key.partition, row) if row else None for key, row in zip(keys, found, strict=True)]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        following = None if token is None else _token(token)
        rows, run, cursor, left = await self._one("list", partition, limit, following, errors=_ANY)
        more = [each.decode(errors=_ANY) if isinstance(each, bytes) else each for each in left]
        following = json.dumps([run, cursor, more]) if cursor or more else None
        return Page([read_row(partition, row) for row in rows if row], following)

    async def server_time(self) -> datetime:
        # Through the script, so that in a cluster every call asks the node with the static tasks.
        seconds, microseconds = await self._one("time", "static")
        return _1970 + timedelta(seconds=int(seconds), microseconds=int(microseconds))

    async def stats(self, now: datetime, partition: str) -> Stats:
        rows, due, oldest_due, failed = await self._one("stats", partition, encode(now))
        return Stats(rows=rows, due=due, oldest_due=instant(oldest_due), failed=failed)

    async def partitions(self) -> Sequence[str]:
        found = await self._connections.send([("SMEMBERS", key) for key in self._keys.known()])
        names = [name.decode() for members in found for name in members if is_text(name)]
        # rows may have been removed by hand
        counts = await self._connections.send([("HLEN", self._keys.rows(name)[1]) for name in names]) if names else []
        return [name for name, count in zip(names, counts, strict=True) if count]

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await self._each("pause", keys, [(key.name, (memos or {}).get(key)) for key in keys], columns)

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await self._each("resume", keys, [(key.name, (memos or {}).get(key)) for key in keys], columns)

    async def wake(self, hints: Sequence[Hint]) -> None:
        if hints:
            await publish(self._connections, self._channel, list(texts_of(hints, self._sender)))

    def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        return listening(self._connections, self._channel, self._sender)

    async def _open(self) -> None:
        key = f"{self._keys.prefix}pyncette:format"
        [found] = await self._connections.send([("GET", key)])
        if found is None:
            await self._refuse_tasks_of_version_1()
            # Written with the first row, so that reading leaves nothing behind.
            self._format = [("SET", key, FORMAT, "NX")]
        elif found not in {str(number).encode() for number in range(FORMAT + 1)}:
            raise RepositoryError(
                f"{self._connections.where} has the stored format {found[:100].decode(errors='replace')!r} in the namespace "
                f"{self._namespace!r}, but this Pyncette knows only {FORMAT}; upgrade pyncette-redis"
            )

    async def _refuse_tasks_of_version_1(self) -> None:
        if self._connections.is_cluster:
            return  # version 1 was not used here
        index = f"pyncette:{self._namespace}:index"  # the same with a colon and a name for each dynamic task
        pattern = re.sub(r"[\\\[*?]", r"\\\g<0>", index) + "*"
        cursor, keys = 0, []
        try:
            for _ in range(_LOOKS):
                [(cursor, keys)] = await self._connections.send([("SCAN", cursor, "MATCH", pattern, "COUNT", 10_000)])
                if keys or not cursor:
                    break
        except TransientRepositoryError:
            raise
        except RepositoryError:
            return  # the user may not have the permission for SCAN, which is optional
        if keys:
            raise RepositoryError(
                f"{self._connections.where} has tasks of Pyncette 1 in the namespace {self._namespace!r}, which Pyncette 2 does not "
                "read; choose another redis_namespace, schedule dynamic tasks there again, and finally remove the keys that begin "
                f"with 'pyncette:{self._namespace}:'"
            )

    async def _one(self, call: str, partition: str, *arguments: Any, errors: str = "strict") -> Any:
        """The answer of the script for one partition."""
        [reply] = await self._connections.send([self._command(call, partition, *arguments, errors=errors)])
        return loads(reply)

    async def _each(
        self,
        call: str,
        keys: Sequence[Key],
        elements: Sequence[Any] | None = None,
        fields: Callable[[Sequence[Any]], Sequence[Any]] = names_of,
        *arguments: Any,
        before: Sequence[Command] = (),
    ) -> Sequence[Any]:
        """The answer of the script to each of the ``elements``, which are those of ``keys``; or to each of the ``keys``.

        :param fields: further arguments for the elements, one list for each field.
        """
        positions: defaultdict[str, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            positions[key.partition].append(position)
        elements = keys if elements is None else elements
        commands, slices = [], []
        for partition, among in positions.items():
            for some in _cut(among, elements):
                commands.append(self._command(call, partition, *arguments, *fields([elements[i] for i in some])))
                slices.append(some)
        answers: list[Any] = [None] * len(keys)
        replies = await self._connections.send([*before, *commands], urgent=call.startswith("settle")) if commands else []
        for some, reply in zip(slices, replies[len(before) :] if commands else (), strict=True):
            for position, answer in zip(some, loads(reply) or (), strict=False):
                answers[position] = answer
        return answers

    def _command(self, call: str, partition: str, *arguments: Any, errors: str = "strict") -> Command:
        return self._connections.call(self._keys.rows, call, partition, arguments, errors=errors)


@contextlib.asynccontextmanager
async def redis_repository(
    *,
    redis_url: str = "redis://localhost:6379/0",
    redis_namespace: str = "",
    redis_timeout: float = 5.0,
    redis_max_connections: int = 20,
    redis_db: int | None = None,
    redis_cluster: bool = False,
    redis_sentinel_master: str = "mymaster",
    redis_sentinel_username: str | None = None,
    redis_sentinel_password: str | None = None,
    redis_ssl_ca_certs: str | None = None,
    redis_ssl_certfile: str | None = None,
    redis_ssl_keyfile: str | None = None,
    redis_ssl_verify: bool = True,
    redis_ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[RedisRepository]:
    """Tasks in Redis.

    :param redis_url: ``redis://user:password@host:port/database``; with ``rediss`` over TLS; ``redis+cluster`` and
        ``redis+sentinel`` take several ``host:port`` with commas; ``redis+unix:///path/of/socket``. ``valkey`` is the same.
    :param redis_namespace: the prefix of all keys, so that several applications can share a server.
    :param redis_timeout: seconds within which the server must answer, and within which it must answer some call while others
        wait for a connection.
    :param redis_max_connections: the maximum number of open connections; in a cluster, per node.
    :param redis_db: number of the database, as in the URL's path.
    :param redis_cluster: treat the URL as that of a cluster, as if it began with ``redis+cluster``.
    :param redis_sentinel_master: the sentinels' name for the master.
    :param redis_sentinel_username: for the sentinels, together with ``redis_sentinel_password``; the credentials in the URL are
        for the servers.
    :param redis_ssl_ca_certs: file of the certificate authorities to trust, instead of the system's.
    :param redis_ssl_certfile: file of the client certificate; ``redis_ssl_keyfile`` is that of its key.
    :param redis_ssl_verify: check the server's certificate and name.
    :param redis_ssl_context: an ``ssl.SSLContext`` instead of all these.
    :raises ConfigurationError: an option is invalid.
    :raises RepositoryError: the server can't be reached, refuses the user, or has a newer stored format.
    """
    url = BackendURL.parse(redis_url)
    if url.options:
        raise ConfigurationError(f"redis_url={str(url)!r} has options; pass them as redis_{', redis_'.join(url.options)}")
    if not redis_timeout > 0:
        raise ConfigurationError(f"redis_timeout={redis_timeout!r} is not a number of seconds above 0")
    if redis_max_connections < 1:
        raise ConfigurationError(f"redis_max_connections={redis_max_connections!r} is not a number above 0")
    files = redis_ssl_ca_certs, redis_ssl_certfile, redis_ssl_keyfile
    of_files = any(files) or not redis_ssl_verify
    if not url.scheme.startswith(("rediss", "valkeys")) and (of_files or redis_ssl_context):
        raise ConfigurationError(f"The options redis_ssl_... are for TLS only; begin the redis_url {url} with rediss or valkeys")
    if redis_ssl_context and of_files:
        raise ConfigurationError("redis_ssl_context replaces the other options redis_ssl_...; pass either it or them")
    tls = {
        "ssl_ca_certs": redis_ssl_ca_certs,
        "ssl_certfile": redis_ssl_certfile,
        "ssl_keyfile": redis_ssl_keyfile,
        "ssl_cert_reqs": "required" if redis_ssl_verify else "none",
        "ssl_check_hostname": redis_ssl_verify,
    }
    connections = Connections(
        url,
        _SCRIPTS,
        timeout=redis_timeout,
        limit=redis_max_connections,
        database=redis_db,
        cluster=redis_cluster,
        master=redis_sentinel_master,
        sentinel_options={"username": redis_sentinel_username, "password": redis_sentinel_password},
        tls_options=tls,
        tls_context=redis_ssl_context,
    )
    try:
        repository = RedisRepository(connections, redis_namespace)
        await repository._open()
        yield repository
    finally:
        await connections.close()


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    return {"redis_url": url.unparse()}


def _cut(positions: Sequence[int], elements: Sequence[Any]) -> Iterator[Sequence[int]]:
    """The ``positions`` in slices small enough for one call of the script."""
    first = length = 0
    for number, position in enumerate(positions):
        element = elements[position]
        size = len(element.spec) if isinstance(element, Registration) else 0
        if number - first == _SLICE or (number > first and length + size > _SLICE_LENGTH):
            yield positions[first:number]
            first, length = number, 0
        length += size
    yield positions[first:]


def _token(token: str) -> Any:
    """The server's run, the cursor and the names of a listing; None if this is not a valid token."""
    try:
        run, cursor, names = json.loads(token)
        known = cursor is False or re.fullmatch(r"\d{1,20}", cursor)
        return [run, cursor, names] if known and all(isinstance(each, str) for each in names) else None
    except (ValueError, TypeError):
        return None


backend: Backend = Backend(contract_version=1, factory=redis_repository, prefix="redis_", from_url=_from_url)
