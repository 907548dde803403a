"""Arguments of bodies: values that JSON can say, within limits that every store can keep."""

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from typing import Any

from pyncette.errors import ConfigurationError
from pyncette.values import plain_text, shown

__all__ = ["MAX_ARGUMENTS_BYTES", "dump_arguments", "plain_arguments"]

#: How long the JSON of a task's or an instance's arguments may be. DynamoDB's items have at most 400 KB.
MAX_ARGUMENTS_BYTES = 256 * 1024
#: How deep lists and dicts may be nested. Python's own limit depends on what calls, and on the version.
_MAX_DEPTH = 50
#: Numbers that Python reads back whatever its limit for conversions is set to: it is never less than 640 digits.
_MAX_BITS = 2048


def dump_arguments(args: Mapping[str, Any], what: str) -> str:
    """``args`` as the JSON that is stored; raises ConfigurationError as :func:`plain_arguments` does."""
    return _checked(args, what)[1]


def plain_arguments(args: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of ``args`` as a body gets them when they were stored: plain dicts, lists, strings and numbers.

    Raises ConfigurationError that names the argument which is no such thing, or if all together are too long.
    """
    return _checked(args, what)[0]


def _checked(args: Mapping[str, Any], what: str) -> tuple[dict[str, Any], str]:
    if not isinstance(args, Mapping):
        raise ConfigurationError(f"The arguments of {what} are of type {type(args).__name__}; pass a dict")
    plain: dict[str, Any] = {}
    for name, value in args.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"The argument {shown(name)} of {what} has a name of type {type(name).__name__}; use strings")
        try:
            plain[plain_text(name)] = _plain(value)
        except _NotPlainError as error:
            raise ConfigurationError(f"The argument {shown(name)} of {what} {error}") from None
    # ASCII: a string with a lone surrogate is legal JSON this way, and no store could refuse it.
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"), sort_keys=True)
    if len(text) > MAX_ARGUMENTS_BYTES:
        raise ConfigurationError(
            f"The arguments of {what} are {len(text)} bytes of JSON; at most {MAX_ARGUMENTS_BYTES} can be stored, "
            "so store large data elsewhere and pass its location"
        )
    return plain, text


class _NotPlainError(Exception):
    """The rest of a sentence that begins with the argument."""


def _plain(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, str):  # members of a StrEnum, strings that know that they are safe HTML, ...
        return plain_text(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise _NotPlainError(f"has a number of {value.bit_length()} bits; numbers of at most {_MAX_BITS} can be stored")
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NotPlainError(f"has the float {float.__repr__(value)}, which JSON can't express; pass None or text instead")
        return float.__float__(value)
    if not isinstance(value, dict | list | tuple):
        raise _NotPlainError(f"has a value of type {kind.__name__[:80]}, which can't be stored as JSON; pass {_instead_of(value)}")
    if depth == _MAX_DEPTH:
        raise _NotPlainError(f"is nested deeper than {_MAX_DEPTH} levels, or contains itself; pass something flat")
    if not isinstance(value, dict):
        return [_plain(item, depth + 1) for item in value]
    for key in value:
        if not isinstance(key, str):
            raise _NotPlainError(f"has a dict with a key of type {type(key).__name__}; keys must be strings")
    return {plain_text(key): _plain(item, depth + 1) for key, item in value.items()}


def _instead_of(value: object) -> str:
    if isinstance(value, date | time):
        return "its isoformat()"
    if isinstance(value, timedelta):
        return "its total_seconds()"
    if isinstance(value, set | frozenset):
        return "a sorted list"
    if isinstance(value, bytes | bytearray):
        return "text, for example its hex()"
    if isinstance(value, enum.Enum):
        return "its value"
    if dataclasses.is_dataclass(value):
        return "dataclasses.asdict() of it"
    if isinstance(value, Mapping):
        return "dict() of it"
    return "its str(), or lists and dicts of strings and numbers"
