"""Arguments of bodies: JSON values, within limits that every store supports."""

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

#: The maximum size of the arguments of a task or an instance as JSON (bytes). An item of DynamoDB has at most 400 KB.
MAX_ARGUMENTS_BYTES = 256 * 1024
#: The maximum depth of nested lists and dicts. Python's own limit depends on the call stack and the version.
_MAX_DEPTH = 50
#: Python can read back a number of this size whatever its conversion limit, which is never below 640 digits.
_MAX_BITS = 2048


def dump_arguments(args: Mapping[str, Any], what: str) -> str:
    """``args`` as the JSON text that is stored; raises ConfigurationError like :func:`plain_arguments`."""
    return _checked(args, what)[1]


def plain_arguments(args: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of ``args`` as a body receives them from the store: plain dicts, lists, strings and numbers.

    Raises ConfigurationError that names an argument JSON can't represent, or if the arguments are too large.
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
    # In ASCII, even a string with a lone surrogate is valid JSON, which every store accepts.
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"), sort_keys=True)
    if len(text) > MAX_ARGUMENTS_BYTES:
        raise ConfigurationError(
            f"The arguments of {what} are {len(text)} bytes of JSON; at most {MAX_ARGUMENTS_BYTES} can be stored, "
            "so store large data elsewhere and pass its location"
        )
    return plain, text


class _NotPlainError(Exception):
    """The rest of a sentence whose subject is the argument."""


def _plain(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, str):  # members of a StrEnum, strings marked as safe HTML, ...
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
