"""Fixtures are what bodies need, opened once. Middlewares are what is done around each run.

Run it:      python examples/fixtures_and_middlewares.py
You see:     The database is opened, then `order` runs each second and books into it, within a line from each of the two
             middlewares. Every third order fails; the transaction is rolled back.
End it:      Ctrl-C. The last body ends first, then the fixtures are torn down in reverse order.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from pyncette import Context, FailureMode, Pyncette

logger = logging.getLogger("fixtures")

app = Pyncette()


@app.fixture()
async def database() -> AsyncIterator[sqlite3.Connection]:
    logger.info("database: open")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE orders (number INTEGER)")
        yield connection  # what is yielded is context.database in every body
    logger.info("database: closed")


@app.middleware
async def timed(context: Context, next: Callable[[], Awaitable[None]]) -> None:
    started = time.perf_counter()
    try:
        await next()
    finally:
        logger.info("timed: %s took %.1f ms", context.name, 1000 * (time.perf_counter() - started))


@app.middleware
async def in_transaction(context: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Declared second, so it runs inside the first. Fixtures are there for middlewares, too."""
    context.database.execute("BEGIN")
    try:
        await next()
    except Exception:
        context.database.execute("ROLLBACK")
        logger.info("in_transaction: rolled back")
        raise
    context.database.execute("COMMIT")
    logger.info("in_transaction: committed")


# COMMIT: a failed order is not repeated; the next one has its own time.
@app.task(interval=timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
async def order(context: Context) -> None:
    number = context.scheduled_at.second
    context.database.execute("INSERT INTO orders VALUES (?)", [number])
    if number % 3 == 0:
        raise ValueError(f"order {number} is refused")
    (count,) = context.database.execute("SELECT count(*) FROM orders").fetchone()
    logger.info("order: number %d, of %d so far", number, count)


if __name__ == "__main__":
    app.main()
