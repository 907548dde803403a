"""The tutorial, followed to the letter in an empty directory: every file it says to write, every command, everything it says is printed.

Three things differ: the environment is not installed from a package index but sees what this interpreter does, Redis is a server of the
tests, and what a program prints beyond the lines shown may only be more of the same, since no two machines are equally fast.
"""

import os
import re
import signal
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from programs import PATIENCE, Program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
#: What is said just before a block, its language, what is in it.
BLOCKS = re.findall(r"(?ms)([^\n]+)\n\n^```(\w+)\n(.*?)^```$", PAGE)
REDIS = "redis://localhost:6379/0"
#: What holds for all commands that follow in a terminal.
SETTINGS = ("cd ", "export ", ". ")
#: What is logged where a process got no time, or was stopped just as a body ran.
ON_A_SLOW_MACHINE = re.compile(r"[\d-]+ [\d:,]+ (?:WARNING pyncette\.|INFO pyncette\.ending: ).*")
READS = ("pyncette list", "pyncette workers")


@dataclass
class Terminal:
    settings: list[str] = field(default_factory=list)
    program: Program | None = None
    expected: list[str] = field(default_factory=list)


class Reader:
    """Does what the page says."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url
        self.terminals: dict[str, Terminal] = {}
        self.started = 0
        #: How many lines each program had printed when the last one was stopped.
        self.printed: dict[Program, int] = {}
        self.shop = directory / "shop"

    def follow(self) -> None:
        try:
            terminal = self._terminal("first")
            for before, language, block in BLOCKS:
                if named := re.search(r"\b(first|second|third) terminal", before):
                    terminal = self._terminal(named[1])
                if language == "python":
                    [name] = re.findall(r"(?:Write|Replace) `(\w+\.py)`:", before)
                    (self.shop / name).write_text(block)
                elif language == "console":
                    self._type(terminal, block)
                else:
                    assert language == "text"
                    self._wait(self._running(), block.splitlines())
            assert not self._running(), "the page leaves something running"
        finally:
            for program in self._running():
                program.__exit__(None, None, None)

    def _terminal(self, name: str) -> Terminal:
        return self.terminals.setdefault(name, Terminal())

    def _type(self, terminal: Terminal, block: str) -> None:
        for command, shown in re.findall(r"(?m)^(\$ .*|\^C)\n((?:(?!\$ |\^C).*\n)*)", block):
            expected = shown.splitlines()
            if command == "^C":
                program, terminal.program = terminal.program, None
                assert program is not None
                program.signal(signal.SIGINT)
                assert program.wait() == 0, program.stdout
                agrees(self._output(program), terminal.expected + expected)
                program.__exit__(None, None, None)
                self.printed = {each: len(self._output(each)) for each in self._running()}
            elif (typed := command.removeprefix("$ ")).startswith(SETTINGS):
                terminal.settings.append(typed.replace(REDIS, self.url))
            else:
                assert terminal.program is None, f"{typed}: this terminal is busy"
                self._run(terminal, typed, expected)

    def _run(self, terminal: Terminal, typed: str, expected: list[str]) -> None:
        if typed.startswith(("python3 -m venv", "python -m pip", "docker run")):
            self._prepare(typed)
            return
        deadline = time.monotonic() + PATIENCE
        while True:
            program = self._start([*terminal.settings, typed])
            if typed == "python shop.py":
                terminal.program, terminal.expected = program, expected
                self._wait([program], expected)
                return
            assert program.wait() == 0, program.stdout
            program.__exit__(None, None, None)
            if not typed.startswith(READS) or begins(self._output(program), expected) or time.monotonic() > deadline:
                break
        agrees(self._output(program), expected)

    def _prepare(self, typed: str) -> None:
        """An environment that sees what this one does."""
        if typed != "python3 -m venv .venv":
            return
        place = self.shop / ".venv" / "bin"
        place.mkdir(parents=True)
        lines = [f"#!{sys.executable}", "from pyncette.cli import main", "raise SystemExit(main())", ""]
        (place / "pyncette").write_text("\n".join(lines))
        (place / "pyncette").chmod(0o755)
        (place / "activate").write_text(f"PATH={place}:$PATH\n")
        # A link would be taken for an environment of its own.
        (place / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (place / "python").chmod(0o755)

    def _start(self, lines: list[str]) -> Program:
        self.started += 1
        place = self.directory.parent / f"{self.directory.name}-{self.started}"
        place.mkdir()
        lines = ["exec 2>&1", f"cd {self.directory}", *lines[:-1], f"exec {lines[-1]}"]
        # On a terminal each line is shown as it is printed.
        program = Program(["bash", "-ec", "\n".join(lines)], place, {**os.environ, "PYTHONUNBUFFERED": "1"})
        return program.__enter__()

    def _output(self, program: Program) -> list[str]:
        return program.stdout.replace(self.url.partition("?")[0], REDIS).splitlines()

    def _running(self) -> list[Program]:
        return [each.program for each in self.terminals.values() if each.program]

    def _wait(self, programs: list[Program], expected: list[str]) -> None:
        """Until one of them has printed it."""
        deadline = time.monotonic() + PATIENCE
        while not any(begins(self._output(each)[self.printed.get(each, 0) :], expected) for each in programs):
            assert time.monotonic() < deadline, f"{expected} is not in {[self._output(program) for program in programs]}"
            time.sleep(0.02)


def pattern(line: str) -> re.Pattern[str]:
    """A line of the page: `...` is anything, and any blank is as wide as a column of a table."""
    words = re.split(r"\s+", line)
    return re.compile(r"\s+".join(".*".join(map(re.escape, word.split("..."))) for word in words) + r"\s*")


def begins(output: list[str], expected: list[str]) -> bool:
    """Whether the lines of the page have been printed, in their order."""
    lines = iter(output)
    return all(any(pattern(line).fullmatch(each) for each in lines) for line in expected if line != "...")


def agrees(output: list[str], expected: list[str]) -> None:
    """What was printed is what the page says, and nothing that the page does not show."""
    assert begins(output, expected), f"{output} is not {expected}"
    known = [*map(pattern, expected), ON_A_SLOW_MACHINE]
    strange = [each for each in output if each and not any(line.fullmatch(each) for line in known)]
    assert not strange, f"the page does not show {strange}"


@pytest.mark.skipif(os.name == "nt", reason="its commands are for a POSIX shell")
def test_the_tutorial_works_to_the_letter(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "home").mkdir()
    Reader(tmp_path / "home", redis_url).follow()


def test_the_tutorial_and_the_installation_name_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyncette-core" / "pyproject.toml").read_text())["project"]
    known = set(project["optional-dependencies"])
    page = (ROOT / "docs" / "installation.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == known
    assert set(re.findall(r"pyncette-core\[([\w,]+)\]", PAGE)) <= known
    folders = re.findall(r" \.\./([\w-]+)", next(line for line in PAGE.splitlines() if line.startswith("$ python -m pip")))
    assert all((ROOT / folder / "pyproject.toml").exists() for folder in folders)
