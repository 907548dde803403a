"""The format in MySQL and MariaDB: the table, its statements, and the conversion of rows to and from values."""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.codec import decode, name_of_bytes, unreadable
from pyncette.errors import ConfigurationError
from pyncette.lifecycle import Settled
from pyncette.repository import Key, Row, table_of_history

#: Before the calendar, for damaged rows.
EVER = -(2**63)
_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
_LATEST = to_microseconds(datetime.max.replace(tzinfo=UTC))

#: The maximum length of a table's name: 64 characters, and so at least as many bytes.
LONGEST_NAME = 64
#: The version of the stored format, kept in the comment of the table. Raised when the meaning of stored data changes.
FORMAT = 1
COMMENT = "Pyncette, stored format "

# Keys are VARBINARY, because every collation that all servers have ignores trailing spaces: 'a' = 'a '. Parameters are text, since aiomysql
# can't escape bytes; the server compares a VARBINARY with the UTF-8 bytes of the text.
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

HISTORY = """CREATE TABLE IF NOT EXISTS {history} (
    `partition` VARBINARY(1100) NOT NULL,
    name VARBINARY(1000) NOT NULL,
    at BIGINT NOT NULL,
    id VARBINARY(64) NOT NULL,
    expires_at BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (`partition`, at, id),
    INDEX names (`partition`, name, at, id),
    INDEX expiry (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin"""

