"""The store under test: opened as often as a test needs, used in separate partitions, and left as it was found.

A store may contain other people's rows. So each test works in partitions with random names, and afterwards removes the rows that are
listed there, and nothing else.
"""

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import pytest

from pyncette.repository import (
    Key,
    Repository,
    Row,
    SupportsHistory,
    SupportsPartitions,
    SupportsPause,
    SupportsServerTime,
    SupportsStats,
    SupportsTransactions,
    SupportsWakeUp,
)
from pyncette_conformance.builders import T0
from pyncette_conformance.capabilities import Capabilities

__all__ = ["RepositoryFactory", "Requirement", "Session", "Store", "all_rows", "excusable", "opened", "scenario"]

RepositoryFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Repository]]
Requirement: TypeAlias = Literal[
    "durable",
    "shared",
    "supports_server_time",
    "supports_stats",
    "supports_partitions",
    "supports_pause",
    "supports_transactions",
    "supports_history",
    "supports_wake_up",
]

_PROTOCOLS: dict[str, type] = {
    "supports_server_time": SupportsServerTime,
    "supports_stats": SupportsStats,
    "supports_partitions": SupportsPartitions,
    "supports_pause": SupportsPause,
    "supports_transactions": SupportsTransactions,
    "supports_history": SupportsHistory,
    "supports_wake_up": SupportsWakeUp,
}

#: How many history entries are removed per call after a test.
_TRIMMED = 1000

#: A guard against stores that hang; no test comes near it.
_TIMEOUT_SECONDS = 120

T = TypeVar("T")


