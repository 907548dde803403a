"""The driver of a scenario: starts worker processes, does to them what the scenario says, and asks for the verdict.

Only processes that were started here are ever sent a signal.
"""

import asyncio
import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pyncette import Instance, Pyncette, PyncetteContext
from pyncette.backends import from_url
from pyncette.clock import from_microseconds, to_microseconds
from pyncette.repository import Row, SupportsServerTime, pages
from pyncette.task import STATIC_PARTITION, Template
from pyncette_conformance.faults.application import build
from pyncette_conformance.faults.checker import Category, Report, Violation, check, pending
from pyncette_conformance.faults.history import FOREVER, Occurrence
from pyncette_conformance.faults.oracle import Every, Once, Schedule, text_of
from pyncette_conformance.faults.plan import GENERATION, Plan
from pyncette_conformance.faults.runlog import Event, LogReader, RunLog, What

__all__ = ["Cluster", "Worker", "microseconds"]

T = TypeVar("T")

#: How often the log is looked at (seconds).
_GLANCE = 0.05
_LOOK = 0.3
#: How far off workers are (seconds) that go by the clock of the store, which a message under way tells them.
_ALIGNMENT = 0.05


def microseconds(seconds_from_now: float = 0.0) -> int:
    """An instant of the machine's clock, as the log has them."""
    return time.time_ns() // 1000 + round(seconds_from_now * 1e6)


@dataclass(slots=True, eq=False)
class Worker:
    """A process that was started by a :class:`Cluster`."""

    label: str
    process: subprocess.Popen[bytes]
    output: Path
    expected_to_end: bool = False
    reported: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None


