"""Splits batches of any size into statements that fit the server's limits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from pyncette.lifecycle import Settled
from pyncette.mysql import statements
from pyncette.mysql.statements import encode, where
from pyncette.mysql.transactions import Statement, exactly
from pyncette.repository import Key, Row

__all__ = ["absent", "parts", "selects", "settled", "written"]

_T = TypeVar("_T")


def parts(items: Iterable[_T], characters: Callable[[_T], int], largest: int) -> Iterator[list[_T]]:
    """``items`` in lists whose texts fit into packets of ``largest`` bytes in the worst case: four bytes per character, escaped twice."""
    part: list[_T] = []
    room = largest // 8
    left = room
    for item in items:
        size = characters(item)
        if part and size > left:
            yield part
            part, left = [], room
        part.append(item)
        left -= size
    if part:
        yield part


def selects(columns: str, keys: Sequence[Key], largest: int, locking: str = "") -> list[Statement]:
    """The statements that read the rows of ``keys``."""
    found = []
    for part in parts(sorted(keys), _characters, largest):
        which, parameters = where(part)
        found.append(Statement(f"{columns} {statements.BY_NAME} WHERE {which}{locking}", parameters))
    return found


def written(updated: Sequence[Row], removed: Sequence[Key], inserted: Sequence[Row], largest: int) -> list[Statement]:
    """The statements that write rows; each row must exist, or not exist, as expected."""
    writes = _changes(statements.UPDATE, [statements.changed_in_json(row) for row in sorted(updated)], largest)
    for keys in parts(removed, _characters, largest):
        which, parameters = where(keys)
        writes += [Statement(f"DELETE t FROM {statements.BY_NAME} WHERE {which}", parameters), exactly(len(keys))]
    for rows in parts(inserted, _size, largest):
        sql = statements.INSERT + ", ".join([statements.PLACES] * len(rows))
        values = [value for row in rows for value in encode(row)]
        writes += [Statement(sql, values, f"The task {rows[0].key.name!r}"), exactly(len(rows))]
    return writes


def absent(rows: Sequence[Row], largest: int) -> list[Statement]:
    """The statements that insert rows, leaving existing ones unchanged."""
    writes = []
    for part in parts(sorted(rows, key=lambda row: row.key), _size, largest):
        sql = statements.INSERT + ", ".join([statements.PLACES] * len(part)) + statements.UNLESS_THERE
        writes.append(Statement(sql, [value for row in part for value in encode(row)], f"The task {part[0].key.name!r}"))
    return writes


def settled(expected: Sequence[Settled], largest: int) -> list[Statement]:
    """The statements that write settlements to unchanged rows; any other row is an error."""
    ordered = sorted(expected)  # sorted, so that locks are taken in order
    kept = [statements.settled_in_json(each) for each in ordered if not each.removed]
    removed = [statements.settled_in_json(each) for each in ordered if each.removed]
    return _changes(statements.SETTLE, kept, largest) + _changes(statements.REMOVE, removed, largest)


def _changes(sql: str, rows: Sequence[str], largest: int) -> list[Statement]:
    changes = []
    for part in parts(rows, len, largest):
        changes += [Statement(sql, [f"[{','.join(part)}]"]), exactly(len(part))]
    return changes


def _characters(key: Key) -> int:
    return len(key.partition) + len(key.name)


def _size(row: Row) -> int:
    return len(row.spec) + len(row.schedule) + len(row.memo) + len(row.error or "") + _characters(row.key) + 100
