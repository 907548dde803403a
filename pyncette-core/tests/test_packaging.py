"""What is released: each wheel has what it must and no more, and they work together however they were installed.

Needs the dependency group ``packages``, ``pip`` and ``mypy`` in the environment, and builds everything; ``nox -s wheels`` runs it.
"""

import email
import itertools
import os
import re
import shutil
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
#: What pyroma finds missing are an address of the authors, and one of the project: it has none yet.
RATING = "8"
#: Where each change is tested with each version of Python.
CHECKS = ROOT / ".github" / "workflows" / "check.yml"

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
#: For an environment that has the distributions which are its arguments, and no others.
MIXED = """
    import importlib
    import sys

    from pyncette import Pyncette
    from pyncette.backends import load
    from pyncette.errors import BackendNotInstalledError

    MODULES = {"pyncette-core": "pyncette", "pyncette-conformance-tests": "pyncette_conformance"}
    for distribution in sys.argv[1:]:
        importlib.import_module(MODULES.get(distribution, distribution.replace("-", ".")))
    for scheme in ("redis", "postgres", "mysql", "dynamodb"):
        if f"pyncette-{scheme}" in sys.argv:
            assert load(scheme).contract_version == 1
            continue
        try:
            Pyncette(f"{scheme}://localhost/0")
        except BackendNotInstalledError as error:
            assert str(error).endswith(f"pip install pyncette-{scheme}"), error
        else:
            raise AssertionError(f"{scheme} was found")
"""


@dataclass
class Built:
    #: Built from the sdist, as ``python -m build`` does.
    wheel: Path
    editable: Path
    sdist: Path
    #: Built from the folder itself.
    direct: Path

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
    for kind in ("editable", "direct"):
        (target / kind).mkdir()
    code = "import sys; from hatchling.build import *; build_editable(sys.argv[1]); build_wheel(sys.argv[2])"
    run(sys.executable, "-c", code, target / "editable", target / "direct", cwd=folder)
    (wheel,), (editable,), (sdist,) = target.glob("*.whl"), target.glob("editable/*.whl"), target.glob("*.tar.gz")
    (direct,) = target.glob("direct/*.whl")
    return Built(wheel, editable, sdist, direct)


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


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_is_the_same_from_the_folder_and_from_the_sdist(built: Mapping[str, Built], folder: str) -> None:
    assert built[folder].wheel.read_bytes() == built[folder].direct.read_bytes()


def test_an_index_would_take_them(built: Mapping[str, Built]) -> None:
    files = [file for each in built.values() for file in (each.wheel, each.sdist)]
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=ROOT)


def test_wheels_contain_nothing_that_they_should_not(built: Mapping[str, Built]) -> None:
    run(sys.executable, "-m", "check_wheel_contents", *(each.wheel for each in built.values()), cwd=ROOT)


def test_metadata_say_what_others_look_for(built: Mapping[str, Built]) -> None:
    code = "import sys, pyroma; print(min(pyroma.run('file', file) for file in sys.argv[1:]))"
    told = run(sys.executable, "-c", code, *(each.sdist for each in built.values()), cwd=ROOT)
    assert told.splitlines()[-1] == RATING, told


# --- versions -------------------------------------------------------------------------------------------------------------


def projects(root: Path = ROOT) -> Mapping[str, dict[str, Any]]:
    return {folder: tomllib.loads((root / folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS}


def requirements(project: dict[str, Any]) -> list[str]:
    return [*project["dependencies"], *itertools.chain(*project.get("optional-dependencies", {}).values())]


def test_all_have_the_same_version(built: Mapping[str, Built]) -> None:
    assert len({built[folder].metadata["Version"] for folder in FOLDERS}) == 1


def test_one_command_sets_the_version_everywhere(tmp_path: Path) -> None:
    for path in (path for pattern in ("CITATION.cff", "tools/version.py", "*/pyproject.toml") for path in ROOT.glob(pattern)):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    run(sys.executable, tmp_path / "tools" / "version.py", "3.2.1rc1", cwd=tmp_path)
    assert run(sys.executable, tmp_path / "tools" / "version.py", cwd=tmp_path) == "3.2.1rc1\n"
    assert "\nversion: 3.2.1rc1\n" in (tmp_path / "CITATION.cff").read_text()
    assert {project["version"] for project in projects(tmp_path).values()} == {"3.2.1rc1"}
    of_each_other = {each for project in projects(tmp_path).values() for each in requirements(project) if "pyncette" in each}
    assert {each.partition("~=")[2] for each in of_each_other if not each.startswith("pyncette-core[")} == {"3.2rc1"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_distributions_need_each_other_in_compatible_versions(folder: str) -> None:
    project = projects()[folder]
    compatible = f"~={project['version'].rpartition('.')[0]}"
    of_ours = {each for each in requirements(project) if each.startswith("pyncette") and not each.startswith("pyncette-core[")}
    assert all(each.endswith(compatible) for each in of_ours)
    assert (f"pyncette-core{compatible}" in project["dependencies"]) is (folder != CORE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_dependency_says_from_which_version_on_so_that_both_ends_can_be_tested(folder: str) -> None:
    of_others = {each for each in requirements(projects()[folder]) if not each.startswith("pyncette")}
    assert {each for each in of_others if not re.match(r"[\w.-]+(\[\w+\])?>=[\d.]+", each)} <= {"tzdata; sys_platform == 'win32'"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_versions_of_python_are_those_that_are_tested(folder: str) -> None:
    tested = set(re.findall(r'"(3\.\d+)"', next(line for line in CHECKS.read_text().splitlines() if "python: [" in line)))
    said = "Programming Language :: Python :: 3."
    assert {each[len(said) - 2 :] for each in projects()[folder]["classifiers"] if each.startswith(said)} == tested


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


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what this environment has of others, for all environments: to download all drivers would take longer than everything here."""
    target = tmp_path_factory.mktemp("others")
    for entry in (entry for folder in map(Path, sys.path) if folder.name == "site-packages" for entry in folder.iterdir()):
        if "pyncette" not in entry.name and entry.suffix != ".pth" and not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry)
    return target


@pytest.mark.parametrize("mix", [[CORE], *([CORE, folder] for folder in FOLDERS if folder != CORE), FOLDERS], ids="+".join)
def test_any_mix_works_and_names_the_command_that_installs_what_is_missing(
    built: Mapping[str, Built], others: Path, tmp_path: Path, mix: list[str]
) -> None:
    python = tmp_path / "venv" / ("bin/python" if POSIX else "Scripts/python.exe")
    venv.create(tmp_path / "venv", symlinks=POSIX)
    wheels = [built[folder].wheel for folder in mix]
    if mix == FOLDERS:
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", *wheels, cwd=tmp_path)
    else:  # what that does, in a tenth of the time
        for wheel in wheels:
            zipfile.ZipFile(wheel).extractall(next((tmp_path / "venv").glob("**/site-packages")))
    names = [projects()[folder]["name"] for folder in mix]
    run(python, "-c", dedent(MIXED), *names, cwd=tmp_path, PYTHONPATH=str(others))
