"""The history: a separate table, and its statements."""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

import logging
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.mysql.batches import parts
from pyncette.mysql.statements import HISTORY
from pyncette.mysql.transactions import Run, Statement, Transactions
from pyncette.repository import Entry, Key, Position

__all__ = ["MySQLHistory"]

_LOG = logging.getLogger(__name__)

_APPEND = "INSERT INTO {history} (`partition`, name, at, id, expires_at, text) VALUES "
_ONCE = " ON DUPLICATE KEY UPDATE id = id"
_OF_ONE = "{history} AS t FORCE INDEX (names) WHERE `partition` = %s AND name = %s"
_OF_ALL = "{history} AS t FORCE INDEX (PRIMARY) WHERE `partition` = %s"
_NEWEST = "ORDER BY at DESC, id DESC LIMIT %s"
_RUNS = f"SELECT name, at, id, expires_at, text FROM {{of}} AND at <= %s AND (at < %s OR id < %s) {_NEWEST}"
_TRIM = f"""DELETE t FROM {{history}} AS t JOIN (SELECT at, id FROM {{of}} {_NEWEST} OFFSET %s) AS j
ON t.`partition` = %s AND t.at = j.at AND t.id = j.id"""
_PRUNE = "DELETE FROM {history} WHERE expires_at <= %s ORDER BY expires_at LIMIT %s"
_AFTER_ALL = 2**63 - 1, ""


class MySQLHistory:
    """The history methods of the MySQL repository."""

    _transactions: Transactions

    async def append(self, entries: Sequence[Entry]) -> None:
        async def append(run: Run) -> None:
            for part in parts(entries, _size, self._transactions.largest):
                values = [value for entry in part for value in _encode(entry)]
                await run(Statement(_APPEND + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(part)) + _ONCE, values))

        if entries:
            await self._transactions.run(append)

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        at, id_ = _AFTER_ALL if before is None else (to_microseconds(before.at), before.id)

        async def runs(run: Run) -> Sequence[Any]:
            [rows] = await run(Statement(_of(_RUNS, name), [*_which(partition, name), at, at, id_, limit]))
            return rows

        return [_decode(partition, *row) for row in await self._transactions.run(runs)]

    async def prune(self, now: datetime, *, limit: int) -> int:
        return await self._delete(_PRUNE, [to_microseconds(now), limit])

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        return await self._delete(_of(_TRIM, name), [*_which(partition, name), limit, keep, partition])

    async def _create_history(self) -> None:
        """Create the history table. Without the permission, tasks run anyway."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other processes may create it at this moment, too
                await self._transactions.run(lambda run: run(Statement(HISTORY)))
        except TransientRepositoryError:
            raise
        except RepositoryError as error:
            _LOG.info("No history is kept, because its table can't be created (%s)", error)

    async def _delete(self, sql: str, parameters: Sequence[Any]) -> int:
        async def delete(run: Run) -> int:
            *_, [[count]] = await run(Statement(sql, parameters), Statement("SELECT ROW_COUNT()"))
            return int(count)

        return await self._transactions.run(delete)


def _of(sql: str, name: str | None) -> str:
    return sql.replace("{of}", _OF_ALL if name is None else _OF_ONE)


def _which(partition: str, name: str | None) -> Sequence[str]:
    return [partition] if name is None else [partition, name]


def _size(entry: Entry) -> int:
    return len(entry.key.partition) + len(entry.key.name) + len(entry.text) + 120


def _encode(entry: Entry) -> tuple[Any, ...]:
    return *entry.key, to_microseconds(entry.position.at), entry.position.id, to_microseconds(entry.expires_at), entry.text


def _decode(partition: str, name: bytes, at: int, id_: bytes, expires_at: int, text: str) -> Entry:
    position = Position(from_microseconds(at), id_.decode())
    return Entry(Key(partition, name.decode(errors="replace")), position, from_microseconds(expires_at), text)
