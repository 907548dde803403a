"""Users' connections to the databases that stores are in, each with a transaction begun: what a store is to join."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyncette.backends import BackendURL

__all__ = ["UserTransaction", "UserTransactions", "opener"]


@dataclass(frozen=True, slots=True)
class UserTransaction:
    """A transaction of a user's."""

    #: What is passed to ``within``.
    connection: Any
    #: Either is called once at most. Afterwards the connection is open, and in no transaction.
    commit: Callable[[], Awaitable[Any]]
    rollback: Callable[[], Awaitable[Any]]


UserTransactions: TypeAlias = Callable[[], AbstractAsyncContextManager[UserTransaction]]


def opener(url: str) -> UserTransactions | None:
    """For one of Pyncette's stores at ``url``: a function that opens a connection and closes it at the end, which rolls back what is not committed."""
    parsed = BackendURL.parse(url)
    begin = _OPENERS.get(parsed.scheme)
    return None if begin is None else lambda: begin(parsed)


@contextlib.asynccontextmanager
async def _postgres(url: BackendURL) -> AsyncIterator[UserTransaction]:
    import asyncpg

    connection = await asyncpg.connect(url.unparse(), statement_cache_size=0)
    try:
        transaction = connection.transaction()
        await transaction.start()
        yield UserTransaction(connection, transaction.commit, transaction.rollback)
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _mysql(url: BackendURL) -> AsyncIterator[UserTransaction]:
    import aiomysql

    login = {"user": url.username, "password": url.password or "", "db": url.path[1:]}
    connection = await aiomysql.connect(host=url.hostname(), port=url.port(3306), autocommit=True, **login)
    try:
        await connection.begin()
        yield UserTransaction(connection, connection.commit, connection.rollback)
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def _sqlite(url: BackendURL) -> AsyncIterator[UserTransaction]:
    import aiosqlite

    async with aiosqlite.connect(url.path[1:] or ":memory:", isolation_level=None) as connection:
        await connection.execute("BEGIN")
        yield UserTransaction(connection, connection.commit, connection.rollback)


_OPENERS: dict[str, Callable[[BackendURL], AbstractAsyncContextManager[UserTransaction]]] = {
    **dict.fromkeys(("postgresql", "postgres"), _postgres),
    **dict.fromkeys(("mysql", "mariadb"), _mysql),
    "sqlite": _sqlite,
}
