"""A base for stores with conditional writes: see :mod:`pyncette.store.compare_and_set`."""

from pyncette.store.compare_and_set import (
    CompareAndSetRepository,
    Stored,
    Write,
)

__all__ = ["CompareAndSetRepository", "Stored", "Write"]
