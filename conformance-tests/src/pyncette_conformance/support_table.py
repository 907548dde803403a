"""A Markdown table of what each tested store does: behaviours down, stores across."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["PROPERTY", "SupportTable"]

#: The name of the property by which a test report says which store was tested.
PROPERTY = "pyncette_store"

_NODE = re.compile(r"::(?P<family>Test\w+)::test_(?P<behaviour>\w+?)(\[.*)?$", re.DOTALL)


@dataclass(slots=True)
class _Cell:
    """What happened to one behaviour on one store; a behaviour may have several tests."""

    passed: int = 0
    failed: int = 0
    reasons: set[str] = field(default_factory=set)


class SupportTable:
    """A pytest plugin that collects the reports of a run and shows them at its end."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._stores: list[str] = []
        self._families: dict[str, dict[str, dict[str, _Cell]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        store = dict(report.user_properties).get(PROPERTY)
        match = _NODE.search(report.nodeid)
        if not isinstance(store, str) or match is None or (report.when != "call" and report.passed):
            return
        if store not in self._stores:
            self._stores.append(store)
        cell = self._families.setdefault(match["family"], {}).setdefault(match["behaviour"], {}).setdefault(store, _Cell())
        if report.passed:
            cell.passed += 1
        elif report.failed:
            cell.failed += 1
        else:
            cell.reasons.add(_reason(report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        text = self.render()
        if self._destination == "-":
            terminalreporter.section("what each store does")
            terminalreporter.write_line(text)
        else:
            Path(self._destination).write_text(text, encoding="utf-8")

    def render(self) -> str:
        """The table and its footnotes."""
        notes: dict[str, int] = {}
        lines = [_line("behaviour", *self._stores), _line(*["---"] * (1 + len(self._stores)))]
        for family, behaviours in self._families.items():
            lines.append(_line(f"**{_words(family.removeprefix('Test'))}**", *[""] * len(self._stores)))
            for behaviour, cells in behaviours.items():
                lines.append(_line(behaviour.replace("_", " "), *[self._mark(cells, store, notes) for store in self._stores]))
        lines += ["", *[f"{number}. {reason}" for reason, number in notes.items()]]
        return "\n".join(lines).rstrip() + "\n"

    @staticmethod
    def _mark(cells: Mapping[str, _Cell], store: str, notes: dict[str, int]) -> str:
        cell = cells.get(store)
        if cell is None:
            return ""
        if cell.failed:
            return "**FAILS**"
        numbers = [notes.setdefault(reason, len(notes) + 1) for reason in sorted(cell.reasons)]
        mark = "yes" if cell.passed else "no"
        return " ".join([mark, *[f"({number})" for number in numbers]])


def _reason(report: pytest.TestReport) -> str:
    text = getattr(report, "wasxfail", None)
    if text is None:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("reason: ").removeprefix("Skipped: ")


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
