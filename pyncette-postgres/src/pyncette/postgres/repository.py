"""The store: the order of calls, and the conversion of the contract's values to PostgreSQL's."""

import contextlib
import copy
import json
import logging
import operator
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import decode
from pyncette.codec import unreadable as damaged
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.joining import JoinedRepository
from pyncette.looks import Looks
from pyncette.postgres import statements, tables
from pyncette.postgres.connecting import OPTIONS, Connecting
from pyncette.postgres.connections import Connections, opened
from pyncette.postgres.hints import LONGEST, NOTIFY, channel_of, listening
from pyncette.postgres.history import PostgresHistory, statements_for
from pyncette.postgres.joining import JoinedConnections, user_connection
from pyncette.repository import (
    Claim,
    ClaimResult,
    Commit,
    Extend,
    Fail,
    Hint,
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
    Target,
    texts_of,
)

_LOG = logging.getLogger(__name__)

__all__ = ["PostgresRepository", "backend", "postgres_repository"]

_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
#: Before the calendar, for damaged rows.
_EVER = -(2**63)
#: The positions of partition and name in the arguments of SETTLE_EXPECTED.
_KEY = operator.itemgetter(1, 2)
#: More rows than this are estimated instead of counted.
_COUNTED = 10_000


class PostgresRepository(PostgresHistory, Repository):
    """Rows in a table of PostgreSQL. Opened by :func:`postgres_repository`."""

    def __init__(self, connections: Connections, table: str) -> None:
        self._connections = connections
        self._looks = Looks()
        #: Identifies this object's own hints.
        self._sender = secrets.token_hex(4)
        self._name_table(table)

    def _name_table(self, table: str) -> None:
        self._table = self._connections.table = table
        self._sql = {name: getattr(statements, name).format(table=table) for name in statements.__all__ if name != "ESTIMATES"}
        self._history = statements_for(tables.history_of(table))
        self._estimates = [statement.format(table=table) for statement in statements.ESTIMATES]

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for keep_overdue in (False, True):
            batch = [
                (*r.key, r.spec, r.schedule, to_microseconds(r.target.occurrence), to_microseconds(r.target.execute_after))
                for r in registrations
                if r.keep_overdue is keep_overdue
            ]
            if batch:
                try:
                    await self._fetch("REGISTER", to_microseconds(now), force, keep_overdue, *_columns(batch))
                finally:
                    for partition, *_, execute_after in batch:
                        # a row that keeps its due occurrence may be ready at any earlier time
                        self._looks.written(partition, *(() if keep_overdue else (from_microseconds(execute_after),)))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._change("UNREGISTER", keys)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease, until = lifecycle.new_lease(), to_microseconds(lifecycle.lease_end(now, lease_duration))
        statement, among, looks = ("CLAIM", (), self._looks) if names is None else ("CLAIM_NAMED", (list(names),), Looks())
        look = looks.begin(partition, now)
        span = _EVER if look.since is None else to_microseconds(look.since), to_microseconds(look.until)
        rows = await self._fetch(statement, partition, to_microseconds(now), limit, lease, until, *span, *among, urgent=True)
        claims = []
        unreadable = []
        for _, _, _, _, name, spec, schedule, occurrence, execute_after, epoch, attempt, revision, memo, state, locked in rows:
            if name is None:  # nothing was due
                continue
            key = Key(partition, name)
            if state is not None:
                times = occurrence, execute_after, until
                row = decode(key, spec, schedule, *times, None, locked, epoch, revision, attempt, state, None, memo)
                unreadable.append(
                    row if row.state is State.UNREADABLE else damaged(key, "it has no time at which it is ready", until)
                )
            else:
                at = from_microseconds(occurrence)
                after = at if execute_after == occurrence else from_microseconds(execute_after)
                claims.append(Claim(key, spec, schedule, at, after, lease, epoch, attempt, revision, memo or ""))
        next_ready_at, seconds, missing = rows[0][:3]
        return ClaimResult(claims, look.end(_instant(next_ready_at), seconds), missing or (), unreadable)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(settlements)
        changed, removed = [], []
        for position, settlement in enumerate(settlements):
            if (as_claimed := lifecycle.expected(settlement, now)) is None:
                continue
            key, lease, revision, gone, occurrence, execute_after, ready_at, attempt, memo = as_claimed
            if gone:
                removed.append((position, *key, lease, revision))
            else:
                times = [to_microseconds(at) for at in (occurrence, execute_after, ready_at)]
                changed.append((position, *key, lease, revision, *times, attempt, memo))
        if changed or removed:
            # in the order of their keys, so that two calls never deadlock
            columns = *_columns(sorted(changed, key=_KEY), 10), *_columns(sorted(removed, key=_KEY), 5)
            [[applied]] = await self._fetch("SETTLE_EXPECTED", *columns, urgent=True)
            for position in applied:
                outcomes[position] = Outcome.APPLIED
        if rest := [position for position, outcome in enumerate(outcomes) if outcome is None]:
            encoded = [_encode(settlements[position]) for position in rest]
            rows = await self._fetch("SETTLE", to_microseconds(now), *_columns(encoded), urgent=True)
            for position, (outcome,) in zip(rest, rows, strict=True):
                outcomes[position] = _OUTCOMES[outcome]
        return [outcome for outcome in outcomes if outcome is not None]

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [_decode(row) for row in await self._fetch("GET", *_columns(keys))] if keys else []

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        rows = [_decode(row) for row in await self._fetch("LIST", partition, token or "", limit + 1)]
        # The token is the first name of the next page; if that row is removed meanwhile, the page begins with the following one.
        following = rows[limit] if len(rows) > limit else None
        return Page([row for row in rows[:limit] if row is not None], following and following.key.name)

    async def server_time(self) -> datetime:
        return from_microseconds(
            (await self._connections.fetch("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"))[0][0]
        )

    async def stats(self, now: datetime, partition: str) -> Stats:
        """Count the rows of ``partition``; exact up to 10,000 of a kind, beyond that an estimate of the server's planner."""
        at = to_microseconds(now)
        [[rows, due, oldest_due, failed]] = await self._fetch("COUNT", partition, at, _COUNTED)
        counts = [rows, due, failed]
        for which, arguments in enumerate([(partition,), (partition, at), (partition,)]):
            if counts[which] == _COUNTED:
                [[plan]] = await self._connections.fetch(self._estimates[which], *arguments)
                counts[which] = max(_COUNTED, int(json.loads(plan)[0]["Plan"]["Plan Rows"]))
        rows, due, failed = counts
        return Stats(rows=rows, due=due, oldest_due=_instant(oldest_due), failed=failed)

    async def partitions(self) -> Sequence[str]:
        return [partition for (partition,) in await self._fetch("PARTITIONS")]

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        return await self._change("PAUSE", keys, [(memos or {}).get(key) for key in keys])

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        try:
            return await self._change("RESUME", keys, [(memos or {}).get(key) for key in keys])
        finally:
            for key in keys:
                self._looks.written(key.partition)

    def within(self, connection: object) -> Repository:
        """Join a transaction of asyncpg, psycopg 3, SQLAlchemy or Django on the same database."""
        where = self._connections.where
        user = user_connection(connection, where)
        joined = copy.copy(self)
        joined._connections = JoinedConnections(user, where, self._table, self._connections.timeout)
        joined._sender = ""  # this process must receive its hints, too
        return JoinedRepository(joined, user, self)

    async def wake(self, hints: Sequence[Hint]) -> None:
        if hints:
            await self._connections.fetch(NOTIFY, channel_of(self._table), list(texts_of(hints, self._sender, LONGEST)))

    async def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        async with contextlib.aclosing(listening(self._connections, channel_of(self._table), self._sender)) as heard:
            async for hints in heard:
                for hint in hints:
                    self._looks.written(*hint)
                yield hints

    async def _change(self, statement: str, keys: Sequence[Key], *more: Sequence[Any]) -> Sequence[bool]:
        if not keys:
            return []
        changed = {tuple(row) for row in await self._fetch(statement, *_columns(keys), *more)}
        return [key in changed for key in keys]

    async def _open(self, *, create: bool) -> None:
        """Create or check the table."""
        if create:
            await self._connections.execute(tables.creation(self._table))
        found = await self._connections.fetch(
            """SELECT n.nspname, c.relname,
                ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
                ARRAY(SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)""",
            self._table,
        )
        if not found:
            raise StoreMissingError(
                f"There is no table {self._table} in {self._connections.where}; create it, or leave out postgres_skip_table_create"
            )
        [[schema, name, columns, constraints]] = found
        tables.check(f"The table {self._table} in {self._connections.where}", columns, constraints)
        # Use the full name from here on: behind a pooler, somebody else may set another search_path.
        self._name_table(".".join('"' + part.replace('"', '""') + '"' for part in (schema, name)))
        if create:
            await self._create_history()

    async def _create_history(self) -> None:
        """Create the history table unless it exists. Without the permission, tasks run anyway."""
        try:
            await self._connections.execute(tables.creation_of_history(self._table))
        except TransientRepositoryError:
            raise
        except RepositoryError:
            _LOG.info("There is no table %s and it can't be created, so no history is kept", tables.history_of(self._table))

    async def _fetch(self, statement: str, *arguments: Any, urgent: bool = False) -> Sequence[Any]:
        return await self._connections.fetch(self._sql[statement], *arguments, urgent=urgent)


