"""Run scenarios by hand: ``python -m pyncette_conformance.faults --url URL [SCENARIO ...]``.

``{}`` in the URL stands for a name that is new for each scenario, so that each gets a store of its own.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import uuid
from pathlib import Path

from pyncette_conformance.faults import scenarios
from pyncette_conformance.faults.failpoints import VARIABLE, Fault
from pyncette_conformance.faults.worker import FAULTS


def main() -> bool:
    """Whether any scenario failed."""
    parser = argparse.ArgumentParser(prog="python -m pyncette_conformance.faults", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument(
        "--patience", type=float, default=scenarios.PATIENCE, help="seconds that everything may take after the faults"
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SITE=ACTION[%PERCENT|@N][:SECONDS]", help=f"for each worker; {FAULTS}"
    )
    parser.add_argument("--worker", action="append", default=[], help="an option for each worker, for example --worker=--batch=5")
    parser.add_argument("scenario", nargs="*", help=f"by default all of: {', '.join(scenarios.SCENARIOS)}")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenario if not hasattr(scenarios, name)]:
        parser.error(f"there is no scenario {unknown[0]!r}; use some of {', '.join(scenarios.SCENARIOS)}")
    try:
        Fault.parse_all(os.environ.get(VARIABLE, ""))  # which the workers read themselves
        faults = [word for fault in arguments.fault if Fault.parse(fault) for word in ("--fault", fault)]
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    for _ in range(arguments.times):
        for name in arguments.scenario or scenarios.SCENARIOS:
            directory = Path(tempfile.mkdtemp(prefix="pyncette-faults-"))
            url = arguments.url.replace("{}", uuid.uuid4().hex)
            report = asyncio.run(
                getattr(scenarios, name)(url, directory, options=[*arguments.worker, *faults], patience=arguments.patience)
            )
            print(report.summary(), flush=True)
            for violation in report.violations[:20]:
                print(f"  {violation}", flush=True)
            if report.violations:
                failed += 1
                print(f"  the log is in {directory}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
