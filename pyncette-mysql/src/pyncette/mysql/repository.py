"""The store: rows in an InnoDB table, a pool of connections.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call locks its rows, applies the rules, and writes them back in the same
transaction. READ COMMITTED, because the gap locks of InnoDB's default would make claims of neighbours wait for each other.
"""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

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
from pymysql.constants import CR, ER

from pyncette import lifecycle
from pyncette.backends import Backend, BackendURL
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import ClaimResult, Key, Page, Row, State, Stats
from pyncette.rowwise import Change, RowwiseRepository

__all__ = ["MySQLRepository", "backend", "mysql_repository", "schema"]

T = TypeVar("T")

#: The version of the stored format, kept in the comment of the table. Raised whenever what is stored changes its meaning.
FORMAT = 1
_COMMENT = "Pyncette, stored format "

# Keys are VARBINARY, because every collation that is on all servers pads: 'a' = 'a '. Parameters are text all the same, since
# aiomysql can't escape bytes; the server compares a VARBINARY with the UTF-8 bytes of the text.
_SCHEMA = """CREATE TABLE IF NOT EXISTS {table} (
    `partition` VARBINARY(1100) NOT NULL,
    name VARBINARY(1000) NOT NULL,
    spec LONGTEXT NOT NULL,
    schedule TEXT NOT NULL,
    occurrence BIGINT NOT NULL,
    execute_after BIGINT NOT NULL,
    ready_at BIGINT,
    lease VARCHAR(64),
    locked_until BIGINT,
    epoch BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    error TEXT,
    PRIMARY KEY (`partition`, name),
    INDEX ready (`partition`, ready_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin COMMENT = '{comment}'"""

