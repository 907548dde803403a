"""The one entry to all checks: ``nox`` runs what every change has to pass, ``nox -s full`` each interpreter and both ends
of the dependency ranges, ``nox -l`` lists the sessions.
"""

import atexit
import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"


@dataclass(frozen=True)
class Distribution:
    """What the sessions need to know of a folder with a pyproject.toml."""

    #: The servers of tools/servers.py that the conformance suite tests; empty: the stores that need none; None: it has no stores.
    servers: Sequence[str] | None = None
    #: The option of a URL that gives each run of the suite a place of its own on the server.
    place: str = ""
    #: Each row takes long: the suite does with fewer, and faults are played without a load that the store could not carry.
    slow: bool = False
    #: Further servers that its own tests need.
    tested_on: Sequence[str] = ()
    #: What mypy needs to know the types of its dependencies.
    stubs: Sequence[str] = ()


#: A new backend is one line here.
DISTRIBUTIONS: Mapping[str, Distribution] = {
    "pyncette-core": Distribution(servers=[], stubs=["django-stubs", "types-croniter", "types-python-dateutil"]),
    "pyncette-redis": Distribution(servers=["redis", "redis-cluster"], place="namespace"),
    "pyncette-postgres": Distribution(servers=["postgres", "pgbouncer"], place="table_name", stubs=["asyncpg-stubs"]),
    "pyncette-mysql": Distribution(servers=["mysql", "mariadb"], place="table_name", stubs=["types-PyMySQL"]),
    # A request for each row, through botocore.
    "pyncette-dynamodb": Distribution(servers=["dynamodb"], place="partition_prefix", slow=True, stubs=["types-aioboto3"]),
    "pyncette-prometheus": Distribution(),
    "pyncette-dashboard": Distribution(tested_on=["redis", "postgres"]),
    "conformance-tests": Distribution(),
}

# Where it is set, each of hundreds of processes would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parent
TESTED = [name for name in DISTRIBUTIONS if any((ROOT / name / "tests").glob("test_*.py"))]
WITH_STORES = [name for name, distribution in DISTRIBUTIONS.items() if distribution.servers is not None]

#: Each version is said once, in pyproject.toml.
GROUPS = {"dependency-groups": tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]}
LINTERS, MYPY, CHECKERS, BUILDERS, PACKAGERS, SITE, QUICK_REQUIREMENTS, TEST_REQUIREMENTS = (
    nox.project.dependency_groups(GROUPS, group)
    for group in ("lint", "mypy", "checkers", "build", "packages", "site", "quick", "test")
)

#: More than there are cores, on a machine of two: many tests wait, for processes, for servers, for time.
WORKERS = "3"

#: Tests of core's folder that are about the repository as a whole, and have sessions of their own.
CORE_TESTS = Path("pyncette-core", "tests")
EXAMPLES = sorted(map(str, (ROOT / "examples").glob("*.py")))
#: What type checkers are to accept of the public names, and, where it says so, to refuse.
TYPING_API = str(CORE_TESTS / "typing_api.py")
EXAMPLE_TESTS = [str(CORE_TESTS / f"test_{what}.py") for what in ("examples", "benchmark", "docs", "tutorial", "deploying")]
WHEEL_TESTS = [str(CORE_TESTS / "test_packaging.py")]

#: Sessions that run beside the others, in this order, since they wait for their servers or for processes: see `_begin_beside`.
SERVED = [name for name, distribution in DISTRIBUTIONS.items() if distribution.servers]
SECOND_LANE = [
    *(f"tests({name})" for name in SERVED if name in TESTED),
    *(f"conformance({name})" for name in SERVED),
    "faults",
    "examples",
    "wheels",
]
nox.options.sessions = [
    "lint",
    "types",
    *(f"tests({name})" for name in TESTED if name not in SERVED),
    *(f"conformance({name})" for name in WITH_STORES if name not in SERVED),
    "third_party",
    "docs",
    *SECOND_LANE,
]

