"""Build the documentation as a website: the pages of docs/ and those that they lead to, an API reference, llms.txt, and each page as Markdown.

Run it:      python tools/site/build.py OUTPUT
You need:    the dependency group `site` and the distributions, as `nox -s docs` installs them
You see:     OUTPUT/index.html. Any warning of Sphinx, such as a link that leads nowhere, is an error.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("*/README.md") if (path.parent / "pyproject.toml").exists())
#: Pages that stand elsewhere in the repository, and what they are called on the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "examples/third_party_backend/README.md": "third-party-backend.md",
    "examples/etcd_backend/README.md": "etcd-backend.md",
    **{f"{name}/README.md": f"{name}.md" for name in DISTRIBUTIONS},
}
#: The chapters of the site. A page that is in none, and one that is named here and does not exist, are errors.
CHAPTERS = {
    "Start": ["installation", "tutorial", "usage", "examples"],
    "Guides": ["backends", "at-scale", "schedules", "delivery", "retries", "clients", "transactions", "testing"],
    "Operate": [
        "operating",
        "command-line",
        "by-hand",
        "dashboard",
        "why",
        "troubleshooting",
        "observability",
        "performance",
        "security",
    ],
    "Coming from": ["from-pyncette-1", "from-others", "comparison"],
    "Extend": ["writing-a-backend", "third-party-backend", "etcd-backend", "stored-format", "architecture", "contributing"],
    "Reference": ["api", "glossary", "changelog"],
}
#: What is code in a line, and so contains no links; or a link, whose text may contain code.
_LINK = re.compile(r"(?P<code>(?<!`)(`+)(?!`).+?(?<!`)\2(?!`))|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", re.DOTALL)
_FENCE = re.compile(r" *(`{3,}|~{3,})([^`]*)$")


@dataclass
class Pages:
    """The pages of the site by their names, and the files that they show or offer."""

    texts: dict[str, str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)


def gathered() -> Pages:
    """The pages, with links that lead from one to the other on the site."""
    paths = {path.name: path for path in sorted(DOCS.glob("*.md")) if path.name != "README.md"}
    paths |= {name: ROOT / path for path, name in ELSEWHERE.items()}
    found = Pages()
    names = {path: name for name, path in paths.items()} | {DOCS / "README.md": "index.md", ROOT / "README.md": "index.md"}
    for name, path in paths.items():
        found.texts[name] = mapped(path.read_text(encoding="utf-8"), functools.partial(_target, path, names, found.files))
    lead = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Backends\n", 1)[0]
    found.texts["index.md"] = mapped(lead, functools.partial(_target, ROOT / "README.md", names, found.files)).rstrip() + "\n"
    found.texts["api.md"] = (ROOT / "tools" / "site" / "api.md").read_text(encoding="utf-8")
    return found


def mapped(text: str, target: Callable[[str], str | None]) -> str:
    """A page whose links lead where ``target`` says; None: nowhere, and only the text stays. Code remains as it is, blocks in blocks, too."""

    def link(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        image, words, where = match.group(3, 4, 5)
        found = target(where)
        if found is None:
            return f"{words} (`{where}`)" if words.strip("`") != where else f"`{where}`"
        return f"{image}[{words}]({found})"

    parts: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        marks = _FENCE.match(line)
        if fence:
            # A block ends with at least as many of the same marks, and nothing else.
            if marks and marks[1].startswith(fence) and not marks[2].strip():
                fence = ""
            parts.append(line)
        elif marks:
            if marks[2].strip() == "mermaid":
                sys.exit("A diagram of Mermaid would need a program from elsewhere: draw it in tools/site/pictures.py")
            fence = marks[1]
            parts += [_LINK.sub(link, "".join(prose)), line]
            prose.clear()
        else:
            prose.append(line)
    return "".join(parts) + _LINK.sub(link, "".join(prose))


def _target(page: Path, names: Mapping[Path, str], files: set[Path], link: str) -> str | None:
    """Where a link of a page leads on the site."""
    if re.match(r"[a-z]+:|#", link):
        return link
    where, _, anchor = link.partition("#")
    path = (page.parent / where).resolve()
    if path in names:
        return names[path] + (f"#{anchor}" if anchor else "")
    if path.is_dir():
        return None
    if not path.exists():
        sys.exit(f"{page.relative_to(ROOT)}: there is no {where}")
    files.add(path.relative_to(ROOT))
    return str(path.relative_to(ROOT))


def chapters(texts: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """The names of the pages of each chapter, without ``.md``."""
    found = {**CHAPTERS, "Distributions": DISTRIBUTIONS}
    listed = [page for pages in found.values() for page in pages]
    there = {name.removesuffix(".md") for name in texts} - {"index"}
    if there != set(listed) or len(listed) != len(there):
        sys.exit(
            f"CHAPTERS in tools/site/build.py and the pages differ: {', '.join(sorted(there ^ set(listed))) or 'one is listed twice'}"
        )
    return found


def trees(texts: Mapping[str, str]) -> str:
    """The list of chapters for Sphinx."""
    return "\n".join(
        f"```{{toctree}}\n:caption: {title}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
        for title, pages in chapters(texts).items()
    )


def contents(texts: Mapping[str, str]) -> str:
    """The list of chapters as Markdown."""
    lines: list[str] = []
    for chapter, pages in chapters(texts).items():
        lines += [f"## {chapter}", "", *(f"- [{_title(texts[f'{page}.md'])}]({page}.md)" for page in pages), ""]
    return "\n".join(lines)


def _title(text: str) -> str:
    return next(line.removeprefix("# ").replace("`", "") for line in text.splitlines() if line.startswith("# "))


def llms(texts: Mapping[str, str], release: str) -> str:
    """The list of pages for machines, see llmstxt.org."""
    summary = "A reliable distributed scheduler with pluggable storage backends for async Python."
    return f"# Pyncette {release}\n\n> {summary}\n\n- [Start](index.md)\n\n{contents(texts)}"


def main() -> None:
    output = Path(sys.argv[1]).resolve()
    release = tomllib.loads((ROOT / "pyncette-core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    pages = gathered()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        _write(source, pages, trees(pages.texts))
        shutil.copy(ROOT / "tools" / "site" / "conf.py", source)
        shutil.rmtree(output, ignore_errors=True)
        sphinx = [sys.executable, "-m", "sphinx", "--quiet", "-d", str(source / "read")]
        environment = {**os.environ, "PYNCETTE_RELEASE": release}
        command = [*sphinx, "--fail-on-warning", "--keep-going", "-b", "html", str(source), str(output)]
        if subprocess.run(command, env=environment, check=False).returncode:
            sys.exit("The site was not built; see above")
        # What docstrings say stands in no page yet.
        command = [*sphinx, "-b", "markdown", str(source), str(source / "markdown"), str(source / "api.md")]
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        _write(output, pages, contents(pages.texts))
        shutil.copy(source / "markdown" / "api.md", output)
    (output / "llms.txt").write_text(llms(pages.texts, release), encoding="utf-8")
    print(f"{len(pages.texts)} pages in {output}")


def _write(folder: Path, pages: Pages, end: str) -> None:
    """The pages as Markdown, of which the first ends with a list of all, and the files beside them."""
    for name, text in pages.texts.items():
        (folder / name).write_text(f"{text}\n{end}" if name == "index.md" else text, encoding="utf-8")
    for path in pages.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)


if __name__ == "__main__":
    main()
