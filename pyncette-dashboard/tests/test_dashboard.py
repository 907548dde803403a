"""The dashboard without a browser: what its actions do, what its pages cost, and a store that is away."""

import asyncio
import contextlib
import html
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from viewing import ended, form, token, viewed

from pyncette import Instance, Pyncette
from pyncette.dashboard import Dashboard, connection, searching, survey

PATIENCE = connection.PATIENCE  # before that of tests

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(__file__).parents[1] / "src" / "pyncette" / "dashboard" / "static"


async def test_all_that_a_browser_loads_is_small(app):
    async with viewed(app, [f"order {number}" for number in range(200)]) as (viewer, _):
        for path in (
            "/",
            "/task?name=deliver",
            "/instance?task=deliver&name=order+1",
            "/upcoming",
            "/act?do=backfill&task=nightly",
        ):
            page = await viewer.get(path)
            loaded = {
                page.url.join(link) for link in re.findall(r'(?:src|link rel="[a-z]+") ?=?"?(?:href=")?(static/[^"]+)', page.text)
            }
            assert {each.path for each in loaded} == {f"/static/{file.name}" for file in STATIC.iterdir()}
            parts = [page, *[await viewer.get(each) for each in loaded]]
            assert sum(len(part.content) for part in parts) < 100_000, path


class TestActions:
    async def test_are_in_the_audit_log_with_the_name_of_the_user(self, app, caplog):
        caplog.set_level(logging.INFO, logger="pyncette.audit")
        async with viewed(app, authorize=lambda request, action: "ann") as (viewer, context):
            right = await token(viewer)
            answer = await viewer.post("/act", data=form("pause", right, note="why"), follow_redirects=True)
            assert "order 1 of deliver is paused." in answer.text
            found = await context.get_task(app.deliver, "order 1")
            assert (found.state, found.note.by, found.note.text) == ("paused", "ann", "why")
            assert "is paused." not in (await viewer.get("/")).text  # it is said once
            for do, more in (
                ("resume", {}),
                ("trigger", {}),
                ("reschedule", {"schedule": "0 9 * * *", "zone": "Europe/London"}),
                ("unschedule", {}),
            ):
                assert (await viewer.post("/act", data=form(do, right, **more))).status_code == 303, do
            assert await context.get_task(app.deliver, "order 1") is None
        done = [(record.action, record.by) for record in caplog.records]
        assert done == [(do, "ann") for do in ("pause", "resume", "trigger", "reschedule", "unschedule")]

    async def test_say_what_is_wrong_and_change_nothing(self, app):
        async with viewed(app) as (viewer, context):
            right = await token(viewer)
            before = (await context.get_task(app.deliver, "order 1")).row
            for more in (
                {"schedule": "61 * * * *"},
                {"interval": "soon"},
                {"execute_at": "never"},
                {"schedule": "* * * * *", "zone": "../Mars"},
                {},
            ):
                answer = await viewer.post("/act", data=form("reschedule", right, **more))
                assert (answer.status_code, 'role="alert"' in answer.text) == (200, True)
            assert (await context.get_task(app.deliver, "order 1")).row == before

    async def test_a_backfill_is_tried_before_it_is_done(self, app):
        async with viewed(app) as (viewer, context):
            data = {
                "do": "backfill",
                "task": "nightly",
                "token": await token(viewer),
                "start": "2025-12-01T00:00",
                "end": "2025-12-04T00:00",
            }
            answer = await viewer.post("/act", data={**data, "dry": "1"})
            assert "3 runs would be added" in answer.text
            answer = await viewer.post("/act", data=data, follow_redirects=True)
            assert "3 runs of nightly are added." in answer.text
            answer = await viewer.post("/act", data=data, follow_redirects=True)
            assert "nothing to add" in answer.text

    async def test_remove_what_nobody_declares_and_nothing_else(self, app, tmp_path):
        former = Pyncette(f"sqlite:///{tmp_path}/shop.db")

        @former.dynamic_task(name="<b>old</b>")
        async def old(context): ...

        async with former.create() as context:
            await context.schedule_tasks(old, [Instance(name=str(each), interval=timedelta(days=1)) for each in range(3)])
        async with viewed(app) as (viewer, context):
            [undeclared] = await context.list_undeclared()
            asked = {"do": "discard-undeclared", "name": undeclared.name, "kind": undeclared.kind}
            assert (await viewer.post("/act", data=asked)).status_code == 403
            page = await viewer.get("/act", params=asked)
            assert "<b>old" not in page.text
            asked["token"] = await token(viewer)
            assert "<strong>3</strong> done" in await ended(viewer, asked)
            assert not await context.list_undeclared()
            assert await context.get_task(app.deliver, "order 1") is not None
            for kind, name in (("template", "<b>old</b>"), ("template", "deliver"), ("<b>", "nothing")):
                page = await ended(viewer, {**asked, "kind": kind, "name": name})
                assert "has no undeclared rows" in page
                assert "<b>old" not in page
            assert await context.get_task(app.deliver, "order 1") is not None

    async def test_on_many_show_how_far_they_are_and_can_be_stopped(self, app):
        async with viewed(app, [f"order {number}" for number in range(1500)]) as (viewer, context):
            right = await token(viewer)
            client = await viewer._transport.app._connection.client()
            pause_task, calls = client.pause_task, itertools.count()

            async def pause_some(*arguments, **more):
                if next(calls) >= 100:
                    await asyncio.Event().wait()
                return await pause_task(*arguments, **more)

            client.pause_task = pause_some
            answer = await viewer.post(
                "/act", data={**form("pause-these", right, prefix="order 1"), "name": ""}, follow_redirects=True
            )
            job = str(answer.url)
            while "<strong>100</strong>" not in (answer := await viewer.get(job)).text:
                assert 'data-state="running"' in answer.text
                await asyncio.sleep(0.01)
            await viewer.post("/job", data={"id": job.rpartition("=")[2], "token": right})
            answer = await viewer.get(job)
            assert 'data-state="stopped"' in answer.text
            assert "<strong>100</strong>" in answer.text
            paused = [each for each in (await context.list_tasks(app.deliver, limit=2000)).tasks if each.state == "paused"]
            assert len(paused) == 100
            assert all(each.name.startswith("order 1") for each in paused)


