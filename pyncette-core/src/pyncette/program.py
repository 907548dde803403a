"""An application as a program: signals, the event loop, the log."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from pyncette.app_context import PyncetteContext
from pyncette.errors import ConfigurationError, PyncetteError

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(create: Callable[[], AbstractAsyncContextManager[PyncetteContext]]) -> None:
    """Run what ``create`` makes until a signal; see :meth:`pyncette.Pyncette.main`."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise PyncetteError("main() starts an event loop, but one runs here already; use 'await app.run()'")
    # Does nothing where the program has set up its own logging.
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run_until_signal(create))
    except PyncetteError as error:
        logger.debug("Could not run", exc_info=True)
        sys.stderr.write(f"pyncette: {error}\n")
        raise SystemExit(1) from None


async def _run_until_signal(create: Callable[[], AbstractAsyncContextManager[PyncetteContext]]) -> None:
    running = asyncio.current_task()
    assert running is not None
    started: PyncetteContext | None = None

    def on_signal(number: int) -> None:
        logger.info("%s: shutting down; once more ends the process at once", signal.Signals(number).name)
        for each in before:
            _restore_signal(each, signal.SIG_DFL)
        if started is None:
            running.cancel()
        else:
            started.shutdown()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        _catch_signal(each, on_signal)
    try:
        async with create() as started:
            await started.run()
    except asyncio.CancelledError:
        if started is not None:
            raise
    finally:
        for each, handler in before.items():
            _restore_signal(each, handler)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.environ.get("USE_UVLOOP", "").lower() in ("", "0", "false", "no"):
        return None
    try:
        import uvloop
    except ImportError as error:
        raise ConfigurationError("USE_UVLOOP is set, but uvloop is not installed: pip install 'pyncette-core[uvloop]'") from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _catch_signal(number: signal.Signals, handler: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, handler, number)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler, number))


def _restore_signal(number: signal.Signals, handler: Any) -> None:
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().remove_signal_handler(number)
    signal.signal(number, signal.SIG_DFL if handler is None else handler)
