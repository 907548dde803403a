"""What a process does with tasks short of running them: schedule, look up, list, pause, remove.

No engine: all that a web process needs.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyncette.checks import check_count, check_free_arguments
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, PyncetteError, RepositoryError
from pyncette.registering import Registrar
from pyncette.scheduled import ScheduledTask
from pyncette.store.contract import Key, Registration, Repository, SupportsPause, SupportsServerTime
from pyncette.tasks import TEMPLATE_OPTIONS, Instance, StaticTask, Task, TaskInstance, Template

__all__ = ["Client", "TaskPage"]

logger = logging.getLogger(__name__)

_INSTANCE_OPTIONS = ("schedule", "interval", "execute_at", "timezone", "force")
_OF_THE_TEMPLATE = dict.fromkeys(TEMPLATE_OPTIONS, "pass it where the template is declared")
#: Instances that are checked before other coroutines have their turn.
_SLICE = 200
#: After how many seconds the store's clock is asked for again.
_ALIGN_AFTER = 30.0
#: The number of a partition, and what a store gave, which is no longer than the longest name is in hexadecimal.
_TOKEN = re.compile(r"([0-9]{1,9}):([^\0\ud800-\udfff]{0,2000})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A part of the instances of a template."""

    tasks: Sequence[ScheduledTask]
    #: To be passed to the next call; None on the last page.
    continuation_token: str | None


