"""What a store declares about itself: the only reasons that excuse a test of the suite."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Capabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the suite may expect of a store. The defaults describe a database: nothing is excused.

    Excused tests still run: one that passes despite its declaration makes the suite fail, so that no declaration outlives its
    reason.
    """

    #: Rows survive closing and reopening the repository. Not so in memory.
    durable: bool = True

    #: Repositories opened from the same factory see each other's rows. Not so for memory, and for SQLite's ":memory:".
    #: Where they don't, the suite's workers are several callers of one repository.
    shared: bool = True

    #: The longest ``spec`` that a row can hold, in UTF-8 bytes; None if it is longer than the suite tries (200,000). The
    #: contract requires at least 65,536.
    max_spec_bytes: int | None = None

    #: For each optional protocol: True if the store must have it, False if it must not, None to test it if it is there.
    supports_server_time: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_stats: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_partitions: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_pause: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_transactions: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_history: bool | None = None
    #: See :attr:`supports_server_time`.
    supports_wake_up: bool | None = None

    #: Tests that are known to fail, by ``Class.test`` ("TestNames.test_names_are_told_apart_byte_by_byte"), with the reason.
    exclusions: Mapping[str, str] = field(default_factory=dict)
