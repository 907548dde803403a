"""The client for synchronous code: every call of the asynchronous client, from any thread."""

import asyncio
import functools
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Protocol, Self, TypeVar, cast, overload

from pyncette.background import Background, NotBegunError, starting
from pyncette.client import Client, JoinedClient, driven, repository_within
from pyncette.errors import PyncetteError
from pyncette.instances import Instance
from pyncette.tasks import Template

__all__ = ["BlockingCalls", "ConnectedCalls", "check_no_loop"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)


class _Method(Protocol[_P, _R_co]):
    """A function as an attribute of a class. Some type checkers don't treat a plain ``Callable`` there as a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Callable[_P, _R_co]: ...

    def __call__(self, client: "BlockingCalls", /, *args: _P.args, **kwargs: _P.kwargs) -> _R_co: ...


def _blocking(method: Callable[Concatenate[Client, _P], Coroutine[Any, Any, _R]]) -> _Method[_P, _R]:
    """``method``, made synchronous: it returns when the call is done."""

    @functools.wraps(method)
    def call(self: "BlockingCalls", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._call(lambda client: method(client, *args, **kwargs))

    call.__qualname__ = f"BlockingClient.{method.__name__}"
    return cast("_Method[_P, _R]", call)


class BlockingCalls:
    """Each call of :class:`~pyncette.Client`; a test checks that none is missing."""

    def schedule_tasks(self, task: Template, instances: Iterable[Instance], *, force: bool = False, by: str | None = None) -> None:
        instances = list(instances)  # in this thread, because what a generator uses may be bound to it
        self._call(lambda client: client.schedule_tasks(task, instances, force=force, by=by))

    schedule_tasks.__doc__ = Client.schedule_tasks.__doc__

    schedule_task: Final = _blocking(Client.schedule_task)
    unschedule_task: Final = _blocking(Client.unschedule_task)
    reschedule_task: Final = _blocking(Client.reschedule_task)
    get_task: Final = _blocking(Client.get_task)
    list_tasks: Final = _blocking(Client.list_tasks)
    list_runs: Final = _blocking(Client.list_runs)
    list_workers: Final = _blocking(Client.list_workers)
    list_static_tasks: Final = _blocking(Client.list_static_tasks)
    list_paused_templates: Final = _blocking(Client.list_paused_templates)
    count_tasks: Final = _blocking(Client.count_tasks)
    list_undeclared: Final = _blocking(Client.list_undeclared)
    discard_undeclared: Final = _blocking(Client.discard_undeclared)
    discard_tasks: Final = _blocking(Client.discard_tasks)
    pause_task: Final = _blocking(Client.pause_task)
    resume_task: Final = _blocking(Client.resume_task)
    pause_template: Final = _blocking(Client.pause_template)
    resume_template: Final = _blocking(Client.resume_template)
    trigger_task: Final = _blocking(Client.trigger_task)
    backfill_task: Final = _blocking(Client.backfill_task)
    backfill_times: Final = _blocking(Client.backfill_times)
    retry_task: Final = _blocking(Client.retry_task)
    retry_tasks: Final = _blocking(Client.retry_tasks)

    def _call(self, function: Callable[[Client], Coroutine[Any, Any, _R]]) -> _R:
        """The result of the coroutine function ``function``, called with the asynchronous client."""
        raise NotImplementedError


class ConnectedCalls(BlockingCalls):
    """The calls of a client with a separate connection."""

    def within(self, connection: object) -> "BlockingJoinedClient":
        """A client whose calls are part of the open transaction on ``connection``, as with :meth:`Client.within`.

        The statements run on the connection in the calling thread, so the client can be used wherever the connection can.

        :param connection: a synchronous connection to the database of the tasks: from psycopg 3, PyMySQL or sqlite3, a
            Connection or Session of SQLAlchemy on any of these, or ``django.db.connection``.
        """
        client = self._call(_itself)
        repository = repository_within(client.repository, connection, blocking=True)

        async def ask(function: Callable[[Any], Coroutine[Any, Any, _R]]) -> _R:
            return self._call(function)

        return BlockingJoinedClient(JoinedClient(client, repository, ask))


class BlockingClient(ConnectedCalls):
    """Schedules and looks up the tasks of one application, for threads; see :meth:`Pyncette.blocking`.

    All threads of a process share the connections to the store, and concurrent registrations go there together. The client
    connects at its first call, separately in each process: a client created before a fork also works in the child.

    A call that is interrupted, for example by Ctrl-C, or that exceeds the timeout is cancelled. It may have been applied.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Client]], timeout: timedelta | None = None) -> None:
        self._open = opened
        self._timeout = None if timeout is None else timeout.total_seconds()
        self._closed = False
        self._background: Background[Client] | None = None

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._background is not None and self._background.usable:
            warnings.warn(f"unclosed {self!r}; use it in a `with`, or call its close()", ResourceWarning, source=self, stacklevel=2)
            self._background.begin_to_end()

    def open(self) -> None:
        """Connect to the store now instead of at the first call, to find out at once whether it is reachable."""
        self._call(_nothing)

    def close(self) -> None:
        """Close the connection to the store, after waiting a few seconds for calls in progress in other threads.

        May be called again. Any other call raises PyncetteError from now on.
        """
        self._closed = True
        with starting():
            background = self._background
        if background is not None and background.usable:
            background.begin_to_end()
            background.join()

    def _call(self, function: Callable[[Client], Coroutine[Any, Any, _R]]) -> _R:
        check_no_loop()
        while True:
            background = self._background
            if background is None or self._closed or not background.usable:
                background = self._start()
            try:
                return background.call(function, self._timeout)
            except NotBegunError:  # because it has just ended, before a fork or permanently
                continue

    def _start(self) -> Background[Client]:
        _check_threads()
        with starting():
            self._check_open()
            if self._background is None or not self._background.usable:
                background = Background(self._open)
                background.start()
                self._background = background
            return self._background

    def _check_open(self) -> None:
        if self._closed:
            raise PyncetteError("The client is closed; create another with app.blocking()")


class BlockingJoinedClient(BlockingCalls):
    """A client within your transaction, see :meth:`BlockingClient.within`."""

    def __init__(self, client: JoinedClient) -> None:
        self._client = client

    def _call(self, function: Callable[[Client], Coroutine[Any, Any, _R]]) -> _R:
        return driven(function(self._client))


async def _nothing(client: Client) -> None: ...


async def _itself(client: Client) -> Client:
    return client


def check_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PyncetteError(
        "A blocking client would block the event loop of this thread; await the same call of app.client(), or of "
        "context.app_context in the body of a task, or run this one in asyncio.to_thread()"
    )


def _check_threads() -> None:
    """Raise PyncetteError if threads are not real ones: an event loop in one of them would stop all others, or be stopped by them."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise PyncetteError("A blocking client needs real threads, which gevent and eventlet replace; use threaded workers")
