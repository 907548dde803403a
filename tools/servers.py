"""Real servers for tests, on loopback: every store of Pyncette within a minute, without root and without touching the system.

    python tools/servers.py redis postgres         start both and show their URLs; Ctrl-C stops them
    python tools/servers.py redis -- COMMAND       run COMMAND with the URL in its environment, then stop
    python tools/servers.py --durable mysql        for measuring: it survives a power failure, as servers do by default
    python tools/servers.py --list                 the names of all

A URL that stands in the environment already (PYNCETTE_TEST_REDIS_URL and so on) is taken as it is, and nothing is started for it. Else
the server comes from Docker (compose.yaml) where that runs, else it is started natively: from the programs of this machine, or from
packages of Debian, unpacked into a cache. What a native server has stored is gone when it stops. SIGUSR1 kills all servers with
SIGKILL and starts them again on the same data; PYNCETTE_TEST_REDIS_RESTART and so on are the commands that do so.
"""

import argparse
import contextlib
import fcntl
import functools
import os
import pwd
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Not in a home directory: PostgreSQL refuses to run as root, and the user that it runs as instead has to reach it.
CACHE = Path(os.environ.get("PYNCETTE_SERVERS_CACHE") or Path(tempfile.gettempdir(), f"pyncette-servers-{os.getuid()}"))
SECONDS_TO_START = 60
_DYNAMODB = ROOT / "tools" / "dynamodb-local"
#: How many bytes have to be free, if the data of servers is to be in memory.
_ENOUGH_MEMORY = 4 * 1024**3
#: Whether servers write to the disk before they answer. For tests, which kill no machines, that takes long and proves nothing.
DURABLE = "--durable" in sys.argv
#: Of user, password and database, wherever there are any.
NAME = "pyncette"
#: DynamoDB's emulators want to be given some.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": NAME, "AWS_SECRET_ACCESS_KEY": NAME, "AWS_EC2_METADATA_DISABLED": "true"}


