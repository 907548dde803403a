"""The memo of a row: what core remembers about it in a text that stores keep, such as the last run, failures in a row, the note of a pause.

A memo is a few numbers and texts as JSON, never longer than stores must support. An invalid text counts as an empty memo: an unreadable
note is no reason not to run a task.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.runs import Run, RunOutcome

__all__ = ["Counted", "Memo", "Note", "carried", "counted", "of_start", "of_success", "quoted"]

#: Limits for the texts: together with the numbers, well below the 4,000 characters that stores keep. Escapes count as written.
_MOST_OF_ERROR, _MOST_OF_NOTE, _MOST_OF_NAME = 1500, 1500, 300
_LARGEST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Who paused a task, when and why."""

    text: str | None
    by: str | None
    at: datetime


class Counted(NamedTuple):
    """How many runs of a schedule with ``max_runs`` were committed."""

    runs: int
    #: The revision of the row that the count belongs to: another schedule starts from zero. None after a move: the present revision.
    revision: int | None
    #: The occurrence (microseconds) of a run that was in progress when the row was paused: its commit leaves no trace in the memo.
    running: int | None = None


@dataclass(frozen=True, slots=True)
class Memo:
    """Everything that a memo contains."""

    last_run: Run | None = None
    #: How many consecutive attempts did not succeed.
    failures: int = 0
    #: The note of a paused row.
    note: Note | None = None
    #: How many claims of the occurrence are accounted for, if that exceeds the attempt of the last run.
    seen: int = 0
    #: When the last successful run ended, if that is not the last run.
    succeeded: datetime | None = None
    #: Only if the schedule has ``max_runs``.
    counted: Counted | None = None
    #: How many occurrences have been skipped since the last run.
    skipped: int = 0
    #: When the row, or its whole template, was last resumed, and which of the occurrences missed until then run.
    since: tuple[datetime, str] | None = None
    #: How many claims of the occurrence went to runs that had outlasted their lease: they started no body, so they are not attempts.
    adopted: int = 0
    #: The occurrence that was the latest when those before it were skipped: it is not skipped in favour of a later one.
    chosen: datetime | None = None

    def runs(self, revision: int) -> int:
        """How many runs of this revision of the row are counted."""
        return self.counted.runs if self.counted is not None and self.counted.revision in (revision, None) else 0

    def runs_left(self, max_runs: int | None, revision: int) -> int | None:
        """How many runs are left, including the current one; None for a schedule without ``max_runs``."""
        return None if max_runs is None else max(max_runs - self.runs(revision), 1)

    @property
    def last_success(self) -> datetime | None:
        """When a run last succeeded; None if that is not known."""
        run = self.last_run
        return run.ended if run is not None and run.outcome is RunOutcome.SUCCEEDED else self.succeeded

    def unreported(self, occurrence: datetime, attempt: int) -> int:
        """How many attempts at ``occurrence`` before ``attempt`` never reported an end, because their worker died or outlasted its lease."""
        run = self.last_run
        told = run.attempt if run is not None and run.scheduled_at == occurrence else 0
        return max(0, attempt - 1 - max(told, self.seen - self.adopted))

    def adopted_before(self, attempt: int) -> int:
        """How many claims before ``attempt`` (a number of claims) are not attempts, without those from before the row started over."""
        return self.adopted if attempt > self.seen else 0

    def paused(self, note: Note) -> "Memo":
        """The memo of a paused row. An empty note does not replace another."""
        if self.note is not None and note.text is None and note.by is None:
            return self
        return replace(self, note=note)

    def resumed(self, attempts: int, occurrence: datetime) -> "Memo":
        """The memo of a row that was paused. A run that ended during the pause left no other trace.

        :param attempts: how many attempts at the present ``occurrence`` have ended.
        """
        counted = self.counted
        if counted is not None and counted.running is not None:
            counted = Counted(counted.runs + (counted.running != to_microseconds(occurrence)), counted.revision)
        return replace(self, note=None, seen=attempts, counted=counted)

    def running(self, occurrence: datetime, revision: int) -> "Memo":
        """The memo of a row with counted runs that is about to be paused while one of them is in progress."""
        return replace(self, counted=Counted(self.runs(revision), revision, to_microseconds(occurrence)))

    def text(self) -> str:
        """The text to store."""
        members = []
        if (run := self.last_run) is not None:
            values = [
                str(to_microseconds(run.scheduled_at)),
                _microseconds(run.started),
                _microseconds(run.ended),
                quoted(run.outcome.value),
                str(_count(run.attempt)),
                _text(run.worker, _MOST_OF_NAME),
            ]
            if run.error is not None:
                values.append(_text(run.error, _MOST_OF_ERROR))
            members.append(f'"run":[{",".join(values)}]')
        if self.failures:
            members.append(f'"failures":{_count(self.failures)}')
        if self.seen:
            members.append(f'"seen":{_count(self.seen)}')
        if self.succeeded is not None:
            members.append(f'"succeeded":{to_microseconds(self.succeeded)}')
        if self.counted is not None:
            known = self.counted if self.counted.running is not None else self.counted[:2]
            members.append(f'"runs":{json.dumps(known, separators=(",", ":"))}')
        if self.skipped:
            members.append(f'"skipped":{_count(self.skipped)}')
        if self.since is not None:
            members.append(f'"since":[{to_microseconds(self.since[0])},{quoted(self.since[1])}]')
        if self.adopted:
            members.append(f'"adopted":{_count(self.adopted)}')
        if self.chosen is not None:
            members.append(f'"chosen":{to_microseconds(self.chosen)}')
        if (note := self.note) is not None:
            values = [_text(note.text, _MOST_OF_NOTE), _text(note.by, _MOST_OF_NAME), _microseconds(note.at)]
            members.append(f'"note":[{",".join(values)}]')
        return f"{{{','.join(members)}}}" if members else ""

    @classmethod
    def read(cls, text: str) -> "Memo":
        """The memo that :meth:`text` wrote as ``text``, without invalid members."""
        if not text:
            return _EMPTY
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return _EMPTY
        if not isinstance(values, dict):
            return _EMPTY
        return cls(
            _read_run(values.get("run")),
            _read_count(values.get("failures")),
            _read_note(values.get("note")),
            _read_count(values.get("seen")),
            _read_instant(values.get("succeeded")),
            _read_counted(values.get("runs")),
            _read_count(values.get("skipped")),
            _read_since(values.get("since")),
            _read_count(values.get("adopted")),
            _read_instant(values.get("chosen")),
        )