@contextlib.asynccontextmanager
async def postgres_repository(
    *,
    postgres_url: str,
    postgres_table_name: str = "pyncette_tasks",
    postgres_pool_size: int = 5,
    postgres_timeout: float = 10.0,
    postgres_ssl: ssl.SSLContext | None = None,
    postgres_skip_table_create: bool = False,
) -> AsyncIterator[PostgresRepository]:
    """Tasks in a table of PostgreSQL.

    :param postgres_url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require``, with libpq options; missing parts
        come from the usual PG* variables.
    :param postgres_table_name: name of the table, optionally with a schema: ``tasks``, ``jobs.tasks``, ``"a.b"."My tasks"``.
        The history is in a second table, ``tasks_history``.
    :param postgres_pool_size: the maximum number of open connections.
    :param postgres_timeout: seconds that a call may take before it fails and its connection is discarded. The wait for a free
        connection counts only while the server answers no call.
    :param postgres_ssl: TLS settings, instead of those in the URL.
    :param postgres_skip_table_create: the table exists already, created with the statements of :func:`schema`; don't try to
        create it.
    :raises ConfigurationError: an option is invalid.
    :raises RepositoryError: the server refused, or the table can't be used.
    :raises TransientRepositoryError: the server could not be reached.
    """
    table = tables.quoted(postgres_table_name)
    if postgres_pool_size < 1:
        raise ConfigurationError(f"postgres_pool_size={postgres_pool_size!r} is below 1; use 5, for example")
    if not postgres_timeout > 0:
        raise ConfigurationError(f"postgres_timeout={postgres_timeout!r} is not a number of seconds above 0")
    connecting = Connecting(postgres_url, postgres_ssl, postgres_timeout)
    async with opened(connecting, postgres_pool_size) as connections:
        repository = PostgresRepository(connections, table)
        await repository._open(create=not postgres_skip_table_create)
        yield repository


