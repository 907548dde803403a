"""Each example does what its docstring says, as a real process."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from programs import Program

EXAMPLES = Path(__file__).parents[2] / "examples"

#: What each prints, as regular expressions.
EXPECTED = {
    "basic": [r"every_second, meant for \d", r"every_five_seconds, meant for \d\d:\d\d:\d[05]: Good day"],
    "persistence": [r"refresh: meant for", r"count: meant for \d\d:\d\d:\d[05]\.000000, \d\.\d{3} s ago, in process \d+"],
    "dynamic_tasks": [
        r"greet: Hello, Ada!",
        r"greet: Bonjour, Émile!",
        r"guest_book: Ada \(next at .* UTC\), Émile \(next at .* CES?T\)",
        r"arrive: guest 1\n(.*\n)*(.*welcome, guest 1\n(.*\n)*){3}.*good bye, guest 1\n",
    ],
    "delay_queue": [
        r"delivered message 1, .* at attempt 1",
        r"delivered message 3, .* at attempt 2",
        r"message 5(.*\n)*.*\(attempt 1\) failed(.*\n)*.*\(attempt 2\) failed(.*\n)*.*\(attempt 3\) is given up",
        r"dead letter: message 5 after attempt 3: UndeliverableError: nobody opened for message 5",
    ],
    "fixtures_and_middlewares": [
        r"database: open\n(.*\n)*.*order: number \d+, of 1 so far\n.*in_transaction: committed\n.*timed: order took",
        r"in_transaction: rolled back\n.*timed: order took .*\n.*failed: ValueError",
        r"of 2 so far",
    ],
    "heartbeat": [
        r"automatic: done after five seconds, at attempt 1\n",
        r"cooperative: step 4 of 5(.*\n)*.*cooperative: done after five seconds, at attempt 1\n",
        r"'forgetful' .*\(attempt 1\) has run for \d+ s, longer than its lease of 2 s",
        r"forgetful: done, with fencing token",
    ],
    "synchronous": [r"A receipt for ada", r"A receipt for grace"],
    "healthcheck": [r"Answering GET /health and GET /ready on 127.0.0.1, port \d+", r"work, meant for", r"nap: good night"],
    "prometheus_metrics": [r"work, meant for", r"greet: hello, Ada", r"'gamble' .* failed: ValueError"],
    "tracing": [
        r"span 'store claim' of trace (\w+): ok, .*\n(.*\n)*span 'tick' of trace \1: ok",
        r"span 'charge' of trace (\w+): ok, .*\n(.*\n)*span 'run order' of trace \1: ok, \d{3,}\.\d ms\n",
        r"span 'run order' of trace \w+: failed",
        r"span 'store settle' of trace \w+: ok",
        r"span 'run order' of trace (\w+): ok(.*\n)*span 'run ship' of trace (?!\1)\w+: ok, .* ms, linked to trace \1\n",
    ],
    "fastapi_app": [r"Uvicorn running on"],
    "fastapi_orders": [r"Uvicorn running on"],
}

SHUTTING_DOWN = "SIGTERM: shutting down"

#: Tested by a test or in a file of its own.
ELSEWHERE = {"benchmark", "checkins", "dead_man_switch", "fastapi_client", "wsgi_app"}


# --- what the docstrings say to try with curl -----------------------------------------------------------------------------


def curl(url: str, method: str = "GET", **body: object) -> tuple[int, str]:
    """The status and the text of an answer."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def try_healthcheck(url: str, program: Program) -> None:
    assert curl(f"{url}/health") == (200, "healthy\n")
    assert curl(f"{url}/ready") == (200, "ready\n")
    program.signal(signal.SIGTERM)
    program.wait_for(r"SIGTERM: shutting down")  # but `nap` continues for a while
    assert curl(f"{url}/health") == (200, "healthy\n")
    assert curl(f"{url}/ready") == (503, "shutting down\n")
    program.signal(signal.SIGTERM)


