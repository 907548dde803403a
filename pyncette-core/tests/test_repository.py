"""What stands around the code: workflows run sessions that exist, and what is said in several places is the same in all."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOXFILE = (ROOT / "noxfile.py").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_no_more_than_it_says_and_runs_pinned_actions(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"], name
        assert "permissions" in job, name
    for action in re.findall(r"uses: (.*)", path.read_text()):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_workflows_run_sessions_that_exist_and_all_of_those_that_nox_runs():
    declared = set(re.findall(r"^def (\w+)\(session: nox.Session", NOXFILE, re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    named = set()
    for job in workflow["jobs"].values():
        named |= set(job["strategy"]["matrix"].get("session", ()))
        for step in job["steps"]:
            named |= set(re.findall(r'"(\w+)\(', step.get("run", "")))
    default = set(re.findall(r'"(\w+)"', re.search(r"nox\.options\.sessions = \[(.*?)\]", NOXFILE, re.DOTALL)[1]))
    default |= {"tests", "conformance", "faults"}  # which it lists store by store
    assert named <= declared
    assert default <= named


def test_the_stores_of_the_workflow_are_those_of_the_noxfile():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    stores = {f"pyncette-{store}" for store in workflow["jobs"]["stores"]["strategy"]["matrix"]["store"]}
    assert stores == set(re.findall(r'"(pyncette-\w+)": Distribution\(servers=\["', NOXFILE))


def test_versions_that_are_said_twice_are_the_same():
    ruff = re.search(r'"(ruff==[\d.]+)"', NOXFILE)[1]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {one for hook in hooks for one in hook["additional_dependencies"]} == {ruff}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tomllib.loads((ROOT / "pyncette-core" / "pyproject.toml").read_text())["project"]["version"]


def test_forms_and_the_dev_container_can_be_read():
    for path in FORMS:
        assert yaml.safe_load(path.read_text())
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    for folder in re.findall(r"-e \./([\w-]+)", container["postCreateCommand"]):
        assert (ROOT / folder / "pyproject.toml").exists()


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md", ".github/pull_request_template.md"])
def test_the_pages_of_the_repository_point_to_files_that_exist(name):
    for target in re.findall(r"\]\(([^)#:]+)", (ROOT / name).read_text()):
        assert (ROOT / name).parent.joinpath(target).exists(), target
