"""Calls for operators: retry what was given up, give an instance another schedule, pause a whole template."""

from collections.abc import Callable
from datetime import datetime, timedelta

from pyncette import partitions
from pyncette.audit import audit, check_by
from pyncette.client.changing import Changing, at_resumption, memo_of_pause, memo_of_resumption, names
from pyncette.client.scheduling import Scheduling
from pyncette.errors import ConfigurationError
from pyncette.extra import bell
from pyncette.instances import Instance
from pyncette.layout import agree_on_layouts
from pyncette.policies import CatchUp
from pyncette.schedules.rulewords import zone_of
from pyncette.schedules.text import parse
from pyncette.store.contract import Key, State
from pyncette.store.paging import pages
from pyncette.tasks import StaticTask, Task, TaskInstance, Template, stored_arguments

__all__ = ["Operating"]


class Operating(Scheduling, Changing):
    """The calls of operators."""

    async def retry_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        extra_run: str | None = None,
        by: str | None = None,
    ) -> bool:
        """Run a task that was given up again, at once, with all its attempts. Returns whether it had failed; any other task is
        left alone.

        :param extra_run: retry this extra run instead of the task, see :attr:`ScheduledTask.extra_run`.
        :param by: who asked for it, for the log ``pyncette.audit``.
        """
        key, by, pausable = self._key(task, instance_name, extra_run), check_by(by), self._pausable()
        row = (await self.repository.get([key]))[0]
        if row is None or row.state is not State.FAILED or not (await pausable.resume(await self._now(), [key]))[0]:
            return False
        await self._announce_retry(task, key.partition)
        origin = self._key(task, instance_name)
        audit("retry", *names(task, origin), by=by, extra_run=extra_run)
        await self._remember("retry", task, origin, by=by)
        return True

    async def _announce_retry(self, task: Task | TaskInstance, partition: str) -> None:
        self._announce(partition, self.clock.now())
        if isinstance(task, StaticTask) and partition != partitions.STATIC:
            await self._registrar.register([bell(task, self.clock.now())])

    async def retry_tasks(
        self, task: Task, *, progress: Callable[[int], None] = lambda retried: None, by: str | None = None
    ) -> int:
        """Retry all instances of the template ``task`` that were given up, and its failed extra runs. Returns how many.

        Works page by page: what an interrupted call has not reached is unchanged, so you can repeat the call.

        :param progress: called after each page with how many there are so far.
        :param by: who asked for it; for the log ``pyncette.audit``.
        """
        among = [partitions.extra_runs(task.name)] if isinstance(task, StaticTask) else self._template(task).all_partitions()
        by, pausable, retried = check_by(by), self._pausable(), 0
        try:
            for partition in among:
                async for rows in pages(self.repository, partition):
                    failed = [row.key for row in rows if row.state is State.FAILED]
                    if failed:
                        retried += sum(await pausable.resume(await self._now(), failed))
                        await self._announce_retry(task, partition)
                    progress(retried)
        finally:
            if retried:
                audit("retry", task.name, by=by, count=retried)
                await self._remember("retry", task, by=by, count=retried)
        return retried

    async def reschedule_task(
        self,
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
        by: str | None = None,
    ) -> bool:
        """Give an instance another schedule, and keep its arguments. Returns whether there is one. The options are those of
        :meth:`schedule_task`.

        :param timezone: the one of the stored schedule by default. Jitter and bounds are not kept.
        :param by: who asked for it; for the log ``pyncette.audit``.

        May overwrite what somebody else schedules under this name at the same moment. Raises ConfigurationError if the stored
        row can't be read.
        """
        (template, name), by = self._instance(task, instance_name), check_by(by)
        row = (await self.repository.get([template.key(name)]))[0]
        if row is None:
            return False
        if row.state is State.UNREADABLE:
            raise ConfigurationError(f"The stored row of {name!r} {row.error}; schedule it again, or remove it")
        if timezone is None and zone_of(rrule) is None and not (execute_at is not None and execute_at.tzinfo is None):
            timezone = parse(row.schedule).timezone
        instance = Instance(
            name=name,
            schedule=schedule,
            interval=interval,
            execute_at=execute_at,
            rrule=rrule,
            timezone=timezone,
            jitter=jitter,
            start_at=start_at,
            end_at=end_at,
            max_runs=max_runs,
            args=stored_arguments(row.spec),
        )
        await self._registrar.register([template.registration(instance, await self._now())])
        audit("reschedule", template.name, name, by=by)
        await self._remember("reschedule", template, template.key(name), by=by)
        return True

    # --- a whole template -------------------------------------------------------------------------------------------------

    async def pause_template(self, task: Template, *, note: str | None = None, by: str | None = None) -> None:
        """Start no more runs of any instance of the template ``task``, in any process, until :meth:`resume_template`.

        Running processes notice within ten seconds, new ones at startup, and this one at once. Runs in progress continue. You
        can still schedule and change instances. Raises RepositoryError if the store can't pause tasks.

        :param note: the reason, shown with the template.
        :param by: who pauses it, for the same, and for the log ``pyncette.audit``.
        """
        note, by, template = check_by(note, "note"), check_by(by), self._template(task)
        pausable = self._pausable()
        await agree_on_layouts(self.repository, self.clock, [template])  # a layout that is not decided yet can't be paused
        key = Key(partitions.LAYOUTS, template.name)
        [row] = await self.repository.get([key])
        now = await self._now()
        await pausable.pause(now, [key], {} if row is None else {key: memo_of_pause(row, note, by, now)})
        self._announce(partitions.LAYOUTS, now)
        audit("pause template", template.name, by=by, note=note)
        await self._remember("pause template", template, by=by, note=note)

    async def resume_template(self, task: Template, *, catch_up: CatchUp | None = None, by: str | None = None) -> bool:
        """Let the instances of the template ``task`` run again. Returns whether it was paused. What became due meanwhile runs
        at once.

        :param catch_up: which of the occurrences that passed during the pause each instance runs after all, see :meth:`resume_task`.
        :param by: who resumes it, for the log ``pyncette.audit``.
        """
        template, by, how = self._template(task), check_by(by), at_resumption(task, catch_up)
        key = Key(partitions.LAYOUTS, template.name)
        row = (await self.repository.get([key]))[0]
        if row is None or row.state is not State.PAUSED:
            return False
        now = await self._now()
        await self._pausable().resume(now, [key], {key: memo_of_resumption(row, now, how)})
        self._announce(partitions.LAYOUTS, now)
        audit("resume template", template.name, by=by)
        await self._remember("resume template", template, by=by)
        return True
