"""Reporting what happens to runs: each listener has its own thread, so that no run waits for one."""

import asyncio
import contextlib
import inspect
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pyncette.errors import ConfigurationError
from pyncette.runs import Run, RunOutcome
from pyncette.tasks import Task
from pyncette.values import shown

__all__ = ["Listener", "RunEvent", "Telling", "check_listener"]

logger: logging.Logger = logging.getLogger(__name__)
#: The logger with a line for each run, if enabled.
runs: logging.Logger = logging.getLogger("pyncette.runs")

#: How many events may wait for a listener; further ones are dropped.
_MOST_WAITING = 10_000
#: How often to check whether the listeners have ended (seconds).
_LOOK_EVERY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """An event that a listener receives."""

    #: The static task, or the template.
    task: Task
    #: The name of the instance; None for a static task.
    instance: str | None
    run: Run
    #: Whether it is an extra run, rather than one from the task's schedule.
    triggered: bool
    #: The same at each attempt, see :attr:`Context.execution_id`.
    execution_id: str
    #: The earliest time at which the task runs next, as this run leaves it: a retry or the next occurrence; None if there is none.
    next_at: datetime | None = None
    #: For ``skipped``: the first of the skipped occurrences before ``next_at``.
    skipped_from: datetime | None = None


class Listener:
    """Derive from this class, override the methods that you need, and pass an instance to
    :meth:`pyncette.Pyncette.use_listener`.

    Each listener's methods are called in its own thread, one event after another, in the order in which the events happened. So
    a listener may block, for example on an HTTP request. Exceptions are logged, once per method, and stop nothing. If 10,000
    events are waiting, further ones are dropped, and the log says so. When the application stops, waiting events are delivered
    for up to five seconds, or a third of a second with a ``shutdown_timeout``.
    """

    def begin(self, event: RunEvent) -> None:
        """A body has been started; the run's outcome is ``STARTED``."""

    def end(self, event: RunEvent) -> None:
        """A body has succeeded. Its outcome is about to be stored."""

    def failure(self, event: RunEvent) -> None:
        """A body raised or exceeded its timeout, even in the last attempt; ``event.run.error`` says what went wrong."""

    def retry(self, event: RunEvent) -> None:
        """After a failure, or because its process ended first, the occurrence runs again at ``event.next_at``."""

    def given_up(self, event: RunEvent) -> None:
        """The occurrence has used up its attempts; the outcome is ``DIED`` if the last worker died or outlasted its lease."""

    def takeover(self, event: RunEvent) -> None:
        """The worker runs the occurrence because another one died or outlasted its lease; the event's run is that of the other
        worker.
        """

    def skipped(self, event: RunEvent) -> None:
        """Missed occurrences were skipped because of ``catch_up`` or ``catch_up_window``, from ``event.skipped_from`` up to
        ``event.next_at``: after this run, or, with the outcome ``SKIPPED``, instead of it.
        """


_HOOKS = tuple(name for name in vars(Listener) if not name.startswith("_"))


def check_listener(listener: Listener) -> Listener:
    """``listener``; raises ConfigurationError if it is not a listener, or could never be called."""
    if not isinstance(listener, Listener):
        raise ConfigurationError(f"{shown(listener)} is not a pyncette.Listener; derive from that")
    for name in _HOOKS:
        if inspect.iscoroutinefunction(getattr(listener, name)):
            raise ConfigurationError(
                f"{type(listener).__name__}.{name}() is asynchronous; make it a plain function, which may block"
            )
    return listener


