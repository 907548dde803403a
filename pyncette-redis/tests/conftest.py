"""Servers for the tests: those that the environment names, and some that the tests start, stop and break themselves."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import redis


def required(what, how):
    """Skip for want of ``what``; where the tests are to prove something, that is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}; {how}")


@pytest.fixture(scope="session")
def server_url():
    """A Redis for everybody: a test writes under its own ``namespace`` only."""
    return os.environ.get("PYNCETTE_TEST_REDIS_URL") or required("a Redis", "set PYNCETTE_TEST_REDIS_URL=redis://HOST:PORT/0")


@pytest.fixture(scope="session")
def cluster_url():
    url = os.environ.get("PYNCETTE_TEST_REDIS_CLUSTER_URL")
    if not url:
        required("a Redis Cluster", "set PYNCETTE_TEST_REDIS_CLUSTER_URL=redis://HOST:PORT")
    return "redis+cluster://" + url.partition("://")[2]


@pytest.fixture(params=["redis", "redis+cluster"])
def url(request):
    """A test with this runs against a single server and against a cluster."""
    return request.getfixturevalue("server_url" if request.param == "redis" else "cluster_url")


@pytest.fixture(scope="session")
def raw():
    """``raw(url)``: a plain client of the driver that reads and writes behind Pyncette's back."""
    clients = {}

    def connect(url):
        if url not in clients:
            make = redis.RedisCluster if "+cluster" in url else redis.Redis
            clients[url] = make.from_url(
                url.replace("+cluster", ""), decode_responses=True, encoding_errors="surrogateescape", protocol=2
            )
        return clients[url]

    yield connect
    for client in clients.values():
        client.close()


@pytest.fixture
def namespace(request, raw):
    urls = [request.getfixturevalue(name) for name in ("url", "server_url", "cluster_url") if name in request.fixturenames]
    name = f"test-{uuid.uuid4().hex}"
    yield name
    for client in map(raw, urls):
        for key in client.scan_iter(f"{name}*", count=1000):
            client.delete(key)


class Server:
    """A server of one's own, on a free port, whose data outlives a restart."""

    def __init__(self, program, environment, directory, *options):
        self._command, self._environment, self.options = program, environment, options
        self.directory = Path(directory)
        self.port = free_port()
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        self.directory.mkdir(exist_ok=True)
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "yes", *self.options]
        self.process = subprocess.Popen(
            [*self._command, *options],
            cwd=self.directory,
            env=self._environment,
            stdout=open(self.directory / "log", "ab"),
            stdin=subprocess.DEVNULL,
        )
        wait_until(lambda: answers(self.port))

    def stop(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.stop()
        self.start()


class Servers:
    """Starts servers, and stops them at the end."""

    def __init__(self, program, environment, directory):
        self._program, self._environment, self._directory = program, environment, directory
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.started:
            server.stop()

    def start(self, *options, config=None):
        directory = self._directory / str(len(self.started))
        program = [self._program]
        if config is not None:  # a file that the server itself rewrites
            directory.mkdir()
            (directory / "server.conf").write_text(config)
            program += ["server.conf"]
        self.started.append(Server(program, self._environment, directory, *options))
        return self.started[-1]


@pytest.fixture(scope="session")
def server_program(server_url, raw):
    """What starts a server like the one that everybody uses, and the environment for it."""
    info = raw(server_url).info("server")
    program, environment = shutil.which("redis-server") or shutil.which("valkey-server"), dict(os.environ)
    if program is None and os.access(info.get("executable", ""), os.X_OK):
        program = info["executable"]
        # It may have been unpacked instead of installed, and not find its libraries by itself.
        mapped = Path(f"/proc/{info['process_id']}/maps").read_text().split()
        environment["LD_LIBRARY_PATH"] = os.pathsep.join({os.path.dirname(path) for path in mapped if ".so" in path})
    return (program, environment) if program else required("a redis-server that it can start", "install one on this machine")


@pytest.fixture
def servers(server_program, tmp_path):
    with Servers(*server_program, tmp_path) as servers:
        yield servers


def free_port():
    # Below the range from which outgoing connections take theirs.
    for port in range(10_000 + uuid.uuid4().int % 10_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


def answers(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        try:
            probe.connect(("127.0.0.1", port))
            probe.sendall(b"PING\r\n")
            return probe.recv(16) != b""
        except OSError:
            return False


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