class TestAStoreThatIsAway:
    async def test_gives_a_page_that_says_so_within_a_second(self, monkeypatch):
        monkeypatch.setattr(connection, "PATIENCE", 0.02)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
            app = Pyncette(f"redis://127.0.0.1:{silent.getsockname()[1]}")
            dashboard = Dashboard(app)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(dashboard), base_url="http://localhost") as viewer:
                for path in ("/", "/failed", "/task?name=x", "/upcoming"):
                    for _ in range(20):  # once without being held up by others
                        begun = time.monotonic()
                        page = await viewer.get(path)
                        assert page.status_code == 503
                        assert "The store does not answer" in page.text
                        if time.monotonic() - begun < PATIENCE < 1:
                            break
                    else:
                        pytest.fail("too slow")
            await dashboard.close()

    async def test_that_was_there_is_told_beside_what_was_known(self, app, tmp_path):
        async with viewed(app) as (viewer, context):
            assert (await viewer.get("/")).status_code == 200
            dashboard = viewer._transport.app
            client = await dashboard._connection.client()
            client.list_workers = asyncio.Event().wait  # it does not answer any more
            dashboard._survey._tick -= 60  # and has not done so for a minute
            page = await viewer.get("/failed")
            assert "The store has not answered for" in page.text


class TestALongPause:
    async def test_is_not_taken_for_silence_of_the_store(self, app):
        async with viewed(app) as (viewer, context):
            await viewer.get("/")
            survey = viewer._transport.app._survey
            await survey.close()  # as if nobody had looked for a while
            survey._tick -= 3600
            await context.pause_task(app.deliver, "order 1")
            assert "has not answered" not in (await viewer.get("/jobs")).text
            page = await viewer.get("/")
            assert "has not answered" not in page.text
            assert "1 paused</span>" in page.text  # nor is shown what was known then


class TestWhatWasDone:
    async def test_is_said_by_the_page_that_follows_and_not_to_another_tab(self, app):
        async with viewed(app) as (viewer, _):
            answer = await viewer.post("/act", data=form("pause", await token(viewer)))
            assert "is paused." not in (await viewer.get("/", headers={"Sec-Fetch-Mode": "cors"})).text  # it looks again by itself
            page = await viewer.get(answer.headers["location"], headers={"Sec-Fetch-Mode": "navigate"})
            assert "order 1 of deliver is paused." in page.text

    async def test_in_another_tab_before_is_no_harm(self, app):
        async with viewed(app) as (viewer, context):
            right = await token(viewer)
            for do, again in (
                ("trigger", "runs again"),
                ("pause", "is paused"),
                ("resume", "is resumed"),
                ("unschedule", "nothing was done"),
            ):
                for _ in range(2):
                    answer = await viewer.post("/act", data=form(do, right), follow_redirects=True)
                assert answer.status_code == 200
                assert again in answer.text
            for do in ("pause", "retry", "trigger", "reschedule"):
                more = {"interval": "5m"} if do == "reschedule" else {}
                assert "nothing was done" in (await viewer.post("/act", data=form(do, right, **more), follow_redirects=True)).text
            assert await context.get_task(app.deliver, "order 1") is None

    async def test_of_a_task_that_is_not_declared_any_more_is_refused(self, app):
        async with viewed(app) as (viewer, _):
            for path in ("task?name=gone", "instance?task=gone&name=x", "act?do=pause&task=gone", "upcoming?task=gone"):
                page = await viewer.get(f"/{path}")
                assert (page.status_code, "declares no task" in page.text) == (400, True)
            answer = await viewer.post("/act", data={**form("pause-template", await token(viewer)), "task": "gone"})
            assert (answer.status_code, "declares no task" in answer.text) == (400, True)


