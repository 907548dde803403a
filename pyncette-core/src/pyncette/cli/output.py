"""The output of commands: a table for people, or one JSON object per line for programs.

Names, schedules and errors come from anybody who schedules tasks, and rows from anybody who can write to the store. So all output goes
through :func:`say`, which escapes characters that move the cursor, change colours, or hide or reverse text. JSON has its own escapes.
"""

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

__all__ = ["OutputError", "flush", "note", "print_json", "print_pairs", "print_table", "printable", "say", "write_line"]

_GAP = "  "
#: The minimum width of a column, however narrow the terminal.
_NARROWEST = 6
_LINE_ENDS = re.compile(r"\s*\n\s*")
#: Invisible characters and look-alikes of blanks that are not control characters: without escapes, different names could look the same.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
#: More combining marks than any script puts on one letter, which would cover the lines above and below.
_TOO_HIGH = 4


class OutputError(Exception):
    """The result could not be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The result can't be written: {error.strerror or error}")
        #: Whether the reader has closed the pipe.
        self.enough: bool = isinstance(error, BrokenPipeError)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one line, escaped; to standard output unless another stream is given."""
    write_line(printable(text), stream or sys.stdout)


def note(text: str) -> None:
    """Print a message that is not part of the result."""
    say(f"pyncette: {_LINE_ENDS.sub(' ', text.strip())}", sys.stderr)


def print_json(values: Mapping[str, Any]) -> None:
    """Print one object on one line, in ASCII. Values without a JSON type are printed as text."""
    write_line(json.dumps(values, default=str, allow_nan=False), sys.stdout)


def print_pairs(values: Mapping[str, object]) -> None:
    """Print names and values, one pair per line, in full. None is left out."""
    width = max(map(len, values))
    for name, value in values.items():
        if value is not None:
            say(f"{name:{width}}{_GAP}{value}")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, cut to the width of the terminal, or in full if the output is not a terminal."""
    cells = [[heading.upper() for heading in headings]]
    cells += [["" if value is None else printable(str(value)) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = _fit(widths, shutil.get_terminal_size().columns)
    for row in cells:
        padded = (_pad(_cut(text, width), width) for text, width in zip(row, widths, strict=True))
        say(_GAP.join(padded).rstrip())


def flush() -> None:
    """Flush the output."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def write_line(line: str, stream: TextIO) -> None:
    """Write escaped text; raises :class:`OutputError` if it can't be written."""
    try:
        stream.write(f"{line}\n")
    except OSError as error:
        raise OutputError(error) from error


def printable(text: str) -> str:
    """``text`` on one line, with everything escaped that a terminal would obey, hide or reorder. Idempotent."""
    if text.isascii() and text.isprintable():
        return text
    shown = []
    marks = 0
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        plain = char.isprintable() and not _INVISIBLE.match(char) and marks <= _TOO_HIGH
        shown.append(char if plain else char.encode("unicode_escape").decode())
    return "".join(shown)


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
    kept, room = "", width - 1
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        kept += char
    return kept + "…"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """The width of ``text`` on a terminal, in columns."""
    if text.isascii():
        return len(text)
    return sum(0 if _is_mark(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me")
