"""What a process does with tasks short of running them: schedule, look up, list, pause, remove.

No engine: all that a web process needs.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyncette.checks import check_count, check_free_arguments
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.scheduled import ScheduledTask
from pyncette.store.contract import Key, Registration, Repository, SupportsPause
from pyncette.tasks import TEMPLATE_OPTIONS, Instance, StaticTask, Task, Template

__all__ = ["Client", "TaskPage"]

_INSTANCE_OPTIONS = ("schedule", "interval", "execute_at", "timezone", "force")
_OF_THE_TEMPLATE = dict.fromkeys(TEMPLATE_OPTIONS, "pass it where the template is declared")
#: Rows that are sent to the store in one call.
_BULK = 1000
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

    def _announce(self, partition: str, ready_at: datetime) -> None:
        """A row of ``partition`` is known to be ready at ``ready_at``: for those who also run."""

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
        check_free_arguments(args, _INSTANCE_OPTIONS, f"instance {instance_name!r}", _OF_THE_TEMPLATE)
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
                self._announce(registration.key.partition, registration.target.execute_after)

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
        self._announce(key.partition, self.clock.now())
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
