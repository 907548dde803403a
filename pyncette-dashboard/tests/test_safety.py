"""Who may see and do what, and what is shown of what is hostile."""

import asyncio
import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from starlette.exceptions import HTTPException
from viewing import form, token, viewed

from pyncette import ConfigurationError, Pyncette, Template
from pyncette.dashboard import Dashboard, safety
from pyncette.dashboard.actions import ACTIONS
from pyncette.dashboard.words import visible

#: Names as `walking` has them; that module needs a browser's driver.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "user\u202egnp.exe",
    "{{ 7 * 7 }}",
    "a/b?c=d&e#f%00",
    "../%2e%2e/..",
    "'; DROP TABLE tasks; --",
    "\x1b[2J\r\nSet-Cookie: a=b",
    "\u05e9\u05dc\u05d5\u05dd \u2066left\u2069",
    "javascript:alert(1)",
    "x" * 255,
]


async def body(context): ...


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

    async def test_of_tasks_lead_where_they_say(self, app, tmp_path):
        hostile = Pyncette(f"sqlite:///{tmp_path}/hostile.db")
        hostile.deliver = hostile.dynamic_task(name="deliver")(body)
        for number, name in enumerate(HOSTILE):
            hostile.task(name=name, interval=timedelta(days=1))(body) if number % 2 else hostile.dynamic_task(name=name)(body)
        async with viewed(hostile, HOSTILE) as (viewer, context):
            for each in hostile.tasks:
                if isinstance(each, Template):
                    await context.schedule_task(each, each.name, interval=timedelta(days=1))
                    await context.pause_template(each, note=each.name)
                await context.trigger_task(each, each.name if isinstance(each, Template) else None)
            seen, ahead = set(), ["/"]
            while ahead:
                page = await viewer.get(path := ahead.pop())
                assert page.status_code == 200, (path, page.text)
                assert "set-cookie" not in {each.lower() for each in page.headers} or "a=b" not in page.headers["set-cookie"]
                for never in (
                    "<script>alert",
                    "<img src=x",
                    "\u202e",
                    "\u2066",
                    "\x1b",
                    'href="javascript',
                    "DROP TABLE tasks; --'",
                ):
                    assert never not in re.sub(' value="[^"]*"', "", page.text), path
                for link in re.findall(r'href="([^"#]+)"', page.text):
                    url = str(page.url.join(html.unescape(link)))
                    if url not in seen and "/static/" not in url and "token=" not in url:
                        seen.add(url)
                        ahead.append(url)
            for name in HOSTILE:
                shown = f"<bdi>{html.escape(visible(name), quote=False)}</bdi>"
                at = "/task" if HOSTILE.index(name) % 2 == 0 else "/instance"
                page = await viewer.get(at, params={"name" if at == "/task" else "task": name})
                assert html.unescape(shown) in html.unescape(page.text)
            assert len(seen) > 100

    async def test_are_sent_as_they_are(self, app):
        """Browsers change line breaks in the fields of forms, but not in the address that a form is sent to."""
        async with viewed(app, ["a\nb", "a\r\nb"]) as (viewer, context):
            page = await viewer.get("/act", params={"do": "unschedule", "task": "deliver", "name": "a\nb"})
            address = html.unescape(re.search('method="post" action="([^"]+)"', page.text)[1])
            fields = dict(re.findall('name="([^"]+)" value="([^"]*)"', page.text))
            answer = await viewer.post(f"/{address}", data=fields, follow_redirects=True)
            assert "is unscheduled" in answer.text
            assert [each.name for each in (await context.list_tasks(app.deliver)).tasks] == ["a\r\nb"]

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
        for do in ACTIONS:
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

    async def test_by_a_user_whose_rights_can_not_be_found_out(self, app, monkeypatch):
        monkeypatch.setattr(safety, "_ANSWERS_WITHIN", 0.02)
        refuse = {
            "raises": KeyError("user"),
            "refuses in its own way": HTTPException(401, "Sign in", {"WWW-Authenticate": "Bearer"}),
        }

        async def authorize(request, action):
            if action != "view" and asked == "hangs":
                await asyncio.Event().wait()
            elif action != "view":
                raise refuse[asked]
            return "ann"

        async with viewed(app, authorize=authorize) as (viewer, context):
            await viewer.get("/")
            for asked, status in (("hangs", 503), ("raises", 500), ("refuses in its own way", 401)):
                await self.unchanged(viewer, context, app, status={status})
            answer = await viewer.post("/act", data=form("pause"))
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "default-src 'none'" in answer.headers["content-security-policy"]

    async def test_that_are_no_forms_of_ours(self, app):
        async with viewed(app) as (viewer, context):
            right = await token(viewer)
            many = {f"field {number}": "" for number in range(200)}
            await self.unchanged(viewer, context, app, form={"token": right, **many}, status={413})
            await self.unchanged(viewer, context, app, form={"token": right, "note": "x" * 100_000}, status={413})
            await self.unchanged(viewer, context, app, form={"token": right}, headers={"Origin": "http://["}, status={403})
            await self.unchanged(viewer, context, app, form={"token": right}, headers={"Host": "["}, status={400, 403})
            await self.unchanged(viewer, context, app, form={"token": right}, headers={"Host": "evil.example"}, status={403})
            for method in ("OPTIONS", "PUT", "DELETE", "TRACE"):
                assert (await viewer.request(method, "/act", data=form("pause", right))).status_code == 405
            assert (await viewer.head("/act", params=form("pause", right))).status_code == 200
            assert (await context.get_task(app.deliver, "order 1")).state == "scheduled"

    async def test_to_stop_what_others_do(self, app):
        async with viewed(app, authorize=lambda request, action: action in ("view", "pause")) as (viewer, _):
            right = await token(viewer)
            job = viewer._transport.app._jobs.start("A long one", "bob", datetime.now(UTC), lambda job: asyncio.Event().wait())
            answer = await viewer.post("/job", data={"id": job.id, "do": "pause", "token": right})
            assert (answer.status_code, job.state) == (403, "running")

    async def test_by_get(self, app):
        async with viewed(app) as (viewer, context):
            for do in ACTIONS:
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
            for wrong in (
                None,
                ("ann", "no"),
                ("bob", "pässword"),
                ("", ""),
                ("ann", ""),
                ("ann", "p\u0430ssword"),
                ("ann:", "pässword"),
            ):
                page = await viewer.get("/", auth=wrong)
                assert (page.status_code, page.headers["www-authenticate"][:5]) == (401, "Basic")
            assert (await viewer.get("/", headers={"Authorization": "Basic ???"})).status_code == 401
            page = await viewer.get("/", auth=("ann", "pässword"))
            assert "Signed in as <bdi>ann</bdi>" in page.text
        monkeypatch.delenv("PYNCETTE_DASHBOARD_PASSWORD")
        with pytest.raises(ConfigurationError, match="Only one of"):
            Dashboard(app)

    async def test_learns_nothing_of_the_store_otherwise(self, app):
        async with viewed(app, authorize=lambda request, action: "x-user" in request.headers) as (viewer, _):
            assert "Signed in" in (await viewer.get("/", headers={"x-user": "ann"})).text
            survey = viewer._transport.app._survey
            survey._tick -= 60
            survey.error = "no route to db-7.internal"
            for path in ("/", "/nothing", "/task?name=deliver"):
                page = await viewer.get(path)
                assert page.status_code in (403, 404)
                assert not re.search("db-7|as of|not answered|deliver", page.text)

    @pytest.mark.parametrize("headers", [{"Via": "1.1 front"}, {"X-Forwarded-Proto": "https"}, {"Forwarded": "for=192.0.2.7"}])
    async def test_nobody_through_a_proxy_without_a_password(self, app, headers):
        async with viewed(app) as (viewer, _):
            assert (await viewer.get("/", headers=headers)).status_code == 403

    async def test_through_a_proxy_that_names_another_host(self, app):
        """The browser itself says that the form is the dashboard's."""
        front = {
            "Host": "10.0.0.7:8088",
            "Origin": "https://ops.example",
            "Sec-Fetch-Site": "same-origin",
            "X-Forwarded-For": "192.0.2.7",
        }
        async with viewed(app, authorize=lambda request, action: "ann") as (viewer, context):
            answer = await viewer.post("/act", data=form("pause", await token(viewer)), headers=front)
            assert (answer.status_code, answer.headers["location"][:9]) == (303, "instance?")
            assert (await context.get_task(app.deliver, "order 1")).state == "paused"

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
            for path in (
                "/",
                "/task?name=nothing",
                "/static/dashboard.js",
                "/static/nothing",
                "/nothing",
                "/job?id=1",
                "/act?do=pause&task=deliver",
            ):
                page = await viewer.get(path)
                policy = page.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert not re.search(
                    r"<style|style=|<script(?! src)| on\w+=|https?://", page.text.replace("http://www.w3.org/2000/svg", "")
                )
