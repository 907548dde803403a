"""Pyncette, the application: you declare tasks, fixtures and middlewares on it, and it creates what runs them."""

import contextlib
import dataclasses
import enum
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Literal

from pyncette import program
from pyncette.app_context import PyncetteContext
from pyncette.blocking import BlockingClient
from pyncette.checks import check_count, check_duration, check_type, one_slip_from
from pyncette.client import Client
from pyncette.clock import AlignedClock, Clock, SystemClock
from pyncette.context import RESERVED, chained
from pyncette.declaring import Declarations, Fixture
from pyncette.errors import ConfigurationError
from pyncette.hooks import Instruments
from pyncette.layout import agree_on_layouts
from pyncette.signatures import fixture_arguments
from pyncette.store import urls as backends
from pyncette.store.contract import Repository, SupportsServerTime
from pyncette.store.memory import memory_repository
from pyncette.store.observed import ObservedRepository
from pyncette.values import plain_duration, shown
from pyncette.worker.executors import ConcurrentExecutor, Executor
from pyncette.worker.settings import Settings

__all__ = ["Fixture", "Pyncette"]

logger: logging.Logger = logging.getLogger(__name__)


class _Url(enum.Enum):
    """Distinguishes a URL that was left out from one that is None, for example because an environment variable is not set."""

    LEFT_OUT = "left out"


