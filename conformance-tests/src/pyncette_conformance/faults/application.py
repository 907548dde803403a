"""The application that a plan describes, with bodies that log what they do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette import Context, ExecutionMode, Pyncette, Task, with_heartbeat
from pyncette.backends import from_url
from pyncette.clock import SystemClock, to_microseconds
from pyncette.repository import Repository
from pyncette_conformance.faults.failpoints import Action, Failpoints, Fault
from pyncette_conformance.faults.plan import GENERATION, Kind, Plan, TaskPlan
from pyncette_conformance.faults.recorder import Recorder
from pyncette_conformance.faults.runlog import RunLog, What, monotonic

__all__ = ["WrongClock", "build", "declare"]


class WrongClock(SystemClock):
    """The machine's clock, with the ``faults`` of clocks."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = [fault for fault in faults if fault.site == "clock"]

    def now(self) -> datetime:
        elapsed = monotonic()
        # One that is ahead was always so.
        ahead = sum(fault.seconds for fault in self._faults if fault.action is Action.AHEAD or fault.nth <= elapsed)
        return datetime.now(UTC) + timedelta(seconds=ahead)


def build(url: str, plan: Plan, log: RunLog, *, faults: Sequence[Fault] = (), seed: int = 0, **settings: Any) -> Pyncette:
    """An application on the store at ``url``; ``settings`` are parameters of :class:`~pyncette.Pyncette`."""
    opened = from_url(url)

    @contextlib.asynccontextmanager
    async def repository() -> AsyncIterator[Repository]:
        async with opened() as inner, contextlib.aclosing(Failpoints(Recorder(inner, log), faults, log, seed)) as outer:
            yield outer

    app = Pyncette(repository_factory=repository, clock=WrongClock(faults), **settings)

    @app.fixture()
    async def fixtures_close_last() -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.write(What.DOWN)

    for task in plan.tasks:
        declare(app, task, log)
    return app


def declare(app: Pyncette, plan: TaskPlan, log: RunLog) -> Task:
    """Declare one task of a plan."""
    body = _body(plan, log)
    if plan.heartbeat is not None:
        body = with_heartbeat(lease_remaining_ratio=plan.heartbeat, cancel_on_lease_lost=True)(body)
    options: dict[str, Any] = {
        "name": plan.name,
        "lease_duration": timedelta(seconds=plan.lease),
        "execution_mode": ExecutionMode.AT_MOST_ONCE if plan.at_most_once else ExecutionMode.AT_LEAST_ONCE,
    }
    match plan.kind:
        case Kind.INTERVAL:
            return app.task(interval=timedelta(seconds=plan.every), **options)(body)
        case Kind.CRON:
            return app.task(schedule=f"* * * * * */{plan.every:.0f}", **options)(body)
        case Kind.DYNAMIC:
            return app.dynamic_task(**options)(body)
        case Kind.PARTITIONED:
            return app.partitioned_task(partition_count=plan.partition_count, **options)(body)


def _body(plan: TaskPlan, log: RunLog) -> Callable[[Context], Any]:
    async def body(context: Context) -> None:
        run = {
            "name": context.name,
            "generation": context.args.get(GENERATION, 0),
            "at": to_microseconds(context.scheduled_at),
            "attempt": context.attempt,
            "token": context.fencing_token,
            "execution_id": context.execution_id,
        }
        log.write(What.START, deadline=_deadline(context), **run)
        try:
            await asyncio.sleep(context.args.get("body", plan.body))
            if context.attempt <= plan.failures:
                raise RuntimeError(f"Attempt {context.attempt} fails on purpose")
        except BaseException as error:
            log.write(What.END, deadline=_deadline(context), ok=False, note=repr(error)[:100], **run)
            raise
        log.write(What.END, deadline=_deadline(context), **run)

    return body


def _deadline(context: Context) -> float:
    # Read first: a pause in between must not make the deadline later than it is.
    now = monotonic()
    remaining = context.lease_remaining.total_seconds()
    return now + remaining if remaining > 0 else 0.0
