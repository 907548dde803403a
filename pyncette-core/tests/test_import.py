"""What ``import pyncette`` costs and loads."""

import json
import subprocess
import sys

import pytest

DRIVERS = ["aiosqlite", "sqlite3", "redis", "asyncpg", "aiomysql", "pymysql", "aioboto3", "botocore", "prometheus_client", "uvloop"]


def loaded_by(code):
    """The modules that are loaded after running ``code``."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import pyncette",
        "from pyncette import *",
        "import pyncette.testing",
        "from pyncette import Pyncette; Pyncette(); Pyncette('memory://')",
    ],
)
def test_no_driver_is_loaded(code):
    assert not loaded_by(code) & set(DRIVERS)


def test_what_is_loaded_comes_from_the_standard_library_and_our_few_dependencies():
    loaded = {name.partition(".")[0] for name in loaded_by("import pyncette") - loaded_by("")}
    foreign = {name for name in loaded - sys.stdlib_module_names if not name.startswith("_sysconfigdata")}
    assert foreign <= {"pyncette", "croniter", "dateutil", "six", "tzdata", "pytz"}  # the last with older versions of croniter


def test_a_sqlite_url_loads_its_driver_and_no_other():
    assert loaded_by("from pyncette import Pyncette; Pyncette('sqlite:///x.db')") & set(DRIVERS) == {"aiosqlite", "sqlite3"}


def test_it_loads_few_modules_and_none_that_takes_long():
    """Its time, which differs by a factor of three within minutes on a shared machine, is that of its modules."""
    loaded = loaded_by("import pyncette") - loaded_by("")
    own = {name for name in loaded if name.partition(".")[0] == "pyncette"}
    assert len(own) <= 105
    assert len(loaded - own) <= 170
    assert not loaded & {"argparse", "email", "http.client", "importlib.metadata", "multiprocessing", "xml", "yaml"}


def test_it_can_be_imported_without_a_writable_home_or_a_terminal(tmp_path):
    environment = {"PATH": "", "HOME": "/nonexistent"}
    command = [sys.executable, "-I", "-c", "import pyncette; print(pyncette.__all__)"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "Pyncette" in ended.stdout


def test_the_version_is_that_of_the_distribution_and_costs_nothing_until_asked_for():
    import importlib.metadata

    import pyncette

    assert pyncette.__version__ == importlib.metadata.version("pyncette-core")
    assert "importlib.metadata" not in loaded_by("import pyncette") - loaded_by("")
    assert not hasattr(pyncette, "version")


def test_every_module_declares_what_it_offers():
    import importlib
    import pkgutil

    import pyncette

    for module in pkgutil.iter_modules(pyncette.__path__):
        loaded = importlib.import_module(f"pyncette.{module.name}")
        assert set(loaded.__all__) <= set(dir(loaded)), module.name
        assert list(loaded.__all__) == sorted(loaded.__all__, key=lambda name: (not name.isupper(), name[:1].islower(), name)), (
            module.name
        )