class Store:
    """One store as a test sees it. Enter it within an event loop; :func:`scenario` does."""

    def __init__(self, factory: RepositoryFactory, capabilities: Capabilities, many: int = 1100) -> None:
        self.factory = factory
        self._many = many
        self.capabilities = capabilities
        self._prefix = f"conformance-{uuid.uuid4().hex}"
        self._partitions: list[str] = []
        #: Partitions with entries in their history, to be removed at the end.
        self.histories: set[str] = set()
        self._stack = contextlib.AsyncExitStack()
        self._repository: Repository | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._repository = await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            left = [row for partition in dict.fromkeys(self._partitions) for row in await all_rows(self.repository, partition)]
            if left:
                await self.repository.unregister(T0, [row.key for row in left])
            for partition in self.histories:
                assert isinstance(self.repository, SupportsHistory)
                while await self.repository.trim(partition, None, keep=0, limit=_TRIMMED):
                    pass
        except Exception:
            # A failed test may have left the store in any state; its own error is the one to report.
            if error is None:
                raise
        finally:
            await self._stack.aclose()

    @property
    def repository(self) -> Repository:
        """The repository that serves most tests."""
        assert self._repository is not None, "the store is not open"
        return self._repository

    async def open(self) -> Repository:
        """Another repository on the store, closed at the end of the test."""
        return await self._stack.enter_async_context(self.factory())

    async def workers(self, count: int) -> Sequence[Repository]:
        """``count`` repositories of the same rows, each with separate connections if the store can be shared."""
        if not self.capabilities.shared:
            return [self.repository] * count
        return [self.repository, *[await self.open() for _ in range(count - 1)]]

    def partition(self, suffix: str = "") -> str:
        """The name of a partition that nobody else uses; cleaned up at the end."""
        return self.adopt(f"{self._prefix}-{len(self._partitions)}{suffix}")

    def adopt(self, partition: str) -> str:
        """Clean up a partition that the test names itself, with the name of one of its partitions as a prefix."""
        self._partitions.append(partition)
        return partition

    def disown(self, partition: str) -> None:
        """Leave a partition as it is: the test has cleaned it up."""
        self._partitions.remove(partition)

    def key(self, name: str = "task") -> Key:
        """A key in a new partition."""
        return Key(self.partition(), name)

    def keys(self, count: int) -> Sequence[Key]:
        """Keys in one new partition."""
        partition = self.partition()
        return [Key(partition, f"task-{number:05}") for number in range(count)]

    def mixed_keys(self, count: int) -> Sequence[Key]:
        """Keys of three partitions in turn, in no particular order: only their positions connect answers with them."""
        partitions = [self.partition() for _ in range(3)]
        # 7 has no factor in common with 10.
        names = [f"task-{number * 7 % 10}{number // 10}" for number in range(count)]
        return [Key(partitions[number * number % 3 - number % 2], name) for number, name in enumerate(names)]

    def many_keys(self) -> Sequence[Key]:
        """The number of rows in a large batch."""
        return self.keys(self._many)

    @property
    def several(self) -> int:
        """A number of rows that may show a race; few if each takes long."""
        return max(2, min(10, self._many // 30))

    async def row(self, key: Key) -> Row:
        """The row stored under ``key``, which must exist."""
        [row] = await self.repository.get([key])
        assert row is not None, f"nothing is stored under {key}"
        return row

    async def rows(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """The rows stored under ``keys``."""
        return await self.repository.get(keys)

    def excused(self, test: str, requires: Sequence[Requirement]) -> str | None:
        """Why ``test`` is expected to fail, None if it has to pass."""
        if test in self.capabilities.exclusions:
            return f"excluded: {self.capabilities.exclusions[test]}"
        for name in requires:
            if name not in _PROTOCOLS and not getattr(self.capabilities, name):
                return f"declared {name}=False"
        return None

    def skip_unsupported(self, requires: Sequence[Requirement]) -> None:
        """Skip a test of an optional protocol that the store does not have, unless it should have it."""
        for name in requires:
            if name not in _PROTOCOLS:
                continue
            declared: bool | None = getattr(self.capabilities, name)
            found = isinstance(self.repository, _PROTOCOLS[name])
            if declared is not None and declared is not found:
                pytest.fail(f"{name}={declared} is declared, but the repository {'has' if found else 'lacks'} it")
            if not found:
                pytest.skip(f"optional: the store does not have {_PROTOCOLS[name].__name__}")


async def all_rows(repository: Repository, partition: str, limit: int = 500) -> Sequence[Row]:
    """All rows listed in ``partition``."""
    rows: list[Row] = []
    tokens: set[str | None] = set()
    page = await repository.list(partition, limit=limit)
    while True:
        rows += page.rows
        if page.token is None:
            return rows
        assert page.token not in tokens, f"the listing of {partition!r} goes round in circles: the token {page.token!r} again"
        tokens.add(page.token)
        page = await repository.list(partition, limit=limit, token=page.token)


def scenario(*requires: Requirement) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Turn an asynchronous test method with a ``store`` parameter into a plain one, which runs a new event loop.

    If the store declares that it lacks what the test ``requires``, by the names of :class:`Capabilities`, the test is expected to fail.
    """

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        async def body(self: Any, store: Store, **others: Any) -> None:
            async with asyncio.timeout(_TIMEOUT_SECONDS), store:
                store.skip_unsupported(requires)
                await test(self, store=store, **others)

        @functools.wraps(test)
        def run(self: Any, store: Store, **others: Any) -> None:
            with excusable(store, test.__qualname__, *requires):
                asyncio.run(body(self, store, **others))

        return run

    return decorate


@contextlib.contextmanager
def excusable(store: Store, test: str, *requires: Requirement) -> Iterator[None]:
    """A test that is expected to fail if the store declares that it lacks what it requires: if it passes anyway, it fails."""
    reason = store.excused(test, requires)
    if reason is None:
        yield
        return
    try:
        yield
    except (Exception, pytest.fail.Exception):
        pytest.xfail(reason)
    pytest.fail(f"{test} passes, although it is {reason}; remove the declaration")


class Session:
    """A store that is open while plain code runs, as Hypothesis' is, and the means to call it from there."""

    def __init__(self, runner: asyncio.Runner, store: Store, workers: Sequence[Repository]) -> None:
        self._runner = runner
        self.store = store
        self.workers = workers

    def call(self, awaitable: Awaitable[T]) -> T:
        """The result of ``awaitable``."""

        async def wait() -> T:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await awaitable

        # Without Runner.run, which takes and gives back the interrupt signal each time.
        return self._runner.get_loop().run_until_complete(wait())


@contextlib.contextmanager
def opened(store: Store, *, workers: int) -> Iterator[Session]:
    """Keep ``store`` open for the length of the block. It is opened and closed in one task, as some drivers want it."""

    async def hold(workers_are_open: asyncio.Future[Sequence[Repository]], is_over: asyncio.Event) -> None:
        try:
            async with store:
                workers_are_open.set_result(await store.workers(workers))
                await is_over.wait()
        except BaseException as error:
            if workers_are_open.done():
                raise
            workers_are_open.set_exception(error)

    async def start() -> tuple[Sequence[Repository], asyncio.Task[None], asyncio.Event]:
        workers_are_open, is_over = asyncio.get_running_loop().create_future(), asyncio.Event()
        holder = asyncio.create_task(hold(workers_are_open, is_over))
        return await workers_are_open, holder, is_over

    async def stop(holder: asyncio.Task[None], is_over: asyncio.Event) -> None:
        is_over.set()
        await holder

    with asyncio.Runner() as runner:
        repositories, holder, is_over = runner.run(start())
        try:
            yield Session(runner, store, repositories)
        finally:
            runner.run(stop(holder, is_over))
