"""The life of one row as pure functions: see :mod:`pyncette.store.lifecycle`."""

from pyncette.store.lifecycle import (
    Settled,
    Taken,
    claim,
    expected,
    lease_end,
    new_lease,
    pause,
    put_off,
    register,
    resume,
    settle,
    take,
)

__all__ = [
    "Settled",
    "Taken",
    "claim",
    "expected",
    "lease_end",
    "new_lease",
    "pause",
    "put_off",
    "register",
    "resume",
    "settle",
    "take",
]
