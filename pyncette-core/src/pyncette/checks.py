"""Checks of the values and names that users pass."""

import difflib
import functools
import keyword
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pyncette.errors import ConfigurationError
from pyncette.values import shown

__all__ = [
    "check_attribute_name",
    "check_count",
    "check_duration",
    "check_free_arguments",
    "check_name",
    "check_type",
    "did_you_mean",
    "free_arguments",
    "is_extra_name",
    "one_slip_from",
]

MAX_NAME_CHARACTERS = 255
MAX_NAME_BYTES = 1000
#: The names of extra runs: 128 bits that only Pyncette generates.
_EXTRA_NAME = re.compile(r"extra:[0-9a-f]{32}")
#: Added to any time of the next centuries, it does not exceed the calendar.
_LONGEST = timedelta(days=365_000)


def check_name(name: object, what: str) -> None:
    """Raise ConfigurationError unless ``name`` can be the name of a row (invariant I13)."""
    if not isinstance(name, str):
        raise ConfigurationError(f"The name of the {what} is {shown(name)}; it must be a string")
    short = name if len(name) <= 40 else name[:40] + "…"
    if not name:
        raise ConfigurationError(f"The name of the {what} is empty; give it one")
    if "\0" in name:
        raise ConfigurationError(f"The name {short!r} of the {what} contains NUL; take it out")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"The name {short!r} of the {what} contains a lone surrogate; use valid Unicode") from None
    if _EXTRA_NAME.fullmatch(name):
        raise ConfigurationError(f"The name {short!r} of the {what} is that of an extra run; choose another")
    if len(name) > MAX_NAME_CHARACTERS or size > MAX_NAME_BYTES:
        raise ConfigurationError(
            f"The name {short!r} of the {what} has {len(name)} characters ({size} bytes in UTF-8); "
            f"at most {MAX_NAME_CHARACTERS} characters and {MAX_NAME_BYTES} bytes can be stored"
        )


def is_extra_name(name: str) -> bool:
    """Whether ``name`` is the name of an extra run, which no task and no instance can have."""
    return _EXTRA_NAME.fullmatch(name) is not None


def check_duration(value: object, what: str, *, zero: bool = False) -> None:
    """Raise ConfigurationError unless ``value`` is a positive timedelta (or zero, where that is allowed), and not absurdly long."""
    if not isinstance(value, timedelta):
        raise ConfigurationError(f"The {what} is {shown(value)}; pass a timedelta, for example timedelta(seconds=60)")
    if value < timedelta() or (not zero and not value):
        raise ConfigurationError(f"The {what} is {value}; it must be {'zero or more' if zero else 'more than zero'}")
    if value > _LONGEST:
        raise ConfigurationError(f"The {what} is {value}; it must be at most {_LONGEST.days} days")


