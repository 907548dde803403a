"""``pyncette pause``, ``resume``, ``trigger``, ``backfill``, ``retry`` and ``reschedule``."""

import argparse
import getpass
import os
import re
import socket
from datetime import datetime, timedelta, tzinfo
from typing import Any, cast

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.arguments import Add, add_app, add_json, in_loop, zone
from pyncette.cli.bulk import in_bulk
from pyncette.cli.completion import complete_names
from pyncette.cli.filters import Filter, add_filters
from pyncette.cli.output import note, print_json, say
from pyncette.cli.rescheduling import add_schedule_options, schedule_options
from pyncette.cli.resuming import add_catch_up, catch_up_of, changer
from pyncette.cli.stored import Group, find, groups, opened
from pyncette.cli.upcoming import Moment, instant_meant, parse_moment
from pyncette.errors import ConfigurationError
from pyncette.tasks import StaticTask, Task, Template

__all__ = ["add_by", "add_verbs", "who"]

_INTERVAL = re.compile(r"(\d{1,9})([smhdw])")


def who() -> str:
    """The default for ``--by``: who gives the command."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, for example in a container
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


def add_by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", default=who(), metavar="WHO", help="your name, for the audit log (default: user@host)")


def add_verbs(add: Add) -> None:
    parser = _add(
        add,
        "pause",
        _pause,
        "pause tasks until they are resumed",
        "Without INSTANCE or a filter, a template is paused as a whole, in every process. Runs in progress continue.",
        "shop.py:app weekly_report --note 'until the numbers are right'",
        "shop.py:app deliver 'order 17'",
        "shop.py:app deliver",
        "shop.py:app deliver --prefix test- --yes",
    )
    parser.add_argument("--note", metavar="TEXT", help="the reason, shown where paused tasks are listed")
    _add_bulk(parser)
    parser = _add(
        add,
        "resume",
        _resume,
        "let paused tasks run again",
        "Of the occurrences missed during the pause, the latest runs at once, unless --catch-up says otherwise.",
        "shop.py:app weekly_report",
        "shop.py:app deliver",
        "shop.py:app deliver --state paused --yes",
    )
    add_catch_up(parser)
    _add_bulk(parser)
    parser = _add(
        add,
        "trigger",
        _trigger,
        "run a task now, in addition to its schedule",
        "Adds an extra run with the arguments stored now; the schedule does not change.",
        "shop.py:app weekly_report",
        "shop.py:app deliver 'order 17'",
    )
    parser.add_argument(
        "--key", metavar="TEXT", help="add nothing while the run of an earlier command with this key is waiting or running"
    )
    parser = _add(
        add,
        "backfill",
        _backfill,
        "run a task for times in the past",
        "Once for each time of its schedule, from --from up to but not including --to. An INSTANT is 2026-07-01, 2026-07-01T09:00, either with "
        "an offset such as +02:00 or Z, now, or counted from now, such as --from=-2d.",
        "shop.py:app weekly_report --from 2026-05-01 --to 2026-06-01 --dry-run",
        "shop.py:app deliver 'order 17' --from=-2d",
    )
    parser.add_argument("--from", dest="start", type=parse_moment, required=True, metavar="INSTANT", help="the first time")
    parser.add_argument(
        "--to", dest="end", type=parse_moment, default=timedelta(), metavar="INSTANT", help="the end of the range (default: now)"
    )
    parser.add_argument(
        "--timezone", type=zone, default="UTC", metavar="ZONE", help="the time zone of times without an offset (default: UTC)"
    )
    parser.add_argument("--again", action="store_true", help="even if the same backfill was done before")
    parser.add_argument("--dry-run", action="store_true", help="only show the times")
    parser = _add(
        add,
        "retry",
        _retry,
        "retry what was given up",
        "Retries one, or all failed instances and extra runs of a task.",
        "shop.py:app deliver 'order 17'",
        "shop.py:app deliver --dry-run",
        "shop.py:app deliver --prefix eu-",
    )
    parser.add_argument("--prefix", metavar="TEXT", help="only instances whose name begins with this")
    parser.add_argument("--dry-run", action="store_true", help="only show them")
    parser = _add(
        add,
        "reschedule",
        _reschedule,
        "give an instance another schedule",
        "Its arguments stay.",
        "shop.py:app remind ada --schedule '0 18 * * FRI' --timezone Europe/London",
        "shop.py:app remind ada --interval 90m",
        "shop.py:app remind ada --at +2h",
        "shop.py:app remind ada --rrule 'FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17' --max-runs 12",
    )
    add_schedule_options(parser)


def _add(add: Add, name: str, command: Any, what: str, more: str, *lines: str) -> argparse.ArgumentParser:
    parser = add(name, in_loop(command), what, more, *lines)
    add_app(parser)
    complete_names(parser.add_argument("name", metavar="TASK", help="the task or template"))
    parser.add_argument(
        "instance", nargs=None if name == "reschedule" else "?", metavar="INSTANCE", help="the instance of the template"
    )
    add_by(parser)
    add_json(parser)
    return parser


def _add_bulk(parser: argparse.ArgumentParser) -> None:
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="apply to everything that matches the filters")
    parser.add_argument("--dry-run", action="store_true", help="only show them")


# --- arguments ----------------------------------------------------------------------------------------------------------


async def _declared(app_context: PyncetteContext, arguments: argparse.Namespace) -> tuple[Group, Task]:
    group = find(await groups(app_context), arguments.name, instances=arguments.instance is not None)
    if group.task is None:
        raise ConfigurationError(
            f"{arguments.name!r} is stored, but the app does not declare it; you can only show, move or unschedule it"
        )
    if group.mismatch is not None:
        raise ConfigurationError(
            f"{group.name!r} is stored as {group.mismatch}, but the app declares it differently; see: pyncette move --help"
        )
    return group, group.task


def _named(group: Group, task: Task, arguments: argparse.Namespace) -> tuple[Task, str | None]:
    """The arguments of a call that concerns one row."""
    if isinstance(task, Template) and arguments.instance is None:
        raise ConfigurationError(f"{group.name!r} is a template; name one of its instances as well")
    return task, arguments.instance


def _what(arguments: argparse.Namespace) -> str:
    return repr(arguments.name) if arguments.instance is None else f"{arguments.instance!r} of {arguments.name!r}"


def _done(arguments: argparse.Namespace, done: str, text: str, **values: Any) -> int:
    if arguments.json:
        print_json({"task": arguments.name, "instance": arguments.instance, done: True, **values})
    else:
        note(text)
    return 0


def _absent(arguments: argparse.Namespace) -> ConfigurationError:
    return ConfigurationError(f"The store has no {_what(arguments)}; nothing was changed")


# --- pause, resume ------------------------------------------------------------------------------------------------------


async def _pause(app: Pyncette, arguments: argparse.Namespace) -> int:
    return await _pause_or_resume(app, arguments, "paused")


async def _resume(app: Pyncette, arguments: argparse.Namespace) -> int:
    return await _pause_or_resume(app, arguments, "resumed")


async def _pause_or_resume(app: Pyncette, arguments: argparse.Namespace, done: str) -> int:
    wanted = Filter.of(arguments)
    if wanted.given and arguments.instance is not None:
        raise ConfigurationError("Both an instance and a filter are given; leave out one of them")
    async with opened(app, changing=True) as app_context:
        group, task = await _declared(app_context, arguments)
        pausing = done == "paused"
        if wanted.given:
            act = changer(app_context, group, done, arguments)
            return await in_bulk(app_context, group, wanted, done, act, arguments, confirmed=arguments.yes)
        if arguments.dry_run or arguments.yes:
            raise ConfigurationError("--yes and --dry-run only go with filters; add a filter, or leave them out")
        if isinstance(task, Template) and arguments.instance is None:
            if pausing:
                await app_context.pause_template(task, note=arguments.note, by=arguments.by)
                return _done(arguments, done, f"{group.name!r} is paused as a whole; running processes notice within ten seconds")
            if not await app_context.resume_template(task, catch_up=catch_up_of(arguments), by=arguments.by):
                raise ConfigurationError(
                    f"{group.name!r} is not paused as a whole; name an instance, or see: pyncette resume --help"
                )
            return _done(arguments, done, f"{group.name!r} is resumed")
        named = _named(group, task, arguments)
        if not await (
            app_context.pause_task(*named, note=arguments.note, by=arguments.by)
            if pausing
            else app_context.resume_task(*named, catch_up=catch_up_of(arguments), by=arguments.by)
        ):
            raise _absent(arguments)
        return _done(arguments, done, f"{_what(arguments)} is {done}")


# --- extra runs ---------------------------------------------------------------------------------------------------------


async def _trigger(app: Pyncette, arguments: argparse.Namespace) -> int:
    async with opened(app, changing=True) as app_context:
        group, task = await _declared(app_context, arguments)
        named = _named(group, task, arguments)
        if not await app_context.trigger_task(*named, idempotency_key=arguments.key, by=arguments.by):
            raise _absent(arguments)
        _note_waiting(group, task)
        return _done(arguments, "triggered", f"{_what(arguments)} is triggered: it runs as soon as a slot is free")


async def _backfill(app: Pyncette, arguments: argparse.Namespace) -> int:
    async with opened(app, changing=not arguments.dry_run) as app_context:
        group, task = await _declared(app_context, arguments)
        named, now = _named(group, task, arguments), app_context.clock.now()
        given: tzinfo = arguments.timezone
        start, end = instant_meant(arguments.start, now, given), instant_meant(arguments.end, now, given)
        if arguments.dry_run:
            times = await app_context.backfill_times(*named, start=start, end=end)
            for at in times:
                if arguments.json:
                    print_json({"at": at.isoformat(), "task": group.name, "instance": arguments.instance, "dry_run": True})
                else:
                    say(at.isoformat(sep=" "))
            if not arguments.json:
                note(f"{_what(arguments)} would run {_times(len(times))}; nothing was changed")
            return 0
        count = await app_context.backfill_task(*named, start=start, end=end, again=arguments.again, by=arguments.by)
        if not count and await app_context.backfill_times(*named, start=start, end=end):
            raise ConfigurationError(
                f"{_what(arguments)} has had this backfill before, so nothing was changed; repeat it with --again"
            )
        _note_waiting(group, task)
        return _done(
            arguments, "backfilled", f"{_what(arguments)} will run {_times(count)} in addition to its schedule", count=count
        )


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"


def _note_waiting(group: Group, task: Task) -> None:
    if group.paused is not None:
        note(f"{group.name!r} is paused as a whole, so this waits; see: pyncette resume --help")
    elif not task.enabled:
        note(f"{group.name!r} is disabled in this app, and runs only in processes that have it enabled")


# --- retry, reschedule --------------------------------------------------------------------------------------------------


async def _retry(app: Pyncette, arguments: argparse.Namespace) -> int:
    async with opened(app, changing=True) as app_context:
        group, task = await _declared(app_context, arguments)
        if arguments.instance is None and (isinstance(task, Template) or arguments.prefix or arguments.dry_run):
            wanted = Filter(("failed",), arguments.prefix or "", extra=None)
            return await in_bulk(
                app_context, group, wanted, "retried", changer(app_context, group, "retried", arguments), arguments
            )
        if arguments.prefix or arguments.dry_run:
            raise ConfigurationError("--prefix and --dry-run are for several instances; leave out the instance")
        if isinstance(task, StaticTask):
            count = int(await app_context.retry_task(task, by=arguments.by)) + await app_context.retry_tasks(task, by=arguments.by)
        else:
            count = int(await app_context.retry_task(task, arguments.instance, by=arguments.by))
        if not count:
            raise ConfigurationError(f"{_what(arguments)} has not failed, or does not exist; see: pyncette show --help")
        return _done(arguments, "retried", f"{_what(arguments)} is retried", count=count)


async def _reschedule(app: Pyncette, arguments: argparse.Namespace) -> int:
    async with opened(app, changing=True) as app_context:
        _, task = await _declared(app_context, arguments)
        options = schedule_options(arguments, app_context.clock.now())
        template = cast("Template", task)  # a static task is refused
        if not await app_context.reschedule_task(template, arguments.instance, **options, by=arguments.by):
            raise _absent(arguments)
        stored = await app_context.get_task(task, arguments.instance)
        following = None if stored is None else stored.scheduled_at.isoformat()
        return _done(
            arguments, "rescheduled", f"{_what(arguments)} is rescheduled; its next occurrence is {following}", next=following
        )


def _at(moment: Moment, now: datetime, timezone: str | None) -> datetime:
    return instant_meant(moment, now, zone(timezone or "UTC"))
