"""The format in SQLite: the tables, their statements, and the conversion of rows to and from values.

SQLite keeps any value in any column. So searches accept only instants as ready_at, and :mod:`pyncette.store.codec` checks all other
values.
"""

# ruff: noqa: S608 - nothing gets into a statement but the text here and quoted identifiers; values are parameters

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.errors import ConfigurationError
from pyncette.store.codec import decode, name_of_bytes, unreadable
from pyncette.store.contract import Key, Row
from pyncette.store.lifecycle import Settled

#: Raised when the meaning of stored data changes; kept in a separate table, because ``PRAGMA user_version`` belongs to the user.
FORMAT = 1

_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
_LATEST = to_microseconds(datetime.max.replace(tzinfo=UTC))

SCHEMA = (
    # Not WITHOUT ROWID: measurements show that rows of a kilobyte and more then spill to overflow pages, at half the speed or less.
    """CREATE TABLE IF NOT EXISTS {table} (
    partition TEXT NOT NULL COLLATE BINARY,
    name TEXT NOT NULL COLLATE BINARY,
    spec TEXT NOT NULL,
    schedule TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    execute_after INTEGER NOT NULL,
    ready_at INTEGER,
    lease TEXT,
    locked_until INTEGER,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    memo TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (partition, name)
)""",
    "CREATE INDEX IF NOT EXISTS {index} ON {table} (partition, ready_at)",
    "CREATE TABLE IF NOT EXISTS {format} (version INTEGER NOT NULL)",
    f"INSERT INTO {{format}} SELECT {FORMAT} WHERE NOT EXISTS (SELECT * FROM {{format}})",
    """CREATE TABLE IF NOT EXISTS {history} (
    partition TEXT NOT NULL COLLATE BINARY,
    name TEXT NOT NULL COLLATE BINARY,
    at INTEGER NOT NULL,
    id TEXT NOT NULL COLLATE BINARY,
    expires_at INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (partition, at, id)
)""",
    "CREATE INDEX IF NOT EXISTS {history_names} ON {history} (partition, name, at, id)",
    "CREATE INDEX IF NOT EXISTS {history_expiry} ON {history} (expires_at)",
)

