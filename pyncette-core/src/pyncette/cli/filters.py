"""Filters, which select rows of a template by state, by prefix, or if they are overdue."""

import argparse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyncette import partitions
from pyncette.app_context import PyncetteContext
from pyncette.cli.stored import Group, state_of
from pyncette.extra import is_extra
from pyncette.schedules.text import origin_of
from pyncette.store.contract import Row
from pyncette.store.paging import pages

__all__ = ["STATES", "Filter", "add_filters", "instance_of"]

_PAGE = 1000
STATES = ("scheduled", "retrying", "due", "running", "lease-expired", "paused", "failed", "unreadable")


def add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", action="append", choices=STATES, metavar="STATE", help=f"only those: {', '.join(STATES)}")
    parser.add_argument("--prefix", metavar="TEXT", help="only instances whose name begins with this")
    parser.add_argument(
        "--overdue", action="store_true", help="only those that are due but have not started, or whose lease has expired"
    )
    parser.add_argument("--extra", action="store_true", help="only extra runs, which trigger and backfill create")


def instance_of(row: Row) -> str:
    """The name of the instance that ``row`` stores, or of which it is an extra run."""
    return (origin_of(row.schedule) if is_extra(row) else None) or row.key.name


@dataclass(frozen=True, slots=True)
class Filter:
    """The filters in the arguments of a command."""

    states: Sequence[str] = ()
    prefix: str = ""
    overdue: bool = False
    #: True: extra runs; False: instances; None: both.
    extra: bool | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace, extra: bool | None = False) -> "Filter":
        """``extra`` is the default if no option concerns extra runs."""
        return cls(arguments.state or (), arguments.prefix or "", arguments.overdue, True if arguments.extra else extra)

    @property
    def given(self) -> bool:
        """Whether any filter is given."""
        return bool(self.states or self.prefix or self.overdue or self.extra)

    def partitions(self, group: Group) -> Sequence[str]:
        """The partitions with rows of ``group`` that may match."""
        if group.kind != "static":
            return group.partitions
        return [partitions.extra_runs(group.name)] if self.extra is not False else []

    def meets(self, row: Row, now: datetime) -> bool:
        if self.extra is not None and is_extra(row) is not self.extra:
            return False
        if self.prefix and not instance_of(row).startswith(self.prefix):
            return False
        if not (self.states or self.overdue):
            return True
        state = state_of(row, now).replace(" ", "-")
        return (not self.states or state in self.states) and (not self.overdue or state in ("due", "lease-expired"))

    async def rows(self, app_context: PyncetteContext, group: Group, limit: int) -> AsyncIterator[Row]:
        """The matching rows of ``group``, at most ``limit`` unless that is 0."""
        count = 0
        async for rows in self.batches(app_context, group, limit=min(limit, _PAGE) or _PAGE):
            for row in rows:
                yield row
                count += 1
                if count == limit:
                    return

    async def batches(self, app_context: PyncetteContext, group: Group, *, limit: int = 1000) -> AsyncIterator[Sequence[Row]]:
        """The matching rows of ``group``, page by page; a page may be empty."""
        for partition in self.partitions(group):
            async for rows in pages(app_context.repository, partition, limit=limit):
                now = app_context.clock.now()
                yield [row for row in rows if self.meets(row, now)]
