"""The commands with their arguments, and how errors become one line and an exit code."""

import argparse
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from pyncette.cli.arguments import APP, Add, Parser, add_app, add_json, add_limit, adding, examples, in_loop, whole_number, zone
from pyncette.cli.changing import move_instances, unschedule
from pyncette.cli.checking import check, list_backends
from pyncette.cli.completion import ASKED, add_completion, complete, complete_names
from pyncette.cli.filters import add_filters
from pyncette.cli.more import add_more
from pyncette.cli.output import OutputError, flush, note, say
from pyncette.cli.running import run
from pyncette.cli.runs import add_runs
from pyncette.cli.starting import add_init
from pyncette.cli.tasks import list_tasks, show
from pyncette.cli.upcoming import next_occurrences, parse_moment
from pyncette.cli.verbs import add_by, add_verbs
from pyncette.cli.workers import list_workers
from pyncette.errors import PyncetteError

__all__ = ["run_command"]

_LEVELS = ("debug", "info", "warning", "error", "critical")


def run_command(argv: Sequence[str] | None) -> int:
    """Run the command in ``argv``; returns the exit code, or raises SystemExit with it."""
    # A stream that was closed before the start is None.
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may be in any script, even if the terminal can't show it
    parser = _parser()
    if ASKED in os.environ:  # called by a shell
        complete(parser)
    arguments = parser.parse_args(argv)
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
        # Write nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        # An error in the program or a bug in Pyncette needs the full traceback, which may contain anything.
        for line in traceback.format_exc().rstrip().split("\n"):
            say(line, sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pyncette",
        description="Run and manage Pyncette applications.",
        epilog=examples("run shop.py:app", "list shop.py:app", "check shop.py:app", "COMMAND --help"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = importlib.metadata.version("pyncette-core")
    parser.add_argument("--version", action="version", version=f"pyncette-core {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = adding(commands)
    add_init(add)
    _add_run(add)
    _add_tasks(add)
    _add_changes(add)
    add_runs(add)
    add_verbs(add)
    _add_next(add)
    _add_checks(add)
    add_completion(add)
    add_more(add)
    return parser


def _add_run(add: Add) -> None:
    parser = add(
        "run",
        run,
        "run an application until a signal",
        "On the first SIGINT or SIGTERM, running tasks finish; the second stops everything immediately.",
        "shop.py:app",
        "shop.tasks:app --processes 4 --log-format json",
        "shop.py:app --url redis://localhost/0",
    )
    add_app(parser)
    parser.add_argument(
        "--processes",
        type=whole_number,
        default=1,
        metavar="N",
        help="the number of processes; those that die are replaced (default: 1)",
    )
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop's event loop")
    parser.add_argument(
        "--log-level", type=str.lower, choices=_LEVELS, help="the lowest level to log (default: LOG_LEVEL, or info)"
    )
    parser.add_argument("--log-format", choices=("text", "json"), help="the format of log lines (default: text)")
    parser.add_argument("--log-runs", action="store_true", help="log a line for each run that has ended")
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)  # a pipe to the supervisor
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)  # another one, for reports to it


def _add_tasks(add: Add) -> None:
    parser = add(
        "list",
        in_loop(list_tasks),
        "list the tasks of an application",
        "Or, with TEMPLATE, the instances of one that is dynamic or partitioned.",
        "shop.py:app",
        "shop.py:app deliver --limit 20",
        "shop.py:app deliver --limit 0 --json",
        "shop.py:app deliver --state failed --prefix eu-",
    )
    add_app(parser)
    complete_names(parser.add_argument("template", nargs="?", metavar="TEMPLATE", help="list its instances, and extra runs"))
    add_filters(parser)
    _add_words(parser)
    add_limit(parser)
    add_json(parser)

    parser = add(
        "show",
        in_loop(show),
        "show everything about a task or an instance",
        "Includes its arguments and, if it was given up, the error.",
        "shop.py:app weekly_report",
        "shop.py:app deliver 'order 17'",
    )
    add_app(parser)
    complete_names(parser.add_argument("name", metavar="NAME", help="the task or template"))
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="the instance of the template")
    add_json(parser)

    parser = add(
        "workers",
        in_loop(list_workers),
        "list the processes that run tasks",
        "Each reports every ten seconds. A killed worker is shown as gone for an hour; one that stopped cleanly is not listed.",
        "shop.py:app",
        "shop.py:app web-3 --json",
    )
    add_app(parser)
    parser.add_argument(
        "worker", nargs="?", metavar="WORKER", help="show everything about this worker; or give a host or a process id"
    )
    add_json(parser)