class Client:
    """Schedules and looks up the tasks of one application in its open store."""

    def __init__(self, repository: Repository, clock: AlignedClock, tasks: Sequence[Task]) -> None:
        #: The open store.
        self.repository = repository
        #: The clock of the process, aligned with the store's.
        self.clock = clock
        #: All that the application had declared when this was made, in order.
        self.tasks = tuple(tasks)
        self._tasks = {id(task) for task in tasks}
        self._loop = asyncio.get_running_loop()
        self._aligning: asyncio.Task[None] | None = None
        # Once, for to look whether somebody has the methods of a protocol costs more than all else in a call.
        self._server_time = repository.server_time if isinstance(repository, SupportsServerTime) else None
        self._registrar = Registrar(repository, clock, self._stored)

    async def close_registrar(self) -> None:
        """Refuse what waits to be registered, and wait for what is on its way: the store is about to be closed."""
        await self._registrar.close()

    def _stored(self, registration: Registration) -> None:
        self._announce(registration.key.partition, registration.target.execute_after)

    def _announce(self, partition: str, ready_at: datetime) -> None:
        """A row of ``partition`` is known to be ready at ``ready_at``: for those who also run."""

    async def schedule_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        schedule: str | None = None,
        interval: timedelta | None = None,
        execute_at: datetime | None = None,
        timezone: str | None = None,
        force: bool = False,
        args: Mapping[str, Any] | None = None,
        **more_args: Any,
    ) -> None:
        """Store an instance of the template ``task`` under ``instance_name``, with exactly one of the three schedules.

        :param schedule: a cron expression of five fields, or six with seconds last.
        :param interval: the time between two occurrences; the first is one interval from now.
        :param execute_at: the only occurrence; in the past: at once. A naive one is local time, or wall time in ``timezone``.
        :param timezone: in which the expression is meant, and in which the body sees ``scheduled_at``; UTC by default.
        :param force: start the schedule anew even if it is the one stored, and let a run on its way lose its lease.
        :param args: arguments for the body, stored as JSON; they take precedence over the template's. Any name will do here.
        :param more_args: the same, for names that are none of the options of this method, nor close to one.

        An instance that is stored already gets the new arguments; its next time changes only if the schedule does. When this
        returns, the instance is stored for good. Safe to repeat when it raised a TransientRepositoryError.
        Raises ConfigurationError for anything wrong with the arguments; nothing is changed then.
        """
        template, instance_name = self._instance(task, instance_name)
        check_free_arguments(more_args, _INSTANCE_OPTIONS, f"instance {instance_name!r}", _OF_THE_TEMPLATE)
        if args is not None and isinstance(args, Mapping):
            twice = sorted(more_args.keys() & args.keys())
            if twice:
                raise ConfigurationError(f"The argument {twice[0]!r} of instance {instance_name!r} is given twice; give it once")
            args = {**args, **more_args}
        instance = Instance(
            name=instance_name,
            schedule=schedule,
            interval=interval,
            execute_at=execute_at,
            timezone=timezone,
            args=more_args if args is None else args,
        )
        await self.schedule_tasks(template, [instance], force=force)

    async def schedule_tasks(self, task: Task, instances: Iterable[Instance], *, force: bool = False) -> None:
        """Store many instances of the template ``task``, as :meth:`schedule_task` does one.

        All are checked before the first is stored; so they are kept in memory until then, also those of a generator. Other coroutines
        run meanwhile, however many there are.

        If it raises a RepositoryError, some may be stored; it is safe to repeat.
        """
        owner = self._template(task)
        now = await self._now()
        registrations: dict[Key, Registration] = {}
        for number, instance in enumerate(instances, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            if not isinstance(instance, Instance):
                raise ConfigurationError(f"An instance of {owner.name!r} is given as {instance!r}; pass an Instance(name=...)")
            registration = owner.registration(instance, now)
            if registration.key in registrations:
                raise ConfigurationError(f"The instance {instance.name!r} of {owner.name!r} is given twice; give each once")
            registrations[registration.key] = registration
        await self._registrar.register(list(registrations.values()), force=force)

    async def unschedule_task(self, task: Task | TaskInstance, instance_name: str | None = None) -> bool:
        """Remove an instance; whether there was one. A run on its way goes on to its end."""
        template, name = self._instance(task, instance_name)
        return (await self.repository.unregister(await self._now(), [template.key(name)]))[0]

    async def get_task(self, task: Task | TaskInstance, instance_name: str | None = None) -> ScheduledTask | None:
        """What is stored of an instance, or of a static task; None if there is nothing."""
        row = (await self.repository.get([self._key(task, instance_name)]))[0]
        return None if row is None else ScheduledTask(task.template, row)

    async def list_tasks(self, task: Task, *, limit: int = 100, continuation_token: str | None = None) -> TaskPage:
        """The instances of the template ``task``, page by page: up to ``limit`` from where ``continuation_token`` left off.

        Each instance that is there throughout appears; one that is scheduled or removed meanwhile may.
        """
        owner = self._template(task)
        check_count(limit, "limit")
        partitions = owner.all_partitions()
        index, token = _parse_token(continuation_token, len(partitions))
        tasks: list[ScheduledTask] = []
        while True:
            page = await self.repository.list(partitions[index], limit=limit - len(tasks), token=token)
            tasks += [ScheduledTask(owner, row) for row in page.rows]
            token = page.token
            if token is None:
                index += 1
            if index == len(partitions):
                return TaskPage(tasks, None)
            if len(tasks) >= limit:
                return TaskPage(tasks, f"{index}:{token or ''}")

    async def pause_task(self, task: Task | TaskInstance, instance_name: str | None = None) -> bool:
        """Keep an instance or a static task from running until :meth:`resume_task`; whether there is one.

        A run on its way goes on. Raises RepositoryError where the store can't pause.
        """
        return (await self._pausable().pause(await self._now(), [self._key(task, instance_name)]))[0]

    async def resume_task(self, task: Task | TaskInstance, instance_name: str | None = None) -> bool:
        """Let a paused or failed task run again, at once if it became due meanwhile; whether there is one."""
        key = self._key(task, instance_name)
        found = (await self._pausable().resume(await self._now(), [key]))[0]
        self._announce(key.partition, self.clock.now())
        return found

    def _pausable(self) -> SupportsPause:
        if not isinstance(self.repository, SupportsPause):
            raise RepositoryError(f"{type(self.repository).__name__} can't pause tasks; unschedule the task instead")
        return self.repository

    def _key(self, task: Task | TaskInstance, instance_name: str | None) -> Key:
        if isinstance(task, StaticTask):
            self._check_loop()
            if instance_name is not None:
                raise ConfigurationError(f"Task {task.name!r} is static and has no instance {instance_name!r}; leave the name out")
            return task.key
        template, name = self._instance(task, instance_name)
        return template.key(name)

    def _instance(self, task: Task | TaskInstance, instance_name: str | None) -> tuple[Template, str]:
        """The template and the name of an instance, which is given by both, or as what ``context.task`` is in its body."""
        template = self._template(task.template if isinstance(task, TaskInstance) else task)
        if not isinstance(task, TaskInstance):
            if instance_name is None:
                raise ConfigurationError(f"Task {template.name!r} is a template; pass the name of the instance, too")
            return template, instance_name
        if instance_name not in (None, task.name):
            raise ConfigurationError(
                f"{task} is an instance already, and not {instance_name!r}; pass {template.name!r} with that name"
            )
        return template, task.name

    async def _now(self) -> datetime:
        """The time of the store: asked for if it is long since, as nobody else may in a process that only schedules."""
        self._check_loop()
        if self._server_time is not None and self.clock.aligned_for > _ALIGN_AFTER:
            if self._aligning is None or self._aligning.done():
                self._aligning = asyncio.create_task(self._align(self._server_time), name="pyncette-align")
            await asyncio.shield(self._aligning)
        return self.clock.now()

    async def _align(self, server_time: Callable[[], Awaitable[datetime]]) -> None:
        try:
            await self.clock.align(server_time)
        except RepositoryError as error:
            logger.debug("The store's clock could not be read; what is known of it is used: %s", error)

    def _check_loop(self) -> None:
        """Raise PyncetteError in another event loop than the one the store was opened in: its connections work in no other."""
        if asyncio.get_running_loop() is not self._loop:
            raise PyncetteError(
                "This application was created in another event loop; keep a reference to that loop, and call from here: "
                "asyncio.run_coroutine_threadsafe(app_context.schedule_task(...), loop)"
            )

    def _template(self, task: Task | TaskInstance) -> Template:
        self._check_loop()
        if isinstance(task, TaskInstance):
            task = task.template
        if not isinstance(task, Template):
            name = getattr(task, "name", None) or getattr(task, "__name__", task)
            raise ConfigurationError(f"{name!r} has no instances; declare it with @app.dynamic_task() or @app.partitioned_task()")
        if id(task) not in self._tasks:
            raise ConfigurationError(
                f"The template {task.name!r} is not known here; declare it with this application, before create() or run()"
            )
        return task


def _parse_token(token: str | None, partition_count: int) -> tuple[int, str | None]:
    if token is None:
        return 0, None
    parts = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if parts is None or int(parts[1]) >= partition_count:
        raise ConfigurationError(f"{str(token)[:100]!r} is not a continuation token of this template; pass that of the page before")
    return int(parts[1]), parts[2] or None