_FIELDS = (
    *("`partition`", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error"),
)
_COLUMNS = ", ".join(f"t.{field}" for field in _FIELDS)
_READY = "`partition` = %s AND ready_at IS NOT NULL"
# Rows that are named have to be sought by their names. On the other index a row may move, while that is read, from what comes
# to what has been, and be missed: READ COMMITTED allows it, and the optimiser likes that index for small tables.
_BY_NAME = "{table} AS t FORCE INDEX (PRIMARY)"
_BY_TIME = "{table} AS t FORCE INDEX (ready)"
_SELECT = f"SELECT {_COLUMNS} FROM"
_PEEK = f"SELECT NULL, ready_at FROM {_BY_TIME} WHERE {_READY} ORDER BY ready_at LIMIT 1"
_PEEK_NAMED = f"SELECT name, ready_at FROM {_BY_NAME} WHERE `partition` = %s AND name IN ({{names}})"
_DUE = " AND ready_at <= %s ORDER BY ready_at LIMIT %s FOR UPDATE SKIP LOCKED"
_TAKE = f"{_SELECT} {_BY_TIME} WHERE `partition` = %s{_DUE}"
_TAKE_NAMED = f"{_SELECT} {_BY_NAME} WHERE `partition` = %s AND name IN ({{names}}){_DUE}"
_CLAIM = (
    f"UPDATE {_BY_NAME} SET lease = %s, locked_until = %s, ready_at = %s, epoch = GREATEST(epoch + 1, %s), attempt = attempt + 1"
)
_NEXT = f"SELECT ready_at FROM {_BY_TIME} WHERE {_READY} AND NOT lease <=> %s ORDER BY ready_at LIMIT 1"
_NEXT_NAMED = (
    f"SELECT ready_at FROM {_BY_NAME} WHERE {_READY} AND name IN ({{names}}) AND NOT lease <=> %s ORDER BY ready_at LIMIT 1"
)
_INSERT = f"INSERT INTO {{table}} ({', '.join(_FIELDS)}) VALUES "
# The key, the arguments and their schedule come first in a row: what runs change comes after, and arguments may be large.
_CHANGED = _FIELDS[4:]
_UTF8 = "CHARACTER SET utf8mb4"
_TYPES = (
    *("BIGINT", "BIGINT", "BIGINT", f"VARCHAR(64) {_UTF8}", "BIGINT", "BIGINT", "BIGINT", "BIGINT"),
    *(f"VARCHAR(16) {_UTF8}", f"TEXT {_UTF8}"),
)
# One statement for any number of rows. The row alias of newer upserts is an error on MariaDB, and VALUES() deprecated on MySQL.
_UPDATE = f"""UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (
    k_partition VARCHAR(1100) {_UTF8} PATH '$[0]', k_name VARCHAR(255) {_UTF8} PATH '$[1]',
    {", ".join(f"{field} {kind} PATH '$[{index}]'" for index, (field, kind) in enumerate(zip(_CHANGED, _TYPES, strict=True), 2))}
)) AS j STRAIGHT_JOIN {_BY_NAME} ON t.`partition` = CAST(j.k_partition AS BINARY) AND t.name = CAST(j.k_name AS BINARY)
SET {", ".join(f"t.{field} = j.{field}" for field in _CHANGED)}"""
_STATS = """SELECT (SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s),
(SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s AND ready_at <= %(now)s),
(SELECT MIN(ready_at) FROM {table} WHERE `partition` = %(partition)s AND ready_at <= %(now)s),
(SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s AND ready_at IS NULL AND state = 'failed')"""

# Once for each connection, in one round trip. A connection that died without a word would keep its locks, and every claim pass its
# rows by, until the server's wait_timeout, which is eight hours by default. The comments are read by MySQL or by MariaDB only.
_SESSION = """SET SESSION wait_timeout = {seconds:d}, SESSION sql_mode = 'STRICT_ALL_TABLES',
/*!80000 SESSION transaction_isolation */ /*M! SESSION tx_isolation */ = 'READ-COMMITTED'"""

_STATES = {state.value: state for state in State}
_ATTEMPTS = 10
#: How often a claim looks once more for rows that are due but were locked.
_LOOKS_AGAIN = 2

#: The transaction was rolled back and may be tried again at once: deadlock, lock wait timeout, somebody else inserted the row.
_AGAIN = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.DUP_ENTRY}
#: The server or the way to it is at fault, and will be back: the call may be repeated.
_TRANSIENT = {
    *(CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_IPSOCK_ERROR),
    *(ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN, ER.QUERY_INTERRUPTED, ER.OPTION_PREVENTS_STATEMENT, ER.TOO_MANY_USER_CONNECTIONS),
    *(ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.LOCK_TABLE_FULL),
    1836,  # read-only: this was the primary until a moment ago
    1927,  # MariaDB: connection was killed
}
_TRANSIENT |= _AGAIN


