"""What the tests of core share: a clock that stands still while code runs, a store that outlives applications, applications."""

import contextlib

import pytest

from pyncette import Pyncette
from pyncette.memory import MemoryRepository
from pyncette.testing import VirtualClock


class Store(MemoryRepository):
    """Outlives the applications that open it, and is shared among them, as a server is."""

    shared = True

    @contextlib.asynccontextmanager
    async def open(self):
        yield self

    def rows(self):
        """The rows of all tasks and instances, by name, as they are now."""
        return {
            name: row
            for partition, rows in self._partitions.items()
            if not partition.startswith("partitions:")  # where partition counts are kept
            for name, row in rows.items()
        }


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def make_app(clock, store):
    """Makes applications that share one store and one clock."""

    def make(**options):
        return Pyncette(**{"repository_factory": store.open, "clock": clock, **options})

    return make


@pytest.fixture
def app(make_app):
    return make_app()
