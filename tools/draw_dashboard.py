"""Draws the dashboard of pyncette-prometheus from a real run: docs/dashboard.svg.

    python tools/draw_dashboard.py [--seconds 120] [--output docs/dashboard.svg]

Two processes of examples/prometheus_metrics.py run on SQLite and are scraped by a real Prometheus, which answers the queries of the
dashboard, as it would Grafana's. In the middle one process is killed, and replaced. Wants nothing but Pyncette, pyncette-prometheus and
Prometheus, which tools/servers.py finds or downloads.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import servers

#: Seconds between two scrapes, and those over which rates are taken.
_EVERY, _RATE = 1, 15
_WIDTH, _HEIGHT, _GAP, _STAT = 490, 200, 10, 70
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


class Line(NamedTuple):
    """One series of a panel."""

    name: str
    #: Instants in seconds, and values.
    points: Sequence[tuple[float, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="how long the programs run (default: 120)")
    parser.add_argument("--output", type=Path, default=servers.ROOT / "docs" / "dashboard.svg", help="the picture")
    options = parser.parse_args()
    dashboard = json.loads(files("pyncette.prometheus").joinpath("dashboard.json").read_text())
    prometheus, _ = servers.prometheus()
    with tempfile.TemporaryDirectory() as directory:
        lines = measure(dashboard, prometheus, Path(directory), options.seconds)
    options.output.write_text(picture(dashboard, lines))
    return 0


def measure(dashboard: Mapping[str, Any], prometheus: str, directory: Path, seconds: int) -> Mapping[int, Sequence[Line]]:
    """What Prometheus answers to the queries of each panel, by its id, after a run of so many seconds."""
    port, own = _two_free_ports(), servers.free_port()
    targets = [f"127.0.0.1:{port + number}" for number in range(2)]
    scrape = {
        "job_name": "shop",
        "scrape_interval": f"{_EVERY}s",
        "scrape_timeout": f"{_EVERY}s",
        "static_configs": [{"targets": targets}],
    }
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
    workers = [
        *(sys.executable, "-m", "pyncette", "run", str(servers.ROOT / "examples" / "prometheus_metrics.py") + ":app"),
        *("--url", f"sqlite:///{directory}/shop.db", "--processes", "2"),
    ]
    server = [
        *(prometheus, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"),
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    with (directory / "log").open("wb") as log:
        running = [
            subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PORT": str(port)}, start_new_session=True)
            for command in (workers, server)
        ]
        try:
            began = time.time()
            time.sleep(seconds / 2)
            _kill_one_child(running[0].pid)
            time.sleep(seconds / 2)
            return {
                panel["id"]: [line for target in panel["targets"] for line in _ask(own, target, began, time.time())]
                for panel in dashboard["panels"]
                if panel["type"] != "row"
            }
        finally:
            for each in running:
                each.send_signal(signal.SIGTERM)
                each.wait()


def _two_free_ports() -> int:
    while True:
        port: int = servers.free_port()
        if not servers.answers(port + 1, b"\r\n", lambda _: True):
            return port


def _kill_one_child(pid: int) -> None:
    """Kill one process of a supervisor, which is to replace it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if children.exists() and (found := children.read_text().split()):
        os.kill(int(found[0]), signal.SIGKILL)


