"""Arguments that commands share."""

import argparse
import asyncio
import re
import sys
import textwrap
from collections.abc import Callable, Coroutine
from datetime import tzinfo
from typing import Any, NoReturn, TypeAlias

from pyncette.app import Pyncette
from pyncette.cli.loading import load_app
from pyncette.cli.output import say
from pyncette.errors import ScheduleError
from pyncette.schedules.zones import find_zone

__all__ = [
    "APP",
    "Add",
    "Parser",
    "add_app",
    "add_json",
    "add_limit",
    "adding",
    "examples",
    "in_loop",
    "number",
    "whole_number",
    "zone",
]

APP = "the application: MODULE:APP or FILE.py:APP"
#: Adds a command: its name, the function to call, a short description, more details, and examples.
Add: TypeAlias = Callable[..., argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        # A URL may contain a password, and can be anywhere on the line after a typo.
        message = re.sub(r"(?<=://)\S+", "***", message)
        shown = message if len(message) <= 500 else f"{message[:500]}…"
        say(f"{self.prog}: {shown}; see: {self.prog} --help", sys.stderr)
        self.exit(2)


def adding(commands: "argparse._SubParsersAction[Parser]") -> Add:
    """A function that adds commands to ``commands``."""

    def add(name: str, command: Callable[[argparse.Namespace], int], what: str, more: str, *lines: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=what,
            description=textwrap.fill(f"{what[0].upper()}{what[1:]}. {more}", 78),
            epilog=examples(*(f"{name} {line}".rstrip() for line in lines)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        return added

    return add


def add_app(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", help=APP)
    parser.add_argument("--url", help="use this store instead of the application's own")


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=number, default=100, metavar="N", help="print at most N lines; 0 for all (default: 100)")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, for programs")


def examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  pyncette {line}" for line in lines)]) if lines else ""


def in_loop(command: Callable[[Pyncette, argparse.Namespace], Coroutine[Any, Any, int]]) -> Callable[[argparse.Namespace], int]:
    # Like `run`, import the app before the event loop starts: the import may use an event loop, and Ctrl-C can interrupt it.
    return lambda arguments: asyncio.run(command(load_app(arguments.app, arguments.url), arguments))


def number(text: str) -> int:
    # int() alone would accept -1, 1_000 and blanks, and its error for thousands of digits is unhelpful.
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def whole_number(text: str) -> int:
    if number(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def zone(name: str) -> tzinfo:
    try:
        return find_zone(name)
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
