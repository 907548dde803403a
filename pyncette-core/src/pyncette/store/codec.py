"""From the plain values that stores keep to rows, including invalid values.

Later releases, operators with a console and failing disks can change what is stored. A row that can't be read gets the state UNREADABLE: it
can be looked at and removed, and never raises an error in the middle of a batch.
"""

import json
from datetime import UTC, datetime
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.store.contract import Key, Row, State

__all__ = ["decode", "from_json", "name_in_bytes", "name_of_bytes", "to_json", "unreadable"]

_FIELDS = Row._fields[1:]
_INSTANTS = ("occurrence", "execute_after", "ready_at", "locked_until")
_STATES = {state.value: state for state in State if state is not State.UNREADABLE}
_NOWHEN = datetime(1970, 1, 1, tzinfo=UTC)
#: The largest number that fits into 64 bits and can still be incremented.
_LARGEST = 2**63 - 2


def decode(
    key: Key,
    spec: str,
    schedule: str,
    occurrence: int,
    execute_after: int,
    ready_at: int | None,
    lease: str | None,
    locked_until: int | None,
    epoch: int,
    revision: int,
    attempt: int,
    state: str,
    error: str | None = None,
    memo: str | None = "",
) -> Row:
    """The row of these values; times are whole microseconds since 1970, UTC; no memo is an empty one. If they are not valid, an UNREADABLE one that says why.

    Nothing is taken on trust, neither types nor ranges: pass what the store has.
    """
    # Written out in full, because this takes most of the Python time of a claim or a settlement.
    try:
        if type(spec) is not str or type(schedule) is not str:
            raise ValueError("the spec or the schedule is not text")
        if not (lease is None or type(lease) is str) or not (error is None or type(error) is str):
            raise ValueError("the lease or the error is not text")
        if not (memo is None or type(memo) is str):
            raise ValueError("the memo is not text")
        if not type(epoch) is type(revision) is type(attempt) is int:
            raise ValueError("the epoch, the revision or the attempt is not a whole number")
        if not (-_LARGEST <= epoch <= _LARGEST and 0 <= revision <= _LARGEST and 0 <= attempt <= _LARGEST):
            raise ValueError("the epoch, the revision or the attempt is out of range")
        # Most times of a row are equal, so don't convert them again.
        at = _instant(occurrence)
        after = at if execute_after == occurrence else _instant(execute_after)
        locked = None if locked_until is None else _instant(locked_until)
        if ready_at == locked_until:
            ready = locked
        else:
            ready = None if ready_at is None else after if ready_at == execute_after else _instant(ready_at)
        row = Row(
            key,
            spec,
            schedule,
            at,
            after,
            ready,
            lease,
            locked,
            epoch,
            revision,
            attempt,
            _STATES[state],
            error,
            memo or "",
        )
        if (row.ready_at is None) is (row.state is State.SCHEDULED):
            raise ValueError(f"it is {state} and has {'no' if ready_at is None else 'a'} time at which it is ready")
        return row
    except (KeyError, TypeError):  # TypeError: the value is not hashable
        return unreadable(key, f"the state {str(state)[:100]!r} is unknown", ready_at)
    except (ValueError, OverflowError) as problem:
        return unreadable(key, str(problem), ready_at)


def to_json(row: Row) -> str:
    """Everything in ``row`` except its key, as a JSON object in ASCII, for stores that keep one text per row."""
    values = row._asdict()
    del values["key"]
    for name in _INSTANTS:
        values[name] = None if values[name] is None else to_microseconds(values[name])
    return json.dumps(values, separators=(",", ":"))


def from_json(key: Key, text: str | bytes) -> Row:
    """The row from a text of :func:`to_json`, checked by :func:`decode`. Missing members are None; unknown ones are ignored."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as problem:
        return unreadable(key, f"it is not JSON ({type(problem).__name__})")
    if not isinstance(values, dict):
        return unreadable(key, "it is not a JSON object")
    fields: list[Any] = [values.get(name) for name in _FIELDS]
    return decode(key, *fields)


def unreadable(key: Key, problem: str, ready_at: object = None) -> Row:
    """A placeholder for a row that can't be read: its key, the problem, and when a claim finds it next.

    ``ready_at`` is the stored value, in microseconds; None if it is not an instant.
    """
    try:
        instant = _instant(ready_at)
    except (ValueError, OverflowError):
        instant = None
    return Row(
        key=key,
        spec="{}",
        schedule="",
        occurrence=_NOWHEN,
        execute_after=_NOWHEN,
        ready_at=instant,
        lease=None,
        locked_until=None,
        epoch=0,
        revision=0,
        attempt=0,
        state=State.UNREADABLE,
        error=f"can't be read: {problem}"[:2000],
    )


def _instant(microseconds: object) -> datetime:
    if type(microseconds) is not int:  # not a float either, which is not exact
        raise ValueError("a time is not a whole number of microseconds")
    try:
        return from_microseconds(microseconds)
    except OverflowError:
        raise ValueError(f"the time {microseconds} is beyond the calendar") from None


def name_of_bytes(name: bytes) -> str:
    """A placeholder for a stored name that is not text: ``x'...'``, in hexadecimal digits."""
    return f"x'{name.hex()}'"


def name_in_bytes(name: str) -> bytes | None:
    """The stored bytes of a name from :func:`name_of_bytes`; None for any other name."""
    try:
        return bytes.fromhex(name[2:-1]) if name == f"x'{name[2:-1]}'" else None
    except ValueError:
        return None
