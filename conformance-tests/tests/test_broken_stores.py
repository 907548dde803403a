"""The suite fails where a store does: it finds each mistake by the test that is made for it, and lets the right store pass."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import broken_batches
import broken_histories
import broken_memos
import broken_transactions
import broken_values

from broken_stores import CAUGHT_BY, MODEL

HERE = Path(__file__).parent
MISTAKES = [broken_batches, broken_histories, broken_memos, broken_transactions, broken_values]  # which register what they hold
#: How a backend adopts the suite; and a selection, so that of broken stores only those tests are run that have to fail.
CONFTEST = """
import broken_batches
import broken_histories
import broken_memos
import broken_transactions
import broken_values
import pytest
from broken_stores import CAUGHT_BY, STORES
from hypothesis import Phase, settings
from pyncette_conformance import Capabilities

# Finding a mistake is enough; looking for the shortest history that shows it takes long.
settings.register_profile("find", phases=[Phase.generate])
settings.load_profile("find")

@pytest.fixture(params=[{stores}])
def repository_factory(request):
    return STORES[request.param].open

@pytest.fixture
def user_transactions(repository_factory):
    return getattr(repository_factory.__self__, "begin", None)

@pytest.fixture
def repository_capabilities(user_transactions):
    return Capabilities(durable=False, shared=user_transactions is not None)

def pytest_collection_modifyitems(items):
    def wanted(item):
        tests = CAUGHT_BY.get(item.callspec.params["repository_factory"])
        return tests is None or "::".join(item.nodeid.split("::")[1:]).partition("[")[0] in tests

    items[:] = [item for item in items if wanted(item)]
"""


def outcomes(directory: Path, *stores: str, only: str = "") -> Mapping[str, Mapping[str, str]]:
    """By store and test, "passed", "skipped" or "failed"; one run for all."""
    (directory / "conftest.py").write_text(CONFTEST.format(stores=", ".join(map(repr, stores))))
    (directory / "test_it.py").write_text("from pyncette_conformance.suite import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "CI": "true"}
    run = subprocess.run(
        [*command, "--pyncette-examples=250", "test_it.py", "-k", only],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ET.parse(directory / "report.xml").iter("testcase"):
        test, _, parameters = (case.get("classname", "").rpartition(".")[2] + "::" + case.get("name", "")).partition("[")
        store = next(each for each in stores if each in parameters.removesuffix("]").split("-"))
        outcome = "failed" if case.find("failure") is not None else "skipped" if case.find("skipped") is not None else "passed"
        # Of several parameters, one that fails is enough.
        found[store][test] = "failed" if "failed" in (outcome, found[store].get(test)) else outcome
    return found


def test_each_broken_store_fails(tmp_path: Path) -> None:
    found = outcomes(tmp_path, *CAUGHT_BY)
    passed = {store: [test for test in tests if found[store].get(test) != "failed"] for store, tests in CAUGHT_BY.items()}
    assert {store: tests for store, tests in passed.items() if tests} == {}


def test_a_right_store_passes(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "TinyStore")["TinyStore"]
    assert [test for test, outcome in found.items() if outcome == "failed"] == []
    assert found[MODEL] == "passed"
    assert len(found) > 150
    # Skipped is only what is declared to be lacking, or optional.
    skipped = {test.partition("::")[0] for test, outcome in found.items() if outcome == "skipped"}
    assert skipped == {"TestDurability", "TestSharing", "TestServerTime", "TestTransactions", "TestWakeUp"}


def test_a_right_store_passes_that_joins_transactions(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "JoinsTransactions", only="TestTransactions")["JoinsTransactions"]
    assert len(found) > 10
    assert set(found.values()) == {"passed"}


def test_a_right_store_passes_whatever_arrives_after_its_caller_has_gone(tmp_path: Path) -> None:
    """Cancellation is tested at points of a call, and its effect may come when it comes."""
    found = outcomes(tmp_path, "ArrivesLate", only="TestCancellation")["ArrivesLate"]
    assert len(found) > 8
    assert set(found.values()) == {"passed"}
