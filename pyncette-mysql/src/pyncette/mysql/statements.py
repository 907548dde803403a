"""What is stored in MySQL and MariaDB: the table, the statements on it, and rows to and from their values."""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import decode, name_of_bytes, unreadable
from pyncette.errors import ConfigurationError
from pyncette.repository import Key, Row

_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
_LATEST = to_microseconds(datetime.max.replace(tzinfo=UTC))

#: The version of the stored format, kept in the comment of the table. Raised whenever what is stored changes its meaning.
FORMAT = 1
COMMENT = "Pyncette, stored format "

# Keys are VARBINARY, because every collation that is on all servers pads: 'a' = 'a '. Parameters are text all the same, since
# aiomysql can't escape bytes; the server compares a VARBINARY with the UTF-8 bytes of the text.
SCHEMA = """CREATE TABLE IF NOT EXISTS {table} (
    `partition` VARBINARY(1100) NOT NULL,
    name VARBINARY(1000) NOT NULL,
    spec LONGTEXT NOT NULL,
    schedule TEXT NOT NULL,
    occurrence BIGINT NOT NULL,
    execute_after BIGINT NOT NULL,
    ready_at BIGINT,
    lease VARCHAR(64),
    locked_until BIGINT,
    epoch BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    error TEXT,
    memo VARCHAR(4000) NOT NULL DEFAULT '',
    PRIMARY KEY (`partition`, name),
    INDEX ready (`partition`, ready_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin COMMENT = '{comment}'"""