class Cluster:
    """The processes, the log and the store of one scenario. An asynchronous context manager, which leaves no process behind.

    :param url: of the store. What is in it of other scenarios must not be in the plan's partitions.
    :param directory: for the plan, the log and the output of the workers; an empty one.
    :param worker_url: where the workers reach the store, if that is another way.
    """

    def __init__(
        self, url: str, plan: Plan, directory: Path, *, worker_url: str | None = None, worker_options: Sequence[str] = ()
    ) -> None:
        self.url = url
        self._worker_url = worker_url or url
        self.plan = plan
        self.directory = directory
        self.log: RunLog = RunLog(directory / "run.log")
        self.workers: list[Worker] = []
        self._options = worker_options
        self._reader = LogReader(directory / "run.log")
        self._numbers = itertools.count(1)
        self._generations = itertools.count(1)
        self._began = time.monotonic()
        self._violations: list[Violation] = []
        plan.write(directory / "plan.json")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self.workers:
            if worker.running:
                worker.process.kill()
                worker.process.send_signal(signal.SIGCONT)
            worker.process.wait()
        self.log.close()

    # --- processes --------------------------------------------------------------------------------------------------

    def spawn(self, *options: str) -> Worker:
        """Start a worker with further ``options`` of its command line."""
        number = next(self._numbers)
        output = self.directory / f"worker-{number}.out"
        command = [sys.executable, "-m", "pyncette_conformance.faults.worker", "--url", self._worker_url, "--seed", str(number)]
        command += ["--plan", str(self.directory / "plan.json"), "--log", str(self.directory / "run.log"), *self._options, *options]
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        worker = Worker(f"worker {number}", process, output)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """kill -9, also if the process is stopped."""
        worker.expected_to_end = True
        self.log.write(What.KILL, target=worker.pid)
        worker.process.kill()
        worker.process.wait()

    def stop(self, worker: Worker) -> None:
        """SIGSTOP: the process stands still, and does not notice."""
        self.log.write(What.STOP, target=worker.pid)
        worker.process.send_signal(signal.SIGSTOP)

    def cont(self, worker: Worker) -> None:
        """SIGCONT, after :meth:`stop` or after the worker has stopped itself at a failpoint."""
        self.log.write(What.CONT, target=worker.pid)
        worker.process.send_signal(signal.SIGCONT)

    async def terminate(self, *workers: Worker, timeout: float = 30.0) -> float:
        """SIGTERM; the seconds until all of ``workers`` have exited. One that does not is killed, which is a violation."""
        began = time.monotonic()
        for worker in workers:
            if worker.running:
                worker.expected_to_end = True
                self.log.write(What.TERM, target=worker.pid)
                worker.process.terminate()
        try:
            async with asyncio.timeout(timeout):
                while any(worker.running for worker in workers):  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            for worker in workers:
                if worker.running:
                    self._violate(Category.ORDER, "I12", f"{worker.label} did not exit within {timeout:.1f} s of SIGTERM")
                    self.kill(worker)
        for worker in workers:
            if worker.process.returncode not in (0, -signal.SIGKILL):
                self._violate(Category.ORDER, "I12", f"{worker.label} exited with {worker.process.returncode}{_tail(worker)}")
        return time.monotonic() - began

    async def until_up(self, *workers: Worker, timeout: float = 60.0) -> None:
        """Wait until each of ``workers`` has polled once."""
        await self.until(
            lambda events: {w.pid for w in workers} <= {e.pid for e in events if e.what is What.UP}, timeout, "all are up"
        )

    async def until(self, condition: Callable[[Sequence[Event]], bool], timeout: float, what: str) -> None:
        """Wait until the log fulfils ``condition``; raises AssertionError, with what the workers printed, if it never does."""
        await self.until_some(lambda events: condition(events) or None, timeout, what)

    async def until_some(self, find: Callable[[Sequence[Event]], T | None], timeout: float, what: str) -> T:
        """Wait until ``find`` finds something in the log, and return that; raises as :meth:`until`."""
        try:
            async with asyncio.timeout(timeout):
                while (found := find(self.events())) is None:
                    await asyncio.sleep(_GLANCE)
                    if self._look_for_crashes():
                        raise AssertionError(f"{self._violations[-1]}, before {what}")
                return found
        except TimeoutError:
            raise AssertionError(f"It did not happen within {timeout} s that {what}" + "".join(map(_tail, self.workers))) from None

    def _look_for_crashes(self) -> bool:
        """Whether a worker has ended that nobody told to, for all that is known."""
        crashed = False
        for worker in self.workers:
            if not worker.reported and not worker.running and not worker.expected_to_end:
                worker.reported = True
                if not self._killed_itself(worker):
                    crashed = True
                    self._violate(Category.ORDER, "I10", f"{worker.label} exited with {worker.process.returncode}{_tail(worker)}")
        return crashed

    def _killed_itself(self, worker: Worker) -> bool:
        return any(e.what is What.FAULT and e.pid == worker.pid and e.outcome == "kill" for e in self.events())

    def _violate(self, category: Category, invariant: str, message: str) -> None:
        self._violations.append(Violation(category, invariant, message))

    def events(self) -> Sequence[Event]:
        """The log so far."""
        return self._reader.read()

    def output(self, text: str) -> int:
        """In how many lines of the workers' output ``text`` occurs."""
        return sum(text in line for worker in self.workers for line in worker.output.read_text(errors="replace").splitlines())

    # --- schedules --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def app(self) -> AsyncIterator["Driver"]:
        """The scenario's application without its engine: to schedule instances."""
        app = build(self.url, self.plan, self.log)
        async with app.create() as app_context:
            yield Driver(app, app_context, self.log, self._generations)

    async def rows(self) -> list[Row]:
        """All that the store holds of the plan's tasks."""
        found: list[Row] = []
        app = build(self.url, self.plan, self.log)
        async with app.create() as app_context:
            partitions = [p for task in app.tasks if isinstance(task, Template) for p in task.all_partitions()]
            for partition in (STATIC_PARTITION, *partitions):
                found += [row async for page in pages(app_context.repository, partition, limit=500) for row in page]
        return found

    # --- verdict ----------------------------------------------------------------------------------------------------

    async def until_done(self, horizon: int, timeout: float, ignore: Collection[str] = ()) -> None:
        """Wait until everything due by ``horizon`` has run, or ``timeout`` seconds beyond that; missing runs are reported later."""
        await asyncio.sleep(max(0.0, (horizon - microseconds()) / 1e6))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    began = time.monotonic()
                    missed, unsettled = pending(self.plan, self.events(), horizon)
                    if all(each.name in ignore for each in missed) and await self._settled(unsettled):
                        return
                    self._look_for_crashes()
                    # The workers need the processor more than the one who waits for them.
                    await asyncio.sleep(max(_LOOK, 4 * (time.monotonic() - began)))

    async def _settled(self, occurrences: Sequence[Occurrence]) -> bool:
        """Whether the store has gone on from all of ``occurrences``, whose workers may have died before they heard of it."""
        if not occurrences:
            return True
        stored = {row.key.name: to_microseconds(row.occurrence) for row in await self.rows()}
        return all(stored.get(each.name, FOREVER) > each.at for each in occurrences)

    async def verdict(
        self,
        title: str,
        horizon: int,
        *,
        drain: float = 30.0,
        clock_error: float = 0.0,
        ignore: Collection[str] = (),
        notes: str = "",
        quiet: bool = False,
    ) -> Report:
        """Stop all workers, and judge; with ``quiet``, no worker may have logged an error."""
        self._look_for_crashes()
        await self.terminate(*(worker for worker in self.workers if worker.running), timeout=drain)
        rows = await self.rows()
        async with from_url(self.url)() as repository:
            if isinstance(repository, SupportsServerTime):
                clock_error = max(clock_error, _ALIGNMENT)
        report = check(self.plan, self.events(), horizon, rows=rows, clock_error=clock_error, ignore=ignore)
        for worker in self.workers if quiet else ():
            if any(
                " ERROR " in line or line.startswith("Traceback") for line in worker.output.read_text(errors="replace").splitlines()
            ):
                self._violate(Category.ORDER, "I10", f"{worker.label} logged an error{_tail(worker)}")
        report.violations += self._violations
        if self._reader.torn > sum(event.what is What.KILL for event in self.events()):
            report.violations.append(Violation(Category.ORDER, "-", f"{self._reader.torn} lines of the log can't be read"))
        report.title, report.notes, report.seconds = title, notes, time.monotonic() - self._began
        return report


