"""A repository with instrumented calls."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from datetime import datetime, timedelta
from typing import Any, Protocol

from pyncette.store.contract import ClaimResult, Key, Outcome, Page, Registration, Repository, Row, Settlement
from pyncette.store.hints import Hint
from pyncette.store.joining import SupportsTransactions

__all__ = ["ObservedRepository", "Observer"]


class Observer(Protocol):
    """Observes calls. Raises and suppresses nothing."""

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        """Around each call."""

    def claimed(self, count: int) -> None:
        """A claim has returned ``count`` rows."""

    def unreadable(self, count: int) -> None:
        """A claim has found ``count`` unreadable rows."""

    def hints_sent(self, count: int) -> None:
        """``count`` hints were sent to other processes."""

    def hints_received(self, count: int) -> None:
        """``count`` hints were received from other processes."""


class ObservedRepository(Repository):
    """A repository that reports its calls to an :class:`Observer`. It has the same optional protocols as the original."""

    def __init__(self, repository: Repository, observer: Observer) -> None:
        self._repository = repository
        self._observer = observer
        self.shared: bool = repository.shared
        # Set on the instance, not provided by __getattr__: from Python 3.12 on, isinstance() with a protocol does not call that.
        for name in _OPTIONAL:
            if hasattr(repository, name):
                setattr(self, name, self._observed(name, getattr(repository, name)))
        if isinstance(repository, SupportsTransactions):
            self.within: Callable[[object], Repository] = self._within
        if hasattr(repository, "wakeups"):
            self.wake: Callable[[Sequence[Hint]], Awaitable[None]] = self._wake
            self.wakeups: Callable[[], AsyncIterator[Sequence[Hint]]] = self._wakeups

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        with self._observer.call("register", len(registrations)):
            await self._repository.register(now, registrations, force=force)

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        with self._observer.call("unregister", len(keys)):
            return await self._repository.unregister(now, keys)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        with self._observer.call("claim", limit):
            result = await self._repository.claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
        self._observer.claimed(len(result.claims))
        if result.unreadable:
            self._observer.unreadable(len(result.unreadable))
        return result

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        with self._observer.call("settle", len(settlements)):
            return await self._repository.settle(now, settlements)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        with self._observer.call("get", len(keys)):
            return await self._repository.get(keys)

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        with self._observer.call("list", limit):
            return await self._repository.list(partition, limit=limit, token=token)

    def _within(self, connection: object) -> Repository:
        assert isinstance(self._repository, SupportsTransactions)
        return ObservedRepository(self._repository.within(connection), self._observer)

    async def _wake(self, hints: Sequence[Hint]) -> None:
        with self._observer.call("wake", len(hints)):
            await self._repository.wake(hints)  # type: ignore[attr-defined]
        self._observer.hints_sent(len(hints))

    async def _wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        async with aclosing(self._repository.wakeups()) as wakeups:  # type: ignore[attr-defined]
            async for hints in wakeups:
                if hints:
                    self._observer.hints_received(len(hints))
                yield hints

    def _observed(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def observed(*args: Any, **options: Any) -> Any:
            keys = next((arg for arg in args if isinstance(arg, Sequence) and not isinstance(arg, str)), [None])
            with self._observer.call(name, len(keys)):
                return await method(*args, **options)

        return observed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)


_OPTIONAL = frozenset({"server_time", "stats", "partitions", "pause", "resume", "append", "runs", "prune", "trim"})
