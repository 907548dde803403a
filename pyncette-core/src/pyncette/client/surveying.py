"""Reading an application as a whole, as dashboards do, and removing what has failed."""

from collections.abc import Callable, Mapping, Sequence

from pyncette import partitions
from pyncette.audit import audit, check_by
from pyncette.client.scheduling import Scheduling
from pyncette.layout import paused_templates
from pyncette.memo import Memo, Note
from pyncette.scheduled import ScheduledTask
from pyncette.store.contract import State, Stats, SupportsStats
from pyncette.store.paging import pages
from pyncette.tasks import StaticTask, Task, Template
from pyncette.undeclared import Undeclared, discard_undeclared, find_undeclared

__all__ = ["Surveying"]

#: How many partitions are counted at once, with one call each.
_COUNTED = 64


class Surveying(Scheduling):
    """The calls that concern all tasks, or all rows of one."""

    async def list_static_tasks(self) -> Sequence[ScheduledTask]:
        """The stored state of the application's static tasks, in the order of declaration; one call to the store.

        Those that no process has started yet are left out.
        """
        await self._now()
        static = [task for task in self.tasks if isinstance(task, StaticTask)]
        rows = await self.repository.get([task.key for task in static]) if static else []
        return [ScheduledTask(task, row) for task, row in zip(static, rows, strict=True) if row is not None]

    async def list_paused_templates(self) -> Mapping[str, Note | None]:
        """The templates that are paused as a whole, by name, with who paused them, when and why; None if that is not known."""
        await self._now()
        found = await paused_templates(self.repository)
        return {name: Memo.read(row.memo).note for name, row in found.items()}

    async def count_tasks(self, task: Template) -> Stats | None:
        """How many rows the template ``task`` has, how many of them are due, since when, and how many have failed; None if the
        store can't tell without reading them all. Extra runs count, too. A store may estimate large numbers.
        """
        now, among = await self._now(), self._template(task).all_partitions()
        if not isinstance(self.repository, SupportsStats) or len(among) > _COUNTED:
            return None
        found = [await self.repository.stats(now, partition) for partition in among]
        oldest = min((each.oldest_due for each in found if each.oldest_due is not None), default=None)
        rows, due, failed = (sum(getattr(each, what) for each in found) for what in ("rows", "due", "failed"))
        return Stats(rows=rows, due=due, oldest_due=oldest, failed=failed)

    async def list_undeclared(self) -> Sequence[Undeclared]:
        """The rows in the store that no task of this application finds: those of renamed and removed tasks, or of another
        application.
        """
        return await find_undeclared(self.repository, await self._now(), self.tasks)

    async def discard_undeclared(
        self, what: Undeclared, *, progress: Callable[[int], None] = lambda removed: None, by: str | None = None
    ) -> int:
        """Remove all rows that :meth:`list_undeclared` calls ``what``. Returns how many there were. Rows that a task of this
        application finds stay. If another application declares the name, its instances are removed. Works page by page, like
        :meth:`discard_tasks`.

        :param progress: called after each page with how many there are so far.
        :param by: who asked for it; for the log ``pyncette.audit``.
        """
        await self._now()
        by, removed = check_by(by), 0
        try:
            async for removed in discard_undeclared(self.repository, self.clock.now, self.tasks, what):
                progress(removed)
        finally:
            if removed:
                audit("discard undeclared", what.name, by=by, kind=what.kind, count=removed)
        return removed

    async def discard_tasks(
        self, task: Task, *, progress: Callable[[int], None] = lambda discarded: None, by: str | None = None
    ) -> int:
        """Remove all instances of the template ``task`` that were given up, and its failed extra runs. Returns how many.

        For a static task, removes only its failed extra runs. Works page by page: what an interrupted call has not reached is unchanged,
        so you can repeat the call.

        :param progress: called after each page with how many there are so far.
        :param by: who asked for it; for the log ``pyncette.audit``.
        """
        among = [partitions.extra_runs(task.name)] if isinstance(task, StaticTask) else self._template(task).all_partitions()
        by, discarded = check_by(by), 0
        try:
            for partition in among:
                async for rows in pages(self.repository, partition):
                    failed = [row.key for row in rows if row.state is State.FAILED]
                    if failed:
                        discarded += sum(await self.repository.unregister(await self._now(), failed))
                    progress(discarded)
        finally:
            if discarded:
                audit("discard", task.name, by=by, count=discarded)
                await self._remember("discard", task, by=by, count=discarded)
        return discarded
