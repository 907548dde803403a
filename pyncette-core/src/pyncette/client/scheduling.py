"""Scheduling instances of templates, and removing them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from pyncette.audit import audit, check_by
from pyncette.checks import check_free_arguments
from pyncette.client.base import Opened
from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError
from pyncette.instances import Instance
from pyncette.registering import Registrar, earliest
from pyncette.store.contract import Key, Registration, Repository
from pyncette.tasks import TEMPLATE_OPTIONS, StaticTask, Task, TaskInstance, Template

__all__ = ["Scheduling"]

_INSTANCE_OPTIONS = (*(each.name for each in fields(Instance) if each.name not in ("name", "args")), "force", "by")
_OF_THE_TEMPLATE = dict.fromkeys(TEMPLATE_OPTIONS, "pass it where the template is declared")
#: How many instances are checked before other coroutines get a turn.
_SLICE = 200


class Scheduling(Opened):
    """The calls that create and remove instances."""

    def __init__(self, repository: Repository, clock: AlignedClock, tasks: Sequence[Task], **options: Any) -> None:
        super().__init__(repository, clock, tasks, **options)
        self._registrar = Registrar(repository, clock, self._stored)

    async def close_registrar(self) -> None:
        """Refuse waiting registrations, and wait for those in progress, before the store is closed."""
        self._closed = True
        await self._registrar.close()
        await self._announcer.close()

    def _stored(self, registrations: Sequence[Registration]) -> None:
        if len(registrations) == 1:  # as for most calls
            self._announce(registrations[0].key.partition, registrations[0].target.execute_after)
            return
        for partition, ready_at, count in earliest(registrations):
            self._announce(partition, ready_at, count)

    async def schedule_task(
        self,
        /,
        task: Template | TaskInstance,
        instance_name: str | None = None,
        *,
        schedule: str | None = None,
        interval: timedelta | None = None,
        execute_at: datetime | None = None,
        rrule: str | None = None,
        timezone: str | None = None,
        jitter: timedelta | None = None,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        max_runs: int | None = None,
        force: bool = False,
        args: Mapping[str, Any] | None = None,
        by: str | None = None,
        **more_args: Any,
    ) -> None:
        """Store an instance of the template ``task`` under ``instance_name``, with exactly one of the four schedules.

        :param schedule: a cron expression of five fields, or six with seconds last. ``H`` is a number derived from the
            instance's name.
        :param interval: the time between two occurrences; the first is one interval from now, or at ``start_at``.
        :param execute_at: the time of the only occurrence; if it is in the past, it runs at once. A naive one is wall time in
            ``timezone``, or else local time.
        :param rrule: a recurrence rule of RFC 5545, such as ``FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17``, see :class:`pyncette.schedule.RRule`.
        :param timezone: the time zone of the expression, and of the ``scheduled_at`` that the body sees; UTC by default.
        :param jitter: delay each run by a part of this, which is the same for each attempt and in each process.
        :param start_at: no occurrence comes before it. May be naive, like ``execute_at``.
        :param end_at: no occurrence comes after it. May be naive, like ``execute_at``.
        :param max_runs: remove the instance after this many runs, counted from when this schedule was stored.
        :param force: restart the schedule even if it is the same as the stored one, and take the lease from a run in progress.
        :param args: arguments for the body, stored as JSON; they take precedence over the template's. They may have any name.
        :param by: who schedules it, for the log ``pyncette.audit``.
        :param more_args: the same, for names that are not options of this method, nor close to one.

        An instance that is already stored gets the new arguments; its next time changes only if the schedule does. When this
        returns, the instance is stored durably. You can safely repeat a call that raised a TransientRepositoryError. Raises
        ConfigurationError, and changes nothing, if an argument is wrong.
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
            rrule=rrule,
            timezone=timezone,
            jitter=jitter,
            start_at=start_at,
            end_at=end_at,
            max_runs=max_runs,
            args=more_args if args is None else args,
        )
        await self.schedule_tasks(template, [instance], force=force, by=by)

    async def schedule_tasks(
        self, task: Template, instances: Iterable[Instance], *, force: bool = False, by: str | None = None
    ) -> None:
        """Store many instances of the template ``task``, as :meth:`schedule_task` does one.

        All are checked before the first is stored, so they are all kept in memory, even those from a generator. Other
        coroutines run meanwhile.

        If it raises a RepositoryError, some may be stored; you can safely repeat the call.
        """
        owner, by = self._template(task), check_by(by)
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
        if len(registrations) == 1:
            [key] = registrations
            audit("schedule", owner.name, key.name, by=by)
        elif registrations:
            audit("schedule", owner.name, by=by, count=len(registrations))
        if by is not None and registrations:  # programs do this thousands of times
            [key, *others] = registrations
            await self._remember("schedule", owner, None if others else key, by=by, count=len(registrations))

    async def unschedule_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        extra_run: str | None = None,
        by: str | None = None,
    ) -> bool:
        """Remove an instance. Returns whether there was one. A run in progress continues to its end.

        :param extra_run: remove this extra run instead of the instance, see :attr:`ScheduledTask.extra_run`. The task may then
            be a static one.
        :param by: who removes it, for the log ``pyncette.audit``.
        """
        if extra_run is None:
            self._instance(task, instance_name)  # refuses static tasks
        origin, by = self._key(task, instance_name), check_by(by)
        [found] = await self.repository.unregister(await self._now(), [self._key(task, instance_name, extra_run)])
        if found:
            instance = None if isinstance(task, StaticTask) else origin.name
            audit("unschedule", task.template.name, instance, by=by, extra_run=extra_run)
            if by is not None:
                await self._remember("unschedule", task, origin, by=by)
        return found
