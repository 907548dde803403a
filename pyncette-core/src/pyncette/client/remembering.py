"""Looking at what has happened: the runs of a task, and what was done to it."""

from pyncette.checks import check_count
from pyncette.client.base import Opened
from pyncette.history import RunPage, page_of
from pyncette.tasks import StaticTask, Task, TaskInstance

__all__ = ["Remembering"]


class Remembering(Opened):
    """The calls that look back."""

    async def list_runs(
        self,
        task: Task | TaskInstance,
        instance_name: str | None = None,
        *,
        limit: int = 100,
        continuation_token: str | None = None,
    ) -> RunPage:
        """What the history has of a static task, an instance, or all instances of a template: the newest first, by when it ended.

        Each attempt that ended is a run of its own, also of instances that are gone since. The history is written a moment after a run, as
        well as it goes: runs may be missing, such as those of a process that was killed. It is kept for tasks with ``history=``.

        :param limit: how many runs and changes a page has at most.
        :param continuation_token: that of the page before. What is recorded and removed meanwhile shifts no page.

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
