"""The pytest plugin: options, the stores to test, and the support table.

Every pytest run in an environment with this package loads it. So until a test requests one of its fixtures, it does nothing, and imports
only pytest.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pyncette_conformance.capabilities import Capabilities

if TYPE_CHECKING:
    from pyncette_conformance.discovery import BackendUnderTest

__all__: Sequence[str] = []

_BACKENDS = pytest.StashKey[Sequence["BackendUnderTest"]]()
_FIXTURE = "pyncette_backend"

# Their assertions are explained like those of the tests, however the package is installed.
pytest.register_assert_rewrite("pyncette_conformance.builders", "pyncette_conformance.damage", "pyncette_conformance.machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pyncette", "conformance of Pyncette's stores")
    group.addoption(
        "--pyncette-url",
        action="append",
        default=[],
        metavar="URL",
        help="test the store at URL; may be given several times. Without it: all that need no server, and those named by the "
        "environment variables PYNCETTE_TEST_*_URL. {unique} in it stands for a name that nobody else uses, {directory} for a new one",
    )
    group.addoption(
        "--pyncette-restart",
        action="append",
        default=[],
        metavar="COMMAND",
        help="for pyncette_conformance.faults.suite: the command that kills and restarts the server of a store; one for each --pyncette-url",
    )
    group.addoption(
        "--pyncette-quick",
        action="store_true",
        help="while a store is being written: few random histories and small batches, so that a run takes seconds",
    )
    group.addoption(
        "--pyncette-examples",
        type=int,
        default=None,
        metavar="N",
        help="compare each store with the reference in N random histories instead of a few",
    )
    group.addoption(
        "--pyncette-batch",
        type=int,
        default=None,
        metavar="N",
        help="the number of rows in a large batch (even), instead of 1,100; fewer for stores that are slow per row",
    )
    group.addoption(
        "--pyncette-support-table",
        nargs="?",
        const="-",
        default=None,
        metavar="FILE",
        help="print a Markdown table of what each store does, or write it to FILE (with '=')",
    )


def pytest_configure(config: pytest.Config) -> None:
    destination = config.getoption("--pyncette-support-table")
    if destination is not None:
        from pyncette_conformance.support_table import SupportTable

        config.pluginmanager.register(SupportTable(destination), "pyncette-support-table")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _FIXTURE in metafunc.fixturenames:
        backends = _backends(metafunc.config)
        metafunc.parametrize(_FIXTURE, backends, ids=[backend.name for backend in backends], indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the suite in the order in which an author makes them pass; all others stay in place."""
    order = getattr(sys.modules.get("pyncette_conformance.suite"), "ORDER", ())
    places: list[tuple[int, tuple[int, int]]] = []
    for place, item in enumerate(items):
        family = next((each for each in getattr(getattr(item, "cls", None), "__mro__", ()) if each in order), None)
        if family is not None:
            store = getattr(item, "callspec", None)
            places.append((place, (store.indices.get(_FIXTURE, 0) if store else 0, order.index(family))))
    ranked = [items[place] for place, _ in sorted(places, key=lambda each: each[1])]
    for (place, _), item in zip(places, ranked, strict=True):
        items[place] = item


def pytest_assertrepr_compare(op: str, left: object, right: object) -> Sequence[str] | None:
    # called in every pytest run, but only relevant if the suite is in use
    comparison = sys.modules.get("pyncette_conformance.comparison")
    return comparison.explain(left, right) if op == "==" and comparison is not None else None


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    backends = config.stash.get(_BACKENDS, None)
    if backends is None:
        return []
    from pyncette_conformance.discovery import untested

    lines = [f"stores: {', '.join(backend.name for backend in backends)}"]
    for scheme in untested(config.getoption("--pyncette-url"), os.environ):
        lines.append(f"not tested: {scheme}:// is installed; set PYNCETTE_TEST_{_variable(scheme)}_URL")
    return lines


@pytest.fixture(scope="session")
def pyncette_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The store under test, one of those that the options and the environment name."""
    backend = request.param
    if backend.needs_directory:
        backend.within(tmp_path_factory.mktemp("pyncette"))
    return backend


@pytest.fixture
def repository_factory(pyncette_backend: Any) -> Any:
    """Opens a repository: a callable without parameters that returns an asynchronous context manager of it.

    Override it to test your own store. All repositories that it opens must be on one store, if the store can be shared.
    """
    return pyncette_backend


@pytest.fixture
def repository_capabilities(repository_factory: Any) -> Capabilities:
    """What the suite may expect of the store. Override it if the defaults don't hold."""
    return getattr(repository_factory, "capabilities", Capabilities())


@pytest.fixture
def user_transactions(repository_factory: Any) -> Any:
    """Opens a connection of a user's to the same database, with a transaction begun: a callable without parameters that returns an
    asynchronous context manager of a :class:`~pyncette_conformance.transactions.UserTransaction`.

    Override it to test that a store of your own joins transactions.
    """
    return getattr(repository_factory, "user_transactions", None)


def _backends(config: pytest.Config) -> Sequence["BackendUnderTest"]:
    if _BACKENDS not in config.stash:
        from pyncette.errors import PyncetteError
        from pyncette_conformance.discovery import discover

        try:
            backends = discover(config.getoption("--pyncette-url"), os.environ, config.getoption("--pyncette-restart"))
            for backend in backends:
                backend.check()
        except PyncetteError as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[_BACKENDS] = backends
    return config.stash[_BACKENDS]


def _variable(scheme: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in scheme.upper())
