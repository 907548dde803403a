"""Extra runs: now, or for times in the past."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pyncette import partitions
from pyncette.audit import audit, check_by
from pyncette.client.changing import names
from pyncette.client.scheduling import Scheduling
from pyncette.clock import to_microseconds
from pyncette.errors import ConfigurationError
from pyncette.extra import MOST, bell, extra_run, occurrences, record_of_backfill
from pyncette.schedules.kinds import Schedule
from pyncette.schedules.text import parse
from pyncette.store.contract import Key, Registration, Row, State
from pyncette.tasks import StaticTask, Task, TaskInstance
from pyncette.values import plain_instant, shown

__all__ = ["Triggering"]

#: How many times are computed before other coroutines get a turn.
_SLICE = 200
_MICROSECOND = timedelta(microseconds=1)
#: How long a backfill is remembered.
_REMEMBERED = timedelta(days=30)


class Triggering(Scheduling):
    """The calls that add extra runs. Each runs the body as the task itself would, with ``context.triggered`` set."""

    async def trigger_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        idempotency_key: str | None = None,
        by: str | None = None,
    ) -> bool:
        """Run a static task or an instance now, in addition to its schedule. Returns whether there is such an instance.

        The schedule does not change: the next regular run comes as usual, and both may run at once. The extra run has the
        arguments that are stored now, whatever changes later, and all options of the task. It runs even if the task is paused
        or is removed meanwhile; it waits only while its template is paused as a whole. Two calls give two runs.

        :param idempotency_key: add nothing while the run of an earlier call with this key is waiting or running.
        :param by: who asked for it; for the log ``pyncette.audit``.
        """
        key, by = self._origin_key(task, instance_name), check_by(by)
        found = await self._origin(task, key)
        if found is None:
            return False
        schedule, row = found
        now = self.clock.now()
        spec = "{}" if row is None else row.spec
        await self._add(task, [extra_run(key, "trigger", schedule.timezone, spec, now, now, idempotency_key)])
        audit("trigger", *names(task, key), by=by)
        await self._remember("trigger", task, key, by=by)
        return True

    async def backfill_task(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        start: datetime,
        end: datetime,
        again: bool = False,
        by: str | None = None,
    ) -> int:
        """Run a static task or an instance once for each time in its schedule from ``start`` up to but not including ``end``.
        Returns how many.

        These are extra runs like those of :meth:`trigger_task`, each with the past time as its ``scheduled_at``. They start in
        order, as slots become free. The schedule is the one stored now. Times from its current occurrence on are left out,
        because those run anyway. Repeating a backfill with the same times and schedule adds nothing and returns 0: for 30 days
        after it was registered in full, and before that for the runs that are still waiting.

        :param start: the first time; aware, like ``end``.
        :param end: not in the future.
        :param again: run them even if they were backfilled before.
        :param by: who asked for it; for the log ``pyncette.audit``.

        Raises ConfigurationError if there is no such instance, or for more than 10,000 runs; nothing is changed then. You can
        safely repeat a call that raised a RepositoryError.
        """
        key, by = self._origin_key(task, instance_name), check_by(by)
        schedule, row, times = await self._times(task, key, start, end)
        record = record_of_backfill(key, schedule.text, plain_instant(start), plain_instant(end))
        if not again and (await self.repository.get([record.key]))[0] is not None:
            return 0
        now, spec = self.clock.now(), "{}" if row is None else row.spec
        # ready one after another, so that they start in order
        runs = [
            extra_run(key, "backfill", schedule.timezone, spec, at, now + number * _MICROSECOND, str(to_microseconds(at)))
            for number, at in enumerate(times)
        ]
        if runs:
            await self._add(task, runs)
            await self._registrar.register([record])
            await self._forget_backfills(now)
            audit("backfill", *names(task, key), by=by, count=len(runs), start=plain_instant(start), end=plain_instant(end))
            await self._remember("backfill", task, key, by=by, count=len(runs), start=start.isoformat(), end=end.isoformat())
        return len(runs)

    async def backfill_times(
        self, task: Task | TaskInstance, instance_name: str | None = None, *, start: datetime, end: datetime
    ) -> Sequence[datetime]:
        """The times for which :meth:`backfill_task` would run the task if it had not been called before, in its time zone."""
        schedule, _, times = await self._times(task, self._origin_key(task, instance_name), start, end)
        return [at.astimezone(schedule.zone) for at in times]

    def _origin_key(self, task: Task | TaskInstance, instance_name: str | None) -> Key:
        key = self._key(task, instance_name)
        if id(task.template) not in self._tasks:
            raise ConfigurationError(
                f"The task {task.name!r} does not belong to this application; declare it with this application, before create() or run()"
            )
        return key

    async def _origin(self, task: Task | TaskInstance, key: Key) -> tuple[Schedule, Row | None] | None:
        """The schedule stored under ``key``, or that of a static task that never started; None if there is none."""
        await self._now()
        row = (await self.repository.get([key]))[0]
        if row is None:
            return (task.schedule, None) if isinstance(task, StaticTask) else None
        if row.state is State.UNREADABLE:
            raise ConfigurationError(f"The stored row of {key.name!r} {row.error}; schedule it again, or remove it")
        return parse(row.schedule), row

    async def _times(
        self, task: Task | TaskInstance, key: Key, start: datetime, end: datetime
    ) -> tuple[Schedule, Row | None, Sequence[datetime]]:
        for name, instant in {"start": start, "end": end}.items():
            if not isinstance(instant, datetime) or instant.utcoffset() is None:
                raise ConfigurationError(f"The {name} of a backfill is {shown(instant)}; pass an aware datetime")
        found = await self._origin(task, key)
        if found is None:
            raise ConfigurationError(f"Task {task.name!r} has no instance {key.name!r} in the store; nothing was changed")
        start, end, now = plain_instant(start), plain_instant(end), self.clock.now()
        if end <= start:
            raise ConfigurationError(f"The end of the backfill, {end}, is not after its start, {start}; swap them")
        if end > now:
            raise ConfigurationError(
                f"The end of the backfill, {end}, is in the future; the schedule runs future occurrences, so end the backfill now or earlier"
            )
        schedule, row = found
        times: list[datetime] = []
        for at in occurrences(schedule, (schedule.first(now) or now) if row is None else row.occurrence, start, end):
            if len(times) == MOST:
                raise ConfigurationError(
                    f"From {start} to {end} there are more than {MOST} runs of {key.name!r}; split the backfill into shorter ones"
                )
            times.append(at.astimezone(UTC))
            if len(times) % _SLICE == 0:
                await asyncio.sleep(0)
        return schedule, row, times

    async def _add(self, task: Task | TaskInstance, runs: Sequence[Registration]) -> None:
        await self._registrar.register(runs)
        if isinstance(task, StaticTask):
            # after the runs, because those who receive the hint must find them
            await self._registrar.register([bell(task, self.clock.now())])

    async def _forget_backfills(self, now: datetime) -> None:
        page = await self.repository.list(partitions.BACKFILLS, limit=100)
        old = [row.key for row in page.rows if row.epoch < to_microseconds(now - _REMEMBERED)]
        if old:
            await self.repository.unregister(now, old)
