"""A running application: scheduling, looking up, running, shutting down."""

import asyncio
import itertools
import keyword
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, PyncetteError, RepositoryError
from pyncette.store.contract import Key, Registration, Repository, SupportsPause, Target
from pyncette.tasks import (
    DynamicTask,
    Instance,
    PartitionedTask,
    ScheduledTask,
    StaticTask,
    Task,
    Template,
    check_count,
    check_free_arguments,
)
from pyncette.worker.execution import Context, Middleware
from pyncette.worker.loop import Engine, Settings

__all__ = ["AppContext", "TaskPage", "check_attribute_name"]

logger = logging.getLogger(__name__)

_INSTANCE_OPTIONS = ("schedule", "interval", "execute_at", "timezone", "force")
#: Rows that are sent to the store in one call.
_BULK = 1000
#: When a row that only remembers something would be due.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A part of the instances of a template."""

    tasks: Sequence[ScheduledTask]
    #: To be passed to the next call; None on the last page.
    continuation_token: str | None


class AppContext:
    """What :meth:`Pyncette.create` gives: an application with its store open and its fixtures set up."""

    def __init__(
        self,
        repository: Repository,
        clock: AlignedClock,
        settings: Settings,
        tasks: Sequence[Task],
        middlewares: Sequence[Middleware],
        fixtures: Iterable[str] = (),
    ) -> None:
        #: The open store.
        self.repository = repository
        #: The clock of the process, aligned with the store's.
        self.clock = clock
        #: Fixtures and what was added to the context, by name.
        self.values: dict[str, Any] = {}
        self._fixtures = frozenset(fixtures)
        #: All that the application had declared when this was made, in order.
        self.tasks = tuple(tasks)
        self._tasks = {id(task) for task in tasks}
        self._engine = Engine(
            self, repository, clock, settings, tasks=[task for task in tasks if task.enabled], middlewares=middlewares
        )
        self._poll_interval = settings.poll_interval
        self._ran = False
        self._running: asyncio.Task[Any] | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run tasks until :meth:`shutdown`; returns when the last body has ended and its outcome is stored.

        Cancelling it cancels the bodies, which will run again (AT_LEAST_ONCE). Raises the store's error if it fails at the
        start; later the store is retried. Can be called once.
        """
        if self._ran:
            raise PyncetteError("This application context has run already; make another with app.create()")
        self._ran = True
        enabled = sum(task.enabled for task in self.tasks)
        logger.info("Running %d task%s", enabled, "" if enabled == 1 else "s")
        self._ended.clear()
        self._running = asyncio.current_task()
        try:
            await self._engine.run()
        finally:
            self._running = None
            self._ended.set()

    def shutdown(self) -> None:
        """Begin to end: nothing more is claimed, and :meth:`run` returns once the running bodies have ended. At once, from any task."""
        self._engine.stop()

    async def close(self) -> None:
        """Shut down and wait until :meth:`run` has returned; done by :meth:`Pyncette.create` at its end.

        Cancelling it cancels the bodies, as cancelling :meth:`run` does, and waits for their end: what comes next tears down what they use.
        """
        self.shutdown()
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            if self._running is not None:
                self._running.cancel()
            await self._ended.wait()
            raise

    @property
    def last_tick(self) -> datetime | None:
        """When the store last answered a poll while no partition was failing; None before that."""
        return self._engine.last_tick

    @property
    def free_slots(self) -> int:
        """How many more bodies could run at this moment."""
        return self._engine.free_slots

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
        """Whether nothing more is claimed: :meth:`run` returns once the running bodies have ended, or has returned."""
        return self._engine.stopping

    def add_to_context(self, name: str, value: Any) -> None:
        """Make ``value`` available as ``context.name``, instead of what was added by that name before.

        Raises ConfigurationError if that name is not an identifier, or is a fixture's or the context's own.
        """
        check_attribute_name(name)
        if name in self._fixtures:
            raise ConfigurationError(f"There is a fixture {name!r} already; add the value under another name")
        self.values[name] = value

    # --- scheduling -------------------------------------------------------------------------------------------------

    async def schedule_task(
        self,
        template: Task,
        instance_name: str,
        /,
        *,
        schedule: str | None = None,
        interval: timedelta | None = None,
        execute_at: datetime | None = None,
        timezone: str | None = None,
        force: bool = False,
        **args: Any,
    ) -> None:
        """Store an instance of ``template`` under ``instance_name``, with exactly one of the three schedules.

        :param schedule: a cron expression of five fields, or six with seconds last.
        :param interval: the time between two occurrences; the first is one interval from now.
        :param execute_at: the only occurrence; in the past: at once. A naive one is local time, or wall time in ``timezone``.
        :param timezone: in which the expression is meant, and in which the body sees ``scheduled_at``; UTC by default.
        :param force: start the schedule anew even if it is the one stored, and let a run on its way lose its lease.
        :param args: arguments for the body, stored as JSON; they take precedence over the template's.

        An instance that is stored already gets the new arguments; its next time changes only if the schedule does. When this
        returns, the instance is stored for good. Safe to repeat when it raised a TransientRepositoryError.
        Raises ConfigurationError for anything wrong with the arguments; nothing is changed then.
        """
        check_free_arguments(args, _INSTANCE_OPTIONS, f"instance {instance_name!r}")
        instance = Instance(
            name=instance_name, schedule=schedule, interval=interval, execute_at=execute_at, timezone=timezone, args=args
        )
        await self.schedule_tasks(template, [instance], force=force)

    async def schedule_tasks(self, template: Task, instances: Iterable[Instance], *, force: bool = False) -> None:
        """Store many instances of ``template``, as :meth:`schedule_task` does one; all are checked before the first is stored.

        If it raises a RepositoryError, some may be stored; it is safe to repeat.
        """
        owner = self._template(template)
        now = self.clock.now()
        registrations: dict[Key, Registration] = {}
        for instance in instances:
            if not isinstance(instance, Instance):
                raise ConfigurationError(f"An instance of {owner.name!r} is given as {instance!r}; pass an Instance(name=...)")
            registration = owner.registration(instance, now)
            if registration.key in registrations:
                raise ConfigurationError(f"The instance {instance.name!r} of {owner.name!r} is given twice; give each once")
            registrations[registration.key] = registration
        pending = iter(registrations.values())
        while batch := list(itertools.islice(pending, _BULK)):
            await self.repository.register(now, batch, force=force)
            for registration in batch:
                self._engine.ready(registration.key.partition, registration.target.execute_after)

    async def unschedule_task(self, template: Task, instance_name: str, /) -> bool:
        """Remove an instance; whether there was one. A run on its way goes on to its end."""
        key = self._template(template).key(instance_name)
        return (await self.repository.unregister(self.clock.now(), [key]))[0]

    async def get_task(self, task: Task, instance_name: str | None = None, /) -> ScheduledTask | None:
        """What is stored of an instance, or of a static task; None if there is nothing."""
        row = (await self.repository.get([self._key(task, instance_name)]))[0]
        return None if row is None else ScheduledTask(task, row)

    async def list_tasks(self, template: Task, /, *, limit: int = 100, continuation_token: str | None = None) -> TaskPage:
        """The instances of ``template``, page by page: up to ``limit`` from where ``continuation_token`` left off.

        Each instance that is there throughout appears; one that is scheduled or removed meanwhile may.
        """
        owner = self._template(template)
        check_count(limit, "limit")
        partitions = owner.all_partitions()
        index, token = _parse_token(continuation_token, len(partitions))
        tasks: list[ScheduledTask] = []
        while True:
            page = await self.repository.list(partitions[index], limit=limit - len(tasks), token=token)
            tasks += [ScheduledTask(template, row) for row in page.rows]
            token = page.token
            if token is None:
                index += 1
            if index == len(partitions):
                return TaskPage(tasks, None)
            if len(tasks) >= limit:
                return TaskPage(tasks, f"{index}:{token or ''}")

    async def pause_task(self, task: Task, instance_name: str | None = None, /) -> bool:
        """Keep an instance or a static task from running until :meth:`resume_task`; whether there is one.

        A run on its way goes on. Raises RepositoryError where the store can't pause.
        """
        return (await self._pausable().pause(self.clock.now(), [self._key(task, instance_name)]))[0]

    async def resume_task(self, task: Task, instance_name: str | None = None, /) -> bool:
        """Let a paused or failed task run again, at once if it became due meanwhile; whether there is one."""
        key = self._key(task, instance_name)
        found = (await self._pausable().resume(self.clock.now(), [key]))[0]
        self._engine.ready(key.partition, self.clock.now())
        return found

    def _pausable(self) -> SupportsPause:
        if not isinstance(self.repository, SupportsPause):
            raise RepositoryError(f"{type(self.repository).__name__} can't pause tasks; unschedule the task instead")
        return self.repository

    def _key(self, task: Task, instance_name: str | None) -> Key:
        if isinstance(task, StaticTask):
            if instance_name is not None:
                raise ConfigurationError(f"Task {task.name!r} is static and has no instance {instance_name!r}; leave the name out")
            return task.key
        template = self._template(task)
        if instance_name is None:
            raise ConfigurationError(f"Task {template.name!r} is a template; pass the name of the instance, too")
        return template.key(instance_name)

    def _template(self, task: Task) -> Template:
        if not isinstance(task, DynamicTask | PartitionedTask):
            name = getattr(task, "name", None) or getattr(task, "__name__", task)
            raise ConfigurationError(f"{name!r} has no instances; declare it with @app.dynamic_task() or @app.partitioned_task()")
        if id(task) not in self._tasks:
            raise ConfigurationError(
                f"The template {task.name!r} is not known here; declare it with this application, before create() or run()"
            )
        return task

    async def check_partition_count(self, template: PartitionedTask) -> None:
        """Refuse another partition count than the stored instances were spread by: they would be looked for elsewhere.

        A count is stored for good once a process had announced it and then saw no other announced. So of processes that start at
        once with different counts, those of one count at most go on.
        """
        partition, own = f"partitions:{template.name}", str(template.partition_count)
        names = await self._names(partition)
        if own in names:
            return
        others = {name for name in names if " " not in name}
        if not others:
            # Each process has an announcement of its own: one that gives way must not take away what another one relies on.
            announcement = Key(partition, f"{own} {uuid.uuid4().hex}")
            try:
                await self._remember(announcement)
                # Twice, as a listing under way may miss both the announcement that goes and the count that comes instead.
                names = await self._names(partition) | await self._names(partition)
                others = {name.partition(" ")[0] for name in names} - {own}
                if not others:
                    await self._remember(Key(partition, own))
            finally:
                await self.repository.unregister(self.clock.now(), [announcement])
        if others:
            counts = ", ".join(sorted(others))
            raise ConfigurationError(
                f"Task {template.name!r} is declared with partition_count={own}, but its instances are stored with {counts}; "
                f"use partition_count={counts}, or schedule the instances anew under another task name"
            )

    async def _names(self, partition: str) -> set[str]:
        names: set[str] = set()
        token = None
        while True:
            page = await self.repository.list(partition, limit=_BULK, token=token)
            names.update(row.key.name for row in page.rows)
            token = page.token
            if token is None:
                return names

    async def _remember(self, key: Key) -> None:
        await self.repository.register(self.clock.now(), [Registration(key, "{}", "never", Target(_NEVER, _NEVER))])


def check_attribute_name(name: object) -> None:
    """Raise ConfigurationError unless ``name`` can be a further attribute of the context."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigurationError(f"{name!r} can't be an attribute of the context; use a Python identifier")
    if name.startswith("_") or name in _RESERVED:
        raise ConfigurationError(f"The name {name!r} is the context's own; choose another")


_RESERVED = {"task", "args", "scheduled_at", "app_context"} | {name for name in dir(Context) if not name.startswith("_")}


def _parse_token(token: str | None, partition_count: int) -> tuple[int, str | None]:
    if token is None:
        return 0, None
    index, colon, inner = token.partition(":")
    if not colon or not index.isdecimal() or int(index) >= partition_count:
        raise ConfigurationError(f"{token!r} is not a continuation token of this template; pass that of the page before")
    return int(index), inner or None
