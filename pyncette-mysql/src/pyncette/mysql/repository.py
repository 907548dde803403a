"""The store: rows in an InnoDB table, a pool of connections.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call locks its rows, applies the rules, and writes them back in the same
transaction. READ COMMITTED, because the gap locks of InnoDB's default would make claims of neighbours wait for each other.
"""

import asyncio
import contextlib
import json
import math
import random
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import aiomysql

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.clock import to_microseconds
from pyncette.codec import name_in_bytes
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError
from pyncette.mysql import statements
from pyncette.mysql.faults import AGAIN, code_of, translated
from pyncette.mysql.statements import encode, instant, is_time, quoted, row_of, schema, where
from pyncette.repository import ClaimResult, Key, Page, Row, State, Stats
from pyncette.rowwise import Change, RowwiseRepository

__all__ = ["MySQLRepository", "backend", "mysql_repository", "schema"]

T = TypeVar("T")

# Once for each connection, in one round trip. A connection that died without a word would keep its locks, and every claim pass its
# rows by, until the server's wait_timeout, which is eight hours by default. The comments are read by MySQL or by MariaDB only.
_SESSION = """SET SESSION wait_timeout = {seconds:d}, SESSION sql_mode = 'STRICT_ALL_TABLES',
/*!80000 SESSION transaction_isolation */ /*M! SESSION tx_isolation */ = 'READ-COMMITTED'"""

_ATTEMPTS = 10
#: How often a claim looks once more for rows that are due but were locked.
_LOOKS_AGAIN = 2


