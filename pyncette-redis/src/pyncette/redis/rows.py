"""The arguments and answers of the script, in Python: ``partition.lua`` describes the fields of rows."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette.codec import decode as decoded
from pyncette.codec import name_of_bytes, unreadable
from pyncette.lifecycle import Settled
from pyncette.repository import Claim, Commit, Extend, Fail, Key, Registration, Release, Row, Settlement, State

__all__ = [
    "columns",
    "decode",
    "encode",
    "instant",
    "is_text",
    "loads",
    "names_of",
    "of_expected",
    "of_registrations",
    "of_settlements",
    "read_claims",
    "read_row",
]

#: The separator of texts: a byte that never occurs in UTF-8.
_MARK = b"\xff"
_ORIGIN = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
#: Epochs are stored like instants, counted from another origin than in the contract.
_EPOCH_OFFSET = (_1970 - _ORIGIN) // _MICROSECOND
#: Most instants are near this one, and converting relative to it takes half the time.
_NEAR = datetime(2026, 1, 1, tzinfo=UTC)
_NEAR_OFFSET = (_NEAR - _ORIGIN) // _MICROSECOND

_STATES = {State.PAUSED.value, State.FAILED.value}


def encode(instant: datetime) -> str:
    return str((instant - _ORIGIN) // _MICROSECOND).zfill(19)


def _digits(number: int) -> str:
    return str(number).zfill(19)


def decode(text: str | bytes) -> datetime:
    return _NEAR + timedelta(0, 0, int(text) - _NEAR_OFFSET)


def instant(text: str | None) -> datetime | None:
    return decode(text) if text else None


def columns(rows: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """One list for each field, which parses faster as JSON than one for each row."""
    return list(zip(*rows, strict=True))


def names_of(keys: Sequence[Key]) -> Sequence[Any]:
    return [[key.name for key in keys]]


def of_registrations(registrations: Sequence[Registration]) -> Sequence[Any]:
    return columns(
        [(each.key.name, each.spec, each.schedule, *map(encode, each.target), each.keep_overdue) for each in registrations]
    )


def of_expected(settled: Sequence[Settled]) -> Sequence[Any]:
    return columns([(each.key.name, _beginning(each), each.memo) for each in settled])


def _beginning(settled: Settled) -> str:
    """The new text of the row from its occurrence to its lease; for a row to be removed, the part that must match the claim."""
    same = _digits(settled.revision) + settled.lease
    if settled.removed:
        return same
    at, ready = encode(settled.occurrence), encode(settled.ready_at)
    after = at if settled.execute_after == settled.occurrence else encode(settled.execute_after)
    return f"{at}{after}{_digits(settled.attempt)}{ready}{same}"


def of_settlements(settlements: Sequence[Settlement]) -> Sequence[Any]:
    return [[_settlement(settlement) for settlement in settlements]]


def _settlement(settlement: Settlement) -> Sequence[Any]:
    claim = settlement.claim
    of = claim.key.name, claim.lease, _digits(claim.revision)
    match settlement:
        case Commit(next=target, memo=memo):
            if target is None:
                return *of, "remove", memo
            return *of, "commit", memo, *map(encode, target)
        case Release(retry_at=retry_at, started=started, memo=memo):
            return *of, "release", memo, encode(retry_at), started
        case Fail(error=error, memo=memo):
            return *of, "fail", memo, error
        case Extend(until=until):
            return *of, "extend", None, encode(until)


def read_claims(partition: str, lease: str, found: bytes) -> tuple[Sequence[Claim], Sequence[Row]]:
    """The rows that were claimed under ``lease``, and those with invalid UTF-8, which the script does not notice.

    Those become ready again when the lease expires, like postponed rows.
    """
    claims: list[Claim] = []
    not_text: list[Row] = []
    fields = iter(found.split(_MARK) if found else ())
    for row, memo, name, spec in zip(fields, fields, fields, fields, strict=True):
        try:
            key = Key(partition, name.decode())
            at = decode(row[19:38])
            after = at if row[38:57] == row[19:38] else decode(row[38:57])
            epoch, attempt, revision = int(row[:19]) - _EPOCH_OFFSET, int(row[57:76]), int(row[95:114])
            schedule = row[165:].decode()
            claims.append(Claim(key, spec.decode(), schedule, at, after, lease, epoch, attempt, revision, memo.decode()))
        except UnicodeDecodeError:
            not_text.append(read_row(partition, (name.decode() if is_text(name) else name, None, None)))
    return claims, not_text


def read_row(partition: str, found: Sequence[Any]) -> Row:
    name, spec, row = found
    if isinstance(name, bytes):
        return unreadable(Key(partition, name_of_bytes(name)), "the name is not text")
    key = Key(partition, name)
    if not row:
        return unreadable(key, "the row is not one of Pyncette's" if row is False else "the spec or the schedule is not text")
    ready, lease, locked_until = row[76:95].decode().rstrip(), row[114:146], row[146:165].strip()
    try:
        schedule, memo, *error = (text.decode() for text in row[165:].split(_MARK))
        lease = lease.decode().strip()
    except UnicodeDecodeError:
        return unreadable(
            key, "the schedule, the lease, the memo or the error is not text", None if ready in _STATES else _microseconds(ready)
        )
    return decoded(
        key,
        spec,
        schedule,
        _microseconds(row[19:38]),
        _microseconds(row[38:57]),
        None if ready in _STATES else _microseconds(ready),
        lease or None,
        _microseconds(locked_until) if locked_until else None,
        int(row[:19]) - _EPOCH_OFFSET,
        int(row[95:114]),
        int(row[57:76]),
        ready if ready in _STATES else State.SCHEDULED.value,
        error[0] if error else None,
        memo,
    )


def _microseconds(text: str | bytes) -> int:
    return int(text) - _EPOCH_OFFSET


def loads(reply: bytes) -> Any:
    """The answer of the script. A text that is not valid UTF-8, which somebody else has stored, becomes bytes."""
    try:
        return json.loads(reply)
    except UnicodeDecodeError:
        return _with_bytes(json.loads(reply.decode(errors="surrogateescape")))


def _with_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_bytes(element) for element in value]
    raw = value.encode(errors="surrogateescape") if isinstance(value, str) else b""
    return value if is_text(raw) else raw


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
