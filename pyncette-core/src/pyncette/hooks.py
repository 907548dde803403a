"""What an application tells of itself to those who measure it."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from pyncette.tasks import Task

__all__ = ["Instrumentation", "Instruments"]


class Instrumentation:
    """Derive from it, override what you want to know, and pass it to :meth:`pyncette.Pyncette.use_instrumentation`.

    Runs of bodies are not among it: a middleware sees them. Everything here is called in the event loop, in the middle of things: it must
    not block, and must not raise.
    """

    def tick(self) -> AbstractContextManager[Any]:
        """Around each pass over all that is due; the exception is the first error of the store, after which the others were still polled."""
        return contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        """Around each call to the store.

        :param operation: a method of :class:`~pyncette.repository.Repository` or one of the optional protocols: ``"claim"``, ...
        :param size: how many rows it is about; for ``"claim"`` and ``"list"`` how many it may bring.
        """
        return contextlib.nullcontext()

    def claimed(self, count: int) -> None:
        """A claim has brought ``count`` rows, perhaps none."""

    def lease_lost(self, task: Task) -> None:
        """A run was overtaken: its lease ended before it was started or settled, or could not be extended."""


class Instruments(Instrumentation):
    """Several as one."""

    def __init__(self, each: Sequence[Instrumentation]) -> None:
        self._each = each

    @contextlib.contextmanager
    def _all(self, enter: Callable[[Instrumentation], AbstractContextManager[Any]]) -> Any:
        with contextlib.ExitStack() as stack:
            for each in self._each:
                stack.enter_context(enter(each))
            yield

    def tick(self) -> AbstractContextManager[Any]:
        return self._all(lambda each: each.tick()) if self._each else contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        return self._all(lambda each: each.call(operation, size))

    def claimed(self, count: int) -> None:
        for each in self._each:
            each.claimed(count)

    def lease_lost(self, task: Task) -> None:
        for each in self._each:
            each.lease_lost(task)
