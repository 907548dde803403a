"""An application that answers whether it is healthy: for a load balancer, a container platform, or a colleague with curl.

Run it:      python examples/healthcheck.py
You see:     `work` runs each second. Meanwhile, in a second terminal:
                 curl -i localhost:8080/health    200 as long as the store is polled and bodies run
                 curl -i localhost:8080/ready     200 once it has begun, and until it is told to end
Then try:    Press Ctrl-C. `nap` takes ten seconds; until it has ended, /health is 200, since all is well, but /ready is 503.
End it:      Ctrl-C. A second one doesn't wait for `nap`. The port is that of the environment variable PORT, if there is one,
             and one more for each further process of `pyncette run --processes`. Only this machine is answered; in a container
             set BIND_ADDRESS=0.0.0.0.
"""

import asyncio
import logging
import os
from datetime import timedelta

from pyncette import Context, Pyncette
from pyncette.healthcheck import use_healthcheck_server

logger = logging.getLogger("healthcheck")

app = Pyncette()


@app.task(interval=timedelta(seconds=1))
async def work(context: Context) -> None:
    logger.info("work, meant for %s", context.scheduled_at.time())


@app.task(interval=timedelta(seconds=1), fast_forward=True)
async def nap(context: Context) -> None:
    logger.info("nap: good night")
    await asyncio.sleep(10)


use_healthcheck_server(
    app,
    port=int(os.environ.get("PORT", "8080")) + int(os.environ.get("PYNCETTE_PROCESS", "0")),
    bind_address=os.environ.get("BIND_ADDRESS"),
)

if __name__ == "__main__":
    app.main()
