"""``H`` in cron expressions: a number derived from the name of the task, so that many tasks don't all run at once.

It is replaced when a task is declared or scheduled. So the stored expression is an ordinary one, which shows when the task really runs.
"""

import hashlib
import re

from pyncette.errors import ScheduleError
from pyncette.schedules.cron import LIMITS, normalise
from pyncette.values import plain_text, shown

__all__ = ["spread"]

_TERM = re.compile(r"H(?:\((\d{1,9})-(\d{1,9})\))?(?:/(\d{1,9}))?", re.ASCII)
#: The number of days that every month has.
_EVERY_MONTH = 28


def spread(expression: str, name: str) -> str:
    """``expression`` with each ``H`` replaced by a number.

    ``H`` is any number of its field, ``H(0-29)`` one in this range, and ``H/10`` or ``H(0-29)/10`` every tenth number, beginning with one of
    the first ten. The same name gives the same numbers on every machine and in every release; names are spread evenly.

    :param name: the name of the task, or of the instance of a template.
    :raises ScheduleError: an ``H`` can't be understood, or the expression is too long.
    """
    if not isinstance(expression, str) or "H" not in expression.upper():
        return expression
    written = normalise(expression)
    fields = written.split()
    if written.startswith("@") or len(fields) not in (5, 6):
        return expression  # the parser refuses it with a better message
    digest = hashlib.sha256(plain_text(name).encode("utf-8", "surrogatepass")).digest()
    return " ".join(
        ",".join(
            _chosen(term, index, int.from_bytes(digest[4 * index : 4 * index + 4]), written) if term.startswith("H") else term
            for term in field.split(",")
        )
        for index, field in enumerate(fields)
    )


def _chosen(term: str, index: int, number: int, expression: str) -> str:
    field, low, high = LIMITS[index]
    high = {"day-of-month": _EVERY_MONTH, "day-of-week": 6}.get(field, high)
    match = _TERM.fullmatch(term)
    if match is None:
        raise _refused(field, term, expression, "write H, H(0-29), H/10 or H(0-29)/10")
    if match[1] is not None:
        first, last = int(match[1]), int(match[2])
        if not low <= first < last <= LIMITS[index][2]:
            raise _refused(field, term, expression, f"its range must go up, within {low}-{LIMITS[index][2]}")
        low, high = first, last
    if match[3] is None:
        return str(low + number % (high - low + 1))
    step = int(match[3])
    if not 1 <= step <= high - low + 1:
        raise _refused(field, term, expression, f"its step must be from 1 to {high - low + 1}")
    first = low + number % step
    return f"{first}-{high}/{step}" if first + step <= high else str(first)


def _refused(field: str, term: str, expression: str, advice: str) -> ScheduleError:
    return ScheduleError(f"In cron expression {shown(expression)}, {field} {shown(term)} is not understood: {advice}")
