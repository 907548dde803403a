"""Ways to break Pyncette, each applied inside a worker by ``--mutant FILE:FUNCTION``: a judge that acquits them is not a judge.

Those of the row's life break the stores that use :mod:`pyncette.lifecycle`, as SQLite does.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pyncette.repository import Commit, Extend, Outcome, Row, Settlement, Target
from pyncette.schedule import Schedule
from pyncette.store import lifecycle
from pyncette.task import ExecutionMode
from pyncette.worker import execution, loop

__all__ = [
    "claims_early",
    "commit_without_revision",
    "late_extend",
    "no_lease_check",
    "non_idempotent_extend",
    "now_once_per_tick",
    "runs_before_commit",
    "skips_every_other",
]

Settle = Callable[[Row | None, datetime, Settlement], tuple[Row | None, Outcome]]


def _wrap_settle(change: Callable[[Settle, Row, datetime, Settlement], tuple[Row | None, Outcome]]) -> None:
    original = lifecycle.settle

    def settle(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        return original(row, now, settlement) if row is None else change(original, row, now, settlement)

    lifecycle.settle = settle


def no_lease_check() -> None:
    """Whoever settles is believed to hold the row."""

    def change(original: Settle, row: Row, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        return original(row, now, replace(settlement, claim=settlement.claim._replace(lease=row.lease or "")))

    _wrap_settle(change)


def commit_without_revision() -> None:
    """A commit does not notice that the schedule was replaced."""

    def change(original: Settle, row: Row, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if isinstance(settlement, Commit):
            settlement = replace(settlement, claim=settlement.claim._replace(revision=row.revision))
        return original(row, now, settlement)

    _wrap_settle(change)


def non_idempotent_extend() -> None:
    """A heartbeat adds to the lease instead of naming its end."""

    def change(original: Settle, row: Row, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if isinstance(settlement, Extend) and row.locked_until is not None:
            settlement = replace(settlement, until=row.locked_until + (settlement.until - now))
        return original(row, now, settlement)

    _wrap_settle(change)


def late_extend() -> None:
    """A heartbeat that arrives after the commit takes the lease again."""

    def change(original: Settle, row: Row, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        if isinstance(settlement, Extend) and row.locked_until is None and row.lease == settlement.claim.lease:
            until = settlement.until
            return row._replace(locked_until=until, ready_at=max(row.execute_after, until)), Outcome.APPLIED
        return original(row, now, settlement)

    _wrap_settle(change)


def now_once_per_tick() -> None:
    """Claims are made with the time at which a tick began, and a tick takes ten seconds."""
    claim = loop.Engine._claim
    began: list[datetime] = []

    async def one_claim(self: loop.Engine, lane: Any, now: datetime, limit: int) -> Any:
        if not began or now - began[0] > timedelta(seconds=10):
            began[:] = [now]
        return await claim(self, lane, began[0], limit)

    loop.Engine._claim = one_claim  # type: ignore[method-assign]


def claims_early() -> None:
    """Rows are taken a quarter of a second before they are ready."""
    original = lifecycle.register

    def register(*arguments: Any, **options: Any) -> Row:
        row = original(*arguments, **options)
        return row if row.ready_at is None else row._replace(ready_at=row.ready_at - timedelta(seconds=0.25))

    lifecycle.register = register


def skips_every_other() -> None:
    """The occurrence after the next one follows."""
    original = execution.target

    def target(task: Any, claim: Any, schedule: Schedule, now: Callable[[], datetime]) -> Target | None:
        following = original(task, claim, schedule, now)
        after = None if following is None else schedule.next(following.occurrence)
        return None if after is None else Target(after, after)

    execution.target = target


def runs_before_commit() -> None:
    """AT_MOST_ONCE in the order of AT_LEAST_ONCE."""
    original = execution.Execution.run

    async def run(self: execution.Execution) -> None:
        self.task = replace(self.task, execution_mode=ExecutionMode.AT_LEAST_ONCE)
        await original(self)

    execution.Execution.run = run  # type: ignore[method-assign]
