"""The history: items of the same table, in separate partitions. The service itself removes expired ones."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.clock import to_microseconds
from pyncette.dynamodb import items
from pyncette.dynamodb.items import EMPTY_NAME, Attribute, ItemWrite, instant, text_of
from pyncette.dynamodb.table import Table
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.repository import Entry, Key, Position

__all__ = ["EXPIRY", "DynamoDBHistory"]

#: The attribute for the table's time to live: whole seconds since 1970.
EXPIRY = "expires"
_SEPARATOR = "#"
_LOG = logging.getLogger(__name__)


class DynamoDBHistory(ABC):
    """The history methods of the DynamoDB repository.

    The index of the rows also finds the entries of one key: in place of a row's time, an entry has a digest of the name, and its position.
    """

    _table: Table
    _prefix: str

    def __init__(self) -> None:
        #: The partitions to which this object has written entries, whose expired ones it removes itself.
        self._histories: set[str] = set()
        #: Whether the table's time to live has yet to be enabled.
        self._undeclared = False

    @abstractmethod
    async def _write_items(self, writes: Sequence[ItemWrite | Exception]) -> Sequence[bool | Exception]:
        """Append entries, each on its own condition."""

    async def append(self, entries: Sequence[Entry]) -> None:
        if self._undeclared:
            await self._declare_expiry()
        async with self._table.time_limit(len(entries)):
            # an existing entry stays as it is
            await self._written(
                [self._item(entry) for entry in {(entry.key.partition, entry.position): entry for entry in entries}.values()]
            )
        self._histories.update(entry.key.partition for entry in entries)

    async def runs(self, partition: str, name: str | None, *, limit: int, before: Position | None = None) -> Sequence[Entry]:
        place = None if before is None else _place(before)
        entries: list[Entry] = []
        async for page in self._newest(partition, name, limit + 1, place):
            entries += [_entry(partition, item) for item in page if text_of(item["task_id"]) != place]
            if len(entries) >= limit:
                break
        return entries[:limit]

    async def prune(self, now: datetime, *, limit: int) -> int:
        """Removes only entries that this object has written; the service removes the rest, see :data:`EXPIRY`."""
        removed = 0
        for partition in sorted(self._histories):
            if removed == limit:
                break
            page = await self._query(
                partition,
                limit - removed,
                "partition_id = :partition",
                {":now": {"S": instant(now)}},
                FilterExpression="expires_at <= :now",
            )
            removed += await self._remove(page["Items"])
        return removed

    async def trim(self, partition: str, name: str | None, *, keep: int, limit: int) -> int:
        surplus: list[Mapping[str, Attribute]] = []
        met = 0
        async with self._table.time_limit(keep + limit):
            async for page in self._newest(partition, name, keep + limit, None):
                surplus += page[max(0, keep - met) :]
                met += len(page)
                if len(surplus) >= limit:
                    break
            return await self._remove(surplus[:limit])

    async def _newest(
        self, partition: str, name: str | None, limit: int, before: str | None
    ) -> AsyncIterator[Sequence[Mapping[str, Attribute]]]:
        """Pages of items, newest first; they may include ``before`` itself."""
        condition, last = "partition_id = :partition", before
        values: dict[str, Attribute] = {}
        if name is None and before is not None:
            condition += " AND task_id < :last"
        elif name is not None:
            first = _digest(name) + _SEPARATOR
            last = first + (before or "~")
            values[":first"] = {"S": first}
            condition += " AND ready_at BETWEEN :first AND :last"
        if last is not None:
            values[":last"] = {"S": last}
        start: Mapping[str, Any] = {} if name is None else {"IndexName": "ready_at"}
        while True:
            page = await self._query(partition, limit, condition, values, ScanIndexForward=False, **start)
            yield page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            start = {**start, "ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _query(
        self, partition: str, limit: int, condition: str, values: Mapping[str, Attribute], **arguments: Any
    ) -> Mapping[str, Any]:
        answer = await self._table.send(
            "Query",
            TableName=self._table.name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues={":partition": self._partition_id(partition), **values},
            Limit=limit,
            ConsistentRead=True,
            **arguments,
        )
        assert answer is not None  # no error was expected
        return answer

    async def _remove(self, found: Sequence[Mapping[str, Attribute]]) -> int:
        keys = [{"partition_id": item["partition_id"], "task_id": item["task_id"]} for item in found]
        async with self._table.time_limit(len(keys)):
            return sum(await self._written([ItemWrite(key, {}, None) for key in keys]))

    async def _written(self, writes: Sequence[ItemWrite]) -> Sequence[bool]:
        answers: list[bool] = []
        for answer in await self._write_items(writes):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    async def _declare_expiry(self) -> None:
        """Enable the table's time to live on the attribute, if it has none and the permissions allow it."""
        declared = {"Enabled": True, "AttributeName": EXPIRY}
        refused = {"ValidationException", "AccessDeniedException", "ResourceInUseException", "UnknownOperationException"}
        try:
            await self._table.send(
                "UpdateTimeToLive", expected=refused, TableName=self._table.name, TimeToLiveSpecification=declared
            )
        except TransientRepositoryError:
            raise
        except RepositoryError as error:
            _LOG.info("The time to live of %s is not set: %s", self._table.name, error)
        self._undeclared = False

    def _item(self, entry: Entry) -> ItemWrite:
        items.size(entry.key, *entry.key, entry.text)
        place = _place(entry.position)
        key = {"partition_id": self._partition_id(entry.key.partition), "task_id": {"S": place}}
        values: Mapping[str, Attribute] = {
            "ready_at": {"S": f"{_digest(entry.key.name)}{_SEPARATOR}{place}"},
            "name": {"S": entry.key.name or EMPTY_NAME},
            "text": {"S": entry.text or EMPTY_NAME},
            "expires_at": {"S": instant(entry.expires_at)},
            EXPIRY: {"N": str(-(-to_microseconds(entry.expires_at) // 1_000_000))},
        }
        return ItemWrite(key, None, values)

    def _partition_id(self, partition: str) -> Attribute:
        items.size(Key(partition, ""), partition)
        # No partition of rows begins like this: in a prefix, a percent sign is followed by digits.
        return {"S": f"{self._prefix[:-1]}%history:{partition}"}


def _place(position: Position) -> str:
    return f"{instant(position.at)}{_SEPARATOR}{position.id}"


def _digest(name: str) -> str:
    """A digest, because a name may be too long for a key with more parts."""
    items.size(Key("", name), name)
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _entry(partition: str, item: Mapping[str, Attribute]) -> Entry:
    at, _, id_ = text_of(item["task_id"]).partition(_SEPARATOR)
    name, text = (("" if (value := text_of(item.get(of))) == EMPTY_NAME else value) for of in ("name", "text"))
    return Entry(
        Key(partition, name),
        Position(datetime.fromisoformat(at), id_),
        datetime.fromisoformat(text_of(item.get("expires_at"))),
        text,
    )
