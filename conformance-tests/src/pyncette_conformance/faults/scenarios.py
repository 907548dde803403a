"""What can go wrong with real processes on a real store. Each scenario is a coroutine function of a URL and an empty directory.

The store is to be empty of earlier scenarios (a file, a schema, a table or a namespace of its own). ``options`` are added to the
command line of each worker, ``patience`` is how many seconds after the last fault everything has to be done.
"""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pyncette.backends import from_url
from pyncette.clock import from_microseconds
from pyncette.repository import Key, Registration, SupportsServerTime, Target
from pyncette_conformance.faults.checker import Category, Report, Violation
from pyncette_conformance.faults.cluster import Cluster, Worker, microseconds
from pyncette_conformance.faults.native import INJECTORS
from pyncette_conformance.faults.oracle import Every, Once, Schedule
from pyncette_conformance.faults.plan import Kind, Plan, TaskPlan
from pyncette_conformance.faults.runlog import Event, What, monotonic

__all__ = [
    "SCENARIOS",
    "Scenario",
    "backlog_at_sigterm",
    "clock_steps",
    "first_start",
    "heartbeats",
    "kill_loop",
    "paused_workers",
    "poison_rows",
    "rescheduled_while_running",
    "skewed_clocks",
    "three_processes",
    "unreliable_store",
]

PATIENCE = 30.0


class Scenario(Protocol):
    """What all scenarios look like."""

    def __call__(
        self, url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE
    ) -> Coroutine[Any, Any, Report]: ...


def _once(prefix: str, count: int, begin: int, seconds: float) -> dict[str, Schedule]:
    """``count`` once-off instances, evenly spread over so many seconds from ``begin`` on."""
    return {f"{prefix}-{i:04}": Once(begin + round(seconds * 1e6 * i / count)) for i in range(count)}


def _ticks(
    count: int,
    every: float,
    prefix: str = "tick",
    *,
    body: float = 0.01,
    lease: float = 3.0,
    heartbeat: float | None = None,
    at_most_once: bool = False,
) -> list[TaskPlan]:
    task = TaskPlan(
        name="", kind=Kind.INTERVAL, every=every, body=body, lease=lease, heartbeat=heartbeat, at_most_once=at_most_once
    )
    return [dataclasses.replace(task, name=f"{prefix}-{i:02}") for i in range(count)]


def _running(events: Sequence[Event], worker: Worker) -> dict[tuple[str, int], Event]:
    """The bodies that the worker has started and not ended, by name and token."""
    running = {}
    for event in events:
        if event.pid == worker.pid and event.what is What.START:
            running[event.name, event.token] = event
        elif event.pid == worker.pid and event.what is What.END:
            running.pop((event.name, event.token), None)
    return running


def _busiest(events: Sequence[Event], workers: Sequence[Worker], prefix: str = "", least: int = 1) -> Worker | None:
    """The worker that runs most bodies whose names begin so; None if no worker runs ``least``."""
    count, worker = max(
        ((sum(name.startswith(prefix) for name, _ in _running(events, worker)), worker) for worker in workers),
        key=lambda pair: pair[0],
    )
    return worker if count >= least else None


