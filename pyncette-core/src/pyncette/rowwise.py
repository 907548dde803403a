"""A base for stores that read rows and write them back: see :mod:`pyncette.store.rowwise`."""

from pyncette.store.rowwise import (
    Change,
    RowwiseRepository,
)

__all__ = ["Change", "RowwiseRepository"]
