"""Reports when settled rows can be claimed next, once per turn of the event loop."""

import asyncio
from collections.abc import Callable
from datetime import datetime

__all__ = ["Expecting"]


class Expecting:
    """Collects the times of rows that are settled together."""

    def __init__(self, tell: Callable[[str, datetime], None]) -> None:
        #: Called with a partition, and the time at which its first row can be claimed.
        self.tell = tell
        self._soonest: dict[str, datetime] = {}

    def soon(self, partition: str, ready_at: datetime) -> None:
        """A row of ``partition`` can be claimed at ``ready_at``."""
        known = self._soonest.get(partition)
        if known is None or ready_at < known:
            if not self._soonest:
                asyncio.get_running_loop().call_soon(self._tell)
            self._soonest[partition] = ready_at

    def _tell(self) -> None:
        told, self._soonest = self._soonest, {}
        for partition, ready_at in told.items():
            self.tell(partition, ready_at)