def _encode(settlement: Settlement) -> tuple[Any, ...]:
    claim = settlement.claim
    head = *claim.key, claim.lease, claim.revision
    match settlement:
        case Commit(next=None, memo=memo):
            return *head, "commit", None, None, None, None, None, memo
        case Commit(next=Target() as target, memo=memo):
            times = to_microseconds(target.occurrence), to_microseconds(target.execute_after)
            return *head, "commit", *times, None, None, None, memo
        case Release(retry_at=retry_at, started=started, memo=memo):
            return *head, "release", None, None, to_microseconds(retry_at), started, None, memo
        case Fail(error=error, memo=memo):
            return *head, "fail", None, None, None, None, error.replace("\0", ""), memo  # PostgreSQL's text can't contain NUL
        case Extend(until=until):
            return *head, "extend", None, None, to_microseconds(until), None, None, None
    raise AssertionError(settlement)


def _decode(row: Sequence[Any]) -> Row | None:
    partition, name, *rest = row
    return None if partition is None else decode(Key(partition, name), *rest)


def _instant(ready_at: int | None) -> datetime | None:
    """When a row is ready; the earliest possible time for a damaged value before that."""
    return None if ready_at is None else from_microseconds(max(ready_at, _EARLIEST))


def _columns(rows: Sequence[Sequence[Any]], width: int = 0) -> Sequence[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    return {"postgres_url": url.unparse(options=OPTIONS)}


backend: Backend = Backend(
    contract_version=1, factory=postgres_repository, prefix="postgres_", from_url=_from_url, url_options=OPTIONS
)
