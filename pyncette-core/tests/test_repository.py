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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {
    project["name"]: project for project in (tomllib.loads(path.read_text())["project"] for path in ROOT.glob("*/pyproject.toml"))
}
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
    lists = re.findall(r"(?:nox\.options\.sessions|SECOND_LANE) = \[(.*?)\n\]", NOXFILE, re.DOTALL)
    assert len(lists) == 2
    default = {*re.findall(r'"(\w+)"', "".join(lists)), "tests", "conformance"}  # these it lists store by store
    assert named <= declared
    assert default <= named


def test_the_stores_of_the_workflow_are_those_of_the_noxfile():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    stores = {f"pyncette-{store}" for store in workflow["jobs"]["stores"]["strategy"]["matrix"]["store"]}
    assert stores == set(re.findall(r'"(pyncette-\w+)": Distribution\(servers=\["', NOXFILE))


def test_versions_that_are_said_twice_are_the_same():
    (ruff,) = (one for one in PROJECT["dependency-groups"]["lint"] if one.startswith("ruff"))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {one for hook in hooks for one in hook["additional_dependencies"]} == {ruff}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {project["version"] for project in DISTRIBUTIONS.values()} == {citation["version"]}


def test_distributions_need_each_other_in_versions_that_fit():
    (minor,) = {project["version"].rpartition(".")[0] for project in DISTRIBUTIONS.values()}
    for name, project in DISTRIBUTIONS.items():
        needed = [*project["dependencies"], *(one for extra in project.get("optional-dependencies", {}).values() for one in extra)]
        ours = [re.sub(r"\[[^]]*\]", "", one) for one in needed if re.match(r"pyncette-(?!core\[)", one)]
        assert all(one.endswith(f"~={minor}") for one in ours), name
        assert name == "pyncette-core" or f"pyncette-core~={minor}" in ours


def test_distributions_declare_no_interpreter_on_which_workflows_do_not_test_them():
    tested = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())["jobs"]["core"]["strategy"]["matrix"][
        "python"
    ]
    for project in DISTRIBUTIONS.values():
        declared = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
        assert declared == tested[: len(declared)] != []
        assert project["requires-python"] == f">={tested[0]}"


def test_the_workspace_has_all_distributions_and_its_lock_file_nothing_but_the_public_registry():
    assert set(PROJECT["tool"]["uv"]["sources"]) == set(DISTRIBUTIONS)
    lock = (ROOT / "uv.lock").read_text()
    assert set(tomllib.loads(lock)["manifest"]["members"]) == set(DISTRIBUTIONS)
    assert set(re.findall(r"https?://[^/\"]+", lock)) == {"https://pypi.org", "https://files.pythonhosted.org"}


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
