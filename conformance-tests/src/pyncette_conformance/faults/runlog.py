"""The append-only log of a scenario: what every process saw, in one file.

Each write is one ``O_APPEND`` write of whole lines, so that the order of the file is an order in which things happened. There is
no fsync: what was written survives the death of its writer. Only a write that its writer is killed in may be torn.
"""

import dataclasses
import enum
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Event", "LogReader", "RunLog", "What", "monotonic"]


class What(enum.StrEnum):
    """The fields of an event."""

    # Of workers:
    #: It waits at its gate, and has not touched the store yet.
    READY = "ready"
    #: The first poll has succeeded.
    UP = "up"
    #: The fixtures were torn down: no body may run any more.
    DOWN = "down"
    #: A registration is about to be sent.
    REGISTER = "register"
    CLAIMED = "claimed"
    START = "start"
    END = "end"
    #: A settlement is about to be sent.
    SETTLING = "settling"
    #: ... and this is the answer.
    SETTLED = "settled"
    #: A call to the store failed.
    ERROR = "error"
    #: A fault was injected by the worker itself.
    FAULT = "fault"

    # Of the driver, about a worker (``target``) or a store:
    KILL = "kill"
    STOP = "stop"
    CONT = "cont"
    TERM = "term"
    #: The worker has exited.
    GONE = "gone"
    STORE_DOWN = "store_down"
    STORE_UP = "store_up"

    # Of the driver, about an instance. Each is logged before and again, with ``ok``, after the call:
    SCHEDULE = "schedule"
    UNSCHEDULE = "unschedule"


if hasattr(time, "CLOCK_BOOTTIME"):

    def monotonic() -> float:
        """Seconds on a clock that all processes of the machine share and that is never stepped."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover
    monotonic = time.monotonic


def _instant() -> tuple[float, int]:
    """Now, on the shared monotonic clock and on the wall clock, without a pause between the two."""
    for _ in range(100):
        mono = monotonic()
        wall = time.time_ns() // 1000
        if monotonic() - mono < 0.0005:
            break
    return mono, wall


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log. Times called ``at``, ``now``, ``until`` are whole microseconds since 1970 of the store's time."""

    what: What
    pid: int
    #: When it was logged: seconds on the shared monotonic clock, and microseconds of the machine's wall clock.
    mono: float
    wall: int
    name: str = ""
    generation: int = 0
    #: The occurrence's nominal time (``scheduled_at``).
    at: int = 0
    attempt: int = 0
    #: The fencing token, which identifies a claim of the name.
    token: int = 0
    execution_id: str = ""
    #: On the shared monotonic clock: when a call was sent; until when the body believes in its lease.
    sent: float = 0.0
    deadline: float = 0.0
    now: int = 0
    until: int = 0
    #: Of a settlement: its kind and outcome; of a fault: its site and action; of a schedule: its text (and in the note its template).
    kind: str = ""
    outcome: str = ""
    #: Ties the answers of a call to the call.
    call: int = 0
    ok: bool = True
    #: The pid of the worker that the driver dealt with.
    target: int = 0
    note: str = ""


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Event)}


class RunLog:
    """Appends events to the log."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._pid = os.getpid()

    def write(self, what: What, **fields: Any) -> Event:
        event = self.event(what, **fields)
        self.write_all([event])
        return event

    def event(self, what: What, **fields: Any) -> Event:
        """An event of now, yet to be written."""
        mono, wall = _instant()
        return Event(what=what, pid=self._pid, mono=mono, wall=wall, **fields)

    def write_all(self, events: Iterable[Event]) -> None:
        # The line feed in front: whatever a killed process left unfinished stands on a line of its own.
        data = b"\n" + b"".join(map(_line, events))
        if len(data) > 1 and os.write(self._fd, data) != len(data):
            raise OSError("The log could not be written whole; is the disk full?")

    def close(self) -> None:
        os.close(self._fd)


class LogReader:
    """Follows a log that others append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[Event] = []
        #: How many lines were unfinished: at most one for each killed process.
        self.torn: int = 0

    def read(self) -> Sequence[Event]:
        """All events so far, in the order of the file."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]  # a reader may see a write before it is complete
            self._offset += len(whole)
            for line in whole.splitlines():
                self._add(line)
        return self._events

    def _add(self, line: bytes) -> None:
        if line:
            try:
                fields = json.loads(line)
            except ValueError:
                self.torn += 1
            else:
                self._events.append(Event(**{**fields, "what": What(fields["what"])}))


def _line(event: Event) -> bytes:
    fields = {name: value for name, default in _DEFAULTS.items() if (value := getattr(event, name)) != default}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
