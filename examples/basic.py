"""The smallest program: two tasks, kept in memory.

Run it:      python examples/basic.py
You see:     a line from `every_second` each second, and one from `every_five_seconds` each five.
End it:      Ctrl-C. What is in memory is gone then; persistence.py keeps it.
"""

import logging
from datetime import timedelta

from pyncette import Context, Pyncette

logger = logging.getLogger("basic")

app = Pyncette()


@app.task(interval=timedelta(seconds=1))
async def every_second(context: Context) -> None:
    logger.info("every_second, meant for %s", context.scheduled_at.time())


# Six fields: minute, hour, day, month, day of the week and, last, the second.
@app.task(schedule="* * * * * */5", timezone="Europe/London", greeting="Good day")
async def every_five_seconds(context: Context) -> None:
    logger.info("every_five_seconds, meant for %s: %s", context.scheduled_at.time(), context.args["greeting"])


if __name__ == "__main__":
    app.main()
