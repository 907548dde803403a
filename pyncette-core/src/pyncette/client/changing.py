"""Changing what is stored of a task, whatever its schedule: pausing and resuming."""

from pyncette.client.base import Opened
from pyncette.errors import RepositoryError
from pyncette.store.contract import SupportsPause
from pyncette.tasks import Task, TaskInstance

__all__ = ["Changing"]


class Changing(Opened):
    """The calls that change what is stored already."""

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
