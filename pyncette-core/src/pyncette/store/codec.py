"""From the plain values that stores keep to rows, and what becomes of values that make no sense.

A store is shared: by later releases, by operators with a console, by disks that fail. What can't be read back is shown as a row of the
state UNREADABLE, which can be looked at and removed, and never raises in the middle of a batch.
"""

from datetime import UTC, datetime

from pyncette.clock import from_microseconds
from pyncette.store.contract import Key, Row, State

__all__ = ["decode", "unreadable"]

_STATES = {state.value: state for state in State if state is not State.UNREADABLE}
_NOWHEN = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**63 - 1


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
) -> Row:
    """The row of these values; times are whole microseconds since 1970, UTC. If they make no sense, an UNREADABLE one that says why.

    Nothing is taken on trust, neither types nor ranges: pass what the store has.
    """
    try:
        if type(spec) is not str or type(schedule) is not str:
            raise TypeError("spec or schedule is no text")
        if not (0 <= attempt <= _LARGEST and 0 <= revision <= _LARGEST and -_LARGEST <= epoch <= _LARGEST):
            raise ValueError(f"attempt {attempt}, revision {revision} or epoch {epoch} is out of range")
        return Row(
            key,
            spec,
            schedule,
            from_microseconds(occurrence),
            from_microseconds(execute_after),
            None if ready_at is None else from_microseconds(ready_at),
            lease,
            None if locked_until is None else from_microseconds(locked_until),
            epoch,
            revision,
            attempt,
            _STATES[state],
            error,
        )
    except KeyError:
        return unreadable(key, f"unknown state {str(state)[:100]!r}")
    except (TypeError, ValueError, OverflowError) as problem:
        return unreadable(key, str(problem))


def unreadable(key: Key, problem: str) -> Row:
    """What stands for a stored row that can't be read: its key, and what is wrong with it."""
    return Row(
        key=key,
        spec="{}",
        schedule="",
        occurrence=_NOWHEN,
        execute_after=_NOWHEN,
        ready_at=None,
        lease=None,
        locked_until=None,
        epoch=0,
        revision=0,
        attempt=0,
        state=State.UNREADABLE,
        error=f"can't be read: {problem}"[:2000],
    )
