"""Who may see and do what, and what is shown of what is hostile."""

import asyncio
import re

import pytest
from viewing import form, token, viewed

from pyncette import ConfigurationError
from pyncette.dashboard import Dashboard

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
