"""The life of one row as pure functions: see :mod:`pyncette.store.lifecycle`."""

from pyncette.store.lifecycle import (
    claim,
    lease_end,
    new_lease,
    pause,
    register,
    resume,
    settle,
)

__all__ = ["claim", "lease_end", "new_lease", "pause", "register", "resume", "settle"]
