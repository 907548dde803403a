"""Pausing and resuming many rows, and which occurrences a resumption catches up on."""

import argparse
from collections.abc import Awaitable, Callable, Sequence

from pyncette.app_context import PyncetteContext
from pyncette.audit import audit
from pyncette.cli.stored import Group
from pyncette.client.changing import at_resumption, memo_of_pause, memo_of_resumption
from pyncette.errors import RepositoryError
from pyncette.history import remember
from pyncette.policies import CATCH_UPS, CatchUp
from pyncette.store.contract import Key, Row, State, SupportsPause

__all__ = ["add_catch_up", "catch_up_of", "changer"]


def changer(
    app_context: PyncetteContext, group: Group, done: str, arguments: argparse.Namespace
) -> Callable[[Sequence[Row]], Awaitable[int]]:
    """A function that pauses, resumes or retries matching rows of ``group``, and returns how many it changed."""
    repository = app_context.repository
    if not isinstance(repository, SupportsPause):
        raise RepositoryError(f"{type(repository).__name__} can't pause tasks")

    async def act(rows: Sequence[Row]) -> int:
        now, keys = app_context.clock.now(), [row.key for row in rows]
        if done == "paused":
            why = arguments.note
            memos = {row.key: memo_of_pause(row, why, arguments.by, now) for row in rows}
            count = sum(await repository.pause(now, keys, memos))
        else:
            why, asked = None, catch_up_of(arguments)
            how = (asked or CatchUp.LATEST) if group.task is None else at_resumption(group.task, asked)
            memos = {row.key: memo_of_resumption(row, now, how) for row in rows if row.state is State.PAUSED}
            count = sum(await repository.resume(now, keys, memos))
        action = {"paused": "pause", "resumed": "resume", "retried": "retry"}[done]
        audit(action, arguments.name, by=arguments.by, count=count, note=why)
        keep = None if group.task is None else group.task.history
        await remember(repository, Key(group.partitions[0], ""), now, keep, action, arguments.by, count=count, note=why)
        return count

    return act


def add_catch_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catch-up",
        choices=list(CATCH_UPS),
        help="which occurrences missed during the pause still run (default: the latest, or none if the task declares that)",
    )


def catch_up_of(arguments: argparse.Namespace) -> CatchUp | None:
    asked = getattr(arguments, "catch_up", None)
    return None if asked is None else CATCH_UPS[asked]