class Driver:
    """Schedules instances, and logs each before and after the call."""

    def __init__(self, app: Pyncette, app_context: PyncetteContext, log: RunLog, generations: "itertools.count[int]") -> None:
        self.app_context = app_context
        self._tasks = {task.name: task for task in app.tasks if isinstance(task, Template)}
        self._log = log
        self._generations = generations

    async def schedule(self, template: str, schedules: Mapping[str, Schedule], *, force: bool = False, **args: Any) -> None:
        """Schedule instances by their names, each as a new generation, with further ``args`` for the bodies."""
        generation = next(self._generations)
        instances = [_instance(name, schedule, {**args, GENERATION: generation}) for name, schedule in schedules.items()]
        self._record(What.SCHEDULE, template, schedules, generation, ok=False)
        await self.app_context.schedule_tasks(self._tasks[template], instances, force=force)
        self._record(What.SCHEDULE, template, schedules, generation, ok=True)

    async def unschedule(self, template: str, names: Iterable[str]) -> None:
        """Remove instances."""
        for name in names:
            self._log.write(What.UNSCHEDULE, name=name, ok=False)
            await self.app_context.unschedule_task(self._tasks[template], name)
            self._log.write(What.UNSCHEDULE, name=name, ok=True)

    def _record(self, what: What, template: str, schedules: Mapping[str, Schedule], generation: int, *, ok: bool) -> None:
        self._log.write_all(
            self._log.event(what, name=name, generation=generation, kind=text_of(schedule), note=template, ok=ok)
            for name, schedule in schedules.items()
        )


def _instance(name: str, schedule: Schedule, args: dict[str, Any]) -> Instance:
    match schedule:
        case Once(at):
            return Instance(name=name, execute_at=from_microseconds(at), args=args)
        case Every(period):
            return Instance(name=name, interval=timedelta(microseconds=period), args=args)


def _tail(worker: Worker) -> str:
    lines = worker.output.read_text(errors="replace").splitlines()[-15:]
    return f"\n--- {worker.label} (pid {worker.pid}) printed:\n" + "\n".join(lines) if lines else ""
