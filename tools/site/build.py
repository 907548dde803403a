"""Build the documentation as a website: the pages of docs/ and those that they lead to, an API reference, llms.txt, and each page as Markdown.

Run it:      python tools/site/build.py OUTPUT
You need:    sphinx, myst-parser, furo and the distributions, as `nox -s docs` installs them
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Pages that stand elsewhere in the repository, and what they are called on the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    **{
        f"{path.parent.name}/README.md": f"{path.parent.name}.md"
        for path in sorted(ROOT.glob("*/README.md"))
        if path.parent.name not in ("docs", "examples")
    },
}
#: The chapters of the site; a page that is in none is an error of Sphinx's.
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
    "Extend": ["writing-a-backend", "stored-format", "architecture", "contributing"],
    "Reference": ["api", "glossary", "changelog"],
    "Distributions": [],
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~)")


def gathered(source: Path) -> dict[str, str]:
    """The pages of the site by their names, with links that lead from one to the other there."""
    pages = {path.name: path for path in sorted(DOCS.glob("*.md")) if path.name != "README.md"}
    pages |= {name: ROOT / path for path, name in ELSEWHERE.items() if (ROOT / path).exists()}
    names = {path: name for name, path in pages.items()}
    texts: dict[str, str] = {}
    for name, path in pages.items():
        lines, fenced = [], False
        for line in path.read_text(encoding="utf-8").splitlines():
            fenced ^= bool(_FENCE.match(line.lstrip()))
            line = line.replace("```mermaid", "```text")  # GitHub draws it; here it is read
            lines.append(line if fenced else _LINK.sub(functools.partial(_linked, path, names, source), line))
        texts[name] = "\n".join(lines) + "\n"
    return texts


def _linked(page: Path, names: dict[Path, str], source: Path, match: re.Match[str]) -> str:
    image, text, target = match.groups()
    if re.match(r"[a-z]+:|#", target):
        return match[0]
    target, _, anchor = target.partition("#")
    path = (page.parent / target).resolve()
    if path == DOCS / "README.md":
        return f"{image}[{text}](index.md)"
    if path in names:
        return f"{image}[{text}]({names[path]}{'#' + anchor if anchor else ''})"
    if not path.exists():
        sys.exit(f"{page.relative_to(ROOT)}: there is no {target}")
    where = path.relative_to(ROOT)
    if image:
        (source / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / where)
        return f"![{text}]({where})"
    plain = text.strip("`")
    return f"`{where}`" if plain in (str(where), where.name, target) else f"{text} (`{where}`)"


def index(texts: dict[str, str]) -> str:
    """The front page: the README up to its quick start, and the chapters."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lead = readme.split("\n## ", 1)[0]
    lead = _LINK.sub(
        lambda match: f"{match[1]}[{match[2]}]({match[3].removeprefix('docs/')})", re.sub(r"^!\[.*\n", "", lead, flags=re.MULTILINE)
    )
    chapters = {title: [page for page in pages if f"{page}.md" in texts] for title, pages in CHAPTERS.items()}
    chapters["Distributions"] = sorted(
        name.removesuffix(".md")
        for name in texts
        if name in ELSEWHERE.values() and (ROOT / name.removesuffix(".md") / "README.md").exists()
    )
    trees = [
        f"```{{toctree}}\n:caption: {title}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
        for title, pages in chapters.items()
        if pages
    ]
    return lead + "\n\n" + "\n".join(trees)


def llms(texts: dict[str, str], release: str) -> str:
    """The list of pages for machines, see llmstxt.org."""
    lines = [
        f"# Pyncette {release}",
        "",
        "> A reliable distributed scheduler with pluggable storage backends for async Python.",
        "",
        "## Pages",
        "",
    ]
    for name, text in sorted(texts.items()):
        title = next((line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")), name)
        lines.append(f"- [{title}]({name})")
    return "\n".join(lines) + "\n"


def main() -> None:
    output = Path(sys.argv[1]).resolve()
    release = tomllib.loads((ROOT / "pyncette-core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        texts = gathered(source)
        texts["api.md"] = (ROOT / "tools" / "site" / "api.md").read_text(encoding="utf-8")
        for name, text in {**texts, "index.md": index(texts)}.items():
            (source / name).write_text(text, encoding="utf-8")
        shutil.copy(ROOT / "tools" / "site" / "conf.py", source)
        shutil.rmtree(output, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "--fail-on-warning",
            "--keep-going",
            "--quiet",
            "-b",
            "html",
            str(source),
            str(output),
        ]
        if subprocess.run(command, env={**os.environ, "PYNCETTE_RELEASE": release}, check=False).returncode:
            sys.exit("The site was not built; see above")
        for name in texts:
            shutil.copy(source / name, output)
        (output / "llms.txt").write_text(llms(texts, release), encoding="utf-8")
    print(f"{len(texts) + 1} pages in {output}")


if __name__ == "__main__":
    main()
