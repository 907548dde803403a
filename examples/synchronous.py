"""Bodies that block: a plain ``def`` runs in a thread, with everything that an ``async def`` has.

Run it with:

    python examples/synchronous.py
"""

import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import timedelta

from pyncette import Context, Pyncette, with_heartbeat

# At most four of them at once in this process; what does not find a thread is left to other processes.
app = Pyncette(sync_workers=4)


@app.fixture()
async def shop() -> AsyncIterator[str]:
    yield "file:shop?mode=memory&cache=shared"


@app.dynamic_task()
def send_receipt(context: Context) -> None:
    time.sleep(0.1)  # a library that blocks
    print(f"A receipt for {context.name}")


@app.task(interval=timedelta(seconds=1), lease_duration=timedelta(seconds=30), timeout=timedelta(minutes=10))
@with_heartbeat()
def bill(context: Context) -> None:
    with sqlite3.connect(context.shop, uri=True) as database:
        customers = database.execute("SELECT 'ada' UNION SELECT 'grace'").fetchall()
    for (customer,) in customers:
        if context.cancelled:  # by the timeout, which can't stop a thread
            return
        # The calls of context.app_context, each of which returns when it is done.
        context.blocking.schedule_task(send_receipt, customer, execute_at=context.scheduled_at)


if __name__ == "__main__":
    app.main()
