"""What all families of tests share."""

from typing import Any

import pytest

from pyncette_conformance.capabilities import Capabilities
from pyncette_conformance.store import Store
from pyncette_conformance.support_table import PROPERTY

__all__ = ["Conformance"]


class Conformance:
    """A family of tests of the repository contract. Each needs a ``store``."""

    # A fixture of the class, so that no fixture called `store` in the tests of a backend takes its place.
    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, repository_factory: Any, repository_capabilities: Capabilities) -> Store:
        """The store under test."""
        request.node.user_properties.append((PROPERTY, getattr(repository_factory, "name", "the store")))
        return Store(repository_factory, repository_capabilities, many=request.config.getoption("--pyncette-batch"))
