"""What is called how in Redis."""

import urllib.parse
import zlib
from collections.abc import Sequence

__all__ = ["Keys"]

#: How many slots that partitions spread over the nodes of a cluster, and so few that each can be asked for its partitions.
_GROUPS = 256


class Keys:
    """The keys of a namespace. Those of a partition are in one slot."""

    def __init__(self, namespace: str) -> None:
        # Nothing that is in braces: the first pair of them in a key decides on its slot.
        self.prefix: str = f"{_quote(namespace)}:" if namespace else ""

    def rows(self, partition: str) -> Sequence[str]:
        """Those of the script ``partition.lua``."""
        group, of = self._of(partition)
        return f"{of}:index", f"{of}:rows", f"{of}:specs", f"{group}:partitions"

    def history(self, partition: str) -> Sequence[str]:
        """Those of the script ``history.lua``."""
        group, of = self._of(partition)
        return f"{of}:history", f"{of}:history:names", f"{of}:history:expiries", f"{of}:history:entries", f"{group}:histories"

    def known(self, what: str = "partitions") -> Sequence[str]:
        """The sets of partitions that have rows; or, with "histories", that have a history."""
        return [f"{self.prefix}{{pyncette:{group}}}:{what}" for group in range(_GROUPS)]

    def hints(self, database: int) -> str:
        """The channel of hints. Channels are not of one database, as keys are."""
        return f"{self.prefix}pyncette:hints:{database}"

    def _of(self, partition: str) -> tuple[str, str]:
        group = f"{self.prefix}{{pyncette:{zlib.crc32(partition.encode()) % _GROUPS}}}"
        return group, f"{group}:{_quote(partition)}"


def _quote(text: str) -> str:
    """``text`` without braces, in ASCII; two texts never become one."""
    return urllib.parse.quote(text, safe="!$&'()*+,-./:;<=>?@[]^_|~ ")
