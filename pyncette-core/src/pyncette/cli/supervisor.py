"""Keeping several processes of one program alive, and ending them together."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from datetime import timedelta

from pyncette.signals import ONE_REQUEST, Signals
from pyncette.waiting import Backoff

__all__ = ["supervise"]

logger: logging.Logger = logging.getLogger(__name__)

#: The pause before a dead process is replaced (seconds): doubled at each death in a row, up to the limit.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
#: A process that lived this long (seconds) has started successfully.
_STEADY_AFTER = 60.0
#: How long after the shutdown timeout (seconds) a process is killed. Its own limit is one second.
_KILL_AFTER = 2.0
#: The report of a process whose application shut itself down.
ENDED = "ended"


async def supervise(command: Sequence[str], count: int, shutdown_timeout: timedelta | None) -> int:
    """Keep ``count`` processes of ``command`` running until a signal; the exit code is 0 if all ended well.

    Each process finds its number, from 0 on, in PYNCETTE_PROCESS, and reports through a pipe why it could not start, or that its
    application shut itself down. In that case it is not replaced; otherwise it is, by one with the same number. The first SIGINT or
    SIGTERM drains all processes; the second kills them, and ends this process by that signal.
    """
    # The writing end closes when this process ends, even by SIGKILL, and the others notice.
    lifeline, held = os.pipe()
    supervisor = _Supervisor([*command, f"--lifeline={lifeline}"], lifeline, shutdown_timeout)
    try:
        with Signals(supervisor.drain, supervisor.kill):
            return await supervisor.run(count)
    finally:
        os.close(held)
        os.close(lifeline)


class _Supervisor:
    def __init__(self, command: Sequence[str], lifeline: int, shutdown_timeout: timedelta | None) -> None:
        self._command = command
        self._lifeline = lifeline
        self._shutdown_timeout = shutdown_timeout
        self._loop = asyncio.get_running_loop()
        self._processes: set[asyncio.subprocess.Process] = set()
        self._draining = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None
        self._ended_well = True

    async def run(self, count: int) -> int:
        await asyncio.gather(*(self._keep_alive(number) for number in range(count)))
        if self._announcing is not None:
            await self._announcing
        return 0 if self._ended_well else 1

    async def _keep_alive(self, number: int) -> None:
        pauses = Backoff(_FIRST_PAUSE, _LAST_PAUSE)
        while True:
            begun = time.monotonic()
            try:
                what, code, report = await self._run_one(number)
            except OSError as error:
                what, code, report = f"Process number {number} can't be started: {error}", None, ""
            if self._draining.is_set():
                # A process that can't drain yet ends by SIGTERM itself.
                well = code in (0, -signal.SIGTERM)
                logger.log(logging.INFO if well else logging.ERROR, "%s", what)
                break
            if code == 0 and report == ENDED:
                logger.info("%s on its own; not replacing it", what)
                return
            if time.monotonic() - begun >= _STEADY_AFTER:
                pauses.reset()
            pause = pauses.next()
            if code == 0:
                logger.warning("%s, although nobody asked it to; restarting it in %g s", what, pause)
            else:
                logger.error("%s; restarting it in %g s", f"{what}: {report}" if report else what, pause)
            well = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._draining.wait()
                break
        self._ended_well = self._ended_well and well

    async def _run_one(self, number: int) -> tuple[str, int, str]:
        """Run one process; returns what happened to it, its exit code, and its report."""
        report, written = os.pipe()
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    f"--report={written}",
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[self._lifeline, written],
                    env={**os.environ, "PYNCETTE_PROCESS": str(number)},
                    process_group=0,  # otherwise Ctrl-C would reach it twice: from the terminal and from here
                )
            finally:
                os.close(written)
            self._processes.add(process)
            logger.info("Process %d (number %d) has started", process.pid, number)
            if self._draining.is_set():  # started after the signal
                _kill(process, signal.SIGTERM)
            code = await process.wait()
            self._processes.discard(process)
            os.set_blocking(report, False)  # its child processes may hold the other end open
            try:
                said = os.read(report, 65536).decode(errors="replace")
            except BlockingIOError:
                said = ""
        finally:
            os.close(report)
        return f"Process {process.pid} (number {number}) {_describe(code)}", code, said

    def drain(self, number: signal.Signals) -> None:
        """Drain all processes; callable from any thread."""
        self._loop.call_soon_threadsafe(self._drain, number)

    def _drain(self, number: signal.Signals) -> None:
        self._draining.set()
        self._announcing = asyncio.create_task(_announce(number, len(self._processes)))
        for process in self._processes:
            _kill(process, signal.SIGTERM)
        if self._shutdown_timeout is not None:
            self._loop.call_later(self._shutdown_timeout.total_seconds() + _KILL_AFTER, self._kill_late)

    def _kill_late(self) -> None:
        for process in self._processes:
            logger.error("Process %d did not stop within the shutdown timeout; killing it", process.pid)
        self.kill()

    def kill(self) -> None:
        """Kill all processes; callable from any thread."""
        for process in list(self._processes):
            _kill(process, signal.SIGKILL)


async def _announce(number: signal.Signals, count: int) -> None:
    await asyncio.sleep(ONE_REQUEST)  # only now is it true
    logger.info("%s: shutting down %d processes; send it again to stop immediately", number.name, count)


def _kill(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not with its own method, which could take the exit code from the thread that waits for it.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}" if code else "ended"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"
