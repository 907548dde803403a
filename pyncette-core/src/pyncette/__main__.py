"""``python -m pyncette``: the command line, see :mod:`pyncette.cli`."""

import sys

from pyncette.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
