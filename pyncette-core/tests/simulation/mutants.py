"""Mistakes that others made, put into the engine one at a time: the simulation has to find each of them."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from pyncette import Retry, Task
from pyncette.clock import AlignedClock
from pyncette.errors import TransientRepositoryError
from pyncette.executors import ConcurrentExecutor
from pyncette.repository import ClaimResult, Commit, Extend, Outcome, Release, Row, Settlement
from pyncette.schedule import Bounded
from pyncette.store import lifecycle
from pyncette.store.history import Entry, Position
from pyncette.worker import execution, recording
from pyncette.worker.execution import Execution
from pyncette.worker.lanes import Lane
from pyncette.worker.loop import Engine
from pyncette.worker.recording import Recorder
from pyncette.worker.settlement import Answer, Settler, _Entry

__all__ = ["MUTANTS"]


def starts_after_the_lease() -> Any:
    """A body is started without a look at what is left of its lease."""
    original = Execution.__init__

    def __init__(self: Execution, *args: Any) -> None:
        original(self, *args)
        self.lease = self.lease._replace(deadline=self.lease.deadline + 1000.0)

    return mock.patch.object(Execution, "__init__", __init__)


@contextlib.contextmanager
def one_now_for_a_pass() -> Iterator[None]:
    """The time is read once for all polls of a pass, which may wait for slots in between."""
    original_pass, original_claim = Engine._pass, Engine._claim
    read: dict[Engine, datetime] = {}

    async def _pass(self: Engine) -> None:
        read[self] = self._clock.now()
        await original_pass(self)

    async def _claim(self: Engine, lane: Lane, now: datetime, limit: int) -> ClaimResult:
        return await original_claim(self, lane, read[self], limit)

    with mock.patch.multiple(Engine, _pass=_pass, _claim=_claim):
        yield


@contextlib.contextmanager
def claims_without_a_slot() -> Iterator[None]:
    """Bodies are limited by a semaphore, and leases tick in front of it."""
    semaphores: dict[ConcurrentExecutor, asyncio.Semaphore] = {}
    original = ConcurrentExecutor.spawn

    async def spawn(self: ConcurrentExecutor, execution: Coroutine[Any, Any, None]) -> None:
        semaphore = semaphores.setdefault(self, asyncio.Semaphore(self._limit))

        async def limited() -> None:
            async with semaphore:
                await execution

        await original(self, limited())

    with (
        mock.patch.object(ConcurrentExecutor, "spawn", spawn),
        mock.patch.object(Engine, "_free", lambda self: self._batch_size),
    ):
        yield


def _settling(rule: Callable[[Row | None, datetime, Settlement], tuple[Row | None, Outcome] | None]) -> Any:
    """With a store that settles by ``rule`` where that says something."""
    original = lifecycle.settle

    def settle(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome]:
        return rule(row, now, settlement) or original(row, now, settlement)

    return mock.patch.object(lifecycle, "settle", settle)


def commits_any_revision() -> Any:
    """A commit wins over a schedule that was registered while it ran."""
    original = lifecycle.settle

    def rule(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome] | None:
        if row is None or not isinstance(settlement, Commit):
            return None
        return original(row, now, replace(settlement, claim=settlement.claim._replace(revision=row.revision)))

    return _settling(rule)


def extends_after_the_commit() -> Any:
    """A heartbeat that comes late takes a row again that was given back."""

    def rule(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome] | None:
        if row is None or not isinstance(settlement, Extend) or row.lease != settlement.claim.lease or row.locked_until is not None:
            return None
        return row._replace(locked_until=settlement.until, ready_at=max(row.execute_after, settlement.until)), Outcome.APPLIED

    return _settling(rule)


def releases_any_lease() -> Any:
    """A release frees the row, whoever has it."""
    original = lifecycle.settle

    def rule(row: Row | None, now: datetime, settlement: Settlement) -> tuple[Row | None, Outcome] | None:
        if row is None or row.lease is None or not isinstance(settlement, Release):
            return None
        return original(row, now, replace(settlement, claim=settlement.claim._replace(lease=row.lease)))

    return _settling(rule)


def _answering(change: Callable[[Answer], Answer]) -> Any:
    """With outcomes that are understood as ``change`` says."""
    original = Settler.submit

    async def submit(self: Settler, settlement: Settlement, give_up_at: float) -> Answer:
        return change(await original(self, settlement, give_up_at))

    return mock.patch.object(Settler, "submit", submit)


def takes_gone_for_applied() -> Any:
    """AT_MOST_ONCE runs when its commit is sent again and finds no row."""
    return _answering(
        lambda answer: replace(answer, outcome=Outcome.APPLIED) if answer.outcome is Outcome.GONE and answer.resent else answer
    )


def takes_superseded_for_applied() -> Any:
    """AT_MOST_ONCE runs although its commit met another schedule."""
    return _answering(lambda answer: replace(answer, outcome=Outcome.APPLIED) if answer.outcome is Outcome.SUPERSEDED else answer)


def takes_lost_for_applied() -> Any:
    """AT_MOST_ONCE runs although its lease was taken over."""
    return _answering(lambda answer: replace(answer, outcome=Outcome.APPLIED) if answer.outcome is Outcome.LOST else answer)


def forgets_that_it_resends() -> Any:
    """AT_MOST_ONCE does not run when the answer to its commit was lost and the next is ALREADY."""
    return _answering(lambda answer: replace(answer, resent=False))


def drops_settlements_that_fail() -> Any:
    """An outcome that the store did not take at once is given up."""

    def _unless_too_late(self: Settler, batch: Sequence[_Entry], error: TransientRepositoryError) -> list[_Entry]:
        for entry in batch:
            self._answer(entry, Answer(None, True, error))
        return []

    return mock.patch.object(Settler, "_unless_too_late", _unless_too_late)


def drops_a_batch_for_one_bad_row() -> Any:
    """A batch that can't be settled because of one row is given up as a whole."""
    original = Settler._send

    async def _send(self: Settler, batch: Sequence[_Entry]) -> list[_Entry]:
        outer, self._repository = self._repository, mock.Mock(wraps=self._repository)

        async def settle(now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
            try:
                return await outer.settle(now, settlements)
            except TransientRepositoryError:
                raise
            except Exception:
                return [Outcome.LOST for _ in settlements]

        self._repository.settle = settle  # type: ignore[method-assign]
        try:
            return await original(self, batch)
        finally:
            self._repository = outer

    return mock.patch.object(Settler, "_send", _send)


def keeps_unstarted_claims() -> Any:
    """What was claimed but not started at shutdown stays leased."""
    return mock.patch.object(Execution, "release_unstarted", lambda self: None)


def keeps_cancelled_leases() -> Any:
    """Bodies that are cancelled at shutdown keep their leases."""
    original = Settler.put

    def put(self: Settler, settlement: Settlement, give_up_at: float, done: Callable[[Answer], None]) -> None:
        if not (isinstance(settlement, Release) and settlement.started and settlement.retry_at <= self._clock.now()):
            original(self, settlement, give_up_at, done)

    return mock.patch.object(Settler, "put", put)


def starts_while_draining() -> Any:
    """Bodies are started that were claimed before the shutdown."""
    return mock.patch.object(Engine, "stop", _stop_without_draining)


def _stop_without_draining(self: Engine) -> None:
    if self._ending._end_by is None:
        self._ending._end_by = self._clock.monotonic() + self._ending._timeout
    self._wake()


def commits_what_failed() -> Any:
    """A run that raised counts as done."""

    return mock.patch.object(Execution, "_failed", lambda self, schedule, error: self._succeeded(schedule))


def trusts_the_local_clock() -> Any:
    """The store's clock is not asked."""

    async def align(self: AlignedClock, server_time: object) -> None:
        return None

    return mock.patch.object(AlignedClock, "align", align)


def forgets_lost_static_rows() -> Any:
    """Static tasks are registered at the start only."""
    original = Engine._claim

    async def _claim(self: Engine, lane: Lane, now: datetime, limit: int) -> ClaimResult:
        return replace(await original(self, lane, now, limit), missing=())

    return mock.patch.object(Engine, "_claim", _claim)


def runs_whenever_it_likes() -> Any:
    """The jitter of an occurrence is another at each look."""
    return mock.patch.object(
        Bounded, "execute_after", lambda self, occurrence, key: occurrence + self.jitter * (next(_looks) % 7 / 7)
    )


def goes_on_after_the_end() -> Any:
    """The end of a schedule is overlooked."""
    return mock.patch.object(Bounded, "_unless_over", lambda self, occurrence: occurrence)


def counts_no_runs() -> Any:
    """A schedule with max_runs continues forever."""
    return mock.patch.object(execution, "memo_of_commit", lambda claim, schedule, memo: memo)


def retries_at_once() -> Any:
    """The pause between two attempts is left out."""
    return mock.patch.object(Retry, "pause", lambda self, attempt, execution_id: timedelta())


def repeats_what_ran_alone() -> Any:
    """With max_running=1 an occurrence is run again whose worker died."""
    original = Task.__post_init__

    def __post_init__(self: Task) -> None:
        original(self)
        if self.max_running:
            self.__dict__["attempts"] = None

    return mock.patch.object(Task, "__post_init__", __post_init__)


def forgets_resumptions() -> Any:
    """The outcome of a run replaces what a resumption has noted in the row meanwhile."""

    async def note_resumption(self: Execution, *args: Any, **options: Any) -> None:
        return None

    return mock.patch.object(Execution, "note_resumption", note_resumption)


def drops_resumptions() -> Any:
    """What a resumption has noted is forgotten with the first run after it."""
    return mock.patch.object(Execution, "noting_missed", lambda self, commit, schedule: commit)


def drops_history_that_fails() -> Any:
    """Entries that the store did not take at once are given up."""
    return mock.patch.object(recording, "TransientRepositoryError", type("Never", (Exception,), {}))


def records_again() -> Any:
    """An entry that is sent again is another one for the store."""
    original = Recorder._write

    async def _write(self: Recorder, repository: Any) -> None:
        async def append(entries: Sequence[Entry]) -> None:
            number = next(_looks)
            await repository.append(
                [entry._replace(position=Position(entry.position.at, f"{number}-{i}")) for i, entry in enumerate(entries)]
            )

        await original(self, mock.Mock(wraps=repository, append=append))

    return mock.patch.object(Recorder, "_write", _write)


def ends_without_recording() -> Any:
    """What waits for the history at the end is not written."""
    original = Recorder.close

    async def close(self: Recorder, seconds: float) -> None:
        await original(self, 0.0)

    return mock.patch.object(Recorder, "close", close)


def stops_when_a_driver_cancels() -> Any:
    """A cancellation that comes from the driver of the store is taken for one of the task that called it."""

    def fault(error: BaseException) -> Exception:
        if isinstance(error, Exception):
            return error
        raise error

    return mock.patch.object(recording, "fault", fault)


_looks = itertools.count()

#: Each mistake, with seeds that are known to find it, or were, tried first.
MUTANTS: dict[Callable[[], Any], Sequence[int]] = {
    starts_after_the_lease: (238, 249, 393),
    one_now_for_a_pass: (0,),
    claims_without_a_slot: (13,),
    commits_any_revision: (5,),
    extends_after_the_commit: (10, 14),
    releases_any_lease: (12, 16),
    takes_gone_for_applied: (98, 16, 248),
    takes_superseded_for_applied: (38, 5),
    takes_lost_for_applied: (5,),
    forgets_that_it_resends: (25, 71),
    drops_settlements_that_fail: (33,),
    drops_a_batch_for_one_bad_row: (96, 109, 33),
    keeps_unstarted_claims: (11, 5),
    keeps_cancelled_leases: (8, 3),
    starts_while_draining: (11, 17),
    commits_what_failed: (0,),
    trusts_the_local_clock: (3,),
    forgets_lost_static_rows: (1,),
    runs_whenever_it_likes: (42, 2),
    goes_on_after_the_end: (2,),
    counts_no_runs: (6, 10),
    retries_at_once: (45, 109),
    repeats_what_ran_alone: (29, 13),
    forgets_resumptions: (231, 349, 597),
    drops_resumptions: (146, 167),
    drops_history_that_fails: (71, 119),
    records_again: (15, 119),
    ends_without_recording: (15,),
    stops_when_a_driver_cancels: (295,),
}