def check_count(value: object, what: str) -> None:
    """Raise ConfigurationError unless ``value`` is a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"The {what} is {shown(value)}; it must be a whole number of at least 1")


def check_free_arguments(args: Iterable[str], options: Sequence[str], what: str, elsewhere: Mapping[str, str] = {}) -> None:
    """Raise ConfigurationError for an argument that was probably meant as an option, and would silently go to the body.

    :param args: the names of the arguments.
    :param options: the names of the options.
    :param what: what receives them, for the message.
    :param elsewhere: names of options that don't apply here, and what to do instead.
    """
    for name in args:
        if name in elsewhere:
            like, do = "an option that belongs elsewhere", elsewhere[name]
        elif name in _ELSEWHERE_CALLED:
            like, do = "the option of another scheduler", _ELSEWHERE_CALLED[name]
        else:
            option = one_slip_from(name, (*options, *elsewhere))
            if option is None:
                continue
            like, do = f"the option {option!r}", "correct it"
        raise ConfigurationError(
            f"The argument {shown(name)} of {what} looks like {like}: {do}, or pass args={{{name!r}: ...}} if you mean an argument for the body"
        )


def free_arguments(
    args: Mapping[str, Any] | None,
    further: Mapping[str, Any],
    options: Sequence[str],
    what: str,
    elsewhere: Mapping[str, str] = {},
) -> Mapping[str, Any]:
    """All arguments for the body: ``args``, which may have any names, and ``further``, checked by :func:`check_free_arguments`."""
    check_free_arguments(further, options, what, elsewhere)
    if args is None:
        return further
    if not isinstance(args, Mapping):
        raise ConfigurationError(f"The args of {what} are of type {type(args).__name__}; pass a dict")
    for twice in args.keys() & further.keys():
        raise ConfigurationError(f"The argument {shown(twice)} of {what} is given twice, in args= and by its name; give it once")
    return {**args, **further}


#: Options of other schedulers, and what to do instead.
_ELSEWHERE_CALLED = {
    "acks_late": "set execution_mode= on the task",
    "autoretry_for": "set retry=Retry(...) on the task, with give_up_on= for errors that should not be retried",
    "coalesce": "set catch_up=CatchUp.LATEST on the task",
    "countdown": "pass execute_at=datetime.now(UTC) + timedelta(...) to schedule_task()",
    "cron": "use schedule=",
    "crontab": "use schedule=",
    "default_retry_delay": "set retry=Retry(delay=...) on the task",
    "end_date": "use end_at=",
    "eta": "pass execute_at= to schedule_task()",
    "expires": "compare context.scheduled_at with the time in the body",
    "max_instances": "leave it out, or use max_running=1 under AT_MOST_ONCE",
    "max_retries": "set retry=Retry(attempts=...) on the task; it includes the first attempt",
    "max_tries": "set retry=Retry(attempts=...) on the task",
    "misfire_grace_time": "set catch_up_window= on the task",
    "replace_existing": "leave it out, because schedule_task() always replaces an existing instance",
    "retries": "set retry=Retry(attempts=...) on the task; it includes the first attempt",
    "retry_backoff": "set retry=Retry(delay=..., factor=...) on the task",
    "run_at": "pass execute_at= to schedule_task()",
    "run_date": "pass execute_at= to schedule_task()",
    "soft_time_limit": "set timeout= on the task",
    "start_date": "use start_at=",
    "time_limit": "set timeout= on the task",
    "trigger": "use schedule= or interval=",
    "tz": "use timezone=",
}


@functools.lru_cache(maxsize=1024)
def one_slip_from(name: str, options: Sequence[str]) -> str | None:
    """The option that is one typo away from ``name``: a letter added, missing or wrong, two swapped, or different case.

    A word as short as ``name`` is one typo away from too many other words.
    """
    return next((option for option in options if len(option) > 4 and _is_one_slip(name.lower(), option)), None)


def _is_one_slip(name: str, option: str) -> bool:
    start = _shared(name, option)
    name, option = name[start:], option[start:]
    end = _shared(name[::-1], option[::-1])
    name, option = name[: len(name) - end], option[: len(option) - end]
    return (len(name) <= 1 and len(option) <= 1) or (len(name) == 2 and name == option[::-1])


def _shared(one: str, other: str) -> int:
    """The length of the common beginning."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def check_type(value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"The {what} is {shown(value)}; pass a{'n' * (kind.__name__[0] in 'AEIOU')} {kind.__name__}")


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The member of ``known`` of which ``name`` is most likely a misspelling, if any is close."""
    names = sorted(known)
    # Prefer a common beginning: typos in the first letters are rare.
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    return one_slip_from(name, tuple(names)) or max(close, key=lambda each: _shared(name, each), default=None)


def check_attribute_name(name: object, reserved: Container[str]) -> None:
    """Raise ConfigurationError unless ``name`` can become an attribute of the context, which already has the ``reserved`` ones."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigurationError(f"{shown(name)} can't be an attribute of the context; use a Python identifier")
    if name.startswith("_") or name in reserved:
        raise ConfigurationError(f"The name {name!r} is already an attribute of the context; choose another")
