"""Hints: how processes wake each other through the store, where it has a way to; and hints as text, for those that send text."""

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

from pyncette.clock import from_microseconds, to_microseconds

__all__ = ["Hint", "SupportsWakeUp", "hints_of", "texts_of"]


class Hint(NamedTuple):
    """What one process tells the others: something can be claimed from ``partition`` at ``ready_at``, as far as it knows."""

    partition: str
    ready_at: datetime


@runtime_checkable
class SupportsWakeUp(Protocol):
    """A store through which processes wake each other, so that none has to wait for its next poll.

    A hint is nothing but a hint: it may be lost, duplicate, late or wrong, and its receiver finds out what is true by claiming.
    """

    async def wake(self, hints: Sequence[Hint]) -> None:
        """Tell ``hints``, of distinct partitions, to all that listen through other repository objects.

        Called after the rows are stored. Does nothing where others notice writes without it. What it raises costs
        nobody more than the hints. Repeating is safe.
        """
        ...

    def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        """What others tell, for as long as somebody asks, on a connection of its own.

        The first batch is empty and says that it listens from now on; a later empty one that some hints may have been missed. It raises
        what other calls raise if it can't listen, also when the connection is lost, and may be called again then. It ends where
        there is no use in calling it again. What is told and is not valid is passed over. Closing it takes no longer than a moment.
        """
        ...


def texts_of(hints: Sequence[Hint], sender: str, longest: int = 100_000) -> Iterator[str]:
    """Texts that tell ``hints``, in ASCII and of up to ``longest`` characters; ``sender`` is for :func:`hints_of`."""
    parts: list[str] = []
    length = 0
    for hint in hints:
        part = json.dumps([hint.partition, to_microseconds(hint.ready_at)])
        if parts and length + len(part) > longest - len(sender) - 10:
            yield f'["{sender}",{",".join(parts)}]'
            parts, length = [], 0
        parts.append(part)
        length += len(part) + 1
    if parts:
        yield f'["{sender}",{",".join(parts)}]'


def hints_of(text: str | bytes, listener: str) -> Sequence[Hint]:
    """The hints in such a text; none if the listener has sent it, or if it is not valid: others may write to where it is read."""
    try:
        sender, *hints = json.loads(text)
        return [] if sender == listener else [Hint(str(name), from_microseconds(int(at))) for name, at in hints]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
