"""The names of partitions: where rows are kept, and whose they are."""

from typing import NamedTuple

__all__ = ["LAYOUTS", "STATIC", "Owner", "dynamic", "owner_of", "partitioned"]

#: The partition of all static tasks.
STATIC = "static"
#: The partition of the facts that :mod:`pyncette.layout` keeps. Nothing in it is ever due.
LAYOUTS = "layouts"


class Owner(NamedTuple):
    """Whose rows a partition has."""

    #: The name of the template.
    name: str
    #: Which of the template's partitions it is; None if that is its only one.
    number: int | None


def dynamic(name: str) -> str:
    """The partition of a dynamic task."""
    return f"dynamic:{name}"


def partitioned(index: int, name: str) -> str:
    """One of the partitions of a partitioned task."""
    return f"partitioned:{index}:{name}"  # the index first: a name may contain anything


def owner_of(partition: str) -> Owner | None:
    """The template whose instances are in ``partition``; None if it is not a template's."""
    kind, _, rest = partition.partition(":")
    if kind == "dynamic" and rest:
        return Owner(rest, None)
    index, _, name = rest.partition(":")
    if kind == "partitioned" and index.isascii() and index.isdecimal() and str(int(index)) == index and name:
        return Owner(name, int(index))
    return None
