"""The suite fails where a store does: it finds each mistake by the test that is made for it, and lets the right store pass."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

from broken_stores import CAUGHT_BY, MODEL

HERE = Path(__file__).parent
#: How a backend adopts the suite; and a selection, so that of broken stores only those tests are run that have to fail.
CONFTEST = """
import pytest
from broken_stores import CAUGHT_BY, STORES
from hypothesis import Phase, settings
from pyncette_conformance import Capabilities

settings.register_profile("find", phases=[Phase.generate])
settings.load_profile("find")

@pytest.fixture(params=list(STORES))
def repository_factory(request):
    return STORES[request.param].open

@pytest.fixture
def repository_capabilities():
    return Capabilities(durable=False, shared=False)

def pytest_collection_modifyitems(items):
    def wanted(item):
        store = item.callspec.params["repository_factory"]
        return store == "TinyStore" or "::".join(item.nodeid.split("::")[1:]).partition("[")[0] in CAUGHT_BY[store]

    items[:] = [item for item in items if wanted(item)]
"""


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, str]]:
    """By store and test, "passed", "skipped" or "failed"; one run for all."""
    directory = tmp_path_factory.mktemp("broken")
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text("from pyncette_conformance.suite import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    command += ["--pyncette-examples=40", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "CI": "true"}
    run = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 1, run.stdout + run.stderr
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(directory / "report.xml").iter("testcase"):
        test, _, parameters = (case.get("classname", "").rpartition(".")[2] + "::" + case.get("name", "")).partition("[")
        store = next(each for each in [*CAUGHT_BY, "TinyStore"] if each in parameters.removesuffix("]").split("-"))
        outcome = "failed" if case.find("failure") is not None else "skipped" if case.find("skipped") is not None else "passed"
        # Of several parameters, one that fails is enough.
        tests = found.setdefault(store, {})
        tests[test] = "failed" if "failed" in (outcome, tests.get(test)) else outcome
        if outcome != "passed":
            print(store, test, outcome, (case[0].get("message") or "")[:100])
    return found


@pytest.mark.parametrize(("store", "test"), [(store, test) for store, tests in CAUGHT_BY.items() for test in tests])
def test_a_broken_store_fails(outcomes: Mapping[str, Mapping[str, str]], store: str, test: str) -> None:
    assert outcomes[store][test] == "failed"


def test_a_right_store_passes(outcomes: Mapping[str, Mapping[str, str]]) -> None:
    assert [test for test, outcome in outcomes["TinyStore"].items() if outcome == "failed"] == []
    assert outcomes["TinyStore"][MODEL] == "passed"
    assert len(outcomes["TinyStore"]) > 150


def test_only_what_is_declared_or_optional_is_skipped(outcomes: Mapping[str, Mapping[str, str]]) -> None:
    skipped = {test.partition("::")[0] for test, outcome in outcomes["TinyStore"].items() if outcome == "skipped"}
    assert skipped == {"TestDurability", "TestSharing", "TestServerTime"}
