"""The files in examples/deploy: they are what systemd, Docker and Kubernetes understand, and what is in them runs and ends in time."""

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from programs import Program, two_free_ports

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="these platforms run on POSIX")

#: Of the objects of Kubernetes, the fields that we use, all as in its API; a value says what it has to be, `...` anything.
PROBE = {"httpGet": {"path": str, "port": str}, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int}
CONTAINER = {
    "name": str,
    "image": str,
    "envFrom": [{"secretRef": {"name": str}}],
    "ports": [{"name": str, "containerPort": int}],
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "resources": {"requests": {"cpu": str, "memory": str}, "limits": {"memory": str}},
    "securityContext": {"allowPrivilegeEscalation": bool, "readOnlyRootFilesystem": bool, "capabilities": {"drop": [str]}},
}
LABELS = {"app": str}
POD = {
    "terminationGracePeriodSeconds": int,
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int},
    "containers": [CONTAINER],
}
KINDS = {
    ("apps/v1", "Deployment"): {
        "replicas": int,
        "selector": {"matchLabels": LABELS},
        "strategy": {"type": str, "rollingUpdate": {"maxUnavailable": int, "maxSurge": int}},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
    ("policy/v1", "PodDisruptionBudget"): {"maxUnavailable": int, "selector": {"matchLabels": LABELS}},
}


def fits(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        for key, each in value.items():
            assert key in shape, f"{where} has no {key}"
            fits(each, shape[key], f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for number, each in enumerate(value):
            fits(each, shape[0], f"{where}[{number}]")
    else:
        assert type(value) is shape, f"{where} is {value!r}"


def unit() -> Mapping[str, Mapping[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "shop@.service")
    return {section: dict(parser[section]) for section in parser.sections()}


def image() -> list[tuple[str, str]]:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and not line.startswith("#"))]


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()[0]["spec"]["template"]["spec"]
    return found


def shutdown_timeout() -> timedelta:
    namespace: dict[str, Any] = {"__name__": "deployed"}
    exec((DEPLOY / "app.py").read_text().replace('os.environ.get("PYNCETTE_URL")', '"memory://"'), namespace)
    timeout: timedelta = namespace["app"].shutdown_timeout
    return timeout


def ask(path: str, port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder with the program, as `pip install` leaves it."""
    for path in DEPLOY.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    place = tmp_path / ".venv" / "bin"
    place.mkdir(parents=True)
    (place / "pyncette").write_text(f"#!{sys.executable}\nfrom pyncette.cli import main\nraise SystemExit(main())\n")
    (place / "pyncette").chmod(0o755)
    (place / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (place / "python").chmod(0o755)
    return tmp_path


def test_every_platform_waits_longer_for_the_end_than_the_program_takes() -> None:
    allowed = shutdown_timeout() + timedelta(seconds=2)  # it ends within a second after that
    assert timedelta(seconds=int(unit()["Service"]["TimeoutStopSec"])) > allowed
    grace = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]["stop_grace_period"]
    assert timedelta(seconds=int(grace.removesuffix("s"))) > allowed
    assert timedelta(seconds=pod()["terminationGracePeriodSeconds"]) > allowed


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here; the unit is parsed, and run, below"
)
def test_systemd_finds_no_fault_with_the_unit(installed: Path) -> None:
    unit_file = installed / "shop@0.service"
    unit_file.write_text((DEPLOY / "shop@.service").read_text().replace("/opt/shop", str(installed)))
    found = subprocess.run(["systemd-analyze", "verify", str(unit_file)], capture_output=True, text=True, check=False)
    ours = [line for line in (found.stdout + found.stderr).splitlines() if "shop@" in line]
    assert not ours


def test_the_unit_starts_two_workers_beside_each_other_that_end_by_its_signal(installed: Path) -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed"
    command = service["ExecStart"].replace(service["WorkingDirectory"], str(installed))
    port = two_free_ports()
    with contextlib.ExitStack() as stack:
        workers = []
        for number in range(2):
            name, _, value = service["Environment"].replace("%i", str(number)).partition("=")
            # What /etc/shop.env would say, and a port that is free.
            environment = {**os.environ, name: value, "PYNCETTE_URL": f"sqlite:///{installed}/shop.db", "HEALTH_PORT": str(port)}
            place = installed / f"worker{number}"
            place.mkdir()
            line = f"cd {shlex.quote(str(installed))} && exec {command}"
            worker = stack.enter_context(Program(["sh", "-c", line], place, environment))
            worker.wait_for("Running 1 task")
            workers.append(worker)
        probes = {path: pod()["containers"][0][path]["httpGet"]["path"] for path in ("livenessProbe", "readinessProbe")}
        for number, worker in enumerate(workers):
            assert {path: ask(path, port + number) for path in probes.values()} == dict.fromkeys(probes.values(), 200)
            worker.signal(signal.SIGTERM, group=False)
            assert worker.wait() == 0, worker.stderr


def test_the_image_is_built_of_files_that_exist_and_installs_what_the_stores_need() -> None:
    instructions = image()
    assert [word for word, _ in instructions][0] == "FROM"
    assert {word for word, _ in instructions} == {
        *("FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD"),
    }
    copied = [shlex.split(rest)[0] for word, rest in instructions if word == "COPY"]
    assert all((DEPLOY / name).is_file() for name in copied)
    [install] = [shlex.split(rest) for word, rest in instructions if word == "RUN" and rest.startswith("pip ")]
    assert install[-1] in copied
    needed = Requirement((DEPLOY / install[-1]).read_text().strip())
    project = tomllib.loads((ROOT / "pyncette-core" / "pyproject.toml").read_text())["project"]
    assert project["version"] in needed.specifier
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert {compose["services"]["worker"]["environment"]["PYNCETTE_URL"].partition(":")[0]} == needed.extras


def test_the_container_runs_is_healthy_and_ends_by_docker_stop(installed: Path) -> None:
    parts = dict(image())
    port = two_free_ports()
    environment = {
        **os.environ,
        **dict([parts["ENV"].split("=")]),
        "PATH": f"{installed / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYNCETTE_URL": f"sqlite:///{installed}/shop.db",
        "HEALTH_PORT": str(port),
    }
    options, command = re.fullmatch(r"(.*) CMD (\[.*\])", parts["HEALTHCHECK"]).groups()  # type: ignore[union-attr]
    assert all(re.fullmatch(r"--(interval|timeout|start-period|retries)=\d+s?", option) for option in options.split())
    check = [word.replace(f":{parts['EXPOSE']}/", f":{port}/") for word in json.loads(command)]
    assert check != json.loads(command)

    def healthy() -> bool:
        return subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0

    assert not healthy()
    with Program(json.loads(parts["CMD"]), installed, environment) as program:
        program.wait_for("Running 1 task")
        assert healthy()
        program.signal(signal.SIGTERM, group=False)
        assert program.wait() == 0, program.stderr


def test_the_services_of_compose_fit_together() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose) == {"services", "volumes"}
    worker = compose["services"]["worker"]
    assert set(worker["depends_on"]) <= set(compose["services"])
    assert [volume.partition(":")[0] for volume in compose["services"]["redis"]["volumes"]] == list(compose["volumes"])
    assert f"//{next(iter(worker['depends_on']))}:" in worker["environment"]["PYNCETTE_URL"]


def test_the_manifests_have_only_fields_that_kubernetes_knows_and_fit_together() -> None:
    for manifest in manifests():
        shape = {"apiVersion": str, "kind": str, "metadata": {"name": str, "labels": LABELS}}
        fits(manifest, {**shape, "spec": KINDS[manifest["apiVersion"], manifest["kind"]]}, manifest["kind"])
    deployment, budget = manifests()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == budget["spec"]["selector"]["matchLabels"]
    # Otherwise no node could be drained.
    assert deployment["spec"]["replicas"] > budget["spec"]["maxUnavailable"] >= 1
    [container] = pod()["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    assert ports == {"health": dict(image())["EXPOSE"]}
    assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} == set(ports)
