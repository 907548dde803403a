"""The store: rows in an InnoDB table, a pool of connections.

The rules of a row's life are :mod:`pyncette.lifecycle`: a call locks its rows, applies the rules, and writes them back in the same
transaction. READ COMMITTED, because the gap locks of InnoDB's default would make claims of neighbours wait for each other.
"""

import contextlib
import copy
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiomysql

from pyncette.backends import Backend
from pyncette.clock import to_microseconds
from pyncette.codec import name_in_bytes
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError
from pyncette.joining import JoinedRepository
from pyncette.lifecycle import Settled
from pyncette.looks import Looks
from pyncette.mysql import statements
from pyncette.mysql.batches import selects, settled, written
from pyncette.mysql.claims import MySQLClaims
from pyncette.mysql.connections import Connections
from pyncette.mysql.faults import OtherRowsError
from pyncette.mysql.history import MySQLHistory
from pyncette.mysql.joining import JoinedTransactions, user_connection
from pyncette.mysql.login import URL_OPTIONS, from_url, login, tls
from pyncette.mysql.statements import brief, instant, quoted, row_of, schema
from pyncette.mysql.transactions import BEGIN, COMMIT, Run, Statement, Transactions, exactly
from pyncette.repository import (
    Key,
    Outcome,
    Page,
    Registration,
    Repository,
    Row,
    Settlement,
    State,
    Stats,
    table_of_history,
)
from pyncette.rowwise import Change, RowwiseRepository

__all__ = ["MySQLRepository", "backend", "mysql_repository", "schema"]

T = TypeVar("T")

#: Whether the current call is a claim or a settlement, which wait for no other calls.
_URGENT = ContextVar("pyncette_mysql_urgent", default=False)


