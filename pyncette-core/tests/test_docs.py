"""The documentation is true: its snippets run, its links lead somewhere, its commands work."""

import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
import yaml
from programs import Program, two_free_ports

import pyncette
from pyncette import Context, Pyncette
from pyncette.cli import main
from pyncette.testing import VirtualClock, running

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {str(path.relative_to(ROOT)) for pattern in ("*.md", "docs/*.md", "*/README.md") for path in ROOT.glob(pattern)},
)

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Blocks of code, with blocks in them, and code in a line: links in either are none.
CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1`* *$|(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def blocks(page: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a page in a language, with the lines at which they begin."""
    text = (ROOT / page).read_text()
    for block in FENCED.finditer(text):
        if block[1] == language:
            yield text.count("\n", 0, block.start(2)), block[2]


def commands_of(heading: str) -> str:
    """The first block of a section of the README."""
    text = (ROOT / "README.md").read_text()
    found = FENCED.search(text, text.index(f"\n## {heading}\n"))
    assert found is not None
    return found[2]


def first_command(heading: str) -> str:
    (line,) = commands_of(heading).splitlines()
    return line


# --- snippets -------------------------------------------------------------------------------------------------------------


class Snippets:
    """The snippets of one page, executed one after another in one namespace, as a reader types them into one file.

    Applications are in memory and in virtual time. A coroutine function called ``main`` is run, for two days at most;
    functions called ``test_...`` are called. At the end every application runs until each of its tasks has run.
    """

    LIMIT = timedelta(days=40)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VirtualClock(start=datetime(2026, 1, 1, 8, tzinfo=UTC))
        self.apps: list[Pyncette] = []
        self.namespace: dict[str, Any] = {"__name__": "snippets"}
        snippets = self

        class Recorded(Pyncette):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                # An app wakes once in each poll interval, which makes days of virtual time long.
                super().__init__(*args, clock=snippets.clock, **{"poll_interval": timedelta(hours=1), **kwargs})
                self.use_repository()
                self.ran: set[str] = set()
                self.use_middleware(self._record)
                snippets.apps.append(self)

            async def _record(self, context: Context, next: Callable[[], Awaitable[None]]) -> None:
                self.ran.add(context.task.template.name)
                await next()

        monkeypatch.setattr(pyncette, "Pyncette", Recorded)

    def execute(self, page: str, line: int, source: str) -> None:
        if source.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(source, self.namespace, page, page, line)
            assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed == 0
            return
        before = dict(self.namespace)
        # The line numbers are those of the page.
        exec(compile("\n" * line + source, str(ROOT / page), "exec"), self.namespace)
        for name, value in list(self.namespace.items()):
            if before.get(name) is value:
                continue
            if name.startswith("test_"):
                value()
            elif name == "main" and inspect.iscoroutinefunction(value):
                self.clock.run(self._for_two_days(value()))

    async def _for_two_days(self, main: Awaitable[None]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(main, timedelta(days=2).total_seconds())

    def run_all(self) -> None:
        for app in self.apps:
            self.clock.run(self._until_all_ran(app))

    async def _until_all_ran(self, app: Any) -> None:
        enabled = {task.name for task in app.tasks if task.enabled}
        end = self.clock.now() + self.LIMIT
        async with running(app, self.clock):
            while enabled - app.ran and self.clock.now() < end:
                await self.clock.advance(timedelta(minutes=10))
        assert enabled - app.ran == set(), "bodies that never ran"


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python")) and page != "docs/tutorial.md"])
def test_snippets(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METRICS_PORT", "0")
    caplog.set_level(logging.WARNING)
    snippets = Snippets(monkeypatch)
    for line, source in blocks(page, "python"):
        snippets.execute(page, line, source)
    snippets.run_all()
    for record in caplog.records:
        # Failures that a page is about have exceptions that it defines.
        kind = record.exc_info[0] if record.exc_info else None
        assert kind is not None, record.getMessage()
        assert kind.__module__ == "snippets", record.exc_info


# --- other blocks ---------------------------------------------------------------------------------------------------------

#: Which blocks are executed elsewhere, or say nothing that could be wrong by itself.
EXECUTED = {
    "python": lambda page: True,  # above
    "console": lambda page: page in ("docs/command-line.md", "docs/why.md", "docs/tutorial.md"),
    "text": lambda page: True,
    "sql": lambda page: page == "docs/operating.md",  # by the tests of pyncette-mysql and pyncette-postgres
}


@pytest.mark.parametrize("page", PAGES)
def test_other_blocks_can_be_read_and_their_commands_exist(page: str) -> None:
    for language in sorted({block[1] for block in FENCED.finditer((ROOT / page).read_text())}):
        for _, block in blocks(page, language):
            match language:
                case "yaml":
                    assert yaml.safe_load(block)
                case "toml":
                    assert tomllib.loads(block)
                case "ini":  # settings of Django
                    compile(block, page, "exec")
                case "sh":
                    assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False).stderr == ""
                    for line in block.replace("\\\n", " ").splitlines():
                        for command in re.split(r" &&? ", re.split(r" #| >", line)[0]):
                            assert_sound_command(command)
                case _:
                    assert EXECUTED[language](page), f"{page} has a block of {language} that nothing executes"


def assert_sound_command(command: str) -> None:
    """What can be said of a command without running it: what it installs is ours or known, and it has its options."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if not words:
        return
    match [word.removeprefix(".venv/bin/") for word in words]:
        case ["python", "-m", "pip", "install", *wanted] | ["pip", "install", *wanted]:
            assert {each for each in wanted if not each.startswith("-")} <= INSTALLABLE
        case ["pyncette", *_]:
            assert_accepted(command)
        case ["python", "-m", module, *arguments] if module.startswith("pyncette"):
            run = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
            assert all(word in run.stdout for word in arguments if re.match(r"--\w", word)), command
        case ["python", "examples/benchmark.py", *arguments]:
            sys.path.insert(0, str(ROOT / "examples"))
            importlib.import_module("benchmark").parser().parse_args(arguments)
            sys.path.remove(str(ROOT / "examples"))
        case ["python", "tools/servers.py", *arguments] if "--" in arguments:
            *_, server, _, shell, option, script = arguments
            assert server in subprocess.run([sys.executable, SERVERS, "--list"], capture_output=True, text=True, check=True).stdout
            assert [shell, option] == ["sh", "-c"]
            assert_sound_command(script)
        case ["python", path] if path.endswith(".py"):
            assert (ROOT / path).exists(), command
        case ["pytest" | "python", *arguments]:
            options = [word.partition("=")[0] for word in arguments if word.startswith("--pyncette-")]
            assert all(f'"{option}"' in PLUGINS for option in options), command
        case [program, *_]:
            assert program in {"python3", "nox", "docker", "export"}, command


def installable() -> set[str]:
    """What commands of the documentation install: distributions of this repository, by name or folder, and what helps to develop them."""
    found = {"nox", "uv", "pytest", "pytest-xdist", "hypothesis", "argcomplete", "pyyaml", "sqlalchemy[asyncio]"}
    for path in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("examples/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        found |= {project["name"], f"./{path.parent.name}"}
        extras = project.get("optional-dependencies", {})
        found |= {f"{what}[{extra}]" for what in (project["name"], f"./{path.parent.name}") for extra in extras}
    return found


INSTALLABLE = installable()
SERVERS = str(ROOT / "tools" / "servers.py")
PLUGINS = "".join(path.read_text() for path in (ROOT / "conformance-tests" / "src").rglob("*plugin*.py"))


def assert_accepted(command: str) -> None:
    """The command line knows the command and its options."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        main([shlex.split(command)[1], "--help"])
    assert ended.value.code == 0, command
    if "not installed" in shown.getvalue():  # of another distribution, which its own tests try
        return
    assert all(option in shown.getvalue() for option in re.findall(r" (--[\w-]+)", command)), command


# --- links ----------------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(page: Path) -> set[str]:
    """The anchors of a page, where headings of the same words are numbered."""
    found: set[str] = set()
    for heading in HEADING.findall(CODE.sub("", page.read_text())):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.add(next(each for each in (name, *(f"{name}-{number}" for number in range(1, 99))) if each not in found))
    return found


@pytest.mark.parametrize("page", [*PAGES, *(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*/README.md"))])
def test_links(page: str) -> None:
    source = ROOT / page
    text = CODE.sub("", source.read_text())
    assert len(LINK.findall(text)) == text.count("]("), "a link that nobody can follow"
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            assert_sound(link)
            continue
        path, _, fragment = link.partition("#")
        target = source.parent / path if path else source
        assert target.exists(), link
        assert ROOT in target.resolve().parents, f"{link} leads out of the repository"
        assert not fragment or fragment in headings(target), link


def assert_sound(link: str) -> None:
    """What can be said of a link to elsewhere without following it."""
    parts = urlsplit(link)
    assert parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1")), link
    assert re.fullmatch(r"(?:[a-z\d-]+\.)+[a-z]{2,}|localhost|127\.0\.0\.1", parts.hostname or ""), link
    assert not link.endswith((".", ",", ";", ":")), link
    own = re.fullmatch(r"/[\w-]+/pyncette/(?:blob|tree)/main/(.*)", parts.path) if parts.hostname == "github.com" else None
    assert own is None or (ROOT / own[1]).exists(), link


def test_the_diagrams_are_what_the_command_draws(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "site" / "pictures.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    drawn = list(tmp_path.glob("*.svg"))
    assert len(drawn) >= 3
    for picture in drawn:
        assert (ROOT / "docs" / "images" / picture.name).read_text() == picture.read_text(), picture.name
        ET.parse(picture)


# --- commands -------------------------------------------------------------------------------------------------------------


def test_ci_runs_the_tests_of_the_readme() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands[-1] == first_command("Tests")


def recorded() -> list[str]:
    """The lines of the recording, each as long as it was."""
    picture = ET.parse(ROOT / "docs" / "images" / "quick-start.svg")
    lines: list[str] = []
    for element in picture.iter("{http://www.w3.org/2000/svg}text"):
        text = element.text or ""
        if text.startswith("  "):
            lines[-1] += text[1:]
        else:
            lines.append(text)
    return lines


def shape(line: str) -> str:
    """A line of the log without what differs each time."""
    return re.sub(r"[\d.:,T+-]*\d[\d.:,T+-]*", "#", line)


def test_the_recording_shows_the_commands_of_the_quick_start() -> None:
    command = first_command("Quick start")
    assert [line for line in recorded() if line.startswith("$")] == [f"$ {command}", f"$ {command.rpartition(' && ')[2]}"]


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
def test_quick_start_and_then_several_workers(tmp_path: Path, redis_url: str) -> None:
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "dist", "build")
    shutil.copytree(ROOT, clone, ignore=ignored)
    # As in a fresh shell: not in the environment of this test.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    own = os.environ.get("VIRTUAL_ENV")
    if own:
        parts = environment["PATH"].split(os.pathsep)
        environment["PATH"] = os.pathsep.join(part for part in parts if not part.startswith(own))
    with Program(["bash", "-c", first_command("Quick start")], clone, environment) as program:
        program.wait_for(r"refresh: meant for", r"count: meant for")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert "SIGINT: shutting down" in program.stdout
        assert "Traceback" not in program.stderr
    # What was recorded is what is printed, up to the Ctrl-C.
    lines = recorded()
    assert set(map(shape, lines[1 : lines.index("^C")])) <= set(map(shape, program.stdout.splitlines()))
    # What it leaves behind is not committed by accident.
    assert {".venv/", "*.db"} <= set((ROOT / ".gitignore").read_text().split())

    several = commands_of("Several workers, and metrics").replace("redis://localhost:6379/0", redis_url)
    with Program(["bash", "-e", "-c", several], clone, {**environment, "PORT": str(port := two_free_ports())}) as program:
        program.wait_for(*["Running 3 tasks"] * 2, r"work, meant for", r"greet: hello")
        for each in (port, port + 1):
            with urllib.request.urlopen(f"http://127.0.0.1:{each}/metrics", timeout=30) as answer:
                assert b"\npyncette_ticks_total " in answer.read()
        program.signal(signal.SIGINT)
        assert program.wait() == 0


def test_the_complete_program_of_the_readme_shows_something_within_seconds(tmp_path: Path) -> None:
    [(_, source)] = blocks("README.md", "python")
    (tmp_path / "shop.py").write_text(source)
    with Program([sys.executable, "-u", "shop.py"], tmp_path) as program:
        program.wait_for("The kettle is on", "Your tea is ready")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
