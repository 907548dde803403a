"""A store that hints travel through, each process with a way of its own to it; a test says what befalls them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime

from pyncette.repository import Hint, Key
from pyncette.store.observed import ObservedRepository
from simulation.scripted import ScriptedStore

__all__ = ["HintingStore"]


class HintingStore(ScriptedStore):
    """The reference store, with hints."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[asyncio.Queue[Sequence[Hint] | Exception]] = []
        #: When (in seconds of the event loop) which hints were told.
        self.told: list[tuple[float, Sequence[Hint]]] = []
        #: How often somebody began to listen.
        self.listened = 0
        #: Raised by who tells, and by who begins to listen.
        self.refuses: Exception | None = None
        self.deaf: Exception | None = None
        #: For how long (seconds) the store does not answer to hints.
        self.slow = 0.0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["_Way"]:  # type: ignore[override]
        yield _Way(self)

    def breaks(self, error: Exception) -> None:
        """The connections of all who listen."""
        for listener in self.listeners:
            listener.put_nowait(error)


class _Nobody:
    def call(self, operation: str, size: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> object:
        return lambda count: None


class _Way(ObservedRepository):
    def __init__(self, store: HintingStore) -> None:
        super().__init__(store, _Nobody())  # type: ignore[arg-type]
        self._store = store
        self._heard: asyncio.Queue[Sequence[Hint] | Exception] = asyncio.Queue()

    async def pause(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._store.pause(now, keys)

    async def resume(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._store.resume(now, keys)

    async def wake(self, hints: Sequence[Hint]) -> None:
        store = self._store
        await asyncio.sleep(store.slow)
        if store.refuses is not None:
            raise store.refuses
        store.told.append((asyncio.get_running_loop().time(), hints))
        for listener in store.listeners:
            if listener is not self._heard:
                listener.put_nowait(hints)

    async def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        self._store.listened += 1
        if self._store.deaf is not None:
            raise self._store.deaf
        self._store.listeners.append(self._heard)
        try:
            yield []
            while True:
                heard = await self._heard.get()
                if isinstance(heard, Exception):
                    raise heard
                yield heard
        finally:
            self._store.listeners.remove(self._heard)
