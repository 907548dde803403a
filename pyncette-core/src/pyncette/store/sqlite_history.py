"""The history in SQLite, in a separate table."""

# ruff: noqa: S608 - nothing gets into a statement but the text here and quoted identifiers; values are parameters

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.store.contract import Key
from pyncette.store.history import Entry, Position
from pyncette.store.sqlite_connection import Connection

__all__ = ["SQLiteHistory"]

_AFTER_ALL = 2**63 - 1, ""
_APPEND = "INSERT INTO {history} (partition, name, at, id, expires_at, text) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_NEWEST = "FROM {history} WHERE partition = :partition{of} ORDER BY at DESC, id DESC LIMIT :limit"
_OF_NAME = " AND name = :name"
_RUNS = f"SELECT name, at, id, expires_at, text {_NEWEST}".replace("ORDER", "AND (at, id) < (:at, :id) ORDER")
_TRIM = f"DELETE FROM {{history}} WHERE rowid IN (SELECT rowid {_NEWEST} OFFSET :keep)"
_EXPIRED = "SELECT rowid FROM {history} WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit"
_PRUNE = f"DELETE FROM {{history}} WHERE rowid IN ({_EXPIRED})"


class SQLiteHistory:
    """The history methods of the SQLite repository."""

    _connection: Connection
    #: The statements with the names of the tables.
    _sql: Mapping[str, str]

    async def append(self, entries: Sequence[Entry]) -> None:
        values = [
            (*each.key, to_microseconds(each.position.at), each.position.id, to_microseconds(each.expires_at), each.text)
            for each in entries
        ]

        def work(db: sqlite3.Connection) -> None:
            with self._connection.transaction(db):
                db.executemany(self._sql[_APPEND], values)

        await self._connection.run(work)

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        at, id_ = _AFTER_ALL if before is None else (to_microseconds(before.at), before.id)
        among = {"partition": partition, "name": name, "limit": limit, "at": at, "id": id_}
        found = await self._connection.run(lambda db: db.execute(self._sql[_of(_RUNS, name)], among).fetchall())
        return [_entry(partition, *values) for values in found]

    async def prune(self, now: datetime, *, limit: int) -> int:
        among = {"now": to_microseconds(now), "limit": limit}

        def work(db: sqlite3.Connection) -> int:
            # usually nothing has expired, and then no write lock is needed
            if db.execute(self._sql[_EXPIRED], among).fetchone() is None:
                return 0
            return self._delete(db, _PRUNE, among)

        return await self._connection.run(work)

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        among = {"partition": partition, "name": name, "keep": keep, "limit": limit}
        return await self._connection.run(lambda db: self._delete(db, _of(_TRIM, name), among))

    def _delete(self, db: sqlite3.Connection, statement: str, among: Mapping[str, Any]) -> int:
        with self._connection.transaction(db):
            return db.execute(self._sql[statement], among).rowcount


def _of(statement: str, name: str | None) -> str:
    return statement.replace("{of}", "" if name is None else _OF_NAME)


def _entry(partition: str, name: str, at: int, id_: str, expires_at: int, text: str) -> Entry:
    return Entry(Key(partition, name), Position(from_microseconds(at), id_), from_microseconds(expires_at), text)
