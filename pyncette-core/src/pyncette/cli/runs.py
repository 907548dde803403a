"""``pyncette runs``: the history of a task, newest first."""

import argparse
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.arguments import Add, add_app, add_json, add_limit, in_loop
from pyncette.cli.output import note, print_json, print_table
from pyncette.cli.stored import Group, find, groups, opened, when
from pyncette.cli.upcoming import instant_meant, parse_moment
from pyncette.history import RecordedChange, RecordedRun, page_of
from pyncette.runs import RunOutcome

__all__ = ["add_runs"]

#: The number of entries requested in one call.
_PAGE = 500


def add_runs(add: Add) -> None:
    parser = add(
        "runs",
        in_loop(_list_runs),
        "list what has happened to a task, newest first",
        "Shows each attempt that ended, and each change with who made it. Tasks with history= keep it: static ones for a week unless they "
        "say otherwise. An INSTANT is 2026-07-01, 2026-07-01T09:00, either with an offset such as +02:00 or Z, or counted from now, such "
        "as --since=-2d.",
        "shop.py:app weekly_report",
        "shop.py:app deliver 'order 17'",
        "shop.py:app deliver --failed --since=-1h --json",
    )
    add_app(parser)
    parser.add_argument("name", metavar="TASK", help="which task")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="an instance of the template (default: all)")
    parser.add_argument("--failed", action="store_true", help="only runs that did not succeed")
    parser.add_argument("--since", type=parse_moment, metavar="INSTANT", help="only runs that ended after this")
    add_limit(parser)
    add_json(parser)


async def _list_runs(app: Pyncette, arguments: argparse.Namespace) -> int:
    async with opened(app) as app_context:
        now = app_context.clock.now()
        since = None if arguments.since is None else instant_meant(arguments.since, now, UTC)
        group = find(await groups(app_context), arguments.name, instances=arguments.instance is not None)
        cells: list[Sequence[object]] = []
        seen = 0
        async for each in _history(app_context, group, arguments.instance, since, now):
            if arguments.failed and not _is_failure(each):
                continue
            seen += 1
            if arguments.limit and seen > arguments.limit:
                break
            if arguments.json:
                print_json({"task": group.name, **_described(each, group)})
            else:
                cells.append(_cells(each, group))
    if not arguments.json:
        instances = [] if group.kind == "static" else ["instance"]
        print_table([*instances, "scheduled", "started", "took", "late", "outcome", "attempt", "worker", "error"], cells)
        if arguments.limit and seen > arguments.limit:
            note(f"there are more than these {arguments.limit}; list all with --limit 0")
        if not seen and group.task is not None and group.task.history is None:
            note(f"{group.name!r} keeps no history; declare it with history=timedelta(days=7), for example")
    return 0


async def _history(
    app_context: PyncetteContext, group: Group, instance: str | None, since: datetime | None, now: datetime
) -> AsyncIterator[RecordedRun | RecordedChange]:
    """All entries since ``since``, newest first."""
    name = group.name if group.kind == "static" else instance
    token = None
    while True:
        page = await page_of(app_context.repository, group.partitions, name, limit=_PAGE, token=token, now=now)
        entries: list[RecordedRun | RecordedChange] = [*page.runs, *page.changes]
        for each in sorted(entries, key=_moment, reverse=True):
            if since is not None and _moment(each) < since:
                return
            yield each
        token = page.continuation_token
        if token is None:
            return


def _moment(entry: RecordedRun | RecordedChange) -> datetime:
    if isinstance(entry, RecordedChange):
        return entry.at
    return entry.ended or entry.started or entry.scheduled_at


def _is_failure(entry: RecordedRun | RecordedChange) -> bool:
    return isinstance(entry, RecordedRun) and entry.outcome in (RunOutcome.FAILED, RunOutcome.GIVEN_UP, RunOutcome.DIED)


def _described(entry: RecordedRun | RecordedChange, group: Group) -> dict[str, Any]:
    instance = {} if group.kind == "static" else {"instance": entry.name}
    if isinstance(entry, RecordedChange):
        return {**instance, "change": entry.action, "at": when(entry.at), "by": entry.by, **entry.details}
    return {
        **instance,
        "scheduled_at": when(entry.scheduled_at),
        "started": when(entry.started),
        "ended": when(entry.ended),
        "seconds": None if entry.duration is None else entry.duration.total_seconds(),
        "late_seconds": None if entry.lateness is None else entry.lateness.total_seconds(),
        "outcome": entry.outcome.value,
        "attempt": entry.attempt,
        "triggered": entry.triggered,
        "worker": entry.worker,
        "error": entry.error,
    }


def _cells(entry: RecordedRun | RecordedChange, group: Group) -> Sequence[object]:
    instance = [] if group.kind == "static" else [entry.name]
    if isinstance(entry, RecordedChange):
        said = ", ".join(f"{name} {value!r}" for name, value in entry.details.items())
        return [*instance, None, _shown(entry.at), None, None, entry.action, None, entry.by and f"by {entry.by}", said]
    outcome = f"{entry.outcome.value}, extra run" if entry.triggered else entry.outcome.value
    took, late = (None if each is None else f"{each.total_seconds():.3f} s" for each in (entry.duration, entry.lateness))
    started = _shown(entry.started)
    return [*instance, _shown(entry.scheduled_at), started, took, late, outcome, entry.attempt, entry.worker, entry.error]


def _shown(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(sep=" ", timespec="seconds")
