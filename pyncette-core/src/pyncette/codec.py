"""From what a store keeps to rows, for authors of backends: see :mod:`pyncette.store.codec`."""

from pyncette.store.codec import decode, name_in_bytes, name_of_bytes, unreadable

__all__ = ["decode", "name_in_bytes", "name_of_bytes", "unreadable"]
