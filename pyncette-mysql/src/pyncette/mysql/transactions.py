"""Runs statements in transactions, with retries after conflicts."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import aiomysql

from pyncette.errors import RepositoryError
from pyncette.mysql.connections import Connection, Connections, NoTLSError
from pyncette.mysql.faults import AGAIN, DIED, code_of, in_step, is_elsewhere, translated
from pyncette.mysql.statements import LONGEST_NAME, quoted
from pyncette.repository import table_of_history
from pyncette.waiting import Backoff

__all__ = ["BEGIN", "COMMIT", "Run", "Statement", "Transactions", "exactly", "too_large"]

_T = TypeVar("_T")

#: The longest pauses before retrying a transaction (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.002, 0.25
#: A packet size that every server accepts, until this server's limit is known.
_SMALLEST_PACKET = 1024


class Statement(NamedTuple):
    """``{table}`` or ``{history}`` stands for the table, ``%s`` for a parameter."""

    sql: str
    parameters: Any = ()
    #: What to name in the error if the statement is too large.
    what: str = "A call"


BEGIN, COMMIT = Statement("START TRANSACTION"), Statement("COMMIT")

#: Runs statements in one round trip, or in several if they are too large; returns the rows of each.
Run: TypeAlias = Callable[..., Awaitable[list[Sequence[Any]]]]


def exactly(rows: int) -> Statement:
    """A statement that fails unless the previous one has written that many rows, so that a following COMMIT is not executed."""
    return Statement("SELECT IF(ROW_COUNT() = %s, 0, (SELECT 1 UNION SELECT 2))", [rows])


def too_large(statement: Statement, size: int, where: str, largest: int) -> RepositoryError:
    """The error for a statement of ``size`` bytes where ``largest`` are accepted."""
    return RepositoryError(
        f"{statement.what} takes {size:,} bytes, more than MySQL at {where} accepts in one packet; "
        f"raise its max_allowed_packet, which is {largest:,}"
    )


class Transactions:
    """Runs calls on connections, and repeats them after conflicts."""

    def __init__(self, connections: Connections, where: str, table: str, name: str, timeout: float) -> None:
        """``table``: quoted for statements. ``timeout``: the limit of each call once it has a connection (seconds)."""
        self._connections = connections
        self._where = where
        self._names = {
            # in the driver's format
            "{table}": table.replace("%", "%%"),
            "{history}": quoted(table_of_history(name, LONGEST_NAME)).replace("%", "%%"),
        }
        self._name = name
        self._timeout = timeout
        #: The maximum size of a packet (bytes): the server's max_allowed_packet.
        self.largest = _SMALLEST_PACKET

    async def run(self, call: Callable[[Run], Awaitable[_T]], *, urgent: bool = False) -> _T:
        """The result of ``call``, which is called again if a conflict rolled its transaction back.

        :param urgent: don't wait for calls that are not urgent.
        """
        met: Exception | None = None
        try:
            async with self._connections.turn(urgent=urgent):
                pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE, jitter=True)
                while True:
                    try:
                        return await self._attempt(call)
                    except aiomysql.MySQLError as error:
                        if code_of(error) not in AGAIN:
                            raise
                        met = error
                    await asyncio.sleep(pauses.next())
        except (UnicodeEncodeError, UnicodeDecodeError) as error:
            raise RepositoryError(f"A partition, name, argument or note can't be stored as UTF-8 ({error.reason})") from None
        except TimeoutError as error:
            raise translated(met or error, self._where, self._name, self._timeout) from error
        except (aiomysql.MySQLError, NoTLSError, OSError, RuntimeError, asyncio.IncompleteReadError) as error:
            raise translated(error, self._where, self._name, self._timeout) from error

    async def _attempt(self, call: Callable[[Run], Awaitable[_T]]) -> _T:
        connection, used = await self._connections.take()
        exchange = _Exchange(connection, self._names, self._where, self.largest)
        try:
            answer = await call(exchange.run)
        except BaseException as error:
            await self._after(error, connection)
            # If nothing was written yet, repeat the call; connections as old as this one are dropped.
            if used and code_of(error) in DIED and not exchange.committing:
                return await self._attempt(call)
            raise
        self._connections.keep(connection)
        return answer

    async def _after(self, error: BaseException, connection: Connection) -> None:
        """Roll back after ``error``, by closing the connection if it may be in the middle of an answer."""
        rolled_back = False
        try:
            if in_step(error):
                with contextlib.suppress(aiomysql.MySQLError, OSError, RuntimeError):
                    await connection.rollback()
                    rolled_back = True
        finally:
            (self._connections.keep if rolled_back else self._connections.discard)(connection)
            if is_elsewhere(error):
                self._connections.forget()


class _Exchange:
    """The statements of one attempt, on one connection."""

    def __init__(self, connection: Connection, names: Mapping[str, str], where: str, largest: int) -> None:
        self._connection = connection
        self._names = names
        self._where = where
        self._largest = largest
        #: Whether something may have been committed.
        self.committing = False

    async def run(self, *statements: Statement) -> list[Sequence[Any]]:
        cursor = await self._connection.cursor()
        results: list[Sequence[Any]] = []
        for packet in self._packets([cursor.mogrify(self._named(sql), values) for sql, values, _ in statements], statements):
            self.committing = self.committing or packet.endswith(COMMIT.sql)
            await cursor.execute(packet)
            results.append(await cursor.fetchall())
            while await cursor.nextset():
                results.append(await cursor.fetchall())
        return results

    def _named(self, sql: str) -> str:
        # Replace only once, because a table's name may look like the other placeholder.
        mark = "{history}" if "{history}" in sql else "{table}"
        return sql.replace(mark, self._names[mark])

    def _packets(self, texts: Sequence[str], statements: Sequence[Statement]) -> Iterator[str]:
        packet: list[str] = []
        left = self._largest
        for text, statement in zip(texts, statements, strict=True):
            size = len(text) + 2 if text.isascii() else len(text.encode()) + 2
            if size > self._largest:
                raise too_large(statement, size, self._where, self._largest)
            if packet and size > left:
                yield "; ".join(packet)
                packet, left = [], self._largest
            packet.append(text)
            left -= size
        yield "; ".join(packet)
