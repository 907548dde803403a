"""Keeping several processes of one program alive, and ending them together."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence

__all__ = ["supervise"]

logger = logging.getLogger(__name__)

#: The pause before a dead process is replaced (seconds): doubled at each death in a row, up to the limit.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
#: A process that lived so long (seconds) did not die of how it started.
_STEADY_AFTER = 60.0


async def supervise(command: Sequence[str], count: int) -> int:
    """Keep ``count`` processes of ``command`` running until a signal; the exit code is 0 if all ended well.

    Each finds its number, from 0 on, in PYNCETTE_PROCESS. A process that dies is replaced, by one of the same number. One that ends with 0 meant to, and is not. The first SIGINT or SIGTERM lets all drain,
    the second kills them and ends this process in the way of that signal.
    """
    # Its writing end closes when this process ends, also by SIGKILL, which the others then read.
    lifeline, held = os.pipe()
    try:
        return await _Supervisor([*command, f"--lifeline={lifeline}"], lifeline).run(count)
    finally:
        os.close(held)
        os.close(lifeline)


class _Supervisor:
    def __init__(self, command: Sequence[str], lifeline: int) -> None:
        self._command = command
        self._lifeline = lifeline
        self._processes: set[asyncio.subprocess.Process] = set()
        self._draining = asyncio.Event()
        self._ended_well = True

    async def run(self, count: int) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        await asyncio.gather(*(self._keep_alive(number) for number in range(count)))
        return 0 if self._ended_well else 1

    async def _keep_alive(self, number: int) -> None:
        pause = _FIRST_PAUSE
        while not self._draining.is_set():
            begun = time.monotonic()
            try:
                what, code = await self._run_one(number)
            except OSError as error:
                what, code = f"No process can be started: {error}", None
            if self._draining.is_set():
                # By SIGTERM ends one that has not come as far as draining.
                well = code in (0, -signal.SIGTERM)
                logger.log(logging.INFO if well else logging.ERROR, "%s", what)
                self._ended_well = self._ended_well and well
                return
            if code == 0:
                logger.info("%s by itself, and is not replaced", what)
                return
            if time.monotonic() - begun >= _STEADY_AFTER:
                pause = _FIRST_PAUSE
            logger.error("%s; trying again in %g s", what, pause)
            try:
                async with asyncio.timeout(pause):
                    await self._draining.wait()
            except TimeoutError:
                pause = min(2 * pause, _LAST_PAUSE)

    async def _run_one(self, number: int) -> tuple[str, int]:
        """One process from its start to its end: what became of it, and the exit code."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[self._lifeline],
            env={**os.environ, "PYNCETTE_PROCESS": str(number)},
            process_group=0,  # or Ctrl-C would reach it twice: from the terminal and from here
        )
        self._processes.add(process)
        logger.info("Process %d is started", process.pid)
        if self._draining.is_set():  # since the signal, which did not find it
            _kill(process, signal.SIGTERM)
        code = await process.wait()
        self._processes.discard(process)
        return f"Process {process.pid} {_describe(code)}", code

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._draining.is_set():
            self._draining.set()
            logger.info("%s: shutting down %d processes; once more ends them at once", number.name, len(self._processes))
            for process in self._processes:
                _kill(process, signal.SIGTERM)
            return
        for process in self._processes:
            _kill(process, signal.SIGKILL)
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _kill(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not by its own method, which may take the exit code away from who waits for it.
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