def _ask(port: int, target: Mapping[str, Any], start: float, end: float) -> Sequence[Line]:
    expression = target["expr"].replace("$__rate_interval", f"{_RATE}s").replace("$task", ".*")
    query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": max(1, (end - start) // 60)})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{query}", timeout=30) as response:
        found = json.load(response)["data"]["result"]
    lines = []
    for series in found:
        name = target["legendFormat"]
        for label, value in series["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        lines.append(Line(name, [(at, float(value)) for at, value in series["values"] if math.isfinite(float(value))]))
    return lines


# --- drawing --------------------------------------------------------------------------------------------------------------------


def picture(dashboard: Mapping[str, Any], lines: Mapping[int, Sequence[Line]]) -> str:
    """The dashboard as SVG: a row of numbers, and panels in two columns."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    stats = [panel for panel in panels if panel["type"] == "stat"]
    graphs = [panel for panel in panels if panel["type"] != "stat"]
    width = 2 * _WIDTH + 3 * _GAP
    parts = []
    each = (width - _GAP) / len(stats)
    for number, panel in enumerate(stats):
        parts.append(_stat(panel, lines[panel["id"]], _GAP + number * each, _GAP, each - _GAP))
    top = _STAT + 2 * _GAP
    for number, panel in enumerate(graphs):
        x, y = _GAP + number % 2 * (_WIDTH + _GAP), top + number // 2 * (_HEIGHT + _GAP)
        parts.append(_graph(panel, lines[panel["id"]], x, y))
    height = top + math.ceil(len(graphs) / 2) * (_HEIGHT + _GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>', *parts, "</svg>", ""])


def _stat(panel: Mapping[str, Any], lines: Sequence[Line], x: float, y: float, width: float) -> str:
    last = lines[0].points[-1][1] if lines and lines[0].points else None
    value = "no data" if last is None else _number(last, panel)
    return (
        f'<g transform="translate({x:.0f},{y})"><rect width="{width:.0f}" height="{_STAT}" rx="3" fill="#fff"/>'
        f'<text x="8" y="16" font-weight="bold">{escape(panel["title"])}</text>'
        f'<text x="{width / 2:.0f}" y="52" font-size="26" fill="#2ca02c" text-anchor="middle">{value}</text></g>'
    )


def _graph(panel: Mapping[str, Any], lines: Sequence[Line], x: float, y: float) -> str:
    parts = [
        f'<g transform="translate({x},{y})"><rect width="{_WIDTH}" height="{_HEIGHT}" rx="3" fill="#fff"/>',
        f'<text x="8" y="16" font-weight="bold">{escape(panel["title"])}</text>',
    ]
    left, top, right, bottom = 62, 28, _WIDTH - 12, _HEIGHT - 44
    drawn = [line for line in lines if line.points]
    if drawn:
        instants = [at for line in drawn for at, _ in line.points]
        values = [value for line in drawn for _, value in line.points]
        first, last = min(instants), max(instants)
        low, high = min(0.0, *values), max(values)
        high = high if high > low else low + 1

        def place(at: float, value: float) -> str:
            return (
                f"{left + (at - first) / max(1e-9, last - first) * (right - left):.1f},"
                f"{bottom - (value - low) / (high - low) * (bottom - top):.1f}"
            )

        for part in range(3):
            value = low + (high - low) * part / 2
            height = bottom - (bottom - top) * part / 2
            parts.append(f'<path d="M{left},{height:.0f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 5}" y="{height + 3:.0f}" text-anchor="end" fill="#555">{_number(value, panel)}</text>')
        for number, line in enumerate(drawn):
            points = " ".join(place(*point) for point in line.points)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="1.3"/>'
            )
        parts += _legend(drawn, left, bottom + 16, right)
        parts.append(f'<text x="{right}" y="16" text-anchor="end" fill="#999">{last - first:.0f} s</text>')
    else:
        parts.append(f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT / 2:.0f}" text-anchor="middle" fill="#999">no data</text>')
    return "".join([*parts, "</g>"])


def _legend(lines: Sequence[Line], left: float, y: float, right: float) -> Sequence[str]:
    parts, x = [], left
    for number, line in enumerate(lines):
        room = 16 + 6 * len(line.name)
        if x + room > right and x > left:
            x, y = left, y + 13
        parts.append(f'<path d="M{x:.0f},{y - 3:.0f}h10" stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 13:.0f}" y="{y:.0f}">{escape(line.name)}</text>')
        x += room
    return parts


def _number(value: float, panel: Mapping[str, Any]) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.4g}{' s' if unit == 's' else '/s' if unit == 'ops' else ''}"


if __name__ == "__main__":
    sys.exit(main())
