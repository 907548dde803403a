"""Which due rows a process tries to claim, while other processes find the same rows due."""

import re
import zlib
from collections.abc import Sequence

from pyncette.store.contract import Row

__all__ = ["TAG", "Rivals"]

#: The number of characters at the start of a lease that identify the process.
TAG = 8
#: A process that was not met for this many claims counts as gone. If it is not, that costs a few lost writes.
_FORGOTTEN = 64
#: How many rows are tried together although others may be claiming them.
_FEW = 12
#: How often a row is left to a process that ranks first for it.
_LOOKS = 4
#: A claim reads as many rows as it may take for each known process, but for no more processes than this.
_MOST_READ = 4


class Rivals:
    """Chooses the due rows of a partition that this process tries, while others find the same rows due.

    The lease of a lost row shows which process has it. Processes that know each other rank themselves for each row by the same hash of its
    name and theirs, and leave the row to the first in that ranking. So nobody has to be asked or to assign rows, and a process that meets
    nobody just takes rows in their order.
    """

    __slots__ = ("_claims", "_known", "_looks", "_me", "_quiet", "more")

    def __init__(self, me: str) -> None:
        self._me = me
        #: The processes that it has met, with the number of the last such claim.
        self._known: dict[str, int] = {}
        self._claims = 0
        self._quiet = False
        self._looks = 0
        #: Whether the last claim left due rows: then the next one need not check whether anything is due.
        self.more: bool = False

    @property
    def reading(self) -> int:
        """The number of claims for which to read rows."""
        return min(len(self._known) + 1, _MOST_READ)

    def mine(self, due: Sequence[str], limit: int) -> Sequence[int]:
        """The indices of the rows to try, at most ``limit``, among those called ``due``, longest ready first."""
        if not self._known:
            return range(min(len(due), limit))
        me, *others = (int(tag, 16) | 1 for tag in (self._me, *self._known))

        def before_me(name: str) -> int:
            """How many other processes rank before this one for the row."""
            number = zlib.crc32(name.encode(errors="replace"))
            mine = number * me & 0xFFFFFFFF
            return sum(number * other & 0xFFFFFFFF > mine for other in others)

        ranks = [before_me(name) for name in due]
        mine = [place for place, rank in enumerate(ranks) if rank == 0][:limit]
        share = min(limit, -(-len(due) // (len(others) + 1)))
        if 2 * len(mine) >= share:
            self._looks = 0
        elif self._looks < _LOOKS:  # the others may be about to claim theirs
            self._looks += 1
        else:
            return sorted(range(len(due)), key=ranks.__getitem__)[:share]
        return mine

    def first(self, count: int) -> int:
        """How many of ``count`` rows to try first: a few show whether another process is claiming them."""
        return count if self._quiet or count <= _FEW else max(_FEW, count // 8)

    def ended(self, lost: Sequence[Row | None], quiet: bool) -> None:
        """A claim has ended, and others got the rows in ``lost``."""
        self._claims += 1
        self._quiet = quiet
        for row in lost:
            tag = "" if row is None or row.lease is None else row.lease[:TAG]
            if tag != self._me and re.fullmatch(f"[0-9a-f]{{{TAG}}}", tag):
                self._known[tag] = self._claims
        self._known = {tag: met for tag, met in self._known.items() if self._claims - met < _FORGOTTEN}
