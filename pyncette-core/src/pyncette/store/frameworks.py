"""Users' connections from SQLAlchemy and Django, for all stores. Imports neither."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyncette.errors import ConfigurationError
from pyncette.store.joining import Statements, UserConnection, begun, in_format, is_a, name_of

__all__ = ["of_a_framework"]

_T = TypeVar("_T")


def of_a_framework(connection: Any, *, dialects: Sequence[str]) -> UserConnection | None:
    """The SQLAlchemy or Django connection to a database of one of ``dialects``; None for any other object."""
    found: UserConnection | None = None
    if is_a(connection, "sqlalchemy.ext.asyncio", "async_scoped_session") or is_a(connection, "sqlalchemy.orm", "scoped_session"):
        connection = connection()  # the current one of this task or thread
    if is_a(connection, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession"):
        found = _AsyncSQLAlchemy(connection, dialects)
    elif is_a(connection, "sqlalchemy.engine", "Connection") or is_a(connection, "sqlalchemy.orm", "Session"):
        found = _SQLAlchemy(connection, dialects)
    elif is_a(connection, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        found = _Django(connection, dialects)
    elif is_a(connection, "django.utils.connection", "ConnectionProxy"):
        found = _Django(sys.modules["django.db"].connections[connection.alias], dialects)  # the one of this thread
    return found


class _Rows(list[Any]):
    """The rows of a statement, with a cursor's methods."""

    def fetchall(self) -> list[Any]:
        return self

    def fetchone(self) -> Any:
        return self[0] if self else None


class _SQLAlchemy(UserConnection):
    """A connection or session, which executes all statements, so that it begins its transaction at the first one."""

    blocking = True

    def __init__(self, connection: Any, dialects: Sequence[str]) -> None:
        super().__init__(connection)
        self._dialects = dialects

    def check(self) -> None:
        begun(self.connection, is_open=not getattr(self.connection, "closed", False), in_transaction=True, how="")

    async def run(self, work: Callable[[Statements], _T]) -> _T:
        return self._worked(work, self.connection)

    def _worked(self, work: Callable[[Statements], _T], given: Any) -> _T:
        connection = given if hasattr(given, "exec_driver_sql") else given.connection()
        _check_dialect(connection, connection.dialect.name, self._dialects)
        level = connection.get_execution_options().get("isolation_level")
        detect = getattr(connection.dialect, "detect_autocommit_setting", None)  # only newer releases have it
        autocommit = level == "AUTOCOMMIT" or (
            level is None and detect is not None and detect(connection.connection.dbapi_connection)
        )
        begun(
            self.connection,
            is_open=True,
            in_transaction=not autocommit,
            how="connect without isolation_level='AUTOCOMMIT', and use engine.begin() or session.begin()",
        )
        return work(_OfSQLAlchemy(connection))


class _AsyncSQLAlchemy(_SQLAlchemy):
    blocking = False

    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction())

    async def run(self, work: Callable[[Statements], _T]) -> _T:
        result: _T = await self.connection.run_sync(functools.partial(self._worked, work))
        return result


class _OfSQLAlchemy:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._reformat = connection.dialect.paramstyle in ("format", "pyformat")

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        return self._executed(sql, parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Any:
        for each in parameters:
            self._executed(sql, each)

    def _executed(self, sql: str, parameters: Sequence[Any]) -> _Rows:
        if self._reformat and "%s" not in sql:
            sql, order = in_format(sql)
            parameters = [parameters[place] for place in order]
        result = self._connection.exec_driver_sql(sql, tuple(parameters))
        return _Rows(map(tuple, result) if result.returns_rows else ())


class _Django(UserConnection):
    """Django's connection of this thread."""

    blocking = True

    def __init__(self, connection: Any, dialects: Sequence[str]) -> None:
        super().__init__(connection)
        _check_dialect(connection, connection.vendor, dialects)

    def check(self) -> None:
        begun(
            self.connection,
            is_open=True,  # Django opens it on demand
            in_transaction=self.connection.in_atomic_block or not self.connection.get_autocommit(),
            how="with transaction.atomic():",
        )

    async def run(self, work: Callable[[Statements], _T]) -> _T:
        with self.connection.cursor() as cursor:
            return work(_OfDjango(cursor))


class _OfDjango:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        if "%s" not in sql:
            sql, order = in_format(sql)
            parameters = [parameters[place] for place in order]
        self._cursor.execute(sql, tuple(parameters))
        return _Rows(self._cursor.fetchall() if self._cursor.description else ())

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Any:
        for each in parameters:
            self.execute(sql, each)


def _check_dialect(connection: object, found: str, dialects: Sequence[str]) -> None:
    if found not in dialects:
        raise ConfigurationError(
            f"This {name_of(type(connection))} leads to {found}, but the tasks are in {dialects[0]}; pass one to the database of the tasks"
        )
