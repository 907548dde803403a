"""``pyncette run``: one process, or several under supervision."""

import argparse
import asyncio
import importlib.util
import os
import sys
import threading

from pyncette import program
from pyncette.app import Pyncette
from pyncette.cli import logs
from pyncette.cli.loading import load_app
from pyncette.cli.supervisor import ENDED, supervise
from pyncette.errors import ConfigurationError, PyncetteError
from pyncette.signals import request_end

__all__ = ["run"]

#: A pipe accepts this much at once, even if nobody reads it.
_MAX_REPORT_BYTES = 4096


def run(arguments: argparse.Namespace) -> int:
    """Run an application until a signal, or until it ends."""
    if arguments.lifeline is None:
        return _run(arguments)
    os.set_inheritable(arguments.report, False)
    try:
        code, report = _run(arguments), ENDED
    except PyncetteError as error:
        code, report = 1, str(error)
    os.write(arguments.report, report.encode(errors="backslashreplace")[:_MAX_REPORT_BYTES])
    return code


def _run(arguments: argparse.Namespace) -> int:
    app = load_app(arguments.app, arguments.url)
    several = arguments.processes > 1 or arguments.lifeline is not None
    logs.configure(arguments.log_level, arguments.log_format, several=several)
    if arguments.log_runs:
        app.log_each_run()
    if arguments.uvloop:
        if importlib.util.find_spec("uvloop") is None:
            raise ConfigurationError("--uvloop needs a package that is not installed: pip install 'pyncette-core[uvloop]'")
        os.environ["USE_UVLOOP"] = "1"
    if arguments.processes > 1:
        return _run_several(app, arguments)
    if arguments.lifeline is not None:
        _end_with_supervisor(arguments.lifeline)
        program.run(app.create, app.shutdown_timeout)
    else:
        app.main()
    return 0


def _run_several(app: Pyncette, arguments: argparse.Namespace) -> int:
    if os.name == "nt":
        raise ConfigurationError("--processes needs signals that Windows does not have; start the command several times instead")
    asyncio.run(_open_once(app))
    # Not with -m alone, which would look for the package in the current directory first.
    command = [sys.executable, "-P", "-m", "pyncette", "run", arguments.app]
    for option in ("url", "log_level", "log_format"):
        value = getattr(arguments, option)
        if value is not None:
            command.append(f"--{option.replace('_', '-')}={value}")
    if arguments.log_runs:
        command.append("--log-runs")
    return asyncio.run(supervise(command, arguments.processes, app.shutdown_timeout))


async def _open_once(app: Pyncette) -> None:
    """Report a configuration error or an unreachable store once, at startup, instead of repeatedly from each process."""
    async with app.create(fixtures=False) as app_context:
        if not app_context.repository.shared:
            raise ConfigurationError(
                "Each process would run all tasks, since the app keeps them in memory; "
                "name a store that processes can share with --url, or leave --processes out"
            )


def _end_with_supervisor(lifeline: int) -> None:
    """Drain when the supervisor is gone, however it ended: it holds the other end of the pipe ``lifeline``, which then closes."""
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        os.read(lifeline, 1)  # blocks until the pipe closes; nothing is ever written to it
        request_end()

    threading.Thread(target=watch, name="pyncette-lifeline", daemon=True).start()
