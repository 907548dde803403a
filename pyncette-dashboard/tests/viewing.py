"""A dashboard that is viewed without a browser."""

import asyncio
import contextlib
import re
from datetime import timedelta

import httpx

from pyncette import Instance
from pyncette.dashboard import Dashboard


@contextlib.asynccontextmanager
async def viewed(app, names=("order 1",), peer="127.0.0.1", base="http://localhost", **options):
    dashboard = Dashboard(app, **options)
    async with app.create() as context:
        await context.schedule_tasks(
            app.deliver, [Instance(name=each, interval=timedelta(days=1), args={"secret": "s3cr3t"}) for each in names]
        )
        transport = httpx.ASGITransport(dashboard, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url=base) as viewer:
            yield viewer, context
        await dashboard.close()


async def token(viewer, do="pause"):
    page = await viewer.get("/act", params={"do": do, "task": "deliver", "name": "order 1"})
    return re.search(r'name="token" value="(\w+)"', page.text)[1]


def form(do, token="", **more):
    return {"do": do, "task": "deliver", "name": "order 1", "token": token, **more}


async def ended(viewer, data):
    """The page of the job that ``data`` starts, once it has ended."""
    answer = await viewer.post("/act", data=data)
    assert answer.status_code == 303, answer.text
    while 'data-state="running"' in (page := await viewer.get(answer.headers["location"])).text:
        await asyncio.sleep(0.01)
    return page.text
