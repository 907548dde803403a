"""The version of all distributions: ``python tools/version.py`` prints it, and ``python tools/version.py 2.1.0`` sets it.

It is in each pyproject.toml, in the ranges in which distributions need each other, and in CITATION.cff.
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_VERSION = re.compile(r"(\d+\.\d+)\.\d+((?:a|b|rc)\d+)?")
_OWN = re.compile(r'^(version = ")[^"]+(")$', re.MULTILINE)
_RANGE = re.compile(r'("pyncette-[a-z-]+(?:\[[a-z,]+\])?~=)[^",;]+()')
_CITED = re.compile(r"^(version: ).+$()", re.MULTILINE)


def versions(root: Path = ROOT) -> Mapping[str, str]:
    """The version of each distribution by its folder."""
    projects = {path.parent.name: tomllib.loads(path.read_text())["project"] for path in sorted(root.glob("*/pyproject.toml"))}
    return {folder: project["version"] for folder, project in projects.items()}


def set_version(version: str, root: Path = ROOT) -> None:
    """Write ``version`` wherever it has to be; raises ValueError if it is none."""
    parts = _VERSION.fullmatch(version)
    if parts is None:
        raise ValueError(f"{version!r} is not a version; write three numbers, as in 2.1.0, or 2.1.0rc1 before a release")
    # From this minor version on, since a backend may use what it brings; ~=2.1 would not admit 2.1.0rc1.
    admitted = parts[1] + (parts[2] or "")
    for path in root.glob("*/pyproject.toml"):
        _write(path, (_OWN, version), (_RANGE, admitted))
    for path in root.glob("examples/*/pyproject.toml"):  # which are of other authors, with versions of their own
        _write(path, (_RANGE, admitted))
    _write(root / "CITATION.cff", (_CITED, version))


def _write(path: Path, *replaced: tuple[re.Pattern[str], str]) -> None:
    text = path.read_text()
    for pattern, new in replaced:
        text = pattern.sub(rf"\g<1>{new}\g<2>", text)
    path.write_text(text)


if __name__ == "__main__":
    try:
        if len(sys.argv) > 2:
            raise ValueError("Pass one version, or none")
        if len(sys.argv) == 2:
            set_version(sys.argv[1])
        elif len(found := set(versions().values())) > 1:
            raise ValueError(f"The distributions have different versions: {dict(versions())}; set one")
        else:
            print(*found)
    except ValueError as error:
        sys.exit(str(error))
