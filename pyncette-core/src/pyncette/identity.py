"""Who works here: the name of one running application, for what is stored and told of its runs."""

import os
import socket

__all__ = ["new_worker_id"]

#: A host's name is cut to this, so that it fits wherever it is stored.
_MOST_CHARACTERS = 64


def new_worker_id() -> str:
    """An id for a worker, ``host:pid:4 hexadecimal digits``: people find the process by it, and no two applications share it."""
    return f"{socket.gethostname()[:_MOST_CHARACTERS]}:{os.getpid()}:{os.urandom(2).hex()}"
