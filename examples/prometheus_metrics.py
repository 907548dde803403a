"""An application whose metrics Prometheus can scrape.

Run it:      pip install pyncette-prometheus, and then: python examples/prometheus_metrics.py
You see:     Three tasks: one that works, one that fails at each third run, and one with an instance for each of three users.
             Meanwhile, in a second terminal:
                 curl -s localhost:9699/metrics | grep ^pyncette
             Runs and failures of each task, how late they start, what waits in the store, calls to it, and more.
             On Redis, with two processes, the second of which serves its metrics at port 9700:
                 pyncette run examples/prometheus_metrics.py:app --url redis://localhost/0 --processes 2
End it:      Ctrl-C. The port is that of the environment variable PORT, if there is one.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta

from prometheus_client import start_http_server

from pyncette import Context, FailureMode, Instance, Pyncette, PyncetteContext
from pyncette.prometheus import use_prometheus

logger = logging.getLogger("prometheus_metrics")

app = Pyncette()
use_prometheus(app)


@app.task(interval=timedelta(seconds=1))
async def work(context: Context) -> None:
    await asyncio.sleep(random.random())
    logger.info("work, meant for %s", context.scheduled_at.time())


@app.task(interval=timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
async def gamble(context: Context) -> None:
    if context.scheduled_at.second % 3 == 0:
        raise ValueError("no luck")


@app.dynamic_task()
async def greet(context: Context) -> None:
    # There may be millions of instances, so the metrics have the name of their template, and not this one.
    logger.info("greet: hello, %s", context.name)


@app.fixture()
async def users(app_context: PyncetteContext) -> AsyncIterator[None]:
    await app_context.schedule_tasks(greet, [Instance(name=name, interval=timedelta(seconds=2)) for name in ("Ada", "Bob", "Eve")])
    yield


@app.fixture()
async def metrics_server() -> AsyncIterator[None]:
    port = int(os.environ.get("PORT", "9699")) + int(os.environ.get("PYNCETTE_PROCESS", "0"))
    server, thread = start_http_server(port)
    yield
    server.shutdown()
    thread.join()


if __name__ == "__main__":
    app.main()
