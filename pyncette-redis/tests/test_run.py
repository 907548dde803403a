"""``pyncette run`` on real servers: one of its processes is killed; a master is replaced by its replica while a worker is busy."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import redis
from conftest import wait_until

from pyncette.backends import from_url
from pyncette.repository import Key, Registration, Target

PROGRAM = """
import asyncio, os
from datetime import timedelta
from pyncette import Pyncette

app = Pyncette({url!r}, poll_interval=timedelta(milliseconds=200))

for number in range(20):
    @app.task(interval=timedelta(seconds=0.5), lease_duration=timedelta(seconds=2), name=f"task {{number}}")
    async def tick(context):
        await asyncio.sleep(0.1)
        print("ran", os.getpid(), "number", os.environ.get("PYNCETTE_PROCESS"), flush=True)
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
            # What the victim had in hand is run by somebody else when its lease has expired.
            count = len(found("ran "))
            wait_until(lambda: len(found("ran ")) > count + 200)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(20) == 0, output.read_text()
        finally:
            supervisor.kill()
    numbers = dict(found(r"ran (\d+) number (\d)"))
    assert set(numbers.values()) <= {"0", "1", "2", "3"}
    assert found(rf"Process {victim} \(number \d\) was killed by SIGKILL; restarting it in 0.5 s")
    assert len(found(r"Process \d+ \(number \d\) ended\n")) == 4

    async def rows():
        async with from_url(url)() as repository:
            return (await repository.list("static", limit=100)).rows

    stored = asyncio.run(rows())
    assert len(stored) == 20
    assert [row.key.name for row in stored if row.locked_until is not None] == []


def test_a_worker_goes_on_after_a_failover(servers, raw, tmp_path):
    master = servers.start()
    replica = servers.start("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
    wait_until(lambda: raw(replica.url).info("replication")["master_link_status"] == "up")
    config = f"sentinel monitor tasks 127.0.0.1 {master.port} 2\nsentinel down-after-milliseconds tasks 500\n"
    sentinels = [servers.start("--sentinel", config=config + "sentinel failover-timeout tasks 3000\n") for _ in range(3)]
    for each in sentinels:
        wait_until(lambda each=each: raw(each.url).sentinel_master("tasks")["num-other-sentinels"] == 2)
        wait_until(lambda each=each: raw(each.url).sentinel_master("tasks")["num-slaves"] == 1)
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    url = f"redis+sentinel://{hosts}/0?sentinel_master=tasks&timeout=2"
    (tmp_path / "program.py").write_text(PROGRAM.format(url=url))
    output = tmp_path / "output"

    async def register():
        async with from_url(url)() as repository:
            later = datetime.now(UTC) + timedelta(days=1)
            await repository.register(later, [Registration(Key("kept", "a"), "{}", "s", Target(later, later))])

    async def kept():
        async with from_url(url)() as repository:
            return [row.key.name for row in (await repository.list("kept", limit=9)).rows]

    def runs():
        return output.read_text().count("ran ")

    def role_of(server):
        try:
            return raw(server.url).info("replication")["role"]
        except redis.ConnectionError:  # at the change, the server drops its clients
            return None

    command = [sys.executable, "-m", "pyncette", "run", "program.py:app"]
    with output.open("w") as file, subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file) as worker:
        try:
            wait_until(lambda: runs() > 40)
            asyncio.run(register())
            raw(master.url).wait(1, 5000)
            master.stop()
            wait_until(lambda: role_of(replica) == "master")
            count = runs()
            wait_until(lambda: runs() > count + 200)
            assert worker.poll() is None
            assert asyncio.run(kept()) == ["a"]
            master.start()  # which the sentinels make a replica of the other
            wait_until(lambda: role_of(master) == "slave")
            count = runs()
            wait_until(lambda: runs() > count + 100)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) == 0, output.read_text()
        finally:
            worker.kill()
    assert "Traceback" not in output.read_text()
