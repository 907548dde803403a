"""The open store, shared by all viewers: opened on demand, reopened after a failure, and with short timeouts."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from pyncette import Client, Pyncette, TransientRepositoryError
from pyncette.dashboard.searching import Reader

__all__ = ["PATIENCE", "Connection", "StoreAwayError"]

_T = TypeVar("_T")

#: How long a page waits for the store (seconds) before it reports that the store does not answer.
PATIENCE = 0.8
#: How long other viewers see what was read (seconds).
_SHARED_FOR = 1.0
_MOST_SHARED = 500
_AGAIN_AFTER = 2.0


class StoreAwayError(Exception):
    """The store does not answer; one line."""


class Connection:
    """The client of ``app`` in the running event loop, or the given one."""

    def __init__(self, app: Pyncette, given: Client | None = None) -> None:
        self._app, self._given = app, given
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[Client] | None = None
        self._shared: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}
        #: The repository, for reading many rows.
        self.reader: Reader = Reader()
        self.error: str = ""

    async def client(self) -> Client:
        """The client; raises StoreAwayError if there is none in time."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._keeper is None or self._keeper.done():
            self._loop, self._shared, self.reader = loop, {}, Reader()
            self._opened = loop.create_future()
            self._keeper = asyncio.create_task(self._keep(), name="pyncette-dashboard-store")
        assert self._opened is not None
        return await self.within(asyncio.shield(self._opened))

    async def within(self, waiting: Awaitable[_T]) -> _T:
        """The result of an awaitable; raises StoreAwayError if the store can't be reached, or takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await waiting
        except TimeoutError:
            raise StoreAwayError(self.error or f"The store has not answered within {PATIENCE} s") from None
        except TransientRepositoryError as error:
            raise StoreAwayError(str(error)) from error

    async def ask(self, key: Hashable, load: Callable[[Client], Awaitable[_T]]) -> _T:
        """The result of ``load``, or its recent result for another viewer. A call that takes too long continues for the next viewer."""
        client = await self.client()
        now = time.monotonic()
        at, found = self._shared.get(key, (0.0, None))
        if found is None or (found.done() and now - at > _SHARED_FOR) or (found.done() and found.exception() is not None):
            if len(self._shared) >= _MOST_SHARED:
                self._shared = {each: kept for each, kept in self._shared.items() if not kept[1].done()}

            async def call() -> _T:
                return await load(client)

            found = asyncio.create_task(call())
            found.add_done_callback(_look_at_error)
            self._shared[key] = now, found
        result: _T = await self.within(asyncio.shield(found))
        return result

    def forget(self) -> None:
        """Something was changed, so show nothing that was read before."""
        self._shared.clear()

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None and self._loop is asyncio.get_running_loop():
            keeper.cancel()
            await asyncio.wait([keeper])

    async def _keep(self) -> None:
        assert self._opened is not None
        while True:
            try:
                opened = self._app.client() if self._given is None else contextlib.nullcontext(self._given)
                async with opened as client:
                    self.error = ""
                    self._opened.set_result(client)
                    await asyncio.Event().wait()
            except Exception as error:
                self.error = str(error) or type(error).__name__
                if self._opened.done():
                    raise
                await asyncio.sleep(_AGAIN_AFTER)


def _look_at_error(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()