def _add_changes(add: Add) -> None:
    parser = add(
        "unschedule",
        in_loop(unschedule),
        "remove rows from the store",
        "Without INSTANCE, NAME is a task that the application no longer declares. A run in progress continues to its end.",
        "shop.py:app deliver 'order 17'",
        "shop.py:app old_report",
        "shop.py:app old_template --all",
        "shop.py:app deliver --unreadable",
        "shop.py:app deliver --prefix test- --dry-run",
        "shop.py:app weekly_report --extra --yes",
    )
    add_app(parser)
    complete_names(parser.add_argument("name", metavar="NAME", help="the template, or whatever the application does not declare"))
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="the instance of the template")
    parser.add_argument("--all", action="store_true", help="all instances of a template that the application does not declare")
    parser.add_argument("--unreadable", action="store_true", help="the rows of NAME that can't be read")
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="remove everything that matches the filters")
    parser.add_argument("--dry-run", action="store_true", help="only show what matches the filters")
    add_by(parser)
    add_json(parser)

    parser = add(
        "move",
        in_loop(move_instances),
        "move instances to another template, or to another layout",
        "Nothing is lost or postponed, and you can repeat an interrupted move. First stop all processes that declare SRC as it was.",
        "shop.py:app old_name deliver",
        "shop.py:app deliver deliver   (another partition_count, or kind)",
        "shop.py:app old_name deliver --dry-run",
    )
    add_app(parser)
    parser.add_argument("source", metavar="SRC", help="the template that the rows are stored as, or one of its partitions")
    parser.add_argument(
        "destination", metavar="DST", help="the template that the application declares; SRC again if only its layout changed"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many rows would be moved")
    add_by(parser)
    add_json(parser)


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--words", action="store_true", help="say schedules in words: At 09:00 on Monday through Friday")


def _add_next(add: Add) -> None:
    parser = add(
        "next",
        in_loop(next_occurrences),
        "list what runs between two times",
        "An INSTANT is 2026-07-01, 2026-07-01T09:00, either with an offset such as +02:00 or Z, now, or +12h (s, m, h, d or w).",
        "shop.py:app",
        "shop.py:app weekly_report --to +4w --timezone Europe/London",
        "shop.py:app --from 2026-07-01 --to 2026-07-02 --json",
    )
    add_app(parser)
    complete_names(parser.add_argument("name", nargs="?", metavar="NAME", help="only this task or template"))
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="only this instance of the template")
    for option, name, default, meaning in (
        ("--from", "start", timedelta(), "show times from here on (default: now)"),
        ("--to", "end", timedelta(days=1), "show times before this; + counts from --from (default: +1d)"),
    ):
        parser.add_argument(option, dest=name, type=parse_moment, default=default, metavar="INSTANT", help=meaning)
    parser.add_argument(
        "--timezone",
        type=zone,
        default="UTC",
        metavar="ZONE",
        help="the time zone of times without an offset, and of the output (default: UTC)",
    )
    _add_words(parser)
    add_limit(parser)
    add_json(parser)


def _add_checks(add: Add) -> None:
    parser = add(
        "check",
        in_loop(check),
        "check the installation, a store and the clock",
        "Connects, creates missing tables, and stores, claims, settles and removes a test row.",
        "shop.py:app",
        "--url postgresql://user@db.example/shop",
    )
    parser.add_argument("app", nargs="?", metavar="APP", help=APP)
    parser.add_argument("--url", help="the store, instead of the application's own")
    add_json(parser)

    parser = add("backends", list_backends, "list the available stores", "By the schemes of their URLs.", "", "--json")
    add_json(parser)
