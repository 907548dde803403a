"""Runs that take longer than their lease, and tell the store that they are alive.

Run it:      python examples/heartbeat.py
You see:     `automatic` and `cooperative` take five seconds each, with leases of two seconds, and run to their end at attempt
             1. `forgetful` sends no heartbeats: its lease expires while it runs. Its own process continues with it under a new lease,
             and warns. Another process could take the occurrence over, and then what this one does at its end no longer counts.
Then try:    Run it in a second terminal as well, and kill -9 one of the two: within two seconds the other takes over.
End it:      Ctrl-C, and wait for the bodies to end. Delete heartbeat.db to start over.
"""

import asyncio
import logging
from datetime import timedelta

from pyncette import Context, Pyncette, with_heartbeat

logger = logging.getLogger("heartbeat")

app = Pyncette("sqlite:///heartbeat.db")

LEASE = timedelta(seconds=2)


@app.task(interval=timedelta(seconds=1), lease_duration=LEASE, fast_forward=True)
@with_heartbeat(lease_remaining_ratio=0.5, cancel_on_lease_lost=True)
async def automatic(context: Context) -> None:
    """The lease is extended in the background whenever half of it is used up."""
    await asyncio.sleep(5)
    logger.info("automatic: done after five seconds, at attempt %d", context.attempt)


@app.task(interval=timedelta(seconds=1), lease_duration=LEASE, fast_forward=True)
async def cooperative(context: Context) -> None:
    """The body reports its own progress. If it hangs, its lease expires, and another worker takes over."""
    for step in range(1, 6):
        await asyncio.sleep(1)
        await context.heartbeat()  # raises LeaseLostException if the lease has expired
        logger.info("cooperative: step %d of 5, the lease has %.1f s left", step, context.lease_remaining.total_seconds())
    logger.info("cooperative: done after five seconds, at attempt %d", context.attempt)


@app.task(interval=timedelta(seconds=1), lease_duration=LEASE, fast_forward=True)
async def forgetful(context: Context) -> None:
    logger.info("forgetful: attempt %d, fencing token %d", context.attempt, context.fencing_token)
    await asyncio.sleep(2.5)
    logger.info("forgetful: done, with fencing token %d by now", context.fencing_token)


if __name__ == "__main__":
    app.main()
