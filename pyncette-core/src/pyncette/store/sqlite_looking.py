"""Noticing soon what other processes have stored in a SQLite database, by polling, since SQLite sends no notifications."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from pyncette.store.hints import Hint
from pyncette.store.sqlite_errors import is_busy, translated
from pyncette.store.sqlite_rows import instant

__all__ = ["looking"]

#: How often to check whether anything was written (seconds). Each look takes some microseconds, as long as nothing was.
_EVERY = 0.02
#: Of the time of the thread, what the looks may take at most when much is written.
_SHARE = 0.05


async def looking(address: str | None, ready: str, where: str, table: str) -> AsyncGenerator[Sequence[Hint], None]:
    """When the first row of each partition is ready, of those where this has changed; at first nothing.

    Looks in a thread and on a connection of its own: the event loop has no part in looks that find nothing.

    :param address: the database, as a URI; None: there is nothing to be seen, and this ends at once.
    :param ready: the statement that tells the first ready row of each partition of ``table``.
    :param where: what errors call the database.
    :raises RepositoryError: it can't be looked at.
    """
    if address is None:
        return
    loop = asyncio.get_running_loop()
    found: asyncio.Queue[Sequence[Hint] | Exception] = asyncio.Queue()
    stopped = threading.Event()
    ended = loop.create_future()

    def tell(callback: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(callback, *arguments)

    def look() -> None:
        try:
            _look(address, ready, stopped, lambda hints: tell(found.put_nowait, hints))
        except Exception as error:
            tell(found.put_nowait, error)
        finally:
            tell(_end, ended)

    threading.Thread(target=look, name="pyncette-sqlite-looking", daemon=True).start()
    try:
        while True:
            hints = await found.get()
            if isinstance(hints, Exception):
                raise translated(hints, where, table) from hints
            yield hints
    finally:
        stopped.set()
        await asyncio.shield(ended)


def _look(address: str, ready: str, stopped: threading.Event, tell: Callable[[Sequence[Hint]], None]) -> None:
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)) as db:
        db.text_factory = lambda text: text.decode(errors="replace")
        version, known = _see(db, ready)
        tell([])
        pause = _EVERY
        while not stopped.is_set():
            time.sleep(pause)  # cheaper than to wait for the event
            pause = _EVERY
            try:
                [current] = db.execute("PRAGMA data_version").fetchone()
                if current == version:
                    continue
                began = time.perf_counter()
                version, now = _see(db, ready)
                if hints := [Hint(name, at) for name, value in now.items() if known.get(name) != value and (at := instant(value))]:
                    tell(hints)
                known = now
                pause = max(pause, (time.perf_counter() - began) / _SHARE)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise


def _see(db: sqlite3.Connection, ready: str) -> tuple[int, Mapping[str, float]]:
    # The version first: what is written between the two is seen now, and again.
    [version] = db.execute("PRAGMA data_version").fetchone()
    return version, {name: at for name, at in db.execute(ready) if isinstance(name, str) and at is not None}


def _end(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
