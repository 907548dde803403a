"""Which of the rows that are due a process tries to claim, while other processes find the same rows due."""

import re
import zlib
from collections.abc import Sequence

from pyncette.store.contract import Row

__all__ = ["TAG", "Rivals"]

#: The characters of a lease that tell whose it is: those of one process begin alike.
TAG = 8
#: A process that was not met for that many claims is treated as gone. If it is not, that costs a few lost writes.
_FORGOTTEN = 64
#: Rows that are tried together although others may be at them.
_FEW = 12
#: How often rows are left to those who come first for them.
_LOOKS = 4
#: The most processes for each of which a claim reads as many rows as it may take.
_MOST_READ = 4


class Rivals:
    """Which of the rows of a partition that are due a process tries, while others find the same rows due.

    A row that was lost shows by its lease who has it. All who know of each other rank themselves for each row, by the same calculation of its
    name and theirs, and leave it to the first of these. So there is nobody to be asked, nobody who assigns, and while nobody
    is met the rows are just taken in their order.
    """

    __slots__ = ("_claims", "_known", "_looks", "_me", "_quiet", "more")

    def __init__(self, me: str) -> None:
        self._me = me
        #: The processes that it met, and in which claim.
        self._known: dict[str, int] = {}
        self._claims = 0
        self._quiet = False
        self._looks = 0
        #: Whether the last claim has left something that is due: then the next need not ask whether anything is.
        self.more: bool = False

    @property
    def reading(self) -> int:
        """For how many claims to read."""
        return min(len(self._known) + 1, _MOST_READ)

    def mine(self, due: Sequence[str], limit: int) -> Sequence[int]:
        """Which of the rows with the names ``due``, the longest ready first, are to be tried: their places, at most ``limit``."""
        if not self._known:
            return range(min(len(due), limit))
        me, *others = (int(tag, 16) | 1 for tag in (self._me, *self._known))

        def before_me(name: str) -> int:
            """How many of the others come first for the row."""
            number = zlib.crc32(name.encode(errors="replace"))
            mine = number * me & 0xFFFFFFFF
            return sum(number * other & 0xFFFFFFFF > mine for other in others)

        ranks = [before_me(name) for name in due]
        mine = [place for place, rank in enumerate(ranks) if rank == 0][:limit]
        share = min(limit, -(-len(due) // (len(others) + 1)))
        if 2 * len(mine) >= share:
            self._looks = 0
        elif self._looks < _LOOKS:  # the others may be about to take theirs
            self._looks += 1
        else:
            return sorted(range(len(due)), key=ranks.__getitem__)[:share]
        return mine

    def first(self, count: int) -> int:
        """How many of ``count`` rows to try before the others: a few show whether somebody is at them."""
        return count if self._quiet or count <= _FEW else max(_FEW, count // 8)

    def ended(self, lost: Sequence[Row | None], quiet: bool) -> None:
        """A claim has ended in which others got ``lost``."""
        self._claims += 1
        self._quiet = quiet
        for row in lost:
            tag = "" if row is None or row.lease is None else row.lease[:TAG]
            if tag != self._me and re.fullmatch(f"[0-9a-f]{{{TAG}}}", tag):
                self._known[tag] = self._claims
        self._known = {tag: met for tag, met in self._known.items() if self._claims - met < _FORGOTTEN}
