"""``pyncette run --processes 4`` on a real server: one of the processes is killed, then all are told to end."""

import asyncio
import os
import re
import signal
import subprocess
import sys

from conftest import wait_until

from pyncette.backends import from_url

PROGRAM = """
import asyncio, os
from datetime import timedelta
from pyncette import Pyncette

app = Pyncette({url!r}, poll_interval=timedelta(milliseconds=200))

for number in range(20):
    @app.task(interval=timedelta(seconds=0.5), lease_duration=timedelta(seconds=2), name=f"task {{number}}")
    async def tick(context):
        await asyncio.sleep(0.1)
        print("ran", os.getpid(), "number", os.environ["PYNCETTE_PROCESS"], flush=True)
"""


def test_four_processes_survive_the_death_of_one_and_drain(server_url, namespace, tmp_path):  # I7, I12
    url = f"{server_url}?namespace={namespace}"
    (tmp_path / "program.py").write_text(PROGRAM.format(url=url))
    output = tmp_path / "output"

    def found(pattern):
        return re.findall(pattern, output.read_text())

    command = [sys.executable, "-m", "pyncette", "run", "program.py:app", "--processes", "4"]
    with output.open("w") as file, subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file) as supervisor:
        try:
            wait_until(lambda: len(found("Running 20 tasks")) == 4 and found("ran "))
            victim = int(found(r"ran (\d+) ")[0])
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(found("Running 20 tasks")) == 5)
            # What the victim had in hand is run by somebody else when its lease is over.
            count = len(found("ran "))
            wait_until(lambda: len(found("ran ")) > count + 200)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(20) == 0, output.read_text()
        finally:
            supervisor.kill()
    numbers = dict(found(r"ran (\d+) number (\d)"))
    assert set(numbers.values()) <= {"0", "1", "2", "3"}
    assert found(rf"Process {victim} \(number \d\) was killed by SIGKILL; trying again in 0.5 s")
    assert len(found(r"Process \d+ \(number \d\) ended\n")) == 4

    async def rows():
        async with from_url(url)() as repository:
            return (await repository.list("static", limit=100)).rows

    stored = asyncio.run(rows())
    assert len(stored) == 20
    assert [row.key.name for row in stored if row.locked_until is not None] == []
