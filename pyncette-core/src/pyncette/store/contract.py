"""The contract with stores: plain rows in, plain rows out.

A store keeps rows and changes each of them atomically; everything else is decided in core. The rules of a row's life are
written once, as pure functions, in :mod:`pyncette.lifecycle`; this module says what a store promises around them.

For every method here:

- times are passed in as aware UTC datetimes; a store never reads a clock to decide;
- a batch is a convenience: each element is atomic, the batch as a whole is not. A batch that raises may have been applied in
  part. A key occurs at most once in a batch;
- expected outcomes are returned, and faults are raised: :class:`~pyncette.errors.TransientRepositoryError` if the call may be
  repeated (it may have been applied anyway), :class:`~pyncette.errors.RepositoryError` if repeating is pointless;
- a call returns or raises within the store's timeout, and cancelling it at any await leaves the store usable;
- calls of one repository object may run concurrently, also with those of other processes.
"""

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "CONTRACT_VERSION",
    "Claim",
    "ClaimResult",
    "Commit",
    "Extend",
    "Fail",
    "Key",
    "Outcome",
    "Page",
    "Registration",
    "Release",
    "Repository",
    "Row",
    "Settlement",
    "State",
    "Stats",
    "SupportsPartitions",
    "SupportsPause",
    "SupportsServerTime",
    "SupportsStats",
    "Target",
]

#: Raised when a change of this module breaks existing backends. A backend states the version that it was written for.
CONTRACT_VERSION = 1


class Key(NamedTuple):
    """The identity of a row: the pair, not a concatenation of its parts."""

    #: The unit of polling and co-location.
    partition: str
    #: Unique within the partition; any Unicode but NUL, at most 255 characters and 1,000 UTF-8 bytes, compared byte by byte.
    name: str


class State(enum.StrEnum):
    """Whether a row takes part in claims."""

    SCHEDULED = "scheduled"
    PAUSED = "paused"
    #: Given up after its last attempt; kept with its error until it is revived by a new schedule or resumed, or removed.
    FAILED = "failed"
    #: The stored row is not valid. This state is never stored: ``get`` and ``list`` return it for such a row, see
    #: :func:`pyncette.codec.unreadable`. It takes part in no claim; a forced registration replaces it, unregister removes it.
    UNREADABLE = "unreadable"


class Row(NamedTuple):
    """Everything stored for a task."""

    key: Key
    #: JSON text: the arguments. Opaque to the store.
    spec: str
    #: Canonical text of the schedule; compared for equality by the store.
    schedule: str
    #: The nominal time of the current occurrence.
    occurrence: datetime
    #: The occurrence plus its jitter.
    execute_after: datetime
    #: When a claim may take the row; None unless the state is scheduled. For an unreadable row: when a claim finds it next, if ever.
    ready_at: datetime | None
    #: Random id of the last claim; None before the first, and after a forced registration.
    lease: str | None
    #: End of the lease; None when not held.
    locked_until: datetime | None
    #: Fencing token: strictly greater at every claim of the row.
    epoch: int
    #: Raised whenever the schedule changes or force is used.
    revision: int
    #: Claims of this occurrence so far.
    attempt: int
    state: State
    #: Why the row was given up, or can't be read; None unless the state is failed or unreadable.
    error: str | None = None
    #: What core remembers about the row, such as its last run: up to 4,000 characters, opaque to the store. Registering keeps it.
    memo: str = ""


class Target(NamedTuple):
    """When a row runs next."""

    occurrence: datetime
    execute_after: datetime


@dataclass(frozen=True, slots=True)
class Registration:
    """A schedule to store under a key."""

    key: Key
    spec: str
    schedule: str
    target: Target
    #: Keep an occurrence that is already due when the schedule changes.
    keep_overdue: bool = False


class Claim(NamedTuple):
    """The right to run one occurrence until the lease expires, as it was when the row was claimed."""

    key: Key
    spec: str
    schedule: str
    occurrence: datetime
    execute_after: datetime
    lease: str
    epoch: int
    attempt: int
    revision: int
    memo: str = ""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The result of one claim."""

    claims: Sequence[Claim]
    #: The earliest ``ready_at`` among the requested rows that were neither claimed nor postponed; None if there is none. May be earlier
    #: if a full scan has become expensive.
    next_ready_at: datetime | None
    #: The requested ``names`` that have no row.
    missing: Sequence[str] = ()
    #: Rows that were due but are not valid, as :func:`pyncette.codec.unreadable` returns them. They count against the limit, and are
    #: postponed by the lease duration, so that they block nobody. Only their ``ready_at`` is written, because a later release may
    #: understand the rest.
    unreadable: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """The occurrence is done: continue with ``next``, or remove the row if there is none."""

    claim: Claim
    next: Target | None
    #: The new memo of the row, unless it is paused; None: the memo stays.
    memo: str | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Release the occurrence, which can be claimed again from ``retry_at`` on."""

    claim: Claim
    retry_at: datetime
    #: False if no body was started, so that the claim does not count as an attempt.
    started: bool = True
    #: As that of a :class:`Commit`.
    memo: str | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """Give up: keep the row with its error, and exclude it from claims."""

    claim: Claim
    error: str
    #: As that of a :class:`Commit`.
    memo: str | None = None


