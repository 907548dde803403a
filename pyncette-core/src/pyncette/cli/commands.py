"""The commands and their arguments; from an error to one line and an exit code."""

import argparse
import asyncio
import importlib.metadata
import io
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import Any, NoReturn

from pyncette.app import Pyncette
from pyncette.cli.changing import move_instances, unschedule
from pyncette.cli.checking import check, list_backends
from pyncette.cli.loading import load_app
from pyncette.cli.output import OutputError, flush, note, say
from pyncette.cli.running import run
from pyncette.cli.tasks import list_tasks, show
from pyncette.cli.upcoming import next_occurrences, parse_moment
from pyncette.errors import PyncetteError, ScheduleError
from pyncette.schedules.zones import find_zone

__all__ = ["run_command"]

_APP = "the application: MODULE:APP or FILE.py:APP"
_LEVELS = ("debug", "info", "warning", "error", "critical")


def run_command(argv: Sequence[str] | None) -> int:
    """Run what ``argv`` asks for; returns the exit code, or raises SystemExit with it."""
    # One that was closed before the start is None.
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may be in any script, the terminal need not be
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.command(arguments))
        flush()
        return code
    except PyncetteError as error:
        note(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except OutputError as error:
        if not error.enough:
            note(str(error))
        # Nothing more may be written, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        # The program's own, or a fault of ours: whoever mends it needs all of it. It may contain anything.
        for line in traceback.format_exc().rstrip().split("\n"):
            say(line, sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # A URL may have a password, and can be anywhere if a blank or a dash went astray.
        message = re.sub(r"(?<=://)\S+", "***", message)
        shown = message if len(message) <= 500 else f"{message[:500]}…"
        say(f"{self.prog}: {shown}; see: {self.prog} --help", sys.stderr)
        self.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pyncette",
        description="Run and look after applications of Pyncette.",
        epilog=_examples("run shop.py:app", "list shop.py:app", "check shop.py:app", "COMMAND --help"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = importlib.metadata.version("pyncette-core")
    parser.add_argument("--version", action="version", version=f"pyncette-core {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int], what: str, more: str, *examples: str
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=what,
            description=textwrap.fill(f"{what[0].upper()}{what[1:]}. {more}", 78),
            epilog=_examples(*(f"{name} {example}".rstrip() for example in examples)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        return added

    _add_run(add)
    _add_tasks(add)
    _add_changes(add)
    _add_next(add)
    _add_checks(add)
    return parser


_Add = Callable[..., argparse.ArgumentParser]


def _add_run(add: _Add) -> None:
    parser = add(
        "run",
        run,
        "run an application until a signal",
        "The first SIGINT or SIGTERM lets running tasks end, the second ends all at once.",
        "shop.py:app",
        "shop.tasks:app --processes 4 --log-format json",
        "shop.py:app --url redis://localhost/0",
    )
    _add_app(parser)
    parser.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="how many; those that die are replaced (default: 1)"
    )
    parser.add_argument("--uvloop", action="store_true", help="use the event loop of uvloop")
    parser.add_argument("--log-level", type=str.lower, choices=_LEVELS, help="what to log at least (default: LOG_LEVEL, or info)")
    parser.add_argument("--log-format", choices=("text", "json"), help="what a line of the log is (default: text)")
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)  # a pipe, for processes under supervision
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)  # another, for what they report


def _add_tasks(add: _Add) -> None:
    parser = add(
        "list",
        _in_loop(list_tasks),
        "list the tasks of an application",
        "Or, with TEMPLATE, the instances of one that is dynamic or partitioned.",
        "shop.py:app",
        "shop.py:app deliver --limit 20",
        "shop.py:app deliver --limit 0 --json",
    )
    _add_app(parser)
    parser.add_argument("template", nargs="?", metavar="TEMPLATE", help="list its instances")
    _add_limit(parser)
    _add_json(parser)

    parser = add(
        "show",
        _in_loop(show),
        "show all about a task or an instance",
        "With its arguments, and why it was given up, if it was.",
        "shop.py:app weekly_report",
        "shop.py:app deliver 'order 17'",
    )
    _add_app(parser)
    parser.add_argument("name", metavar="NAME", help="the task or template")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="the instance of the template")
    _add_json(parser)


def _add_changes(add: _Add) -> None:
    parser = add(
        "unschedule",
        _in_loop(unschedule),
        "remove rows from the store",
        "Without INSTANCE, NAME is what the application does not declare any more. A run on its way goes on to its end.",
        "shop.py:app deliver 'order 17'",
        "shop.py:app old_report",
        "shop.py:app old_template --all",
        "shop.py:app deliver --unreadable",
    )
    _add_app(parser)
    parser.add_argument("name", metavar="NAME", help="the template, or whatever the application does not declare")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="the instance of the template")
    parser.add_argument("--all", action="store_true", help="all instances of a template that the application does not declare")
    parser.add_argument("--unreadable", action="store_true", help="the rows of NAME that can't be read")
    _add_json(parser)

    parser = add(
        "move",
        _in_loop(move_instances),
        "move instances to another template, or to another layout",
        "Nothing is lost or put off, and what is interrupted can be repeated. First stop all processes that declare SRC as it was.",
        "shop.py:app old_name deliver",
        "shop.py:app deliver deliver   (another partition_count, or kind)",
        "shop.py:app old_name deliver --dry-run",
    )
    _add_app(parser)
    parser.add_argument("source", metavar="SRC", help="the template that the rows are stored as, or one of its partitions")
    parser.add_argument(
        "destination", metavar="DST", help="the template that the application declares; SRC, if only its layout changed"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many rows would be moved")
    _add_json(parser)


def _add_next(add: _Add) -> None:
    parser = add(
        "next",
        _in_loop(next_occurrences),
        "tell what fires between two instants",
        "An INSTANT is 2026-07-01, 2026-07-01T09:00, either with an offset such as +02:00 or Z, now, or +12h (s, m, h, d or w).",
        "shop.py:app",
        "shop.py:app weekly_report --to +4w --timezone Europe/London",
        "shop.py:app --from 2026-07-01 --to 2026-07-02 --json",
    )
    _add_app(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this task or template")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="only this instance of the template")
    for option, name, default, meaning in (
        ("--from", "start", timedelta(), "from then on (default: now)"),
        ("--to", "end", timedelta(days=1), "before then; + counts on from --from (default: +1d)"),
    ):
        parser.add_argument(option, dest=name, type=parse_moment, default=default, metavar="INSTANT", help=meaning)
    parser.add_argument(
        "--timezone",
        type=_zone,
        default="UTC",
        metavar="ZONE",
        help="for what is given without an offset, and for what is printed (default: UTC)",
    )
    _add_limit(parser)
    _add_json(parser)


def _add_checks(add: _Add) -> None:
    parser = add(
        "check",
        _in_loop(check),
        "check the installation, a store and the clock",
        "Connects, creates the tables if there are none, and stores a row of its own that is claimed, settled and removed.",
        "shop.py:app",
        "--url postgresql://user@db.example/shop",
    )
    parser.add_argument("app", nargs="?", metavar="APP", help=_APP)
    parser.add_argument("--url", help="the store, instead of the application's own")
    _add_json(parser)

    parser = add("backends", list_backends, "list the stores that can be used", "By the schemes of their URLs.", "", "--json")
    _add_json(parser)


def _add_app(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", help=_APP)
    parser.add_argument("--url", help="another store than the application's own")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_limit, default=100, metavar="N", help="no more than N lines; 0: all (default: 100)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object a line")


def _examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  pyncette {line}" for line in lines)])


def _in_loop(command: Callable[[Pyncette, argparse.Namespace], Coroutine[Any, Any, int]]) -> Callable[[argparse.Namespace], int]:
    # The app is imported before the event loop runs, as by `run`: so it may use one itself, and Ctrl-C ends also what takes long.
    return lambda arguments: asyncio.run(command(load_app(arguments.app, arguments.url), arguments))


def _limit(text: str) -> int:
    # Not int() alone, which takes -1, 1_000 and blanks, and refuses thousands of digits in words of its own.
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    if _limit(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _zone(name: str) -> tzinfo:
    try:
        return find_zone(name)
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
