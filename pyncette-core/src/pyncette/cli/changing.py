"""``pyncette unschedule`` and ``move``."""

import argparse
import functools
import shlex
from collections.abc import Sequence

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.audit import audit
from pyncette.cli.bulk import in_bulk
from pyncette.cli.filters import Filter
from pyncette.cli.output import note, print_json
from pyncette.cli.stored import Group, count, find, find_all, groups, locate, opened, rows
from pyncette.errors import ConfigurationError
from pyncette.extra import place
from pyncette.history import remember
from pyncette.layout import forget_layout
from pyncette.moving import Moved, move
from pyncette.partitions import owner_of
from pyncette.store.contract import Key, Row, State
from pyncette.tasks import Template

__all__ = ["move_instances", "unschedule"]

#: How many of the instances left behind are named.
_EXAMPLES = 10
#: The number of rows removed in one call.
_BULK = 1000
#: The number of rows moved or removed between two progress reports.
_TELL_EVERY = 50 * _BULK


async def unschedule(app: Pyncette, arguments: argparse.Namespace) -> int:
    """Remove an instance, the rows that can't be read, or what the application does not declare."""
    name, instance = arguments.name, arguments.instance
    forgotten = False
    if instance is not None and (arguments.all or arguments.unreadable):
        raise ConfigurationError("Both an instance and --all or --unreadable are given; leave out one of them")
    wanted = Filter.of(arguments)
    if wanted.given and (instance is not None or arguments.all or arguments.unreadable):
        raise ConfigurationError("Both a filter and an instance, --all or --unreadable are given; leave out one of them")
    if not wanted.given and (arguments.dry_run or arguments.yes):
        raise ConfigurationError("--yes and --dry-run only go with filters; add a filter, or leave them out")
    async with opened(app) as app_context:
        known = await groups(app_context)
        if wanted.given:
            remove = functools.partial(_remove_all, app_context, arguments)
            group = find(known, name, instances=not wanted.extra)
            return await in_bulk(app_context, group, wanted, "unscheduled", remove, arguments, confirmed=arguments.yes)
        if instance is not None:
            what = f"{instance!r} of {name!r}"
            group = find(known, name, instances=True)
            keys = [row.key for row in await locate(app_context.repository, group, instance)]
            removed = await _remove(app_context, keys)
            if removed and group.task is not None:
                now, keep = app_context.clock.now(), group.task.history
                await remember(app_context.repository, keys[0], now, keep, "unschedule", arguments.by)
        elif arguments.unreadable:
            what = f"rows of {name!r} that can't be read"
            removed = sum([await _remove_rows(app_context, group, unreadable=True) for group in find_all(known, name)])
        else:
            what = f"{name!r}"
            removed, forgotten = await _remove_undeclared(app_context, name, find_all(known, name), confirmed=arguments.all)
    if not removed and not forgotten:
        raise ConfigurationError(f"The store has no {what}; nothing was changed")
    audit("unschedule", name, instance, by=arguments.by, count=None if instance is not None else removed)
    if arguments.json:
        print_json({"task": name, "instance": instance, "unscheduled": True, "count": removed})
    else:
        note(f"{what} is unscheduled" if removed <= 1 else f"{what}: {removed} rows are unscheduled")
    return 0


async def _remove_undeclared(
    app_context: PyncetteContext, name: str, found: Sequence[Group], *, confirmed: bool
) -> tuple[int, bool]:
    """Remove a whole group: the number of removed rows, and whether its layout was removed."""
    undeclared = [group for group in found if group.task is None]
    if not undeclared:
        way_out = "take it out there" if found[0].kind == "static" else "name an instance of it"
        raise ConfigurationError(f"The app declares {name!r}; {way_out}")
    removed, forgotten = 0, False
    for group in undeclared:
        if group.kind == "static":
            removed += await _remove(app_context, [Key(group.partitions[0], name)])
            continue
        totals = await count(app_context, group)
        if not confirmed and (totals is None or totals.instances):
            instances = "instances" if totals is None else f"{totals.instances} instance{'' if totals.instances == 1 else 's'}"
            raise ConfigurationError(f"{name!r} has {instances} in the store; name one of them, or remove all with --all")
        removed += await _remove_rows(app_context, group)
        # Remove the layout last: if this is interrupted, it still says where the remaining rows are.
        forgotten |= await forget_layout(app_context.repository, app_context.clock.now(), name)
    return removed, forgotten


