"""Real processes, for tests: started, watched, told to end."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

#: On an idle machine all takes a fraction of it.
PATIENCE = 90.0


class Program:
    """A process in ``directory``, in a process group of its own. What is left of it is killed at the end of the block."""

    def __init__(self, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._directory = directory
        self._environment = os.environ if environment is None else environment
        self._stdout, self._stderr = directory / "stdout.txt", directory / "stderr.txt"

    def __enter__(self) -> Self:
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_for(self, *patterns: str, patience: float = PATIENCE) -> None:
        """Wait until each of the patterns is found in standard output."""
        deadline = time.monotonic() + patience
        while missing := [pattern for pattern in patterns if re.search(pattern, self.stdout) is None]:
            ended = self._process.poll()
            assert ended is None, f"ended with {ended} before it printed {missing}:\n{self.stdout}\n{self.stderr}"
            assert time.monotonic() < deadline, f"did not print {missing} within {patience} s:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals, *, group: bool = True) -> None:
        """Send a signal to the whole group, as a terminal does at Ctrl-C, or to the process alone."""
        try:
            (os.killpg if group else os.kill)(self._process.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(patience)


def two_free_ports() -> int:
    """The first of two ports that are free, below those that the system hands out to others meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for each in (port, port + 1):
                stack.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", each))
            return port
