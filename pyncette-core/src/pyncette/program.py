"""An application as a program: the event loop, signals, the shutdown, the log."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, TypeAlias

from pyncette.app_context import PyncetteContext
from pyncette.ending import MAIN, Ending
from pyncette.errors import ConfigurationError, PyncetteError
from pyncette.signals import Signals

__all__ = ["configure_logging", "main", "run"]

logger: logging.Logger = logging.getLogger(__name__)

Create: TypeAlias = Callable[[], AbstractAsyncContextManager[PyncetteContext]]


def main(create: Create, shutdown_timeout: timedelta | None) -> None:
    """Run the application that ``create`` opens until a signal; see :meth:`pyncette.Pyncette.main`."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise PyncetteError("main() starts an event loop, but one is already running here; use 'await app.run()'")
    configure_logging(stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run(create, shutdown_timeout)
    except PyncetteError as error:
        logger.debug("Could not run", exc_info=True)
        if sys.stderr is not None:
            sys.stderr.write(f"pyncette: {error}\n")
        raise SystemExit(1) from None


def run(create: Create, shutdown_timeout: timedelta | None) -> None:
    """Run the application that ``create`` opens until a signal, or until it shuts down; raises its exceptions.

    Ends the process if anything is left a second after ``shutdown_timeout``. In a thread, it handles no signals and never ends the process.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    loop = _new_loop()
    ending = Ending(loop, shutdown_timeout, with_process=in_main_thread)
    try:
        asyncio.set_event_loop(loop)
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))  # a public equivalent
        running = loop.create_task(_run(create, ending, with_signals=in_main_thread), name=MAIN)
        while not running.done():
            try:
                loop.run_until_complete(running)
            except (SystemExit, KeyboardInterrupt) as error:
                # raised in some task; everything else must still end in order
                ending.exit = error
                ending.begin()
        running.result()
    finally:
        asyncio.set_event_loop(None)
        if not ending.given_up.done():
            loop.close()
    if (failure := ending.failure) is not None:
        raise failure


def configure_logging(level: str | None = None, *, force: bool = False, **options: Any) -> None:
    """Set up the log unless the program has done so, or always with ``force``; the options are those of :func:`logging.basicConfig`.

    :param level: a name in upper or lower case; by default LOG_LEVEL in the environment, or else INFO.
    """
    if logging.getLogger().handlers and not force:
        return
    named = level or os.environ.get("LOG_LEVEL") or "INFO"
    known = logging.getLevelNamesMapping()
    logging.basicConfig(level=known.get(named.strip().upper(), logging.INFO), force=force, **options)
    if named.strip().upper() not in known:
        logger.warning("LOG_LEVEL is %r, which is not a level; using INFO. The levels are %s", named, ", ".join(known))


async def _run(create: Create, ending: Ending, *, with_signals: bool) -> None:
    if not with_signals:
        logger.info("main() runs outside the main thread, and leaves signals to the program")
    with Signals(lambda number: ending.begin(number.name)) if with_signals else contextlib.nullcontext():
        running = ending.running = asyncio.create_task(_run_application(create, ending), name="pyncette")
        await asyncio.wait([running, ending.given_up], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            if not running.cancelled():
                ending.error = running.exception()
            elif not ending.begun:
                ending.error = asyncio.CancelledError("Code in the application cancelled it")
        ending.begin()
        await ending.clear()
        await ending.end()


async def _run_application(create: Create, ending: Ending) -> None:
    async with create() as app_context:
        ending.app_context = app_context
        app_context.on_shutdown = ending.begin
        if app_context.stopping:
            ending.begin()
        try:
            await app_context.run()
        except Exception as error:
            ending.error = error  # in case the shutdown has to be cut short
            raise
        finally:
            ending.begin()


def _new_loop() -> asyncio.AbstractEventLoop:
    if os.environ.get("USE_UVLOOP", "").lower() in ("", "0", "false", "no"):
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError as error:
        raise ConfigurationError("USE_UVLOOP is set, but uvloop is not installed: pip install 'pyncette-core[uvloop]'") from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
