"""A running application: a client that also runs tasks."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pyncette.arrival import compare_static_tasks
from pyncette.checks import check_attribute_name
from pyncette.client import Client
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, PyncetteError
from pyncette.identity import new_worker_id
from pyncette.store.contract import Repository
from pyncette.tasks import StaticTask, Task, settled
from pyncette.undeclared import warn_of_undeclared
from pyncette.waiting import to_the_end
from pyncette.worker.execution import Execution
from pyncette.worker.garbage import seldom_collected
from pyncette.worker.loop import Engine
from pyncette.worker.settings import Settings
from pyncette.worker.threads import Threads
from pyncette.workers import Worker

__all__ = ["PyncetteContext"]

logger: logging.Logger = logging.getLogger(__name__)


class PyncetteContext(Client):
    """A running application, as :meth:`Pyncette.create` opens it: with its store open and its fixtures set up."""

    def __init__(
        self,
        repository: Repository,
        clock: AlignedClock,
        settings: Settings,
        tasks: Sequence[Task],
        invoke: "Callable[[PyncetteContext, Execution], Awaitable[Any]]",
        *,
        reserved: Iterable[str] = (),
        fixtures: Iterable[str] = (),
        store: str = "",
    ) -> None:
        super().__init__(repository, clock, tasks, poll_interval=settings.poll_interval)
        #: The name of the store in the log.
        self._store = store or type(repository).__name__
        self._settings = settings
        #: Fixtures, and values added to the context, by name.
        self.values: dict[str, Any] = {}
        self._reserved = frozenset(reserved)
        self._fixtures = frozenset(fixtures)
        #: The name of this worker in stored and logged runs: ``host:pid:`` and four hexadecimal digits.
        self.worker_id: str = new_worker_id()
        self._engine = Engine(
            functools.partial(invoke, self),
            repository,
            clock,
            settings,
            tasks=tasks,
            worker_id=self.worker_id,
            tell=super()._announce,
        )
        #: Where plain functions run.
        self.threads: Threads = self._engine.threads
        self._poll_interval = settings.poll_interval
        #: Called when the shutdown begins. The surrounding program sets it, to measure the shutdown timeout.
        self.on_shutdown: Callable[[], None] = _nothing
        #: What is being closed after the last body: a fixture, or the store.
        self.leaving: str = ""
        self._ran = False
        self._running: asyncio.Task[Any] | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run tasks until :meth:`shutdown`; returns when the last body has ended and its outcome is stored.

        Cancelling it cancels the bodies, which will run again (AT_LEAST_ONCE). Raises the store's error if it fails at startup;
        later, the store is retried. Can be called only once.
        """
        if self._ran:
            raise PyncetteError("This application context has already run; create another with app.create()")
        self._ran = True
        self._ended.clear()
        self._running = asyncio.current_task()
        looking = asyncio.create_task(warn_of_undeclared(self.repository, self.clock, self.tasks), name="pyncette-undeclared")
        try:
            with settled(self.tasks), seldom_collected():
                self._tell_start()
                static = [task for task in self.tasks if isinstance(task, StaticTask) and task.enabled]
                await compare_static_tasks(self.repository, self.clock, static, self.worker_id)
                await self._engine.run()
        finally:
            looking.cancel()
            self.threads.close()
            self._running = None
            self._ended.set()

    def _tell_start(self) -> None:
        import importlib.metadata  # imported here because it is slow, and most programs that import this package only schedule

        enabled = sum(task.enabled for task in self.tasks)
        settings = self._settings
        logger.info(
            "Running %d task%s on %s with pyncette-core %s: concurrency_limit %d, batch_size %d, poll_interval %s",
            enabled,
            "" if enabled == 1 else "s",
            self._store,
            importlib.metadata.version("pyncette-core"),
            settings.concurrency_limit,
            settings.batch_size,
            settings.poll_interval,
        )

    def shutdown(self) -> None:
        """Start shutting down: nothing more is claimed, and :meth:`run` returns once the running bodies have ended. Returns at
        once; may be called from any task.
        """
        self._engine.stop()
        self.on_shutdown()

    async def close(self) -> None:
        """Shut down and wait until :meth:`run` has returned; done by :meth:`Pyncette.create` at its end.

        Cancelling it cancels the bodies, as cancelling :meth:`run` does, and waits for them to end, because what follows tears
        down what they use.
        """
        self.shutdown()
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            if self._running is not None:
                self._running.cancel()
            await to_the_end(self._ended.wait)  # even if it is cancelled again: a scope of anyio cancels at each await
            raise

    def leave(self, what: str) -> None:
        """Record that ``what`` is being closed now, for the log lines that say what the shutdown is waiting for."""
        self.leaving = what

    @property
    def last_tick(self) -> datetime | None:
        """When the store last answered a poll while no partition was failing; None before that."""
        return self._engine.last_tick

    @property
    def free_slots(self) -> int:
        """How many more bodies could run at this moment."""
        return self._engine.free_slots

    @property
    def stuck(self) -> bool:
        """Whether bodies that have outlasted their leases occupy all slots, so that nothing else can run."""
        return self._engine.stuck

    def running_bodies(self) -> Sequence[str]:
        """The runs in progress, oldest first, each as a line of text: which run, and for how long."""
        return [f"{execution} for {execution.elapsed:.0f} s" for execution in self._engine.running()]

    async def list_workers(self) -> Sequence[Worker]:
        others = [worker for worker in await super().list_workers() if worker.id != self.worker_id]
        return [*([self._engine.presence.worker()] if self.running else []), *others]

    @property
    def poll_interval(self) -> timedelta:
        """The application's ``poll_interval``."""
        return self._poll_interval

    @property
    def running(self) -> bool:
        """Whether :meth:`run` has been called and has not returned."""
        return self._running is not None

    @property
    def stopping(self) -> bool:
        """Whether the application has stopped claiming: :meth:`run` returns once the running bodies have ended, or has
        returned.
        """
        return self._engine.stopping

    def add_to_context(self, name: str, value: Any) -> None:
        """Make ``value`` available as ``context.name``, replacing any value added under that name before.

        Raises ConfigurationError if the name is not an identifier, or belongs to a fixture or to the context itself.
        """
        check_attribute_name(name, self._reserved)
        if name in self._fixtures:
            raise ConfigurationError(f"There is already a fixture {name!r}; add the value under another name")
        self.values[name] = value

    def _announce(self, partition: str, ready_at: datetime, count: int = 1) -> None:
        self._engine.expect(partition, ready_at)
        if self._announcer.tells and not self._engine.takes(partition, count):
            super()._announce(partition, ready_at, count)


def _nothing() -> None: ...
