"""Comparisons whose failures name the fields that differ."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.repository import Claim, ClaimResult, Key, Page, Row, Stats

__all__ = ["assert_has", "differences", "explain", "same"]

_RECORDS = (Row, Claim, Stats, ClaimResult, Page)
_NOTHING = object()
#: Of a longer text, only the difference is shown.
_LONG = 200


def assert_has(record: Any, **fields: object) -> None:
    """Fail unless ``fields`` of ``record`` have the given values; other fields may be anything."""
    assert record is not None, f"a row with {', '.join(fields)} was expected, but there is none"
    name = _name(record)
    if lines := [line for field, value in fields.items() for line in differences(getattr(record, field), value, f"{name}.{field}")]:
        raise AssertionError("\n".join(lines))


def same(what: str, found: Sequence[object], expected: Sequence[object]) -> None:
    """Compare, with a short failure message: a test runner's own message takes long to compute, and shrinking needs many."""
    if found != expected:
        raise AssertionError("\n  ".join([f"{what} differs from the reference's:", *differences(found, expected)]))


def explain(found: object, expected: object) -> Sequence[str] | None:
    """pytest's explanation of ``found == expected``; None for other objects than records, which pytest explains itself."""
    if isinstance(found, str) and isinstance(expected, str) and max(len(found), len(expected)) > _LONG:
        return list(differences(found, expected, "text"))  # pytest's own comparison of these takes many seconds
    values = found.values() if isinstance(found, Mapping) else found if isinstance(found, list | tuple) else ()
    if isinstance(found, _RECORDS) or any(isinstance(value, _RECORDS) for value in values):
        return list(differences(found, expected))
    return None


def differences(found: object, expected: object, path: str = "") -> Iterator[str]:
    """The differences, a line for each field: ``row.ready_at: expected ..., got ...``.

    :param path: the name of ``found``; by default its kind of record.
    """
    if type(found) is type(expected) and isinstance(found, _RECORDS):
        for field in _fields(found):
            yield from differences(getattr(found, field), getattr(expected, field), f"{path or _name(found)}.{field}")
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple) and not isinstance(found, Key):
        for index, pair in enumerate(itertools.zip_longest(found, expected, fillvalue=_NOTHING)):
            yield from differences(*pair, f"{path}[{index}]")
    elif isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in {**expected, **found}:
            yield from differences(found.get(key, _NOTHING), expected.get(key, _NOTHING), f"{path}[{key!r}]")
    elif isinstance(found, str) and isinstance(expected, str) and max(len(found), len(expected)) > _LONG:
        if found != expected:
            at = next(
                (at for at, pair in enumerate(zip(found, expected, strict=False)) if len({*pair}) == 2),
                len(min(found, expected, key=len)),
            )
            of = [f"{text[at : at + 20]!r} (of {len(text)} characters)" for text in (expected, found)]
            yield f"{path}: expected at {at} {of[0]}, got {of[1]}"
    elif found != expected:
        yield f"{path}: expected {_shown(expected)}, got {_shown(found)}"


def _name(record: object) -> str:
    return type(record).__name__.lower()


def _fields(record: Any) -> Sequence[str]:
    return list(type(record).__annotations__)


def _shown(value: object) -> str:
    return "nothing" if value is _NOTHING else value.isoformat(sep=" ") if isinstance(value, datetime) else repr(value)
