"""Runs statements within a user's transaction on MySQL or MariaDB."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pymysql.constants import ER, SERVER_STATUS

from pyncette import lifecycle
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.joining import UserConnection, begun, cause_of, is_a, of_a_framework, unknown
from pyncette.mysql.batches import absent
from pyncette.mysql.faults import code_of, translated
from pyncette.mysql.statements import brief
from pyncette.mysql.transactions import BEGIN, COMMIT, Run, Statement, Transactions, too_large
from pyncette.repository import Key, Registration, Row
from pyncette.rowwise import Change

__all__ = ["JoinedTransactions", "user_connection"]

_T = TypeVar("_T")


class JoinedTransactions(Transactions):
    """Replaces the store's own transactions: all statements go to the user's, except those that begin and end a transaction."""

    def __init__(self, user: UserConnection, where: str, table: str, name: str, timeout: float, largest: int) -> None:
        self._user = user
        self._where = where
        self._table = table.replace("%", "%%")
        self._name = name
        self._timeout = timeout
        self.largest = largest

    async def run(self, call: Callable[[Run], Awaitable[_T]], *, urgent: bool = False) -> _T:
        """The result of ``call``, which is called only once, because a conflict also rolls back the user's transaction."""
        try:
            if self._user.blocking:
                return await call(self._run)
            async with asyncio.timeout(self._timeout):
                return await call(self._run)
        except (UnicodeEncodeError, UnicodeDecodeError) as error:
            raise RepositoryError(f"A partition, name, argument or note can't be stored as UTF-8 ({error.reason})") from None
        except Exception as error:
            cause = cause_of(error)
            if (explained := self._explained(cause)) is None:
                raise
            raise explained from cause

    async def inserted(
        self, now: datetime, registrations: Sequence[Registration], force: bool
    ) -> Sequence[tuple[Key, Change[None]]]:
        """Store the new rows, and return the changes to those that exist and so can be locked.

        Under REPEATABLE READ, reading a missing row locks the gap where it would be. Two transactions that read before they insert would
        deadlock, and the server would roll one of them back.
        """
        rows = [lifecycle.register(None, now, registration, force=force) for registration in registrations]
        if rows:
            await self.run(lambda run: run(*absent(rows, self.largest)))

        def change(inserted: Row, registration: Registration) -> Change[None]:
            as_read = inserted._replace(spec=brief(inserted.spec))
            return lambda row: (row if row == as_read else lifecycle.register(row, now, registration, force=force), None)

        return [(row.key, change(row, registration)) for row, registration in zip(rows, registrations, strict=True)]

    async def _run(self, *statements: Statement) -> list[Sequence[Any]]:
        results: list[Sequence[Any]] = []
        for statement in statements:
            found: Sequence[Any] = ()
            if statement not in (BEGIN, COMMIT):
                # a packet that is too large would close the connection and lose the transaction
                size = len(statement.sql) + sum(_bytes(value) for value in statement.parameters)
                if size > self.largest:
                    raise too_large(statement, size, self._where, self.largest)
                found = await self._user.fetch(statement.sql.replace("{table}", self._table), tuple(statement.parameters))
            results.append([_as_text(row) for row in found])
        return results

    def _explained(self, error: BaseException) -> Exception | None:
        code = code_of(error)
        if code is None and type(error).__name__ in (
            "OperationalError",
            "ProgrammingError",
            "InterfaceError",
        ):  # from another driver
            code = error.args[0] if error.args and isinstance(error.args[0], int) else None
        again = "roll the transaction back, and repeat it as a whole"
        if code == ER.LOCK_DEADLOCK:
            return TransientRepositoryError("MySQL has rolled this transaction back because of a deadlock; repeat it")
        if code == ER.LOCK_WAIT_TIMEOUT:
            return TransientRepositoryError(f"This transaction has waited too long for another one's lock on a row; {again}")
        if code in (ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.TABLEACCESS_DENIED_ERROR):
            return ConfigurationError(
                f"There is no table {self._name!r} of Pyncette's where this connection leads to, or its user may not use it; "
                f"pass one to the server of the tasks, {self._where}"
            )
        if isinstance(error, TimeoutError):
            return TransientRepositoryError(f"MySQL did not answer within {self._timeout:g} s on this connection; {again}")
        if isinstance(error, (OSError, asyncio.IncompleteReadError)) or code in (0, 2006, 2013, 2014, 1927, 4031):
            return TransientRepositoryError(f"The connection of this transaction is lost; {again}")
        return (
            translated(error, self._where, self._name, self._timeout) if code is not None and isinstance(error, Exception) else None
        )


def user_connection(connection: Any, where: str) -> UserConnection:
    """Wrap a user's connection. Raises :class:`ConfigurationError` if it is not a connection to MySQL."""
    found: UserConnection | None
    if is_a(connection, "aiomysql", "Connection"):
        found = _Aiomysql(connection)
    elif is_a(connection, "pymysql.connections", "Connection"):
        found = _PyMySQL(connection)
    else:
        found = of_a_framework(connection, dialects=["mysql", "mariadb"])
    if found is None:
        raise unknown(connection, f"MySQL at {where}", "a connection of aiomysql or PyMySQL")
    return found


class _Aiomysql(UserConnection):
    def check(self) -> None:
        _check(self.connection, not self.connection.closed, "await connection.begin()")

    def in_transaction(self) -> bool:
        return not self.connection.closed and bool(self.connection.get_transaction_status())

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        from aiomysql import Cursor

        async with self.connection.cursor(Cursor) as cursor:
            await cursor.execute(sql, parameters)
            rows: Sequence[Sequence[Any]] = await cursor.fetchall() if cursor.description else ()
            return rows


class _PyMySQL(UserConnection):
    blocking = True

    def check(self) -> None:
        _check(self.connection, self.connection.open, "connection.begin()")

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        from pymysql.cursors import Cursor

        with self.connection.cursor(Cursor) as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else ()


def _check(connection: Any, is_open: bool, how: str) -> None:
    in_transaction = is_open and (
        bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS) or not connection.get_autocommit()
    )
    begun(connection, is_open=is_open, in_transaction=in_transaction, how=how)
    if connection.charset != "utf8mb4":
        raise ConfigurationError(f"This connection has the charset {connection.charset!r}, which lacks characters; use utf8mb4")


def _bytes(value: object) -> int:
    """The size of a parameter in a packet: a text in quotes, with a backslash before some characters."""
    if not isinstance(value, str):
        return 20
    return len(value.encode()) + 4 + sum(map(value.count, "\\'\"\0\n\r\x1a"))


def _as_text(row: Sequence[Any]) -> Sequence[Any]:
    """The row with its texts decoded, even if the connection does not use Unicode. The key comes first, in bytes."""
    return [*row[:2], *(value.decode() if isinstance(value, bytes) else value for value in row[2:])]
