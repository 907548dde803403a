"""``manage.py pyncette COMMAND``: the command line of Pyncette, for the application that the settings name."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from pyncette.cli import main

#: Commands that take no application.
_WITHOUT_APP = ("backends", "completion")


class Command(BaseCommand):  # type: ignore[misc, unused-ignore]
    help = "Run and manage the tasks of PYNCETTE_APP: `pyncette run`, `pyncette list`; `pyncette list --help` says more."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("subcommand", metavar="COMMAND", help="what `pyncette --help` lists")
        parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the command takes after the app")

    def handle(self, *args: Any, subcommand: str, arguments: list[str], **options: Any) -> None:
        # The processes that `run` starts must find the project where manage.py found it.
        places = [str(Path(sys.path[0] or ".").resolve()), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        app = [] if subcommand in _WITHOUT_APP else ["pyncette.django.worker:app"]
        code = main([subcommand, *app, *arguments])
        if code:
            sys.exit(code)