def try_metrics(url: str, program: Program) -> None:
    deadline = time.monotonic() + 60
    wanted = [
        r'^pyncette_task_runs_total\{task="work"\} [1-9]',
        r'^pyncette_task_run_failures_total\{task="gamble"\} [1-9]',
        r'^pyncette_task_run_failures_total\{task="work"\} 0\.0$',
        r'^pyncette_tasks_stored\{task="greet"\} 3\.0$',
        r'^pyncette_task_run_staleness_seconds_bucket\{le="0\.005",task="greet"\} ',
        r'^pyncette_repository_calls_total\{operation="settle"\} [1-9]',
        r"^pyncette_ticks_total [1-9]",
    ]
    while missing := [pattern for pattern in wanted if not re.search(pattern, curl(f"{url}/metrics")[1], re.MULTILINE)]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.2)


def try_reminders(url: str, program: Program) -> None:
    ada = f"{url}/users/ada/reminder"
    assert curl(ada)[0] == 404
    assert curl(ada, "PUT", schedule="* * * * * */2", timezone="Europe/London", text="drink water")[0] == 200
    program.wait_for("remind: 'ada', 'drink water'")
    status, text = curl(ada)
    assert (status, json.loads(text)["text"]) == (200, "drink water")
    assert curl(ada, "PUT", schedule="* * * * * *", text="drink tea")[0] == 200
    program.wait_for("remind: 'ada', 'drink tea'")
    status, text = curl(ada, "PUT", schedule="* * * * *", timezone="Europe/Lodnon", text="drink")
    assert (status, json.loads(text)["detail"]) == (422, "Unknown time zone 'Europe/Lodnon': did you mean 'Europe/London'?")
    assert curl(ada, "DELETE")[0] == 204
    assert curl(ada, "DELETE")[0] == 404


def try_orders(url: str, program: Program) -> None:
    orders = f"{url}/orders"
    assert curl(orders, "POST", item="tea", quantity=1000) == (409, '{"detail":"There are not 1000 of tea"}')
    assert curl(orders, "POST", item="tea", quantity=2) == (201, "1")
    assert curl(orders, "POST", item="milk", quantity=1) == (201, "2")
    assert curl(f"{orders}/2", "DELETE")[0] == 204
    assert curl(f"{orders}/2", "DELETE")[0] == 404
    assert curl(orders, "POST", item="cake", quantity=3) == (201, "2")
    program.wait_for("remind: order 1, 2 of 'tea'(.*\n)*.*remind: order 2, 3 of 'cake'")
    assert program.stdout.count("remind: order") == 2
    assert "failed" not in program.stdout


TRIED: dict[str, Callable[[str, Program], None]] = {
    "healthcheck": try_healthcheck,
    "prometheus_metrics": try_metrics,
    "fastapi_app": try_reminders,
    "fastapi_orders": try_orders,
}


# --- services that are told what happens to runs --------------------------------------------------------------------------