#: Two thirds of the time of core's tests: they play simulations, try every order, and start programs or kill them.
LONG_TESTS = [
    str(CORE_TESTS / f"test_{what}.py")
    for what in (
        *(
            "simulation",
            "processes",
            "main",
            "shutdown",
            "bodies",
            "layout",
            "registering",
            "rowwise",
            "schedule_property",
            "memo",
            "listeners",
        ),
        *("cli", "cli_run", "cli_stored", "cli_docs", "cli_terminal", "cli_output", "django", "why"),
    )
]

OLDEST_MINOR, NEWEST_MINOR = 11, 15
#: Backends that are not ours, by their packages: the folder, and the server of tools/servers.py that it is tested on.
THIRD_PARTY = {"acme_pyncette_lmdb": ("third_party_backend", ""), "acme_pyncette_etcd": ("etcd_backend", "etcd")}
REPORTS = ROOT / ".nox" / "reports"
#: Where what runs beside other sessions leaves its reports until its own session takes them.
BESIDE = REPORTS / "beside"
#: Whether all sessions of a change are run, so that one may begin what a later one needs.
ALL = len(sys.argv) == 1


# --- the summary --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What happened to one session. One that runs no tests counts as one test itself."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0


RESULTS: dict[str, Result] = {}


def session(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """``nox.session`` for sessions that are counted in the summary."""

    def declare(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def counted(session: nox.Session, *args: Any, **kwargs: Any) -> None:
            shutil.rmtree(_reports(session), ignore_errors=True)
            with _counting(session):
                function(session, *args, **kwargs)

        return nox.session(**options)(counted)

    return declare


@contextlib.contextmanager
def _counting(session: nox.Session) -> Iterator[None]:
    begun = time.monotonic()
    ended_well = False
    try:
        yield
        ended_well = True
    finally:
        result = _read_reports(session)
        if not ended_well and not result.failed:
            result.failed = 1
        elif not result.passed + result.failed + result.skipped:
            result.passed = 1
        result.seconds = time.monotonic() - begun
        RESULTS[session.name] = result


def _reports(session: nox.Session) -> Path:
    return REPORTS / re.sub(r"[^\w.]+", "-", session.name).strip("-")


def _read_reports(session: nox.Session) -> Result:
    result = Result()
    for report in _reports(session).glob("*.xml"):
        for suite in ET.parse(report).getroot().iter("testsuite"):
            total, failed, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
            result.passed += total - failed - errors - skipped
            result.failed += failed + errors
            result.skipped += skipped
    return result


def _counts(results: Sequence[Result]) -> str:
    passed, failed, skipped = (sum(getattr(result, name) for result in results) for name in ("passed", "failed", "skipped"))
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


@atexit.register  # nox has no hook after the last session, and this is to be the last that one reads
def _summarise() -> None:
    if not RESULTS:
        return
    sys.stderr.flush()
    width = max(map(len, RESULTS))
    print()
    for name, result in RESULTS.items():
        print(f"{name:{width}}  {result.seconds:6.1f} s  {_counts([result])}")
    if any(name.startswith("full") for name in RESULTS) and MISSING_INTERPRETERS:
        print(f"Not tested, since there is no such interpreter here: {', '.join(MISSING_INTERPRETERS)}")
    print(_counts(list(RESULTS.values())), flush=True)


# --- what sessions do ---------------------------------------------------------------------------------------------------


def _parallel(workers: str) -> Sequence[str]:
    """Some tests take a thousand times as long as others: who has nothing left to do takes from those who have."""
    return "-n", workers, "--dist=worksteal"


def _pytest(session: nox.Session, *args: str, report: str = "report", **options: Any) -> None:
    python = "python" if session.virtualenv.is_sandboxed else _shared_python(session)
    options.setdefault("external", not session.virtualenv.is_sandboxed)
    session.run(python, "-m", "pytest", *_pytest_options(_reports(session) / f"{report}.xml"), *args, **options)


def _pytest_options(report: Path) -> Sequence[str]:
    # A test that hangs says where.
    return "--timeout=300", f"--junitxml={report}"


def _install(session: nox.Session, *wanted: str) -> None:
    """``session.install``, by uv where that works."""
    if not _installed_by_uv(_python(session), wanted):
        session.install(*wanted)


def _installed_by_uv(python: str, wanted: Sequence[str]) -> bool:
    """Whether uv did it, in a tenth of pip's time. It may not be there, and it doesn't know what pip's configuration says of an index."""
    # Otherwise it takes what it once built of a folder for as long as the pyproject.toml is the same.
    anew = [f"--reinstall-package={'' if name.startswith('pyncette-') else 'pyncette-'}{name}" for name in DISTRIBUTIONS]
    # Without the sources that pyproject.toml names, which make what is installed editable.
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-sources", "--python", python, *anew, *wanted]
    return not subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode


def _python(session: nox.Session) -> str:
    return shutil.which("python", path=session.bin) or "python"


#: For what is slow and keeps less than a core busy: one after another, while sessions are at work.
_BACKGROUND = ThreadPoolExecutor(1)


def _shared_python(session: nox.Session) -> str:
    """The interpreter of an environment for all sessions that need everything and change nothing: to make one takes longer than some of them."""
    python, error = _shared().result()
    if error:
        session.error(error)
    return python


@functools.cache
def _shared() -> Future[tuple[str, str]]:
    """The interpreter and what went wrong, once the environment is made; from here on that continues in the background."""

    def make() -> tuple[str, str]:
        home = ROOT / ".nox" / "shared"
        python = str(home / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        wanted = [*TEST_REQUIREMENTS, *PACKAGERS, *MYPY, *(argument for name in DISTRIBUTIONS for argument in ("-e", f"./{name}"))]
        if not home.exists():
            subprocess.run([sys.executable, "-m", "venv", str(home)], stdin=subprocess.DEVNULL, check=True)
        if _installed_by_uv(python, wanted):
            return python, ""
        command = [python, "-m", "pip", "install", "--quiet", *wanted]
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return python, f"{command} failed: {ended.stdout}{ended.stderr}" if ended.returncode else ""

    return _BACKGROUND.submit(make)


@dataclass(frozen=True)
class Run:
    """One run of pytest."""

    report: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Unprepared(Exception):
    """What a session needs is not there."""


#: A second lane: the tests of stores wait for their servers, and those of the core compute. So each makes room for the other.
_LANE = ThreadPoolExecutor(1)
_BESIDE: dict[str, Future[Sequence[subprocess.CompletedProcess[str]]]] = {}


def _run(session: nox.Session, runs: Sequence[Run]) -> None:
    """Do the ``runs`` of a session, or report how they went in the second lane, if they were begun there."""
    name = session.name
    if name not in _BESIDE:
        for run in runs:
            _pytest(session, *run.arguments, *session.posargs, report=run.report, env=run.environment)
        return
    _shared_python(session)  # or say why there is none
    ended = _BESIDE[name].result()
    shutil.copytree(BESIDE / name, _reports(session), dirs_exist_ok=True)
    for each in ended:
        print(each.stdout, each.stderr, sep="", flush=True)
    if len(ended) < len(runs) or any(each.returncode for each in ended):
        session.error("Some tests failed")


def _begin_beside() -> None:
    """Begin whatever runs in the second lane."""
    kinds = {"tests": _runs_of_tests, "conformance": _runs_of_suite}
    others = {"faults": _runs_of_faults, "examples": _runs_of_examples, "wheels": _runs_of_wheels}
    for name in SECOND_LANE:
        kind, _, distribution = name.rstrip(")").partition("(")
        runs = functools.partial(kinds[kind], distribution) if kind in kinds else others[kind]
        _BESIDE[name] = _LANE.submit(_run_beside, name, runs)


def _run_beside(name: str, runs: Callable[[], Sequence[Run]]) -> Sequence[subprocess.CompletedProcess[str]]:
    ended: list[subprocess.CompletedProcess[str]] = []
    python, error = _shared().result()
    shutil.rmtree(BESIDE / name, ignore_errors=True)
    (BESIDE / name).mkdir(parents=True)
    for run in [] if error or _INTERRUPTED else runs():
        command = [python, "-m", "pytest", *_pytest_options(BESIDE / name / f"{run.report}.xml"), *run.arguments]
        ended.append(
            subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **run.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        )
        if ended[-1].returncode not in (0, 1):  # Ctrl-C, for example, which pytest was told as well
            _INTERRUPTED.append(name)
            break
    return ended


_INTERRUPTED: list[str] = []


def _runs_of_tests(distribution: str) -> Sequence[Run]:
    """The tests of one distribution; none without its servers."""
    servers = _servers_of(distribution)
    apart = [f"--ignore={path}" for path in (*EXAMPLE_TESTS, *WHEEL_TESTS)] if distribution == "pyncette-core" else []
    if not all(servers.values()):
        return []
    return [Run("report", [*_parallel(WORKERS), f"{distribution}/tests", *apart], _merged(servers.values()))]


def _runs_of_suite(distribution: str, *, every: bool = False) -> Sequence[Run]:
    """The conformance suite on all stores of one distribution; none without its servers.

    :param every: play as many random histories as the suite does by default. It plays the same ones each time where ``CI`` is set.
    """
    servers = _servers_of(distribution)
    if not all(servers.values()):
        return []
    stores = [_url(distribution, server) for server in servers.values()]
    fewer: Sequence[str] = []
    if DISTRIBUTIONS[distribution].slow:
        fewer = ["--pyncette-examples=5", "--pyncette-batch=100"]
    elif stores and not every:
        fewer = ["--pyncette-examples=20"]
    arguments = [*_parallel(WORKERS), "--pyargs", "pyncette_conformance.suite", *stores, *fewer]
    return [Run(f"suite-{distribution}", arguments, _merged(servers.values()))]


def _runs_of_faults(*, every: bool = False) -> Sequence[Run]:
    """Real faults on real processes, on all servers at the same time, since most of it is waiting.

    :param every: all kinds, and not only those that show most.
    """
    servers = [(name, server) for name in WITH_STORES for server in _servers_of(name).values()]
    if os.environ.get("CI") and not all(server for _, server in servers):
        raise Unprepared("Not all servers are there; see above")
    there = [(name, server) for name, server in servers if server]
    arguments = ["--pyargs", "pyncette_conformance.faults.suite", *(_url(name, server) for name, server in there)]
    arguments += [f"--pyncette-restart={_value(server, 'RESTART')}" for _, server in there]
    slow = "".join(f" and not {name.removeprefix('pyncette-')}" for name in WITH_STORES if DISTRIBUTIONS[name].slow)
    parts = {
        # Twenty processes that start need all of the machine.
        "first_start": "2",
        # The nodes of a cluster tell their own addresses, and nobody would take the way through a proxy.
        "(TestOutages or TestConnections) and not restarted and not cluster": "8",
        # A server that is killed would spoil the other tests on it.
        "restarted": "6",
    }
    if every:
        parts[f"TestWorkers and not first_start{slow}"] = "4"
    environment = _merged(server for _, server in there)
    return [
        Run(f"faults-{number}", [*arguments, *_parallel(workers), "-k", part], environment)
        for number, (part, workers) in enumerate(parts.items())
    ]


def _merged(environments: Iterable[Mapping[str, str]]) -> Mapping[str, str]:
    return {key: value for environment in environments for key, value in environment.items()}


def _value(server: Mapping[str, str], what: str) -> str:
    return next(value for key, value in server.items() if key.endswith(f"_{what}"))


def _url(distribution: str, server: Mapping[str, str]) -> str:
    """The option of the suite for a store of its own on a server."""
    url = _value(server, "URL")
    return f"--pyncette-url={url}{'&' if '?' in url else '?'}{DISTRIBUTIONS[distribution].place}={{unique}}"


def _need_servers(session: nox.Session, distribution: str) -> None:
    """Skip the session if a server of the distribution is not available; in CI that is a failure."""
    missing = [name for name, server in _servers_of(distribution).items() if not server]
    if missing:
        (session.error if os.environ.get("CI") else session.skip)(f"There is no {' and no '.join(missing)}; see above")


def _servers_of(distribution: str) -> Mapping[str, Mapping[str, str]]:
    """The environments of the servers of a distribution; empty for one that is not available."""
    described = DISTRIBUTIONS[distribution]
    return {name: _server(name) for name in (*(described.servers or []), *described.tested_on)}


def _server(name: str) -> Mapping[str, str]:
    """The environment of a server of tools/servers.py; empty if it is not available."""
    return _starting(name).result()


@functools.cache
def _starting(name: str) -> Future[Mapping[str, str]]:
    return _BACKGROUND.submit(_start, name)


def _start(name: str) -> Mapping[str, str]:
    """Start a server, which runs until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "servers.py"), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    environment: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("#"):  # it is up
            _STARTED.append(process)
            return environment
        key, _, value = shlex.split(line)[1].partition("=")
        environment[key] = value
    return {}


_STARTED: list[subprocess.Popen[str]] = []


@atexit.register
def _stop_servers() -> None:
    for process in _STARTED:
        process.communicate()


@session()
def lint(session: nox.Session) -> None:
    """ruff: the linter, and whether everything is formatted; zizmor; whether uv.lock is what pyproject.toml says."""
    if ALL:  # one core has nothing to do while this and the next are at work
        _shared()
        for distribution in DISTRIBUTIONS.values():
            for server in distribution.servers or []:
                _starting(server)
    _install(session, *LINTERS)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("zizmor", "--offline", "--quiet", ".github")
    session.run("uv", "lock", "--check", silent=True)  # which asks for nothing as long as it is up to date


@session()
def types(session: nox.Session) -> None:
    """mypy --strict over the sources; and what the type checkers of users see of the installed wheels: that all of it has types, the examples, typing_api.py."""
    stubs = [stub for distribution in DISTRIBUTIONS.values() for stub in distribution.stubs]
    _install(session, *MYPY, *CHECKERS, *BUILDERS, *stubs, "nox", *TEST_REQUIREMENTS)
    _install(session, "--no-build-isolation", *(f"./{name}" for name in DISTRIBUTIONS))
    # Several source folders contribute to one package, so mypy has to be told of all of them.
    sources = [str(ROOT / name / "src") for name in DISTRIBUTIONS]
    found = {"MYPYPATH": os.pathsep.join([*sources, "examples", "tools"])}
    python = _python(session)
    with ThreadPoolExecutor(1) as beside:  # each keeps one core busy
        others = beside.submit(_check_as_users, session, python)
        session.run("mypy", *sources, *EXAMPLES, TYPING_API, "noxfile.py", "tools", "examples/benchmarks", env=found)
        # The first test that a reader of the documentation writes.
        _, _, begun = (ROOT / "docs" / "testing.md").read_text().partition("```python\n")
        session.run("mypy", "-c", begun.partition("```")[0], env=found)
        others.result()


def _check_as_users(session: nox.Session, python: str) -> None:
    """What is checked of the installed wheels; each package brings its own ``py.typed``, and the seven of ``pyncette`` are one to pyright."""
    session.run("pyright", "--pythonpath", python, *EXAMPLES, TYPING_API)
    for package in ("pyncette", "pyncette_conformance"):
        # Fails below 100 %. Some drivers have no types; those are not ours to count.
        session.run("pyright", "--verifytypes", package, "--ignoreexternal", silent=True)
    # Each has to complain of just those lines that mypy is told to ignore.
    expected = {number for number, line in enumerate(Path(TYPING_API).read_text().splitlines(), 1) if "# type: ignore[" in line}
    for command in (
        [
            "pyrefly",
            "check",
            "--preset=default",
            "--enabled-ignores=pyrefly",
            "--output-format=min-text",
            "--python-interpreter-path",
        ],
        ["ty", "check", "--output-format=concise", "--python"],  # which ignores only what has no code, or one of its own
    ):
        told = session.run(*command, python, TYPING_API, silent=True, success_codes=(0, 1)) or ""
        wrong = expected ^ {int(line) for line in re.findall(r"typing_api\.py:(\d+):", told)}
        if wrong:
            session.error(f"{command[0]}: lines {sorted(wrong)} of {TYPING_API} should fail but pass, or the reverse\n{told}")


@session(venv_backend="none")
@nox.parametrize("distribution", TESTED, ids=TESTED)
def tests(session: nox.Session, distribution: str) -> None:
    """The tests of one distribution: nox -s "tests(pyncette-core)" -- -k heartbeat."""
    if ALL and not _BESIDE:
        _begin_beside()
    _need_servers(session, distribution)
    _run(session, _runs_of_tests(distribution))


@session(venv_backend="none")
@nox.parametrize("distribution", WITH_STORES, ids=WITH_STORES)
def conformance(session: nox.Session, distribution: str) -> None:
    """The conformance suite on all stores of one distribution."""
    _need_servers(session, distribution)
    _run(session, _runs_of_suite(distribution))


@session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Workers that are killed, and servers that are slow, out of reach and killed: those faults that show most. `full` plays all."""
    try:
        _run(session, _runs_of_faults())
    except Unprepared as error:
        session.error(str(error))


@session()
def third_party(session: nox.Session) -> None:
    """Backends that are not ours, built, installed and put through the suite as their authors would: from wheels, away from this tree."""
    for _, server in THIRD_PARTY.values():
        if server:
            _starting(server)
    _install(session, *BUILDERS, *MYPY, "pytest-xdist>=3.6", "pytest-timeout>=2.3")
    away = Path(session.create_tmp()).resolve()
    for name in ("dist", "tests"):
        shutil.rmtree(away / name, ignore_errors=True)
    folders = {package: ROOT / "examples" / folder for package, (folder, _) in THIRD_PARTY.items()}
    for folder in (ROOT / "pyncette-core", ROOT / "conformance-tests", *folders.values()):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(away / "dist"), str(folder), silent=True)
    wheels = list(map(str, (away / "dist").glob("*.whl")))
    _install(session, "--force-reinstall", "--no-deps", *wheels)
    _install(session, *wheels)  # what they depend on
    for package, folder in folders.items():
        shutil.copytree(folder / "tests", away / "tests" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with session.chdir(away):
        for package, (_, server) in THIRD_PARTY.items():
            session.run("mypy", "--strict", "--config-file=", "-p", package)
            environment = _server(server) if server else {}
            if server and not environment:
                (session.error if os.environ.get("CI") else session.skip)(f"There is no {server}; see above")
            quick = ["--pyncette-quick"] if server else []
            tests = [*_parallel(WORKERS), *quick, f"tests/{package}"]
            _pytest(session, *tests, *session.posargs, report=package, env={**environment})


@session(venv_backend="none")
def wheels(session: nox.Session) -> None:
    """Build every distribution, check the wheels and sdists, and install them in mixes of distributions, and of wheel and editable."""
    _run(session, _runs_of_wheels())


def _runs_of_wheels() -> Sequence[Run]:
    return [Run("report", WHEEL_TESTS, {"PYNCETTE_DISTRIBUTIONS": " ".join(DISTRIBUTIONS)})]


@session()
def docs(session: nox.Session) -> None:
    """The site, in .nox/site, built without a warning of Sphinx, and looked at in a browser."""
    _install(session, *SITE, *(f"./{name}" for name in DISTRIBUTIONS if name != "conformance-tests"))
    site = str(ROOT / ".nox" / "site")
    session.run("python", "tools/site/build.py", site)
    options = [*_pytest_options(_reports(session) / "report.xml"), "tools/site", *session.posargs]
    session.run(_shared_python(session), "-m", "pytest", *options, env={"PYNCETTE_SITE": site}, external=True)


@session(venv_backend="none")
def examples(session: nox.Session) -> None:
    """Each example as a real process, each snippet of the documentation, the README's quick start, and the tutorial, which ends on Redis."""
    if not _server("redis") and os.environ.get("CI"):
        session.error("There is no redis; see above")
    _run(session, _runs_of_examples())


def _runs_of_examples() -> Sequence[Run]:
    # They mostly wait, so more of them than cores.
    return [Run("report", [*_parallel("4"), *EXAMPLE_TESTS], {**_server("redis")})]


@session()
def quick(session: nox.Session) -> None:
    """While you work, in a minute or so: lint, types of core, most of core's tests, and the suite in memory and on SQLite."""
    core = ROOT / "pyncette-core"
    editables = [argument for name in ("pyncette-core", "pyncette-redis", "conformance-tests") for argument in ("-e", f"./{name}")]
    _install(session, *LINTERS, *MYPY, *DISTRIBUTIONS[core.name].stubs, "django", *editables, *QUICK_REQUIREMENTS)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", str(core / "src"))
    apart = [f"--ignore={path}" for path in (*EXAMPLE_TESTS, *WHEEL_TESTS, *LONG_TESTS)]
    _pytest(session, *_parallel(WORKERS), str(core / "tests"), *apart, *session.posargs)
    if not session.posargs:
        _pytest(session, *_parallel(WORKERS), "--pyargs", "pyncette_conformance.suite", report="suite")


# --- every interpreter, both ends of the dependency ranges -----------------------------------------------------------------


def _interpreters() -> Mapping[str, str]:
    """The interpreters of this machine by version: those on the PATH, those of pyenv, and the one that runs nox."""
    found: dict[str, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1):
        version = f"3.{minor}"
        # pyenv's own folders before the PATH, where it has shims of which some refuse to run.
        candidates = [sys.executable, *map(str, pyenv.glob(f"{version}*/bin/python{version}")), shutil.which(f"python{version}")]
        for candidate in candidates:
            if candidate is not None and _version(candidate) == version:
                found[version] = candidate
                break
    return found


@functools.cache
def _version(executable: str) -> str | None:
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    ended = subprocess.run([executable, "-c", script], capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else None


def _lower_bounds() -> Sequence[str]:
    """Each dependency of the distributions at the lowest version that it allows."""
    requirements = [
        requirement
        for name in DISTRIBUTIONS
        for requirement in tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    bounds = (re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound is not None and not bound[1].startswith("pyncette")]


INTERPRETERS = _interpreters()
MISSING_INTERPRETERS = [
    version for version in (f"3.{minor}" for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)) if version not in INTERPRETERS
]


@session()
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what the distributions depend on, at both ends of the ranges. Not part of the checks for every change, because its result changes without one."""
    session.install("pip-audit>=2.10")
    bounds = _lower_bounds()
    for end, requirements in {"lowest": bounds, "newest": [bound.replace("==", ">=") for bound in bounds]}.items():
        listed = Path(session.create_tmp(), f"{end}.txt")
        listed.write_text("\n".join(requirements))
        arguments = ["--strict", "--progress-spinner=off", "--requirement", str(listed)]
        told = session.run("pip-audit", *arguments, silent=True, success_codes=(0, 1)) or ""
        if "could not be audited" in told or "ConnectionError" in told:
            (session.error if os.environ.get("CI") else session.skip)(
                "The advisories of PyPI can't be reached from here; nothing was checked"
            )
        if "No known vulnerabilities found" not in told:
            session.error(f"At the {end} end of the ranges:\n{told}")


@session(reuse_venv=False)
@nox.parametrize(
    "python,end",
    [nox.param(path, end, id=f"{version}-{end}") for version, path in INTERPRETERS.items() for end in ("lowest", "newest")],
)
def full(session: nox.Session, end: str) -> None:
    """All tests, with each interpreter found and both ends of the dependency ranges."""
    session.install(*(f"./{name}" for name in DISTRIBUTIONS), *TEST_REQUIREMENTS, *(_lower_bounds() if end == "lowest" else []))
    session.run("python", "-m", "pip", "freeze", "--all")
    # Failing tests of one part are no reason not to run the others; arguments may leave nothing of a part.
    options = {"success_codes": (0, 1, 5) if session.posargs else (0, 1)}
    for name in TESTED:
        _need_servers(session, name)
        apart = [f"--ignore={path}" for path in WHEEL_TESTS]
        environment = _merged(_servers_of(name).values())
        _pytest(session, *_parallel(WORKERS), f"{name}/tests", *apart, *session.posargs, report=name, env=environment, **options)
    for run in [*(run for name in WITH_STORES for run in _runs_of_suite(name, every=True)), *_runs_of_faults(every=True)]:
        _pytest(session, *run.arguments, *session.posargs, report=run.report, env=run.environment, **options)
    if _read_reports(session).failed:
        session.error("Some tests failed")
