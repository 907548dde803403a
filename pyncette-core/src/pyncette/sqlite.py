"""The store in a SQLite file: see :mod:`pyncette.store.sqlite`."""

from pyncette.store.sqlite import (
    SQLiteRepository,
    backend,
    schema,
    sqlite_repository,
)

__all__ = ["SQLiteRepository", "backend", "schema", "sqlite_repository"]