class Pyncette(Declarations):
    """An application. Declare tasks on it, then run it: ``app.main()`` in a program, ``await app.run()`` in an event loop.

    :param url: where schedules are kept, for example ``"sqlite:///pyncette.db"``, or a ``repository_factory``. Without either:
        in memory, or in the SQLite file ``sqlite_database`` if that is given. None, as ``os.environ.get()`` may return, also
        means in memory, with a warning at startup.
    :param repository_factory: instead of a URL; ``repository_options`` are its options.
    :param poll_interval: how long a change made by another process may go unnoticed. Tasks that are already known start on time
        anyway.
    :param concurrency_limit: how many bodies run at once in this process. Nothing is claimed without a free slot.
    :param batch_size: how many rows are claimed or settled in one call to the store.
    :param sync_workers: how many of these may be plain functions, which run in threads.
    :param shutdown_timeout: how long to wait for running bodies at shutdown before cancelling them; None: until they end.
    :param executor_cls: where bodies run; :class:`~pyncette.SynchronousExecutor` runs them one after another.
    :param log_runs: a line at INFO for each run that has ended, by the logger ``pyncette.runs``.
    :param clock: where time comes from; see :mod:`pyncette.testing`.

    Raises :class:`~pyncette.errors.ConfigurationError`, or another :class:`~pyncette.errors.PyncetteError` if the backend is
    not available. Opens no connection yet.
    """

    def __init__(
        self,
        url: str | backends.RepositoryFactory | Literal[_Url.LEFT_OUT] | None = _Url.LEFT_OUT,
        *,
        repository_factory: backends.RepositoryFactory | None = None,
        poll_interval: timedelta = timedelta(seconds=1),
        concurrency_limit: int = 500,
        batch_size: int = 500,
        sync_workers: int = 32,
        shutdown_timeout: timedelta | None = None,
        executor_cls: Callable[[int, Callable[[], None]], Executor] = ConcurrentExecutor,
        log_runs: bool = False,
        clock: Clock | None = None,
        **repository_options: Any,
    ) -> None:
        check_duration(poll_interval, "poll_interval")
        check_count(concurrency_limit, "concurrency_limit")
        check_count(batch_size, "batch_size")
        check_count(sync_workers, "sync_workers")
        if shutdown_timeout is not None:
            check_duration(shutdown_timeout, "shutdown_timeout", zero=True)
        if not callable(executor_cls) or (isinstance(executor_cls, type) and not hasattr(executor_cls, "spawn")):
            raise ConfigurationError(
                f"The executor_cls is {shown(executor_cls)}; pass a class such as pyncette.SynchronousExecutor"
            )
        check_type(log_runs, bool, "log_runs")
        if clock is not None and (isinstance(clock, type) or not hasattr(clock, "monotonic")):
            raise ConfigurationError(f"The clock is {shown(clock)}; pass an object such as pyncette.testing.VirtualClock()")
        for name in repository_options:
            if (option := one_slip_from(name, _OPTIONS)) is not None:
                raise ConfigurationError(f"Pyncette() has no option {name!r}; did you mean {option!r}?")
        super().__init__()
        self._settings = Settings(
            poll_interval=plain_duration(poll_interval),
            batch_size=batch_size,
            concurrency_limit=concurrency_limit,
            shutdown_timeout=None if shutdown_timeout is None else plain_duration(shutdown_timeout),
            executor_cls=executor_cls,
            instrumentation=Instruments(self._instrumentations),
            listeners=self._listeners,
            log_runs=log_runs,
            sync_workers=sync_workers,
        )
        self._clock: Clock = SystemClock() if clock is None else clock
        self._open: Callable[[], AbstractAsyncContextManager[Repository]]
        self.use_repository(url, repository_factory=repository_factory, **repository_options)

    def use_repository(
        self,
        url: str | backends.RepositoryFactory | Literal[_Url.LEFT_OUT] | None = _Url.LEFT_OUT,
        *,
        repository_factory: backends.RepositoryFactory | None = None,
        **repository_options: Any,
    ) -> None:
        """Replace the store that was chosen when the application was created; for command lines and tests."""
        if url is not _Url.LEFT_OUT and callable(url):
            if repository_factory is not None:
                raise ConfigurationError("Two repository factories are given, the first by position; pass one of them")
            repository_factory = url
            url = _Url.LEFT_OUT
        #: Whether None was passed for the URL, and nothing else says where the rows are.
        self.lacks_url: bool = url is None and repository_factory is None and not repository_options
        if url is not None and url is not _Url.LEFT_OUT:
            if repository_factory is not None or repository_options:
                raise ConfigurationError(
                    "Both a URL and a repository_factory or its options are given; put the options into the URL"
                )
            self._open = backends.from_url(url)
            self._store = str(backends.BackendURL.parse(url))
            return
        self._store = ""
        if repository_factory is None:
            repository_factory = memory_repository
            if repository_options:
                from pyncette.store.sqlite import sqlite_repository  # imported here because it loads a driver

                repository_factory = sqlite_repository
        self._open = backends.from_factory(repository_factory, repository_options, _OPTIONS)

    def log_each_run(self) -> None:
        """Log a line for each run that has ended, as ``log_runs=True`` does; for command lines."""
        self._settings = dataclasses.replace(self._settings, log_runs=True)

    @property
    def shutdown_timeout(self) -> timedelta | None:
        """How long the shutdown may take; None: without limit."""
        return self._settings.shutdown_timeout

    # --- running ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def create(
        self,
        *,
        clock: Clock | None = None,
        fixtures: bool = True,
        layouts: Literal["agree", "compare", "ignore"] = "agree",
        looking: bool = False,
    ) -> AsyncIterator[PyncetteContext]:
        """Open the store and set up the fixtures; at the end shut down, tear the fixtures down, and close the store.

        With the context, tasks can be scheduled and looked up, and run with :meth:`PyncetteContext.run`.

        :param clock: instead of the application's.
        :param fixtures: False leaves the fixtures out, for tools that read the store and run nothing.
        :param layouts: a template is refused if the store has its instances under another layout (dynamic, partitioned, another
            ``partition_count``). ``"agree"`` stores the layout of a new one; ``"compare"`` writes nothing, for tools that only
            read; ``"ignore"`` does not compare, for tools that repair the layout.
        :param looking: create nothing, neither a file nor a table; raise :class:`~pyncette.errors.StoreMissingError` if the
            store does not exist yet. Can't be combined with ``"agree"``, which writes.

        Raises :class:`~pyncette.errors.ConfigurationError` for such a template, and the store's error if it can't be opened.
        """
        async with contextlib.AsyncExitStack() as stack:
            repository, aligned, store = await stack.enter_async_context(self._opened(clock, looking=looking))
            declared = self._fixtures if fixtures else {}
            app_context = PyncetteContext(
                repository,
                aligned,
                self._settings,
                self.tasks,
                chained(self._middlewares),
                reserved=RESERVED,
                fixtures=declared,
                store=store,
            )
            stack.push_async_callback(app_context.close_registrar)
            if layouts != "ignore":
                await agree_on_layouts(repository, aligned, self.tasks, write=layouts == "agree")
            stack.callback(app_context.leave, "the store")
            for name, fixture in declared.items():
                opened = contextlib.asynccontextmanager(fixture)
                app_context.values[name] = await stack.enter_async_context(opened(*fixture_arguments(fixture, app_context)))
                stack.callback(app_context.leave, f"fixture {name!r}")
            stack.push_async_callback(app_context.close)  # in reverse order: bodies end before fixtures
            yield app_context

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Open the store for a process that schedules and looks up tasks but runs none, such as a web server.

        Neither sets up fixtures nor stores the static tasks. Can be used any number of times, also concurrently.

        Raises :class:`~pyncette.errors.ConfigurationError` for a template that the store has under another layout, as :meth:`create`
        does, and the store's error if it can't be opened.
        """
        async with self._opened() as (repository, clock, _):
            if not repository.shared and not self.lacks_url:
                logger.warning(
                    "The store is in memory, where no other process sees what this client schedules; pass a URL to Pyncette()"
                )
            client = Client(repository, clock, self.tasks, poll_interval=self._settings.poll_interval)
            try:
                await agree_on_layouts(repository, clock, self.tasks)
                yield client
            finally:
                await client.close_registrar()

    def blocking(self, *, timeout: timedelta | None = None) -> BlockingClient:
        """The same as :meth:`client` for code that is not asynchronous: threads, WSGI applications, scripts.

        Use it in a ``with``, or create one for a process and its children, whose threads can all use it; it is closed at exit.
        Opens no connection before the first call.

        :param timeout: how long any call may take; None: no limit beyond the timeouts of the store.
        """
        if timeout is not None:
            check_duration(timeout, "timeout")
        return BlockingClient(self.client, timeout)

    @contextlib.asynccontextmanager
    async def _opened(
        self, clock: Clock | None = None, *, looking: bool = False
    ) -> AsyncIterator[tuple[Repository, AlignedClock, str]]:
        """The open store, its clock, and its name for logs. Nothing can be declared until it is closed."""
        with self._in_use():
            # not in tests, which use virtual time
            if self.lacks_url and not looking and isinstance(self._clock if clock is None else clock, SystemClock):
                logger.warning(
                    "The URL of the store is None, perhaps because an environment variable is not set: schedules are kept in the memory of this "
                    "process, and lost when it ends. Set the variable, or write Pyncette('memory://') if that is what you want"
                )
            async with (backends.looking(self._open) if looking else self._open)() as repository:
                store = self._store or type(repository).__name__
                if self._instrumentations:
                    repository = ObservedRepository(repository, self._settings.instrumentation)
                aligned = AlignedClock(self._clock if clock is None else clock)
                if isinstance(repository, SupportsServerTime):
                    await aligned.align(repository.server_time)
                yield repository, aligned, store

    async def run(self) -> None:
        """Create the application and run it until it is shut down; see :meth:`PyncetteContext.run`."""
        async with self.create() as app_context:
            await app_context.run()

    def main(self) -> None:
        """Run as a program: log to standard output; the first SIGINT or SIGTERM drains, the second ends the process.

        With a ``shutdown_timeout``, the process ends at most a second after it, whatever body, thread or call to the store is
        in the way, and logs what it left behind. Otherwise ``main()`` returns when everything has ended. Outside the main
        thread it handles no signals and never ends the process.

        With ``USE_UVLOOP=1`` in the environment, it uses uvloop; LOG_LEVEL is the lowest level to log. A mistake in the
        configuration, or an unreachable store at startup, prints a line to standard error and exits with code 1.
        """
        program.main(self.create, self.shutdown_timeout)


_OPTIONS = tuple(
    parameter.name for parameter in inspect.signature(Pyncette).parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
)
