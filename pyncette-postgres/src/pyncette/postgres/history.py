"""The history: a separate table, and its statements."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.postgres.connections import Connections
from pyncette.repository import Entry, Key, Position

__all__ = ["PostgresHistory", "statements_for"]

_AFTER_ALL = 2**63 - 1, ""
# $1 and $2 are the partition and the name, $3 the limit. A key has an index, a partition the primary key. The bound of `at`, which excludes
# nothing, makes the planner use them even if it plans while the table is empty.
_OF_ONE, _OF_ALL = "partition = $1 AND name = $2", "partition = $1 AND $2::text IS NULL"
_RUNS = """SELECT name, at, id, expires_at, text FROM {history}
WHERE {of} AND (at, id) < ($4::bigint, $5::text) ORDER BY at DESC, id DESC LIMIT $3"""
_TRIM = """WITH gone AS (
    DELETE FROM {history} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {history} WHERE {of} AND at <= 9223372036854775807
        ORDER BY at DESC, id DESC LIMIT $3 OFFSET $4 FOR UPDATE SKIP LOCKED
    )) RETURNING 1
) SELECT count(*) FROM gone"""
_STATEMENTS = {
    "APPEND": """INSERT INTO {history} (partition, name, at, id, expires_at, text)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
ON CONFLICT DO NOTHING""",
    "RUNS": _RUNS.replace("{of}", _OF_ONE),
    "RUNS_OF_ALL": _RUNS.replace("{of}", _OF_ALL),
    "TRIM": _TRIM.replace("{of}", _OF_ONE),
    "TRIM_ALL": _TRIM.replace("{of}", _OF_ALL),
    "PRUNE": """WITH gone AS (
    DELETE FROM {history} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {history} WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )) RETURNING 1
) SELECT count(*) FROM gone""",
}


def statements_for(table: str) -> Mapping[str, str]:
    """The statements by name, for the history table with the quoted name ``table``."""
    return {name: statement.replace("{history}", table) for name, statement in _STATEMENTS.items()}


class PostgresHistory:
    """The history methods of the PostgreSQL repository."""

    _connections: Connections
    #: The statements by name, with the names of the tables.
    _history: Mapping[str, str]

    async def append(self, entries: Sequence[Entry]) -> None:
        values = [
            (*each.key, to_microseconds(each.position.at), each.position.id, to_microseconds(each.expires_at), each.text)
            for each in entries
        ]
        if values:
            await self._ask("APPEND", *zip(*values, strict=True))

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        at, id_ = _AFTER_ALL if before is None else (to_microseconds(before.at), before.id)
        rows = await self._ask("RUNS_OF_ALL" if name is None else "RUNS", partition, name, limit, at, id_)
        return [
            Entry(Key(partition, name), Position(from_microseconds(at), id_), from_microseconds(expires_at), text)
            for name, at, id_, expires_at, text in rows
        ]

    async def prune(self, now: datetime, *, limit: int) -> int:
        [[removed]] = await self._ask("PRUNE", to_microseconds(now), limit)
        return int(removed)

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        [[removed]] = await self._ask("TRIM_ALL" if name is None else "TRIM", partition, name, limit, keep)
        return int(removed)

    async def _ask(self, statement: str, *arguments: Any) -> Sequence[Any]:
        return await self._connections.fetch(self._history[statement], *arguments)
