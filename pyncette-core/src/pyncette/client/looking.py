"""Reading what is stored. Nothing is written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyncette.checks import check_count
from pyncette.client.base import Opened
from pyncette.errors import ConfigurationError
from pyncette.extra import is_extra
from pyncette.partitions import extra_runs as extra_runs_of
from pyncette.scheduled import ScheduledTask
from pyncette.tasks import StaticTask, Task, TaskInstance
from pyncette.workers import Worker, stored_workers

__all__ = ["Looking", "TaskPage"]

#: The number of a partition and the store's token, which is no longer than the longest name in hexadecimal.
_TOKEN = re.compile(r"([0-9]{1,9}):([^\0\ud800-\udfff]{0,2000})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of the instances of a template."""

    tasks: Sequence[ScheduledTask]
    #: Pass this to the next call; None on the last page.
    continuation_token: str | None


class Looking(Opened):
    """The calls that read."""

    async def get_task(
        self, task: Task | TaskInstance, instance_name: str | None = None, *, extra_run: str | None = None
    ) -> ScheduledTask | None:
        """The stored state of an instance or a static task; None if there is none.

        :param extra_run: look up this extra run instead, see :attr:`ScheduledTask.extra_run`.
        """
        row = (await self.repository.get([self._key(task, instance_name, extra_run)]))[0]
        return None if row is None else ScheduledTask(task.template, row)

    async def list_tasks(
        self, task: Task, *, limit: int = 100, continuation_token: str | None = None, extra_runs: bool = False
    ) -> TaskPage:
        """The instances of the template ``task``, page by page: up to ``limit`` from where ``continuation_token`` left off.

        Each instance that exists throughout is listed; one that is scheduled or removed meanwhile may be.

        :param extra_runs: also list extra runs from :meth:`trigger_task` and :meth:`backfill_task` that have not run yet or
            were given up. They have the name of the instance, and ``triggered`` set. ``task`` may then also be a static task,
            for which only its extra runs are listed.
        """
        owner: Task = task if extra_runs and isinstance(task, StaticTask) else self._template(task)
        check_count(limit, "limit")
        self._check_open()
        partitions = [extra_runs_of(owner.name)] if isinstance(owner, StaticTask) else self._template(owner).all_partitions()
        index, token = _parse_token(continuation_token, len(partitions))
        tasks: list[ScheduledTask] = []
        while True:
            page = await self.repository.list(partitions[index], limit=limit - len(tasks), token=token)
            tasks += [ScheduledTask(owner, row) for row in page.rows if extra_runs or not is_extra(row)]
            token = page.token
            if token is None:
                index += 1
            if index == len(partitions):
                return TaskPage(tasks, None)
            if len(tasks) >= limit:
                return TaskPage(tasks, f"{index}:{token or ''}")

    async def list_workers(self) -> Sequence[Worker]:
        """The processes that run tasks in this store: first those that are alive, then those that ended without warning.

        Each process reports every ten seconds. One that was killed counts as dead after half a minute, and is forgotten after
        an hour; one that stopped cleanly is not listed. A process that runs tasks itself comes first, with its current values.
        A store that only one process can see has no others.
        """
        return await stored_workers(self.repository, await self._now())


def _parse_token(token: str | None, partition_count: int) -> tuple[int, str | None]:
    if token is None:
        return 0, None
    parts = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if parts is None or int(parts[1]) >= partition_count:
        raise ConfigurationError(
            f"{str(token)[:100]!r} is not a continuation token of this template; pass the one from the previous page"
        )
    return int(parts[1]), parts[2] or None
