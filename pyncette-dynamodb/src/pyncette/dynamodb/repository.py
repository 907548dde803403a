"""The contract on DynamoDB: reads rows, changes them by core's rules, and writes them if they are unchanged."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pyncette.backends import Backend, BackendURL
from pyncette.compare_and_set import CompareAndSetRepository, Stored, Write
from pyncette.dynamodb import items
from pyncette.dynamodb.history import DynamoDBHistory
from pyncette.dynamodb.items import EMPTY_NAME, NO_VERSION, Attribute, ItemWrite
from pyncette.dynamodb.table import Table, connected
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.lifecycle import Settled
from pyncette.repository import ClaimResult, Key, Outcome, Page, Row, Settlement
from pyncette.rowwise import Change
from pyncette.waiting import Backoff

__all__ = ["DynamoDBRepository", "backend", "dynamodb_repository"]

T = TypeVar("T")

#: Raised when the meaning of stored data changes.
FORMAT = 1

#: The key of the format, in a separate partition: those of rows contain a colon.
_FORMAT_KEY: Mapping[str, Attribute] = {"partition_id": {"S": "pyncette"}, "task_id": {"S": "format"}}
#: The error code for a condition that does not hold.
_BROKEN = {"ConditionalCheckFailedException"}
#: The maximum number of items per read request and per write request, and of bytes per write request.
_READ, _WRITTEN, _WRITTEN_BYTES = 100, 25, 1_000_000


class DynamoDBRepository(DynamoDBHistory, CompareAndSetRepository):
    """Rows in a table of DynamoDB. Opened by :func:`dynamodb_repository`."""

    def __init__(self, table: Table, prefix: str) -> None:
        super().__init__()
        self._table = table
        self._prefix = prefix.replace("%", "%25").replace(":", "%3A") + ":"
        #: Whether the service accepts many statements in a request, and reports for each whether its condition holds.
        self._takes_many = False

    async def read(self, key: Key) -> Stored | None:
        answer = await self._send("GetItem", Key=self._key(key), ConsistentRead=True)
        return self._stored(answer["Item"]) if "Item" in answer else None

    async def write(self, write: Write) -> bool:
        [answer] = await self.write_many([write])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def write_many(self, writes: Sequence[Write]) -> Sequence[bool | Exception]:
        def planned(write: Write) -> ItemWrite | Exception:
            before = write.before and (write.before.row, write.before.version)
            try:
                return items.update(self._key(write.key), before, write.after)
            except RepositoryError as error:  # too large, or not valid UTF-8
                return error

        return await self._write_items([planned(write) for write in writes])

    async def write_expected(self, expected: Sequence[Settled]) -> Collection[Key]:
        written = await self._write_items([items.settled(self._key(each.key), each) for each in expected])
        for answer in written:
            if isinstance(answer, Exception):
                raise answer
        return {each.key for each, answer in zip(expected, written, strict=True) if answer}

    async def _write_items(self, writes: Sequence[ItemWrite | Exception]) -> Sequence[bool | Exception]:
        """Write items, each on its own condition, as many as possible per request."""
        results = dict[int, bool | Exception]()
        alone: list[tuple[int, ItemWrite]] = []
        together: list[list[tuple[int, ItemWrite, Mapping[str, Any]]]] = []
        room = 0
        for index, write in enumerate(writes):
            if isinstance(write, Exception):
                results[index] = write
            elif len(writes) == 1 or not self._takes_many or not write.plain:
                alone.append((index, write))
            else:
                statement = write.statement(self._table.name)
                room -= len(json.dumps(statement))
                if room < 0 or len(together[-1]) == _WRITTEN:
                    together.append([])
                    room = _WRITTEN_BYTES
                together[-1].append((index, write, statement))

        async def send_one(one: tuple[int, ItemWrite]) -> bool:
            operation, arguments = one[1].request()
            return await self._table.send(operation, expected=_BROKEN, TableName=self._table.name, **arguments) is not None

        async def send_many(many: Sequence[tuple[int, ItemWrite, Mapping[str, Any]]]) -> None:
            for (index, write, _), answer in zip(many, await self._table.execute([each[2] for each in many]), strict=True):
                if isinstance(answer, Exception):
                    results[index] = answer
                else:  # the service does not report removing an absent item as a failure
                    results[index] = answer is not None and (write.values is not None or "Item" in answer)

        for (index, _), done in zip(alone, await self._side_by_side(send_one, alone), strict=True):
            results[index] = done
        await self._side_by_side(send_many, together)
        return [results[index] for index in range(len(writes))]

    async def ready(self, partition: str, limit: int) -> Sequence[Stored]:
        found: list[Stored] = []
        start: Mapping[str, Any] = {}
        while True:  # a page ends after a megabyte
            page = await self._query_rows(partition, limit - len(found), IndexName="ready_at", **start)
            found += map(self._stored, page["Items"])
            if len(found) >= limit or "LastEvaluatedKey" not in page:
                return found
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        start = {} if token is None else {"ExclusiveStartKey": self._key(Key(partition, token))}
        page = await self._query_rows(partition, limit, **start)
        rows = [self._stored(item).row for item in page["Items"]]
        return Page(rows, page["LastEvaluatedKey"]["task_id"]["S"] if "LastEvaluatedKey" in page else None)

    async def read_many(self, keys: Sequence[Key]) -> Sequence[Stored | Exception | None]:
        if len(keys) == 1:
            return await super().read_many(keys)
        batches = [keys[start : start + _READ] for start in range(0, len(keys), _READ)]
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

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        async with self._table.time_limit(len(settlements)):
            return await super().settle(now, settlements)

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
        while left:  # an answer has at most 16 MB, and less when the service is busy
            answer = await self._send("BatchGetItem", RequestItems={self._table.name: {"Keys": left, "ConsistentRead": True}})
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
        self._undeclared = create
        found = await self._send("GetItem", Key=_FORMAT_KEY, ConsistentRead=True)
        if "Item" not in found:
            await self._refuse_old()
        if "Item" not in found and create:
            item, absent = {**_FORMAT_KEY, "format": {"N": str(FORMAT)}}, "attribute_not_exists(partition_id)"
            # whichever process is faster
            await self._table.send("PutItem", expected=_BROKEN, TableName=self._table.name, Item=item, ConditionExpression=absent)
            found = await self._send("GetItem", Key=_FORMAT_KEY, ConsistentRead=True)
        # Without permission to create, write nothing: a table without a format was created by somebody else, in this format.
        version = found["Item"].get("format", {}).get("N", "unknown") if "Item" in found else str(FORMAT)
        if version != str(FORMAT):
            raise RepositoryError(
                f"The table {self._table.name!r} in {self._table.where} has the stored format {version}, "
                f"but this Pyncette knows only {FORMAT}; upgrade pyncette-dynamodb"
            )
        # Some compatible services have no statements, or ignore their conditions. This condition never holds.
        probe = ItemWrite(_FORMAT_KEY, {"format": {"N": "-1"}}, {"format": {"N": str(FORMAT)}}).statement(self._table.name)
        self._takes_many = await self._table.reports(probe)

    async def _refuse_old(self) -> None:
        """Raise :class:`RepositoryError` if the tasks in the table are those of Pyncette 1, whose keys are the same."""
        denied = {"AccessDeniedException"}  # this permission is optional
        found = await self._table.send("Scan", expected=denied, TableName=self._table.name, Limit=25)
        if found and any("locked_by" in item for item in found["Items"]):
            raise RepositoryError(
                f"The table {self._table.name!r} in {self._table.where} has tasks of Pyncette 1, which this version can't read; "
                "choose another dynamodb_table_name, and schedule dynamic tasks there again"
            )

    async def _query_rows(self, partition: str, limit: int, **arguments: Any) -> Mapping[str, Any]:
        return await self._send(
            "Query",
            KeyConditionExpression="partition_id = :partition",
            ExpressionAttributeValues={":partition": self._key(Key(partition, ""))["partition_id"]},
            Limit=limit,
            ConsistentRead=True,
            **arguments,
        )

    async def _send(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        table = {} if "RequestItems" in arguments else {"TableName": self._table.name}
        answer = await self._table.send(operation, **table, **arguments)
        assert answer is not None  # no error was expected
        return answer

    def _key(self, key: Key) -> dict[str, Attribute]:
        items.size(key, *key)
        return {"partition_id": {"S": self._prefix + key.partition}, "task_id": {"S": key.name or EMPTY_NAME}}

    def _stored(self, item: Mapping[str, Attribute]) -> Stored:
        partition, name = item["partition_id"]["S"][len(self._prefix) :], item["task_id"]["S"]
        row = items.row_of(Key(partition, "" if name == EMPTY_NAME else name), item)
        return Stored(row, item.get("version", NO_VERSION))


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
    """Tasks in a table of DynamoDB. Credentials come from where every AWS program finds them.

    :param dynamodb_endpoint: URL of the service, if it is not that of the region: DynamoDB Local, or a private endpoint.
    :param dynamodb_region_name: name of the region; that of the environment or the profile by default.
    :param dynamodb_table_name: name of the table. If it does not exist, it is created with on-demand billing.
    :param dynamodb_partition_prefix: the prefix of all items' keys, so that several applications can share a table.
    :param dynamodb_timeout: seconds that a call may take, including waits while the service is busy; for a call with more than
        a hundred rows, the limit per hundred, because rows may be written by separate requests.
    :param dynamodb_max_connections: the maximum number of open connections.
    :param dynamodb_skip_table_create: the table exists; don't try to create it.
    :raises ConfigurationError: an option is invalid.
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


def _from_url(url: BackendURL) -> Mapping[str, Any]:
    if url.username is not None or url.password is not None:
        raise ConfigurationError(
            f"A URL of DynamoDB has no credentials, but {url} has; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    options = {"dynamodb_region_name": url.hosts, "dynamodb_table_name": url.path[1:]}
    return {name: value for name, value in options.items() if value}


backend: Backend = Backend(contract_version=1, factory=dynamodb_repository, prefix="dynamodb_", from_url=_from_url)
