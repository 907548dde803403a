"""The dashboard without a browser: who may do what, what is shown of what is hostile, and what becomes of a store that is away."""

import asyncio
import contextlib
import itertools
import logging
import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from pyncette import ConfigurationError, Instance, Pyncette
from pyncette.dashboard import Dashboard, connection, searching, survey

STATIC = Path(__file__).parents[1] / "src" / "pyncette" / "dashboard" / "static"
#: Names as `walking` has them; that module needs a browser's driver.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "user\u202egnp.exe",
    "{{ 7 * 7 }}",
    "a/b?c=d&e#f%00",
    "x" * 255,
]
CHANGES = ("trigger", "pause", "resume", "retry", "reschedule", "unschedule", "backfill", "pause-template", "resume-template")
BULK = ("retry-all", "discard-all", "pause-these", "resume-these", "retry-these", "unschedule-these")


@pytest.fixture
def app(tmp_path):
    app = Pyncette(f"sqlite:///{tmp_path}/shop.db")

    @app.task(schedule="0 2 * * *", timezone="Europe/Berlin")
    async def nightly(context): ...

    @app.dynamic_task(history=timedelta(days=1))
    async def deliver(context): ...

    app.deliver, app.nightly = deliver, nightly
    return app


@contextlib.asynccontextmanager
async def viewed(app, names=("order 1",), peer="127.0.0.1", base="http://localhost", **options):
    dashboard = Dashboard(app, **options)
    async with app.create() as context:
        await context.schedule_tasks(
            app.deliver, [Instance(name=each, interval=timedelta(days=1), args={"secret": "s3cr3t"}) for each in names]
        )
        transport = httpx.ASGITransport(dashboard, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url=base) as viewer:
            yield viewer, context
        await dashboard.close()


async def token(viewer, do="pause"):
    page = await viewer.get("/act", params={"do": do, "task": "deliver", "name": "order 1"})
    return re.search(r'name="token" value="(\w+)"', page.text)[1]


def form(do, token="", **more):
    return {"do": do, "task": "deliver", "name": "order 1", "token": token, **more}


async def ended(viewer, data):
    """The page of the job that ``data`` starts, once it has ended."""
    answer = await viewer.post("/act", data=data)
    assert answer.status_code == 303, answer.text
    while 'data-state="running"' in (page := await viewer.get(answer.headers["location"])).text:
        await asyncio.sleep(0.01)
    return page.text


class TestHostileNames:
    async def test_show_as_text_on_every_page(self, app):
        async with viewed(app, HOSTILE) as (viewer, _):
            for path in ["/", "/task?name=deliver", "/upcoming", "/failed"]:
                page = await viewer.get(path)
                assert page.status_code == 200
                for never in ("<script>alert", "<img src=x", "\u202e"):
                    assert never not in page.text
            page = await viewer.get("/task?name=deliver")
            assert "&lt;script&gt;alert(1)" in page.text
            assert "user\\u{202e}gnp.exe" in page.text
            for name in HOSTILE:
                page = await viewer.get("/instance", params={"task": "deliver", "name": name})
                assert "There is no such instance" not in page.text
                assert "<script>alert" not in page.text

    async def test_of_tasks_and_queries_do_no_harm(self, app):
        async with viewed(app) as (viewer, _):
            for name in [*HOSTILE, "\x00", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]:
                for path, query in (
                    ("task", {"name": name}),
                    ("task", {"name": "deliver", "prefix": name, "token": name}),
                    ("act", {"do": name, "task": name}),
                ):
                    page = await viewer.get(f"/{path}", params=query)
                    assert page.status_code in (200, 400)
                    assert "<script>alert" not in page.text


class TestRequestsThatAreRefusedChangeNothing:
    async def unchanged(self, viewer, context, app, **request):
        before = (
            (await context.get_task(app.deliver, "order 1")).row,
            len((await context.list_tasks(app.deliver, extra_runs=True)).tasks),
        )
        for do in (*CHANGES, *BULK):
            for name in ("order 1", ""):
                data = {**form(do, **request.get("form", {})), "name": name}
                answer = await viewer.post("/act", data=data, headers=request.get("headers", {}))
                assert answer.status_code in request["status"], (do, answer.text)
        await asyncio.sleep(0.01)
        after = (
            (await context.get_task(app.deliver, "order 1")).row,
            len((await context.list_tasks(app.deliver, extra_runs=True)).tasks),
        )
        assert after == before
        assert not await context.list_paused_templates()

    async def test_without_a_token(self, app):
        async with viewed(app) as (viewer, context):
            await viewer.get("/")
            for wrong in ("", "0" * 64, "é"):
                await self.unchanged(viewer, context, app, form={"token": wrong}, status={403})

    async def test_from_another_origin(self, app):
        async with viewed(app) as (viewer, context):
            right = {"token": await token(viewer)}
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"},
            ):
                await self.unchanged(viewer, context, app, form=right, headers=headers, status={403})

    async def test_by_a_user_who_is_refused(self, app):
        async def authorize(request, action):
            return "eve" if action == "view" else False

        async with viewed(app, authorize=authorize) as (viewer, context):
            await viewer.get("/")
            await self.unchanged(viewer, context, app, status={403})

    async def test_with_the_token_of_somebody_else(self, app):
        async with viewed(app, authorize=lambda request, action: request.headers.get("x-user", "ann")) as (viewer, context):
            await self.unchanged(viewer, context, app, form={"token": await token(viewer)}, headers={"x-user": "bob"}, status={403})

    async def test_where_it_is_read_only(self, app):
        async with viewed(app) as (viewer, _):
            right = await token(viewer)
        async with viewed(app, read_only=True) as (viewer, context):
            assert (await viewer.get("/act", params=form("pause"))).status_code == 403
            await self.unchanged(viewer, context, app, form={"token": right}, status={403})

    async def test_by_get(self, app):
        async with viewed(app) as (viewer, context):
            for do in (*CHANGES, *BULK):
                await viewer.get("/act", params=form(do, await token(viewer)))
            assert (await context.get_task(app.deliver, "order 1")).state == "scheduled"


