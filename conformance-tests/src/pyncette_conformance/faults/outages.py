"""What can go wrong on the way to a server, and with the server itself, while real processes work on it.

For stores behind one TCP address of this machine, and for :func:`restarted_server` any other that a command restarts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pyncette.backends import from_url
from pyncette.errors import TransientRepositoryError
from pyncette_conformance.faults.checker import Category, Report, Violation
from pyncette_conformance.faults.cluster import Cluster, microseconds
from pyncette_conformance.faults.oracle import Once
from pyncette_conformance.faults.plan import Kind, Plan, TaskPlan
from pyncette_conformance.faults.proxy import proxied
from pyncette_conformance.faults.runlog import What, monotonic

__all__ = ["black_hole", "restarted_server", "slow_network"]

_PLAN = Plan(
    [
        *(TaskPlan(name=f"tick-{i}", kind=Kind.INTERVAL, every=0.5, lease=3.0) for i in range(5)),
        *(TaskPlan(name=f"rare-{i}", kind=Kind.INTERVAL, every=0.5, lease=3.0, at_most_once=True) for i in range(5)),
        TaskPlan(name="spread", kind=Kind.PARTITIONED, lease=3.0),
        TaskPlan(name="long", kind=Kind.DYNAMIC, body=1.5, lease=3.0, heartbeat=0.5),
    ]
)


async def black_hole(
    url: str, directory: Path, *, seconds: float = 20.0, within: float = 15.0, options: Sequence[str] = (), patience: float = 30.0
) -> Report:
    """Nothing gets through for ``seconds``, then new connections do; those of before are dead forever, and look alive.

    :param within: so many seconds after the end of it every worker must be at work again.
    """
    async with proxied(url) as (proxy, through):

        async def outage() -> None:
            proxy.freeze()
            proxy.freeze_new = True
            await asyncio.sleep(seconds)
            proxy.freeze_new = False

        title = f"a black hole for {seconds:g} s"
        return await _during(outage, title, url, directory, worker_url=through, options=options, within=within, patience=patience)


async def slow_network(
    url: str, directory: Path, *, delay: float = 0.1, options: Sequence[str] = (), patience: float = 30.0
) -> Report:
    """For five seconds every piece of data is late by ``delay`` seconds, in both directions: nothing is lost by it."""
    async with proxied(url) as (proxy, through):

        async def outage() -> None:
            proxy.delay = delay
            await asyncio.sleep(5)
            proxy.delay = 0.0

        title = f"{delay:g} s each way"
        return await _during(
            outage,
            title,
            url,
            directory,
            worker_url=through,
            options=options,
            within=5.0,
            patience=patience,
            clock_error=2 * delay,  # what the workers believe the store's clock to be
        )


async def restarted_server(
    url: str,
    directory: Path,
    *,
    restart: str,
    within: float = 15.0,
    options: Sequence[str] = (),
    patience: float = 30.0,
) -> Report:
    """The server is killed and started again.

    :param restart: a command for the shell that does so. It may return before the server is up.
    """

    async def outage() -> None:
        process = await asyncio.create_subprocess_shell(restart)
        assert await process.wait() == 0, f"{restart!r} failed"
        async with asyncio.timeout(60):
            await asyncio.sleep(0.5)  # until the server is down
            while True:
                try:
                    async with from_url(url)():
                        return
                except TransientRepositoryError:
                    await asyncio.sleep(0.1)

    return await _during(
        outage, "a server killed and restarted", url, directory, worker_url=url, options=options, within=within, patience=patience
    )


async def _during(
    outage: Callable[[], Awaitable[None]],
    title: str,
    url: str,
    directory: Path,
    *,
    worker_url: str,
    options: Sequence[str],
    within: float,
    patience: float,
    clock_error: float = 0.0,
) -> Report:
    """Two workers, who have work before, during and after the outage."""
    async with Cluster(url, _PLAN, directory, worker_url=worker_url, worker_options=options) as cluster:
        workers = [cluster.spawn() for _ in range(2)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("spread", {f"spread-{i:04}": Once(begin + i * 20_000) for i in range(400)})
            await driver.schedule("long", {f"long-{i}": Once(begin + i * 400_000) for i in range(10)})
        await asyncio.sleep(1.5)
        await outage()
        over = monotonic()
        await cluster.until(
            lambda events: {worker.pid for worker in workers} <= {e.pid for e in events if e.what is What.START and e.mono > over},
            within + patience,
            "both workers work again",
        )
        recovered = max(
            min(e.mono for e in cluster.events() if e.what is What.START and e.pid == worker.pid and e.mono > over)
            for worker in workers
        )
        horizon = max(microseconds(1), begin + 8_500_000)
        await cluster.until_done(horizon, patience)
        notes = f"both at work {recovered - over:.1f} s after it"
        report = await cluster.verdict(title, horizon, clock_error=clock_error, notes=notes)
        if recovered - over > within:
            report.violations.append(Violation(Category.MISSED, "I7", notes))
        return report