@dataclass(frozen=True, slots=True)
class Extend:
    """Keep the lease until ``until``."""

    claim: Claim
    until: datetime


Settlement: TypeAlias = Commit | Release | Fail | Extend


class Outcome(enum.Enum):
    """What happened to a settlement."""

    #: Written.
    APPLIED = "applied"
    #: The claim has been settled before; nothing is written.
    ALREADY = "already"
    #: The schedule was replaced after the claim: the row is free, and keeps its new schedule.
    SUPERSEDED = "superseded"
    #: The row is under another lease, or the lease can't be extended any more; nothing is written.
    LOST = "lost"
    #: There is no such row.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    rows: Sequence[Row]
    #: Pass this to the next call; None on the last page.
    token: str | None


class Repository(abc.ABC):
    """What a store must implement. The module's docstring has the rules for every method."""

    #: False if only this object ever writes the rows, so that the engine need not poll for changes.
    shared: bool = True

    @abc.abstractmethod
    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        """Store schedules. When this returns they are durable.

        - absent: the row is inserted, ready at its ``execute_after``;
        - present with the same schedule: the spec is replaced and nothing else, so that registering at every start is
          idempotent and never postpones;
        - present with another schedule: spec, schedule, occurrence and ``execute_after`` are replaced, the revision is raised
          and the attempt is 0. A held row stays held, and is ready no sooner than its lease expires. A failed row is revived, a
          paused one stays paused. With ``keep_overdue``, an occurrence that is due at ``now`` stays;
        - ``force``: the same whatever the schedule, and the lease is taken away.

        Of two concurrent registrations of one key either may be last; neither is lost half-way. Repeating is safe.
        """

    @abc.abstractmethod
    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        """Remove rows, even held ones. Returns for each key whether there was one. Never repeated automatically."""

    @abc.abstractmethod
    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        """Take up to ``limit`` (at least 1) rows of ``partition`` with ``ready_at <= now``, the longest ready first.

        With ``names``, only those rows. Each gets a new random lease, a raised epoch and one more attempt, and is locked until
        ``now + lease_duration``. Two callers never get the same row; concurrent callers may get fewer rows than are due. A
        claim whose answer is lost is not undone: its rows become ready again when the lease expires. Where a full scan has
        become expensive, rows that another process registered or resumed with a time in the past may be skipped, for a minute
        at most, see :mod:`pyncette.looks`. A row that can't be read is skipped, see :attr:`ClaimResult.unreadable`, and so is
        junk in an index.
        """

    @abc.abstractmethod
    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        """Settle claims. Returns one outcome for each settlement, in order.

        The rules are :func:`pyncette.lifecycle.settle`. A settlement under another lease than the row's writes nothing; one
        that was applied before returns ALREADY and writes nothing. Repeating is safe.
        """

    @abc.abstractmethod
    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        """Return the rows as they are stored, None for each that is absent. A row that can't be read has the state
        UNREADABLE.
        """

    @abc.abstractmethod
    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        """Return a page of the partition's rows; ``token`` is that of the previous page.

        The order is stable while rows are claimed and settled: each row that is present throughout appears on some page. A
        page may hold fewer than ``limit`` rows (a store may also return more, where it can't cut) and still have a successor.
        A row that can't be read has the state UNREADABLE.
        """


@runtime_checkable
class SupportsServerTime(Protocol):
    """A store with its own clock, which all workers use."""

    async def server_time(self) -> datetime:
        """The store's clock, aware, in UTC."""
        ...


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers of rows in a partition."""

    rows: int
    #: Rows with ``ready_at <= now``.
    due: int
    #: The smallest ``ready_at`` of a due row.
    oldest_due: datetime | None
    failed: int


@runtime_checkable
class SupportsStats(Protocol):
    """A store that can count without listing every row."""

    async def stats(self, now: datetime, partition: str) -> Stats:
        """Count the rows of ``partition``."""
        ...


@runtime_checkable
class SupportsPartitions(Protocol):
    """A store that knows which partitions have rows."""

    async def partitions(self) -> Sequence[str]:
        """Return the partitions that have rows, in any order."""
        ...


@runtime_checkable
class SupportsPause(Protocol):
    """A store whose rows can be excluded from claims for a while, see :func:`pyncette.lifecycle.pause` and ``resume``."""

    async def pause(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        """Pause rows. Returns for each key whether there is one. A run in progress continues and may be settled.

        ``memos`` replaces the memos of some of the rows in the same write, even of those that are already paused.
        """
        ...

    async def resume(self, now: datetime, keys: Sequence[Key], memos: Mapping[Key, str] | None = None) -> Sequence[bool]:
        """Schedule paused or failed rows again. Returns for each key whether there is one. What became due meanwhile runs at
        once.

        ``memos`` as for :meth:`pause`, even of rows that are already scheduled.
        """
        ...
