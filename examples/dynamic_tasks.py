"""Tasks that come and go while the program runs: each user has a schedule of their own.

Run it:      python examples/dynamic_tasks.py
You see:     Two greetings, each in its own rhythm. Every four seconds a guest arrives, is greeted each second, and is
             unscheduled at the fourth greeting. `guest_book` lists who is scheduled.
End it:      Ctrl-C.

A template is declared once, in code. Its instances, by the million if need be, are data in the store. So that they survive a
restart, give the app a store: Pyncette("sqlite:///guests.db").
"""

import itertools
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

from pyncette import Context, Instance, Pyncette, PyncetteContext

logger = logging.getLogger("dynamic_tasks")

app = Pyncette()
guests = (f"guest {number}" for number in itertools.count(1))


@app.dynamic_task()
async def greet(context: Context) -> None:
    logger.info("greet: %s, %s!", context.args["greeting"], context.name)


@app.dynamic_task()
async def greet_guest(context: Context) -> None:
    left = context.args["left"]
    if left == 0:
        await context.app_context.unschedule_task(greet_guest, context.name)
        logger.info("greet_guest: good bye, %s", context.name)
        return
    logger.info("greet_guest: welcome, %s", context.name)
    # The same name and the same schedule: only the arguments change, and the rhythm stays.
    await context.app_context.schedule_task(greet_guest, context.name, interval=timedelta(seconds=1), left=left - 1)


@app.task(interval=timedelta(seconds=4))
async def arrive(context: Context) -> None:
    guest = next(guests)
    await context.app_context.schedule_task(greet_guest, guest, interval=timedelta(seconds=1), left=3)
    logger.info("arrive: %s", guest)


@app.task(interval=timedelta(seconds=5))
async def guest_book(context: Context) -> None:
    page = await context.app_context.list_tasks(greet, limit=100)
    names = [f"{task.name} (next at {task.scheduled_at:%H:%M:%S %Z})" for task in page.tasks]
    logger.info("guest_book: %s", ", ".join(names))


@app.fixture()
async def residents(app_context: PyncetteContext) -> AsyncIterator[None]:
    """Fixtures are set up before the first run: a good place for what has to be scheduled from the start."""
    await app_context.schedule_tasks(
        greet,
        [
            Instance(name="Ada", interval=timedelta(seconds=2), args={"greeting": "Hello"}),
            Instance(name="Émile", schedule="* * * * * */3", timezone="Europe/Paris", args={"greeting": "Bonjour"}),
        ],
    )
    yield


if __name__ == "__main__":
    app.main()
