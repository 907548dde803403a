"""Who changed which task: a line for each change in the log ``pyncette.audit``, with the same information as fields of the record."""

import logging
from typing import Any

from pyncette.checks import check_type
from pyncette.values import plain_text, shown

__all__ = ["audit", "check_by"]

logger: logging.Logger = logging.getLogger("pyncette.audit")

#: Programs do these thousands of times, so without a name they are logged only at DEBUG.
_OF_PROGRAMS = ("schedule", "unschedule")


def check_by(by: str | None, what: str = "by") -> str | None:
    """``by``, or the text next to it, as it is stored; raises ConfigurationError if it is not a text."""
    if by is None:
        return None
    check_type(by, str, what)
    # Lone surrogates, which file names may contain, can be neither stored nor printed.
    return plain_text(by).encode("utf-8", "backslashreplace").decode()


def audit(action: str, task: str, instance: str | None = None, *, by: str | None, count: int | None = None, **more: Any) -> None:
    """Log ``action`` after it was done.

    :param action: a verb: ``"schedule"``, ``"pause"``, ...
    :param instance: None for a static task, or several instances.
    :param by: who did it, as they call themselves; None if they did not say.
    :param count: the number of instances, if there may be several.
    :param more: further details, such as ``note``; None is left out.
    """
    level = logging.DEBUG if by is None and action in _OF_PROGRAMS else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields = {"instance": instance, "count": count, "by": by, **more}
    known = {name: value for name, value in fields.items() if value is not None}
    told = "".join(f", {name} {shown(value)}" for name, value in known.items())
    logger.log(level, "%s: task %s%s", action, shown(task), told, extra={"action": action, "task": task, **known})
