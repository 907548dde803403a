"""From what a store keeps to rows, for authors of backends: see :mod:`pyncette.store.codec`."""

from pyncette.store.codec import decode, unreadable

__all__ = ["decode", "unreadable"]