FIELDS = (
    *("partition", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error", "memo"),
)
#: Some columns of Pyncette 1.
OLD_FIELDS = {"name", "parent_name", "locked_until", "locked_by", "execute_after", "task_spec"}
READY_AT = FIELDS.index("ready_at")
COLUMNS = ", ".join(f"t.{field}" for field in FIELDS)

# With `json_each` over one parameter and cross joins, the statement and its plan are the same for any number of keys.
ROWS = f"""SELECT {COLUMNS} FROM json_each(?) AS k CROSS JOIN {{table}} AS t
ON t.partition = json_extract(k.value, '$[0]') AND t.name = json_extract(k.value, '$[1]')"""
NAMED = "FROM json_each(:names) AS n CROSS JOIN {table} AS t ON t.partition = :partition AND t.name = n.value"
PEEK_NAMED = f"SELECT t.name, iif(t.ready_at <= {_LATEST}, t.ready_at, NULL) {NAMED}"
TAKE_NAMED = f"SELECT {COLUMNS}, t.rowid {NAMED}"
PEEK = f"SELECT name, ready_at FROM {{table}} WHERE partition = :partition AND ready_at <= {_LATEST} ORDER BY ready_at LIMIT 1"
_READY = "FROM {table} AS t WHERE partition = :partition AND ready_at"
# One row more than can be claimed, or else the first row that is not due, says when the next one is ready.
TAKE = f"SELECT {COLUMNS}, t.rowid {_READY} <= :now ORDER BY ready_at LIMIT :limit + 1"
NEXT = f"SELECT ready_at {_READY} > :now AND ready_at <= {_LATEST} ORDER BY ready_at LIMIT 1"
CLAIM = "UPDATE {table} SET ready_at = ?, lease = ?, locked_until = ?, epoch = ?, attempt = ? WHERE rowid = ?"
PUT_OFF = "UPDATE {table} SET ready_at = ? WHERE rowid = ?"
_AS_EXPECTED = """WHERE partition = ? AND name = ? AND lease = ? AND revision = ?
AND locked_until IS NOT NULL AND state = 'scheduled'"""
ADVANCE = f"""UPDATE {{table}} SET occurrence = ?, execute_after = ?, ready_at = ?, attempt = ?, memo = coalesce(?, memo),
locked_until = NULL {_AS_EXPECTED}"""
FINISH = f"DELETE FROM {{table}} {_AS_EXPECTED}"
PUT = f"""INSERT INTO {{table}} ({", ".join(FIELDS)}) VALUES ({", ".join("?" * len(FIELDS))})
ON CONFLICT (partition, name) DO UPDATE SET {", ".join(f"{field} = excluded.{field}" for field in FIELDS[2:])}"""
DELETE = "DELETE FROM {table} WHERE partition = ? AND name = ?"
# for a name that is not text: a blob, or invalid UTF-8
DELETE_UNREADABLE = "DELETE FROM {table} WHERE partition = ? AND name IN (?, CAST(? AS TEXT)) RETURNING 1"
# Takes the write lock and writes nothing. Python begins a transaction before it, if it begins transactions automatically.
LOCK = "DELETE FROM {table} WHERE 0"
LIST = f"SELECT {COLUMNS} FROM {{table}} AS t WHERE partition = ? AND name >= ? ORDER BY name LIMIT ? + 1"
STATS = """SELECT (SELECT count(*) FROM {table} WHERE partition = :partition),
(SELECT count(*) FROM {table} WHERE partition = :partition AND ready_at <= :now),
(SELECT min(ready_at) FROM {table} WHERE partition = :partition AND ready_at <= :now),
(SELECT count(*) FROM {table} WHERE partition = :partition AND ready_at IS NULL AND state = 'failed')"""
# One search for each partition; DISTINCT would read every row.
PARTITIONS = """WITH RECURSIVE p (partition) AS (SELECT min(partition) FROM {table}
UNION ALL SELECT (SELECT min(t.partition) FROM {table} AS t WHERE t.partition > p.partition) FROM p WHERE p.partition IS NOT NULL)
SELECT partition FROM p WHERE partition IS NOT NULL"""

#: When the first row of each partition is ready.
READY = f"""{PARTITIONS.partition("SELECT partition FROM p")[0]}SELECT partition, (SELECT min(t.ready_at) FROM {{table}} AS t
WHERE t.partition = p.partition AND t.ready_at <= {_LATEST}) FROM p WHERE partition IS NOT NULL"""


def schema(table: str) -> Sequence[str]:
    """The statements that create the table ``table`` and its related tables and indexes, for use with ``sqlite_skip_table_create``.

    Raises :class:`ConfigurationError` if a table can't have that name.
    """
    names = identifiers(table)
    return [statement.format_map(names) for statement in SCHEMA]


def identifiers(table: str) -> Mapping[str, str]:
    if not table or "\0" in table or table.lower().startswith("sqlite_"):
        raise ConfigurationError(
            f"sqlite_table_name={table!r} can't be the name of a table; it must not be empty, contain NUL or begin with 'sqlite_'"
        )
    names = {"table": table, "index": f"{table}_ready"}
    names |= {role: f"{table}_{role}" for role in ("format", "history", "history_names", "history_expiry")}
    return {role: '"' + name.replace('"', '""') + '"' for role, name in names.items()}


def encode(row: Row) -> tuple[Any, ...]:
    """The values of a row, in the order of the fields."""
    key, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error, memo = row
    # most times of a row are equal
    at = to_microseconds(occurrence)
    after = at if execute_after == occurrence else to_microseconds(execute_after)
    until = None if locked is None else to_microseconds(locked)
    ready = until if ready_at == locked else None if ready_at is None else to_microseconds(ready_at)
    return *key, spec, schedule, at, after, ready, lease, until, epoch, revision, attempt, state.value, error, memo


def times(settled: Settled) -> tuple[int, int, int]:
    """The times of a settled row: its occurrence, execute_after and ready_at."""
    at = to_microseconds(settled.occurrence)
    after = at if settled.execute_after == settled.occurrence else to_microseconds(settled.execute_after)
    return at, after, after if settled.ready_at == settled.execute_after else to_microseconds(settled.ready_at)


def row_of(values: Sequence[Any]) -> Row:
    """The row with these values, which are in the order of the fields."""
    partition, name = values[:2]
    if type(name) is str and "\0" not in name:  # SQLite's JSON functions stop at NUL
        return decode(Key(partition, name), *values[2:])
    name = name.encode() if isinstance(name, str) else name
    return unreadable(Key(partition, name_of_bytes(name)), "the name is not text", values[READY_AT])


def is_time(ready_at: object) -> bool:
    """Whether a row with this ``ready_at`` can ever become ready."""
    return isinstance(ready_at, int | float) and ready_at <= _LATEST


def instant(ready_at: float | None) -> datetime | None:
    """When a row is ready; the earliest possible time for a damaged value before that."""
    return None if ready_at is None else from_microseconds(max(ready_at, _EARLIEST))  # type: ignore[arg-type]
