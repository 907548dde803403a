"""What commands print: a table for people, or one JSON object a line for programs."""

# ruff: noqa: T201 - printing is what it is for

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["note", "print_json", "print_pairs", "print_table", "printable"]

_GAP = "  "
#: No column of a table is cut below this, however narrow the terminal.
_NARROWEST = 6


def note(text: str) -> None:
    """Say something that is not part of the result."""
    sys.stderr.write(f"pyncette: {' '.join(text.split())}\n")


def print_json(values: Mapping[str, Any]) -> None:
    """One object, on a line of its own. What JSON has no type for is printed as text."""
    print(json.dumps(values, default=str))


def print_pairs(values: Mapping[str, object]) -> None:
    """Names and values, one pair a line; nothing is cut. None is left out."""
    width = max(map(len, values))
    for name, value in values.items():
        if value is not None:
            print(f"{name:{width}}{_GAP}{printable(str(value))}")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table, cut to the width of the terminal; in full if the output is not a terminal."""
    cells = [[heading.upper() for heading in headings]]
    cells += [["" if value is None else printable(str(value)) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = _fit(widths, shutil.get_terminal_size().columns)
    for row in cells:
        padded = (_pad(_cut(text, width), width) for text, width in zip(row, widths, strict=True))
        print(_GAP.join(padded).rstrip())


def printable(text: str) -> str:
    """``text`` with what would move the cursor or change colours escaped: names come from whoever schedules tasks."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _fit(widths: Sequence[int], total: int) -> list[int]:
    """The widths, with the widest columns narrowed until the table is no wider than ``total``."""
    room = total - len(_GAP) * (len(widths) - 1)
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > _NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
