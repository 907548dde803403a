"""What type checkers see of the public names. Never run: ``nox -s types`` has mypy --strict, pyright, pyrefly and ty accept it, and refuse each
line with a ``type: ignore``.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pyncette import (
    BlockingClient,
    Client,
    ConcurrentExecutor,
    ConfigurationError,
    Context,
    ExecutionMode,
    Executor,
    FailureMode,
    Instance,
    LeaseLostException,
    Middleware,
    Pyncette,
    PyncetteContext,
    PyncetteError,
    RepositoryError,
    ScheduledTask,
    ScheduleError,
    SynchronousExecutor,
    Task,
    TaskInstance,
    TaskPage,
    Template,
    TransientRepositoryError,
    with_heartbeat,
)
from pyncette import __version__ as version
from pyncette.backends import Backend, BackendURL
from pyncette.errors import BackendImportError, BackendNotInstalledError, UnknownBackendError
from pyncette.memory import memory_repository
from pyncette.repository import Repository, State
from pyncette.schedule import Schedule
from pyncette.sqlite import sqlite_repository
from pyncette.task import DynamicTask, PartitionedTask, StaticTask
from pyncette.testing import VirtualClock, running

assert_type(version, str)

# --- applications -------------------------------------------------------------------------------------------------------

app = Pyncette()
Pyncette("sqlite:///pyncette.db")
Pyncette(sqlite_database="pyncette.db", sqlite_timeout=5.0)
Pyncette(repository_factory=sqlite_repository, sqlite_database="pyncette.db")
Pyncette(repository_factory=memory_repository)
Pyncette(sqlite_repository, sqlite_database="pyncette.db")
Pyncette(
    "memory://",
    poll_interval=timedelta(seconds=1),
    concurrency_limit=10,
    batch_size=10,
    shutdown_timeout=timedelta(seconds=10),
    executor_cls=SynchronousExecutor,
    clock=VirtualClock(datetime(2026, 1, 1, tzinfo=UTC)),
)
Pyncette(executor_cls=ConcurrentExecutor)
Pyncette(5)  # type: ignore[arg-type]
Pyncette(poll_interval=1)  # type: ignore[arg-type]
Pyncette(executor_cls="synchronous")  # type: ignore[arg-type]

to_main: Callable[[], None] = app.main
to_run: Callable[[], Coroutine[Any, Any, None]] = app.run
assert_type(app.tasks, Sequence[Task])


class OwnExecutor:
    def __init__(self, concurrency_limit: int, slot_freed: Callable[[], None]) -> None: ...

    @property
    def free_slots(self) -> int:
        return 1

    async def spawn(self, execution: Coroutine[Any, Any, None]) -> None: ...

    async def drain(self, timeout: float | None) -> bool:
        return True

    def cancel(self) -> None: ...


own_executor: type[Executor] = OwnExecutor
Pyncette(executor_cls=OwnExecutor)

# --- declaring ----------------------------------------------------------------------------------------------------------


@app.task(
    schedule="0 9 * * *",
    timezone="Europe/London",
    name="other name",
    enabled=True,
    execution_mode=ExecutionMode.AT_LEAST_ONCE,
    failure_mode=FailureMode.UNLOCK,
    lease_duration=timedelta(seconds=60),
    fast_forward=True,
    max_attempts=3,
    retry_delay=timedelta(seconds=5),
    timeout=timedelta(minutes=5),
    args={"tz": "of the body"},
    greeting="a free argument",
    times=3,
)
async def static(context: Context) -> None: ...


@app.task(interval=timedelta(seconds=10), execution_mode=ExecutionMode.BEST_EFFORT)
@app.task(interval=timedelta(seconds=20), name="twice")
async def stacked(context: Context) -> int:
    return 1


@app.dynamic_task(failure_mode=FailureMode.COMMIT, greeting="hello")
@with_heartbeat(lease_remaining_ratio=0.3, cancel_on_lease_lost=True)
async def dynamic(context: Context) -> None: ...


@app.partitioned_task(partition_count=32, partition_selector=lambda count, name: len(name) % count, enabled_partitions=[1, 2])
@with_heartbeat()
async def partitioned(context: Context) -> None: ...


of_a_static_one: StaticTask[Coroutine[Any, Any, None], Context] = static
of_another: StaticTask[Coroutine[Any, Any, str], Context] = stacked  # type: ignore[assignment]
assert_type(dynamic, DynamicTask[Coroutine[Any, Any, None], Context])
assert_type(partitioned, PartitionedTask[Coroutine[Any, Any, None], Context])
task: Task = static
of_any_kind: Sequence[Task] = [static, dynamic, partitioned]
templates: Sequence[Template] = [dynamic, partitioned]
a_template: Template = static  # type: ignore[assignment]
assert_type(static.name, str)
assert_type(static.args, Mapping[str, Any])
assert_type(static.schedule, Schedule)
assert_type(static.lease_duration, timedelta)
assert_type(partitioned.partition_count, int)


async def directly(context: Context) -> None:
    await static(context)
    await dynamic(context)
    assert_type(await stacked(context), int)
    assert_type(await with_heartbeats(context), str)
    assert_type(await in_thread_with_heartbeats(context), str)
    assert_type(in_thread_task(context), ScheduledTask | None)
    assert_type(await stacked.body(context), int)
    assert_type(await stacked.template(context), int)
    await stacked()  # type: ignore[call-arg]
    await stacked("context")  # type: ignore[arg-type]
    await stacked(context, 1)  # type: ignore[call-arg]
    await stacked(context=context, name="name")  # type: ignore[call-arg]
    length: str = await stacked(context)  # type: ignore[assignment]
    assert length
    await in_thread_task(context)  # type: ignore[misc]


def in_a_thread(context: Context) -> ScheduledTask | None:
    context.heartbeat_from_thread()
    return context.blocking.get_task(context.task)


def without_context_in_a_thread() -> None: ...


async def without_context() -> None: ...


in_thread_task = app.task(interval=timedelta(seconds=1))(in_a_thread)
in_thread_by_kind: StaticTask = in_thread_task


@app.dynamic_task()
@with_heartbeat()
async def with_heartbeats(context: Context) -> str:
    return context.name


@app.dynamic_task()
@with_heartbeat()
def in_thread_with_heartbeats(context: Context) -> str:
    return context.name


class Sender:
    async def send(self, context: Context) -> float:
        return 1.0

    async def __call__(self, context: Context) -> bytes:
        return b""


async def of_objects(context: Context) -> None:
    assert_type(await app.dynamic_task()(Sender().send)(context), float)
    assert_type(await app.dynamic_task(name="sender")(Sender())(context), bytes)


async def wants_more(context: Context, more: int) -> None: ...


async def wants_another(context: int) -> None: ...


async def may_have_more(context: Context, more: int = 1) -> None: ...


app.dynamic_task()(wants_more)  # type: ignore[arg-type]
app.dynamic_task()(wants_another)  # type: ignore[arg-type]
app.dynamic_task()(5)  # type: ignore[arg-type]
app.dynamic_task()(may_have_more)
app.task(interval=timedelta(seconds=1))(with_heartbeat()(in_a_thread))
app.task(interval=timedelta(seconds=1))(without_context_in_a_thread)  # type: ignore[arg-type]
app.dynamic_task()(without_context)  # type: ignore[arg-type]
app.task(interval=5)  # type: ignore[arg-type]
app.task(execution_mode="at_most_once")  # type: ignore[arg-type]
app.partitioned_task()  # type: ignore[call-arg]
app.dynamic_task(timeout=5)  # type: ignore[arg-type]
app.dynamic_task(args=["tz"])  # type: ignore[arg-type]
static.name = "frozen"  # type: ignore[misc]
static.enabled = False
static.enabled = "no"  # type: ignore[assignment]
partitioned.enabled_partitions = [0, 5]
partitioned.partition_count = 5  # type: ignore[misc]


@app.fixture()
async def connection() -> AsyncIterator[str]:
    yield "connection"


@app.fixture(name="counter")
async def counting(app_context: PyncetteContext) -> AsyncIterator[int]:
    app_context.add_to_context("added", 1)
    yield 1


assert_type(connection(), AsyncIterator[str])
app.use_fixture("third", counting)


@app.middleware
async def logged(context: Context, next: Callable[[], Awaitable[None]]) -> None:
    context.extra = 1
    await next()


a_middleware: Middleware = logged
app.use_middleware(logged)
decorated: Callable[[Context, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]] = logged


@app.middleware  # type: ignore[type-var]
async def without_next(context: Context) -> None: ...


# --- running ------------------------------------------------------------------------------------------------------------


async def body(context: Context) -> None:
    assert_type(context.task, Task | TaskInstance)
    assert_type(context.task.name, str)
    assert_type(context.task.template.lease_duration, timedelta)
    assert_type(context.name, str)
    assert_type(context.args, dict[str, Any])
    assert_type(context.scheduled_at, datetime)
    assert_type(context.app_context, PyncetteContext)
    assert_type(context.attempt, int)
    assert_type(context.fencing_token, int)
    assert_type(context.execution_id, str)
    assert_type(context.lease_expires_at, datetime)
    assert_type(context.lease_remaining, timedelta)
    await context.heartbeat()
    _: str = context.connection
    context.attempt = 5  # type: ignore[misc]


async def run() -> None:
    created: AbstractAsyncContextManager[PyncetteContext] = app.create(clock=VirtualClock())
    assert created
    async with app.create() as app_context:
        assert_type(app_context, PyncetteContext)
        assert_type(app_context.last_tick, datetime | None)
        assert_type(app_context.repository, Repository)
        await app_context.schedule_task(dynamic, "one", interval=timedelta(seconds=10), greeting="hi")
        await app_context.schedule_task(partitioned, "one", execute_at=datetime(2026, 1, 1, tzinfo=UTC), force=True)
        await app_context.schedule_task(dynamic, "one", schedule="* * * * *", timezone="UTC", name="a free argument", template=1)
        await app_context.schedule_task(dynamic, "one", interval=10)  # type: ignore[arg-type]
        await app_context.schedule_task(dynamic, 1)  # type: ignore[arg-type]
        await app_context.schedule_task(static, "one", interval=timedelta(seconds=10))  # type: ignore[arg-type]
        await app_context.schedule_task(task, "one", interval=timedelta(seconds=10))  # type: ignore[arg-type]
        await app_context.schedule_tasks(static, [])  # type: ignore[arg-type]
        await app_context.reschedule_task(static, interval=timedelta(seconds=10))  # type: ignore[arg-type]
        await app_context.pause_template(static)  # type: ignore[arg-type]
        await app_context.count_tasks(static)  # type: ignore[arg-type]
        for each in app.tasks:
            if isinstance(each, Template):
                await app_context.schedule_task(each, "one", interval=timedelta(seconds=10))
        instances = (Instance(name=str(number), interval=timedelta(hours=1), args={"number": number}) for number in range(10))
        await app_context.schedule_tasks(dynamic, instances, force=True)
        await app_context.schedule_tasks(dynamic, [Instance("positional")])  # type: ignore[call-arg]
        assert_type(await app_context.unschedule_task(dynamic, "one"), bool)
        assert_type(await app_context.pause_task(dynamic, "one"), bool)
        assert_type(await app_context.resume_task(static), bool)
        found = await app_context.get_task(dynamic, "one")
        assert_type(found, ScheduledTask | None)
        if found is not None:
            assert_type(found.name, str)
            assert_type(found.args, dict[str, Any])
            assert_type(found.schedule, Schedule)
            assert_type(found.scheduled_at, datetime)
            assert_type(found.state, State)
            assert_type(found.locked_until, datetime | None)
            assert_type(found.attempt, int)
            assert_type(found.error, str | None)
        page = await app_context.list_tasks(dynamic, limit=10, continuation_token=None)
        assert_type(page, TaskPage)
        assert_type(page.tasks, Sequence[ScheduledTask])
        assert_type(page.continuation_token, str | None)
        app_context.shutdown()
        await app_context.run()


# --- at the edge --------------------------------------------------------------------------------------------------------


def testing() -> None:
    clock = VirtualClock()

    async def main() -> int:
        async with running(app, clock) as app_context:
            assert_type(app_context, PyncetteContext)
            await clock.advance(timedelta(hours=24))
        return 1

    assert_type(clock.run(main()), int)
    assert_type(clock.now(), datetime)
    asyncio.Runner(loop_factory=clock.loop_factory)


def from_url(url: BackendURL) -> Mapping[str, Any]:
    assert_type(url.password, str | None)
    return {"sqlite_database": url.path}


Backend(contract_version=1, factory=sqlite_repository, prefix="sqlite_", from_url=from_url)

errors: Sequence[type[PyncetteError]] = [
    BackendImportError,
    BackendNotInstalledError,
    ConfigurationError,
    LeaseLostException,
    RepositoryError,
    ScheduleError,
    TransientRepositoryError,
    UnknownBackendError,
]
value_errors: Sequence[type[ValueError]] = [ConfigurationError, ScheduleError, UnknownBackendError]
import_errors: Sequence[type[ImportError]] = [BackendImportError, BackendNotInstalledError]
connection_errors: Sequence[type[ConnectionError]] = [TransientRepositoryError]


# --- clients ------------------------------------------------------------------------------------------------------------


async def web_server() -> None:
    async with app.client() as client:
        assert_type(client, Client)
        assert_type(await client.unschedule_task(dynamic, "name"), bool)


def threads() -> None:
    with app.blocking(timeout=timedelta(seconds=10)) as client:
        assert_type(client, BlockingClient)
        client.open()
        client.schedule_task(dynamic, "name", interval=timedelta(hours=1), greeting="hello")
        client.schedule_tasks(dynamic, [Instance(name="name", interval=timedelta(hours=1))])
        client.schedule_task(static, "name", interval=timedelta(hours=1))  # type: ignore[arg-type]
        client.schedule_tasks(static, [])  # type: ignore[arg-type]
        client.schedule_task(dynamic, 17, interval=timedelta(hours=1))  # type: ignore[arg-type]
        client.get_task()  # type: ignore[call-arg]
        assert_type(client.unschedule_task(dynamic, "name"), bool)
        assert_type(client.get_task(dynamic, "name"), ScheduledTask | None)
        assert_type(client.list_tasks(dynamic, limit=10), TaskPage)
        client.within(object()).schedule_task(dynamic, "name", interval=timedelta(hours=1))
    client.close()