class MySQLRepository(RowwiseRepository):
    """Rows in a table of MySQL or MariaDB. Opened by :func:`mysql_repository`."""

    def __init__(self, pool: aiomysql.Pool, where: str, table: str, timeout: float) -> None:
        self._pool = pool
        self._where = where
        self._name = table
        self._table = quoted(table).replace("%", "%%")  # the driver's format
        self._timeout = timeout  # of each call, including the wait for a connection

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease = lifecycle.new_lease()
        result = await self._claim(now, partition, lease_duration, lease, limit, names)
        for _ in range(_LOOKS_AGAIN):
            left = limit - len(result.claims) - len(result.unreadable)
            if result.next_ready_at is None or result.next_ready_at > now or left < 1:
                break
            # What is due and was skipped is locked: by one who takes it, or by a neighbour in passing, who will be gone in a moment.
            await asyncio.sleep(random.uniform(0, 0.002))
            try:
                more = await self._claim(now, partition, lease_duration, lease, left, names)
            except RepositoryError:
                break  # what has been claimed must not be lost
            unreadable = [*result.unreadable, *more.unreadable]
            result = ClaimResult([*result.claims, *more.claims], more.next_ready_at, more.missing, unreadable)
        return result

    async def _claim(
        self, now: datetime, partition: str, lease_duration: timedelta, lease: str, limit: int, names: Sequence[str] | None
    ) -> ClaimResult:
        at = to_microseconds(now)
        among = [partition] if names is None else [partition, *names]

        async def claim(execute: _Run) -> ClaimResult:
            async def run(sql: str, parameters: Any) -> Sequence[Any]:
                return await execute(sql.replace("{names}", ", ".join(["%s"] * len(names or ()))), parameters)

            # An idle poll ends here, with nothing locked.
            seen = await run(statements.PEEK if names is None else statements.PEEK_NAMED, among) if names is None or names else []
            known = {name.decode() for name, _ in seen} if names is not None else set()
            missing = [name for name in names or () if name not in known]
            ready = sorted(ready_at for _, ready_at in seen if is_time(ready_at))
            if not ready or ready[0] > at:
                return ClaimResult([], instant(ready[0] if ready else None), missing)
            found = await run(statements.TAKE if names is None else statements.TAKE_NAMED, [*among, at, limit])
            rows = [row_of(values) for values in found]
            claims = [taken[1] for row in rows if (taken := lifecycle.claim(row, now, lease_duration, lease)) is not None]
            unreadable = [lifecycle.put_off(row, now, lease_duration) for row in rows if row.state is State.UNREADABLE]
            until = to_microseconds(lifecycle.lease_end(now, lease_duration))
            if claims:
                which, parameters = where([claim.key for claim in claims])
                await run(f"{statements.CLAIM} WHERE {which}", [lease, until, until, at, *parameters])
            put_off = [name.hex() for (_, name, *_), row in zip(found, rows, strict=True) if row.state is State.UNREADABLE]
            some = ", ".join(["UNHEX(%s)"] * len(put_off))
            if put_off:
                await run(statements.PUT_OFF.replace("{some}", some), [until, partition, *put_off])
            following = statements.NEXT if names is None else statements.NEXT_NAMED
            following = following.replace("{but}", f" AND name NOT IN ({some})" if put_off else "")
            next_ready_at = await run(following, [*among, lease, *put_off])
            return ClaimResult(claims, instant(next_ready_at[0][0] if next_ready_at else None), missing, unreadable)

        return await self._transaction(claim)

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await super().unregister(now, keys))
        for index, key in enumerate(keys):
            if not removed[index] and (name := name_in_bytes(key.name)) is not None:
                removed[index] = await self._remove(key.partition, name)
        return removed

    async def _remove(self, partition: str, name: bytes) -> bool:
        async def remove(run: _Run) -> bool:
            found = await run(statements.FIND_NAMED, [partition, name.hex()])
            await run(statements.DELETE_NAMED, [partition, name.hex()])
            return bool(found)

        return await self._transaction(remove)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        if not keys:
            return []
        rows = await self._transaction(lambda run: _rows(run, keys, ""))
        return [rows.get(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        # The token is the name that the next page begins with: at once or, if it is removed meanwhile, with the one after it.
        try:
            start = bytes.fromhex(token or "").hex()
        except ValueError:
            raise RepositoryError(f"{token!r:.100} is no token of a listing; begin anew without one") from None
        found = await self._fetch(statements.LIST, [partition, start, limit + 1])
        return Page([row_of(values) for values in found[:limit]], found[limit][1].hex() if len(found) > limit else None)

    async def server_time(self) -> datetime:
        [[instant]] = await self._fetch("SELECT UTC_TIMESTAMP(6)", [])
        server_time: datetime = instant.replace(tzinfo=UTC)
        return server_time

    async def stats(self, now: datetime, partition: str) -> Stats:
        [[rows, due, oldest, failed]] = await self._fetch(statements.STATS, {"partition": partition, "now": to_microseconds(now)})
        return Stats(rows=rows, due=due, oldest_due=instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        # InnoDB skips from one partition to the next in the index; nothing else is read.
        return [
            partition.decode()
            for (partition,) in await self._fetch("SELECT DISTINCT `partition` FROM {table}", [])
            if _is_text(partition)
        ]

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        if not changes:
            return []

        async def update(run: _Run) -> Sequence[T]:
            before = await _rows(run, [key for key, _ in changes], " FOR UPDATE")
            answers: list[T] = []
            inserted: list[tuple[Any, ...]] = []
            updated: list[tuple[Any, ...]] = []
            removed: list[Key] = []
            for key, change in changes:
                old = before.get(key)
                row, answer = change(old)
                answers.append(answer)
                if row is None:
                    if old is not None:
                        removed.append(key)
                elif old is None or old.state is State.UNREADABLE or (row.spec, row.schedule) != (old.spec, old.schedule):
                    if old is not None:
                        removed.append(key)  # rare, and so not worth a statement that would send the arguments every time
                    inserted.append(encode(row))
                elif row != old:
                    encoded = encode(row)
                    updated.append((*key, *encoded[4:]))
            if updated:
                await run(statements.UPDATE, [json.dumps(updated)])
            if removed:
                which, parameters = where(removed)
                await run(f"DELETE t FROM {statements.BY_NAME} WHERE {which}", parameters)
            if inserted:
                row_of_parameters = f"({', '.join(['%s'] * len(statements.FIELDS))})"
                await run(
                    statements.INSERT + ", ".join([row_of_parameters] * len(inserted)), [value for row in inserted for value in row]
                )
            return answers

        return await self._transaction(update)

    async def _fetch(self, sql: str, parameters: Any) -> Sequence[Any]:
        return await self._transaction(lambda run: run(sql, parameters))

    async def _transaction(self, call: "Callable[[_Run], Awaitable[T]]") -> T:
        """``call`` in a transaction, once more if that was rolled back because of another one."""
        try:
            async with asyncio.timeout(self._timeout):
                for attempt in range(_ATTEMPTS):
                    try:
                        return await self._attempt(call)
                    except aiomysql.MySQLError as error:
                        if code_of(error) not in AGAIN or attempt == _ATTEMPTS - 1:
                            raise
                    await asyncio.sleep(random.uniform(0, 0.01 * (attempt + 1)))
                raise AssertionError
        except UnicodeEncodeError as error:
            raise RepositoryError(f"A partition, name or argument can't be stored as UTF-8 ({error.reason})") from error
        except (aiomysql.MySQLError, OSError, TimeoutError, RuntimeError, asyncio.IncompleteReadError) as error:
            raise translated(error, self._where, self._name, self._timeout) from error

    async def _attempt(self, call: "Callable[[_Run], Awaitable[T]]") -> T:
        async with self._pool.acquire() as connection:
            try:
                async with connection.cursor() as cursor:

                    async def run(sql: str, parameters: Any) -> Sequence[Any]:
                        await cursor.execute(sql.replace("{table}", self._table), parameters)
                        rows: Sequence[Any] = await cursor.fetchall()
                        return rows

                    answer = await call(run)
                await connection.commit()
                return answer
            except BaseException:
                # Perhaps in the middle of an answer, certainly in a transaction: the server rolls it back when the connection ends.
                connection.close()
                raise

    async def _open(self, *, create: bool) -> None:
        """Create or check the table."""
        if create and await self._comment() is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # others create it, too, at this moment
                await self._fetch(statements.SCHEMA.replace("{comment}", f"{statements.COMMENT}{statements.FORMAT}"), [])
        comment = await self._comment()
        if comment is None:
            raise StoreMissingError(
                f"There is no table {self._name!r} in {self._where}; create it, or leave out mysql_skip_table_create"
            )
        version = comment.removeprefix(statements.COMMENT)
        if version == comment or not version.isdecimal():
            raise RepositoryError(
                f"The table {self._name!r} in {self._where} is not one of Pyncette's; choose another mysql_table_name"
            )
        if int(version) > statements.FORMAT:
            raise RepositoryError(
                f"The table {self._name!r} in {self._where} has the stored format {version}, but this Pyncette knows only {statements.FORMAT}; "
                "upgrade pyncette-mysql"
            )

    async def _comment(self) -> str | None:
        sql = "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        found = await self._fetch(sql, [self._name])
        return found[0][0] if found else None


_Run = Callable[[str, Any], Awaitable[Sequence[Any]]]


@contextlib.asynccontextmanager
async def mysql_repository(
    *,
    mysql_host: str = "localhost",
    mysql_port: int = 3306,
    mysql_user: str | None = None,
    mysql_password: str = "",
    mysql_database: str,
    mysql_table_name: str = "pyncette_tasks",
    mysql_pool_size: int = 5,
    mysql_timeout: float = 10.0,
    mysql_ssl: bool = False,
    mysql_skip_table_create: bool = False,
) -> AsyncIterator[MySQLRepository]:
    """Tasks in a table of MySQL 8 or newer, or MariaDB 10.6 or newer.

    :param mysql_database: which has to exist.
    :param mysql_pool_size: the most connections that are open at once.
    :param mysql_timeout: seconds that a call may take before it is given up and its connection thrown away.
    :param mysql_ssl: encrypt connections, and check the server's certificate.
    :param mysql_skip_table_create: the table exists, created by the statement of :func:`schema`; don't try to create it.
    :raises ConfigurationError: an option makes no sense.
    :raises RepositoryError: the server refused, or the table can't be used.
    :raises TransientRepositoryError: the server could not be reached.
    """
    quoted(mysql_table_name)
    if mysql_pool_size < 1:
        raise ConfigurationError(f"mysql_pool_size={mysql_pool_size!r} is below 1; use 5 or so")
    if not mysql_timeout > 0:
        raise ConfigurationError(f"mysql_timeout={mysql_timeout!r} is not a number of seconds above 0")
    pool = await aiomysql.create_pool(
        minsize=0,  # the first call connects, and says what is wrong
        maxsize=mysql_pool_size,
        pool_recycle=math.ceil(mysql_timeout),  # before the server would close it
        echo=False,
        host=mysql_host,
        port=mysql_port,
        user=mysql_user,
        password=mysql_password,
        db=mysql_database,
        charset="utf8mb4",
        autocommit=False,
        connect_timeout=mysql_timeout,
        init_command=_SESSION.format(seconds=math.ceil(mysql_timeout) + 1),  # no call takes longer
        ssl=ssl.create_default_context() if mysql_ssl else None,
    )
    repository = MySQLRepository(pool, f"{mysql_host}:{mysql_port}/{mysql_database}", mysql_table_name, mysql_timeout)
    try:
        await repository._open(create=not mysql_skip_table_create)
        yield repository
    finally:
        pool.terminate()  # every call has ended, or is not worth waiting for
        await pool.wait_closed()


async def _rows(run: _Run, keys: Sequence[Key], locking: str) -> dict[Key, Row]:
    which, parameters = where(keys)
    return {
        row.key: row
        for row in map(row_of, await run(f"{statements.SELECT} {statements.BY_NAME} WHERE {which}{locking}", parameters))
    }


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if len(url.path) < 2:
        raise ConfigurationError(f"The URL {url} names no database; write {url.scheme}://HOST/DATABASE")
    return {
        "mysql_host": url.hostname(),
        "mysql_port": url.port(3306),
        "mysql_user": url.username,
        "mysql_password": url.password or "",
        "mysql_database": url.path[1:],
    }


backend = Backend(contract_version=1, factory=mysql_repository, prefix="mysql_", from_url=_from_url)
