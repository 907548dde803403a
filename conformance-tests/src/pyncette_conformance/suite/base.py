"""What all families of tests share."""

from typing import Any

import pytest

from pyncette_conformance.capabilities import Capabilities
from pyncette_conformance.store import Store
from pyncette_conformance.support_table import PROPERTY

__all__ = ["Conformance"]


#: More than the 1,000 at which many a server or driver cuts. Even.
LARGE_BATCH, SMALL_BATCH = 1100, 20


def large_batch(config: pytest.Config) -> int:
    """How many rows a large batch has in this run."""
    chosen: int | None = config.getoption("--pyncette-batch")
    return chosen or (SMALL_BATCH if config.getoption("--pyncette-quick") else LARGE_BATCH)


class Conformance:
    """A family of tests of the repository contract. Each needs a ``store``."""

    # A fixture of the class, so that no fixture called `store` in the tests of a backend takes its place.
    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, repository_factory: Any, repository_capabilities: Capabilities) -> Store:
        """The store under test."""
        request.node.user_properties.append((PROPERTY, getattr(repository_factory, "name", "the store")))
        return Store(repository_factory, repository_capabilities, many=large_batch(request.config))
