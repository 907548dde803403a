"""Record the README's quick start in a terminal, as an SVG that moves: its commands are run, and what they print is shown as it came.

Run it:      python tools/site/recording.py docs/images/quick-start.svg
You need:    bash, and an index of packages that can be reached, since the commands install Pyncette in a copy of this repository
You see:     What is recorded. Pauses of more than two seconds are shortened.
"""

import html
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS, CHARACTER, LINE, MARGIN, HEAD = 112, 7.25, 17, 14, 26
#: How long a key takes, and the longest pause that is shown, in seconds.
KEY, LONGEST = 0.02, 2.0
#: After how many runs somebody presses Ctrl-C, and for how many seconds nothing runs then.
RUNS, AWAY = 4, 8
COLOURS = {"command": "#f0f6fc", "log": "#9da7b3", "task": "#7ee787", "key": "#ffa657"}


@dataclass(frozen=True)
class Shown:
    """A line of the terminal, and when it appears, in seconds."""

    at: float
    kind: str
    text: str


def commands(readme: str) -> tuple[str, str]:
    """The first command of the quick start, and the last part of it, which it says to run again."""
    found = re.search(r"## Quick start\n.*?```sh\n(.*?)\n```", readme, re.DOTALL)
    assert found is not None
    return found[1], found[1].rpartition(" && ")[2]


def recorded(clone: Path) -> Iterator[Shown]:
    """Type the commands, and press Ctrl-C each time when some tasks have run."""
    at = 0.5
    for number, command in enumerate(commands((ROOT / "README.md").read_text(encoding="utf-8"))):
        if number:
            time.sleep(AWAY)
            at += LONGEST
        yield Shown(at, "command", f"$ {command}")
        at += KEY * len(command)
        runs = 0
        last = time.monotonic()
        for line in _lines(command, clone):
            now = time.monotonic()
            at, last = at + min(now - last, LONGEST), now
            ran = " persistence: " in line
            yield Shown(at, "task" if ran else "log", line)
            runs += ran
            if ran and runs == RUNS:
                yield Shown(at + 0.5, "key", "^C")
                at += 0.5


def _lines(command: str, clone: Path) -> Iterator[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment |= {"PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        runs = 0
        for line in process.stdout:
            print(line, end="", flush=True)
            yield line.rstrip()
            runs += " persistence: " in line
            if runs == RUNS:
                os.killpg(process.pid, signal.SIGINT)
                runs += 1
        if process.wait():
            sys.exit(f"The command failed: {command}")


def drawn(lines: list[Shown]) -> str:
    """The terminal as an SVG. Who can't see it move, or does not want to, sees it at its end."""
    rows = [
        (shown, part)
        for shown in lines
        for part in textwrap.wrap(shown.text, COLUMNS, subsequent_indent="  ", break_long_words=True, break_on_hyphens=False)
    ]
    width, height = round(2 * MARGIN + COLUMNS * CHARACTER), HEAD + 2 * MARGIN + LINE * len(rows)
    style = (
        "text{font:12px ui-monospace,Menlo,Consolas,'Liberation Mono',monospace;white-space:pre}"
        "@keyframes s{from{opacity:0}to{opacity:0}}.l{animation:s linear backwards}"
        "@media (prefers-reduced-motion:reduce){.l{animation:none}}"
        + "".join(f".{kind}{{fill:{colour}}}" for kind, colour in COLOURS.items())
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>The quick start in a terminal</title>",
        f"<style>{style}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
        *(
            f'<circle cx="{18 + 18 * n}" cy="16" r="5.5" fill="{fill}"/>'
            for n, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        ),
    ]
    for number, (shown, text) in enumerate(rows):
        y = HEAD + MARGIN + LINE * (number + 0.7)
        # The animation hides a line, for as long as it is not there yet.
        parts.append(
            f'<text class="l {shown.kind}" style="animation-duration:{shown.at:.2f}s" x="{MARGIN}" y="{y:.1f}" xml:space="preserve">'
            f"{html.escape(text, quote=False)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "pyncette")
        shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.db*", "dist", "build"))
        target.write_text(drawn(list(recorded(clone))), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
