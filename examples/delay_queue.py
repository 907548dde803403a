"""A queue of messages that are delivered later: each is a task that runs once, and is gone after it succeeded.

Run it:      python examples/delay_queue.py
You see:     Each second a message is accepted, and three seconds later it is delivered. Every third one fails at its first
             attempt, and is delivered at its second. Message 5 fails at each, is given up after three, and is then listed
             by `dead_letters`.
End it:      Ctrl-C. The messages are in delay_queue.db: what was accepted is delivered after the next start. Delete the file
             to start over.
"""

import itertools
import logging
import uuid
from datetime import UTC, datetime, timedelta

from pyncette import Context, FailureMode, Pyncette

logger = logging.getLogger("delay_queue")

app = Pyncette("sqlite:///delay_queue.db")
numbers = itertools.count(1)


class UndeliverableError(Exception):
    pass


# UNLOCK: a failed attempt is repeated after retry_delay, and not only when its lease has run out.
@app.dynamic_task(failure_mode=FailureMode.UNLOCK, retry_delay=timedelta(seconds=1), max_attempts=3)
async def deliver(context: Context) -> None:
    number = context.args["number"]
    if number == 5 or (number % 3 == 0 and context.attempt == 1):
        raise UndeliverableError(f"nobody opened for message {number}")
    late = (datetime.now(UTC) - context.scheduled_at).total_seconds()
    logger.info("delivered message %d, %.3f s after its time, at attempt %d", number, late, context.attempt)


@app.task(interval=timedelta(seconds=1), fast_forward=True)
async def accept(context: Context) -> None:
    number = next(numbers)
    # Each message has a name of its own: scheduling under a name that exists would replace that message.
    await context.app_context.schedule_task(
        deliver, str(uuid.uuid4()), execute_at=context.scheduled_at + timedelta(seconds=3), number=number
    )
    logger.info("accepted message %d", number)


@app.task(interval=timedelta(seconds=3), fast_forward=True)
async def dead_letters(context: Context) -> None:
    page = await context.app_context.list_tasks(deliver)
    for task in page.tasks:
        if task.error is not None:
            logger.info("dead letter: message %d after attempt %d: %s", task.args["number"], task.attempt, task.error)


if __name__ == "__main__":
    app.main()
