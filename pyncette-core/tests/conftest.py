"""What the tests of core share: a clock that stands still while code runs, a store that outlives applications, applications."""

import contextlib
import gc
import logging
import os
import signal
import uuid

import pytest
from hypothesis import HealthCheck, settings

from pyncette import Pyncette
from pyncette.memory import MemoryRepository
from pyncette.testing import VirtualClock

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What runs in the background of a shell, or under nohup, ignores some signals, and so would the programs that are tested here.
for number, handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
    if hasattr(signal, number) and signal.getsignal(getattr(signal, number)) is signal.SIG_IGN:
        signal.signal(getattr(signal, number), handler)


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
            if partition not in ("layouts", "workers")  # what is remembered of templates and processes, not of tasks
            for name, row in rows.items()
        }


@pytest.fixture(autouse=True)
def assertions_in_bodies():
    """Fails a test if an assertion failed in a body: for the engine that is an error like any other, to be logged and survived."""
    failed = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.exc_info and isinstance(record.exc_info[1], AssertionError | pytest.fail.Exception):
                failed.append(record.exc_info[1])

    handler = Handler()
    loggers = [logging.getLogger(name) for name in ("pyncette", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield
    gc.collect(0)  # a task that nobody asked tells its error when it is deleted
    for logger in loggers:
        logger.removeHandler(handler)
    if failed:
        raise failed[0]


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


@pytest.fixture
def redis_url():
    """A namespace that nobody else uses, for pages and programs that need a server."""
    if "PYNCETTE_TEST_REDIS_URL" not in os.environ:
        pytest.skip("needs Redis: python tools/servers.py redis -- pytest ...")
    return f"{os.environ['PYNCETTE_TEST_REDIS_URL']}?namespace=core_{uuid.uuid4().hex[:12]}"
