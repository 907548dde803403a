"""Converts rows to items and back, and builds writes in both of DynamoDB's languages."""

import contextlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from pyncette.clock import to_microseconds
from pyncette.codec import decode
from pyncette.errors import RepositoryError
from pyncette.lifecycle import Settled
from pyncette.repository import Key, Row, State

__all__ = [
    "EMPTY_NAME",
    "NO_VERSION",
    "Attribute",
    "ItemWrite",
    "instant",
    "item_of",
    "row_of",
    "settled",
    "size",
    "text_of",
    "update",
]

#: A value with its type, in the service's form: ``{"S": "a text"}``.
Attribute: TypeAlias = Mapping[str, Any]

#: Stands for the empty name: DynamoDB has no empty keys, and no name contains NUL.
EMPTY_NAME = "\0"
#: The version of an item without one, which somebody else wrote.
NO_VERSION: Attribute = {}
#: The maximum size of a task: an item and its copy in the index may have 400 KB together, and some of its half is needed for other fields.
_MAX_BYTES = 400 * 1024 // 2 - 4 * 1024

_TIMES = ("occurrence", "execute_after", "ready_at", "locked_until")
_NUMBERS = ("epoch", "revision", "attempt")
_TEXTS = ("spec", "schedule", "lease", "state", "error", "memo")
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class ItemWrite(NamedTuple):
    """A conditional write of one item."""

    key: Mapping[str, Attribute]
    #: The expected attributes. None: absent; ``PRESENT``: any value. If this is None, there must be no item.
    guard: Mapping[str, Attribute | None] | None
    #: The attributes to set; None: remove the attribute. If this is None, the item is removed.
    values: Mapping[str, Attribute | None] | None
    #: Whether all other attributes are removed.
    whole: bool = False

    @property
    def plain(self) -> bool:
        """Whether a PartiQL statement can express this write."""
        replaced = self.whole and self.guard is not None
        damaged = any(value and value is not PRESENT and not {"S", "N"} & value.keys() for value in (self.guard or {}).values())
        return not replaced and not damaged

    def statement(self, table: str) -> dict[str, Any]:
        """The write in PartiQL, for a batch of statements."""
        if self.guard is None:
            item = {**self.key, **{name: value for name, value in (self.values or {}).items() if value is not None}}
            fields = ",".join(f"'{name}':?" for name in item)
            return {"Statement": f'INSERT INTO "{table}" VALUE {{{fields}}}', "Parameters": [*item.values()]}
        parameters: list[Attribute] = []
        if self.values is None:
            # otherwise the answer would not show whether there was an item
            head, tail = f'DELETE FROM "{table}"', " RETURNING ALL OLD *"  # noqa: S608 - the name of a table has no quotes
        else:
            given = {name: value for name, value in self.values.items() if value is not None}
            parameters += given.values()
            steps = [f' SET "{name}"=?' for name in given] + [
                f' REMOVE "{name}"' for name, value in self.values.items() if not value
            ]
            head, tail = f'UPDATE "{table}"{"".join(steps)}', ""
        conditions = []
        for name, value in (*self.key.items(), *self.guard.items()):
            if value is None or value is PRESENT:
                conditions.append(f'"{name}" IS {"NOT " if value else ""}MISSING')
            else:
                conditions.append(f'"{name}"=?')
                parameters.append(value)
        return {"Statement": f"{head} WHERE {' AND '.join(conditions)}{tail}", "Parameters": parameters}

    def request(self) -> tuple[str, dict[str, Any]]:
        """The write as a single operation, with its arguments except the table."""
        names: dict[str, str] = {}
        values: dict[str, Attribute] = {}

        def attribute(name: str) -> str:
            names[f"#{name}"] = name
            return f"#{name}"

        def parameter(value: Attribute) -> str:
            values[f":{len(values)}"] = value
            return f":{len(values) - 1}"

        if self.guard is None:
            conditions = [f"attribute_not_exists({attribute('partition_id')})"]
        else:
            conditions = [f"attribute_exists({attribute('partition_id')})"]
            for name, value in self.guard.items():
                if value is None or value is PRESENT:
                    conditions.append(f"attribute_{'' if value else 'not_'}exists({attribute(name)})")
                else:
                    conditions.append(f"{attribute(name)} = {parameter(value)}")
        arguments: dict[str, Any]
        if self.values is None:
            operation, arguments = "DeleteItem", {"Key": self.key}
        elif self.whole:
            given = {name: value for name, value in self.values.items() if value is not None}
            operation, arguments = "PutItem", {"Item": {**self.key, **given}}
        else:
            put = ",".join(f"{attribute(name)}={parameter(value)}" for name, value in self.values.items() if value is not None)
            gone = ",".join(attribute(name) for name, value in self.values.items() if value is None)
            expression = f"SET {put}" + (f" REMOVE {gone}" if gone else "")
            operation, arguments = "UpdateItem", {"Key": self.key, "UpdateExpression": expression}
        arguments["ConditionExpression"] = " AND ".join(conditions)
        arguments["ExpressionAttributeNames"] = names
        if values:
            arguments["ExpressionAttributeValues"] = values
        return operation, arguments


