"""``pyncette completion``: shell completion of commands, options and task names, by argcomplete."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pyncette.cli.arguments import Add
from pyncette.cli.loading import load_app
from pyncette.cli.output import write_line
from pyncette.errors import ConfigurationError

__all__ = ["ASKED", "add_completion", "complete", "complete_names"]

#: The environment variable that is set when a shell asks for completions.
ASKED = "_ARGCOMPLETE"
_SHELLS = ("bash", "zsh", "fish")


def add_completion(add: Add) -> None:
    parser = add(
        "completion",
        _print,
        "print the shell code that completes commands and names",
        "For bash, zsh or fish; needs: pip install 'pyncette-core[completion]'.",
        "bash >> ~/.bashrc",
        "zsh >> ~/.zshrc",
        "fish > ~/.config/fish/completions/pyncette.fish",
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help="bash, zsh or fish")


def complete_names(action: argparse.Action) -> None:
    """Complete the argument ``action`` with the names of the app's tasks."""
    vars(action)["completer"] = _names


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and end the process; does nothing if argcomplete is missing."""
    with contextlib.suppress(ConfigurationError):
        _argcomplete().autocomplete(parser, always_complete_options=False)


def _print(arguments: argparse.Namespace) -> int:
    code: str = _argcomplete().shellcode(["pyncette"], shell=arguments.shell)
    write_line(code.rstrip("\n"), sys.stdout)
    return 0


def _argcomplete() -> ModuleType:
    try:
        import argcomplete
    except ImportError:
        raise ConfigurationError("Completion needs argcomplete; install it with: pip install 'pyncette-core[completion]'") from None
    module: ModuleType = argcomplete
    return module


def _names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    # Import the program, but don't open its store: completion must be fast, and the store may be remote.
    target = getattr(parsed_args, "app", None)
    if not target:
        return []
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            return [task.name for task in load_app(target).tasks]
        except Exception:
            return []
