"""Check-ins of Sentry Crons: Sentry tells you when a static task is missed, fails, hangs or dies.

Run it:      SENTRY_DSN=https://KEY@oN.ingest.sentry.io/PROJECT python examples/checkins.py
You see:     In Sentry, under Crons, the monitors `nightly`, with its schedule, and `order`, which you create for any interval; `order` runs
             each second, and each third is red. No package of Sentry is needed. Here, the task's own log.
End it:      Ctrl-C.
"""

import json
import logging
import os
import re
import urllib.request
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from pyncette import Context, FailureMode, Listener, Pyncette, RunEvent
from pyncette.schedule import Cron
from pyncette.task import StaticTask

logger = logging.getLogger("checkins")
app = Pyncette()


class CheckIns(Listener):
    """One check-in for each attempt: open while the body runs, then ``ok`` or ``error``, also if another worker has to say it."""

    def __init__(self, dsn: str, environment: str = "production") -> None:
        parts = urlsplit(dsn)
        host = parts.netloc.rpartition("@")[2]
        self._crons = f"{parts.scheme}://{host}/api/{parts.path.strip('/')}/cron", parts.username
        self._environment = environment

    def begin(self, event: RunEvent) -> None:
        self._send(event, "in_progress")

    def end(self, event: RunEvent) -> None:
        self._send(event, "ok")

    def failure(self, event: RunEvent) -> None:
        self._send(event, "error")

    def takeover(self, event: RunEvent) -> None:
        self._send(event, "error")

    def given_up(self, event: RunEvent) -> None:
        self._send(event, "error")

    def _send(self, event: RunEvent, status: str) -> None:
        if not isinstance(event.task, StaticTask):
            return
        url, key = self._crons
        check_in: dict[str, Any] = {
            # The same in each process: who finds that a worker died closes what that one has opened.
            "check_in_id": uuid.uuid5(uuid.UUID(event.execution_id), str(event.run.attempt)).hex,
            "status": status,
            "environment": self._environment,
        }
        if event.run.duration is not None:
            check_in["duration"] = event.run.duration.total_seconds()
        schedule = event.task.schedule
        if isinstance(schedule, Cron) and len(schedule.expression.split()) == 5:
            check_in["monitor_config"] = {
                "schedule": {"type": "crontab", "value": schedule.expression},
                "timezone": schedule.timezone,
                "checkin_margin": 5,
            }
        slug = re.sub(r"[^a-z0-9_-]+", "-", event.task.name.lower())[:50]
        request = urllib.request.Request(
            f"{url}/{slug}/{key}/", json.dumps(check_in).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()


app.use_listener(CheckIns(os.environ.get("SENTRY_DSN", "http://key@127.0.0.1:9000/1")))


@app.task(interval=timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
async def order(context: Context) -> None:
    if context.scheduled_at.second % 3 == 0:
        raise ValueError("refused")
    logger.info("order: meant for %s", context.scheduled_at)


@app.task(schedule="* * * * *", timezone="Europe/London")
async def nightly(context: Context) -> None:
    logger.info("nightly: meant for %s", context.scheduled_at)


if __name__ == "__main__":
    app.main()
