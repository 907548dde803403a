"""A web application that stores an order and its reminder in one transaction: both are there, or neither.

Run it:      pip install pyncette-core fastapi uvicorn, and then: python examples/fastapi_orders.py
You see:     A web server. In a second terminal:
                 curl -X POST localhost:8000/orders -H "Content-Type: application/json" -d '{"item": "tea", "quantity": 2}'
             A second later `remind` finds the order in the database. Then one that is too large:
                 curl -X POST localhost:8000/orders -H "Content-Type: application/json" -d '{"item": "tea", "quantity": 1000}'
             The database refuses the order, and the reminder, which had been scheduled before, is gone as well.
Then try:    Remove the order before it is reminded of, and the reminder is removed with it:
                 curl -X DELETE localhost:8000/orders/1
             On PostgreSQL and MySQL it is the same with a connection of asyncpg, psycopg, aiomysql or SQLAlchemy.
End it:      Ctrl-C. Delete fastapi_orders.db to start over.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import aiosqlite
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from pyncette import Context, Pyncette, PyncetteContext

logger = logging.getLogger("fastapi_orders")

DATABASE = "fastapi_orders.db"
scheduler = Pyncette(f"sqlite:///{DATABASE}")


@scheduler.dynamic_task()
async def remind(context: Context) -> None:
    async with aiosqlite.connect(DATABASE) as db:
        [(item, quantity)] = await db.execute_fetchall("SELECT item, quantity FROM orders WHERE id = ?", (context.args["order"],))
    logger.info("remind: order %d, %d of %r", context.args["order"], quantity, item)


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    async with aiosqlite.connect(DATABASE) as db:
        await db.execute(
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT, quantity INTEGER CHECK (quantity <= 100))"
        )
    async with scheduler.create() as app_context:
        web.state.app_context = app_context
        running = asyncio.create_task(app_context.run())
        yield
        app_context.shutdown()
        await running


web = FastAPI(lifespan=lifespan)


async def app_context_of(request: Request) -> PyncetteContext:
    app_context: PyncetteContext = request.app.state.app_context
    return app_context


async def transaction() -> AsyncIterator[aiosqlite.Connection]:
    """A connection with a transaction, which is committed unless something is raised."""
    async with aiosqlite.connect(DATABASE) as db:
        await db.execute("BEGIN IMMEDIATE")
        yield db
        await db.commit()


Scheduler = Annotated[PyncetteContext, Depends(app_context_of)]
# Committed before the answer is sent.
Transaction = Annotated[aiosqlite.Connection, Depends(transaction, scope="function")]


class Order(BaseModel):
    item: str
    quantity: int


@web.post("/orders", status_code=201)
async def create_order(order: Order, db: Transaction, app_context: Scheduler) -> int:
    [(number,)] = await db.execute_fetchall("SELECT coalesce(max(id), 0) + 1 FROM orders")
    await app_context.within(db).schedule_task(
        remind, f"order {number}", execute_at=datetime.now(UTC) + timedelta(seconds=1), order=number
    )
    try:
        await db.execute("INSERT INTO orders VALUES (?, ?, ?)", (number, order.item, order.quantity))
    except aiosqlite.IntegrityError:
        raise HTTPException(409, f"There are not {order.quantity} of {order.item}") from None
    return int(number)


@web.delete("/orders/{number}", status_code=204)
async def cancel_order(number: int, db: Transaction, app_context: Scheduler) -> None:
    cursor = await db.execute("DELETE FROM orders WHERE id = ?", (number,))
    if not cursor.rowcount:
        raise HTTPException(404, f"There is no order {number}")
    await app_context.within(db).unschedule_task(remind, f"order {number}")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(web, port=int(os.environ.get("PORT", "8000")), log_config=None)
