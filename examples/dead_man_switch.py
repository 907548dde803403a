"""A dead man's switch: a service that expects pings, and tells you when none comes, whatever the reason. Here healthchecks.io.

Run it:      PING_URL=https://hc-ping.com/YOUR-PING-KEY python examples/dead_man_switch.py
You see:     A check named `backup`, created by its first ping: started, succeeded after so long, and each third time failed, with the
             error. Any service with URLs to ping will do.
End it:      Ctrl-C, and within the period that you set for the check you are told that it is down.
"""

import asyncio
import logging
import os
import re
import urllib.request
from datetime import timedelta

from pyncette import Context, FailureMode, Listener, Pyncette, RunEvent

logger = logging.getLogger("dead_man_switch")
app = Pyncette()


class DeadMansSwitch(Listener):
    """Pings for the static tasks of these names. If this program is gone, nobody pings: that is the point."""

    def __init__(self, url: str, *names: str) -> None:
        self._url = url.rstrip("/")
        self._names = names

    def begin(self, event: RunEvent) -> None:
        self._ping(event, "/start")

    def end(self, event: RunEvent) -> None:
        self._ping(event, "")

    def failure(self, event: RunEvent) -> None:
        self._ping(event, "/fail")

    def given_up(self, event: RunEvent) -> None:
        self._ping(event, "/fail")

    def _ping(self, event: RunEvent, signal: str) -> None:
        if event.instance is not None or event.task.name not in self._names:
            return
        slug = re.sub(r"[^a-z0-9_-]+", "-", event.task.name.lower())
        # rid: which start and end belong together.
        url = f"{self._url}/{slug}{signal}?create=1&rid={event.execution_id}"
        urllib.request.urlopen(url, (event.run.error or "").encode(), timeout=10).close()


app.use_listener(DeadMansSwitch(os.environ.get("PING_URL", "http://127.0.0.1:8000/key"), "backup"))


@app.task(interval=timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
async def backup(context: Context) -> None:
    await asyncio.sleep(0.1)
    if context.scheduled_at.second % 3 == 0:
        raise OSError("the disk is full")
    logger.info("backup: done")


if __name__ == "__main__":
    app.main()
