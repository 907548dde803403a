"""Plots of the tables that the other commands print, wherever they were pasted: such as docs/performance.md.

So what a page says and what it shows can't differ. Needs matplotlib, which nothing else here does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot", "tables"]

#: A row of a table, by the names of its columns.
Row = Mapping[str, str]


def tables(markdown: str) -> Iterator[Sequence[Row]]:
    """The tables of a text."""
    for block in re.findall(r"(?:^\|.*\n)+", markdown + "\n", re.MULTILINE):
        header, _, *lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        yield [dict(zip(header, line, strict=False)) for line in lines]


def plot(source: Path, directory: Path) -> Sequence[Path]:
    """Draw what there are tables of in ``source`` as SVG files in ``directory``; returns the files."""
    from matplotlib import rcParams

    rcParams.update({"svg.hashsalt": "pyncette", "svg.fonttype": "none", "font.size": 9})
    drawn = []
    for name, columns, draw in (
        ("executions", {"store", "1.1.0, per second"}, _draw_executions),
        ("claims", {"store", "rows not due"}, _draw_claims),
        ("lateness", {"store", "late, p99.9"}, _draw_lateness),
    ):
        rows = [row for table in tables(source.read_text(encoding="utf-8")) if columns <= table[0].keys() for row in table]
        if rows:
            drawn.append(_saved(directory / f"{name}.svg", draw, rows))
    return drawn


def _saved(path: Path, draw: Any, rows: Sequence[Row]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, rows)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    # The same lines as an editor would leave.
    path.write_text("\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()) + "\n", encoding="utf-8")
    return path


def _draw_executions(axes: Any, rows: Sequence[Row]) -> None:
    """Executions a second of both versions, tuned."""
    rows = [row for row in rows if row["tasks"] in ("recurring", "once") and row["options"] == "tuned"]
    bars = _bars(
        axes, [f"{row['store']}\n{row['tasks']}" for row in rows], rows, {"1.1.0, per second": "1.1.0", "2.0, per second": "2.0"}
    )
    axes.bar_label(bars["2.0, per second"], [f"{_number(row['speedup']):.0f} x" for row in rows])
    axes.set_ylabel("executions a second")


def _draw_claims(axes: Any, rows: Sequence[Row]) -> None:
    """The time of a claim over the number of rows that are not due."""
    for store in dict.fromkeys(row["store"] for row in rows):
        own = [row for row in rows if row["store"] == store]
        sizes = [_number(row["rows not due"]) for row in own]
        for what, style in (("claim of 100", "-"), ("claim of none", ":")):
            axes.plot(sizes, [_number(row[what]) for row in own], f"o{style}", label=f"{store}, {what}")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows that are not due")
    axes.set_ylabel("milliseconds")


def _draw_lateness(axes: Any, rows: Sequence[Row]) -> None:
    """How late tasks start."""
    names = [f"{row['store']}\n{row['executions']}" for row in rows]
    _bars(axes, names, rows, {name: name.removeprefix("late, ") for name in ("late, p50", "late, p99", "late, p99.9")})
    axes.set_ylabel("milliseconds late")


def _bars(axes: Any, names: Sequence[str], rows: Sequence[Row], columns: Mapping[str, str]) -> Mapping[str, Any]:
    width = 0.8 / len(columns)
    bars = {}
    for index, (column, label) in enumerate(columns.items()):
        places = [number + (index - (len(columns) - 1) / 2) * width for number in range(len(rows))]
        bars[column] = axes.bar(places, [_number(row[column]) for row in rows], width, label=label)
    axes.set_xticks(range(len(names)), names)
    return bars


def _number(cell: str) -> float:
    found = re.match(r"[\d,.]+", cell)
    if found is None:
        raise ValueError(f"{cell!r} begins with no number")
    return float(found[0].replace(",", ""))