class CannotStart(Exception):
    """Why a server is not available here, and what to do; one line."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- programs -----------------------------------------------------------------------------------------------------------------


def find(program: str, unpacked: Path) -> Path | None:
    """A program of this machine, or of packages that were unpacked."""
    on_path = shutil.which(program)
    places = (
        place
        for root in (Path("/"), unpacked)
        for pattern in ("usr/bin", "usr/sbin", "usr/lib/postgresql/*/bin")
        for place in root.glob(f"{pattern}/{program}")
    )
    return Path(on_path).resolve() if on_path else next(places, None)


def programs(directory: Path, packages: Sequence[str], *names: str) -> list[str]:
    """The paths of programs; if one is lacking, ``packages`` are unpacked to ``directory`` first."""
    if not all(find(name, directory) for name in names):
        unpack(directory, packages)
    found = [find(name, directory) for name in names]
    if not all(found):
        raise CannotStart(f"{', '.join(names)} are not all in the packages {', '.join(packages)}")
    return [str(path) for path in found]


def unpack(directory: Path, packages: Sequence[str], suite: str | None = None) -> None:
    """Download packages of Debian with what they depend on, and unpack them: none of their scripts runs, nothing is installed.

    :param suite: take them from there with all they need, down to the C library, instead of from this machine's release.
    """
    if shutil.which("apt-get") is None:
        raise CannotStart(f"{', '.join(packages)}: there is neither Docker nor apt-get here")
    say(f"downloading {', '.join(packages)}")
    work = directory.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    for each in ("lists/partial", "cache/archives/partial", "root"):
        (work / each).mkdir(parents=True)
    options: dict[str, Any] = {
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
        "APT::Install-Recommends": "false",
        # As root apt gives up its rights for downloads, and could not write here then.
        "APT::Sandbox::User": pwd.getpwuid(os.getuid()).pw_name,
    }
    if suite is not None:
        options |= _another_suite(work, suite)
    apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    # Some source that has nothing to do with it may be out of reach; what counts is whether the packages are found.
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    run(*apt, "install", "--download-only", *packages)
    for package in (work / "cache" / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", str(package), str(work / "root"))
    shutil.rmtree(directory, ignore_errors=True)
    (work / "root").rename(directory)
    shutil.rmtree(work)


def _another_suite(work: Path, suite: str) -> Mapping[str, Any]:
    """Options of apt for packages from another suite of the same mirror, on a system that has nothing."""
    codename = _output("sh", "-c", '. /etc/os-release && echo "$VERSION_CODENAME"')
    targets = _output("apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
    mirrors = [target.split()[1] for target in targets.splitlines() if target.startswith(f"{codename} ")]
    if not mirrors:
        raise CannotStart("apt has no source for this machine's own release of Debian")
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    (work / "sources.list").write_text(f"deb {signed}{mirrors[0]} {suite} main\n")
    # Only perl is documented to be present, for scripts that nobody runs.
    architecture = _output("dpkg", "--print-architecture")
    lines = ["Package: perl", "Status: install ok installed", "Version: 99", "Maintainer: none", f"Architecture: {architecture}"]
    (work / "status").write_text("\n".join([*lines, "Multi-Arch: allowed", "Description: none", "", ""]))
    return {
        "Dir::State::status": work / "status",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }


def run(*command: str, **options: Any) -> None:
    """Run a command to its end; show its output only if it fails."""
    ended = subprocess.run(
        command,
        **{"stdin": subprocess.DEVNULL, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        say(ended.stdout)
        raise CannotStart(f"{Path(command[0]).name} failed with exit code {ended.returncode}; see above")


def _output(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Only one process at a time changes the cache."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    if CACHE.stat().st_uid != os.getuid():
        raise CannotStart(f"{CACHE} belongs to somebody else; name another directory in PYNCETTE_SERVERS_CACHE")
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- processes ----------------------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """One program of a server."""

    command: Sequence[str]
    #: Whether it answers.
    ready: Callable[[], bool]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    #: Who runs it; None: the same as this.
    user: str | None = None
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        again = self.running is not None
        self._spawn()
        while not self.ready():
            assert self.running is not None
            if self.running.poll() is not None and again:
                # What a killed server leaves behind, its children above all, is in the way for a moment.
                self._spawn()
            elif self.running.poll() is not None or time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                say("".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-20:]))
                raise CannotStart(f"{Path(self.command[0]).name} did not come up; see above")
            time.sleep(0.05)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C is for this program only
                **_as(self.user),
            )

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait for the end."""
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(number)
            try:
                self.running.wait(10)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait()


@dataclass
class Server:
    """A store that can be reached at ``url``."""

    url: str
    processes: Sequence[Process] = ()
    #: Called when all processes are up.
    then: Callable[[], None] = lambda: None
    #: What else belongs into the environment of who uses it.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The signal that ends it without waiting for its clients.
    stop_signal: signal.Signals = signal.SIGTERM

    def start(self) -> None:
        for process in self.processes:
            process.start()
        self.then()

    def stop(self) -> None:
        for process in self.processes:
            process.end(self.stop_signal)

    def restart(self) -> None:
        for process in self.processes:
            process.end(signal.SIGKILL)
        time.sleep(1)
        self.start()


