"""The contract on DynamoDB: rows are read, changed by core's rules, and written on the condition that they are as they were."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pyncette.backends import Backend, BackendURL
from pyncette.clock import to_microseconds
from pyncette.codec import decode
from pyncette.compare_and_set import CompareAndSetRepository, Stored
from pyncette.dynamodb.table import Table, connected
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.repository import ClaimResult, Key, Page, Row, State
from pyncette.rowwise import Change
from pyncette.waiting import Backoff

__all__ = ["DynamoDBRepository", "backend", "dynamodb_repository"]

T = TypeVar("T")

#: Raised whenever what is stored changes its meaning.
FORMAT = 1

#: Where the format is kept: in a partition of its own, since those of rows have a colon.
_FORMAT_KEY = {"partition_id": {"S": "pyncette"}, "task_id": {"S": "format"}}
#: DynamoDB has no empty keys, and a name never has a NUL.
_EMPTY_NAME = "\0"
#: The version of an item that has none: somebody else wrote it.
_NO_VERSION: Mapping[str, str] = {}
#: An item and its copy in the index may have 400 KB together; of its half a task leaves this for what is not the user's.
_MAX_BYTES = 400 * 1024 // 2 - 1024
_BATCH = 100

_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class DynamoDBRepository(CompareAndSetRepository):
    """Rows in a table of DynamoDB. Opened by :func:`dynamodb_repository`."""

    def __init__(self, table: Table, prefix: str) -> None:
        self._table = table
        self._prefix = prefix.replace("%", "%25").replace(":", "%3A") + ":"

    async def read(self, key: Key) -> Stored | None:
        answer = await self._send("get_item", Key=self._key(key), ConsistentRead=True)
        return self._stored(answer["Item"]) if "Item" in answer else None

    async def write(self, key: Key, expected: object | None, row: Row | None) -> bool:
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(partition_id)"}
        if expected is not None:
            condition = {
                "ConditionExpression": "#version = :expected",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": {":expected": expected},
            }
            if expected == _NO_VERSION:
                condition = {
                    "ConditionExpression": "attribute_exists(partition_id) AND attribute_not_exists(#version)",
                    "ExpressionAttributeNames": {"#version": "version"},
                }
        arguments: dict[str, Any]
        if row is None:
            operation, arguments = "delete_item", {"Key": self._key(key)}
        elif row.state is State.UNREADABLE:
            # Nothing but when it is ready; and another version, as ever.
            operation, arguments = (
                "update_item",
                {"Key": self._key(key), "UpdateExpression": "SET ready_at = :ready_at, #version = :new"},
            )
            written = {":ready_at": {"S": _text(row.ready_at or _EARLIEST)}, ":new": {"S": uuid.uuid4().hex}}
            condition["ExpressionAttributeValues"] = {**condition.get("ExpressionAttributeValues", {}), **written}
        else:
            operation, arguments = "put_item", {"Item": {**self._key(key), **_encode(row)}}
        failed = {"ConditionalCheckFailedException"}
        answer = await self._table.send(operation, expected=failed, TableName=self._table.name, **arguments, **condition)
        return answer is not None

    async def ready(self, partition: str, limit: int) -> Sequence[Stored]:
        found: list[Stored] = []
        start: Mapping[str, Any] = {}
        while True:  # a page ends after a megabyte
            page = await self._query(partition, limit - len(found), IndexName="ready_at", **start)
            found += map(self._stored, page["Items"])
            if len(found) >= limit or "LastEvaluatedKey" not in page:
                return found
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        start = {} if token is None else {"ExclusiveStartKey": self._key(Key(partition, token))}
        page = await self._query(partition, limit, **start)
        rows = [self._stored(item).row for item in page["Items"]]
        return Page(rows, page["LastEvaluatedKey"]["task_id"]["S"] if "LastEvaluatedKey" in page else None)

    async def read_many(self, keys: Sequence[Key]) -> Sequence[Stored | Exception | None]:
        # A request costs more than a row.
        if len(keys) == 1:
            return await super().read_many(keys)
        batches = [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]
        found: list[Stored | Exception | None] = []
        for batch, rows in zip(batches, await self._side_by_side(self._read_batch, batches), strict=True):
            found += [rows] * len(batch) if isinstance(rows, Exception) else [rows[key] for key in batch]
        return found

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        async with self._table.time_limit(len(keys)):
            return await super().get(keys)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        async with self._table.time_limit(limit):
            return await super().claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)

    async def update(self, changes: Sequence[tuple[Key, Change[T]]]) -> Sequence[T]:
        async with self._table.time_limit(len(changes)):
            return await super().update(changes)

    async def _read_batch(self, keys: Sequence[Key]) -> Mapping[Key, Stored | RepositoryError | None]:
        rows: dict[Key, Stored | RepositoryError | None] = dict.fromkeys(keys)
        items = {}
        for key in rows:
            try:
                wire = self._key(key)
                items[wire["partition_id"]["S"], wire["task_id"]["S"]] = key, wire
            except RepositoryError as error:
                rows[key] = error
        left = [wire for _, wire in items.values()]
        pauses = Backoff(0.025, 1, jitter=True)
        while left:  # it answers no more than 16 MB, and less when it is busy
            answer = await self._send("batch_get_item", RequestItems={self._table.name: {"Keys": left, "ConsistentRead": True}})
            found = answer["Responses"].get(self._table.name, ())
            for item in found:
                key, _ = items[item["partition_id"]["S"], item["task_id"]["S"]]
                rows[key] = self._stored(item)
            left = answer.get("UnprocessedKeys", {}).get(self._table.name, {}).get("Keys", ())
            if left and not found:
                await asyncio.sleep(pauses.next())
        return rows

    async def _open(self, *, create: bool) -> None:
        await self._table.open(create=create)
        # Who creates nothing leaves nothing: a table without a format is one that others have made, and of this one.
        answer: Mapping[str, Any] = {} if create else {"Item": {"format": {"N": str(FORMAT)}}}
        if not create:
            found = await self._send("get_item", Key=_FORMAT_KEY, ConsistentRead=True)
            answer = found if "Item" in found else answer
        while "Item" not in answer:
            answer = await self._send("get_item", Key=_FORMAT_KEY, ConsistentRead=True)
            if "Item" not in answer:
                item = {**_FORMAT_KEY, "format": {"N": str(FORMAT)}}
                absent = "attribute_not_exists(partition_id)"
                failed = {"ConditionalCheckFailedException"}
                await self._table.send(
                    "put_item", expected=failed, TableName=self._table.name, Item=item, ConditionExpression=absent
                )
        version = answer["Item"].get("format", {}).get("N", "unknown")
        if version != str(FORMAT):
            raise RepositoryError(
                f"The table {self._table.name!r} in {self._table.where} has the stored format {version}, "
                f"but this Pyncette knows only {FORMAT}; upgrade pyncette-dynamodb"
            )

    async def _query(self, partition: str, limit: int, **arguments: Any) -> Mapping[str, Any]:
        return await self._send(
            "query",
            KeyConditionExpression="partition_id = :partition",
            ExpressionAttributeValues={":partition": self._key(Key(partition, ""))["partition_id"]},
            Limit=limit,
            ConsistentRead=True,
            **arguments,
        )

    async def _send(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        table = {} if "RequestItems" in arguments else {"TableName": self._table.name}
        answer = await self._table.send(operation, **table, **arguments)
        assert answer is not None  # nothing was expected
        return answer

    def _key(self, key: Key) -> dict[str, Any]:
        _size(key, *key)
        return {"partition_id": {"S": self._prefix + key.partition}, "task_id": {"S": key.name or _EMPTY_NAME}}

    def _stored(self, item: Mapping[str, Any]) -> Stored:
        partition, name = item["partition_id"]["S"][len(self._prefix) :], item["task_id"]["S"]
        row = _decode(Key(partition, "" if name == _EMPTY_NAME else name), item)
        return Stored(row, item.get("version", _NO_VERSION))


@contextlib.asynccontextmanager
async def dynamodb_repository(
    *,
    dynamodb_endpoint: str | None = None,
    dynamodb_region_name: str | None = None,
    dynamodb_table_name: str = "pyncette_tasks",
    dynamodb_partition_prefix: str = "",
    dynamodb_timeout: float = 10.0,
    dynamodb_max_connections: int = 32,
    dynamodb_skip_table_create: bool = False,
) -> AsyncIterator[DynamoDBRepository]:
    """Tasks in a table of DynamoDB. Credentials are those that any program of AWS would use here.

    :param dynamodb_endpoint: URL of the service, if it is not that of the region: DynamoDB Local, or a private endpoint.
    :param dynamodb_region_name: name of the region; that of the environment or the profile if there is none here.
    :param dynamodb_table_name: name of the table. It is created, to be paid by request, if there is none.
    :param dynamodb_partition_prefix: what the keys of all items begin with, so that several applications can share a table.
    :param dynamodb_timeout: seconds that a call may take, including those that it waits because the service is too busy; for each
        hundred rows, if it is about more, since each row is written by a request of its own.
    :param dynamodb_max_connections: how many may be open at once.
    :param dynamodb_skip_table_create: the table exists; don't try to create it.
    :raises ConfigurationError: an option makes no sense.
    :raises RepositoryError: the service refused, or the table can't be used.
    :raises TransientRepositoryError: the service could not be reached.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", dynamodb_table_name):
        raise ConfigurationError(
            f"dynamodb_table_name={dynamodb_table_name!r} is not the name of a table; "
            "write 3 to 255 letters, digits, underscores, hyphens and dots"
        )
    if not dynamodb_timeout > 0:
        raise ConfigurationError(f"dynamodb_timeout={dynamodb_timeout!r} is not a number of seconds above 0")
    if dynamodb_max_connections < 1:
        raise ConfigurationError(f"dynamodb_max_connections={dynamodb_max_connections!r} is not a number above 0")
    async with connected(
        endpoint=dynamodb_endpoint,
        region=dynamodb_region_name,
        table=dynamodb_table_name,
        timeout=dynamodb_timeout,
        max_connections=dynamodb_max_connections,
    ) as table:
        repository = DynamoDBRepository(table, dynamodb_partition_prefix)
        await repository._open(create=not dynamodb_skip_table_create)
        yield repository


