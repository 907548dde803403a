"""A table of DynamoDB: its requests, the meaning of their errors, and its creation.

The driver sends nothing twice: a repeated conditional write would find that it has broken its own condition. Requests that the service
certainly did not apply, because it was too busy, are repeated here; those that it may have applied are left to the caller.
"""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from botocore import exceptions as driver

from pyncette.dynamodb import wire
from pyncette.dynamodb.faults import code_of, line_of, of_a_statement, without_credentials
from pyncette.dynamodb.wire import Wire
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.waiting import Backoff

__all__ = ["Table", "connected"]

_SCHEMA: Mapping[str, Any] = {
    "AttributeDefinitions": [
        {"AttributeName": "partition_id", "AttributeType": "S"},
        {"AttributeName": "task_id", "AttributeType": "S"},
        {"AttributeName": "ready_at", "AttributeType": "S"},
    ],
    "KeySchema": [
        {"AttributeName": "partition_id", "KeyType": "HASH"},
        {"AttributeName": "task_id", "KeyType": "RANGE"},
    ],
    "LocalSecondaryIndexes": [
        {
            "IndexName": "ready_at",
            "KeySchema": [
                {"AttributeName": "partition_id", "KeyType": "HASH"},
                {"AttributeName": "ready_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "ALL"},
        }
    ],
}
#: How long the service may take to create the table; usually it takes ten seconds.
_CREATION_SECONDS = 120

#: Refused before anything was done, and soon accepted: codes for a request and, without "Exception", for a statement in a batch.
_BUSY = {
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "ThrottlingException",
    "ThrottlingError",
    "Throttling",
    "RequestLimitExceeded",
    "LimitExceededException",  # raised while many tables are being created
    "TransactionConflictException",
    "TransactionConflict",
}
#: The condition of a statement does not hold.
_BROKEN = {"ConditionalCheckFailed", "ConditionalCheckFailedException", "DuplicateItem", "DuplicateItemException"}
#: Errors whose messages may quote the request with its session token.
_CREDENTIALS = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "IncompleteSignatureException",
    "IncompleteSignature",
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "ExpiredTokenException",
    "ExpiredToken",
    "RequestExpired",
}
#: Errors of the driver itself, whose messages may contain the output of a program that prints credentials.
_NO_CREDENTIALS = (
    driver.NoCredentialsError,
    driver.PartialCredentialsError,
    driver.NoAuthTokenError,
    driver.CredentialRetrievalError,
    driver.MetadataRetrievalError,
    driver.TokenRetrievalError,
    driver.SSOError,
)

#: The deadline of the call to which this request belongs, on the clock of the event loop.
_DEADLINE: ContextVar[float | None] = ContextVar("pyncette_dynamodb_deadline", default=None)


class Table:
    """The requests of one table, through the driver's pool of connections."""

    def __init__(self, wire: Wire, name: str, where: str, timeout: float) -> None:
        self._wire = wire
        self.name = name
        self.where = where
        self._timeout = timeout
        self._closed = False

    def close(self) -> None:
        self._closed = True

    @contextlib.asynccontextmanager
    async def time_limit(self, rows: int) -> AsyncIterator[None]:
        """The requests in this block share a timeout, per hundred rows."""
        if _DEADLINE.get() is not None:  # part of another call
            yield
            return
        token = _DEADLINE.set(asyncio.get_running_loop().time() + self._timeout * max(1.0, rows / 100))
        try:
            yield
        finally:
            _DEADLINE.reset(token)

    async def send(self, operation: str, *, expected: Collection[str] = (), **arguments: Any) -> Mapping[str, Any] | None:
        """The service's answer; None if it is an error whose code is ``expected``."""
        async with self._patience() as pause:
            while True:
                try:
                    return await self._wire.post(operation, arguments)
                except driver.ClientError as error:
                    if code_of(error) in expected:
                        return None
                    await pause(error)
        raise AssertionError  # no, but the types do not tell

    async def execute(self, statements: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any] | RepositoryError | None]:
        """Execute up to 25 separate statements. Returns for each the service's answer, None if its condition does not hold, or an error."""
        results: dict[int, Mapping[str, Any] | RepositoryError | None] = {}
        left = list(range(len(statements)))
        try:
            async with self._patience() as pause:
                while left:
                    busy = None
                    answer: Mapping[str, Any] = {}
                    try:
                        answer = await self._wire.post(
                            "BatchExecuteStatement", {"Statements": [statements[index] for index in left]}
                        )
                    except driver.ClientError as error:
                        await pause(error)
                        continue
                    again = []
                    for index, response in zip(left, answer["Responses"], strict=True):
                        refusal = response.get("Error")
                        if refusal is None:
                            results[index] = response
                        elif refusal["Code"] in _BROKEN:
                            results[index] = None
                        elif refusal["Code"] in _BUSY:
                            again.append(index)
                            busy = of_a_statement(refusal)
                        else:
                            results[index] = self._translate(of_a_statement(refusal))
                    left = again
                    if busy is not None:
                        await pause(busy)
        except RepositoryError as error:
            results.update(dict.fromkeys(left, error))
        return [results[index] for index in range(len(statements))]

    async def reports(self, statement: Mapping[str, Any]) -> bool:
        """Whether the service reports that the condition of ``statement`` does not hold."""
        refused = {
            "AccessDeniedException",
            "UnknownOperationException",
            "ValidationException",
            "InternalFailure",
            "InternalServerError",
        }
        answer = await self.send("BatchExecuteStatement", expected=refused, Statements=[statement])
        return answer is not None and [each.get("Error", {}).get("Code") for each in answer["Responses"]] == [
            "ConditionalCheckFailed"
        ]

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[Callable[[driver.ClientError], Awaitable[None]]]:
        """Wraps a request and its repetitions, up to the timeout. The yielded function pauses after an error which says that the service is
        busy, and raises any other.
        """
        deadline = _DEADLINE.get()
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._timeout
        pauses = Backoff(0.025, 1, jitter=True)
        busy: driver.ClientError | None = None

        async def pause(error: driver.ClientError) -> None:
            nonlocal busy
            if code_of(error) not in _BUSY:
                raise error
            busy = error
            await asyncio.sleep(pauses.next())
            self._check_open()

        try:
            async with asyncio.timeout_at(deadline):
                self._check_open()
                yield pause
        except TimeoutError as error:
            if busy is None:
                raise TransientRepositoryError(
                    f"{self.where} did not answer within {self._timeout:g} s; check the network, or raise dynamodb_timeout"
                ) from error
            raise TransientRepositoryError(
                f"{self.where} was too busy for {self._timeout:g} s ({line_of(busy)}); "
                "raise the capacity of the table, or spread the tasks over more partitions"
            ) from busy
        except driver.ClientError as error:
            if code_of(error) in _CREDENTIALS:
                raise self._translate(error) from None
            raise self._translate(error) from error
        except _NO_CREDENTIALS as error:
            raise without_credentials(self.where, error) from None
        except (driver.BotoCoreError, OSError) as error:
            raise TransientRepositoryError(
                f"{self.where} can't be reached ({line_of(error)}); check the address and the network"
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise RepositoryError(f"The repository of {self.where} is closed; use it within its context")

    async def open(self, *, create: bool) -> None:
        """Create the table if it is absent, wait until it can be used, and check that it is one of Pyncette's."""
        description = await self._describe()
        if description is None:
            if not create:
                raise self._missing("create it, or leave out dynamodb_skip_table_create")
            # somebody else may be creating it, or may have created it since
            await self.send(
                "CreateTable",
                expected={"ResourceInUseException"},
                TableName=self.name,
                BillingMode="PAY_PER_REQUEST",
                **_SCHEMA,
            )
        until = asyncio.get_running_loop().time() + _CREATION_SECONDS
        pauses = Backoff(0.02, 1)
        while description is None or description["TableStatus"] == "CREATING":
            if asyncio.get_running_loop().time() > until:
                raise TransientRepositoryError(
                    f"The table {self.name!r} in {self.where} is still being created after {_CREATION_SECONDS} s; try again"
                )
            await asyncio.sleep(pauses.next())
            description = await self._describe()
        if _shape(description) != _shape(_SCHEMA):
            raise RepositoryError(
                f"The table {self.name!r} in {self.where} has other keys or indexes than Pyncette's; choose another dynamodb_table_name"
            )

    async def _describe(self) -> Mapping[str, Any] | None:
        answer = await self.send("DescribeTable", expected={"ResourceNotFoundException"}, TableName=self.name)
        return answer and answer["Table"]

    def _missing(self, what_to_do: str) -> RepositoryError:
        return StoreMissingError(f"There is no table {self.name!r} in {self.where}; {what_to_do}")

    def _translate(self, error: driver.ClientError) -> RepositoryError:
        code = code_of(error)
        if code in _CREDENTIALS:
            return RepositoryError(f"{self.where} refuses the AWS credentials ({code}); check them, and the clock of this machine")
        if code == "ResourceNotFoundException":
            return self._missing("create it, or restart to have it created")
        if code == "AccessDeniedException":
            return RepositoryError(f"{self.where} denies a request ({line_of(error)}); allow it in the policy of the user or role")
        if code == "ItemCollectionSizeLimitExceededException":
            return RepositoryError(
                f"A partition in {self.where} is full ({line_of(error)}); remove tasks, or spread them over more partitions"
            )
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:  # it may have been applied
            return TransientRepositoryError(f"{self.where} failed ({line_of(error)})")
        return RepositoryError(f"{self.where} refused a request ({line_of(error)})")


@contextlib.asynccontextmanager
async def connected(
    *, endpoint: str | None, region: str | None, table: str, timeout: float, max_connections: int
) -> AsyncIterator[Table]:
    """The table, as far as it is known without a request."""
    if endpoint is not None:
        _check_endpoint(endpoint)
    async with contextlib.AsyncExitStack() as stack:
        try:
            made = await stack.enter_async_context(
                wire.connected(endpoint=endpoint, region=region, timeout=timeout, max_connections=max_connections)
            )
        except driver.NoRegionError as error:
            raise ConfigurationError(
                "The region of DynamoDB is not known; write dynamodb://REGION/TABLE, pass dynamodb_region_name or set AWS_DEFAULT_REGION"
            ) from error
        except _NO_CREDENTIALS as error:
            raise without_credentials("DynamoDB" if endpoint is None else f"DynamoDB at {endpoint}", error) from None
        except (driver.BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"DynamoDB can't be used with these settings: {line_of(error)}") from error
        where = f"DynamoDB in {made.region}" if endpoint is None else f"DynamoDB at {endpoint}"
        opened = Table(made, table, where, timeout)
        try:
            yield opened
        finally:
            opened.close()


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urllib.parse.urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        valid = False
    if not valid:  # it may contain a password, so don't show it
        raise ConfigurationError("The dynamodb_endpoint is not the URL of a service; write for example 'http://127.0.0.1:8000'")


def _shape(schema: Mapping[str, Any]) -> object:
    """The keys and the index that a table of Pyncette has. It may have further indexes."""
    types = {each["AttributeName"]: each["AttributeType"] for each in schema["AttributeDefinitions"]}

    def keys(of: Mapping[str, Any]) -> object:
        return sorted((each["KeyType"], each["AttributeName"], types[each["AttributeName"]]) for each in of["KeySchema"])

    ours = [each for each in schema.get("LocalSecondaryIndexes", ()) if each["IndexName"] == "ready_at"]
    return keys(schema), [(keys(each), each["Projection"]["ProjectionType"]) for each in ours]