async def three_processes(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """1,000 once-off and 50 interval tasks on three processes, one of which is killed in the middle (I1 to I9)."""
    plan = Plan(
        [
            TaskPlan(name="spread", kind=Kind.PARTITIONED, body=0.05),
            TaskPlan(name="single", kind=Kind.DYNAMIC, body=0.05),
            TaskPlan(name="at-most-once", kind=Kind.DYNAMIC, body=0.05, at_most_once=True),
            *_ticks(40, 1.0, body=0.05),
            *_ticks(10, 1.0, "rare", at_most_once=True),
        ]
    )
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        async with cluster.app() as driver:
            workers = [cluster.spawn() for _ in range(3)]
            await cluster.until_up(*workers)
            begin = microseconds(0.3)
            await driver.schedule("spread", _once("spread", 600, begin, 3))
            await driver.schedule("single", _once("single", 250, begin, 3))
            await driver.schedule("at-most-once", _once("amo", 150, begin, 3))
        await asyncio.sleep(max(0.0, (begin - microseconds(-1.5)) / 1e6))
        cluster.kill(await cluster.until_some(lambda events: _busiest(events, workers), 30, "somebody runs something"))
        horizon = max(begin + 3_500_000, microseconds())
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("three processes, one killed", horizon, quiet=True)


async def paused_workers(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """SIGSTOP for longer than the lease: within bodies, before the first insert, before a settlement (I1, I2, I5, I6)."""
    plan = Plan(
        [
            TaskPlan(name="long", kind=Kind.PARTITIONED, body=0.8, lease=1.5),
            TaskPlan(name="amo", kind=Kind.DYNAMIC, body=0.8, at_most_once=True, lease=1.5),
            *_ticks(6, 0.5, body=0.2, lease=1.5),
            *_ticks(4, 0.5, "rare", body=0.1, at_most_once=True, lease=1.5),
        ]
    )
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        inserting = cluster.spawn("--fault", "register.before=stop@1")
        await cluster.until(lambda events: any(e.what is What.FAULT for e in events), 60, "a worker stops before its first insert")
        first, second = cluster.spawn(), cluster.spawn()
        settling = cluster.spawn("--fault", "settle.before=stop@4")
        await cluster.until_up(first, second)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("long", _once("long", 80, begin, 3))
            await driver.schedule("amo", _once("amo", 60, begin, 3))

        running = await cluster.until_some(
            lambda events: _busiest(events, [first, second], "long", 3), 30, "somebody runs three bodies"
        )
        await _stop_between_calls(cluster, running)
        tokens = dict(_running(cluster.events(), running).keys())

        def taken_over(events: Sequence[Event]) -> bool:
            return any(e.what is What.START and e.pid != running.pid and e.token > tokens.get(e.name, 2**62) for e in events)

        with contextlib.suppress(AssertionError):  # where a paused process can block the others, it may take until it continues
            await cluster.until(taken_over, 5, "another worker takes over what the paused one holds")
        cluster.cont(running)
        settling_stop = await cluster.until_some(
            lambda events: next((e for e in events if e.pid == settling.pid and e.outcome == "stop"), None),
            30,
            "one stops in settle",
        )
        await asyncio.sleep(max(0.0, settling_stop.mono + 2.0 - monotonic()))
        cluster.cont(settling)
        cluster.cont(inserting)
        horizon = max(begin + 3_500_000, microseconds())
        await cluster.until_up(inserting, settling)
        await cluster.until_done(horizon, patience)
        notes = "taken over" if taken_over(cluster.events()) else "not taken over"
        return await cluster.verdict("paused for longer than the lease", horizon, notes=notes)


async def _stop_between_calls(cluster: Cluster, worker: Worker) -> None:
    """Stop a worker, but not in the middle of a transaction that keeps all others waiting, as it would with SQLite."""
    for _ in range(10):
        cluster.stop(worker)
        stopped = monotonic()

        def others_write(events: Sequence[Event], since: float = stopped) -> bool:
            return any(e.what is What.SETTLED and e.sent > since and e.pid != worker.pid for e in events)

        with contextlib.suppress(AssertionError):
            await cluster.until(others_write, 1.0, "others write")
            return
        cluster.cont(worker)
        await asyncio.sleep(0.1)


async def kill_loop(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """kill -9 and restart, ten times over, with tasks of both modes (I6, I7)."""
    chance = random.Random()
    plan = Plan(
        [
            TaskPlan(name="alo", kind=Kind.PARTITIONED, body=0.2, lease=1.5),
            TaskPlan(name="amo", kind=Kind.PARTITIONED, body=0.2, at_most_once=True, lease=1.5),
            TaskPlan(name="cron", kind=Kind.CRON, every=1, lease=1.5),
            *_ticks(10, 0.5, body=0.1, lease=1.5),
            *_ticks(10, 0.5, "rare", body=0.1, at_most_once=True, lease=1.5),
        ]
    )
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        workers = [cluster.spawn() for _ in range(3)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("alo", _once("alo", 200, begin, 4.5))
            await driver.schedule("amo", _once("amo", 200, begin, 4.5))
        for _ in range(10):
            await asyncio.sleep(chance.uniform(0.2, 0.5))
            # At any moment of its life, also while it starts; but there is always one that gets on.
            victim = chance.choice(workers)
            others = {worker.pid for worker in workers if worker is not victim}
            await cluster.until(lambda events: any(e.what is What.UP and e.pid in others for e in events), 60, "another is up")  # noqa: B023
            cluster.kill(victim)
            workers.remove(victim)
            workers.append(cluster.spawn())
        # These die by their own hand, at the moments that are hardest for the promises.
        suicidal = [cluster.spawn("--fault", f"{site}=kill@2") for site in ("claim.after", "settle.before", "settle.after")]
        workers += [cluster.spawn(), cluster.spawn()]
        await cluster.until(lambda events: len(suicidal) == sum(e.outcome == "kill" for e in events), 60, "these have died")
        horizon = max(begin + 5_000_000, microseconds())
        await cluster.until_up(*workers[-2:])
        await cluster.until_done(horizon, patience)
        killed = sum(e.what is What.KILL or e.outcome == "kill" for e in cluster.events())
        return await cluster.verdict("kill -9 in a loop", horizon, notes=f"{killed} kills")


async def backlog_at_sigterm(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """SIGTERM to one of three processes in a backlog: it drains, leaves nothing leased, and the others continue (I11, I12)."""
    body, bound = 0.4, 8.0
    plan = Plan(
        [
            TaskPlan(name="backlog", kind=Kind.PARTITIONED, body=body, lease=4, partition_count=8),
            TaskPlan(name="amo", kind=Kind.DYNAMIC, body=body, at_most_once=True, lease=4),
            *_ticks(5, 1.0, lease=4),
        ]
    )
    options = [*options, "--concurrency", "8", "--batch", "8"]
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        workers = [cluster.spawn() for _ in range(3)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("backlog", _once("backlog", 220, begin, 0))
            await driver.schedule("amo", _once("amo", 40, begin, 0))
        leaving = await cluster.until_some(lambda events: _busiest(events, workers, least=4), 30, "somebody is busy")
        await asyncio.sleep(1)
        drained = await cluster.terminate(leaving, timeout=30)
        tokens = {(e.name, e.token) for e in cluster.events() if e.what is What.CLAIMED and e.pid == leaving.pid}
        orphans = [row.key.name for row in await cluster.rows() if row.locked_until and (row.key.name, row.epoch) in tokens]
        horizon = microseconds(1)
        await cluster.until_done(horizon, patience)
        gap = _largest_gap(cluster.events(), "tick")
        report = await cluster.verdict(
            "SIGTERM in a backlog", horizon, notes=f"drained in {drained:.2f} s, tick gap {gap:.2f} s", quiet=True
        )
        if orphans:
            report.violations.append(Violation(Category.ORPHAN, "I12", f"left leased at SIGTERM: {', '.join(orphans)}"))
        if drained > body + bound:
            report.violations.append(Violation(Category.ORDER, "I12", f"draining took {drained:.2f} s with bodies of {body} s"))
        # Starved, they would wait for the end of the backlog.
        if gap > 1.0 + max(bound, report.seconds) / 2:
            report.violations.append(Violation(Category.MISSED, "I11", f"a static task waited {gap:.2f} s in the backlog"))
        return report


def _largest_gap(events: Sequence[Event], prefix: str) -> float:
    """The longest time between two starts of one task, in seconds."""
    last: dict[str, float] = {}
    largest = 0.0
    for event in events:
        if event.what is What.START and event.name.startswith(prefix):
            largest = max(largest, event.mono - last.get(event.name, event.mono))
            last[event.name] = event.mono
    return largest


async def first_start(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """Twenty workers start at once on an empty store, and all of them come up."""
    plan = Plan(
        [
            TaskPlan(name="spread", kind=Kind.PARTITIONED),
            TaskPlan(name="single", kind=Kind.DYNAMIC),
            TaskPlan(name="cron", kind=Kind.CRON, every=1),
            *_ticks(10, 1.0),
        ]
    )
    options = [*options, "--poll-interval", "1"]
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        gate = directory / "gate"
        workers = [cluster.spawn("--gate", str(gate)) for _ in range(20)]
        await cluster.until(lambda events: sum(e.what is What.READY for e in events) == len(workers), 120, "all are ready")
        began = monotonic()
        gate.touch()
        await cluster.until_up(*workers, timeout=90)
        up = monotonic() - began
        async with cluster.app() as driver:
            await driver.schedule("spread", _once("spread", 100, microseconds(), 0.5))
        horizon = microseconds(1)
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("twenty first starts at once", horizon, notes=f"all up in {up:.1f} s", quiet=True)


async def unreliable_store(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """Calls that are applied and fail, that are delivered twice, or meet the driver's own errors: 30 % each (I1, I5, I6, I7)."""
    plan = Plan(
        [
            TaskPlan(name="alo", kind=Kind.PARTITIONED, lease=2.0),
            TaskPlan(name="amo", kind=Kind.PARTITIONED, at_most_once=True, lease=2.0),
            TaskPlan(name="beat", kind=Kind.DYNAMIC, body=1.5, heartbeat=0.8, lease=2.0),
            TaskPlan(name="flaky", kind=Kind.DYNAMIC, failures=1, lease=2.0),
            *_ticks(10, 0.5, lease=2.0),
            *_ticks(10, 0.5, "rare", at_most_once=True, lease=2.0),
        ]
    )
    lost = ["settle=applied-then-error%30", "claim=applied-then-error%30"]
    twice = ["settle=duplicate%30", "settle=duplicate-late%30:0.4", "claim=duplicate%30", "register=duplicate%30"]
    failing = ["settle=error%30", "claim=error%30"]
    native = ["driver=error%30"] if url.partition("://")[0] in INJECTORS else []
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        for faults in (lost, twice, failing):
            cluster.spawn(*(word for fault in (*native, *faults) for word in ("--fault", fault)))
        await cluster.until_up(*cluster.workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("alo", _once("alo", 200, begin, 3))
            await driver.schedule("amo", _once("amo", 200, begin, 3))
            await driver.schedule("beat", _once("beat", 20, begin, 2))
            await driver.schedule("flaky", _once("flaky", 20, begin, 2))
        horizon = begin + 4_000_000
        await cluster.until_done(horizon, patience)
        faults_met = sum(e.what in (What.FAULT, What.ERROR) for e in cluster.events())
        return await cluster.verdict("an unreliable store", horizon, notes=f"{faults_met} faults")


async def heartbeats(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """Bodies longer than their lease, heartbeats that are delivered late again, and a worker killed between two of them (I2, I7)."""
    plan = Plan(
        [
            TaskPlan(name="long", kind=Kind.DYNAMIC, body=2.5, lease=2.0, heartbeat=0.85),
            *_ticks(4, 1.0, body=0.6, lease=2.0, heartbeat=0.85),
        ]
    )
    options = [*options, "--fault", "settle=duplicate-late%50:0.45"]
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        workers = [cluster.spawn() for _ in range(2)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("long", _once("long", 20, begin, 0.2))
        victim = await cluster.until_some(lambda events: _busiest(events, workers, "long"), 30, "somebody runs a long body")
        await asyncio.sleep(1.7)
        cluster.kill(victim)
        cluster.spawn()
        horizon = microseconds()
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("heartbeats", horizon)


async def rescheduled_while_running(
    url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE
) -> Report:
    """Instances are re-scheduled, forced and removed while their bodies run and their commits are in progress (I3, I4, I8, I9)."""
    plan = Plan(
        [TaskPlan(name="moving", kind=Kind.PARTITIONED, body=0.6), TaskPlan(name="amo", kind=Kind.DYNAMIC, at_most_once=True)]
    )
    names = [f"{kind}-{i}" for kind in ("later", "often", "force", "gone", "back") for i in range(6)]
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        workers = [
            cluster.spawn(),
            cluster.spawn("--fault", "settle.before=delay:0.3"),
            cluster.spawn("--fault", "claim.after=delay%50:0.2"),
        ]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:

            def chosen(*kinds: str) -> list[str]:
                return [name for name in names if name.startswith(kinds)]

            async def at_every_moment(template: str, schedules: Mapping[str, Schedule], *, force: bool = False) -> None:
                # One by one with pauses, so that some meet the claim, some the body, and some the commit.
                for name, schedule in schedules.items():
                    await driver.schedule(template, {name: schedule}, force=force)
                    await asyncio.sleep(0.06)

            begin = microseconds()
            await driver.schedule("moving", {name: Once(begin) for name in names})
            await driver.schedule("amo", {f"amo-{i}": Once(begin + i * 100_000) for i in range(20)})
            await cluster.until(
                lambda events: len({e.name for e in events if e.what is What.START} & set(names)) >= len(names) // 2,
                30,
                "half have begun",
            )
            later = microseconds(1.2)
            await asyncio.gather(
                at_every_moment("moving", {name: Once(later) for name in chosen("later")}),
                at_every_moment("moving", {name: Every(500_000) for name in chosen("often")}),
                at_every_moment("moving", {name: Once(later + 1) for name in chosen("force")}, force=True),
                # A, B, A: the text of the schedule is what it was, but the commit that is in progress is not of this one.
                at_every_moment("moving", {name: Every(400_000) for name in chosen("back")}),
                at_every_moment("amo", {f"amo-{i}": Once(later) for i in range(0, 20, 3)}),
                driver.unschedule("moving", chosen("gone")),
            )
            await at_every_moment("moving", {name: Once(later + 2) for name in chosen("back", "gone")})
        horizon = max(later + 500_000, microseconds())
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("re-scheduled while running", horizon)


async def poison_rows(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """Rows that can't be understood, and rows of templates that are gone: they are surfaced, and hurt nobody else (I10)."""
    bound = 5.0
    plan = Plan(
        [
            TaskPlan(name="alo", kind=Kind.DYNAMIC, lease=1.0),
            TaskPlan(name="amo", kind=Kind.DYNAMIC, at_most_once=True, lease=1.0),
            *_ticks(5, 0.5, lease=1.0),
        ]
    )
    now = from_microseconds(microseconds(-1))
    target = Target(now, now)
    every = "interval 1 @UTC"
    broken = {
        "poison-not-json": ("{not json", every),
        "poison-not-object": ("[1, 2]", every),
        "poison-empty": ("", every),
        "poison-schedule": ("{}", "sometimes"),
        "poison-zone": ("{}", "interval 1 @Nowhere/At_All"),
    }
    registrations = [
        Registration(Key(f"dynamic:{template}", f"{name}-{template}"), spec, schedule, target)
        for template in ("alo", "amo")
        for name, (spec, schedule) in broken.items()
    ]
    registrations += [Registration(Key("dynamic:removed", f"removed-{i}"), "{}", every, target) for i in range(20)]
    registrations += [Registration(Key("static", "removed-static"), "{}", every, target)]
    ignore = {registration.key.name for registration in registrations}
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        async with from_url(url)() as repository:
            await repository.register(now, registrations)
        workers = [cluster.spawn(), cluster.spawn()]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds(0.2)
            await driver.schedule("alo", _once("alo", 100, begin, 2))
            await driver.schedule("amo", _once("amo", 100, begin, 2))
        horizon = begin + 2_500_000
        await cluster.until_done(horizon, patience)
        surfaced = {name for name in broken for kind in ("alo", "amo") if cluster.output(f"{name}-{kind}")}
        report = await cluster.verdict("poison rows", horizon, ignore=ignore)
        if surfaced != set(broken):
            report.violations.append(Violation(Category.MISSED, "I10", f"never mentioned: {set(broken) - surfaced}"))
        if max(report.lateness) > bound:
            report.violations.append(Violation(Category.MISSED, "I10", f"others were up to {max(report.lateness):.2f} s late"))
        kept = {row.key.name for row in await cluster.rows()} & ignore
        gone = {name for name in ignore if name.startswith("poison")} - kept
        if gone:
            report.violations.append(
                Violation(Category.ORPHAN, "I3", f"rows that a newer version might understand were removed: {gone}")
            )
        return report


async def clock_steps(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """The machine's clock, which all workers share, is put 2 s forward and then back while they run (I1, I5, I6)."""
    begin = monotonic() + 3.0
    steps = ["--fault", f"clock=step@{begin:.3f}:2", "--fault", f"clock=step@{begin + 1.5:.3f}:-2"]
    plan = Plan(
        [
            TaskPlan(name="alo", kind=Kind.PARTITIONED, body=0.2),
            TaskPlan(name="amo", kind=Kind.PARTITIONED, body=0.2, at_most_once=True),
            *_ticks(6, 0.5),
            *_ticks(6, 0.5, "rare", at_most_once=True),
        ]
    )
    async with Cluster(url, plan, directory, worker_options=[*options, *steps]) as cluster:
        workers = [cluster.spawn() for _ in range(3)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            now = microseconds()
            await driver.schedule("alo", _once("alo", 100, now, 4))
            await driver.schedule("amo", _once("amo", 100, now, 4))
        horizon = now + 4_500_000
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("clock steps of 2 s", horizon, clock_error=2.0)


async def skewed_clocks(url: str, directory: Path, *, options: Sequence[str] = (), patience: float = PATIENCE) -> Report:
    """Workers whose clocks are 30 s off in either direction, on a store that has a clock: nothing is early, stolen or lost (I2, I4).

    A store without a clock can't help them: there the workers are promised nothing beyond what their clocks are worth.
    """
    async with from_url(url)() as repository:
        if not isinstance(repository, SupportsServerTime):
            raise TypeError("This store has no clock of its own, so it can't align the clocks of its workers")
    plan = Plan(
        [
            TaskPlan(name="alo", kind=Kind.PARTITIONED, body=0.2, lease=2),
            TaskPlan(name="amo", kind=Kind.PARTITIONED, body=0.2, lease=2, at_most_once=True),
            *_ticks(10, 0.5, lease=2),
        ]
    )
    async with Cluster(url, plan, directory, worker_options=options) as cluster:
        workers = [cluster.spawn("--fault", f"clock=ahead:{ahead}") for ahead in (-30, 0, 30)]
        await cluster.until_up(*workers)
        async with cluster.app() as driver:
            begin = microseconds()
            await driver.schedule("alo", _once("alo", 150, begin, 4))
            await driver.schedule("amo", _once("amo", 150, begin, 4))
        horizon = begin + 4_500_000
        await cluster.until_done(horizon, patience)
        return await cluster.verdict("clocks 30 s off", horizon, clock_error=0.25)


#: What any store has to pass; :func:`skewed_clocks` is for those with a clock of their own.
SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        three_processes,
        paused_workers,
        kill_loop,
        backlog_at_sigterm,
        first_start,
        unreliable_store,
        heartbeats,
        rescheduled_while_running,
        poison_rows,
        clock_steps,
    )
}
