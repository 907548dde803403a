"""What all calls of a client share: the open store, its clock, and how a task and a name lead to a row."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pyncette.announcing import Announcer
from pyncette.checks import is_extra_name
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, PyncetteError, RepositoryError
from pyncette.extra import partition_of_extra_runs
from pyncette.history import remember
from pyncette.partitions import LAYOUTS
from pyncette.store.contract import Key, Repository, SupportsServerTime
from pyncette.tasks import STATIC_PARTITION, StaticTask, Task, TaskInstance, Template
from pyncette.values import shown

__all__ = ["Opened"]

logger: logging.Logger = logging.getLogger(__name__)

#: After how many seconds the store's clock is read again.
_ALIGN_AFTER = 30.0


class Opened:
    """The tasks of one application, and its open store."""

    def __init__(
        self,
        repository: Repository,
        clock: AlignedClock,
        tasks: Sequence[Task],
        *,
        poll_interval: timedelta = timedelta(seconds=1),
    ) -> None:
        #: The open store.
        self.repository = repository
        #: The clock of the process, aligned with the store's.
        self.clock = clock
        #: All tasks that were declared when this client was created, in order.
        self.tasks: tuple[Task, ...] = tuple(tasks)
        self._tasks = {id(task) for task in tasks}
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._aligning: asyncio.Task[None] | None = None
        # Check once: checking for the methods of a protocol costs more than the rest of a call.
        self._server_time = repository.server_time if isinstance(repository, SupportsServerTime) else None
        self._announcer = Announcer(repository, clock, poll_interval)

    def _announce(self, partition: str, ready_at: datetime, count: int = 1) -> None:
        """Called after ``count`` rows of ``partition`` were stored, the first of which is ready at ``ready_at``, to wake workers."""
        self._announcer.announce(partition, ready_at)

    def _key(self, task: Task | TaskInstance, instance_name: str | None, extra_run: str | None = None) -> Key:
        if extra_run is not None:
            if not is_extra_name(extra_run):
                raise ConfigurationError(f"{shown(extra_run)} is not an extra run; pass what ScheduledTask.extra_run says")
            return Key(partition_of_extra_runs(self._key(task, instance_name)), extra_run)
        if isinstance(task, StaticTask):
            self._check_open()
            if instance_name is not None:
                raise ConfigurationError(f"Task {task.name!r} is static and has no instance {instance_name!r}; leave the name out")
            return task.key
        template, name = self._instance(task, instance_name)
        return template.key(name)

    def _instance(self, task: Task | TaskInstance, instance_name: str | None) -> tuple[Template, str]:
        """The template and the name of an instance, given separately, or as the ``context.task`` of its body."""
        template = self._template(task.template if isinstance(task, TaskInstance) else task)
        if not isinstance(task, TaskInstance):
            if instance_name is None:
                raise ConfigurationError(f"Task {template.name!r} is a template; pass the name of the instance as well")
            return template, instance_name
        if instance_name not in (None, task.name):
            raise ConfigurationError(
                f"{task} is already an instance, and not {instance_name!r}; pass {template.name!r} with that name"
            )
        return template, task.name

    async def _now(self) -> datetime:
        """The store's time. Reads its clock if that was long ago, because in a process that only schedules nobody else does."""
        self._check_open()
        if self._server_time is not None and self.clock.aligned_for > _ALIGN_AFTER:
            if self._aligning is None or self._aligning.done():
                self._aligning = asyncio.create_task(self._align(self._server_time), name="pyncette-align")
            await asyncio.shield(self._aligning)
        return self.clock.now()

    async def _align(self, server_time: Callable[[], Awaitable[datetime]]) -> None:
        try:
            await self.clock.align(server_time)
        except RepositoryError as error:
            logger.debug("The store's clock could not be read; using its last known offset: %s", error)

    async def _remember(
        self, action: str, task: Task | TaskInstance, key: Key | None = None, *, by: str | None, **more: Any
    ) -> None:
        """Record a change in the history of ``task``, if it has one: for ``key``, or for all rows."""
        owner = task.template
        if key is None or key.partition == LAYOUTS:
            key = Key(owner.all_partitions()[0], "") if isinstance(owner, Template) else Key(STATIC_PARTITION, owner.name)
        await remember(self.repository, key, self.clock.now(), owner.history, action, by, **more)

    def _check_open(self) -> None:
        """Raise PyncetteError if the store is closed, or was opened in another event loop, where its connections don't work."""
        if self._closed:
            raise PyncetteError(
                "The store was closed at the end of the `async with` that opened it; make this call within that block"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise PyncetteError(
                "This application was created in another event loop; keep a reference to that loop, and call from here: "
                "asyncio.run_coroutine_threadsafe(app_context.schedule_task(...), loop)"
            )

    def _template(self, task: Task | TaskInstance) -> Template:
        self._check_open()
        if isinstance(task, TaskInstance):
            task = task.template
        if not isinstance(task, Template):
            name = getattr(task, "name", None) or getattr(task, "__name__", task)
            raise ConfigurationError(f"{name!r} has no instances; declare it with @app.dynamic_task() or @app.partitioned_task()")
        if id(task) not in self._tasks:
            raise ConfigurationError(
                f"The template {task.name!r} does not belong to this application; declare it with this application, before create() or run()"
            )
        return task
