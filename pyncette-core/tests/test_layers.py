"""The layers of core, as ARCHITECTURE.md lists them; and no circle of imports anywhere, also for type checkers."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "pyncette-core" / "src" / "pyncette"
#: Modules that re-export, for short public paths.
DOORS = {
    *("backends", "codec", "compare_and_set", "executors", "instrumentation", "lifecycle", "memory", "repository", "rowwise"),
    *("joining", "looks", "schedule", "sqlite", "task", "timezones"),
}
#: Entries of the list that are packages.
WINGS = {"cli", "django"}
SOURCES = sorted(path for folder in ROOT.glob("*/src") for path in folder.rglob("*.py"))


def name_of(path):
    """The dotted name of a module; of a package that of its ``__init__``."""
    parts = path.relative_to(next(parent for parent in path.parents if parent.name == "src")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(name):
    """The modules of this repository that a module imports, wherever in it: at the top, within a function, for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names
            }
    return (found & MODULES.keys()) - {name}


def listed():
    """The modules of the table in ARCHITECTURE.md, in order."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|", text[text.index("| modules, in order |") :].split("\n\n")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


def layer(name):
    """The entry of the list that a module of core belongs to; None for doors, wings and the package itself."""
    name = name.removeprefix("pyncette").removeprefix(".")
    if name in DOORS or name in {"", "__main__", "schedules", "store", "worker"}:
        return None
    wing = name.split(".")[0]
    return wing if wing in WINGS else name


CORE_MODULES = [name for name, path in MODULES.items() if path.is_relative_to(CORE) and layer(name)]


def test_the_list_names_every_module_once():
    assert sorted(listed()) == sorted({layer(name) for name in CORE_MODULES})


@pytest.mark.parametrize("name", CORE_MODULES)
def test_an_import_points_to_what_is_listed_before(name):
    order = listed()
    for imported in imports(name):
        if imported == "pyncette" or layer(imported) == layer(name) in WINGS:
            continue
        assert layer(imported), f"{name} goes through the door {imported}"
        assert order.index(layer(imported)) < order.index(layer(name)), f"{name} imports {imported}, which is listed after it"


def test_there_is_no_circle_of_imports_in_the_repository():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for imported in sorted(imports(name)):
                visit(imported)
            path.pop()
            done.add(name)

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", CORE_MODULES)
def test_a_module_fits_on_a_few_screens(name):
    assert len(MODULES[name].read_text().splitlines()) <= 350