#: In an :class:`ItemWrite`: the attribute must be present.
PRESENT: Attribute = {"present": True}


def update(key: Mapping[str, Attribute], before: tuple[Row, Any] | None, after: Row | None) -> ItemWrite:
    """The write that replaces the item of ``before``, a row and its version, by the row ``after``."""
    guard = None if before is None else {"version": before[1] or None}
    if after is None:
        return ItemWrite(key, guard, None)
    version = {"S": uuid.uuid4().hex}
    if after.state is State.UNREADABLE:
        # only ready_at, and a new version as always
        return ItemWrite(key, guard, {"ready_at": _time(after.ready_at or _EARLIEST), "version": version})
    if before is None or before[0].state is State.UNREADABLE:
        return ItemWrite(key, guard, {**item_of(after), "version": version}, whole=True)
    was = before[0]._asdict()
    changed = {name: _attribute(name, value) for name, value in after._asdict().items() if name != "key" and value != was[name]}
    if "spec" in changed or "schedule" in changed:
        _check_size(after)
    size(after.key, after.error or "", after.memo)
    return ItemWrite(key, guard, {**changed, "version": version})


def settled(key: Mapping[str, Attribute], settled: Settled) -> ItemWrite:
    """The write of a settlement whose row is unchanged since its claim."""
    guard = {
        "lease": {"S": settled.lease},
        "revision": {"N": str(settled.revision)},
        "state": {"S": State.SCHEDULED.value},
        "locked_until": PRESENT,
    }
    if settled.removed:
        return ItemWrite(key, guard, None)
    after = _time(settled.execute_after)
    values = {
        "occurrence": after if settled.occurrence == settled.execute_after else _time(settled.occurrence),
        "execute_after": after,
        "ready_at": after if settled.ready_at == settled.execute_after else _time(settled.ready_at),
        "attempt": {"N": str(settled.attempt)},
        "version": {"S": uuid.uuid4().hex},
        "locked_until": None,
    }
    if settled.memo is not None:
        size(settled.key, settled.memo)
        values["memo"] = _attribute("memo", settled.memo)
    return ItemWrite(key, guard, values)


def size(key: Key, *texts: str) -> int:
    """The total size of ``texts`` of the task ``key`` (bytes)."""
    try:
        return sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:  # JSON would carry a lone surrogate, and the service would store another character
        raise RepositoryError(f"The task {key.name!r} of {key.partition!r} can't be stored as UTF-8 ({error.reason})") from None


def _check_size(row: Row) -> None:
    taken = size(row.key, *row.key, row.spec, row.schedule)
    if taken > _MAX_BYTES:
        raise RepositoryError(
            f"The task {row.key.name!r} of {row.key.partition!r} takes {taken:,} bytes with its arguments, but DynamoDB holds no more "
            f"than {_MAX_BYTES:,}; store the arguments elsewhere, and pass their location"
        )


def item_of(row: Row) -> dict[str, Attribute | None]:
    """All attributes of a row except its key and version; None for absent ones."""
    _check_size(row)
    return {name: _attribute(name, value) for name, value in row._asdict().items() if name != "key"}


def _attribute(name: str, value: Any) -> Attribute | None:
    if value is None or (name == "memo" and not value):
        return None
    if name in _TIMES:
        return _time(value)
    if name in _NUMBERS:
        return {"N": str(value)}
    return {"S": str(value)}  # also for the values of a state


def row_of(key: Key, item: Mapping[str, Attribute]) -> Row:
    """The row that an item contains; core judges values that are not text, number or time."""
    values: dict[str, Any] = dict.fromkeys((*_TEXTS, *_NUMBERS, *_TIMES))
    for name, attribute in item.items():
        if name in values:
            [(kind, value)] = attribute.items()
            values[name] = value if kind == "S" and name not in _NUMBERS else attribute
    for name in _NUMBERS:
        try:
            values[name] = int(values[name]["N"])
        except (KeyError, TypeError, ValueError):
            values[name] = None
    for name in _TIMES:
        with contextlib.suppress(TypeError, ValueError):  # TypeError also for a time without a time zone
            values[name] = values[name] and to_microseconds(datetime.fromisoformat(values[name]))
    row = decode(key, **values)
    if row.state is State.UNREADABLE and row.ready_at is None and "" < text_of(item.get("ready_at")) < _time(_LATEST)["S"]:
        # not a time, but sorted among the times of the index, where it blocks until it is postponed
        row = row._replace(ready_at=_EARLIEST)
    return row


def text_of(attribute: Attribute | None) -> str:
    """The text of an attribute; empty if it is absent."""
    return str((attribute or {}).get("S", ""))


def _time(at: datetime) -> Attribute:
    return {"S": instant(at)}


def instant(at: datetime) -> str:
    """The time as text, in UTC and of fixed length, so that texts sort by time."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
