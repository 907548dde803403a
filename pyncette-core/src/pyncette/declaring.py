"""The declarations of an application: tasks, fixtures, middlewares, instrumentations, listeners."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from inspect import signature
from typing import Any, TypeAlias, TypeVar

from pyncette.checks import check_attribute_name, free_arguments
from pyncette.context import RESERVED, Body, Context, Middleware
from pyncette.errors import ConfigurationError, ScheduleError
from pyncette.hooks import Instrumentation
from pyncette.listeners import Listener, check_listener
from pyncette.policies import CatchUp, ExecutionMode, FailureMode, Retry
from pyncette.schedules import text as schedules
from pyncette.schedules.kinds import Cron, Interval, Schedule
from pyncette.signatures import check_async_generator_function, check_coroutine_function
from pyncette.tasks import (
    HISTORY,
    DynamicTask,
    PartitionedTask,
    PartitionSelector,
    StaticTask,
    Task,
    crc32_selector,
)
from pyncette.values import shown

__all__ = ["Declarations", "Fixture"]

#: An asynchronous generator function with one ``yield``, with or without ``app_context`` as its parameter.
Fixture: TypeAlias = Callable[..., AsyncIterator[Any]]

_FixtureT = TypeVar("_FixtureT", bound=Fixture)
_MiddlewareT = TypeVar("_MiddlewareT", bound=Middleware)
_R = TypeVar("_R")


class Declarations:
    """The declarations of an application; see :class:`pyncette.Pyncette`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._fixtures: dict[str, Fixture] = {}
        self._middlewares: list[Middleware] = []
        self._instrumentations: list[Instrumentation] = []
        self._listeners: list[Listener] = []
        self._used_by = 0

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """While this lasts, declaring anything raises an error, because it would have no effect."""
        self._used_by += 1
        try:
            yield
        finally:
            self._used_by -= 1

    def _check_in_time(self, what: str) -> None:
        if self._used_by:
            raise ConfigurationError(
                f"{what} is declared too late, because the application is already in use; declare it before create() or run()"
            )

    @property
    def tasks(self) -> Sequence[Task]:
        """All declared tasks, in order."""
        return list(self._tasks.values())

    # The signatures of the three repeat the same options for type checkers: next to free arguments there is no way to share them.
    # All three call _declaring().

    def task(
        self,
        body: None = None,
        /,
        *,
        schedule: str | None = None,
        interval: timedelta | None = None,
        rrule: str | None = None,
        timezone: str | None = None,
        jitter: timedelta | None = None,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        name: str | None = None,
        enabled: bool = True,
        execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE,
        failure_mode: FailureMode = FailureMode.NONE,
        lease_duration: timedelta = timedelta(seconds=60),
        timeout: timedelta | None = None,
        catch_up: CatchUp = CatchUp.ALL,
        catch_up_window: timedelta | None = None,
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        retry: Retry | None = None,
        max_running: int | None = None,
        history: timedelta | None = HISTORY,
        args: Mapping[str, Any] | None = None,
        **further_args: Any,
    ) -> Callable[[Callable[[Context], _R]], StaticTask[_R, Context]]:
        """Declare a coroutine function of one :class:`~pyncette.Context` as a task.

        :param schedule: a cron expression of five fields, or six with seconds last; ``H`` is a number derived from the name; or
            else
        :param interval: the time between two occurrences; or else
        :param rrule: a recurrence rule of RFC 5545, such as ``FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17``, see :class:`pyncette.schedule.RRule`.
        :param timezone: the time zone of the expression, and of the ``scheduled_at`` that the body sees; UTC by default.
        :param jitter: delay each run by a part of this, which is the same for each attempt and in each process.
        :param start_at: no occurrence comes before it. A naive one is wall time in ``timezone``, or else local time.
        :param end_at: no occurrence comes after it.
        :param name: the name under which the task is stored; the function's name by default. Required if one function serves
            several tasks.
        :param enabled: False: this application does not run the task.
        :param execution_mode: AT_LEAST_ONCE or AT_MOST_ONCE.
        :param failure_mode: what happens to an occurrence whose body raised.
        :param lease_duration: the time after which another worker may take over the occurrence, unless heartbeats extend it.
        :param timeout: how long a body may run before it is cancelled and counts as failed, even with heartbeats; None: no
            limit.
        :param catch_up: which missed occurrences run after all: ALL, LATEST or NONE.
        :param catch_up_window: how late an occurrence may start; older ones are skipped. None: no limit.
        :param fast_forward: the short form of ``catch_up=CatchUp.LATEST``.
        :param max_attempts: give up an occurrence after this many attempts; None: never.
        :param retry_delay: the pause before a retry under FailureMode.UNLOCK; one poll interval by default.
        :param retry: how often and when a failed occurrence is retried, whatever the ``failure_mode``; the two above are its
            short form.
        :param max_running: 1: start no run of the task or instance while another one is in progress, under AT_MOST_ONCE; None: no limit there.
        :param history: how long the store keeps each run, for :meth:`Client.list_runs`; None: not at all.
        :param args: arguments for the body, serialisable as JSON, under any names.
        :param further_args: more arguments. Names that look like misspelt options are refused here.

        Raises :class:`~pyncette.errors.ConfigurationError` for anything wrong with them.
        """
        return self._declaring(StaticTask, locals())

    def dynamic_task(
        self,
        body: None = None,
        /,
        *,
        name: str | None = None,
        enabled: bool = True,
        execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE,
        failure_mode: FailureMode = FailureMode.NONE,
        lease_duration: timedelta = timedelta(seconds=60),
        timeout: timedelta | None = None,
        catch_up: CatchUp = CatchUp.ALL,
        catch_up_window: timedelta | None = None,
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        retry: Retry | None = None,
        max_running: int | None = None,
        history: timedelta | None = None,
        args: Mapping[str, Any] | None = None,
        **further_args: Any,
    ) -> Callable[[Callable[[Context], _R]], DynamicTask[_R, Context]]:
        """Declare a template, of which instances are scheduled at run time. The options are those of :meth:`task`.

        The store keeps the runs of its instances only if you set ``history``.
        """
        return self._declaring(DynamicTask, locals())

    def partitioned_task(
        self,
        body: None = None,
        /,
        *,
        partition_count: int,
        partition_selector: PartitionSelector = crc32_selector,
        enabled_partitions: Sequence[int] | None = None,
        name: str | None = None,
        enabled: bool = True,
        execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE,
        failure_mode: FailureMode = FailureMode.NONE,
        lease_duration: timedelta = timedelta(seconds=60),
        timeout: timedelta | None = None,
        catch_up: CatchUp = CatchUp.ALL,
        catch_up_window: timedelta | None = None,
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        retry: Retry | None = None,
        max_running: int | None = None,
        history: timedelta | None = None,
        args: Mapping[str, Any] | None = None,
        **further_args: Any,
    ) -> Callable[[Callable[[Context], _R]], PartitionedTask[_R, Context]]:
        """Declare a template whose instances are spread over ``partition_count`` partitions of the store.

        :param partition_count: the number of partitions. It is stored, and can't be changed once the template has been started.
        :param partition_selector: a function from ``(partition_count, instance name)`` to an index; a stable hash by default.
        :param enabled_partitions: the indices that this process polls; all by default.

        The other options are those of :meth:`task`.
        """
        return self._declaring(PartitionedTask, locals())

    def _declaring(self, kind: type[Task], given: dict[str, Any]) -> Callable[[Any], Any]:
        """The decorator for a task of ``kind``. ``given``: the variables of the method that was called."""
        del given["self"]
        decorator, elsewhere = _DECORATORS[kind]
        if given.pop("body") is not None:
            raise ConfigurationError(f"A decorator needs its parentheses, and takes options by name; write {decorator}")
        name = given.pop("name")
        args = free_arguments(given.pop("args"), given.pop("further_args"), _OPTIONS, f"{decorator.partition('(')[0]}()", elsewhere)
        schedule = {option: given.pop(option) for option in _SCHEDULE if option in given}
        if kind is StaticTask:
            _schedule("", schedule)  # raises at the declaration

        def declare(body: Body | Task) -> Task:
            function = body.body if isinstance(body, Task) else body
            called = _name(function) if name is None else name
            if kind is StaticTask:
                given["schedule"] = _schedule(called, schedule)
            return self._add(kind(name=called, body=function, args=args, **given))

        return declare

    def _add(self, task: Task) -> Task:
        self._check_in_time(f"Task {task.name!r}")
        if task.name in self._tasks:
            raise ConfigurationError(f"There is already a task {task.name!r}; pass another name=... to one of them")
        self._tasks[task.name] = task
        return task

    def fixture(self, name: str | None = None) -> Callable[[_FixtureT], _FixtureT]:
        """Declare an asynchronous generator function as a fixture. The value that it yields is ``context.NAME`` in every body.

        Fixtures are set up in order before the first run, and torn down in reverse after the last body ended.
        """
        if callable(name):
            raise ConfigurationError(f"A decorator needs its parentheses; write @app.fixture() above {shown(name)}")
        if name is not None:
            check_attribute_name(name, RESERVED)

        def declare(fixture: _FixtureT) -> _FixtureT:
            self.use_fixture(getattr(fixture, "__name__", "") if name is None else name, fixture)
            return fixture

        return declare

    def use_fixture(self, name: str, fixture: Fixture) -> None:
        """Add ``fixture`` under ``name``; see :meth:`fixture`."""
        check_attribute_name(name, RESERVED)
        if name in self._fixtures:
            raise ConfigurationError(f"There is already a fixture {shown(name)}; pass another name=...")
        check_async_generator_function(fixture, f"The fixture {shown(name)}")
        self._check_in_time(f"The fixture {shown(name)}")
        self._fixtures[name] = fixture

    def middleware(self, middleware: _MiddlewareT) -> _MiddlewareT:
        """Declare a coroutine function of ``(context, next)`` that wraps every run, outside those that are declared after it."""
        self.use_middleware(middleware)
        return middleware

    def use_middleware(self, middleware: Middleware) -> None:
        """Add ``middleware``; see :meth:`middleware`."""
        name = getattr(middleware, "__name__", None)
        what = f"The middleware {shown(name)}" if name else "The middleware"
        check_coroutine_function(middleware, what, "context", "next")
        self._check_in_time(what)
        self._middlewares.append(middleware)

    def use_instrumentation(self, instrumentation: Instrumentation) -> None:
        """Report ticks, calls to the store and lost leases to ``instrumentation``. You can use several."""
        if not isinstance(instrumentation, Instrumentation):
            raise ConfigurationError(f"{shown(instrumentation)} is not a pyncette.Instrumentation; derive from that")
        self._check_in_time("The instrumentation")
        self._instrumentations.append(instrumentation)

    def use_listener(self, listener: Listener) -> None:
        """Report what happens to runs to ``listener``, in its own thread. You can use several."""
        self._check_in_time("The listener")
        self._listeners.append(check_listener(listener))


