"""Runs statements within a user's transaction on PostgreSQL."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.joining import UserConnection, begun, cause_of, in_format, is_a, of_a_framework, unknown
from pyncette.postgres.connecting import line
from pyncette.postgres.connections import Connections

__all__ = ["JoinedConnections", "user_connection"]

_FAILED = "25P02"
_NO_TABLE = "42P01"
_OTHER_COLUMNS = ("42703", "42804")
#: Error classes after which repeating the whole transaction may succeed: connection, resources, operator intervention, rollback, locks.
_TRANSIENT = ("08", "53", "57", "40", "55")


class JoinedConnections(Connections):
    """Replaces the store's own connections: all statements go to the user's connection."""

    def __init__(self, user: UserConnection, where: str, table: str, timeout: float) -> None:
        self.where = where
        self.table = table
        self._user = user
        self.timeout = timeout

    async def fetch(self, sql: str, *arguments: Any, urgent: bool = False) -> Sequence[Any]:
        # some drivers treat a tuple as a composite value
        plain = [list(value) if isinstance(value, tuple) else value for value in arguments]
        try:
            if self._user.blocking:
                return await self._user.fetch(sql, plain)
            async with asyncio.timeout(self.timeout):
                return await self._user.fetch(sql, plain)
        except (ConfigurationError, UnicodeEncodeError, asyncpg.DataError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise RepositoryError(f"A value can't be stored in {self.table} in {self.where}: it is not valid UTF-8 text") from None
        except Exception as error:
            cause = cause_of(error)
            if (translated := self._translated(cause)) is None:
                raise
            raise translated from cause

    async def execute(self, script: str) -> None:
        await self.fetch(script)

    def _translated(self, error: BaseException) -> Exception | None:
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        again = "roll the transaction back, and repeat it as a whole"
        if isinstance(error, TimeoutError):
            return TransientRepositoryError(f"PostgreSQL did not answer within {self.timeout:g} s on this connection; {again}")
        if isinstance(error, OSError) or (isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)) and not code):
            return TransientRepositoryError(f"The connection of this transaction can't be used ({line(error)}); {again}")
        if code is None:
            if type(error).__name__ in ("OperationalError", "InterfaceError"):  # from a driver that is not imported here
                return TransientRepositoryError(f"The connection of this transaction can't be used ({line(error)}); {again}")
            return None
        if code == _FAILED:
            return ConfigurationError("This transaction has failed before; roll it back, and start again")
        if code == _NO_TABLE:
            return ConfigurationError(
                f"There is no table {self.table} where this connection leads to; pass one to the database of the tasks, {self.where}"
            )
        if code in _OTHER_COLUMNS:
            return ConfigurationError(
                f"The table {self.table} where this connection leads to is not Pyncette's; "
                f"pass one to the database of the tasks, {self.where}"
            )
        if code.startswith(_TRANSIENT):
            return TransientRepositoryError(f"PostgreSQL could not do so now: {line(error)}; {again}")
        return RepositoryError(f"PostgreSQL refused: {line(error)}; roll the transaction back")


def user_connection(connection: Any, where: str) -> UserConnection:
    """Wrap a user's connection. Raises :class:`ConfigurationError` if it is not a connection to PostgreSQL."""
    if is_a(connection, "asyncpg", "Connection") or is_a(connection, "asyncpg.pool", "PoolConnectionProxy"):
        return _Asyncpg(connection)
    if is_a(connection, "psycopg", "AsyncConnection"):
        return _AsyncPsycopg(connection)
    if is_a(connection, "psycopg", "Connection"):
        return _Psycopg(connection)
    found = of_a_framework(connection, dialects=["postgresql"])
    if found is None:
        raise unknown(connection, f"PostgreSQL at {where}", "a connection of asyncpg or psycopg 3")
    return found


class _Asyncpg(UserConnection):
    def check(self) -> None:
        try:
            is_open = not self.connection.is_closed()
            in_transaction = is_open and self.connection.is_in_transaction()
        except asyncpg.InterfaceError:  # returned to its pool
            is_open = in_transaction = False
        begun(self.connection, is_open=is_open, in_transaction=in_transaction, how="async with connection.transaction():")

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await self.connection.fetch(sql, *parameters)
        return rows


class _PsycopgConnection(UserConnection):
    def check(self) -> None:
        idle = self.connection.closed or self.connection.info.transaction_status == 0
        begun(
            self.connection,
            is_open=not self.connection.closed,
            in_transaction=not (idle and self.connection.autocommit),
            how="with connection.transaction(): (with async, on an AsyncConnection)",
        )


class _Psycopg(_PsycopgConnection):
    blocking = True

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        from psycopg import Cursor
        from psycopg.rows import tuple_row

        with Cursor(self.connection, row_factory=tuple_row) as cursor:
            cursor.execute(*_for_psycopg(sql, parameters))
            return cursor.fetchall() if cursor.description else []


class _AsyncPsycopg(_PsycopgConnection):
    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        from psycopg import AsyncCursor
        from psycopg.rows import tuple_row

        async with AsyncCursor(self.connection, row_factory=tuple_row) as cursor:
            await cursor.execute(*_for_psycopg(sql, parameters))
            return await cursor.fetchall() if cursor.description else []


def _for_psycopg(sql: str, parameters: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    text, order = in_format(sql)
    return text, [parameters[place] for place in order]
