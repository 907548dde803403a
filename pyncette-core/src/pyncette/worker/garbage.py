"""How often the garbage collector runs while a worker runs."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["seldom_collected"]

#: Allocations between two collections. Hundreds of runs in progress are thousands of young objects that survive; with CPython's default of
#: 700 or 2,000, scanning them repeatedly takes a quarter of the time of an execution. With this value, it takes almost none.
_ALLOCATIONS = 10_000


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector scan the youngest objects at most every 10,000 allocations.

    Leaves a higher threshold, or 0, which disables it, and one that is set meanwhile, unchanged.
    """
    before = gc.get_threshold()
    ours = (_ALLOCATIONS, *before[1:])
    if not 0 < before[0] < _ALLOCATIONS:
        yield
        return
    gc.set_threshold(*ours)
    try:
        yield
    finally:
        if gc.get_threshold() == ours:
            gc.set_threshold(*before)
