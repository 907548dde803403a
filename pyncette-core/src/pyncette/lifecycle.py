"""The life of one row as pure functions: see :mod:`pyncette.store.lifecycle`."""

from pyncette.store.lifecycle import (
    Taken,
    claim,
    lease_end,
    new_lease,
    pause,
    put_off,
    register,
    resume,
    settle,
    take,
)

__all__ = ["Taken", "claim", "lease_end", "new_lease", "pause", "put_off", "register", "resume", "settle", "take"]