class TestManyRows:
    @pytest.fixture(autouse=True)
    def once(self, monkeypatch):
        """Nothing is looked for again."""
        monkeypatch.setattr(survey, "_EVERY", 3600.0)
        monkeypatch.setattr(searching, "_FRESH_FOR", 3600.0)

    @contextlib.asynccontextmanager
    async def listed(self, app, count):
        """A viewer, and the partitions that pages list rows of."""
        async with viewed(app, [f"order {number}" for number in range(count)]) as (viewer, _):
            client = await viewer._transport.app._connection.client()
            calls = []
            list_page = client.repository.list
            client.repository.list = lambda partition, **more: (
                calls.append((partition, more["limit"])),
                list_page(partition, **more),
            )[1]
            yield viewer, calls

    async def test_are_counted_by_one_scan_for_all_viewers(self, app):
        async with self.listed(app, 200) as (viewer, calls):
            pages = await asyncio.gather(*(viewer.get("/") for _ in range(20)))
            assert all("200 scheduled" in page.text for page in pages)
            assert sum(partition == "dynamic:deliver" for partition, _ in calls) == 1
            page = await viewer.get("/task?name=deliver")  # has the counts, and asks for no more rows than it shows
            assert "200 scheduled" in page.text
            assert calls[-1] == ("dynamic:deliver", 50)

    async def test_the_store_counts_once_a_refresh_for_all_viewers(self, app):
        async with self.listed(app, 200) as (viewer, calls):
            survey, client = viewer._transport.app._survey, await viewer._transport.app._connection.client()
            stats, counted = client.repository.stats, []
            client.repository.stats = lambda *arguments: (counted.append(arguments), stats(*arguments))[1]
            await viewer.get("/")
            counted.clear()
            calls.clear()
            for refresh in range(1, 4):
                survey.changed()  # as after an action, and every few seconds
                while len(counted) < refresh:
                    await asyncio.gather(*(viewer.get(path) for path in ("/", "/task?name=deliver", "/failed") for _ in range(5)))
                    await asyncio.sleep(0.01)
            assert len(counted) == 3
            assert {limit for partition, limit in calls if partition == "dynamic:deliver"} <= {
                50,
                250,
            }  # what a page shows, and the scan of all viewers

    async def test_are_searched_once_for_all_who_look_for_the_same(self, app):
        async with self.listed(app, 700) as (viewer, calls):
            await viewer.get("/")
            calls.clear()
            path = "/task?name=deliver&prefix=order+69"
            pages = await asyncio.gather(*(viewer.get(path) for _ in range(5)))
            while "still looking" in (last := await viewer.get(path)).text:
                await asyncio.sleep(0.01)
            assert last.text.count(">order 69") == 11 + 1  # and once more as this very name
            assert len(pages) == 5
            assert [limit for _, limit in calls] == [250] * 3


REFUSED = """
import sys

from pyncette import ConfigurationError
from pyncette.cli.arguments import Parser, adding
from pyncette.dashboard.command import add_command

parser = Parser()
add_command(adding(parser.add_subparsers()))
for more in (["--host", "0.0.0.0"], ["--port", "99999"], ["--port", sys.argv[1]]):
    arguments = parser.parse_args(["dashboard", "shop.py:app", *more])
    try:
        arguments.command(arguments)
    except ConfigurationError as error:
        print(error)
"""


