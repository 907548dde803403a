"""Reading the history: the runs of a task, and changes to it."""

from pyncette.checks import check_count
from pyncette.client.base import Opened
from pyncette.history import RunPage, page_of
from pyncette.tasks import StaticTask, Task, TaskInstance

__all__ = ["Remembering"]


class Remembering(Opened):
    """The calls that read the history."""

    async def list_runs(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        limit: int = 100,
        continuation_token: str | None = None,
    ) -> RunPage:
        """The history of a static task, an instance, or all instances of a template, newest first by the time at which each run
        ended.

        Each attempt that ended is a separate run, also for instances that have since been removed. The history is written a
        moment after a run, on a best-effort basis: runs may be missing, such as those of a process that was killed. It is kept
        for tasks with ``history=``.

        :param limit: the maximum number of runs and changes per page.
        :param continuation_token: the token of the previous page. Entries that are added or removed meanwhile shift no page.

        Raises RepositoryError if the store keeps no history, and ConfigurationError for a token of something else.
        """
        check_count(limit, "limit")
        if isinstance(task, StaticTask | TaskInstance) or instance_name is not None:
            key = self._key(task, instance_name)
            partitions, name = [key.partition], key.name
        else:
            partitions, name = [*self._template(task).all_partitions()], None
        now = await self._now()
        return await page_of(self.repository, partitions, name, limit=limit, token=continuation_token, now=now)
