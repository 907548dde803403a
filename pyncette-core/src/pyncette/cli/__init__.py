"""The command line: ``pyncette`` or ``python -m pyncette``. Nothing else imports it."""

import sys
from collections.abc import Sequence

from pyncette.cli.conflicts import conflict

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for an error or a finding, 2 for wrong usage."""
    try:
        # Imported here, so that it can report a broken installation of the package.
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
