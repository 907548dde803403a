"""A web application that only schedules, in the event loop of its server, and a worker beside it that runs what is scheduled.

Run it:      pip install pyncette-core fastapi uvicorn, then: python examples/fastapi_client.py
             and in a second terminal: pyncette run examples/fastapi_client.py:scheduler
You see:     Nothing yet. In a third terminal: curl -X PUT "localhost:8000/ada?text=drink+water"
             Three seconds later the worker reminds ada. Until then `curl localhost:8000/` lists her.
Then try:    Several web servers with another PORT each, and several workers: all share the store, and each reminder comes once.
End it:      Ctrl-C in both. Delete fastapi_client.db to start over.
"""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request

from pyncette import Client, Context, Pyncette

logger = logging.getLogger("fastapi_client")

scheduler = Pyncette("sqlite:///fastapi_client.db")


@scheduler.dynamic_task()
async def remind(context: Context) -> None:
    logger.info("remind: %r, %r", context.name, context.args["text"])  # %r: both come from users


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """Nothing runs here, and fixtures are not set up: the store is open, that is all."""
    async with scheduler.client() as client:
        web.state.client = client
        yield


web = FastAPI(lifespan=lifespan)


async def client_of(request: Request) -> Client:
    client: Client = request.app.state.client
    return client


Scheduling = Annotated[Client, Depends(client_of)]


@web.put("/{name}")
async def set_reminder(name: str, text: str, client: Scheduling) -> str:
    await client.schedule_task(remind, name, execute_at=datetime.now(UTC) + timedelta(seconds=3), text=text)
    return f"{name} will be reminded"


@web.get("/")
async def list_reminders(client: Scheduling) -> list[str]:
    return [task.name for task in (await client.list_tasks(remind)).tasks]


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(web, port=int(os.environ.get("PORT", "8000")), log_config=None)
