"""What was seen in a simulation: an append-only log of plain facts, in order. Only the checker draws conclusions from it.

``at`` is in seconds of true time since the start; ``worker`` is one life of one process.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from pyncette.repository import Claim, Key, Outcome, Row, Settlement
from pyncette.store.history import Entry

__all__ = [
    "Asked",
    "Changed",
    "Delivered",
    "Down",
    "Ended",
    "Event",
    "Failed",
    "Finished",
    "Frozen",
    "Healed",
    "Recorded",
    "Run",
    "Sent",
    "Started",
    "Stopping",
    "Thawed",
    "Unexpected",
    "Up",
]

#: The row and the lease under which a run happens.
Run: TypeAlias = tuple[Key, str]


@dataclass(frozen=True, slots=True)
class Event:
    at: float


@dataclass(frozen=True, slots=True)
class Up(Event):
    """A worker was started."""

    worker: str


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """A worker was asked to end: its application by ``shutdown()``, or its task by ``cancel()``."""

    worker: str
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Down(Event):
    """A worker has ended: killed without notice, crashed at its start since it could not reach the store, or stopped."""

    worker: str
    how: str


@dataclass(frozen=True, slots=True)
class Frozen(Event):
    worker: str


@dataclass(frozen=True, slots=True)
class Thawed(Event):
    worker: str


@dataclass(frozen=True, slots=True)
class Asked(Event):
    """A user asks for a registration, which is sent now or later; ``marker`` is in its arguments as ``v``."""

    marker: int


@dataclass(frozen=True, slots=True)
class Sent(Event):
    """A worker called the store. ``stale`` is by how many seconds the ``now`` it passed is not the time."""

    worker: str
    call: int
    method: str
    stale: float
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """A fault was injected into a call; ``fault`` names it."""

    worker: str
    call: int
    method: str
    fault: str


@dataclass(frozen=True, slots=True)
class Delivered(Event):
    """A worker got its answer: claims, outcomes or an error."""

    worker: str
    call: int
    claims: tuple[Claim, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    error: str | None = None
    #: The error is for good.
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Changed(Event):
    """The store carried out one element of a call, as a whole."""

    worker: str
    call: int
    #: claim, settle, register, force, unregister, pause, resume, or poison, which was written past the contract.
    operation: str
    now: datetime
    key: Key
    before: Row | None
    after: Row | None
    settlement: Settlement | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Recorded(Event):
    """A worker called the store to append to the history, and that ended now."""

    worker: str
    sent_at: float
    entries: tuple[Entry, ...]
    #: Whether the store has them.
    applied: bool
    #: What the worker was told: "" if it went well, "transient", "refused" for good, or "cancelled".
    error: str = ""
    #: What was done to the call.
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """A body was started."""

    worker: str
    run: Run
    scheduled_at: datetime
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """A body ended: returned, raised or cancelled."""

    worker: str
    run: Run
    how: str


@dataclass(frozen=True, slots=True)
class Unexpected(Event):
    """Something was reported to the event loop's handler of last resort."""

    message: str


@dataclass(frozen=True, slots=True)
class Healed(Event):
    """From here on there are no more faults, and some worker is up."""


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """All workers have been shut down."""