class TestWhoMayLook:
    @pytest.mark.parametrize(
        ("peer", "base", "headers"),
        [
            ("192.0.2.7", "http://localhost", {}),
            ("127.0.0.1", "http://shop.example", {}),  # a name that leads here, of somebody else
            ("127.0.0.1", "http://localhost", {"X-Forwarded-For": "192.0.2.7"}),
        ],
    )
    async def test_nobody_from_elsewhere_without_a_password(self, app, peer, base, headers):
        async with viewed(app, peer=peer, base=base) as (viewer, _):
            page = await viewer.get("/", headers=headers)
            assert page.status_code == 403
            assert "PYNCETTE_DASHBOARD_PASSWORD" in page.text

    async def test_whoever_has_the_password(self, app, monkeypatch):
        monkeypatch.setenv("PYNCETTE_DASHBOARD_USER", "ann")
        monkeypatch.setenv("PYNCETTE_DASHBOARD_PASSWORD", "pässword")
        async with viewed(app, peer="192.0.2.7", base="http://shop.example") as (viewer, _):
            for wrong in (None, ("ann", "no"), ("bob", "pässword")):
                page = await viewer.get("/", auth=wrong)
                assert (page.status_code, page.headers["www-authenticate"][:5]) == (401, "Basic")
            assert (await viewer.get("/", headers={"Authorization": "Basic ???"})).status_code == 401
            page = await viewer.get("/", auth=("ann", "pässword"))
            assert "Signed in as <bdi>ann</bdi>" in page.text
        monkeypatch.delenv("PYNCETTE_DASHBOARD_PASSWORD")
        with pytest.raises(ConfigurationError, match="Only one of"):
            Dashboard(app)

    async def test_arguments_are_hidden_unless_they_are_allowed(self, app):
        path = "/instance?task=deliver&name=order+1"
        async with viewed(app) as (viewer, _):
            assert "s3cr3t" not in (await viewer.get(f"{path}&arguments=1")).text
        async with viewed(app, show_arguments=True) as (viewer, _):
            assert "s3cr3t" not in (await viewer.get(path)).text
            assert "s3cr3t" in (await viewer.get(f"{path}&arguments=1")).text
        async with viewed(app, show_arguments=True, authorize=lambda request, action: action != "arguments") as (viewer, _):
            page = await viewer.get(f"{path}&arguments=1")
            assert page.status_code == 403
            assert "s3cr3t" not in page.text

    async def test_every_answer_has_a_strict_policy(self, app):
        async with viewed(app) as (viewer, _):
            for path in ("/", "/task?name=nothing", "/static/dashboard.js", "/job?id=1", "/act?do=pause&task=deliver"):
                page = await viewer.get(path)
                policy = page.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert not re.search(
                    r"<style|style=|<script(?! src)| on\w+=|https?://", page.text.replace("http://www.w3.org/2000/svg", "")
                )


async def test_all_that_a_browser_loads_is_small():
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 100_000


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
        monkeypatch.undo()
        assert connection.PATIENCE <= 0.8
        monkeypatch.setattr(connection, "PATIENCE", 0.02)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
            app = Pyncette(f"redis://127.0.0.1:{silent.getsockname()[1]}")
            dashboard = Dashboard(app)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(dashboard), base_url="http://localhost") as viewer:
                for path in ("/", "/failed", "/task?name=x", "/upcoming"):
                    begun = time.monotonic()
                    page = await viewer.get(path)
                    assert time.monotonic() - begun < 1
                    assert page.status_code == 503
                    assert "The store does not answer" in page.text
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
from pyncette import ConfigurationError
from pyncette.cli.arguments import Parser, adding
from pyncette.dashboard.command import add_command

parser = Parser()
add_command(adding(parser.add_subparsers()))
arguments = parser.parse_args(["dashboard", "shop.py:app", "--host", "0.0.0.0"])
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


def test_the_command_refuses_to_be_open_to_all(tmp_path):
    (tmp_path / "shop.py").write_text("from pyncette import Pyncette\napp = Pyncette('sqlite:///shop.db')\n")
    command = [sys.executable, "-c", REFUSED]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "without a password" in ended.stdout, ended.stderr


async def test_it_can_be_mounted_anywhere(app):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async with viewed(app) as (viewer, _):
        outer = Starlette(routes=[Mount("/ops/tasks", viewer._transport.app)])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://localhost") as mounted:
            page = await mounted.get("/ops/tasks/")
            assert page.status_code == 200
            for link in set(re.findall(r'(?:href|src)="([^"#]+)"', page.text)):
                found = await mounted.get(page.url.join(link.replace("&amp;", "&")))
                assert found.status_code == 200, link