class MySQLRepository(MySQLClaims, MySQLHistory, RowwiseRepository):
    """Rows in a table of MySQL or MariaDB. Opened by :func:`mysql_repository`."""

    def __init__(self, connections: Connections, where: str, table: str, timeout: float) -> None:
        self._where = where
        self._name = table
        self._timeout = timeout
        self._transactions = Transactions(connections, where, quoted(table), table, timeout)
        self._looks = Looks()
        self._joined: JoinedTransactions | None = None
        self._database = ""

    def within(self, connection: object) -> Repository:
        """Join a transaction of aiomysql, PyMySQL, SQLAlchemy or Django on the same server, whatever its default database."""
        user = user_connection(connection, self._where)
        table = f"{quoted(self._database)}.{quoted(self._name)}"
        joined = copy.copy(self)
        largest = self._transactions.largest
        joined._transactions = joined._joined = JoinedTransactions(user, self._where, table, self._name, self._timeout, largest)
        return JoinedRepository(joined, user, self)

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        if self._joined is None:
            await super().register(now, registrations, force=force)
        else:
            await self.update(await self._joined.inserted(now, registrations, force))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        removed = list(await super().unregister(now, keys))
        for index, key in enumerate(keys):
            if not removed[index] and (name := name_in_bytes(key.name)) is not None:
                removed[index] = await self._remove(key.partition, name)
        return removed

    async def _remove(self, partition: str, name: bytes) -> bool:
        async def remove(run: Run) -> bool:
            _, found = await run(BEGIN, Statement(statements.FIND_NAMED, [partition, name.hex()]))
            await run(Statement(statements.DELETE_NAMED, [partition, name.hex()]), exactly(len(found)), COMMIT)
            return bool(found)

        return await self._transactions.run(remove)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        if not keys:
            return []

        async def get(run: Run) -> dict[Key, Row]:
            return _by_key(await run(*selects(statements.SELECT, keys, self._transactions.largest)))

        rows = await self._transactions.run(get)
        return [rows.get(key) for key in keys]

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        # The token is the first name of the next page; if that row is removed meanwhile, the page begins with the following one.
        try:
            start = bytes.fromhex(token or "").hex()
        except ValueError:
            raise RepositoryError(f"{token!r:.100} is not a continuation token; start again without one") from None
        found = await self._fetch(statements.LIST, [partition, start, limit + 1])
        return Page([row_of(values) for values in found[:limit]], found[limit][1].hex() if len(found) > limit else None)

    async def server_time(self) -> datetime:
        [[instant]] = await self._fetch("SELECT UTC_TIMESTAMP(6)", urgent=True)
        server_time: datetime = instant.replace(tzinfo=UTC)
        return server_time

    async def stats(self, now: datetime, partition: str) -> Stats:
        [[rows, due, oldest, failed]] = await self._fetch(statements.STATS, {"partition": partition, "now": to_microseconds(now)})
        return Stats(rows=rows, due=due, oldest_due=instant(oldest), failed=failed)

    async def partitions(self) -> Sequence[str]:
        # InnoDB skips from partition to partition in the index, and reads nothing else.
        return [
            partition.decode()
            for (partition,) in await self._fetch("SELECT DISTINCT `partition` FROM {table}")
            if _is_text(partition)
        ]

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        token = _URGENT.set(True)
        try:
            return await super().settle(now, settlements)
        finally:
            _URGENT.reset(token)

    async def write_expected(self, expected: Sequence[Settled]) -> Collection[Key]:
        async def write(run: Run) -> None:
            await run(BEGIN, *settled(expected, self._transactions.largest), COMMIT)

        try:
            await self._transactions.run(write, urgent=True)
        except OtherRowsError:
            return ()
        return {each.key for each in expected}

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        if not changes:
            return []

        async def update(run: Run) -> Sequence[T]:
            # A single registration is usually a new row: one statement and one round trip.
            alone = changes[0][1](None) if len(changes) == 1 and not self._joined else None
            if alone is not None and alone[0] is not None:
                with contextlib.suppress(aiomysql.IntegrityError):  # the row exists
                    insert, *_ = written((), (), [alone[0]], self._transactions.largest)
                    await self._written(run(insert, COMMIT), [alone[0]])
                    return [alone[1]]
            locking = selects(statements.BRIEF, [key for key, _ in changes], self._transactions.largest, " FOR UPDATE")
            before = _by_key(await run(BEGIN, *locking))
            answers: list[T] = []
            inserted: list[Row] = []
            updated: list[Row] = []
            removed: list[Key] = []
            for key, change in changes:
                old = before.get(key)
                row, answer = change(old)
                answers.append(answer)
                same = row is not None and old is not None and brief(row.spec) == old.spec
                if (row._replace(spec=old.spec) if row is not None and old is not None and same else row) == old:
                    continue
                replaced = old is None or row is None or not same or row.schedule != old.schedule or old.state is State.UNREADABLE
                if old is not None and replaced:
                    removed.append(key)  # rare, so not worth a statement that always sends the arguments
                if row is not None:
                    (inserted if replaced else updated).append(row)
            write = run(*written(updated, removed, inserted, self._transactions.largest), COMMIT)
            await self._written(write, [*updated, *inserted])
            return answers

        return await self._transactions.run(update, urgent=_URGENT.get())

    async def _written(self, writing: Awaitable[Any], rows: Sequence[Row]) -> None:
        try:
            await writing
        finally:
            for row in rows:
                if row.ready_at is not None:
                    self._looks.written(row.key.partition, row.ready_at)

    async def _fetch(self, sql: str, parameters: Any = (), *, urgent: bool = False) -> Sequence[Any]:
        async def fetch(run: Run) -> Sequence[Any]:
            [rows] = await run(Statement(sql, parameters))
            return rows

        return await self._transactions.run(fetch, urgent=urgent)

    async def _open(self, *, create: bool) -> None:
        """Create or check the table."""
        if create and await self._comment() is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other processes may create it at this moment, too
                await self._fetch(statements.SCHEMA.replace("{comment}", f"{statements.COMMENT}{statements.FORMAT}"))
        comment = await self._comment()
        table = f"The table {self._name!r} in {self._where}"
        if comment is None:
            raise StoreMissingError(
                f"There is no table {self._name!r} in {self._where}; create it, or leave out mysql_skip_table_create"
            )
        version = comment.removeprefix(statements.COMMENT)
        if version == comment or not version.isdecimal():
            if {column for (column,) in await self._fetch(statements.COLUMNS_OF, [self._name])} == statements.COLUMNS_OF_PYNCETTE_1:
                raise RepositoryError(
                    f"{table} is one of Pyncette 1, which this version can't read; choose another mysql_table_name, "
                    "schedule its tasks again there, and drop it once no program of Pyncette 1 runs any more"
                )
            raise RepositoryError(f"{table} is not one of Pyncette's; choose another mysql_table_name")
        if int(version) > statements.FORMAT:
            raise RepositoryError(
                f"{table} has the stored format {version}, but this Pyncette knows only {statements.FORMAT}; upgrade pyncette-mysql"
            )
        if create and await self._comment(table_of_history(self._name, statements.LONGEST_NAME)) is None:
            await self._create_history()
        [[largest, self._database]] = await self._fetch("SELECT @@max_allowed_packet, DATABASE()")
        self._transactions.largest = largest - 1  # minus the byte of the command

    async def _comment(self, table: str | None = None) -> str | None:
        sql = "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        found = await self._fetch(sql, [table or self._name])
        return found[0][0] if found else None