class Service(ThreadingHTTPServer):
    """Answers 200 to whatever comes, and remembers it: method, path, query and body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Remembering)
        self.requests: list[tuple[str, str, dict[str, str], str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, condition: Callable[[list[tuple[str, str, dict[str, str], str]]], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition(list(self.requests)):
            assert time.monotonic() < deadline, self.requests
            time.sleep(0.1)


class _Remembering(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.requests.append((self.headers["Content-Type"], url.path, dict(parse_qsl(url.query)), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        yield service
        service.shutdown()


def end(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert "raised" not in program.stdout


def test_check_ins_are_opened_and_closed_as_sentry_expects(service: Service, tmp_path: Path) -> None:
    dsn = f"http://public@127.0.0.1:{service.server_port}/42"
    with Program([sys.executable, str(EXAMPLES / "checkins.py")], tmp_path, {**os.environ, "SENTRY_DSN": dsn}) as program:
        service.wait_for(lambda requests: '"error"' in str(requests) and '"ok"' in str(requests))
        end(program)
    seen: dict[str, list[str]] = {}
    for kind, path, _, body in service.requests:
        check_in = json.loads(body)
        assert kind == "application/json"
        assert path in ("/api/42/cron/order/public/", "/api/42/cron/nightly/public/")
        assert check_in["environment"] == "production"
        assert ("monitor_config" in check_in) is ("nightly" in path)
        assert ("duration" in check_in) is (check_in["status"] != "in_progress")
        assert re.fullmatch("[0-9a-f]{32}", check_in["check_in_id"])
        seen.setdefault(check_in["check_in_id"], []).append(check_in["status"])
    assert {tuple(statuses) for statuses in seen.values()} == {("in_progress", "ok"), ("in_progress", "error")}


def test_pings_have_the_form_of_healthchecks_io(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.server_port}/key"
    with Program([sys.executable, str(EXAMPLES / "dead_man_switch.py")], tmp_path, {**os.environ, "PING_URL": url}) as program:
        service.wait_for(
            lambda requests: {path for _, path, _, _ in requests} == {f"/key/backup{end}" for end in ("", "/start", "/fail")}
        )
        end(program)
    pings: dict[str, list[str]] = {}
    for _, path, query, body in service.requests:
        assert query["create"] == "1"
        assert (body == "OSError: the disk is full") is path.endswith("/fail")
        pings.setdefault(query["rid"], []).append(path.removeprefix("/key/backup"))
    assert {tuple(signals) for signals in pings.values()} == {("/start", ""), ("/start", "/fail")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- the examples ---------------------------------------------------------------------------------------------------------


def test_all_are_tested_and_on_the_tour() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tour = (EXAMPLES / "README.md").read_text()
    assert names - ELSEWHERE == EXPECTED.keys()
    assert [name for name in names if f"]({name}.py)" not in tour] == []


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PORT": str(port)}
    # A web server has its own ways to end.
    last_signal, last_words = (
        (signal.SIGINT, "Finished server process") if name.startswith("fastapi") else (signal.SIGTERM, SHUTTING_DOWN)
    )
    with Program([sys.executable, str(EXAMPLES / f"{name}.py")], tmp_path, environment) as program:
        program.wait_for(*EXPECTED[name])
        if name in TRIED:
            TRIED[name](f"http://127.0.0.1:{port}", program)
        program.signal(last_signal)
        # The health check's example is told twice to end, and so does not wait for its last body.
        assert program.wait() == (-signal.SIGTERM if name == "healthcheck" else 0)
        assert last_words in program.stdout
        assert program.stderr == ""
        if name == "fixtures_and_middlewares":
            said = [line for line in program.stdout.splitlines() if " fixtures: " in line]
            assert said[-1].endswith("database: closed")


def test_persistence_goes_on_after_a_restart(tmp_path: Path) -> None:
    counted = []
    for _start in range(2):
        with Program([sys.executable, str(EXAMPLES / "persistence.py")], tmp_path) as program:
            program.wait_for(*EXPECTED["persistence"])
            program.signal(signal.SIGTERM)
            program.wait()
            counted += [int(second) for second in re.findall(r"count: meant for \d\d:\d\d:(\d\d)", program.stdout)]
    # Each run has its turn, however long the restart took.
    assert all((following - previous) % 60 == 5 for previous, following in pairwise(counted))


@pytest.mark.parametrize(("name", "ready"), [("wsgi_app", "Serving on port"), ("fastapi_client", "Uvicorn running on")])
def test_what_a_web_server_schedules_runs_in_a_worker(name: str, ready: str, tmp_path: Path) -> None:
    port = free_port()
    script, web, worker = str(EXAMPLES / f"{name}.py"), tmp_path / "web", tmp_path / "worker"
    for directory in (web, worker):
        directory.mkdir()
    url = f"http://127.0.0.1:{port}"
    run = [sys.executable, "-m", "pyncette", "run", f"{script}:scheduler", "--url", f"sqlite:///{web / name}.db"]
    with (
        Program([sys.executable, script], web, {**os.environ, "PORT": str(port)}) as server,
        Program(run, worker) as program,
    ):
        server.wait_for(ready)
        assert curl(f"{url}/ada?text=tea", "PUT")[0] == 200
        assert "ada" in curl(f"{url}/")[1]
        program.wait_for("remind: 'ada', ")
        assert curl(f"{url}/ada", "DELETE")[0] in (404, 405)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
