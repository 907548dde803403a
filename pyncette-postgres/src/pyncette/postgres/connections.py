"""Connections, and the turns of calls at them."""

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

#: Errors which show that a pooler now sits in front of the server.
_ANOTHER_SESSION = asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError
#: Errors after which the connection is useless, and probably others of the same age, too.
_DEAD = tuple(kind for kind in TRANSIENT if kind is not asyncpg.TransactionRollbackError)


class Connections:
    """Runs statements, each with exclusive use of a connection. Opened by :func:`opened`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", connecting: Connecting, way: Way, size: int) -> None:
        self.where: str = connecting.where
        #: The table of the statements, for messages.
        self.table = ""
        self._pool = pool
        self._connecting = connecting
        self._way = way
        self.timeout: float = connecting.timeout
        # the other connections are hardly better than one that failed like this
        self._turns = Turns(size, connecting.timeout, pool.expire_connections, _DEAD)

    async def fetch(self, sql: str, *arguments: Any, urgent: bool = False) -> Sequence[Any]:
        """The rows of one statement.

        :param urgent: use the reserved connection; other calls share the rest.
        :raises RepositoryError: or :class:`TransientRepositoryError`, depending on the error.
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
        """Run statements without arguments in one transaction; raises the same errors as :meth:`fetch`."""
        async with self._connection(urgent=False) as connection:
            await connection.execute(script)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[Any]:
        """A separate connection for listening; None behind a pooler, where it would receive nothing.

        :raises RepositoryError: or :class:`TransientRepositoryError`, including later errors of the connection.
        """
        if self._way.pooled:  # the listening session may differ from the one that receives the notification
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
        """A connection. If it is left in the middle of an answer or a transaction, it is discarded."""
        try:
            async with self._turns.turn(urgent=urgent), self._pool.acquire() as connection:
                try:
                    yield connection
                except BaseException as error:
                    if self._way.begin is not None or isinstance(error, asyncio.CancelledError):
                        # Terminate at once: cancelling the query politely needs a server that responds.
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
            if type(error) is asyncpg.DataError:  # the driver's own error would show the value
                raise RepositoryError(
                    f"A value can't be stored in {self.table} in {self.where}: a text with half a surrogate pair, "
                    "or a number beyond 64 bits"
                ) from None
            raise RepositoryError(f"PostgreSQL at {self.where} refused: {line(error)}") from error


@contextlib.asynccontextmanager
async def opened(connecting: Connecting, size: int) -> AsyncIterator[Connections]:
    """Up to ``size`` connections. Raises :class:`RepositoryError` or :class:`TransientRepositoryError` if connecting fails."""
    way = await connecting.find()
    # No minimum size: the driver would log a traceback each time it can't keep that many open.
    pool = asyncpg.create_pool(**way.arguments, min_size=0, max_size=size, connect=_connect, reset=_leave_as_it_is)
    try:
        with connecting.explained():
            await pool
        yield Connections(pool, connecting, way, size)
    finally:
        pool.terminate()  # every call has ended, or need not be waited for


async def _leave_as_it_is(connection: Any) -> None:
    """Return a connection without the driver's clean-up round trip, because these statements leave nothing behind."""


async def _connect(*arguments: Any, **options: Any) -> Any:
    """A new connection. The driver does not clean up if connecting is cancelled, so it continues, and its connection is discarded."""
    connecting = asyncio.ensure_future(asyncpg.connect(*arguments, **options))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_throw_away)
        raise


def _throw_away(connecting: "asyncio.Future[Any]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()