_PARTITIONED = dict.fromkeys(
    ("partition_count", "partition_selector", "enabled_partitions"), "declare the template with @app.partitioned_task()"
)
#: The options of a schedule in code.
_SCHEDULE = ("schedule", "interval", "rrule", "timezone", "jitter", "start_at", "end_at")
_SCHEDULED_LATER = dict.fromkeys(
    (*_SCHEDULE, "execute_at", "max_runs"), "pass it to schedule_task(), which gives each instance its own schedule"
)
_ONCE = {
    "execute_at": "declare it with @app.dynamic_task(), and pass the time to schedule_task()",
    "max_runs": "use end_at=, or schedule an instance of a template: a task in code would be counted again at each start",
}

#: The decorator of each kind of task, and the options of other kinds that it does not have.
_DECORATORS: Mapping[type[Task], tuple[str, Mapping[str, str]]] = {
    StaticTask: ("@app.task(schedule=...)", {**_ONCE, **_PARTITIONED}),
    DynamicTask: ("@app.dynamic_task()", {**_SCHEDULED_LATER, **_PARTITIONED}),
    PartitionedTask: ("@app.partitioned_task(partition_count=...)", _SCHEDULED_LATER),
}

#: The options of all kinds.
_OPTIONS = tuple(
    parameter.name
    for method in (Declarations.task, Declarations.partitioned_task)
    for parameter in signature(method).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
)


def _schedule(name: str, options: Mapping[str, Any]) -> Schedule:
    given = [option for option in ("schedule", "interval", "rrule") if options[option] is not None]
    if len(given) != 1:
        raise ScheduleError(f"A task needs exactly one of schedule, interval and rrule; given: {' and '.join(given) or 'none'}")
    parsed = schedules.from_options(**options, name=name)
    if isinstance(parsed, Cron | Interval) and parsed.first(datetime.now(UTC)) is None:  # a schedule with an end may have passed
        raise ScheduleError(f"The schedule {parsed.text!r} has no further occurrence, so nothing would ever run")
    return parsed


def _name(function: object) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise ConfigurationError(f"{shown(function)} has no name to be stored under; pass name=...")
    return name
