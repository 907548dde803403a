"""Notices quickly what other processes write to a SQLite database, by polling, because SQLite sends no notifications."""

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

#: How often to check for writes (seconds). A check takes a few microseconds if there was none.
_EVERY = 0.02
#: The largest share of the thread's time for checks, when much is written.
_SHARE = 0.05


async def looking(address: str | None, ready: str, where: str, table: str) -> AsyncGenerator[Sequence[Hint], None]:
    """Yield when the first row of each changed partition is ready; the first batch is empty.

    Checks in a separate thread and on a separate connection, so that checks without changes don't involve the event loop.

    :param address: the database, as a URI; None: a database that no other process sees, so this ends at once.
    :param ready: the statement that returns when the first row of each partition of ``table`` is ready.
    :param where: the name of the database in error messages.
    :raises RepositoryError: the database can't be read.
    """
    if address is None:
        return
    loop = asyncio.get_running_loop()
    found: asyncio.Queue[Sequence[Hint] | Exception] = asyncio.Queue()
    stopped = threading.Event()
    ended = loop.create_future()

    def tell(callback: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody is listening
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
            time.sleep(pause)  # cheaper than waiting for the event
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
    # Read the version first: a write between the two reads is then seen twice, instead of not at all.
    [version] = db.execute("PRAGMA data_version").fetchone()
    return version, {name: at for name, at in db.execute(ready) if isinstance(name, str) and at is not None}


def _end(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
