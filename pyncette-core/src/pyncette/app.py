"""Pyncette, the application: tasks, fixtures and middlewares are declared on it; it creates what runs them."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from pyncette import program
from pyncette.app_context import PyncetteContext
from pyncette.checks import check_attribute_name, check_count, check_duration, check_free_arguments
from pyncette.clock import AlignedClock, Clock, SystemClock
from pyncette.context import RESERVED, Body, Middleware, chained
from pyncette.errors import ConfigurationError, ScheduleError
from pyncette.hooks import Instrumentation, Instruments
from pyncette.layout import check_partition_count
from pyncette.schedules import text as schedules
from pyncette.store import urls as backends
from pyncette.store.contract import Repository, SupportsServerTime
from pyncette.store.memory import memory_repository
from pyncette.store.observed import ObservedRepository
from pyncette.tasks import (
    DynamicTask,
    ExecutionMode,
    FailureMode,
    PartitionedTask,
    PartitionSelector,
    StaticTask,
    Task,
    crc32_selector,
)
from pyncette.worker.executors import ConcurrentExecutor, Executor
from pyncette.worker.loop import Settings

__all__ = ["Fixture", "Pyncette"]

#: An asynchronous generator function with one ``yield``, with or without ``app_context`` as its parameter.
Fixture: TypeAlias = Callable[..., AsyncIterator[Any]]

_FixtureT = TypeVar("_FixtureT", bound=Fixture)
_MiddlewareT = TypeVar("_MiddlewareT", bound=Middleware)
_TaskT = TypeVar("_TaskT", bound=Task)


class Pyncette:
    """An application. Declare tasks on it, then run it: ``app.main()`` in a program, ``await app.run()`` in an event loop.

    :param url: where schedules are kept, for example ``"sqlite:///pyncette.db"``. Without it and without a
        ``repository_factory``: in memory, or in the SQLite file ``sqlite_database`` if that is given.
    :param repository_factory: instead of a URL; ``repository_options`` are its options.
    :param poll_interval: how long a change made by another process may go unnoticed. What is known starts on time all the same.
    :param concurrency_limit: how many bodies run at once in this process. Nothing is claimed without a free slot.
    :param batch_size: how many rows are claimed or settled in one call to the store.
    :param shutdown_timeout: how long running bodies are waited for at shutdown before they are cancelled; None: to their end.
    :param executor_cls: where bodies run; :class:`~pyncette.SynchronousExecutor` runs them one after another.
    :param clock: where time comes from; see :mod:`pyncette.testing`.

    Raises :class:`~pyncette.errors.ConfigurationError`, or another :class:`~pyncette.errors.PyncetteError` if the backend
    can't be had. Nothing is connected to yet.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        repository_factory: backends.RepositoryFactory | None = None,
        poll_interval: timedelta = timedelta(seconds=1),
        concurrency_limit: int = 100,
        batch_size: int = 100,
        shutdown_timeout: timedelta | None = None,
        executor_cls: Callable[[int, Callable[[], None]], Executor] = ConcurrentExecutor,
        clock: Clock | None = None,
        **repository_options: Any,
    ) -> None:
        check_duration(poll_interval, "poll_interval")
        check_count(concurrency_limit, "concurrency_limit")
        check_count(batch_size, "batch_size")
        if shutdown_timeout is not None:
            check_duration(shutdown_timeout, "shutdown_timeout", zero=True)
        check_free_arguments(repository_options, _OPTIONS, "Pyncette()")
        self._instrumentations: list[Instrumentation] = []
        self._settings = Settings(
            poll_interval=poll_interval,
            batch_size=batch_size,
            concurrency_limit=concurrency_limit,
            shutdown_timeout=shutdown_timeout,
            executor_cls=executor_cls,
            instrumentation=Instruments(self._instrumentations),
        )
        self._clock: Clock = SystemClock() if clock is None else clock
        self._tasks: dict[str, Task] = {}
        self._fixtures: dict[str, Fixture] = {}
        self._middlewares: list[Middleware] = []
        self._open: Callable[[], AbstractAsyncContextManager[Repository]]
        self.use_repository(url, repository_factory=repository_factory, **repository_options)

    def use_repository(
        self, url: str | None = None, *, repository_factory: backends.RepositoryFactory | None = None, **repository_options: Any
    ) -> None:
        """Replace the store that was chosen when the application was made; for command lines and tests."""
        if url is not None:
            if repository_factory is not None or repository_options:
                raise ConfigurationError("A URL and a repository_factory or its options are given; put the options into the URL")
            self._open = backends.from_url(url)
            return
        if repository_factory is None:
            repository_factory = memory_repository
            if repository_options:
                from pyncette.store.sqlite import sqlite_repository  # here, since it loads a driver

                repository_factory = sqlite_repository
        self._open = backends.from_factory(repository_factory, repository_options, _OPTIONS)

    @property
    def tasks(self) -> Sequence[Task]:
        """All that is declared, in order."""
        return list(self._tasks.values())

    # --- declaring --------------------------------------------------------------------------------------------------

    def task(
        self,
        body: None = None,
        /,
        *,
        schedule: str | None = None,
        interval: timedelta | None = None,
        timezone: str | None = None,
        name: str | None = None,
        enabled: bool = True,
        execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE,
        failure_mode: FailureMode = FailureMode.NONE,
        lease_duration: timedelta = timedelta(seconds=60),
        timeout: timedelta | None = None,
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        **args: Any,
    ) -> Callable[[Body | Task], StaticTask]:
        """Declare a coroutine function of one :class:`~pyncette.Context` as a task.

        :param schedule: a cron expression of five fields, or six with seconds last; or else
        :param interval: the time between two occurrences.
        :param timezone: in which the expression is meant, and in which the body sees ``scheduled_at``; UTC by default.
        :param name: under which the task is stored; the function's name by default. Needed if one function is several tasks.
        :param enabled: False: not run by this application.
        :param execution_mode: AT_LEAST_ONCE or AT_MOST_ONCE.
        :param failure_mode: what becomes of an occurrence whose body raised.
        :param lease_duration: after which another worker takes the occurrence over, unless heartbeats extend it.
        :param timeout: how long a body may run before it is cancelled and has failed; heartbeats don't extend it. None: as long as it takes.
        :param fast_forward: when behind, skip the occurrences that were missed instead of running each.
        :param max_attempts: give an occurrence up after so many claims, and keep the task as failed; None: never.
        :param retry_delay: the pause before a retry under FailureMode.UNLOCK; one poll interval by default.
        :param args: any further arguments for the body, serialisable as JSON.

        Raises :class:`~pyncette.errors.ConfigurationError` for anything wrong with them.
        """
        _check_parentheses(body, "task(schedule=...)")
        check_free_arguments(args, _TASK_OPTIONS, "a task")

        def declare(body: Body | Task) -> StaticTask:
            parsed = schedules.from_options(schedule=schedule, interval=interval, timezone=timezone)
            if parsed.first(datetime.now(UTC)) is None:
                raise ScheduleError(f"The schedule {parsed.text!r} has no occurrence any more; nothing would ever run")
            return self._add(
                StaticTask(
                    name=_name(name, body),
                    body=_body(body),
                    args=args,
                    schedule=parsed,
                    enabled=enabled,
                    execution_mode=execution_mode,
                    failure_mode=failure_mode,
                    lease_duration=lease_duration,
                    timeout=timeout,
                    fast_forward=fast_forward,
                    max_attempts=max_attempts,
                    retry_delay=retry_delay,
                )
            )

        return declare

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
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        **args: Any,
    ) -> Callable[[Body | Task], DynamicTask]:
        """Declare a template, of which instances are scheduled at run time. The options are those of :meth:`task`."""
        _check_parentheses(body, "dynamic_task()")
        check_free_arguments(args, _TASK_OPTIONS, "a dynamic task, which gets its schedule from schedule_task()")

        def declare(body: Body | Task) -> DynamicTask:
            return self._add(
                DynamicTask(
                    name=_name(name, body),
                    body=_body(body),
                    args=args,
                    enabled=enabled,
                    execution_mode=execution_mode,
                    failure_mode=failure_mode,
                    lease_duration=lease_duration,
                    timeout=timeout,
                    fast_forward=fast_forward,
                    max_attempts=max_attempts,
                    retry_delay=retry_delay,
                )
            )

        return declare

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
        fast_forward: bool = False,
        max_attempts: int | None = None,
        retry_delay: timedelta | None = None,
        **args: Any,
    ) -> Callable[[Body | Task], PartitionedTask]:
        """Declare a template whose instances are spread over ``partition_count`` partitions of the store.

        :param partition_count: it is stored, and can't be changed for a template once it has been started.
        :param partition_selector: ``(partition_count, instance name)`` to an index; a stable hash by default.
        :param enabled_partitions: the indices that this process polls; all by default.

        The other options are those of :meth:`task`.
        """
        _check_parentheses(body, "partitioned_task(partition_count=...)")
        check_free_arguments(args, _TASK_OPTIONS, "a partitioned task, which gets its schedule from schedule_task()")

        def declare(body: Body | Task) -> PartitionedTask:
            return self._add(
                PartitionedTask(
                    name=_name(name, body),
                    body=_body(body),
                    args=args,
                    partition_count=partition_count,
                    partition_selector=partition_selector,
                    enabled_partitions=enabled_partitions,
                    enabled=enabled,
                    execution_mode=execution_mode,
                    failure_mode=failure_mode,
                    lease_duration=lease_duration,
                    timeout=timeout,
                    fast_forward=fast_forward,
                    max_attempts=max_attempts,
                    retry_delay=retry_delay,
                )
            )

        return declare

    def fixture(self, name: str | None = None) -> Callable[[_FixtureT], _FixtureT]:
        """Declare an asynchronous generator function as a fixture: what it yields is ``context.NAME`` in every body.

        Fixtures are set up in order before the first run, and torn down in reverse after the last body ended.
        """
        if name is not None:
            check_attribute_name(name, RESERVED)  # here, since it is the function itself where the parentheses were left out

        def declare(fixture: _FixtureT) -> _FixtureT:
            self.use_fixture(getattr(fixture, "__name__", "") if name is None else name, fixture)
            return fixture

        return declare

    def use_fixture(self, name: str, fixture: Fixture) -> None:
        """Add ``fixture`` under ``name``; see :meth:`fixture`."""
        check_attribute_name(name, RESERVED)
        if name in self._fixtures:
            raise ConfigurationError(f"There is a fixture {name!r} already; pass another name=...")
        if not inspect.isasyncgenfunction(inspect.unwrap(fixture)):
            raise ConfigurationError(f"The fixture {name!r} is not an asynchronous generator function; use 'async def' and 'yield'")
        try:
            inspect.signature(fixture).bind(*_arguments(fixture, None))
        except TypeError as error:
            raise ConfigurationError(f"The fixture {name!r} can't be called with app_context alone: {error}") from None
        self._fixtures[name] = fixture

    def middleware(self, middleware: _MiddlewareT) -> _MiddlewareT:
        """Declare a function of ``(context, next)`` that wraps every run, outside those that are declared after it."""
        self.use_middleware(middleware)
        return middleware

    def use_middleware(self, middleware: Middleware) -> None:
        """Add ``middleware``; see :meth:`middleware`."""
        if not callable(middleware):
            raise ConfigurationError(f"The middleware {middleware!r} can't be called; pass 'async def middleware(context, next)'")
        self._middlewares.append(middleware)

    def use_instrumentation(self, instrumentation: Instrumentation) -> None:
        """Tell ``instrumentation`` of ticks, calls to the store and lost leases. Several may be used."""
        if not isinstance(instrumentation, Instrumentation):
            raise ConfigurationError(f"{instrumentation!r} is not a pyncette.Instrumentation; derive from that")
        self._instrumentations.append(instrumentation)

    def _add(self, task: _TaskT) -> _TaskT:
        if task.name in self._tasks:
            raise ConfigurationError(f"There is a task {task.name!r} already; pass another name=... to one of them")
        self._tasks[task.name] = task
        return task

    # --- running ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def create(self, *, clock: Clock | None = None, fixtures: bool = True) -> AsyncIterator[PyncetteContext]:
        """Open the store and set up the fixtures; at the end shut down, tear the fixtures down, and close the store.

        With the context, tasks can be scheduled and looked up, and run with :meth:`PyncetteContext.run`. ``fixtures=False`` leaves the
        fixtures out, for tools that look at what is stored and run nothing.
        """
        async with contextlib.AsyncExitStack() as stack:
            repository = await stack.enter_async_context(self._open())
            for each in self._instrumentations:
                repository = ObservedRepository(repository, each)
            aligned = AlignedClock(self._clock if clock is None else clock)
            if isinstance(repository, SupportsServerTime):
                await aligned.align(repository.server_time)
            declared = self._fixtures if fixtures else {}
            app_context = PyncetteContext(
                repository, aligned, self._settings, self.tasks, chained(self._middlewares), reserved=RESERVED, fixtures=declared
            )
            for task in self.tasks:
                if isinstance(task, PartitionedTask) and task.enabled:
                    await check_partition_count(repository, aligned, task)
            for name, fixture in declared.items():
                opened = contextlib.asynccontextmanager(fixture)
                app_context.values[name] = await stack.enter_async_context(opened(*_arguments(fixture, app_context)))
            stack.push_async_callback(app_context.close)  # last in, first out: bodies end before fixtures do
            yield app_context

    async def run(self) -> None:
        """Create the application and run it until it is shut down; see :meth:`PyncetteContext.run`."""
        async with self.create() as app_context:
            await app_context.run()

    def main(self) -> None:
        """Run as a program: log to standard output; the first SIGINT or SIGTERM drains, the second ends the process.

        With ``USE_UVLOOP=1`` in the environment the event loop is uvloop's. A mistake in the configuration, or a store that
        can't be reached at the start, is a line on standard error and exit code 1.
        """
        program.main(self.create)


_TASK_OPTIONS = tuple(
    parameter.name
    for method in (Pyncette.task, Pyncette.partitioned_task)
    for parameter in inspect.signature(method).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
)
_OPTIONS = tuple(
    parameter.name for parameter in inspect.signature(Pyncette).parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
)


def _name(name: str | None, body: Body | Task) -> str:
    if name is not None:
        return name
    inferred = getattr(_body(body), "__name__", None)
    if not isinstance(inferred, str):
        raise ConfigurationError(f"{body!r} has no name to be stored under; pass name=...")
    return inferred


def _check_parentheses(body: object, decorator: str) -> None:
    if body is not None:
        raise ConfigurationError(f"A decorator needs its parentheses, and takes options by name; write @app.{decorator}")


def _arguments(fixture: Fixture, app_context: PyncetteContext | None) -> Sequence[PyncetteContext | None]:
    return [app_context] if inspect.signature(fixture).parameters else []


def _body(body: Body | Task) -> Body:
    return body.body if isinstance(body, Task) else body
