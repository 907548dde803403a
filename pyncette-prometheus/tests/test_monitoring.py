"""The dashboard and the alerts that come with the package: about exactly what a running application tells, and understood by Prometheus."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pyncette import Context, FailureMode, Pyncette
from pyncette.memory import MemoryRepository
from pyncette.prometheus import use_prometheus
from pyncette.testing import VirtualClock, running

ROOT = Path(__file__).parents[2]
SECOND = timedelta(seconds=1)
PACKAGE = files("pyncette.prometheus")
ALERTS = PACKAGE.joinpath("alerts.yaml").read_text()
DASHBOARD = json.loads(PACKAGE.joinpath("dashboard.json").read_text())
#: Names that other exporters tell.
FOREIGN = {"pg_stat_activity_max_tx_duration"}


@pytest.fixture(scope="session")
def promtool():
    """Runs promtool; what it prints, and whether it found all well."""
    spec = importlib.util.spec_from_file_location("servers", ROOT / "tools" / "servers.py")
    servers = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = servers
    spec.loader.exec_module(servers)
    try:
        _, program = servers.prometheus()
    except servers.CannotStart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"promtool can't be had: {error}")

    def run(*arguments):
        ended = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        return ended.returncode == 0, ended.stdout + ended.stderr

    return run


@pytest.fixture(scope="session")
def scraped():
    """The samples of a real scrape, over HTTP, of an application that has a task of each kind: names, and the labels they have."""
    clock, registry, store = VirtualClock(), CollectorRegistry(), MemoryRepository()
    store.shared = True

    @contextlib.asynccontextmanager
    async def factory():
        yield store

    app = Pyncette(repository_factory=factory, clock=clock)
    use_prometheus(app, registry=registry)

    @app.task(interval=SECOND)
    async def works(context: Context) -> None: ...

    @app.task(interval=SECOND, failure_mode=FailureMode.COMMIT)
    async def fails(context: Context) -> None:
        raise ValueError

    @app.dynamic_task()
    async def template(context: Context) -> None: ...

    async def main():
        async with running(app) as app_context:
            await app_context.schedule_task(template, "ada", interval=SECOND)
            await clock.advance(60 * SECOND)
            server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as response:
                    return response.read().decode()
            finally:
                server.shutdown()
                thread.join()
                server.server_close()

    text = clock.run(main())
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    """Each query of the dashboard, as Grafana sends it, by the title of its panel."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$task", ".*"))
        for panel in panels()
        for target in panel["targets"]
    ]


def names(expression):
    return set(re.findall(r"\b(?:pyncette|pg)_\w+", expression))


def test_the_dashboard_asks_for_nothing_that_is_not_told_and_shows_all_that_is(scraped):
    asked = set().union(*(names(expression) for _, expression in queries()))
    assert asked <= scraped.keys()
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
    assert shown == {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in scraped}


def test_the_alerts_ask_for_nothing_that_is_not_told(scraped):
    assert names(ALERTS) - FOREIGN <= scraped.keys()


def test_queries_group_by_labels_that_there_are(scraped):
    expressions = [expression for _, expression in queries()] + re.findall(r"expr: (?:\|\n)?(.*(?:\n {10}.*)*)", ALERTS)
    for expression in expressions:
        labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        told = set().union(*(scraped.get(name, {"datname"}) for name in names(expression)))
        assert labels - {"instance"} <= told, expression  # which Prometheus adds


def test_legends_are_of_labels_that_the_query_leaves():
    for panel in panels():
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            left = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")}
            assert wanted <= left | {"instance"}, panel["title"]


def test_the_dashboard_can_be_imported():
    """What Grafana needs of a file that is imported. It refuses panels that share an id, and places those that overlap elsewhere."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    sources = {json.dumps(target["datasource"]) for panel in panels() for target in panel["targets"]}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "task"]


def test_prometheus_understands_each_query_of_the_dashboard(promtool, tmp_path):
    rules = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(queries())]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    well, told = promtool("check", "rules", tmp_path / "rules.json")
    assert well, told
    assert f"{len(rules)} rules found" in told


def test_each_alert_fires_when_it_should_and_none_where_all_is_well(promtool, tmp_path):
    (tmp_path / "alerts.yaml").write_text(ALERTS)
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path)
    assert promtool("check", "rules", tmp_path / "alerts.yaml")[0]
    well, told = promtool("test", "rules", tmp_path / "alerts_test.yaml")
    assert well, told
    fired = set(re.findall(r'alertname="(\w+)"', (tmp_path / "alerts_test.yaml").read_text()))
    assert fired == set(re.findall(r"alert: (\w+)", ALERTS))


def test_an_alert_that_never_fires_would_be_noticed(promtool, tmp_path):
    (tmp_path / "alerts.yaml").write_text(ALERTS.replace("(pyncette_task_workers) == 0", "(pyncette_task_workers) < 0"))
    shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path)
    assert not promtool("test", "rules", tmp_path / "alerts_test.yaml")[0]


def test_the_documentation_has_a_line_for_each_alert():
    page = (ROOT / "docs" / "observability.md").read_text()
    assert re.findall(
        r"^\| `(\w+)` \|", page[page.index("## Alerts worth having") : page.index("## Hooks")], re.MULTILINE
    ) == re.findall(r"alert: (\w+)", ALERTS)


def test_the_picture_in_the_documentation_is_of_this_dashboard_and_has_lines_in_each_panel():
    text = (ROOT / "docs" / "dashboard.svg").read_text()
    titles = re.findall(r'font-weight="bold">([^<]*)<', text)
    assert sorted(titles) == sorted(panel["title"] for panel in panels())
    assert "no data" not in text


@pytest.mark.parametrize("name", ["dashboard", "alerts"])
def test_both_files_can_be_printed(name):
    ended = subprocess.run([sys.executable, "-m", "pyncette.prometheus", name], capture_output=True, text=True, check=True)
    assert ended.stdout == PACKAGE.joinpath({"dashboard": "dashboard.json", "alerts": "alerts.yaml"}[name]).read_text()
    assert subprocess.run([sys.executable, "-m", "pyncette.prometheus"], capture_output=True, check=False).returncode == 2
