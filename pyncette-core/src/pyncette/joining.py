"""For stores that join transactions of their users: see :mod:`pyncette.store.joining`."""

from pyncette.store.frameworks import of_a_framework
from pyncette.store.joining import (
    JoinedRepository,
    Statements,
    SupportsTransactions,
    UserConnection,
    begun,
    cause_of,
    in_format,
    is_a,
    unknown,
)

__all__ = [
    "JoinedRepository",
    "Statements",
    "SupportsTransactions",
    "UserConnection",
    "begun",
    "cause_of",
    "in_format",
    "is_a",
    "of_a_framework",
    "unknown",
]
