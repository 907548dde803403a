"""``pyncette dashboard``: the dashboard alone, on this machine unless configured otherwise."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Any

from pyncette import ConfigurationError
from pyncette.cli.arguments import add_app, whole_number
from pyncette.cli.loading import load_app
from pyncette.dashboard.application import Dashboard
from pyncette.dashboard.safety import credentials

__all__ = ["add_command"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``dashboard`` to the command line of core."""
    parser = add(
        "dashboard",
        _serve,
        "inspect and control an application in a browser",
        "On this machine only, unless --host says otherwise: then set PYNCETTE_DASHBOARD_USER and PYNCETTE_DASHBOARD_PASSWORD.",
        "shop.py:app",
        "shop.py:app --port 8088 --read-only",
    )
    add_app(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=whole_number, default=8088, metavar="PORT", help="the port (default: 8088)")
    parser.add_argument("--read-only", action="store_true", help="show all, and change nothing")
    parser.add_argument("--show-arguments", action="store_true", help="let viewers look at the arguments of tasks")


def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(
            "The dashboard needs a server that is not installed: pip install 'pyncette-dashboard[server]'"
        ) from error
    if arguments.host not in _LOOPBACK and credentials() is None:
        raise ConfigurationError(
            f"Others could use the dashboard on {arguments.host} without a password; "
            "set PYNCETTE_DASHBOARD_USER and PYNCETTE_DASHBOARD_PASSWORD, or leave --host out"
        )
    app = load_app(arguments.app, arguments.url)
    dashboard = Dashboard(app, read_only=arguments.read_only, show_arguments=arguments.show_arguments, user=_user())
    served: Any = dashboard
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    try:
        listening = socket.create_server((arguments.host, arguments.port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"Can't listen on {host}:{arguments.port}: {reason}; choose another --port") from error
    print(f"The dashboard is at http://{host}:{arguments.port}/ ; press Ctrl-C to stop it", file=sys.stderr, flush=True)  # noqa: T201
    config = uvicorn.Config(served, log_level="warning", server_header=False, proxy_headers=False, timeout_graceful_shutdown=2)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _user() -> str:
    from pyncette.cli.verbs import who

    return who()
