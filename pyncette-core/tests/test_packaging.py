"""What is released: each wheel has what it must and no more, and they work together however they were installed.

Needs ``build``, ``hatchling``, ``pip`` and ``mypy`` in the environment, and builds everything; ``nox -s wheels`` runs it.
"""

import email
import itertools
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORE = "pyncette-core"
FOLDERS = os.environ.get("PYNCETTE_DISTRIBUTIONS", "").split() or sorted(path.parent.name for path in ROOT.glob("*/pyproject.toml"))
POSIX = os.name == "posix"

#: A backend as small as can be, in the one layout that works: no pyncette/__init__.py of its own.
PROBE = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "pyncette-probe"
        version = "1"
        [project.entry-points."pyncette.backends"]
        probe = "pyncette.probe:backend"
        [tool.hatch.build.targets.wheel]
        packages = ["src/pyncette"]
    """,
    "src/pyncette/probe/py.typed": "",
    "src/pyncette/probe/__init__.py": """
        from pyncette.backends import Backend
        from pyncette.memory import memory_repository

        backend: Backend = Backend(contract_version=1, factory=memory_repository, prefix="probe_")
    """,
}
PROGRAM = """
    import sys

    from pyncette import Context, Pyncette

    assert "aiosqlite" not in sys.modules, "a driver was loaded"
    app = Pyncette("probe://")

    from pyncette.backends import load
    from pyncette.probe import backend
    from pyncette.sqlite import sqlite_repository

    assert load("probe") is backend
    assert load("sqlite").factory is sqlite_repository


    @app.task(schedule="@daily")
    async def task(context: Context) -> None: ...
"""


@dataclass
class Built:
    wheel: Path
    editable: Path
    sdist: Path

    @property
    def files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}

    @property
    def code(self) -> set[str]:
        return {name for name in self.files if ".dist-info/" not in name}

    @property
    def metadata(self) -> Message:
        (name,) = (name for name in self.files if name.endswith(".dist-info/METADATA"))
        with zipfile.ZipFile(self.wheel) as wheel:
            return email.message_from_bytes(wheel.read(name))


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    # Nothing of this test's own environment, nor of the source tree, may be found by what it starts.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MYPYPATH")}
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def build(folder: Path, target: Path) -> Built:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, folder, cwd=ROOT)
    (target / "editable").mkdir()
    run(sys.executable, "-c", f"import hatchling.build; hatchling.build.build_editable({str(target / 'editable')!r})", cwd=folder)
    (wheel,), (editable,), (sdist,) = target.glob("*.whl"), target.glob("editable/*.whl"), target.glob("*.tar.gz")
    return Built(wheel, editable, sdist)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Built]:
    targets = [tmp_path_factory.mktemp(folder) for folder in FOLDERS]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # each of them waits for processes
        return dict(zip(FOLDERS, threads.map(build, [ROOT / folder for folder in FOLDERS], targets), strict=True))


# --- contents -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_wheel_has_what_it_must(built: Mapping[str, Built], folder: str) -> None:
    files, code = built[folder].files, built[folder].code
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
    assert any(name.endswith("/py.typed") for name in code)
    assert any(name.endswith(".py") for name in code)
    sources = {path.relative_to(ROOT / folder / "src").as_posix() for path in (ROOT / folder / "src").rglob("*.py")}
    assert sources <= code
    assert all(not name.endswith((".pyc", ".db")) and "/tests/" not in name for name in code)


@pytest.mark.parametrize("folder", FOLDERS)
def test_metadata_is_complete(built: Mapping[str, Built], folder: str) -> None:
    metadata = built[folder].metadata
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == project["name"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Summary"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert len(str(metadata.get_payload())) > 100


@pytest.mark.parametrize("folder", FOLDERS)
def test_sdist_can_be_built_and_read(built: Mapping[str, Built], folder: str) -> None:
    with tarfile.open(built[folder].sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_only_core_has_the_top_of_the_package(built: Mapping[str, Built]) -> None:
    owners = [folder for folder in FOLDERS if "pyncette/__init__.py" in built[folder].files]
    assert owners == [CORE]


def test_no_file_is_in_two_wheels(built: Mapping[str, Built]) -> None:
    for one, other in itertools.combinations(FOLDERS, 2):
        assert built[one].files & built[other].files == set()


def test_nothing_is_beside_the_packages(built: Mapping[str, Built]) -> None:
    tops = {name.partition("/")[0] for folder in FOLDERS for name in built[folder].code}
    assert tops <= {"pyncette", "pyncette_conformance"}


def test_all_have_the_same_version(built: Mapping[str, Built]) -> None:
    assert len({built[folder].metadata["Version"] for folder in FOLDERS}) == 1


# --- mixes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("pyncette-probe")
    for name, text in PROBE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text))
    return build(folder, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what core needs, for all environments."""
    target = tmp_path_factory.mktemp("dependencies")
    project: dict[str, Any] = tomllib.loads((ROOT / CORE / "pyproject.toml").read_text())["project"]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", target, *project["dependencies"], cwd=target)
    return target


@pytest.mark.parametrize("order", ["core-first", "backend-first"])
@pytest.mark.parametrize("backend_kind", ["wheel", "editable"])
@pytest.mark.parametrize("core_kind", ["wheel", "editable"])
def test_backend_beside_core(
    built: Mapping[str, Built],
    probe: Built,
    dependencies: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    core_kind: str,
    backend_kind: str,
    order: str,
) -> None:
    python = tmp_path / "venv" / ("bin/python" if POSIX else "Scripts/python.exe")
    venv.create(tmp_path / "venv", symlinks=POSIX)
    chosen = [getattr(built[CORE], core_kind), getattr(probe, backend_kind)]
    for wheel in chosen if order == "core-first" else reversed(chosen):
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    program = tmp_path / "program.py"
    program.write_text(dedent(PROGRAM))
    run(python, program, cwd=tmp_path, PYTHONPATH=str(dependencies))
    if order == "core-first":
        cache = tmp_path_factory.getbasetemp() / "mypy_cache"
        run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "--python-executable", python, program, cwd=tmp_path)