@contextlib.asynccontextmanager
async def mysql_repository(
    *,
    mysql_host: str = "localhost",
    mysql_port: int = 3306,
    mysql_unix_socket: str | None = None,
    mysql_user: str | None = None,
    mysql_password: str = "",
    mysql_database: str,
    mysql_table_name: str = "pyncette_tasks",
    mysql_pool_size: int = 5,
    mysql_timeout: float = 10.0,
    mysql_ssl: bool = False,
    mysql_ssl_mode: str | None = None,
    mysql_ssl_ca: str | None = None,
    mysql_ssl_cert: str | None = None,
    mysql_ssl_key: str | None = None,
    mysql_ssl_context: ssl.SSLContext | None = None,
    mysql_skip_table_create: bool = False,
) -> AsyncIterator[MySQLRepository]:
    """Tasks in a table of MySQL 8 or newer, or MariaDB 10.6 or newer.

    :param mysql_unix_socket: path of the server's socket, instead of host and port.
    :param mysql_database: the database, which must exist.
    :param mysql_pool_size: the maximum number of open connections. One of them is reserved for claims and settlements.
    :param mysql_timeout: seconds that a call may take, once it has a connection, before it fails and the connection is
        discarded.
    :param mysql_ssl: encrypt connections, and check the server's certificate.
    :param mysql_ssl_mode: "DISABLED", "REQUIRED" (accepts any certificate), "VERIFY_CA" (accepts any host name) or
        "VERIFY_IDENTITY", the default with TLS.
    :param mysql_ssl_ca: file of the certificate authorities to trust, instead of the system's. This option and the next two
        imply TLS.
    :param mysql_ssl_cert: file of this client's certificate, which the server may require.
    :param mysql_ssl_key: file of its key.
    :param mysql_ssl_context: an ``ssl.SSLContext`` instead of all these.
    :param mysql_skip_table_create: the table exists already, created with the statements of :func:`schema`; don't try to create
        it.
    :raises ConfigurationError: an option is invalid.
    :raises RepositoryError: the server refused, TLS failed, or the table can't be used.
    :raises TransientRepositoryError: the server could not be reached.
    """
    quoted(mysql_table_name)
    if mysql_pool_size < 1:
        raise ConfigurationError(f"mysql_pool_size={mysql_pool_size!r} is below 1; use 5, for example")
    if not mysql_timeout > 0:
        raise ConfigurationError(f"mysql_timeout={mysql_timeout!r} is not a number of seconds above 0")
    context = tls(mysql_ssl, mysql_ssl_mode, mysql_ssl_ca, mysql_ssl_cert, mysql_ssl_key, mysql_ssl_context)
    options = login(
        *(mysql_host, mysql_port, mysql_unix_socket, mysql_user, mysql_password, mysql_database),
        timeout=mysql_timeout,
        context=context,
    )
    where = f"{mysql_unix_socket or f'{mysql_host}:{mysql_port}'}/{mysql_database}"
    connections = Connections(options, mysql_pool_size, mysql_timeout, where)
    try:
        repository = MySQLRepository(connections, where, mysql_table_name, mysql_timeout)
        await repository._open(create=not mysql_skip_table_create)
        yield repository
    finally:
        connections.close()


def _by_key(results: Sequence[Sequence[Any]]) -> dict[Key, Row]:
    return {row.key: row for result in results for row in map(row_of, result)}


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


backend: Backend = Backend(
    contract_version=1, factory=mysql_repository, prefix="mysql_", from_url=from_url, url_options=URL_OPTIONS
)