def _as(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int, request: bytes, matches: Callable[[bytes], bool]) -> bool:
    """Whether a server sends a certain answer, or greeting if ``request`` is empty."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request)
            return matches(connection.recv(1024))
    except OSError:
        return False


def libraries(directory: Path) -> dict[str, str]:
    """The environment in which unpacked programs find what they are linked with."""
    paths = [*map(str, (directory / "usr" / "lib").glob("*-linux-gnu")), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}


# --- the servers --------------------------------------------------------------------------------------------------------------


def postgres(data: Path) -> Server:
    home = CACHE / "postgres"
    (initdb,) = programs(home, ["postgresql"], "initdb")
    port, environment, database = free_port(), libraries(home), data / "data"
    tools = Path(initdb).parent
    user = None
    if os.geteuid() == 0:
        user = "postgres" if any(each.pw_name == "postgres" for each in pwd.getpwall()) else "nobody"
        shutil.chown(data, user)
    (data / "password").write_text(NAME)
    options = [
        "-U",
        NAME,
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth=scram-sha-256",
        f"--pwfile={data / 'password'}",
        "--no-sync",
    ]
    run(initdb, "-D", str(database), *options, env=environment, cwd=data, **_as(user))
    create = subprocess.Popen(
        [tools / "postgres", "--single", "-D", database, "postgres"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=data,
        **_as(user),
    )
    create.communicate(f"CREATE DATABASE {NAME}".encode())
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": 200,
        "fsync": "on" if DURABLE else "off",
    }
    server = Process(
        [str(tools / "postgres"), "-D", str(database), "-p", str(port), *(f"--{name}={value}" for name, value in settings.items())],
        lambda: (
            subprocess.run(
                [tools / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], env=environment, check=False
            ).returncode
            == 0
        ),
        data / "log",
        environment,
        user,
    )
    return Server(f"postgresql://{NAME}:{NAME}@127.0.0.1:{port}/{NAME}", [server], stop_signal=signal.SIGINT)


def pgbouncer(data: Path) -> Server:
    """PgBouncer with its defaults, but for more clients, before a PostgreSQL of its own: a database in all pool modes, each by another name."""
    home = CACHE / "pgbouncer"
    (program,) = programs(home, ["pgbouncer"], "pgbouncer")
    (data / "postgres").mkdir()
    behind = postgres(data / "postgres")
    address = urllib.parse.urlsplit(behind.url)
    modes = {NAME: "transaction", f"{NAME}_session": "session", f"{NAME}_statement": "statement"}
    databases = [f"{name} = host=127.0.0.1 port={address.port} dbname={NAME} pool_mode={mode}" for name, mode in modes.items()]
    port, user = free_port(), behind.processes[0].user
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": data / "users",
        "max_client_conn": 1000,  # the fault kit starts twenty workers at once
    }
    lines = ["[databases]", *databases, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items()), ""]
    (data / "pgbouncer.ini").write_text("\n".join(lines))
    (data / "users").write_text(f'"{NAME}" "{NAME}"\n')
    if user is not None:
        shutil.chown(data, user)
    # Asked for TLS, it says no.
    ready = functools.partial(answers, port, b"\0\0\0\x08\x04\xd2\x16/", lambda answer: answer == b"N")
    pooler = Process([program, str(data / "pgbouncer.ini")], ready, data / "log", libraries(home), user)
    url = f"postgresql://{NAME}:{NAME}@127.0.0.1:{port}/{NAME}"
    return Server(url, [*behind.processes, pooler], stop_signal=signal.SIGINT)


def _redis_node(data: Path, port: int, *options: str) -> Process:
    home = CACHE / "redis"
    program, _ = programs(home, ["redis-server"], "redis-server", "redis-cli")
    data.mkdir(exist_ok=True)
    command = [
        program,
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(data),
        "--appendonly",
        "yes",
        "--appendfsync",
        "no",
    ]
    pong = functools.partial(answers, port, b"PING\r\n", lambda answer: answer.startswith(b"+PONG"))
    return Process([*command, "--save", "", *options], pong, data / "log", libraries(home))


def redis(data: Path) -> Server:
    port = free_port()
    return Server(f"redis://127.0.0.1:{port}/0", [_redis_node(data, port)])


def redis_cluster(data: Path) -> Server:
    ports = [free_port() for _ in range(3)]
    nodes = [
        _redis_node(
            data / str(port), port, "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000"
        )
        for port in ports
    ]
    (client,) = programs(CACHE / "redis", ["redis-server"], "redis-cli")
    formed = "cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"

    def form() -> None:
        ask = functools.partial(subprocess.run, capture_output=True, text=True, env=libraries(CACHE / "redis"), check=False)
        if "cluster_slots_assigned:0" in ask([client, "-p", str(ports[0]), "cluster", "info"]).stdout:
            addresses = [f"127.0.0.1:{port}" for port in ports]
            run(
                client,
                "--cluster",
                "create",
                *addresses,
                "--cluster-replicas",
                "0",
                "--cluster-yes",
                env=libraries(CACHE / "redis"),
            )
        deadline = time.monotonic() + SECONDS_TO_START
        for port in ports:
            while not all(each in ask([client, "-p", str(port), "cluster", "info"]).stdout for each in formed):
                if time.monotonic() > deadline:
                    raise CannotStart(f"the nodes at {ports} form no cluster")
                time.sleep(0.1)

    return Server(f"redis+cluster://127.0.0.1:{ports[0]}", nodes, form)


#: Anybody may connect by TCP, with a password.
_MYSQL_INIT = f"""CREATE DATABASE IF NOT EXISTS {NAME};
CREATE USER IF NOT EXISTS '{NAME}'@'%' IDENTIFIED BY '{NAME}';
GRANT ALL ON *.* TO '{NAME}'@'%' WITH GRANT OPTION;
"""


def _mysql_server(
    scheme: str, data: Path, server: Sequence[str], environment: Mapping[str, str], more: Sequence[str] = ()
) -> Server:
    port = free_port()
    (data / "init.sql").write_text(_MYSQL_INIT)
    options = {
        "port": port,
        "bind-address": "127.0.0.1",
        # Relative to the data: the path of a socket may have 107 bytes.
        "socket": "mysql.sock",
        "pid-file": data / "pid",
        "init-file": data / "init.sql",
        "max-connect-errors": 1_000_000,
        "max-connections": 300,
        "innodb-flush-log-at-trx-commit": 1 if DURABLE else 2,
    }
    command = [*server, "--skip-name-resolve", "--skip-log-bin", *(f"--{name}={value}" for name, value in options.items()), *more]
    greeting = functools.partial(answers, port, b"", lambda greeting: greeting[4:5] == b"\x0a")  # of version 10 of the protocol
    return Server(f"{scheme}://{NAME}:{NAME}@127.0.0.1:{port}/{NAME}", [Process(command, greeting, data / "log", environment)])


def mysql(data: Path) -> Server:
    home = CACHE / "mysql"
    server = find("mysqld", Path("/nowhere"))
    if server is not None and "MariaDB" not in _output(str(server), "--version"):
        command = [str(server), "--no-defaults"]
    else:
        # Debian's stable release has MariaDB only.
        if not (home / "usr/sbin/mysqld").exists():
            unpack(home, ["mysql-server-core"], suite="sid")
        loader = next(home.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*"))
        command = [str(loader), "--library-path", str(loader.parent), str(home / "usr/sbin/mysqld"), "--no-defaults"]
        command += [f"--basedir={home}/usr", f"--plugin-dir={home}/usr/lib/mysql/plugin"]
        command += [f"--lc-messages-dir={home}/usr/share/mysql", f"--character-sets-dir={home}/usr/share/mysql/charsets"]
    command += [f"--datadir={data}/data", f"--tmpdir={data}", "--secure-file-priv=NULL"]
    command += ["--user=root"] if os.geteuid() == 0 else []
    run(*command, "--initialize-insecure")
    return _mysql_server("mysql", data, command, os.environ, ["--mysqlx=OFF", f"--innodb-doublewrite={'ON' if DURABLE else 'OFF'}"])


def mariadb(data: Path) -> Server:
    home = CACHE / "mariadb"
    packages = ["mariadb-server-core", "mariadb-client-core"]
    server, install, _ = programs(home, packages, "mariadbd", "mariadb-install-db", "my_print_defaults")
    root = ["--user=root"] if os.geteuid() == 0 else []
    places = [f"--datadir={data}/data", f"--tmpdir={data}", *root]
    options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    run(install, "--no-defaults", f"--basedir={Path(server).parents[1]}", *places, *options, env=libraries(home))
    return _mysql_server("mariadb", data, [server, "--no-defaults", *places], libraries(home))


def dynamodb(data: Path) -> Server:
    """AWS's own DynamoDB Local, from Maven Central; moto where that is not available."""
    port = free_port()
    if jars := _dynamodb_local():
        command = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", str(_DYNAMODB / "Loopback.java")]
        command += ["-sharedDb", "-dbPath", str(data), "-disableTelemetry", "-port", str(port)]
        url = f"dynamodb://local/pyncette?endpoint=http://127.0.0.1:{port}"
    else:
        python = CACHE / "moto" / "bin" / "python"
        if not python.exists():
            say("downloading moto")
            run(sys.executable, "-m", "venv", str(CACHE / "moto"))
            run(str(python), "-m", "pip", "install", "--quiet", "moto[dynamodb]==5.2.5", "flask~=3.1", "flask-cors~=6.0")
        command = [str(python), str(ROOT / "tools" / "serialised_moto.py"), str(port)]
        # Unlike DynamoDB Local it wants a region that exists. What it has stored does not outlive it.
        url = f"dynamodb://us-east-1/pyncette?endpoint=http://127.0.0.1:{port}"
    ready = functools.partial(answers, port, b"GET / HTTP/1.0\r\n\r\n", lambda answer: answer.startswith(b"HTTP/"))
    return Server(url, [Process(command, ready, data / "log")], environment=CREDENTIALS)


