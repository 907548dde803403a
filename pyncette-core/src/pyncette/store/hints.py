"""Hints: how processes wake each other through the store, where it has a way to."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Hint", "SupportsWakeUp"]


class Hint(NamedTuple):
    """What one process tells the others: something can be claimed from ``partition`` at ``ready_at``, as far as it knows."""

    partition: str
    ready_at: datetime


@runtime_checkable
class SupportsWakeUp(Protocol):
    """A store through which processes wake each other, so that none has to wait for its next poll.

    A hint is nothing but a hint: it may be lost, doubled, late or wrong, and whoever hears one finds out by a claim what is true.
    """

    async def wake(self, hints: Sequence[Hint]) -> None:
        """Tell ``hints``, of distinct partitions, to all that listen through other repository objects.

        Called after the rows are stored. Does nothing where others see by themselves that something was stored. What it raises costs
        nobody more than the hints. Repeating is safe.
        """
        ...

    def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        """What others tell, for as long as somebody asks, on a connection of its own.

        The first batch is empty and says that it listens from now on; a later empty one that some hints may have been missed. It raises
        what other calls raise if it can't listen, also when the connection is lost, and may be called anew then. It ends by itself where
        there is no use in calling it again. What is told and makes no sense is passed over. Closing it takes no longer than a moment.
        """
        ...
