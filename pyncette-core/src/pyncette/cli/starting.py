"""``pyncette init``: a small project that runs, tests itself, and can be deployed."""

import argparse
import importlib.metadata
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pyncette.cli.arguments import Add
from pyncette.cli.output import note, say
from pyncette.errors import ConfigurationError

__all__ = ["STORES", "add_init"]


@dataclass(frozen=True, slots=True)
class _Store:
    """What a new project needs for its store."""

    title: str
    #: With $host for the host name of the server.
    url: str
    #: The service in the compose file, indented; empty if the store needs no server.
    service: str = ""
    #: Further environment variables that the program needs.
    environment: Mapping[str, str] | None = None


_HEALTHY = "interval: 1s, timeout: 5s, retries: 60"

STORES: Mapping[str, _Store] = {
    "sqlite": _Store("SQLite", "sqlite:///pyncette.db"),
    "redis": _Store(
        "Redis",
        "redis://$host:6379/0",
        f"""\
    image: redis:7
    command: redis-server --appendonly yes
    ports: ["127.0.0.1:6379:6379"]
    volumes: ["data:/data"]
    healthcheck: {{ test: [CMD, redis-cli, ping], {_HEALTHY} }}
""",
    ),
    "postgres": _Store(
        "PostgreSQL",
        "postgresql://pyncette:pyncette@$host:5432/pyncette",
        f"""\
    image: postgres:17
    environment: {{ POSTGRES_USER: pyncette, POSTGRES_PASSWORD: pyncette, POSTGRES_DB: pyncette }}
    ports: ["127.0.0.1:5432:5432"]
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: {{ test: [CMD, pg_isready, -h, 127.0.0.1, -U, pyncette], {_HEALTHY} }}
""",
    ),
    "mysql": _Store(
        "MySQL",
        "mysql://pyncette:pyncette@$host:3306/pyncette",
        f"""\
    image: mysql:8.4
    environment: {{ MYSQL_USER: pyncette, MYSQL_PASSWORD: pyncette, MYSQL_DATABASE: pyncette, MYSQL_ROOT_PASSWORD: pyncette }}
    ports: ["127.0.0.1:3306:3306"]
    volumes: ["data:/var/lib/mysql"]
    healthcheck: {{ test: [CMD, mysqladmin, ping, -h, 127.0.0.1, -upyncette, -ppyncette], {_HEALTHY} }}
""",
    ),
    "dynamodb": _Store(
        "DynamoDB",
        "dynamodb://local/pyncette?endpoint=http://$host:8000",
        f"""\
    image: amazon/dynamodb-local
    command: -jar DynamoDBLocal.jar -sharedDb -dbPath /home/dynamodblocal/data
    user: root # who owns the volume
    ports: ["127.0.0.1:8000:8000"]
    volumes: ["data:/home/dynamodblocal/data"]
    healthcheck: {{ test: [CMD, bash, -c, "</dev/tcp/127.0.0.1/8000"], {_HEALTHY} }}
""",
        # DynamoDB Local accepts any credentials, but the driver requires some.
        {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"},
    ),
}

_APP = '''\
"""Two tasks. Run them with: pyncette run app.py:app"""

import os
from datetime import timedelta

from pyncette import Context, FailureMode, Pyncette

# Deployments set PYNCETTE_URL; without it this is the store on your own machine.
app = Pyncette(os.environ.get("PYNCETTE_URL", "$url"))


@app.task(interval=timedelta(seconds=10))
async def tick(context: Context) -> None:
    """Runs every ten seconds, in one of the processes that run."""
    print(f"Tick at {context.scheduled_at:%H:%M:%S}", flush=True)


@app.dynamic_task(failure_mode=FailureMode.UNLOCK, max_attempts=5)
async def remind(context: Context) -> None:
    """Runs for each instance that is scheduled; if it fails, it is retried."""
    print(f"{context.name}: {context.args['text']}", flush=True)


if __name__ == "__main__":
    app.main()
'''

_TEST = '''\
"""The application in virtual time and in memory: run with pytest. No store is needed."""

from datetime import UTC, datetime, timedelta

import pytest

from app import app, remind
from pyncette.testing import VirtualClock, running


def test_ticks_and_reminders(capsys: pytest.CaptureFixture[str]) -> None:
    clock = VirtualClock(start=datetime(2026, 1, 5, 9, 0, tzinfo=UTC))
    app.use_repository("memory://")

    async def half_a_minute() -> None:
        async with running(app, clock) as app_context:
            tea_time = clock.now() + timedelta(seconds=15)
            await app_context.schedule_task(remind, "ada", execute_at=tea_time, text="Your tea is ready")
            await clock.advance(timedelta(seconds=25))

    clock.run(half_a_minute())
    assert capsys.readouterr().out.splitlines() == ["Tick at 09:00:10", "ada: Your tea is ready", "Tick at 09:00:20"]
'''

_DOCKERFILE = """\
FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py .
RUN useradd worker && install -d -o worker /data
USER worker
# `docker stop` sends SIGTERM, and running tasks finish.
CMD ["pyncette", "run", "app.py:app"]
"""

_WORKER = """\
  worker:
    build: .
    environment: $environment
    # How long running tasks have to finish when the container stops.
    stop_grace_period: 1m
    restart: unless-stopped
"""

_README = """\
# A project with Pyncette on $title

```sh
python3 -m venv .venv
.venv/bin/python -m pip install -r requirements-dev.txt
.venv/bin/python -m pytest
$start.venv/bin/pyncette run app.py:app
```

`app.py` has the tasks, and `test_app.py` tests them without a store. Ctrl-C stops the program. In a second terminal, `.venv/bin/pyncette list app.py:app`
shows what comes next, and `.venv/bin/pyncette check app.py:app` checks the setup.

`docker compose up --build` runs $containers.
"""


def add_init(add: Add) -> None:
    parser = add(
        "init",
        init,
        "write a small project that runs and tests itself",
        "An app, its test, requirements, a Dockerfile, a compose file and a README. Nothing is overwritten.",
        "shop",
        "shop --store redis",
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(), metavar="DIR", help="the directory (default: the current one)"
    )
    parser.add_argument("--store", choices=STORES, default="sqlite", help="where schedules are kept (default: sqlite)")


def init(arguments: argparse.Namespace) -> int:
    """Write the project, or nothing."""
    directory: Path = arguments.directory
    files = _files(arguments.store)
    taken = [name for name in files if (directory / name).exists()]
    if taken:
        raise ConfigurationError(
            f"{directory.resolve()} already has {', '.join(taken)}, and init overwrites nothing; name another directory: pyncette init DIR"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with (directory / name).open("x", encoding="utf-8", newline="\n") as file:
                file.write(content)
            say(str(directory / name))
    except OSError as error:
        raise ConfigurationError(f"The project can't be written to {directory}: {error.strerror or error}") from None
    note("next: " + " && ".join(_steps(directory, STORES[arguments.store], arguments.store)))
    return 0


def _steps(directory: Path, store: _Store, name: str) -> Sequence[str]:
    enter = [] if directory == Path() else [f"cd {shlex.quote(str(directory))}"]
    start = [f"docker compose up --wait {name}"] if store.service else []
    return [*enter, "pip install -r requirements-dev.txt", "pytest", *start, "pyncette run app.py:app"]


def _files(name: str) -> Mapping[str, str]:
    """The files of a project on a store, by name."""
    store = STORES[name]
    extra = f"[{name}]" if store.service else ""
    release = ".".join(importlib.metadata.version("pyncette-core").split(".")[:2])
    start = [f"docker compose up --wait {name}\n"] if store.service else []
    start += [f"export {variable}={value}\n" for variable, value in (store.environment or {}).items()]
    containers = f"{store.title} and a worker in containers; with `--scale worker=3` three workers share the tasks"
    return {
        "app.py": Template(_APP).substitute(url=_url(store, "localhost")),
        "test_app.py": _TEST,
        "requirements.txt": f"pyncette-core{extra}~={release}\n",
        "requirements-dev.txt": "-r requirements.txt\npytest\n",
        "Dockerfile": _DOCKERFILE,
        ".dockerignore": ".venv\n*.db*\n",
        ".gitignore": ".venv/\n__pycache__/\n*.db*\n",
        "compose.yaml": _compose(name, store),
        "README.md": Template(_README).substitute(
            title=store.title, start="".join(start), containers=containers if store.service else "the program in a container"
        ),
    }


def _compose(name: str, store: _Store) -> str:
    url = _url(store, name) if store.service else "sqlite:////data/pyncette.db"
    environment = {"PYNCETTE_URL": url, **(store.environment or {})}
    told = ", ".join(f'{variable}: "{value}"' for variable, value in environment.items())
    worker = Template(_WORKER).substitute(environment=f"{{ {told} }}")
    if store.service:
        worker += f"    depends_on: {{ {name}: {{ condition: service_healthy }} }}\n"
        return f"services:\n  {name}:\n{store.service}\n{worker}\nvolumes:\n  data:\n"
    return f'services:\n{worker}    volumes: ["data:/data"]\n\nvolumes:\n  data:\n'


def _url(store: _Store, host: str) -> str:
    return Template(store.url).substitute(host=host)
