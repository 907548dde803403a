"""What an application tells of itself to those who measure it."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pyncette.repository import ClaimResult, Key, Outcome, Page, Registration, Repository, Row, Settlement

if TYPE_CHECKING:
    from pyncette.task import Task

__all__ = ["Instrumentation", "Instruments", "ObservedRepository"]


class Instrumentation:
    """Derive from it, override what you want to know, and pass it to :meth:`pyncette.Pyncette.use_instrumentation`.

    Runs of bodies are not among it: a middleware sees them. Everything here is called in the event loop, in the middle of things: it must
    not block, and must not raise.
    """

    def tick(self) -> AbstractContextManager[Any]:
        """Around each pass over all that is due; the exception is the first error of the store, after which the others were still polled."""
        return contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        """Around each call to the store.

        :param operation: a method of :class:`~pyncette.repository.Repository` or one of the optional protocols: ``"claim"``, ...
        :param size: how many rows it is about; for ``"claim"`` and ``"list"`` how many it may bring.
        """
        return contextlib.nullcontext()

    def claimed(self, count: int) -> None:
        """A claim has brought ``count`` rows, perhaps none."""

    def lease_lost(self, task: "Task") -> None:
        """A run was overtaken: its lease ended before it was started or settled, or could not be extended."""


class Instruments(Instrumentation):
    """Several as one."""

    def __init__(self, each: Sequence[Instrumentation]) -> None:
        self._each = each

    @contextlib.contextmanager
    def _all(self, enter: Callable[[Instrumentation], AbstractContextManager[Any]]) -> Any:
        with contextlib.ExitStack() as stack:
            for each in self._each:
                stack.enter_context(enter(each))
            yield

    def tick(self) -> AbstractContextManager[Any]:
        return self._all(lambda each: each.tick()) if self._each else contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        return self._all(lambda each: each.call(operation, size))

    def claimed(self, count: int) -> None:
        for each in self._each:
            each.claimed(count)

    def lease_lost(self, task: "Task") -> None:
        for each in self._each:
            each.lease_lost(task)


class ObservedRepository(Repository):
    """A repository whose calls are told to an :class:`Instrumentation`. It has the optional protocols that the other one has."""

    def __init__(self, repository: Repository, instrumentation: Instrumentation) -> None:
        self._repository = repository
        self._instrumentation = instrumentation
        self.shared = repository.shared
        # In the instance itself, and not by __getattr__: from Python 3.12 on, isinstance() with a protocol looks no further.
        for name in _OPTIONAL:
            if hasattr(repository, name):
                setattr(self, name, self._observed(name, getattr(repository, name)))

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        with self._instrumentation.call("register", len(registrations)):
            await self._repository.register(now, registrations, force=force)

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        with self._instrumentation.call("unregister", len(keys)):
            return await self._repository.unregister(now, keys)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        with self._instrumentation.call("claim", limit):
            result = await self._repository.claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
        self._instrumentation.claimed(len(result.claims))
        return result

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        with self._instrumentation.call("settle", len(settlements)):
            return await self._repository.settle(now, settlements)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        with self._instrumentation.call("get", len(keys)):
            return await self._repository.get(keys)

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        with self._instrumentation.call("list", limit):
            return await self._repository.list(partition, limit=limit, token=token)

    def _observed(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def observed(*args: Any) -> Any:
            keys = args[-1] if args and not isinstance(args[-1], str) else [None]
            with self._instrumentation.call(name, len(keys)):
                return await method(*args)

        return observed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)


_OPTIONAL = frozenset({"server_time", "stats", "partitions", "pause", "resume"})
