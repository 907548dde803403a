"""`pyncette init` writes a project that tests itself, runs, and can be deployed, for each store; and overwrites nothing."""

import contextlib
import os
import re
import shlex
import signal
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from programs import Program

from pyncette.cli import main
from pyncette.cli.starting import STORES
from pyncette.errors import BackendNotInstalledError
from pyncette.store.urls import BackendURL, from_url


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    home = tmp_path_factory.mktemp("projects")
    for store in STORES:
        assert main(["init", str(home / store), "--store", store]) == 0
    return home


@pytest.mark.parametrize("store", STORES)
def test_what_a_project_says_of_its_store_fits_together(projects, store):
    project = projects / store
    compose = yaml.safe_load((project / "compose.yaml").read_text())
    worker = compose["services"].pop("worker")
    deployed = worker["environment"]["PYNCETTE_URL"]
    with contextlib.suppress(BackendNotInstalledError):
        from_url(deployed)  # which knows every option
    [local] = re.findall(r'"PYNCETTE_URL", "(.*)"', (project / "app.py").read_text())
    if compose["services"]:
        [(name, service)] = compose["services"].items()
        assert worker["depends_on"] == {name: {"condition": "service_healthy"}}
        assert service["healthcheck"]["test"]
        [port] = [published.split(":")[-1] for published in service["ports"]]
        assert local == deployed.replace(f"{name}:{port}", f"localhost:{port}") != deployed
        volumes = service["volumes"]
    else:
        volumes = worker["volumes"]
    assert [volume.split(":")[0] for volume in volumes] == [*compose["volumes"]]
    needed = Requirement((project / "requirements.txt").read_text().strip())
    core = metadata("pyncette-core")
    assert (needed.name, core["Version"] in needed.specifier) == ("pyncette-core", True)
    assert needed.extras <= set(core.get_all("Provides-Extra"))
    assert bool(needed.extras) == (BackendURL.parse(local).scheme != "sqlite")


def test_the_images_build_takes_files_that_exist_and_runs_the_app(projects):
    lines = (projects / "redis" / "Dockerfile").read_text().splitlines()
    instructions = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    assert {word for word, _, _ in instructions} == {"FROM", "WORKDIR", "COPY", "RUN", "USER", "CMD"}
    for word, _, rest in instructions:
        if word == "COPY":
            assert (projects / "redis" / shlex.split(rest)[0]).is_file()
    assert instructions[-1][2] == '["pyncette", "run", "app.py:app"]'
    # None of it depends on the store.
    for name in ("Dockerfile", "test_app.py"):
        assert len({(projects / store / name).read_text() for store in STORES}) == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process of Windows at once")
def test_a_project_passes_its_own_test_and_runs(projects):
    project = projects / "sqlite"
    with Program([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], project) as program:
        assert program.wait() == 0, program.stdout
        assert "1 passed" in program.stdout
    with Program([sys.executable, "-m", "pyncette", "run", "app.py:app"], project) as program:
        program.wait_for("Running 2 tasks")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0, program.stderr
    assert (project / "pyncette.db").exists()


def test_nothing_is_written_where_one_of_the_files_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("compose.yaml").write_text("mine")
    Path("unrelated.txt").touch()
    assert main(["init"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "compose.yaml" in line
    assert "app.py" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compose.yaml", "unrelated.txt"]
    assert Path("compose.yaml").read_text() == "mine"


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for directory in ("file", "file/project"):
        assert main(["init", str(tmp_path / directory)]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_next_steps_can_be_pasted_into_a_shell(tmp_path, capsys):
    assert main(["init", str(tmp_path / "my shop"), "--store=postgres"]) == 0
    told = capsys.readouterr()
    assert f"cd '{tmp_path}/my shop' && pip install -r requirements-dev.txt && pytest && docker compose up" in told.err
    assert len(told.out.splitlines()) == len([*(tmp_path / "my shop").iterdir()])
