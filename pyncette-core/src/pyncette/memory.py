"""The store in memory: see :mod:`pyncette.store.memory`."""

from pyncette.store.memory import (
    MemoryRepository,
    backend,
    memory_repository,
)

__all__ = ["MemoryRepository", "backend", "memory_repository"]
