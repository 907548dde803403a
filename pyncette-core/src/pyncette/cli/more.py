"""Commands that other distributions add, through the entry-point group ``pyncette.commands``.

An entry point is a function that receives an ``Add`` and adds one command with it, named like the entry point.
"""

import argparse
import importlib.metadata
from collections.abc import Callable

from pyncette.cli.arguments import Add
from pyncette.errors import ConfigurationError

__all__ = ["add_more"]

_GROUP = "pyncette.commands"
#: Commands in other distributions: a description, and the package to install.
_KNOWN = {"dashboard": ("inspect and control an application in a browser", "pyncette-dashboard[server]")}


def add_more(add: Add) -> None:
    """Add the installed commands, and known ones that are not installed, to say how to install them."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=_GROUP)}
    for _, point in sorted(found.items()):
        try:
            add_command = point.load()
        except Exception as error:  # a broken distribution must not break the other commands
            _add_refusal(add, point.name, "not available", f"The command {point.name!r} can't be loaded: {error}")
        else:
            add_command(add)
    for name, (what, package) in _KNOWN.items():
        if name not in found:
            _add_refusal(add, name, what, f"The command {name!r} is in a package that is not installed: pip install {package!r}")


def _add_refusal(add: Add, name: str, what: str, message: str) -> None:
    def refuse(arguments: argparse.Namespace) -> int:
        raise ConfigurationError(message)

    command: Callable[[argparse.Namespace], int] = refuse
    add(name, command, what, message + ".").add_argument("anything", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