FIELDS = (
    *("`partition`", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error", "memo"),
)
COLUMNS = ", ".join(f"t.{field}" for field in FIELDS)
# A row whose time is beyond the calendar is never ready.
_READY = f"`partition` = %s AND ready_at <= {_LATEST}"
# the range of times that a claim scans, see pyncette.looks
_WITHIN = "`partition` = %s AND ready_at BETWEEN %s AND %s"
# Find named rows by their names. In the other index, a row may move from the unread to the read part during the scan, and be missed:
# READ COMMITTED allows that, and the optimiser prefers that index for small tables.
BY_NAME = "{table} AS t FORCE INDEX (PRIMARY)"
BY_TIME = "{table} AS t FORCE INDEX (ready)"
SELECT = f"SELECT {COLUMNS} FROM"
# Without large arguments, which only registrations compare and change: a digest shows whether they differ.
_LARGE, _DIGEST = 1000, "sha256:"
BRIEF = SELECT.replace("t.spec", f"IF(LENGTH(t.spec) > {_LARGE}, CONCAT('{_DIGEST}', SHA2(t.spec, 256)), t.spec)")
# The microseconds that the server has taken so far: SYSDATE() is the time of its evaluation, NOW() the start of the statement.
_TOOK = "TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))"
PEEK = f"SELECT (SELECT ready_at FROM {BY_TIME} WHERE {_WITHIN} ORDER BY ready_at LIMIT 1), {_TOOK}"
PEEK_NAMED = f"SELECT ready_at, name FROM {BY_NAME} WHERE `partition` = %s AND name IN ({{names}})"
# The fields that a claim needs, in few columns, because the driver takes long for each column. The state comes last, because it may be any text.
_NUMBERS = (_TOOK, "occurrence", "execute_after", "ready_at", "COALESCE(locked_until, '')", "epoch", "revision", "attempt", "state")
_TAKE = f"SELECT name, spec, schedule, memo, CONCAT_WS(' ', {', '.join(_NUMBERS)}) FROM"
_DUE = " AND ready_at <= %s ORDER BY ready_at LIMIT %s FOR UPDATE SKIP LOCKED"
TAKE = f"{_TAKE} {BY_TIME} WHERE `partition` = %s AND ready_at >= %s{_DUE}"
TAKE_NAMED = f"{_TAKE} {BY_NAME} WHERE `partition` = %s AND name IN ({{names}}){_DUE}"
CLAIM = (
    f"UPDATE {BY_NAME} SET lease = %s, locked_until = %s, ready_at = %s, epoch = GREATEST(epoch + 1, %s), attempt = attempt + 1 "
    "WHERE `partition` = %s AND name IN ({names})"
)
NEXT = f"SELECT ready_at FROM {BY_TIME} WHERE {_WITHIN} AND NOT lease <=> %s{{but}} ORDER BY ready_at LIMIT 1"
NEXT_NAMED = (
    f"SELECT ready_at FROM {BY_NAME} WHERE {_READY} AND name IN ({{names}}) AND NOT lease <=> %s{{but}} ORDER BY ready_at LIMIT 1"
)
CLAIMS = PEEK, TAKE, NEXT
# also for names that are not text
PUT_OFF = f"UPDATE {BY_NAME} SET ready_at = %s WHERE `partition` = %s AND name IN ({{some}})"
_NAMED = "FROM {table} WHERE `partition` = %s AND name = UNHEX(%s)"
FIND_NAMED, DELETE_NAMED = f"SELECT 1 {_NAMED} FOR UPDATE", f"DELETE {_NAMED}"
LIST = f"{SELECT} {BY_NAME} WHERE `partition` = %s AND name >= UNHEX(%s) ORDER BY name LIMIT %s"
INSERT = f"INSERT INTO {{table}} ({', '.join(FIELDS)}) VALUES "
UNLESS_THERE = " ON DUPLICATE KEY UPDATE name = name"
PLACES = f"({', '.join(['%s'] * len(FIELDS))})"
COLUMNS_OF = "SELECT LOWER(column_name) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
COLUMNS_OF_PYNCETTE_1 = {"name", "parent_name", "locked_until", "locked_by", "execute_after", "task_spec"}
_UTF8 = "CHARACTER SET utf8mb4"
_TYPES = {
    **dict.fromkeys(("occurrence", "execute_after", "ready_at", "locked_until", "epoch", "revision", "attempt"), "BIGINT"),
    "lease": f"VARCHAR(64) {_UTF8}",
    "state": f"VARCHAR(16) {_UTF8}",
    "error": f"TEXT {_UTF8}",
    "memo": f"VARCHAR(4000) {_UTF8}",
}


def _among(*fields: str) -> str:
    """A join of any number of rows, given as one JSON text with the key and ``fields`` of each, with the rows of the table.

    The row alias of newer upserts is an error on MariaDB, and VALUES() is deprecated on MySQL.
    """
    columns = "".join(f", {field} {_TYPES[field]} PATH '$[{index}]'" for index, field in enumerate(fields, 2))
    return f"""JSON_TABLE(%s, '$[*]' COLUMNS (
    k_partition VARCHAR(1100) {_UTF8} PATH '$[0]', k_name VARCHAR(255) {_UTF8} PATH '$[1]'{columns}
)) AS j STRAIGHT_JOIN {BY_NAME} ON t.`partition` = CAST(j.k_partition AS BINARY) AND t.name = CAST(j.k_name AS BINARY)"""


def _replaced(*fields: str) -> str:
    return ", ".join(f"t.{field} = j.{field}" for field in fields)


# Runs change only the fields after the key, the arguments and the schedule. Arguments may be large.
CHANGED = FIELDS[4:]
UPDATE = f"UPDATE {_among(*CHANGED)} SET {_replaced(*CHANGED)}"
# rows that their claims left unchanged, see RowwiseRepository.write_expected
_EXPECTED = "t.lease = j.lease AND t.revision = j.revision AND t.locked_until IS NOT NULL AND t.state = 'scheduled'"
_SETTLED = ("occurrence", "execute_after", "ready_at", "attempt")
SETTLE = f"""UPDATE {_among("lease", "revision", *_SETTLED, "memo")} AND {_EXPECTED}
SET {_replaced(*_SETTLED)}, t.memo = COALESCE(j.memo, t.memo), t.locked_until = NULL"""
REMOVE = f"DELETE t FROM {_among('lease', 'revision')} AND {_EXPECTED}"
# a single pass over the index, which is smaller than the table
STATS = f"""SELECT COUNT(*), COUNT(IF(ready_at <= %(now)s, 1, NULL)), MIN(IF(ready_at <= %(now)s, ready_at, NULL)),
(SELECT COUNT(*) FROM {BY_TIME} WHERE `partition` = %(partition)s AND ready_at IS NULL AND state = 'failed')
FROM {BY_TIME} WHERE `partition` = %(partition)s"""


def schema(table: str) -> str:
    """The statements that create the table ``table`` and its history table, for use with ``mysql_skip_table_create``.

    Each ends with a semicolon and a newline. Raises :class:`ConfigurationError` if a table can't have that name.
    """
    rows = SCHEMA.format(table=quoted(table), comment=f"{COMMENT}{FORMAT}")
    return f"{rows};\n{HISTORY.format(history=quoted(table_of_history(table, LONGEST_NAME)))};\n"


def claims_among(names: int) -> Sequence[str]:
    """The :data:`CLAIMS` for this many names."""
    return [sql.replace("{names}", places(names)) for sql in (PEEK_NAMED, TAKE_NAMED, NEXT_NAMED)]


def places(values: int) -> str:
    return ", ".join(["%s"] * values)


def instant(ready_at: int | None) -> datetime | None:
    """When a row is ready; the earliest possible time for a damaged value before that."""
    return None if ready_at is None else from_microseconds(max(ready_at, _EARLIEST))


def is_time(ready_at: int | None) -> bool:
    """Whether a row with this ``ready_at`` can ever become ready."""
    return ready_at is not None and ready_at <= _LATEST


def where(keys: Sequence[Key]) -> tuple[str, list[Any]]:
    """The condition for rows with ``keys``: by partition, because MariaDB uses no index for pairs; sorted, so that locks are taken in order."""
    partitions: dict[str, list[str]] = {}
    for partition, name in sorted(keys):
        partitions.setdefault(partition, []).append(name)
    alternatives = [f"(`partition` = %s AND name IN ({places(len(names))}))" for names in partitions.values()]
    return " OR ".join(alternatives), [value for partition, names in partitions.items() for value in (partition, *names)]


def encode(row: Row) -> tuple[Any, ...]:
    key, spec, schedule, occurrence, execute_after, ready_at, lease, locked, epoch, revision, attempt, state, error, memo = row
    times = to_microseconds(occurrence), to_microseconds(execute_after), None if ready_at is None else to_microseconds(ready_at)
    until = None if locked is None else to_microseconds(locked)
    return *key, spec, schedule, *times, lease, until, epoch, revision, attempt, state.value, error, memo


def changed_in_json(row: Row) -> str:
    """The key and the :data:`CHANGED` fields of a row."""
    return in_json([*row.key, *encode(row)[4:]])


def settled_in_json(settled: Settled) -> str:
    key, lease, revision, removed, occurrence, execute_after, ready_at, attempt, memo = settled
    if removed:
        return in_json([*key, lease, revision])
    at = to_microseconds(occurrence)
    after = at if execute_after == occurrence else to_microseconds(execute_after)
    ready = after if ready_at == execute_after else to_microseconds(ready_at)
    return in_json([*key, lease, revision, at, after, ready, attempt, memo])


def in_json(values: Sequence[Any]) -> str:
    # Unescaped: some servers would store an escaped lone surrogate, and then can't send it back.
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def brief(spec: str) -> str:
    """The value of the arguments in :data:`BRIEF`."""
    return spec if len(text := spec.encode()) <= _LARGE else _DIGEST + hashlib.sha256(text).hexdigest()


def due_row_of(partition: str, values: Sequence[Any]) -> Row:
    """The row with the values of :data:`TAKE`: without its lease, which a claim replaces, and without an error."""
    name, spec, schedule, memo, numbers = values
    _, at, after, ready, locked, epoch, revision, attempt, state = numbers.split(" ", 8)
    until = int(locked) if locked else None
    try:
        key = Key(partition, name.decode())
    except UnicodeDecodeError:
        return unreadable(Key(partition, name_of_bytes(name)), "the name is not text", int(ready))
    counts = int(epoch), int(revision), int(attempt)
    return decode(key, spec, schedule, int(at), int(after), int(ready), None, until, *counts, state, None, memo)


def seconds_of(values: Sequence[Any]) -> float:
    """How long the server took to reach the row with these values of :data:`TAKE`."""
    return int(values[-1].split(" ", 1)[0]) / 1e6


def row_of(values: Sequence[Any]) -> Row:
    """The row with these values, which are in the order of the fields."""
    partition, name, *others = values
    partition = partition.decode()
    try:
        return decode(Key(partition, name.decode()), *others)
    except UnicodeDecodeError:
        return unreadable(Key(partition, name_of_bytes(name)), "the name is not text", others[FIELDS.index("ready_at") - 2])


def quoted(table: str) -> str:
    if not table or len(table) > 64 or "\0" in table or table.endswith(" "):
        raise ConfigurationError(f"mysql_table_name={table!r} is not the name of a table; it has 1 to 64 characters")
    return "`" + table.replace("`", "``") + "`"
