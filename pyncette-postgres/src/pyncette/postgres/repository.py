"""The store: a pool of connections, and what the contract's values are in PostgreSQL's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import decode
from pyncette.codec import unreadable as damaged
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.postgres import statements
from pyncette.postgres.statements import FORMAT, literal, quoted
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
    Target,
)

__all__ = ["PostgresRepository", "backend", "postgres_repository"]

_COMMENT = "Pyncette, stored format "
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
_2000 = to_microseconds(datetime(2000, 1, 1, tzinfo=UTC))  # from which PostgreSQL counts

#: The server or the way to it is at fault, and will be back: the call may be repeated.
_TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection was closed under us
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # the server shuts down, or an administrator or a time limit cancelled the query
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.ObjectInUseError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # this was the primary until a moment ago
    OSError,
    TimeoutError,
)


class PostgresRepository(Repository):
    """Rows in a table of PostgreSQL. Opened by :func:`postgres_repository`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", where: str, table: str, timeout: float) -> None:
        self._pool = pool
        self._where = where
        self._table = table
        self._timeout = timeout  # of each call, including the wait for a connection
        self._sql = {
            name: getattr(statements, name).format(table=table)
            for name in statements.__all__
            if name.isupper() and name not in ("CREATE", "FORMAT")
        }

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        for keep_overdue in (False, True):
            batch = [
                (*r.key, r.spec, r.schedule, r.target.occurrence, r.target.execute_after)
                for r in registrations
                if r.keep_overdue is keep_overdue
            ]
            if batch:
                await self._fetch("REGISTER", now, to_microseconds(now), force, keep_overdue, *_columns(batch))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._change("UNREGISTER", keys)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease, until = lifecycle.new_lease(), lifecycle.lease_end(now, lease_duration)
        statement, among = ("CLAIM", ()) if names is None else ("CLAIM_NAMED", (list(names),))
        rows = await self._fetch(statement, partition, now, limit, lease, until, to_microseconds(now), *among)
        claims = []
        unreadable = []
        for _, _, name, spec, schedule, occurrence, execute_after, epoch, attempt, revision, state, locked in rows:
            key = Key(partition, name)
            if state is not None:
                ready_at = to_microseconds(until)
                row = decode(
                    key, spec, schedule, occurrence, execute_after, ready_at, None, locked, epoch, revision, attempt, state
                )
                unreadable.append(row if row.state is State.UNREADABLE else damaged(key, "it was ready at no time", ready_at))
            elif name is not None:
                at = from_microseconds(occurrence)
                after = at if execute_after == occurrence else from_microseconds(execute_after)
                claims.append(Claim(key, spec, schedule, at, after, lease, epoch, attempt, revision))
        next_ready_at, missing = rows[0][:2]
        return ClaimResult(claims, _instant(next_ready_at), missing or (), unreadable)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        if not settlements:
            return []
        rows = await self._fetch("SETTLE", now, *_columns([_encode(settlement) for settlement in settlements]))
        return [_OUTCOMES[outcome] for (outcome,) in rows]

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return [_decode(row) for row in await self._fetch("GET", *_columns(keys))] if keys else []

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        rows = [_decode(row) for row in await self._fetch("LIST", partition, token or "", limit + 1)]
        # The token is the name that the next page begins with: at once or, if it is removed meanwhile, with the one after it.
        following = rows[limit] if len(rows) > limit else None
        return Page([row for row in rows[:limit] if row is not None], following and following.key.name)

    async def server_time(self) -> datetime:
        return from_microseconds((await self._run("SELECT clock_timestamp()"))[0][0])

    async def stats(self, now: datetime, partition: str) -> Stats:
        [[rows, due, oldest_due, failed]] = await self._fetch("STATS", partition, now)
        return Stats(rows=rows, due=due, oldest_due=_instant(oldest_due), failed=failed)

    async def partitions(self) -> Sequence[str]:
        return [partition for (partition,) in await self._fetch("PARTITIONS")]

    async def pause(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._change("PAUSE", keys)

    async def resume(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._change("RESUME", keys)

    async def _change(self, statement: str, keys: Sequence[Key]) -> Sequence[bool]:
        if not keys:
            return []
        changed = {tuple(row) for row in await self._fetch(statement, *_columns(keys))}
        return [key in changed for key in keys]

    async def _open(self, *, create: bool) -> None:
        """Create or check the table."""
        if create:
            await self._execute(
                statements.CREATE.format(table=self._table, literal=literal(self._table), comment=f"{_COMMENT}{FORMAT}")
            )
        [[exists]] = await self._run("SELECT to_regclass($1) IS NOT NULL", self._table)
        if not exists:
            raise StoreMissingError(
                f"There is no table {self._table} in {self._where}; create it, or leave out postgres_skip_table_create"
            )
        [[comment]] = await self._run("SELECT obj_description(to_regclass($1), 'pg_class')", self._table)
        version = (comment or "").removeprefix(_COMMENT)
        if not (comment or "").startswith(_COMMENT) or not version.isdecimal():
            raise RepositoryError(
                f"The table {self._table} in {self._where} is not one of Pyncette's; choose another postgres_table_name"
            )
        if int(version) > FORMAT:
            raise RepositoryError(
                f"The table {self._table} in {self._where} has the stored format {version}, but this Pyncette knows only "
                f"{FORMAT}; upgrade pyncette-postgres"
            )

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        return await self._run(self._sql[statement], *arguments)

    async def _run(self, sql: str, *arguments: Any) -> Sequence[Any]:
        async with self._connection() as connection:
            rows: Sequence[Any] = await connection.fetch(sql, *arguments)
            return rows

    async def _execute(self, script: str) -> None:
        async with self._connection() as connection:
            await connection.execute(script)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection for one statement. One that was left in the middle of an answer is thrown away, not given back."""
        try:
            async with asyncio.timeout(self._timeout), self._pool.acquire() as connection:
                try:
                    yield connection
                except asyncio.CancelledError:
                    # At once: to cancel the query politely takes a server that listens.
                    connection.terminate()
                    raise
        except _TRANSIENT as error:
            if not isinstance(error, asyncpg.TransactionRollbackError):
                await self._pool.expire_connections()  # the others are hardly better; each would cost a call to find out
            what = f"did not answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else f"failed: {_line(error)}"
            raise TransientRepositoryError(f"PostgreSQL at {self._where} {what}") from error
        except asyncpg.UndefinedTableError as error:
            raise RepositoryError(
                f"There is no table {self._table} in {self._where}; create it, or restart to have it created"
            ) from error
        except (asyncpg.UndefinedColumnError, asyncpg.DatatypeMismatchError) as error:
            raise RepositoryError(
                f"The table {self._table} in {self._where} is not one of Pyncette's; choose another postgres_table_name"
            ) from error
        except asyncpg.PostgresError as error:
            raise RepositoryError(f"PostgreSQL at {self._where} refused: {_line(error)}") from error


@contextlib.asynccontextmanager
async def postgres_repository(
    *,
    postgres_url: str,
    postgres_table_name: str = "pyncette_tasks",
    postgres_pool_size: int = 5,
    postgres_timeout: float = 10.0,
    postgres_ssl: str | None = None,
    postgres_skip_table_create: bool = False,
) -> AsyncIterator[PostgresRepository]:
    """Tasks in a table of PostgreSQL.

    :param postgres_url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``; what is missing comes from the usual PG* variables.
    :param postgres_table_name: name of the table, with a schema if need be: ``tasks``, ``jobs.tasks``, ``"a.b"."My tasks"``.
    :param postgres_pool_size: the most connections that are open at once.
    :param postgres_timeout: seconds that a call may take before it is given up and its connection thrown away.
    :param postgres_ssl: as libpq's ``sslmode``: ``require``, ``verify-full`` and so on.
    :param postgres_skip_table_create: the table exists; don't try to create it.
    :raises ConfigurationError: an option makes no sense.
    :raises RepositoryError: the server refused, or the table can't be used.
    :raises TransientRepositoryError: the server could not be reached.
    """
    table = quoted(postgres_table_name)
    if postgres_pool_size < 1:
        raise ConfigurationError(f"postgres_pool_size={postgres_pool_size!r} is below 1; use 5 or so")
    if not postgres_timeout > 0:
        raise ConfigurationError(f"postgres_timeout={postgres_timeout!r} is not a number of seconds above 0")
    where = _where(postgres_url)
    tls: dict[str, Any] = {} if postgres_ssl is None else {"ssl": postgres_ssl}
    pool = asyncpg.create_pool(
        postgres_url,
        min_size=1,
        max_size=postgres_pool_size,
        timeout=postgres_timeout,
        reset=_leave_as_it_is,
        init=_count_time,
        # Statements are prepared once for each connection: what they are made of never varies.
        server_settings={"default_transaction_isolation": "read committed", "application_name": "pyncette"},
        **tls,
    )
    try:
        await _connect(pool, where, postgres_timeout)
        repository = PostgresRepository(pool, where, table, postgres_timeout)
        await repository._open(create=not postgres_skip_table_create)
        yield repository
    finally:
        pool.terminate()  # every call has ended, or is not worth waiting for


async def _leave_as_it_is(connection: Any) -> None:
    """Give a connection back without a round trip that cleans it up: the statements here leave nothing behind."""


async def _connect(pool: "asyncpg.Pool[Any]", where: str, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await pool
    except asyncpg.InvalidAuthorizationSpecificationError as error:  # a wrong password, too
        raise RepositoryError(f"PostgreSQL at {where} refused the login: {_line(error)}; check user and password") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise RepositoryError(
            f"PostgreSQL at {where} has no such database: {_line(error)}; create it, or correct the URL"
        ) from error
    except TimeoutError as error:
        raise TransientRepositoryError(
            f"PostgreSQL at {where} did not answer within {timeout:g} s; is the address right?"
        ) from error
    except OSError as error:
        raise TransientRepositoryError(
            f"PostgreSQL at {where} can't be reached ({_line(error)}); is it running, is the address right?"
        ) from error
    except _TRANSIENT as error:
        raise TransientRepositoryError(f"PostgreSQL at {where} can't be used now: {_line(error)}") from error
    except (asyncpg.PostgresError, ValueError) as error:
        raise RepositoryError(f"PostgreSQL at {where} can't be used: {_line(error)}") from error


def _encode(settlement: Settlement) -> tuple[Any, ...]:
    claim = settlement.claim
    head = *claim.key, claim.lease, claim.revision
    match settlement:
        case Commit(next=None):
            return *head, "commit", None, None, None, None, None
        case Commit(next=Target() as target):
            return *head, "commit", target.occurrence, target.execute_after, None, None, None
        case Release(retry_at=retry_at, started=started):
            return *head, "release", None, None, retry_at, started, None
        case Fail(error=error):
            return *head, "fail", None, None, None, None, error.replace("\0", "")  # which text can't hold
        case Extend(until=until):
            return *head, "extend", None, None, until, None, None
    raise AssertionError(settlement)


def _decode(row: Sequence[Any]) -> Row | None:
    partition, name, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error = (
        row
    )
    if partition is None:
        return None
    times = occurrence, execute_after, ready_at
    return decode(Key(partition, name), spec, schedule, *times, lease, locked, epoch, revision, attempt, state, error)


async def _count_time(connection: Any) -> None:
    """Instants as microseconds since 1970: those of PostgreSQL may be beyond any datetime, and infinite."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda instant: (to_microseconds(instant) - _2000,),
        decoder=lambda microseconds: microseconds[0] + _2000,
    )


def _instant(ready_at: int | None) -> datetime | None:
    """When a row is ready; as early as can be, if it is damaged and even earlier."""
    return None if ready_at is None else from_microseconds(max(ready_at, _EARLIEST))


def _columns(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    return list(zip(*rows, strict=True))


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _where(url: str) -> str:
    parsed = BackendURL.parse(url)
    return f"{parsed.hosts or 'the default host'}{parsed.path}"


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    return {"postgres_url": url.unparse()}


backend = Backend(contract_version=1, factory=postgres_repository, prefix="postgres_", from_url=_from_url)
