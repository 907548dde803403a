"""Connections, and whose turn it is to use them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.postgres.connecting import TRANSIENT, Connecting, Way, line
from pyncette.postgres.tables import history_of
from pyncette.waiting import Turns

__all__ = ["Connections", "opened"]

#: A pooler stands between us and the server, since a while.
_ANOTHER_SESSION = asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError
#: A connection is no longer of use, and others are as old.
_DEAD = tuple(kind for kind in TRANSIENT if kind is not asyncpg.TransactionRollbackError)


class Connections:
    """Runs statements, each on a connection of its own for as long as it lasts. Opened by :func:`opened`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", connecting: Connecting, way: Way, size: int) -> None:
        self.where: str = connecting.where
        #: The table that the statements are about, for messages.
        self.table = ""
        self._pool = pool
        self._connecting = connecting
        self._way = way
        self.timeout: float = connecting.timeout
        # The others are hardly better than one that has failed so.
        self._turns = Turns(size, connecting.timeout, pool.expire_connections, _DEAD)

    async def fetch(self, sql: str, *arguments: Any, urgent: bool = False) -> Sequence[Any]:
        """The rows of one statement.

        :param urgent: a connection is kept for calls such as this; the others share the rest.
        :raises RepositoryError: or :class:`TransientRepositoryError`, by its kind.
        """
        async with self._connection(urgent) as connection:
            if self._way.begin is None:
                rows: Sequence[Any] = await connection.fetch(sql, *arguments)
                return rows
            await connection.execute(self._way.begin)
            rows = await connection.fetch(sql, *arguments)
            await connection.execute("COMMIT")
            return rows

    async def execute(self, script: str) -> None:
        """Run statements without arguments, in one transaction; raises as :meth:`fetch` does."""
        async with self._connection(urgent=False) as connection:
            await connection.execute(script)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[Any]:
        """A connection beside those that statements share, for as long as somebody listens on it; None where none would hear anything.

        :raises RepositoryError: or :class:`TransientRepositoryError`, also for what goes wrong with the connection later.
        """
        if self._way.pooled:  # the session that listens may be another than the one that is told
            yield None
            return
        with self._connecting.explained():
            connection = await _connect(**self._way.arguments)
        try:
            yield connection
        except TRANSIENT as error:
            raise TransientRepositoryError(f"The connection to PostgreSQL at {self.where} was lost: {line(error)}") from error
        except asyncpg.PostgresError as error:
            raise RepositoryError(f"PostgreSQL at {self.where} refused: {line(error)}") from error
        finally:
            connection.terminate()

    @contextlib.asynccontextmanager
    async def _connection(self, urgent: bool) -> AsyncIterator[Any]:
        """A connection. One that was left in the middle of an answer or a transaction is thrown away, not given back."""
        try:
            async with self._turns.turn(urgent=urgent), self._pool.acquire() as connection:
                try:
                    yield connection
                except BaseException as error:
                    if self._way.begin is not None or isinstance(error, asyncio.CancelledError):
                        # At once: to cancel the query politely takes a server that listens.
                        connection.terminate()
                    raise
        except TRANSIENT as error:
            if isinstance(error, _ANOTHER_SESSION):
                self._way = self._connecting.pooled()
                self._pool.set_connect_args(**self._way.arguments)
            what = f"did not answer within {self.timeout:g} s" if isinstance(error, TimeoutError) else f"failed: {line(error)}"
            raise TransientRepositoryError(f"PostgreSQL at {self.where} {what}") from error
        except asyncpg.UndefinedTableError as error:
            table = history_of(self.table)
            name = table if table.rpartition(".")[2].strip('"') in str(error) else self.table
            raise RepositoryError(f"There is no table {name} in {self.where}; create it, or restart to have it created") from error
        except (asyncpg.UndefinedColumnError, asyncpg.DatatypeMismatchError) as error:
            raise RepositoryError(
                f"The table {self.table} in {self.where} is not one of Pyncette's; choose another postgres_table_name"
            ) from error
        except asyncpg.PostgresError as error:
            if type(error) is asyncpg.DataError:  # the driver's own, which shows the value
                raise RepositoryError(
                    f"A value can't be stored in {self.table} in {self.where}: a text with half a surrogate pair, "
                    "or a number beyond 64 bits"
                ) from None
            raise RepositoryError(f"PostgreSQL at {self.where} refused: {line(error)}") from error


@contextlib.asynccontextmanager
async def opened(connecting: Connecting, size: int) -> AsyncIterator[Connections]:
    """Up to ``size`` connections. Raises :class:`RepositoryError` or :class:`TransientRepositoryError` if there is no way to the server."""
    way = await connecting.find()
    # None is kept open for its own sake: the driver would log a traceback each time that it can't.
    pool = asyncpg.create_pool(**way.arguments, min_size=0, max_size=size, connect=_connect, reset=_leave_as_it_is)
    try:
        with connecting.explained():
            await pool
        yield Connections(pool, connecting, way, size)
    finally:
        pool.terminate()  # every call has ended, or is not worth waiting for


async def _leave_as_it_is(connection: Any) -> None:
    """Give a connection back without a round trip that cleans it up: the statements here leave nothing behind."""


async def _connect(*arguments: Any, **options: Any) -> Any:
    """A new connection. The driver does not clean up if it is cancelled in the middle, so it is left to end, and what it brings thrown away."""
    connecting = asyncio.ensure_future(asyncpg.connect(*arguments, **options))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_throw_away)
        raise


def _throw_away(connecting: "asyncio.Future[Any]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()
