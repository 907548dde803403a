"""From what a store keeps to rows, for authors of backends: see :mod:`pyncette.store.codec`."""

from pyncette.store.codec import decode, from_json, name_in_bytes, name_of_bytes, to_json, unreadable

__all__ = ["decode", "from_json", "name_in_bytes", "name_of_bytes", "to_json", "unreadable"]