class MySQLRepository(RowwiseRepository):
    """Rows in a table of MySQL or MariaDB. Opened by :func:`mysql_repository`."""

    def __init__(self, pool: aiomysql.Pool, where: str, table: str, timeout: float) -> None:
        self._pool = pool
        self._where = where
        self._name = table
        self._table = _quoted(table).replace("%", "%%")  # the driver's format
        self._timeout = timeout  # of each call, including the wait for a connection

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease = lifecycle.new_lease()
        result = await self._claim(now, partition, lease_duration, lease, limit, names)
        for _ in range(_LOOKS_AGAIN):
            if result.next_ready_at is None or result.next_ready_at > now or len(result.claims) >= limit:
                break
            # What is due and was skipped is locked: by one who takes it, or by a neighbour in passing, who will be gone in a moment.
            await asyncio.sleep(random.uniform(0, 0.002))
            try:
                more = await self._claim(now, partition, lease_duration, lease, limit - len(result.claims), names)
            except RepositoryError:
                break  # what has been claimed must not be lost
            result = ClaimResult([*result.claims, *more.claims], more.next_ready_at, more.missing)
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
            seen = await run(_PEEK if names is None else _PEEK_NAMED, among) if names is None or names else []
            known = {name.decode() for name, _ in seen} if names is not None else set()
            missing = [name for name in names or () if name not in known]
            ready = sorted(ready_at for _, ready_at in seen if ready_at is not None)
            if not ready or ready[0] > at:
                return ClaimResult([], _instant(ready[0] if ready else None), missing)
            rows = [_decode(row) for row in await run(_TAKE if names is None else _TAKE_NAMED, [*among, at, limit])]
            taken = [claimed for row in rows if (claimed := lifecycle.claim(row, now, lease_duration, lease)) is not None]
            if taken:
                until = to_microseconds(lifecycle.lease_end(now, lease_duration))
                where, parameters = _where([claim.key for _, claim in taken])
                await run(f"{_CLAIM} WHERE {where}", [lease, until, until, at, *parameters])
            following = await run(_NEXT if names is None else _NEXT_NAMED, [*among, lease])
            return ClaimResult([claim for _, claim in taken], _instant(following[0][0] if following else None), missing)

        return await self._transaction(claim)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        if not keys:
            return []
        rows = await self._transaction(lambda run: _rows(run, keys, ""))
        return [rows.get(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        sql = f"{_SELECT} {_BY_NAME} WHERE `partition` = %s AND name > %s ORDER BY name LIMIT %s"
        rows = [_decode(row) for row in await self._fetch(sql, [partition, token or "", limit + 1])]
        return Page(rows[:limit], rows[limit - 1].key.name if len(rows) > limit else None)

    async def server_time(self) -> datetime:
        [[instant]] = await self._fetch("SELECT UTC_TIMESTAMP(6)", [])
        server_time: datetime = instant.replace(tzinfo=UTC)
        return server_time

    async def stats(self, now: datetime, partition: str) -> Stats:
        [[rows, due, oldest, failed]] = await self._fetch(_STATS, {"partition": partition, "now": to_microseconds(now)})
        return Stats(rows=rows, due=due, oldest_due=_instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        # InnoDB skips from one partition to the next in the index; nothing else is read.
        return [partition.decode() for (partition,) in await self._fetch("SELECT DISTINCT `partition` FROM {table}", [])]

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
                elif old is None or (row.spec, row.schedule) != (old.spec, old.schedule):
                    if old is not None:
                        removed.append(key)  # rare, and so not worth a statement that would send the arguments every time
                    inserted.append(_encode(row))
                elif row != old:
                    encoded = _encode(row)
                    updated.append((*key, *encoded[4:]))
            if updated:
                await run(_UPDATE, [json.dumps(updated)])
            if removed:
                where, parameters = _where(removed)
                await run(f"DELETE t FROM {_BY_NAME} WHERE {where}", parameters)
            if inserted:
                row_of_parameters = f"({', '.join(['%s'] * len(_FIELDS))})"
                await run(_INSERT + ", ".join([row_of_parameters] * len(inserted)), [value for row in inserted for value in row])
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
                        if _code(error) not in _AGAIN or attempt == _ATTEMPTS - 1:
                            raise
                    await asyncio.sleep(random.uniform(0, 0.01 * (attempt + 1)))
                raise AssertionError
        except (aiomysql.MySQLError, OSError, TimeoutError, RuntimeError, asyncio.IncompleteReadError, UnicodeEncodeError) as error:
            raise self._translate(error) from error

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
                await self._fetch(_SCHEMA.replace("{comment}", f"{_COMMENT}{FORMAT}"), [])
        comment = await self._comment()
        if comment is None:
            raise StoreMissingError(
                f"There is no table {self._name!r} in {self._where}; create it, or leave out mysql_skip_table_create"
            )
        version = comment.removeprefix(_COMMENT)
        if version == comment or not version.isdecimal():
            raise RepositoryError(
                f"The table {self._name!r} in {self._where} is not one of Pyncette's; choose another mysql_table_name"
            )
        if int(version) > FORMAT:
            raise RepositoryError(
                f"The table {self._name!r} in {self._where} has the stored format {version}, but this Pyncette knows only {FORMAT}; "
                "upgrade pyncette-mysql"
            )

    async def _comment(self) -> str | None:
        sql = "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        found = await self._fetch(sql, [self._name])
        return found[0][0] if found else None

    def _translate(self, error: Exception) -> RepositoryError:
        what = f"MySQL at {self._where}"
        code = _code(error)
        if isinstance(error, TimeoutError):
            return TransientRepositoryError(f"{what} did not answer within {self._timeout:g} s; is the address right?")
        if code == CR.CR_CONN_HOST_ERROR:
            return TransientRepositoryError(
                f"{what} can't be reached ({_line(error.__cause__ or error)}); is it running, is the address right?"
            )
        if code in _TRANSIENT or not isinstance(error, aiomysql.MySQLError):
            return TransientRepositoryError(f"{what} can't be used now: {_line(error)}")
        if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR):
            return RepositoryError(f"{what} refused the login: {_line(error)}; check user, password and grants")
        if code == ER.BAD_DB_ERROR:
            return RepositoryError(f"{what} has no such database: {_line(error)}; create it, or correct the name")
        if code == ER.NO_SUCH_TABLE:
            return RepositoryError(f"There is no table {self._name!r} in {self._where}; create it, or restart to have it created")
        if code == ER.BAD_FIELD_ERROR:
            return RepositoryError(
                f"The table {self._name!r} in {self._where} is not one of Pyncette's; choose another mysql_table_name"
            )
        return RepositoryError(f"{what} refused: {_line(error)}")


_Run = Callable[[str, Any], Awaitable[Sequence[Any]]]


def schema(table: str) -> str:
    """The statement that creates the table called ``table``, for those who use ``mysql_skip_table_create``."""
    return _SCHEMA.format(table=_quoted(table), comment=f"{_COMMENT}{FORMAT}")


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
    _quoted(mysql_table_name)
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
    where, parameters = _where(keys)
    return {row.key: row for row in map(_decode, await run(f"{_SELECT} {_BY_NAME} WHERE {where}{locking}", parameters))}


def _where(keys: Sequence[Key]) -> tuple[str, list[Any]]:
    """Which rows have ``keys``: by partition, because MariaDB does not use an index for pairs; sorted, so that locks are taken in order."""
    partitions: dict[str, list[str]] = {}
    for partition, name in sorted(keys):
        partitions.setdefault(partition, []).append(name)
    alternatives = [f"(`partition` = %s AND name IN ({', '.join(['%s'] * len(names))}))" for names in partitions.values()]
    return " OR ".join(alternatives), [value for partition, names in partitions.items() for value in (partition, *names)]


def _encode(row: Row) -> tuple[Any, ...]:
    key, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error = row
    times = to_microseconds(occurrence), to_microseconds(execute_after), None if ready_at is None else to_microseconds(ready_at)
    until = None if locked is None else to_microseconds(locked)
    return *key, spec, schedule, *times, lease, until, epoch, revision, attempt, state.value, error


def _decode(values: Sequence[Any]) -> Row:
    partition, name, spec, schedule, occurrence, execute_after, ready, lease, locked, epoch, revision, attempt, state, error = (
        values
    )
    times = from_microseconds(occurrence), from_microseconds(execute_after), _instant(ready)
    key = Key(partition.decode(), name.decode())
    return Row(key, spec, schedule, *times, lease, _instant(locked), epoch, revision, attempt, _STATES[state], error)


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _quoted(table: str) -> str:
    if not table or len(table) > 64 or "\0" in table or table.endswith(" "):
        raise ConfigurationError(f"mysql_table_name={table!r} is not the name of a table; it has 1 to 64 characters")
    return "`" + table.replace("`", "``") + "`"


def _code(error: BaseException) -> int | None:
    return error.args[0] if isinstance(error, aiomysql.MySQLError) and error.args and isinstance(error.args[0], int) else None


def _line(error: BaseException) -> str:
    text = str(error.args[-1]) if error.args else ""
    return text.splitlines()[0] if text else type(error).__name__


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
