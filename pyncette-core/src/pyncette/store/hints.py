"""Hints: how processes wake each other through the store, if it supports that; and hints as text, for stores that send text."""

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, runtime_checkable

from pyncette.clock import from_microseconds, to_microseconds

__all__ = ["Hint", "SupportsWakeUp", "hints_of", "texts_of"]


class Hint(NamedTuple):
    """A message from one process to the others: as far as it knows, something can be claimed from ``partition`` at
    ``ready_at``.
    """

    partition: str
    ready_at: datetime


@runtime_checkable
class SupportsWakeUp(Protocol):
    """A store through which processes can wake each other, so that none has to wait for its next poll.

    A hint is only a hint: it may be lost, duplicate, late or wrong, and its receiver finds out what is true by claiming.
    """

    async def wake(self, hints: Sequence[Hint]) -> None:
        """Send ``hints``, for distinct partitions, to all that listen through other repository objects.

        Called after the rows are stored. Does nothing where others notice writes without it. If it raises, only the hints are
        lost. Repeating is safe.
        """
        ...

    def wakeups(self) -> AsyncGenerator[Sequence[Hint], None]:
        """Yield the hints of others for as long as it is iterated, on a separate connection.

        The first batch is empty and means that it now listens; a later empty batch means that some hints may have been missed.
        If it can't listen, or the connection is lost, it raises the same errors as other calls, and may be called again. It
        ends if calling it again would not help. Invalid messages are ignored. Closing it takes only a moment.
        """
        ...


def texts_of(hints: Sequence[Hint], sender: str, longest: int = 100_000) -> Iterator[str]:
    """Texts that contain ``hints``, in ASCII and of up to ``longest`` characters; ``sender`` is for :func:`hints_of`."""
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
    """The hints in such a text; none if the listener itself sent it, or if it is invalid, since others may write to the same
    channel.
    """
    try:
        sender, *hints = json.loads(text)
        return [] if sender == listener else [Hint(str(name), from_microseconds(int(at))) for name, at in hints]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
