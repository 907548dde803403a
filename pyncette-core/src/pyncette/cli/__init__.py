"""The command line: ``pyncette`` or ``python -m pyncette``. Nothing else imports it."""

import importlib.metadata
import sys
from collections.abc import Sequence

__all__ = ["conflict", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for an error or a finding, 2 for wrong usage."""
    try:
        # Here, so that something can be said where the package is in pieces.
        from pyncette.cli.commands import run_command
    except ImportError:
        found = conflict()
        if found is None:
            raise
        sys.stderr.write(f"pyncette: {found}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return run_command(argv)


def conflict() -> str | None:
    """What is wrong if Pyncette 1 is installed beside this: both have files in one package, and the last one installed wins."""
    try:
        version = importlib.metadata.version("pyncette")
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the distribution pyncette {version} is installed and overwrites files of pyncette-core; "
        "run: pip uninstall pyncette, then: pip install --force-reinstall --no-deps pyncette-core"
    )