def etcd(data: Path) -> Server:
    """For the example of a backend that keeps tasks there."""
    home = CACHE / "etcd"
    (program,) = programs(home, ["etcd-server"], "etcd")
    port, peers = free_port(), f"http://127.0.0.1:{free_port()}"
    url = f"http://127.0.0.1:{port}"
    addresses = ["--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peers]
    cluster = ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
    ready = functools.partial(answers, port, b"GET /health HTTP/1.0\r\n\r\n", lambda answer: b'"true"' in answer)
    process = Process([program, "--data-dir", str(data / "data"), *addresses, *cluster], ready, data / "log", libraries(home))
    return Server(f"etcd://127.0.0.1:{port}", [process])


def _dynamodb_local() -> Path | None:
    """The folder of its jars; None without Java and Maven, or out of reach of Maven Central."""
    jars = CACHE / "dynamodb"
    if not shutil.which("mvn") or not shutil.which("javac"):
        return None
    if not jars.exists():
        say("downloading DynamoDB Local")
        work = jars.with_suffix(".work")
        shutil.rmtree(work, ignore_errors=True)
        try:
            run("mvn", "-q", "-f", str(_DYNAMODB / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={work}")
        except CannotStart as error:
            say(f"{error}; moto takes its place")
            return None
        work.rename(jars)
    return jars


def prometheus() -> Sequence[str]:
    """The paths of ``prometheus`` and ``promtool``: no server of this list, but what judges and draws what is measured."""
    with _alone():
        return programs(CACHE / "prometheus", ["prometheus"], "prometheus", "promtool")


#: What pages call the plain font of the system.
_PLAIN = ("system-ui", "sans-serif", "Arial")


def chromium() -> tuple[str, str, Mapping[str, str]]:
    """The paths of a browser and its driver, and the environment that they need: no server either, but what looks at the dashboard."""
    home = CACHE / "chromium"
    with _alone():
        browser, driver = programs(home, ["chromium", "chromium-driver", "fonts-liberation"], "chromium", "chromedriver")
    # The program itself, and not the script of Debian around it, which asks for what is installed.
    binary = next(
        (path for path in (home / "usr/lib/chromium/chromium", Path("/usr/lib/chromium/chromium")) if path.exists()), None
    )
    environment = libraries(home)
    further = map(str, home.glob("usr/lib/*-linux-gnu/*/"))  # where some of them have more
    environment["LD_LIBRARY_PATH"] = ":".join([environment["LD_LIBRARY_PATH"], *further])
    fonts = home / "fonts.conf"
    if home.exists() and not fonts.exists():
        folders = "".join(f"<dir>{folder}</dir>" for folder in ("/usr/share/fonts", home / "usr/share/fonts"))
        same = "".join(
            f"<alias><family>{each}</family><prefer><family>Liberation Sans</family></prefer></alias>" for each in _PLAIN
        )
        fonts.write_text(f"<?xml version='1.0'?><fontconfig>{folders}{same}<cachedir>{home}/fontcache</cachedir></fontconfig>")
    if fonts.exists():
        environment["FONTCONFIG_FILE"] = str(fonts)
    return str(binary or browser), driver, environment


NATIVE: Mapping[str, Callable[[Path], Server]] = {
    "redis": redis,
    "redis-cluster": redis_cluster,
    "postgres": postgres,
    "pgbouncer": pgbouncer,
    "mysql": mysql,
    "mariadb": mariadb,
    "dynamodb": dynamodb,
    "etcd": etcd,
}


# --- Docker -------------------------------------------------------------------------------------------------------------------

#: What compose.yaml publishes.
PUBLISHED = {
    "redis": "redis://127.0.0.1:25379/0",
    "redis-cluster": "redis+cluster://127.0.0.1:25381",
    "postgres": f"postgresql://{NAME}:{NAME}@127.0.0.1:25432/{NAME}",
    "mysql": f"mysql://{NAME}:{NAME}@127.0.0.1:25306/{NAME}",
    "mariadb": f"mariadb://{NAME}:{NAME}@127.0.0.1:25307/{NAME}",
    "dynamodb": "dynamodb://local/pyncette?endpoint=http://127.0.0.1:25800",
}


def docker_runs() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "compose", "ls"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    )


class Container(Server):
    """A service of compose.yaml. It continues when this program ends, to be there at once the next time."""

    def __init__(self, name: str) -> None:
        super().__init__(PUBLISHED[name], environment=CREDENTIALS if name == "dynamodb" else {})
        self._name = name

    def _compose(self, *arguments: str) -> None:
        run("docker", "compose", "--file", str(ROOT / "compose.yaml"), *arguments, self._name)

    def start(self) -> None:
        self._compose("up", "--detach", "--wait")

    def restart(self) -> None:
        self._compose("kill")
        self.start()


# --- the command line ---------------------------------------------------------------------------------------------------------


def variable(name: str) -> str:
    return f"PYNCETTE_TEST_{name.upper().replace('-', '_')}_URL"


def given(name: str) -> Server | None:
    """The server whose URL stands in the environment, also if it is only an address without Pyncette's own scheme."""
    url = os.environ.get(variable(name))
    if not url:
        return None
    if name == "redis-cluster":
        url = url.replace("redis://", "redis+cluster://").replace("rediss://", "rediss+cluster://")
    if name == "dynamodb" and url.startswith("http"):
        url = f"dynamodb://local/pyncette?endpoint={urllib.parse.quote(url, safe='')}"
    credentials = {key: os.environ.get(key, value) for key, value in CREDENTIALS.items()} if name == "dynamodb" else {}
    return Server(url, environment=credentials)


@contextlib.contextmanager
def servers(names: Sequence[str]) -> Iterator[Mapping[str, Server]]:
    """Start servers, and stop them eventually."""
    in_docker = docker_runs()
    with contextlib.ExitStack() as stack:
        found: dict[str, Server] = {}
        for name in names:
            server = given(name)
            if server is None:
                if in_docker and name in PUBLISHED:
                    server = Container(name)
                else:
                    with _alone():
                        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"pyncette-{name}-", dir=_data())))
                        directory.chmod(0o755)
                        server = NATIVE[name](directory)
                stack.callback(server.stop)
                server.start()
            found[name] = server
        yield found


