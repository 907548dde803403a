"""The names of keys and channels in Redis."""

import urllib.parse
import zlib
from collections.abc import Sequence

__all__ = ["Keys"]

#: The number of slots for partitions: enough to spread over the nodes of a cluster, and few enough to list the partitions of each.
_GROUPS = 256


class Keys:
    """The keys of a namespace. Those of a partition are in one slot."""

    def __init__(self, namespace: str) -> None:
        # No braces: the first pair in a key determines its slot.
        self.prefix: str = f"{_quote(namespace)}:" if namespace else ""

    def rows(self, partition: str) -> Sequence[str]:
        """The keys for the script ``partition.lua``."""
        group, of = self._of(partition)
        return f"{of}:index", f"{of}:rows", f"{of}:specs", f"{group}:partitions"

    def history(self, partition: str) -> Sequence[str]:
        """The keys for the script ``history.lua``."""
        group, of = self._of(partition)
        return f"{of}:history", f"{of}:history:names", f"{of}:history:expiries", f"{of}:history:entries", f"{group}:histories"

    def known(self, what: str = "partitions") -> Sequence[str]:
        """The sets of partitions that have rows; or, with "histories", that have a history."""
        return [f"{self.prefix}{{pyncette:{group}}}:{what}" for group in range(_GROUPS)]

    def hints(self, database: int) -> str:
        """The channel of hints. Unlike keys, channels don't belong to one database."""
        return f"{self.prefix}pyncette:hints:{database}"

    def _of(self, partition: str) -> tuple[str, str]:
        group = f"{self.prefix}{{pyncette:{zlib.crc32(partition.encode()) % _GROUPS}}}"
        return group, f"{group}:{_quote(partition)}"


def _quote(text: str) -> str:
    """``text`` without braces, in ASCII. Different texts stay different."""
    return urllib.parse.quote(text, safe="!$&'()*+,-./:;<=>?@[]^_|~ ")