def _size(key: Key, *texts: str) -> int:
    """The bytes of ``texts``, which belong to the task ``key``."""
    try:
        return sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:  # the driver would send half a character, and the service store another
        raise RepositoryError(f"The task {key.name!r} of {key.partition!r} can't be stored as UTF-8 ({error.reason})") from None


def _encode(row: Row) -> dict[str, Any]:
    size = _size(row.key, *row.key, row.spec, row.schedule)
    if size > _MAX_BYTES:
        raise RepositoryError(
            f"The task {row.key.name!r} of {row.key.partition!r} takes {size:,} bytes with its arguments, but DynamoDB holds no more "
            f"than {_MAX_BYTES:,}; store the arguments elsewhere, and pass where they are"
        )
    texts = {
        "spec": row.spec,
        "schedule": row.schedule,
        "occurrence": _text(row.occurrence),
        "execute_after": _text(row.execute_after),
        "ready_at": row.ready_at and _text(row.ready_at),
        "lease": row.lease,
        "locked_until": row.locked_until and _text(row.locked_until),
        "state": row.state.value,
        "error": row.error,
        "version": uuid.uuid4().hex,
    }
    numbers = {"epoch": row.epoch, "revision": row.revision, "attempt": row.attempt}
    return {
        **{name: {"S": text} for name, text in texts.items() if text is not None},
        **{name: {"N": str(number)} for name, number in numbers.items()},
    }


