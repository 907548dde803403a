"""Print the files for Prometheus and Grafana: ``python -m pyncette.prometheus dashboard`` and ``... alerts``."""

import sys
from importlib.resources import files

_FILES = {"dashboard": "dashboard.json", "alerts": "alerts.yaml"}


_USAGE = "usage: python -m pyncette.prometheus {dashboard,alerts} > FILE\n"


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(_USAGE)
        return 0
    if len(arguments) != 1 or arguments[0] not in _FILES:
        sys.stderr.write(_USAGE)
        return 2
    sys.stdout.write(files("pyncette.prometheus").joinpath(_FILES[arguments[0]]).read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
