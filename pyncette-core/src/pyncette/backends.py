"""From a URL to a repository: see :mod:`pyncette.store.urls`."""

from pyncette.checks import did_you_mean
from pyncette.store.urls import (
    ENTRY_POINT_GROUP,
    Backend,
    BackendURL,
    Offer,
    RepositoryFactory,
    from_factory,
    from_url,
    load,
    looking,
    offers,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "Backend",
    "BackendURL",
    "Offer",
    "RepositoryFactory",
    "did_you_mean",
    "from_factory",
    "from_url",
    "load",
    "looking",
    "offers",
]
