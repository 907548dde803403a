"""A web application in which each user sets their own schedule.

Run it:      pip install pyncette-core fastapi uvicorn, and then: python examples/fastapi_app.py
You see:     A web server. In a second terminal:
                 curl -X PUT localhost:8000/users/ada/reminder -H "Content-Type: application/json" \
                      -d '{"schedule": "* * * * * */2", "timezone": "Europe/London", "text": "drink water"}'
                 curl localhost:8000/users/ada/reminder
             `remind` runs for ada every two seconds. A schedule that can't be understood is refused, with the reason. Then:
                 curl -X DELETE localhost:8000/users/ada/reminder
Then try:    Change ada's reminder while it runs: the new one takes over at once. Stop the server and start it again: ada's reminder is
             still there. Or start a second one with PORT=8001 in its environment: the two share the work.
End it:      Ctrl-C. Delete fastapi_app.db to start over.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pyncette import ConfigurationError, Context, Pyncette, PyncetteContext

logger = logging.getLogger("fastapi_app")

scheduler = Pyncette("sqlite:///fastapi_app.db")


@scheduler.dynamic_task(fast_forward=True)
async def remind(context: Context) -> None:
    logger.info("remind: %r, %r", context.name, context.args["text"])  # %r: both come from users


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """The scheduler runs as long as the web application does, in the same event loop."""
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


Scheduler = Annotated[PyncetteContext, Depends(app_context_of)]


class Reminder(BaseModel):
    schedule: str
    timezone: str = "UTC"
    text: str


class StoredReminder(BaseModel):
    text: str
    next: datetime


@web.put("/users/{user}/reminder")
async def set_reminder(user: str, reminder: Reminder, app_context: Scheduler) -> StoredReminder:
    # Each option by its name: keywords that come from users could set any, as **reminder.model_dump() would show.
    await app_context.schedule_task(remind, user, schedule=reminder.schedule, timezone=reminder.timezone, text=reminder.text)
    return await get_reminder(user, app_context)


@web.get("/users/{user}/reminder")
async def get_reminder(user: str, app_context: Scheduler) -> StoredReminder:
    task = await app_context.get_task(remind, user)
    if task is None:
        raise HTTPException(404, f"{user} has no reminder")
    return StoredReminder(text=task.args["text"], next=task.scheduled_at)


@web.delete("/users/{user}/reminder", status_code=204)
async def remove_reminder(user: str, app_context: Scheduler) -> None:
    if not await app_context.unschedule_task(remind, user):
        raise HTTPException(404, f"{user} has no reminder")


@web.exception_handler(ConfigurationError)
async def refused(request: Request, error: Exception) -> JSONResponse:
    """A schedule, a time zone or a name that is no good: its message is one line, and says what to do."""
    return JSONResponse({"detail": str(error)}, status_code=422)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(web, port=int(os.environ.get("PORT", "8000")), log_config=None)
