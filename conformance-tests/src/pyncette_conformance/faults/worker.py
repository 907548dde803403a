"""One worker process: ``python -m pyncette_conformance.faults.worker --url URL --plan FILE --log FILE``.

It runs until it is told to stop by a signal, as any application with ``app.main()`` does.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyncette_conformance.faults import native
from pyncette_conformance.faults.application import build
from pyncette_conformance.faults.failpoints import VARIABLE, Fault
from pyncette_conformance.faults.plan import Plan
from pyncette_conformance.faults.runlog import RunLog, What

__all__ = ["FAULTS", "main"]

#: The help of ``--fault``.
FAULTS = f"see pyncette_conformance.faults.failpoints; in addition to those in the environment variable {VARIABLE}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker with the options that ``--help`` describes."""
    parser = argparse.ArgumentParser(prog="python -m pyncette_conformance.faults.worker", description=__doc__)
    parser.add_argument("--url", required=True, help="of the store")
    parser.add_argument("--plan", required=True, type=Path, help="file with the tasks, written by Plan.write()")
    parser.add_argument("--log", required=True, type=Path, help="file to which events are appended")
    parser.add_argument("--poll-interval", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--shutdown-timeout", type=float, metavar="SECONDS")
    parser.add_argument(
        "--fault", type=Fault.parse, action="append", default=[], metavar="SITE=ACTION[%PERCENT|@N][:SECONDS]", help=FAULTS
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of all random choices")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE_OR_MODULE:FUNCTION", help="called first")
    parser.add_argument("--mutant", dest="plugin", action="append", metavar="FILE:FUNCTION", help="a plugin that breaks something")
    parser.add_argument("--gate", type=Path, metavar="FILE", help="open the store only when this exists")
    options = parser.parse_args(arguments)

    for plugin in options.plugin:
        _load(plugin)()
    try:
        faults = [*Fault.parse_all(os.environ.get(VARIABLE, "")), *options.fault]
    except ValueError as error:
        parser.error(f"{VARIABLE}: {error}")
    for fault in faults:
        if fault.site == "driver":
            native.inject(options.url.partition("://")[0], fault.rate, options.seed)
    timeout = options.shutdown_timeout
    log = RunLog(options.log)
    app = build(
        options.url,
        Plan.read(options.plan),
        log,
        faults=faults,
        seed=options.seed,
        poll_interval=timedelta(seconds=options.poll_interval),
        concurrency_limit=options.concurrency,
        batch_size=options.batch,
        shutdown_timeout=None if timeout is None else timedelta(seconds=timeout),
    )
    if options.gate is not None:
        log.write(What.READY)
        while not options.gate.exists():
            time.sleep(0.002)
    app.main()


def _load(plugin: str) -> Callable[[], Any]:
    place, _, name = plugin.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function: Callable[[], Any] = getattr(module, name)
    return function


if __name__ == "__main__":
    main()
