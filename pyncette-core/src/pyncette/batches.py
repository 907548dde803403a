"""Batches: split to a size that every store accepts, and split further if a store refuses one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from pyncette.errors import TransientRepositoryError
from pyncette.store.contract import Registration
from pyncette.waiting import fault

__all__ = ["BATCH_CHARACTERS", "BATCH_ROWS", "cut", "in_halves"]

_T = TypeVar("_T")
_R = TypeVar("_R")

#: The maximum per call: rows, and characters of their arguments (unless a single row has more).
BATCH_ROWS = 1000
BATCH_CHARACTERS = 1_000_000


def cut(registrations: Iterable[Registration]) -> Iterator[list[Registration]]:
    """``registrations`` in batches, in order."""
    batch: list[Registration] = []
    characters = 0
    for registration in registrations:
        characters += len(registration.spec)
        if batch and (len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], len(registration.spec)
        batch.append(registration)
    if batch:
        yield batch


async def in_halves(
    batch: Sequence[_T], call: Callable[[Sequence[_T]], Awaitable[_R]]
) -> AsyncIterator[tuple[Sequence[_T], _R | Exception]]:
    """``call(batch)``: yields each part of the batch with its result, or with the exception that it raised.

    After a permanent error, the batch is split until the bad element is alone, so that only it fails. After a transient error, it is not.
    """
    parts = [batch]
    while parts:
        part = parts.pop()
        try:
            result = await call(part)
        except (TransientRepositoryError, asyncio.CancelledError) as error:
            yield part, fault(error)
        except Exception as error:
            if len(part) == 1:
                yield part, error
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        else:
            yield part, result
