"""The options of a factory: their names and types, and the meaning of texts in a URL."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pyncette.checks import did_you_mean
from pyncette.errors import ConfigurationError

__all__ = ["check_type", "converted", "instead_of", "is_plain", "options_of"]


def instead_of(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``, with suggestions from the ``known`` ones."""
    names = sorted(known)
    # a misspelling, or another driver's name: sslmode, tls, connect_timeout
    meant = name.lower().replace("tls", "ssl")
    close = did_you_mean(meant, names) or max((each for each in names if len(each) > 2 and each in meant), key=len, default=None)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; use one of {', '.join(names)}" if names else ", nor any other"


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of ``factory`` with their types, Any where they are unknown."""
    try:
        hints = typing.get_type_hints(factory.func if isinstance(factory, functools.partial) else factory)
    except (NameError, TypeError):  # names imported only for type checkers, or an object that is not a function
        hints = {}
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: hints.get(p.name, Any) for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


_ACCEPTED: Mapping[Any, Any] = {float: (int, float)}


def _kinds(annotation: Any) -> Sequence[Any]:
    """The members of a union."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if union else [annotation]


def is_plain(annotation: Any) -> bool:
    """Whether a text in a URL can express all values of a type."""
    return annotation is Any or all(kind in (str, int, float, bool, timedelta, types.NoneType) for kind in _kinds(annotation))


def check_type(name: str, value: object, annotation: Any) -> None:
    kinds = _kinds(annotation)
    if annotation is Any or not is_plain(annotation):
        return  # left to the factory
    if not any(isinstance(value, _ACCEPTED.get(kind, kind)) and (kind is bool or not isinstance(value, bool)) for kind in kinds):
        # without the value, which may be a password
        expected = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise ConfigurationError(f"The option {name!r} is of type {type(value).__name__}; pass {expected}")


def converted(name: str, text: str, annotation: Any) -> Any:
    annotation = next(kind for kind in _kinds(annotation) if kind is not types.NoneType)
    if annotation is Any:
        return text
    try:
        if annotation is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if annotation is timedelta:
            return timedelta(seconds=float(text))
        return annotation(text)
    except (KeyError, ValueError, OverflowError):
        expected = "true or false" if annotation is bool else "a number" if annotation in (int, float) else "a number of seconds"
        raise ConfigurationError(f"The option {name}={text!r} of the URL is not {expected}") from None
