"""Changing many rows: page by page, with progress. A command can be interrupted and repeated."""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pyncette.app_context import PyncetteContext
from pyncette.cli.filters import Filter, instance_of
from pyncette.cli.output import note, print_json, print_table
from pyncette.cli.stored import Group, describe_schedule, state_of
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.store.contract import Row

__all__ = ["in_bulk"]

#: The maximum number of rows changed in one call.
_BATCH = 1000
#: How often (seconds) progress is reported.
_TELL_EVERY = 2.0
#: The maximum number of rows shown before a change, and of errors shown after it.
_SHOWN = 100
_ERRORS = 5


async def in_bulk(
    app_context: PyncetteContext,
    group: Group,
    wanted: Filter,
    done: str,
    act: Callable[[Sequence[Row]], Awaitable[int]],
    arguments: argparse.Namespace,
    *,
    confirmed: bool = True,
) -> int:
    """Have ``act`` change the ``wanted`` rows of ``group``, batch by batch, and print the outcome; returns the exit code.

    :param done: the participle for the messages, as in "3 rows of 'deliver' are retried".
    :param act: changes a batch, and returns the number of changed rows.
    :param confirmed: False: only count, and refuse with a message that names the option to add.
    """
    if arguments.dry_run:
        return await _dry_run(app_context, group, wanted, done, arguments)
    if not confirmed:
        count = 0
        async for rows in wanted.batches(app_context, group):
            count += len(rows)
        raise ConfigurationError(
            f"{_rows(count)} of {group.name!r} would be {done}; repeat the command with --yes, or list them with --dry-run"
        )
    changed = failed = 0
    errors: list[str] = []
    told = time.monotonic()
    try:
        async for rows in wanted.batches(app_context, group):
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                try:
                    changed += await act(batch)
                except RepositoryError as error:
                    failed += len(batch)
                    errors.append(f"{_rows(len(batch))}, from {instance_of(batch[0])!r} to {instance_of(batch[-1])!r}: {error}")
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                note(f"{_rows(changed)} {done} so far")
    except (asyncio.CancelledError, RepositoryError):
        note(f"interrupted: {_rows(changed)} of {group.name!r} {done} so far; repeat the command for the rest")
        raise
    for text in errors[:_ERRORS]:
        note(text)
    if len(errors) > _ERRORS:
        note(f"{len(errors) - _ERRORS} more batches failed")
    if arguments.json:
        print_json({"task": group.name, "instance": None, done: True, "count": changed, "failed": failed})
    else:
        note(f"{_rows(changed)} of {group.name!r} {'is' if changed == 1 else 'are'} {done}")
        if failed:
            note(f"{_rows(failed)} could not be {done}; repeat the command")
    return 1 if failed else 0


async def _dry_run(app_context: PyncetteContext, group: Group, wanted: Filter, done: str, arguments: argparse.Namespace) -> int:
    count = 0
    shown: list[Sequence[Any]] = []
    async for rows in wanted.batches(app_context, group):
        count += len(rows)
        for row in rows if arguments.json else rows[: _SHOWN - len(shown)]:
            values = {
                "instance": instance_of(row),
                "state": state_of(row, app_context.clock.now()),
                "next": describe_schedule(row)["next"],
            }
            if arguments.json:
                print_json({"task": group.name, **values, "dry_run": True})
            else:
                shown.append(list(values.values()))
    if not arguments.json:
        if shown:
            print_table(["instance", "state", "next"], shown)
        if count > len(shown):
            note(f"and {count - len(shown)} more; --json names all")
        note(f"{_rows(count)} of {group.name!r} would be {done}; nothing was changed")
    return 0


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
