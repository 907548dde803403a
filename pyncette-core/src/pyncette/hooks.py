"""Hooks for measuring an application."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from pyncette.tasks import Task

__all__ = ["Instrumentation", "Instruments"]

logger: logging.Logger = logging.getLogger(__name__)


class Instrumentation:
    """Derive from this class, override the methods that you need, and pass an instance to
    :meth:`pyncette.Pyncette.use_instrumentation`.

    For the runs of bodies, use a middleware. All methods are called in the event loop, so they must not block. Exceptions are
    logged, once per hook, and stop nothing; a context manager can't suppress an exception raised within it.
    """

    def tick(self) -> AbstractContextManager[Any]:
        """Around each pass over everything that is due; an exception is the first error of the store, after which the other
        partitions were still polled.
        """
        return contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        """Around each call to the store.

        :param operation: a method of :class:`~pyncette.repository.Repository` or one of the optional protocols: ``"claim"``, ...
        :param size: the number of rows in the call; for ``"claim"`` and ``"list"``, the maximum that it may return.
        """
        return contextlib.nullcontext()

    def claimed(self, count: int) -> None:
        """A claim has returned ``count`` rows, perhaps none."""

    def unreadable(self, count: int) -> None:
        """A claim has skipped ``count`` rows, at least one, that were due but invalid. Claims will find them again when a lease
        has expired.
        """

    def hints_sent(self, count: int) -> None:
        """``count`` hints were sent to other processes, to say that something is ready, perhaps before their next poll."""

    def hints_received(self, count: int) -> None:
        """``count`` hints from other processes were received."""

    def lease_lost(self, task: Task) -> None:
        """A run lost its lease: the lease expired before the run was started or settled, or could not be extended."""


class Instruments(Instrumentation):
    """Several instrumentations as one. Exceptions are logged once per instrumentation and hook, and stop nothing."""

    def __init__(self, each: Sequence[Instrumentation]) -> None:
        self._each = each
        self._failed: set[tuple[int, str]] = set()

    def tick(self) -> AbstractContextManager[Any]:
        return _Around(self, "tick") if self._each else contextlib.nullcontext()

    def call(self, operation: str, size: int) -> AbstractContextManager[Any]:
        return _Around(self, "call", operation, size) if self._each else contextlib.nullcontext()

    def claimed(self, count: int) -> None:
        self._tell("claimed", count)

    def unreadable(self, count: int) -> None:
        self._tell("unreadable", count)

    def hints_sent(self, count: int) -> None:
        self._tell("hints_sent", count)

    def hints_received(self, count: int) -> None:
        self._tell("hints_received", count)

    def lease_lost(self, task: Task) -> None:
        self._tell("lease_lost", task)

    def _tell(self, hook: str, *args: Any) -> None:
        for each in self._each:
            try:
                getattr(each, hook)(*args)
            except BaseException as error:
                self.note(each, hook, error)

    def enter(self, hook: str, args: Sequence[Any]) -> Iterator[tuple[Instrumentation, AbstractContextManager[Any]]]:
        """Enter the context managers that ``hook`` returns, as far as possible."""
        for each in self._each:
            try:
                manager = getattr(each, hook)(*args)
                manager.__enter__()
            except BaseException as error:
                self.note(each, hook, error)
            else:
                yield each, manager

    def note(self, instrumentation: Instrumentation, hook: str, error: BaseException) -> None:
        """Log an exception of ``hook``, the first time. Only KeyboardInterrupt propagates, because it is meant for the program."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        if (failed := (id(instrumentation), hook)) not in self._failed:
            self._failed.add(failed)
            logger.error(
                "The hook %s() of %s raised %s; this stops nothing, and is logged only once",
                hook,
                type(instrumentation).__qualname__,
                type(error).__name__,
                exc_info=error,
            )


class _Around:
    """The context managers of a hook as one, which neither swallows nor replaces exceptions."""

    __slots__ = ("_args", "_entered", "_hook", "_instruments")

    def __init__(self, instruments: Instruments, hook: str, *args: Any) -> None:
        self._instruments = instruments
        self._hook = hook
        self._args = args

    def __enter__(self) -> None:
        self._entered = list(self._instruments.enter(self._hook, self._args))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for each, manager in reversed(self._entered):
            try:
                manager.__exit__(kind, error, traceback)
            except BaseException as raised:
                if raised is not error:
                    self._instruments.note(each, self._hook, raised)