async def _remove_rows(app_context: PyncetteContext, group: Group, *, unreadable: bool = False) -> int:
    """Remove all rows of a group, or only those that can't be read; returns the number of removed rows."""
    removed = 0
    batch: list[Key] = []
    partitions = group.partitions
    async for row in rows(app_context.repository, partitions):
        if unreadable and (row.state is not State.UNREADABLE or (group.kind == "static" and row.key.name != group.name)):
            continue
        batch.append(row.key)
        if len(batch) == _BULK:
            removed += await _remove(app_context, batch)
            batch = []
            if removed % _TELL_EVERY == 0:
                note(f"{removed} rows are removed so far")
    return removed + await _remove(app_context, batch)


async def _remove_all(app_context: PyncetteContext, arguments: argparse.Namespace, found: Sequence[Row]) -> int:
    count = await _remove(app_context, [row.key for row in found])
    audit("unschedule", arguments.name, by=arguments.by, count=count)
    return count


async def _remove(app_context: PyncetteContext, keys: Sequence[Key]) -> int:
    return sum(await app_context.repository.unregister(app_context.clock.now(), keys)) if keys else 0


# --- move ---------------------------------------------------------------------------------------------------------------


async def move_instances(app: Pyncette, arguments: argparse.Namespace) -> int:
    """Move the instances of a template to another template, or to its new layout."""
    destination = _template(app, arguments.destination)
    async with opened(app) as app_context:
        known = await groups(app_context)
        source = _source(known, arguments.source)
        _check_pauses(find(known, source, instances=True), find(known, destination.name, instances=True))
        if arguments.dry_run:
            moved = await _would_move(app_context, find(known, source, instances=True), destination)
        else:
            moved = await move(app_context.repository, app_context.clock, source, destination, progress=_Progress())
            if moved.moved:
                audit("move", source, by=arguments.by, count=moved.moved, to=destination.name)
    if arguments.json:
        print_json(
            {
                "source": source,
                "destination": destination.name,
                "dry_run": arguments.dry_run,
                "moved": moved.moved,
                "busy": moved.busy,
                "unreadable": moved.unreadable,
                "conflicts": moved.conflicts,
                "complete": moved.complete,
            }
        )
    else:
        _tell(source, destination, moved, dry_run=arguments.dry_run)
    return 0 if moved.complete or arguments.dry_run else 1


def _check_pauses(source: Group, destination: Group) -> None:
    if source.paused is not None and destination.paused is None:
        raise ConfigurationError(
            f"{source.name!r} is {source.pause}, and {destination.name!r} is not, so moved instances would run; "
            f"pause that first with: pyncette pause APP {shlex.quote(destination.name)}, or resume the other"
        )


class _Progress:
    """Reports progress."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, moved: int) -> None:
        if moved - self._told >= _TELL_EVERY:
            self._told = moved
            note(f"{moved} rows are moved so far")


def _template(app: Pyncette, name: str) -> Template:
    for task in app.tasks:
        if isinstance(task, Template) and task.name == name:
            return task
    templates = [task.name for task in app.tasks if isinstance(task, Template)]
    known = f"its templates are {', '.join(templates)}" if templates else "nor any other"
    raise ConfigurationError(f"The app declares no template {name!r}; {known}")


def _source(known: Sequence[Group], source: str) -> str:
    """The name of the template, given as such or as one of its partitions."""
    owner = owner_of(source)
    if owner is not None and not any(group.name == source for group in known):
        return owner.name
    return find(known, source, instances=True).name


async def _would_move(app_context: PyncetteContext, source: Group, destination: Template) -> Moved:
    result = Moved()
    now = app_context.clock.now()
    async for row in rows(app_context.repository, source.partitions):
        if row.state is State.UNREADABLE:
            result.unreadable += 1
        elif place(destination, row) == row.key:
            continue
        elif row.locked_until is not None and row.locked_until > now:
            result.busy += 1
        else:
            result.moved += 1
    return result


def _tell(source: str, destination: Template, moved: Moved, *, dry_run: bool) -> None:
    def many(count: int) -> str:
        return f"{count} row{'' if count == 1 else 's'}"

    are = "would be" if dry_run else "is" if moved.moved == 1 else "are"
    note(f"{many(moved.moved)} of {source!r} {are} moved to where {destination.name!r} has its instances")
    if moved.busy:
        note(f"{many(moved.busy)} can't be moved now, because they are running or have just changed; repeat the command")
    if moved.unreadable:
        note(f"{many(moved.unreadable)} can't be read, so they can't be moved; see: pyncette unschedule --help")
    for name in moved.conflicts[:_EXAMPLES]:
        note(
            f"{name!r} stays, because {destination.name!r} has an instance of that name with another schedule; unschedule one of the two"
        )
    if len(moved.conflicts) > _EXAMPLES:
        note(f"{len(moved.conflicts) - _EXAMPLES} more stay for that reason; --json names all")
