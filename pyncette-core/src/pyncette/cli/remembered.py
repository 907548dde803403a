"""What ``pyncette list`` and ``show`` print about the last run of a task, its next retry, and a pause."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyncette.cli.stored import when
from pyncette.memo import Memo
from pyncette.policies import how_many
from pyncette.store.contract import Row, State

__all__ = ["last_of", "remembered", "shown", "state_in_words", "told"]


def remembered(row: Row) -> dict[str, Any]:
    """For JSON: the last run, failures in a row, skipped occurrences, the next retry, and the note of a pause; None where there is none."""
    memo = Memo.read(row.memo)
    run, note = memo.last_run, memo.note if row.state is State.PAUSED else None
    return {
        "retries_at": when(row.ready_at) if row.attempt and row.locked_until is None else None,
        "failures": memo.failures,
        "skipped": memo.skipped,
        "last_run": run
        and {
            "outcome": run.outcome.value,
            "scheduled_at": when(run.scheduled_at),
            "started": when(run.started),
            "ended": when(run.ended),
            "duration": None if run.duration is None else run.duration.total_seconds(),
            "lateness": None if run.lateness is None else run.lateness.total_seconds(),
            "attempt": run.attempt,
            "worker": run.worker,
            "error": run.error,
        },
        "note": note and {"text": note.text, "by": note.by, "at": when(note.at)},
    }


def state_in_words(values: Mapping[str, Any]) -> str:
    """The state for people, with the time of the retry, and who paused the task and why."""
    if values["state"] == "retrying":
        return f"retries at {shown(values['retries_at'])}"
    if values["state"] == "paused" and (note := values["note"]) is not None:
        by, text = note["by"], note["text"]
        return f"paused{'' if by is None else f' by {by}'}{'' if text is None else f': {text}'}"
    return str(values["state"])


def last_of(values: Mapping[str, Any]) -> str | None:
    """For a table: when the last run was, and how it ended."""
    run, failures = values.get("last_run"), values.get("failures", 0)
    if run is None:
        return None
    times = f", {failures} in a row" if failures > 1 else ""
    return f"{shown(run['started'] or run['ended'])} {run['outcome']}{times}"


def told(values: Mapping[str, Any], schedule: str) -> dict[str, Any]:
    """The result of :func:`remembered` of a row with this ``schedule``, as pairs for people."""
    pairs: dict[str, Any] = {"failures": values["failures"] or None, "retries_at": shown(values["retries_at"])}
    pairs["skipped"] = f"{how_many(count, schedule)} since the last run" if (count := values["skipped"]) else None
    pairs |= {"last_run": None, "last_error": None, "note": None}
    if (run := values["last_run"]) is not None:
        parts = [last_of({**values, "failures": 0})]
        if run["duration"] is not None:
            parts.append(f"took {run['duration']:.3f} s")
        if run["lateness"] is not None:
            parts.append(f"{run['lateness']:.3f} s late")
        parts.append(f"attempt {run['attempt']}")
        if run["worker"] is not None:
            parts.append(f"by {run['worker']}")
        pairs |= {"last_run": ", ".join(filter(None, parts)), "last_error": run["error"]}
    if (note := values["note"]) is not None:
        by = "" if note["by"] is None else f"by {note['by']} "
        text = "" if note["text"] is None else f": {note['text']}"
        pairs["paused"] = f"{by}at {shown(note['at'])}{text}"
    return pairs


def shown(instant: str | None) -> str | None:
    """A JSON time, formatted for people."""
    return None if instant is None else datetime.fromisoformat(instant).isoformat(sep=" ", timespec="seconds")
