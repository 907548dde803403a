"""Schedules that survive restarts and are shared by several processes: they are kept in a SQLite file, or in any other store.

Run it:      python examples/persistence.py
             python examples/persistence.py redis://localhost/0      or the URL of any other store
You see:     `refresh` every two seconds, and `count` on every fifth second. The file persistence.db appears here.
Then try:    Run it in a second terminal as well: the two share the work, and nothing runs twice.
             End all of them, wait half a minute, and start one again. `count` catches up on each run that was missed;
             `refresh`, which has fast_forward=True, runs once and continues.
End it:      Ctrl-C. Delete persistence.db to start over.
"""

import logging
import os
import sys
from datetime import UTC, datetime, timedelta

from pyncette import Context, Pyncette

logger = logging.getLogger("persistence")

app = Pyncette("sqlite:///persistence.db")


def describe(context: Context) -> str:
    late = (datetime.now(UTC) - context.scheduled_at).total_seconds()
    return f"meant for {context.scheduled_at:%H:%M:%S.%f}, {late:.3f} s ago, in process {os.getpid()}"


@app.task(interval=timedelta(seconds=2), fast_forward=True)
async def refresh(context: Context) -> None:
    logger.info("refresh: %s", describe(context))


@app.task(schedule="* * * * * */5")
async def count(context: Context) -> None:
    logger.info("count: %s", describe(context))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app.use_repository(sys.argv[1])
    app.main()