FIELDS = (
    *("`partition`", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error", "memo"),
)
COLUMNS = ", ".join(f"t.{field}" for field in FIELDS)
# What is ready beyond the calendar never is.
_READY = f"`partition` = %s AND ready_at <= {_LATEST}"
# Rows that are named have to be sought by their names. On the other index a row may move, while that is read, from what comes
# to what has been, and be missed: READ COMMITTED allows it, and the optimiser likes that index for small tables.
BY_NAME = "{table} AS t FORCE INDEX (PRIMARY)"
BY_TIME = "{table} AS t FORCE INDEX (ready)"
SELECT = f"SELECT {COLUMNS} FROM"
PEEK = f"SELECT NULL, ready_at FROM {BY_TIME} WHERE {_READY} ORDER BY ready_at LIMIT 1"
PEEK_NAMED = f"SELECT name, ready_at FROM {BY_NAME} WHERE `partition` = %s AND name IN ({{names}})"
_DUE = " AND ready_at <= %s ORDER BY ready_at LIMIT %s FOR UPDATE SKIP LOCKED"
TAKE = f"{SELECT} {BY_TIME} WHERE `partition` = %s{_DUE}"
TAKE_NAMED = f"{SELECT} {BY_NAME} WHERE `partition` = %s AND name IN ({{names}}){_DUE}"
CLAIM = f"UPDATE {BY_NAME} SET lease = %s, locked_until = %s, ready_at = %s, epoch = GREATEST(epoch + 1, %s), attempt = attempt + 1"
NEXT = f"SELECT ready_at FROM {BY_TIME} WHERE {_READY} AND NOT lease <=> %s{{but}} ORDER BY ready_at LIMIT 1"
NEXT_NAMED = (
    f"SELECT ready_at FROM {BY_NAME} WHERE {_READY} AND name IN ({{names}}) AND NOT lease <=> %s{{but}} ORDER BY ready_at LIMIT 1"
)
# Also of names that are no text.
PUT_OFF = f"UPDATE {BY_NAME} SET ready_at = %s WHERE `partition` = %s AND name IN ({{some}})"
_NAMED = "FROM {table} WHERE `partition` = %s AND name = UNHEX(%s)"
FIND_NAMED, DELETE_NAMED = f"SELECT 1 {_NAMED} FOR UPDATE", f"DELETE {_NAMED}"
LIST = f"{SELECT} {BY_NAME} WHERE `partition` = %s AND name >= UNHEX(%s) ORDER BY name LIMIT %s"
INSERT = f"INSERT INTO {{table}} ({', '.join(FIELDS)}) VALUES "
# The key, the arguments and their schedule come first in a row: what runs change comes after, and arguments may be large.
_CHANGED = FIELDS[4:]
_UTF8 = "CHARACTER SET utf8mb4"
_TYPES = (
    *("BIGINT", "BIGINT", "BIGINT", f"VARCHAR(64) {_UTF8}", "BIGINT", "BIGINT", "BIGINT", "BIGINT"),
    *(f"VARCHAR(16) {_UTF8}", f"TEXT {_UTF8}", f"VARCHAR(4000) {_UTF8}"),
)
# One statement for any number of rows. The row alias of newer upserts is an error on MariaDB, and VALUES() deprecated on MySQL.
UPDATE = f"""UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (
    k_partition VARCHAR(1100) {_UTF8} PATH '$[0]', k_name VARCHAR(255) {_UTF8} PATH '$[1]',
    {", ".join(f"{field} {kind} PATH '$[{index}]'" for index, (field, kind) in enumerate(zip(_CHANGED, _TYPES, strict=True), 2))}
)) AS j STRAIGHT_JOIN {BY_NAME} ON t.`partition` = CAST(j.k_partition AS BINARY) AND t.name = CAST(j.k_name AS BINARY)
SET {", ".join(f"t.{field} = j.{field}" for field in _CHANGED)}"""
STATS = """SELECT (SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s),
(SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s AND ready_at <= %(now)s),
(SELECT MIN(ready_at) FROM {table} WHERE `partition` = %(partition)s AND ready_at <= %(now)s),
(SELECT COUNT(*) FROM {table} WHERE `partition` = %(partition)s AND ready_at IS NULL AND state = 'failed')"""


def schema(table: str) -> str:
    """The statement that creates the table called ``table``, for those who use ``mysql_skip_table_create``."""
    return SCHEMA.format(table=quoted(table), comment=f"{COMMENT}{FORMAT}")


def instant(ready_at: int | None) -> datetime | None:
    """When a row is ready; as early as can be, if it is damaged and even earlier."""
    return None if ready_at is None else from_microseconds(max(ready_at, _EARLIEST))


def is_time(ready_at: int | None) -> bool:
    """Whether a row with this ``ready_at`` is ever ready."""
    return ready_at is not None and ready_at <= _LATEST


def where(keys: Sequence[Key]) -> tuple[str, list[Any]]:
    """Which rows have ``keys``: by partition, because MariaDB does not use an index for pairs; sorted, so that locks are taken in order."""
    partitions: dict[str, list[str]] = {}
    for partition, name in sorted(keys):
        partitions.setdefault(partition, []).append(name)
    alternatives = [f"(`partition` = %s AND name IN ({', '.join(['%s'] * len(names))}))" for names in partitions.values()]
    return " OR ".join(alternatives), [value for partition, names in partitions.items() for value in (partition, *names)]


def encode(row: Row) -> tuple[Any, ...]:
    key, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error, memo = row
    times = to_microseconds(occurrence), to_microseconds(execute_after), None if ready_at is None else to_microseconds(ready_at)
    until = None if locked is None else to_microseconds(locked)
    return *key, spec, schedule, *times, lease, until, epoch, revision, attempt, state.value, error, memo


def row_of(values: Sequence[Any]) -> Row:
    """The row of these values, which are in the order of the fields."""
    partition, name, *others = values
    partition = partition.decode()
    try:
        return decode(Key(partition, name.decode()), *others)
    except UnicodeDecodeError:
        return unreadable(Key(partition, name_of_bytes(name)), "the name is no text", others[FIELDS.index("ready_at") - 2])


def quoted(table: str) -> str:
    if not table or len(table) > 64 or "\0" in table or table.endswith(" "):
        raise ConfigurationError(f"mysql_table_name={table!r} is not the name of a table; it has 1 to 64 characters")
    return "`" + table.replace("`", "``") + "`"
