"""The program that the files in this folder run: with systemd, in containers, on Kubernetes. See docs/operating.md."""

import os
from datetime import timedelta

from pyncette import Context, Pyncette
from pyncette.healthcheck import use_healthcheck_server

# Less than the time after which each of them kills the process, so that what is cancelled then runs elsewhere at once.
app = Pyncette(os.environ.get("PYNCETTE_URL"), shutdown_timeout=timedelta(seconds=25))


@app.task(interval=timedelta(seconds=10))
async def tick(context: Context) -> None:
    print(f"Tick at {context.scheduled_at:%H:%M:%S}", flush=True)


use_healthcheck_server(
    app,
    port=int(os.environ.get("HEALTH_PORT", "8080")) + int(os.environ.get("PYNCETTE_PROCESS", "0")),
    bind_address=os.environ.get("HEALTH_ADDRESS", "127.0.0.1"),
)

if __name__ == "__main__":
    app.main()
