"""The name of a running application, in everything stored and logged about its runs."""

import os
import socket

__all__ = ["new_worker_id"]

#: The maximum length of a host name, so that ids fit wherever they are stored.
_MOST_CHARACTERS = 64


def new_worker_id() -> str:
    """A unique id for a worker, ``host:pid:4 hexadecimal digits``, by which people can find the process."""
    return f"{socket.gethostname()[:_MOST_CHARACTERS]}:{os.getpid()}:{os.urandom(2).hex()}"
