"""How often the garbage collector looks while a worker runs."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["seldom_collected"]

#: Allocations between two looks. Hundreds of runs in flight are thousands of young objects that live on; CPython's default of 700 or
#: 2,000 makes it scan them repeatedly, which takes a quarter of the time of an execution. With this, next to none of it.
_ALLOCATIONS = 10_000


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector look at the youngest objects no oftener than every 10,000 allocations.

    A threshold that is higher, or 0 for none at all, is left as it is, and so is one that is set meanwhile.
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