_EMPTY = Memo()


def of_success(occurrence: int, started: int, ended: int, attempt: int, worker: str) -> str:
    """The text of a memo with only a successful run. Each run of each task creates one, so it is built with a single format.

    :param occurrence: this and the other times in microseconds since 1970.
    :param worker: as :func:`quoted` gives it.
    """
    return f'{{"run":[{occurrence},{started},{ended},"succeeded",{attempt},{worker}]}}'


def of_start(occurrence: int, started: int, attempt: int, worker: str) -> str:
    """Like :func:`of_success`, for a run whose end will not be stored."""
    return f'{{"run":[{occurrence},{started},null,"started",{attempt},{worker}]}}'


def counted(text: str, before: str, revision: int) -> str:
    """The text of a memo that counts one more run than ``before``."""
    runs = Memo.read(before).runs(revision) + 1
    return replace(Memo.read(text), counted=Counted(runs, revision)).text()


def carried(text: str) -> str:
    """The text of a memo for another row, whose revisions are counted separately."""
    if '"runs"' not in text or (memo := Memo.read(text)).counted is None:
        return text
    return replace(memo, counted=memo.counted._replace(revision=None)).text()


def quoted(text: str) -> str:
    """``text`` as JSON, whatever is in it."""
    # Every store can keep the rest, but not lone surrogates, which file names may contain.
    return json.dumps(text.encode("utf-8", "backslashreplace").decode(), ensure_ascii=False)


def _text(text: str | None, limit: int) -> str:
    if text is None:
        return "null"
    short, written = text[:limit], quoted(text[:limit])
    while len(written) > limit:
        # In proportion, because a text full of escapes is six times as long when written.
        short = short[: min(len(short) - 1, len(short) * (limit - 3) // len(written))]
        written = quoted(short)
    return written if len(short) == len(text) else f'{written[:-1]}…"'


def _microseconds(instant: datetime | None) -> str:
    return "null" if instant is None else str(to_microseconds(instant))


def _count(number: int) -> int:
    return min(number, _LARGEST)


def _read_run(values: Any) -> Run | None:
    try:
        scheduled_at, started, ended, outcome, attempt, worker, *rest = values
        return Run(
            scheduled_at=_instant(scheduled_at),
            started=None if started is None else _instant(started),
            ended=None if ended is None else _instant(ended),
            outcome=RunOutcome(outcome),
            attempt=_read_count(attempt),
            worker=_read_text(worker),
            error=_read_text(rest[0]) if rest else None,
        )
    except (TypeError, ValueError, OverflowError):
        return None


def _read_counted(values: Any) -> Counted | None:
    match values:
        case [int(runs), int() | None as revision, *rest] if 0 <= runs <= _LARGEST:
            return Counted(runs, revision, rest[0] if rest and type(rest[0]) is int else None)
    return None


def _read_note(values: Any) -> Note | None:
    try:
        text, by, at = values
        return Note(text=_read_text(text), by=_read_text(by), at=_instant(at))
    except (TypeError, ValueError, OverflowError):
        return None


def _read_since(values: Any) -> tuple[datetime, str] | None:
    try:
        at, how = values
        return _instant(at), str(how)
    except (TypeError, ValueError, OverflowError):
        return None


def _instant(value: Any) -> datetime:
    if type(value) is not int:
        raise TypeError(value)
    return from_microseconds(value)


def _read_instant(value: Any) -> datetime | None:
    try:
        return _instant(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _read_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read_count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _LARGEST else 0