async def test_a_store_in_memory_is_seen_through_the_client_that_has_it_open():
    app = Pyncette()

    @app.dynamic_task()
    async def deliver(context): ...

    async with app.create() as context:
        await context.schedule_task(deliver, "order 1", interval=timedelta(days=1))
        dashboard = Dashboard(app, client=context)
        transport = httpx.ASGITransport(dashboard, client=("127.0.0.1", 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as viewer:
            assert "order 1" in (await viewer.get("/task?name=deliver")).text
        await dashboard.close()
        assert await context.get_task(deliver, "order 1") is not None  # it closes nothing that is not its own


def test_the_command_says_what_it_refuses(tmp_path):
    (tmp_path / "shop.py").write_text("from pyncette import Pyncette\napp = Pyncette('sqlite:///shop.db')\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", REFUSED, str(port)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    said = ended.stdout.splitlines()
    assert len(said) == 3, ended.stderr
    assert "without a password" in said[0]
    assert "127.0.0.1:99999" in said[1]
    assert f"127.0.0.1:{port}: Address already in use" in said[2]


#: What frameworks, and servers behind proxies, make of a request for `/ops/tasks/...`: the path and the root_path.
MOUNTED = {
    "starlette": lambda path: (path, "/ops/tasks"),
    "litestar": lambda path: (f"{path.removeprefix('/ops/tasks').rstrip('/')}/", ""),
    "a proxy that leaves out where it is": lambda path: (path, "/front/ops/tasks"),
    "a server that adds where it is": lambda path: (f"/front{path}", "/front/ops/tasks"),
    "by hand": lambda path: (path.removeprefix("/ops/tasks"), ""),
}


@pytest.mark.parametrize("by", MOUNTED)
async def test_it_can_be_mounted_anywhere(app, by):
    async with viewed(app) as (viewer, context):

        async def outer(scope, receive, send):
            path, root = MOUNTED[by](scope["path"])
            await viewer._transport.app({**scope, "path": path, "root_path": root}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://localhost") as mounted:
            page = await mounted.get("/ops/tasks", follow_redirects=True)
            assert (page.status_code, page.url.path) == (200, "/ops/tasks/")
            for path in ("", "task?name=deliver", "instance?task=deliver&name=order+1"):
                page = await mounted.get(f"/ops/tasks/{path}")
                for link in {html.unescape(each) for each in re.findall(r'(?:href|src)="([^"#]+)"', page.text)}:
                    found = await mounted.get(page.url.join(link))
                    assert found.status_code == 200, link
            asked = await mounted.get("/ops/tasks/act", params={"do": "pause", "task": "deliver", "name": "order 1"})
            address = html.unescape(re.search('method="post" action="([^"]+)"', asked.text)[1])
            fields = dict(re.findall('name="([^"]+)" value="([^"]*)"', asked.text))
            done = await mounted.post(asked.url.join(address), data=fields, follow_redirects=True)
            assert (done.url.path, "is paused." in done.text) == ("/ops/tasks/instance", True)


class TestTheCommand:
    @pytest.fixture
    def known(self, tmp_path):
        """An environment in which core finds the command, whether the distribution is installed or only on the path."""
        points = tomllib.loads((ROOT / "pyncette-dashboard" / "pyproject.toml").read_text())["project"]["entry-points"]
        place = tmp_path / "site" / "pyncette_dashboard-2.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text("Metadata-Version: 2.1\nName: pyncette-dashboard\nVersion: 2\n")
        lines = [f"[{group}]\n" + "".join(f"{name} = {found}\n" for name, found in of.items()) for group, of in points.items()]
        (place / "entry_points.txt").write_text("".join(lines))
        return {**os.environ, "PYTHONPATH": str(place.parent)}

    async def test_of_the_readme_serves_a_running_example(self, tmp_path, known):
        """As it is there, but for the environment, the port, and where the example is."""
        [line] = re.findall(r".*pyncette run .*", (ROOT / "pyncette-dashboard" / "README.md").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        script = tmp_path / ".venv" / "bin" / "pyncette"
        script.parent.mkdir(parents=True)
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom pyncette.cli import main\nsys.exit(main())\n")
        script.chmod(0o755)
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        with subprocess.Popen(
            ["sh", "-c", f"{line.strip()} --port {port}"],
            cwd=tmp_path,
            env=known,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        ) as both:
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=180) as viewer, asyncio.timeout(180):
                    while True:
                        with contextlib.suppress(httpx.TransportError):
                            if "<strong>1</strong><span>workers alive" in (page := await viewer.get("/")).text:
                                break
                        await asyncio.sleep(0.05)
                    assert "refresh" in page.text
            finally:
                os.killpg(both.pid, signal.SIGKILL)

    def test_says_in_one_line_what_it_lacks(self, tmp_path, known):
        lacking = (
            "import sys; sys.modules['uvicorn'] = None; sys.path.insert(0, '.'); from pyncette.cli import main; sys.exit(main())"
        )
        command = [sys.executable, "-c", lacking, "dashboard", "nothing.py:app"]
        ended = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=180)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.strip().splitlines() == [
            "pyncette: The dashboard needs a server that is not installed: pip install 'pyncette-dashboard[server]'"
        ]