def _data() -> Path:
    """Where servers keep what they have stored: in memory where there is enough, unless it is to outlive a power failure."""
    memory = Path("/dev/shm")
    if not DURABLE and memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ENOUGH_MEMORY:
        return memory
    return CACHE


def _at_the_end_of_input(call: Callable[[], None]) -> None:
    sys.stdin.read()
    call()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SERVER", help=f"of {', '.join(NATIVE)}; none: all")
    parser.add_argument("--list", action="store_true", help="print the names of all, and end")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        arguments, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser.add_argument("--durable", action="store_true", help="write to the disk before answering")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NATIVE]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; known are {', '.join(NATIVE)}")
    if options.list:
        print("\n".join(NATIVE))
        return 0

    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    signal.signal(signal.SIGUSR1, lambda *_: events.put("restart"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: events.put("stop"))
    try:
        with servers(options.names or list(NATIVE)) as running:
            environment: dict[str, str] = {}
            for name, server in running.items():
                environment |= {variable(name): server.url, **server.environment}
                restart = variable(name).removesuffix("URL") + "RESTART"
                environment[restart] = os.environ.get(restart, "") if given(name) else f"kill -USR1 {os.getpid()}"
            if command:
                return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
            for name, value in environment.items():
                print(f"export {name}={shlex.quote(value)}")
            print("# ready; Ctrl-C, or the end of standard input, stops them", flush=True)
            threading.Thread(target=_at_the_end_of_input, args=[functools.partial(events.put, "stop")], daemon=True).start()
            while events.get() == "restart":
                for server in running.values():
                    server.restart()
    except CannotStart as error:
        say(f"{error}. Or name a server that you have, for example {variable((options.names or ['redis'])[0])}=URL")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