class Telling:
    """Reports to all listeners of one application, and to the log."""

    def __init__(self, listeners: Sequence[Listener], *, log_runs: bool) -> None:
        self._log_runs = log_runs
        self._threads = [_Thread(listener) for listener in listeners]
        self._of = {hook: [thread for thread in self._threads if thread.wants(hook)] for hook in _HOOKS}
        #: Whether there are listeners; otherwise no events are created.
        self.active: bool = bool(listeners) or log_runs

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def tell(self, hook: str, event: RunEvent) -> None:
        if self._log_runs:
            _log(hook, event)
        for thread in self._of.get(hook, ()):
            thread.put(hook, event)

    async def end(self, grace: float, *, virtual: bool) -> None:
        """No more events will come: deliver those that are waiting, for at most ``grace`` seconds of real time."""
        end = time.monotonic() + grace
        for thread in self._threads:
            thread.stop()
        while any(thread.is_alive for thread in self._threads) and (left := end - time.monotonic()) > 0:
            if virtual:
                self._threads[0].join(min(left, _LOOK_EVERY))
            else:
                await asyncio.sleep(min(left, _LOOK_EVERY))
        for thread in self._threads:
            thread.leave()


class _Thread:
    """The thread of a listener, with the events that wait for it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: queue.SimpleQueue[tuple[str, RunEvent] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"pyncette-{type(listener).__name__}", daemon=True)
        self._left_out = 0
        self._failed: set[str] = set()
        self._stopped = False

    def wants(self, hook: str) -> bool:
        return getattr(type(self._listener), hook) is not getattr(Listener, hook) or hook in vars(self._listener)

    def start(self) -> None:
        self._thread.start()

    def put(self, hook: str, event: RunEvent) -> None:
        if self._stopped:
            return
        if self._waiting.qsize() >= _MOST_WAITING:
            if not self._left_out:
                logger.warning("%s is %d events behind; dropping further events", self._name, _MOST_WAITING)
            self._left_out += 1
            return
        if self._left_out and self._waiting.qsize() < _MOST_WAITING // 2:
            logger.warning("%s has caught up; %d events were dropped", self._name, self._left_out)
            self._left_out = 0
        self._waiting.put((hook, event))

    def stop(self) -> None:
        self._stopped = True
        self._waiting.put(None)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def leave(self) -> None:
        if self.is_alive:
            logger.warning(
                "%s does not return; leaving it behind, with %d events undelivered", self._name, max(0, self._waiting.qsize() - 1)
            )

    @property
    def _name(self) -> str:
        return f"The listener {type(self._listener).__qualname__}"

    def _run(self) -> None:
        while (told := self._waiting.get()) is not None:
            hook, event = told
            try:
                getattr(self._listener, hook)(event)
            except BaseException as error:
                if hook not in self._failed:
                    self._failed.add(hook)
                    with contextlib.suppress(Exception):
                        logger.exception(
                            "%s raised %s in %s(); this stops nothing, and is logged only once",
                            self._name,
                            type(error).__name__,
                            hook,
                        )


def _log(hook: str, event: RunEvent) -> None:
    """Logs one line for each run that has ended, whichever hook reports it first."""
    run = event.run
    first = {RunOutcome.INTERRUPTED: "retry", RunOutcome.DIED: "given_up", RunOutcome.SUCCEEDED: "end"}.get(run.outcome, "failure")
    if hook != first:
        return
    lateness = "" if run.lateness is None else f", {run.lateness.total_seconds():.3f} s late"
    took = "" if run.duration is None else f", took {run.duration.total_seconds():.3f} s"
    instance = "" if event.instance is None else f" {event.instance!r}"
    occurrence = run.scheduled_at.isoformat()
    extra = {
        "task": event.task.name,
        "instance": event.instance,
        "scheduled_at": occurrence,
        "attempt": run.attempt,
        "outcome": run.outcome.value,
        "lateness": None if run.lateness is None else run.lateness.total_seconds(),
        "duration": None if run.duration is None else run.duration.total_seconds(),
    }
    told = f"attempt {run.attempt}{', extra run' if event.triggered else ''}{lateness}{took}"
    runs.info("task %r%s of %s: %s, %s", event.task.name, instance, occurrence, run.outcome.value, told, extra=extra)
