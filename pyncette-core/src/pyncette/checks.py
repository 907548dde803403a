"""What is checked of the values and words that users give."""

import contextlib
import difflib
import functools
import inspect
import json
import keyword
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pyncette.errors import ConfigurationError

__all__ = [
    "check_attribute_name",
    "check_count",
    "check_duration",
    "check_free_arguments",
    "check_name",
    "check_type",
    "did_you_mean",
    "dump_arguments",
    "is_coroutine_function",
]

MAX_NAME_CHARACTERS = 255
MAX_NAME_BYTES = 1000
#: Added to any time of the next centuries, it stays within the calendar.
_LONGEST = timedelta(days=365_000)


def check_name(name: object, what: str) -> None:
    """Raise ConfigurationError unless ``name`` can be the name of a row (invariant I13)."""
    if not isinstance(name, str):
        raise ConfigurationError(f"The name of the {what} is {name!r}; it must be a string")
    shown = name if len(name) <= 40 else name[:40] + "…"
    if not name:
        raise ConfigurationError(f"The name of the {what} is empty; give it one")
    if "\0" in name:
        raise ConfigurationError(f"The name {shown!r} of the {what} contains NUL; take it out")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"The name {shown!r} of the {what} contains a lone surrogate; use valid Unicode") from None
    if len(name) > MAX_NAME_CHARACTERS or size > MAX_NAME_BYTES:
        raise ConfigurationError(
            f"The name {shown!r} of the {what} has {len(name)} characters ({size} bytes in UTF-8); "
            f"at most {MAX_NAME_CHARACTERS} characters and {MAX_NAME_BYTES} bytes can be stored"
        )


def check_duration(value: object, what: str, *, zero: bool = False) -> None:
    """Raise ConfigurationError unless ``value`` is a positive timedelta (or zero, where that is allowed), and not absurdly long."""
    if not isinstance(value, timedelta):
        raise ConfigurationError(f"The {what} is {value!r}; pass a timedelta, for example timedelta(seconds=60)")
    if value < timedelta() or (not zero and not value):
        raise ConfigurationError(f"The {what} is {value}; it must be {'zero or more' if zero else 'more than zero'}")
    if value > _LONGEST:
        raise ConfigurationError(f"The {what} is {value}; it must be {_LONGEST.days} days at most")


def check_count(value: object, what: str) -> None:
    """Raise ConfigurationError unless ``value`` is a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"The {what} is {value!r}; it must be a whole number from 1 on")


def check_free_arguments(args: Mapping[str, Any], options: Sequence[str], what: str) -> None:
    """Raise ConfigurationError if an argument looks like a misspelt option: it would silently be handed to the body."""
    for name in args:
        close = did_you_mean(name, options)
        if close is not None:
            raise ConfigurationError(f"The argument {name!r} of {what} looks like the option {close!r}; correct or rename it")


def dump_arguments(args: Mapping[str, Any], what: str) -> str:
    """``args`` as the JSON that is stored; raises ConfigurationError naming the argument that would not survive it."""
    if not isinstance(args, Mapping):
        raise ConfigurationError(f"The arguments of {what} are of type {type(args).__name__}; pass a dict")
    args = dict(args)
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        text = _dumps(args)
        if json.loads(text) == args:
            return text
    for name, value in args.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"The argument {name!r} of {what} has a name of type {type(name).__name__}; use strings")
        try:
            # Tuples become lists, which is expected of JSON; keys that become strings are not.
            if json.loads(_dumps(value)) == _with_lists(value):
                continue
            problem = "does not survive a round trip through JSON (keys must be strings)"
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"can't be stored as JSON ({error})"
        raise ConfigurationError(f"The argument {name!r} of {what}, of type {type(value).__name__}, {problem}; pass plain values")
    return _dumps(args)


def _dumps(value: Any) -> str:
    # ASCII: a string with a lone surrogate is legal JSON this way, and no store could refuse it.
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)


def _with_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_with_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return value


def check_type(value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"The {what} is {value!r}; pass a {kind.__name__}")


def is_coroutine_function(body: object) -> bool:
    """Whether calling ``body`` gives a coroutine; also through :func:`functools.partial` and ``__call__``."""
    while isinstance(body, functools.partial):
        body = body.func
    return inspect.iscoroutinefunction(body) or inspect.iscoroutinefunction(getattr(body, "__call__", None))  # noqa: B004


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` is most likely a misspelling of, if any comes close."""
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return matches[0] if matches else None


def check_attribute_name(name: object, reserved: Container[str]) -> None:
    """Raise ConfigurationError unless ``name`` can be a further attribute of the context, which has the ``reserved`` ones already."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigurationError(f"{name!r} can't be an attribute of the context; use a Python identifier")
    if name.startswith("_") or name in reserved:
        raise ConfigurationError(f"The name {name!r} is the context's own; choose another")