def _decode(key: Key, item: Mapping[str, Any]) -> Row:
    def text(name: str) -> Any:
        """The text; anything else as it came, for core to judge."""
        attribute = item.get(name)
        return attribute.get("S", attribute) if attribute else None

    def time(name: str) -> Any:
        try:
            return to_microseconds(datetime.fromisoformat(text(name)))
        except (TypeError, ValueError):  # the former also of a time without a zone
            return text(name)

    def number(name: str) -> Any:
        try:
            return int(item[name]["N"])
        except (KeyError, ValueError):
            return None

    row = decode(
        key,
        text("spec"),
        text("schedule"),
        time("occurrence"),
        time("execute_after"),
        time("ready_at"),
        text("lease"),
        time("locked_until"),
        number("epoch"),
        number("revision"),
        number("attempt"),
        text("state"),
        text("error"),
    )
    if row.state is State.UNREADABLE and row.ready_at is None and "" < str(text("ready_at") or "") < _text(_LATEST):
        # No time, but in the index among the times: it is in the way until it is put off.
        row = row._replace(ready_at=_EARLIEST)
    return row


def _text(instant: datetime) -> str:
    """In UTC and of one length, so that texts are in the order of time."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.username is not None or url.password is not None:
        raise ConfigurationError(
            f"A URL of DynamoDB has no credentials, but {url} has; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    options = {"dynamodb_region_name": url.hosts, "dynamodb_table_name": url.path[1:]}
    return {name: value for name, value in options.items() if value}


backend = Backend(contract_version=1, factory=dynamodb_repository, prefix="dynamodb_", from_url=_from_url)
