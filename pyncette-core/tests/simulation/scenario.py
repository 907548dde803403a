"""What happens in a simulation, drawn from its seed: applications, users, faults, and the bodies' behaviour."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from unittest import mock

from pyncette import (
    ConcurrentExecutor,
    Context,
    ExecutionMode,
    FailureMode,
    Pyncette,
    PyncetteContext,
    Retry,
    SynchronousExecutor,
    Task,
    app_context,
)
from pyncette.clock import to_microseconds
from pyncette.errors import LeaseLostException, PyncetteError, RepositoryError, ScheduleError, TransientRepositoryError
from pyncette.repository import Key, Repository, State
from pyncette.testing import VirtualClock
from pyncette.worker.threads import Threads
from simulation.checker import Rules, TaskRules
from simulation.log import Asked, Down, Ended, Event, Finished, Frozen, Healed, Started, Stopping, Thawed, Unexpected, Up
from simulation.loop import OUTSIDE, ProcessClock, ProcessLoop
from simulation.store import Faults, Log, Outage, Remote, RemoteWithClock, RemoteWithHistory, Store

__all__ = ["Simulation", "simulate"]

_ALO, _AMO = ExecutionMode.AT_LEAST_ONCE, ExecutionMode.AT_MOST_ONCE
_SECOND = timedelta(seconds=1)
_CLIENT = "client"


@dataclass(frozen=True, slots=True)
class _Declaration:
    name: str
    #: static, dynamic or partitioned
    kind: str
    options: dict[str, Any]


_STATIC = [
    _Declaration("steady", "static", {}),
    _Declaration("at most once", "static", {"execution_mode": _AMO}),
    _Declaration("skipping", "static", {"fast_forward": True, "failure_mode": FailureMode.UNLOCK, "retry_delay": _SECOND / 2}),
    _Declaration("short lease", "static", {"lease_duration": 1.5 * _SECOND, "failure_mode": FailureMode.COMMIT}),
]
_TEMPLATES = [
    _Declaration("plain", "dynamic", {}),
    _Declaration("unlocking", "dynamic", {"failure_mode": FailureMode.UNLOCK}),
    _Declaration("committing", "dynamic", {"failure_mode": FailureMode.COMMIT, "fast_forward": True}),
    _Declaration("amo", "dynamic", {"execution_mode": _AMO}),
    _Declaration("amo parts", "partitioned", {"execution_mode": _AMO, "partition_count": 2}),
    _Declaration("limited", "dynamic", {"failure_mode": FailureMode.UNLOCK, "max_attempts": 3, "retry_delay": _SECOND / 3}),
    _Declaration("parts", "partitioned", {"partition_count": 3}),
]
_RETRY = Retry(attempts=3, delay=_SECOND / 2, factor=3, limit=_SECOND, jitter=0.2)
#: Drawn in each eighth seed, in addition.
_POLICIES = [
    _Declaration("retrying", "dynamic", {"retry": _RETRY}),
    _Declaration("alone", "dynamic", {"execution_mode": _AMO, "max_running": 1}),
    _Declaration("alone and static", "static", {"execution_mode": _AMO, "max_running": 1}),
    _Declaration("in threads", "dynamic", {"failure_mode": FailureMode.UNLOCK, "timeout": 2 * _SECOND}),
]
#: After how many attempts these are given up; of one that was claimed before nobody knows whether it began, so it may not run again.
_IMPLIED = {"retrying": 3, "alone": 2, "alone and static": 2}


@contextlib.contextmanager
def _unless_closed() -> Iterator[None]:
    """Users continue with a context whose application has ended meanwhile; they are told so."""
    try:
        yield
    except PyncetteError as error:
        if "store was closed" not in str(error):
            raise


@dataclass(slots=True)
class _Worker:
    """One life of one process."""

    name: str
    machine: str
    task: "asyncio.Task[None] | None" = None
    context: PyncetteContext | None = None
    stopping: bool = False
    ended: bool = False
    #: Set while it is frozen.
    thaw: Callable[[], None] | None = None

    @property
    def up(self) -> bool:
        return self.context is not None and not self.stopping and not self.ended


@dataclass(slots=True)
class Simulation:
    """A run that has ended: what was seen, and the rules by which to judge it."""

    seed: int
    rules: Rules
    events: list[Event] = field(default_factory=list)


def simulate(seed: int) -> Simulation:
    """Run the scenario of ``seed``."""
    scenario = _Scenario(seed)
    # What the engine logs is not judged here, and formatting it would cost more than the simulation.
    with _silence(), _numbered_workers(), scenario.threads(), asyncio.Runner(loop_factory=scenario.loop_factory) as runner:
        runner.run(scenario.main())
    return Simulation(seed, scenario.rules, scenario.log.events)


def _numbered_workers() -> AbstractContextManager[Any]:
    """The ids of workers, which are stored, are random otherwise."""
    return mock.patch.object(app_context, "new_worker_id", map("worker:{}".format, itertools.count()).__next__)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Scenario:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.clock = VirtualClock()
        self.log = Log(self.clock)
        calm = random.random() < 0.2
        server_time = random.random() < 0.7
        shared = random.random() < 0.9
        ample = random.random() < 0.5
        self.machines = ["A", "B", "C"][: random.choice((2, 2, 3)) if shared else 1]
        self.active = random.uniform(8, 20)
        self.lease = timedelta(seconds=random.choice((2, 3, 4)))
        skewed = not calm and random.random() < (0.5 if server_time else 0.3)
        self.clocks = {
            machine: ProcessClock(self.clock, timedelta(seconds=random.uniform(-30, 30) if skewed else 0), random.uniform(0, 1e6))
            for machine in (*self.machines, _CLIENT)
        }
        self.skewed = skewed
        self.store = Store(self.log, self.clock, shared=shared, server_time=server_time)
        self.faults = Faults(
            Random(random.random()),
            rate=0.0 if calm else random.choice((0.0, 0.03, 0.1, 0.2)),
            timeout=random.choice((0.5, 1.5, 5.0)),
            delay=2.5 * self.lease.total_seconds(),
        )
        self.settings: dict[str, Any] = {
            "poll_interval": timedelta(seconds=random.choice((0.5, 1.0, 2.0))),
            "concurrency_limit": 50 if ample else random.choice((1, 2, 4)),
            "batch_size": 50 if ample else random.choice((1, 3, 50)),
            "shutdown_timeout": random.choice((None, None, timedelta(), _SECOND / 2, 3 * _SECOND)),
            "executor_cls": SynchronousExecutor if not ample and random.random() < 0.2 else ConcurrentExecutor,
        }
        #: What a call takes at least, in seconds.
        self.distance = 0.0 if calm else random.choice((0.0, 0.0, 0.05))
        self.declarations = random.sample(_STATIC, random.randint(1, 2)) + random.sample(_TEMPLATES, random.randint(1, 2))
        self.intervals = {each.name: random.choice((0.4, 1, 2)) * _SECOND for each in self.declarations}
        #: Draws what policies need: what is drawn else stays as it is without them.
        self.policies = Random(f"policies {seed}")
        if seed % 8 == 5:
            self.declarations += self.policies.sample(_POLICIES, 2)
            self.intervals |= {each.name: self.policies.choice((0.4, 1, 2)) * _SECOND for each in self.declarations[-2:]}
        #: Of a static task, as a part of its interval.
        self.jitter = 0.5 if seed % 4 == 2 else 0.0
        #: The history is kept in each eighth seed, and then in a store that has a clock.
        self.recording = seed % 8 == 7
        self.store.server_time |= self.recording
        #: How often bodies do other than return at once.
        self.mischief = random.choice((0.1, 0.3, 0.5))
        self.calm, self.healed = calm, False
        if not calm:
            self.faults.failpoint = self._failpoint
        self.workers: list[_Worker] = []
        self.apps: dict[str, tuple[Pyncette, dict[str, Task]]] = {}
        self.client: PyncetteContext | None = None
        self.client_done = asyncio.Event()
        self.markers = 0
        #: Schedules have bounds and jitter in each fourth seed: where many end, less is seen of all else.
        self.bounded = seed % 4 == 2
        self.bounds = Random(f"bounds {seed}")
        self.rules = self._rules(ample=ample)

    def loop_factory(self) -> asyncio.AbstractEventLoop:
        return ProcessLoop(self.clock, Random(self.random.random()))

    @property
    def loop(self) -> ProcessLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        return loop

    def _rules(self, *, ample: bool) -> Rules:
        tasks = {
            each.name: TaskRules(
                static=each.kind == "static",
                at_most_once=each.options.get("execution_mode") is _AMO and "max_running" not in each.options,
                failure_mode=each.options.get("failure_mode", FailureMode.NONE),
                fast_forward=each.options.get("fast_forward", False),
                max_attempts=each.options.get("max_attempts", _IMPLIED.get(each.name)),
                retry=each.options.get("retry"),
                alone="max_running" in each.options,
                lease=each.options.get("lease_duration", self.lease).total_seconds(),
            )
            for each in self.declarations
        }
        poll = self.settings["poll_interval"].total_seconds()
        unaligned = self.skewed and not self.store.server_time
        return Rules(
            origin=self.clock.now(),
            tasks=tasks,
            poll_interval=poll,
            timeout=self.faults.timeout,
            concurrency_limit=1 if self.settings["executor_cls"] is SynchronousExecutor else self.settings["concurrency_limit"],
            shutdown_timeout=None
            if self.settings["shutdown_timeout"] is None
            else self.settings["shutdown_timeout"].total_seconds(),
            shared=self.store.shared,
            unaligned=unaligned,
            calm=self.calm,
            ample=ample,
            recording=self.recording,
        )

    # --- applications ------------------------------------------------------------------------------------------------

    def _app(self, version: int, open_store: Callable[[], Any]) -> tuple[Pyncette, dict[str, Task]]:
        """The application, with its tasks by name; in another version, static tasks have other schedules."""
        app = Pyncette(repository_factory=open_store, **self.settings)
        app.use_middleware(self._observe)
        tasks: dict[str, Task] = {}
        for each in self.declarations:
            options = {"lease_duration": self.lease, **each.options, "name": each.name}
            if self.recording:
                options["history"] = timedelta(days=1)
            declare: Callable[..., Any]
            if each.kind == "static":
                interval = self.intervals[each.name] + version * _SECOND
                declare = app.task(interval=interval, jitter=interval * self.jitter if each.name == "steady" else None, **options)
            else:
                declare = app.dynamic_task(**options) if each.kind == "dynamic" else app.partitioned_task(**options)
            tasks[each.name] = declare(self._body_in_thread if each.name == "in threads" else self._body)
        return app, tasks

    async def _observe(self, context: Context, following: Callable[[], Awaitable[None]]) -> None:
        claim = context._execution.claim
        run, worker = (claim.key, claim.lease), context.app_context.values["worker"]
        self.log.append(Started(self.log.now, worker, run, context.scheduled_at, context.args))
        how = "raised"
        try:
            await following()
            how = "returned"
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self.log.append(Ended(self.log.now, worker, run, how))

    async def _body(self, context: Context) -> None:
        random = self.random
        lease = context.task.lease_duration.total_seconds()
        if random.random() < 0.5:
            await asyncio.sleep(random.random() * 0.02)
        if not self.healed and ":limited" in context._execution.claim.key.partition and random.random() < 0.8:
            raise ValueError("the body fails, and is given up at last")
        if self.healed or random.random() >= self.mischief:
            return
        match random.randrange(8):
            case 0:
                raise ValueError("the body fails")
            case 1:
                await asyncio.sleep(random.random() * 1.5)
            case 2:  # longer than its lease, unawares
                await asyncio.sleep(random.uniform(0.9, 2) * lease)
            case 3:
                await asyncio.sleep(random.uniform(0.9, 2) * lease)
                raise ValueError("the body fails late")
            case 4:
                with contextlib.suppress(LeaseLostException):
                    for _ in range(random.randint(1, 3)):
                        await asyncio.sleep(random.uniform(0.2, 0.9) * lease)
                        await context.heartbeat()
            case 5:  # ends while a heartbeat is in progress
                beat = asyncio.create_task(context.heartbeat())
                for _ in range(random.randrange(3)):
                    await asyncio.sleep(0)
                beat.add_done_callback(lambda beat: beat.cancelled() or beat.exception())
            case 6:  # refuses to be cancelled
                try:
                    await asyncio.sleep(random.random() * lease)
                except asyncio.CancelledError:
                    await asyncio.sleep(random.choice((0.1, 8)))
                    if random.random() < 0.5:
                        raise
            case 7:
                await self._act(context.app_context, random)

    def _body_in_thread(self, context: Context) -> None:
        if not self.healed and self.policies.random() < self.mischief:
            raise ValueError("the body fails in its thread")

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Bodies that are plain functions take a while of virtual time instead of a thread, and like a thread they can't be stopped."""

        def put(threads: Threads, job: Any) -> None:
            def run() -> None:
                job.run()
                threads._ended(job)

            length = self.policies.choice((0.0, 0.01, 0.01, 1.0, 0.0 if self.healed else 3.0))
            asyncio.get_running_loop().call_later(length, run)

        with mock.patch.multiple(Threads, _put=put, busy=lambda threads, loop: False):
            yield

    def _open(self, name: str, machine: str) -> Callable[[], Any]:
        remote = RemoteWithHistory if self.recording else RemoteWithClock if self.store.server_time else Remote

        @contextlib.asynccontextmanager
        async def open_store() -> AsyncIterator[Repository]:
            yield remote(self.store, self.faults, Random(self.random.random()), name, machine, self.clocks[machine], self.distance)

        return open_store

    # --- workers -----------------------------------------------------------------------------------------------------

    def _start(self, machine: str) -> None:
        life = sum(worker.machine == machine for worker in self.workers) + 1
        worker = _Worker(f"{machine}{life}", machine)
        self.workers.append(worker)
        self.log.append(Up(self.log.now, worker.name))
        version = self.random.randrange(2) if not self.healed and self.random.random() < 0.3 else 0
        worker.task = self.loop.spawn(worker.name, self._live(worker, version))

    async def _live(self, worker: _Worker, version: int) -> None:
        app, tasks = self._app(version, self._open(worker.name, worker.machine))
        self.apps[worker.name] = app, tasks
        how = "ended"
        try:
            async with app.create(clock=self.clocks[worker.machine]) as context:
                context.add_to_context("worker", worker.name)
                worker.context = context
                await context.run()
        except RepositoryError:
            how = "crashed"
        except asyncio.CancelledError:
            how = "ended"  # as it was told
        except Exception as error:
            how = "crashed"
            self.log.append(Unexpected(self.log.now, f"{worker.name} ended with {error!r}"))
        finally:
            worker.ended = True
            self.log.append(Down(self.log.now, worker.name, how))

    async def _live_as_client(self) -> None:
        app, tasks = self._app(0, self._open(_CLIENT, _CLIENT))
        self.apps[_CLIENT] = app, tasks
        while True:
            with contextlib.suppress(RepositoryError):
                async with app.create(clock=self.clocks[_CLIENT]) as context:
                    context.add_to_context("worker", _CLIENT)
                    self.client = context
                    await self.client_done.wait()
                    return
            await asyncio.sleep(0.5)

    def _end(self, worker: _Worker, *, cancelled: bool) -> None:
        assert worker.context is not None and worker.task is not None
        if not worker.stopping:
            worker.stopping = True
            self.log.append(Stopping(self.log.now, worker.name, cancelled))
            if cancelled:
                worker.task.cancel()
            else:
                worker.context.shutdown()

    def _kill(self, worker: _Worker) -> None:
        self.loop.freeze(worker.name)
        worker.ended = True
        self.log.append(Down(self.log.now, worker.name, "killed"))

    async def _supervise(self, machine: str, random: Random) -> None:
        """Start a worker again whenever there is none."""
        while not self.client_done.is_set():
            if all(worker.ended for worker in self.workers if worker.machine == machine):
                await asyncio.sleep(random.choice((0.0, 0.5, 3.0)))
                self._start(machine)
            await asyncio.sleep(0.5)

    # --- what happens ------------------------------------------------------------------------------------------------

    async def main(self) -> None:
        loop = self.loop
        loop.set_exception_handler(self._unexpected)
        client = loop.spawn(_CLIENT, self._live_as_client())
        supervisors = [loop.spawn(OUTSIDE, self._supervise(machine, Random(self.random.random()))) for machine in self.machines]
        try:
            await self._direct()
            self.client_done.set()
            await asyncio.gather(client, *supervisors)
            await self._stop_all()
            self.log.append(Finished(self.log.now))
        finally:
            self.log.closed = True
            for worker in self.workers:
                loop.thaw(worker.name)

    async def _direct(self) -> None:
        random = Random(self.random.random())
        weights = {self._user: 8, self._reconfigure: 1}
        if not self.calm:
            weights |= {self._disturb: 5, self._cut: 2}
        moments = sorted(random.random() * self.active for _ in range(random.randint(10, 60)))
        for _ in range(8):
            self._user(random)
        if not self.calm and random.random() < 0.3:
            await asyncio.sleep(0.1)
            self.faults.refused.update(row.key for row in random.sample(self.store.rows, min(1, len(self.store.rows))))
        for moment in moments:
            await asyncio.sleep(max(0.0, moment - self.log.now))
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)  # also in the middle of what happens at one moment
            random.choices(list(weights), list(weights.values()))[0](random)
        await asyncio.sleep(max(0.0, self.active - self.log.now))
        self._heal()
        await asyncio.sleep(self.rules.recovery)

    def _heal(self) -> None:
        self.healed = True
        self.faults.heal()
        for clock in self.clocks.values():
            if not self.store.server_time:
                clock.wrong_by = timedelta()
        for worker in self.workers:
            if worker.thaw is not None:
                worker.thaw()
        self.log.append(Healed(self.log.now))

    async def _stop_all(self) -> None:
        for worker in self.workers:
            if worker.up:
                self._end(worker, cancelled=False)
        for worker in self.workers:
            if not worker.ended and worker.task is not None:
                done, _ = await asyncio.wait([worker.task], timeout=30)
                if not done:
                    self.log.append(Unexpected(self.log.now, f"{worker.name} does not end"))

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.log.append(Unexpected(self.log.now, f"{context['message']}: {context.get('exception')!r}"))

    def _failpoint(self, name: str, keys: Sequence[Key]) -> None:
        """Something happens to a worker, or to a row, just as the worker calls the store about it."""
        random, fate = self.random, self.random.random()
        claimed = bool(keys)
        worker = next((worker for worker in self.workers if worker.name == name and worker.up), None)
        keys = [key for key in keys if key.partition != "static"]
        if fate < 0.04 and keys:
            self._user(random, random.choice(keys))
        elif fate > (0.985 if claimed else 0.998) and worker is not None:
            self._freeze(worker, random.choice((0.3, 1.1, 2.5)) * self.lease.total_seconds())
        elif fate > 0.98 and claimed and worker is not None and self.store.shared:
            self._kill(worker)

    def _user(self, random: Random, key: Key | None = None) -> None:
        """A user does something, in a process of their own or in a worker."""
        workers = [worker for worker in self.workers if worker.up]
        if self.client is not None and self.store.shared and random.random() < 0.7:
            self.loop.spawn(_CLIENT, self._act(self.client, random, key))
        elif workers:
            worker = random.choice(workers)
            assert worker.context is not None
            self.loop.spawn(worker.name, self._act(worker.context, random, key))

    async def _act(self, context: PyncetteContext, random: Random, key: Key | None = None) -> None:
        tasks = self.apps[context.values["worker"]][1]
        if key is None or key.name == "poison":
            templates = [tasks[each.name] for each in self.declarations if each.kind != "static"]
            template, name = random.choice(templates), random.choice("abcd")
        else:
            template, name = tasks[key.partition.rpartition(":")[2]], key.name
        self.markers += 1
        marker = self.markers
        action = random.randrange(20)
        with contextlib.suppress(RepositoryError, ScheduleError), _unless_closed():
            if action < 12:
                options: dict[str, Any] = {"interval": random.choice((0.3, 0.7, 1, 3)) * _SECOND, "force": random.random() < 0.1}
                if random.random() < 0.4:
                    at = context.clock.now() + timedelta(seconds=random.uniform(-2, 6))
                    options = {"execute_at": at, "force": options["force"]}
                elif self.bounded:
                    options |= self._bounds(context.clock.now(), options["interval"])
                for _ in range(10):
                    self.log.append(Asked(self.log.now, marker))
                    try:
                        return await context.schedule_task(template, name, **options, v=marker)
                    except TransientRepositoryError:
                        await asyncio.sleep(random.random())
            elif action < 15:
                await context.unschedule_task(template, name)
            else:
                task, *instance = (template, name) if random.random() < 0.7 else (tasks[self.declarations[0].name],)
                await context.pause_task(task, *instance)
                await asyncio.sleep(random.random() * 3)
                for _ in range(20):
                    with contextlib.suppress(TransientRepositoryError):
                        return void(await context.resume_task(task, *instance))
                    await asyncio.sleep(0.5)

    def _bounds(self, now: datetime, interval: timedelta) -> dict[str, Any]:
        """A beginning, an end, a number of runs, a jitter: each now and then."""
        random = self.bounds
        drawn = {
            "jitter": interval * random.choice((0.3, 1, 2)),
            "start_at": now + timedelta(seconds=random.uniform(-3, 2)),
            "end_at": now + interval * random.uniform(3, 12),
            "max_runs": random.randint(1, 6),
        }
        return {option: value for option, value in drawn.items() if random.random() < 0.3}

    def _reconfigure(self, random: Random) -> None:
        """An operator ends a worker gently, or damages a row."""
        workers = [worker for worker in self.workers if worker.up]
        if random.random() < 0.5 and len(workers) > 1:
            self._end(random.choice(workers), cancelled=False)
        elif self.store.shared:
            self._damage(random)

    def _damage(self, random: Random) -> None:
        rows = [row for row in self.store.rows if row.state is State.SCHEDULED and row.key.partition != "static"]
        if rows and random.random() < 0.7:
            row = random.choice(rows)
            broken: dict[str, Any] = random.choice(({"spec": "{"}, {"spec": "7"}, {"schedule": "whenever"}, {"schedule": ""}))
            poisoned = row._replace(
                key=Key(row.key.partition, "poison"),
                **broken,
                lease=None,
                locked_until=None,
                ready_at=row.execute_after,
                epoch=to_microseconds(self.clock.now() + timedelta(minutes=2)),
            )
            self.store.poison(poisoned, poisoned.key)
        else:
            static = [row for row in self.store.rows if row.key.partition == "static"]
            if static:
                self.store.poison(None, random.choice(static).key)

    def _disturb(self, random: Random) -> None:
        """A worker is killed, frozen, cancelled, shut down, or has its clock stepped."""
        workers = [worker for worker in self.workers if worker.up]
        if not workers:
            return
        worker = random.choice(workers)
        match random.randrange(5 if self.store.shared else 4):
            case 0:
                if self.store.shared or not self.store.server_time:
                    self._step(worker.machine, random)
            case 1:
                self._end(worker, cancelled=False)
            case 2:
                self._end(worker, cancelled=True)
            case 3:
                self._freeze(worker, random.choice((0.3, 1.1, 2.5)) * self.lease.total_seconds())
            case 4:
                self._kill(worker)

    def _step(self, machine: str, random: Random) -> None:
        if self.store.server_time or self.skewed:
            self.clocks[machine].wrong_by = timedelta(seconds=random.uniform(-30, 30))

    def _freeze(self, worker: _Worker, seconds: float) -> None:
        def thaw() -> None:
            if not worker.ended and worker.thaw is thaw:
                worker.thaw = None
                self.log.append(Thawed(self.log.now, worker.name))
                self.loop.thaw(worker.name)

        if worker.thaw is not None:
            return
        worker.thaw = thaw
        self.loop.freeze(worker.name)
        self.log.append(Frozen(self.log.now, worker.name))
        self.loop.call_later(seconds, thaw)

    def _cut(self, random: Random) -> None:
        """The store, or the way to it, fails for a while; or refuses one row."""
        rows = self.store.rows
        if rows and random.random() < 0.3:
            self.faults.refused.add(random.choice(rows).key)
            return
        begin = self.log.now
        partitions = sorted({row.key.partition for row in rows})
        limits: dict[str, str] = random.choice(
            (
                {},
                {"method": random.choice(("claim", "settle"))},
                {"partition": random.choice(partitions or ["static"])},
                {"machine": random.choice(self.machines)},
            )
        )
        length = random.choice((0.2, 2.0, 8.0))
        self.faults.outages.append(Outage(begin, begin + length, random.choice(("refused", "refused", "hung", "lost")), **limits))


def void(_: object) -> None:
    return None
