"""A Django project, as real processes: the one among the examples."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import Program

PROJECT = Path(__file__).parents[2] / "examples" / "django_shop"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copied = shutil.copytree(PROJECT, tmp_path / "shop", ignore=shutil.ignore_patterns("shop.db*", "__pycache__"))
    manage(copied, "migrate")
    return copied


def manage(project: Path, *arguments: str) -> str:
    """The standard output of a command."""
    command = [sys.executable, "manage.py", *arguments]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


REQUESTS = """
import json
from django.test import Client
web = Client()
print(json.dumps([
    web.post("/orders/", {"item": item, "seconds": seconds}).status_code
    for item, seconds in (("tea", 0.5), ("coffee", 0.5), ("cake", 3600))
]))
"""


def test_orders_and_their_reminders_are_saved_together_and_run_by_the_command(project: Path) -> None:
    # Nothing has opened the store before: the first request of a process does so before it begins a transaction.
    assert json.loads(manage(project, "shell", "-c", REQUESTS).splitlines()[-1]) == [201, 409, 201]
    instances = [json.loads(line) for line in manage(project, "pyncette", "list", "remind", "--json").splitlines()]
    assert len(instances) == 2  # that of the coffee was rolled back with its order
    # From another directory, and in processes of its own, the project is found anyway.
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, str(project / "manage.py"), "pyncette", "run", "--processes", "2"]
    with Program(command, elsewhere) as program:
        program.wait_for("reminded of order 1: tea")
    show = "from shop.models import Order; print(list(Order.objects.values_list('item', 'reminded')))"
    assert manage(project, "shell", "-c", show).splitlines()[-1] == "[('tea', True), ('cake', False)]"


def test_without_the_setting_it_is_said_what_is_missing(tmp_path: Path) -> None:
    code = (
        "from django.conf import settings; settings.configure(INSTALLED_APPS=['pyncette.django'])\n"
        "import django; django.setup()\n"
        "from pyncette.django import client; client()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)
    assert ended.stderr.splitlines()[-1].endswith(
        'The setting PYNCETTE_APP is missing; set it to the application, as in "shop.scheduling:app"'
    )
