"""The contract on Redis: each call is one run of a script in each partition that it is about, all in one round trip."""

import contextlib
import importlib.resources
import itertools
import json
import urllib.parse
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.codec import decode, name_in_bytes, name_of_bytes, unreadable
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.redis.connection import Command, Connections
from pyncette.redis.replies import is_text, loads
from pyncette.repository import (
    Claim,
    ClaimResult,
    Commit,
    Extend,
    Fail,
    Key,
    Outcome,
    Page,
    Registration,
    Release,
    Repository,
    Row,
    Settlement,
    State,
    Stats,
)

__all__ = ["RedisRepository", "backend", "redis_repository"]

#: Raised whenever what is stored changes its meaning.
FORMAT = 1

_SCRIPT = importlib.resources.files(__name__.rpartition(".")[0]).joinpath("partition.lua").read_text("utf-8")
#: The server serves nobody else during a run of the script: a few milliseconds for so many rows.
_SLICE = 1000

_ORIGIN = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
#: Epochs are stored as instants are, from another origin than the contract's.
_EPOCH_OFFSET = (_1970 - _ORIGIN) // _MICROSECOND

_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_STATES = {State.PAUSED.value, State.FAILED.value}


class RedisRepository(Repository):
    """Rows in three keys a partition. Opened by :func:`redis_repository`."""

    def __init__(self, connections: Connections, namespace: str) -> None:
        self._connections = connections
        self._namespace = namespace
        # Nothing that is in braces: the first pair of them in a key decides on its slot.
        self._prefix = f"{_quote(namespace)}:" if namespace else ""
        self._partitions = f"{self._prefix}pyncette:partitions"
        self._format: Sequence[Command] = []

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        if registrations:
            keys = [registration.key for registration in registrations]
            # Before the rows, so that each is in a partition that is known (in a cluster: unless this call fails).
            known: Command = ("SADD", self._partitions, *dict.fromkeys(key.partition for key in keys))
            before = [*self._format, known]
            await self._each("register", keys, map(_registration, registrations), _encode(now), force, before=before)
            self._format = []

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await self._each("unregister", keys))
        for i, key in enumerate(keys):
            if not removed[i] and (name := name_in_bytes(key.name)) is not None:
                text = json.dumps([[name.decode(errors="surrogateescape")]], ensure_ascii=False).encode(errors="surrogateescape")
                [reply] = await self._connections.send([self._connections.call(self._keys(key.partition), "unregister", text)])
                [removed[i]] = json.loads(reply)
        return removed

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease = lifecycle.new_lease()
        among = None if names is None else list(dict.fromkeys(names))
        locked_until = now + min(lease_duration, _LAST - now)
        answer = await self._one("claim", partition, _encode(now), _encode(locked_until), lease, limit, among)
        taken, next_ready_at, missing, unread = answer
        claims = []
        rows = [_row(partition, row) for row in unread]
        for name, spec, schedule, occurrence, execute_after, epoch, attempt, revision in taken:
            if bytes in (type(name), type(spec), type(schedule)):
                # Claimed, since the script does not see what is no UTF-8. It comes back when the lease ends, as if it were put off.
                rows.append(_row(partition, (name, spec, None)))
                continue
            at = _decode(occurrence)
            after = at if execute_after == occurrence else _decode(execute_after)
            number = int(epoch) - _EPOCH_OFFSET
            claims.append(Claim(Key(partition, name), spec, schedule, at, after, lease, number, attempt, int(revision)))
        return ClaimResult(claims, _instant(next_ready_at), list(missing), rows or ())

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        keys = [settlement.claim.key for settlement in settlements]
        outcomes = await self._each("settle", keys, map(_settlement, settlements), _encode(now))
        return [_OUTCOMES[outcome] for outcome in outcomes]

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        found = await self._each("get", keys)
        return [_row(key.partition, row) if row else None for key, row in zip(keys, found, strict=True)]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        rows, following = await self._one("list", partition, limit, token)
        return Page([_row(partition, row) for row in rows if row], following)

    async def server_time(self) -> datetime:
        # Of the same node at each call, if there are several: in the script, it goes where the keys are.
        seconds, microseconds = await self._one("time", "")
        return _1970 + timedelta(seconds=int(seconds), microseconds=int(microseconds))

    async def stats(self, now: datetime, partition: str) -> Stats:
        rows, due, oldest_due, failed = await self._one("stats", partition, _encode(now))
        return Stats(rows=rows, due=due, oldest_due=_instant(oldest_due), failed=failed)

    async def partitions(self) -> Sequence[str]:
        [members] = await self._connections.send([("SMEMBERS", self._partitions)])
        names = [member.decode() for member in members if is_text(member)]
        # One whose last row is gone stays a member: removing it could hide a row that is registered at this moment.
        counts = await self._connections.send([("HLEN", self._keys(name)[1]) for name in names]) if names else []
        return [name for name, count in zip(names, counts, strict=True) if count]

    async def pause(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._each("pause", keys)

    async def resume(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._each("resume", keys)

    async def _open(self) -> None:
        key = f"{self._prefix}pyncette:format"
        [found] = await self._connections.send([("GET", key)])
        if found is None:
            # To be written with the first row: who only looks leaves nothing.
            self._format = [("SET", key, FORMAT, "NX")]
        elif found not in {str(number).encode() for number in range(FORMAT + 1)}:
            raise RepositoryError(
                f"{self._connections.where} has the stored format {found[:100].decode(errors='replace')!r} in the namespace "
                f"{self._namespace!r}, but this Pyncette knows only {FORMAT}; upgrade pyncette-redis"
            )

    async def _one(self, call: str, partition: str, *arguments: Any) -> Any:
        """The answer of the script in one partition."""
        [reply] = await self._connections.send([self._command(call, partition, *arguments)])
        return loads(reply)

    async def _each(
        self, call: str, keys: Sequence[Key], elements: Iterable[Any] | None = None, *arguments: Any, before: Sequence[Command] = ()
    ) -> Sequence[Any]:
        """The answer of the script to each of the ``elements``, which are those of ``keys``: their names if there is no more to say."""
        items = [key.name for key in keys] if elements is None else list(elements)
        positions: defaultdict[str, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            positions[key.partition].append(position)
        slices = [
            (partition, among[first : first + _SLICE])
            for partition, among in positions.items()
            for first in range(0, len(among), _SLICE)
        ]
        commands = [self._command(call, partition, *arguments, [items[i] for i in among]) for partition, among in slices]
        answers: list[Any] = [None] * len(keys)
        if commands:
            replies = await self._connections.send([*before, *commands])
            for (_, among), reply in zip(slices, itertools.islice(replies, len(before), None), strict=True):
                for position, answer in zip(among, loads(reply) or (), strict=False):
                    answers[position] = answer
        return answers

    def _command(self, call: str, partition: str, *arguments: Any) -> Command:
        try:
            text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":")).encode()
            return self._connections.call(self._keys(partition), call, text)
        except UnicodeEncodeError as error:
            raise RepositoryError(f"A partition, name or argument can't be stored as UTF-8 ({error})") from error

    def _keys(self, partition: str) -> Sequence[str]:
        # With something before the partition, since an empty pair of braces is no hash tag.
        tag = f"{self._prefix}{{pyncette:{_quote(partition)}}}"
        return f"{tag}:index", f"{tag}:rows", f"{tag}:specs"


@contextlib.asynccontextmanager
async def redis_repository(
    *,
    redis_url: str = "redis://localhost:6379/0",
    redis_namespace: str = "",
    redis_timeout: float = 5.0,
    redis_max_connections: int = 20,
    redis_cluster: bool = False,
    redis_sentinel_master: str = "mymaster",
    redis_sentinel_username: str | None = None,
    redis_sentinel_password: str | None = None,
    redis_ssl_ca_certs: str | None = None,
    redis_ssl_certfile: str | None = None,
    redis_ssl_keyfile: str | None = None,
    redis_ssl_verify: bool = True,
) -> AsyncIterator[RedisRepository]:
    """Tasks in Redis.

    :param redis_url: ``redis://user:password@host:port/database``; with ``rediss`` over TLS; ``redis+cluster`` and
        ``redis+sentinel`` take several ``host:port`` with commas.
    :param redis_namespace: what all keys begin with, so that several applications can share a server.
    :param redis_timeout: seconds that a call may take, with all its waiting.
    :param redis_max_connections: how many connections may be open at once, to each node if it is a cluster.
    :param redis_cluster: the URL is one of a cluster, as if it began with ``redis+cluster``.
    :param redis_sentinel_master: what the sentinels call the master.
    :param redis_sentinel_username: of the sentinels, as ``redis_sentinel_password``; those of the URL are of the servers.
    :param redis_ssl_ca_certs: file of the authorities to trust, instead of the system's.
    :param redis_ssl_certfile: file of the certificate to show, as ``redis_ssl_keyfile`` of its key.
    :param redis_ssl_verify: check the server's certificate and name.
    :raises ConfigurationError: an option makes no sense.
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
    if not url.scheme.startswith("rediss") and (any(files) or not redis_ssl_verify):
        raise ConfigurationError(f"The options redis_ssl_... are for TLS only; begin the redis_url {url} with rediss")
    tls = {
        "ssl_ca_certs": redis_ssl_ca_certs,
        "ssl_certfile": redis_ssl_certfile,
        "ssl_keyfile": redis_ssl_keyfile,
        "ssl_cert_reqs": "required" if redis_ssl_verify else "none",
        "ssl_check_hostname": redis_ssl_verify,
    }
    connections = Connections(
        url,
        _SCRIPT,
        timeout=redis_timeout,
        limit=redis_max_connections,
        cluster=redis_cluster,
        master=redis_sentinel_master,
        sentinel_options={"username": redis_sentinel_username, "password": redis_sentinel_password},
        tls_options=tls,
    )
    try:
        repository = RedisRepository(connections, redis_namespace)
        await repository._open()
        yield repository
    finally:
        await connections.close()


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    return {"redis_url": url.unparse()}


def _quote(text: str) -> str:
    """``text`` without braces, in ASCII; two texts never become one."""
    return urllib.parse.quote(text, safe="!$&'()*+,-./:;<=>?@[]^_|~ ")


def _encode(instant: datetime) -> str:
    return f"{(instant - _ORIGIN) // _MICROSECOND:019}"


def _decode(text: str) -> datetime:
    return _ORIGIN + timedelta(microseconds=int(text))


def _instant(text: str | None) -> datetime | None:
    return _decode(text) if text else None


def _registration(registration: Registration) -> Sequence[Any]:
    occurrence, execute_after = registration.target
    times = _encode(occurrence), _encode(execute_after)
    return registration.key.name, registration.spec, registration.schedule, *times, registration.keep_overdue


def _settlement(settlement: Settlement) -> Sequence[Any]:
    claim = settlement.claim
    of = claim.key.name, claim.lease, str(claim.revision)
    match settlement:
        case Commit(next=target):
            if target is None:
                return *of, "remove"
            at = _encode(target.occurrence)
            return *of, "commit", at, at if target.execute_after == target.occurrence else _encode(target.execute_after)
        case Release(retry_at=retry_at, started=started):
            return *of, "release", _encode(retry_at), started
        case Fail(error=error):
            return *of, "fail", error
        case Extend(until=until):
            return *of, "extend", _encode(until)


def _row(partition: str, found: Sequence[Any]) -> Row:
    name, spec, row = found
    if isinstance(name, bytes):
        return unreadable(Key(partition, name_of_bytes(name)), "the name is no text")
    key = Key(partition, name)
    if not row:
        return unreadable(key, "the row is not one of Pyncette's" if row is False else "the spec or the schedule is no text")
    occurrence, execute_after, ready, lease, locked_until, epoch, revision, attempt, schedule, *error = row
    return decode(
        key,
        spec,
        schedule,
        _microseconds(occurrence),
        _microseconds(execute_after),
        None if ready in _STATES else _microseconds(ready),
        lease or None,
        _microseconds(locked_until) if locked_until else None,
        int(epoch) - _EPOCH_OFFSET,
        int(revision),
        attempt,
        ready if ready in _STATES else State.SCHEDULED.value,
        error[0] if error else None,
    )


def _microseconds(text: str) -> int:
    return int(text) - _EPOCH_OFFSET


backend = Backend(contract_version=1, factory=redis_repository, prefix="redis_", from_url=_from_url)
