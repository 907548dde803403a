"""The names of partitions, and the tasks that they belong to."""

import zlib
from typing import NamedTuple

__all__ = [
    "BACKFILLS",
    "BELLS",
    "LAYOUTS",
    "NO_TASKS",
    "STATIC",
    "WORKERS",
    "Owner",
    "crc32_selector",
    "dynamic",
    "extra_of",
    "extra_runs",
    "owner_of",
    "partitioned",
]

#: The partition of all static tasks.
STATIC = "static"
#: The partition of the facts that :mod:`pyncette.layout` keeps. Nothing in it is ever due.
LAYOUTS = "layouts"
#: The partitions of :mod:`pyncette.extra`: the bells of static tasks, and the records of backfills. Nothing in them is ever claimed.
BELLS = "bells"
BACKFILLS = "backfills"
#: The partition of the rows in which workers report themselves, see :mod:`pyncette.workers`. Nothing in it is ever due.
WORKERS = "workers"
#: Prefixes of partitions without tasks: those above, and the one that `pyncette check` leaves behind if it is killed.
NO_TASKS = (LAYOUTS, BELLS, BACKFILLS, WORKERS, "check:")


class Owner(NamedTuple):
    """The template that a partition belongs to."""

    #: The name of the template.
    name: str
    #: The index of the partition; None if the template has only one.
    number: int | None


def dynamic(name: str) -> str:
    """The partition of a dynamic task."""
    return f"dynamic:{name}"


def partitioned(index: int, name: str) -> str:
    """One of the partitions of a partitioned task."""
    return f"partitioned:{index}:{name}"  # the index comes first, because a name may contain anything


def extra_runs(name: str) -> str:
    """The partition of the extra runs of a static task; those of an instance are in the partition of the instance."""
    return f"extra:{name}"


def extra_of(partition: str) -> str | None:
    """The static task whose extra runs are in ``partition``; None for any other partition."""
    kind, _, name = partition.partition(":")
    return name if kind == "extra" and name else None


def owner_of(partition: str) -> Owner | None:
    """The template whose instances are in ``partition``; None if it is not a template's."""
    kind, _, rest = partition.partition(":")
    if kind == "dynamic" and rest:
        return Owner(rest, None)
    index, _, name = rest.partition(":")
    if kind == "partitioned" and index.isascii() and index.isdecimal() and str(int(index)) == index and name:
        return Owner(name, int(index))
    return None


def crc32_selector(partition_count: int, name: str) -> int:
    """The default partition selector: CRC-32 of the name in UTF-8. It is the same on every machine and in every release."""
    return zlib.crc32(name.encode()) % partition_count
