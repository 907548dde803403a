"""The ASGI application: its pages."""

import base64
import binascii
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pyncette import Client, Pyncette, PyncetteError
from pyncette.dashboard import actions, words
from pyncette.dashboard.acting import Acting
from pyncette.dashboard.connection import Connection, StoreAwayError
from pyncette.dashboard.jobs import Jobs
from pyncette.dashboard.pages import Pages
from pyncette.dashboard.safety import HEADERS, Authorize, Guard, RefusedError
from pyncette.dashboard.searching import Searches
from pyncette.dashboard.survey import Survey
from pyncette.tasks import StaticTask

__all__ = ["Dashboard"]

_STATIC = Path(__file__).parent / "static"
_SESSION, _FLASH = "pyncette_dashboard", "pyncette_dashboard_done"
_MOST_BYTES = 64 * 1024
#: How often a page updates itself (milliseconds).
_REFRESH = 4000

_Page = Callable[[Request, str], Awaitable[Response]]


class Dashboard(Pages, Acting):
    """A dashboard of ``app``, as an ASGI application to mount in another one, or to serve alone.

    It opens the store at the first request, and needs no process that runs tasks.

    :param client: an open client, such as the context of :meth:`Pyncette.create`, in the same event loop. The dashboard does not close it.
        This is the only way to see a store in memory.
    :param authorize: called with the request and the permission: "view", "arguments", or an action such as "pause". Returns the name of the
        user for the audit log, True for somebody without a name, or False to refuse. May be asynchronous. Without it, user and
        password are those of ``PYNCETTE_DASHBOARD_USER`` and ``PYNCETTE_DASHBOARD_PASSWORD``; without these, only this machine has access.
    :param read_only: allow no changes by anyone.
    :param show_arguments: let viewers see the arguments of tasks.
    :param user: the name recorded for changes if there is no other.

    Raises ConfigurationError if only one of user and password is in the environment.
    """

    def __init__(
        self,
        app: Pyncette,
        *,
        client: Client | None = None,
        authorize: Authorize | None = None,
        read_only: bool = False,
        show_arguments: bool = False,
        user: str = "dashboard",
    ) -> None:
        self._guard = Guard(authorize, user)
        self._read_only, self._show_arguments = read_only, show_arguments
        self._connection = Connection(app, client)
        self._survey = Survey(self._connection)
        self._jobs, self._searches = Jobs(), Searches()
        self._templates = Environment(
            loader=PackageLoader("pyncette.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "visible": words.visible,
            "name": words.name,
            "duration": words.duration,
            "seconds": lambda seconds: words.duration(timedelta(seconds=seconds)),
            "at": words.instant,
            "schedule": words.schedule_text,
        }
        self._templates.tests["static"] = lambda task: isinstance(task, StaticTask)
        self._templates.globals |= {"link": words.link, "actions": actions.ACTIONS}
        pages: Mapping[str, _Page] = {
            "": self._overview,
            "task": self._task,
            "instance": self._instance,
            "failed": self._failed,
            "workers": self._workers,
            "upcoming": self._upcoming,
            "undeclared": self._undeclared,
            "job": self._job,
            "jobs": self._all_jobs,
            "act": self._ask,
        }
        routes = [Route(f"/{path}", self._endpoint(page)) for path, page in pages.items()]
        routes += [
            Route("/act", self._posted(self._act), methods=["POST"]),
            Route("/job", self._posted(self._stop, "stop"), methods=["POST"]),
        ]
        routes.append(Route("/static/{file}", self._static))
        self._asgi = Starlette(routes=routes, exception_handlers={HTTPException: self._not_here})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        mounted_at, page = _split(scope["path"], scope.get("root_path", ""))
        asked: bytes = scope.get("raw_path") or scope["path"].encode()
        if not page and scope["type"] == "http" and not asked.partition(b"?")[0].endswith(b"/"):
            # all links are relative to a folder
            await RedirectResponse(f"{asked.rpartition(b'/')[2].decode()}/", 307, HEADERS)(scope, receive, send)
        else:
            await self._asgi({**scope, "root_path": mounted_at, "path": f"{mounted_at}/{page}"}, receive, send)

    async def close(self) -> None:
        """Close the store. Not needed if the dashboard is served alone, because the end of the server closes it."""
        self._jobs.stop()
        self._searches.stop()
        await self._survey.close()
        await self._connection.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # --- around each page -----------------------------------------------------------------------------------------------

    def _endpoint(self, page: _Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                user = await self._guard.user(request, "view")
                return await page(request, user)
            except StoreAwayError as error:
                return self._problem(request, 503, "The store does not answer", str(error))
            except RefusedError as error:
                return self._problem(request, error.status, "Refused", str(error), error.headers)
            except PyncetteError as error:
                return self._problem(request, 400, "That did not work", str(error))

        return endpoint

    def _posted(
        self, page: Callable[[Request, str, Mapping[str, str]], Awaitable[Response]], permission: str = ""
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request, viewer: str) -> Response:
            form = {**request.query_params, **await _form(request)}
            user = await self._guard.user(request, permission or form.get("do", ""))
            self._guard.check_form(request, request.cookies.get(_SESSION), user, form.get("token", ""))
            if self._read_only:
                raise RefusedError(403, "The dashboard is read-only; nothing was changed.")
            return await page(request, user, form)

        return self._endpoint(checked)

    async def _not_here(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._problem(request, error.status_code, error.detail, "There is no such page.", error.headers)

    def _problem(self, request: Request, status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> Response:
        return self._render(
            request,
            "problem.html",
            "",
            status=status,
            headers=headers,
            title=title,
            text=text,
            refresh=5000 if status == 503 else 0,
            # Show nothing from the store, because the viewer may not be authorised.
            now=None,
            silence=0.0,
            running=0,
        )

    def _render(
        self,
        request: Request,
        page: str,
        user: str,
        /,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> HTMLResponse:
        session = request.cookies.get(_SESSION) or secrets.token_urlsafe(24)
        # Not for a page that updates itself, perhaps in another tab, because it would not show the message.
        flash = self._read_flash(request) if request.headers.get("sec-fetch-mode", "navigate") == "navigate" else ""
        survey = self._survey
        known = {
            "user": user,
            "token": self._guard.token(session, user),
            "flash": flash,
            "now": survey.now,
            "survey": survey,
            "silence": survey.silence,
            "read_only": self._read_only,
            "show_arguments": self._show_arguments,
            "path": request.url.path.rpartition("/")[2],
            "running": sum(job.state == "running" for job in self._jobs.all.values()),
            "refresh": _REFRESH,
        }
        text = self._templates.get_template(page).render(known | values)
        response = HTMLResponse(text, status, {**HEADERS, **(headers or {})})
        if request.cookies.get(_SESSION) != session:
            _set_cookie(request, response, _SESSION, session)
        if flash:
            response.delete_cookie(_FLASH)
        return response

    def _done(self, request: Request, where: str, text: str) -> Response:
        """Redirect to a page that reports the action."""
        self._changed()
        response = RedirectResponse(where, 303, HEADERS)
        told = base64.urlsafe_b64encode(text[:1000].encode()).decode()
        _set_cookie(request, response, _FLASH, f"{told}.{self._guard.sign(told)}")
        return response

    def _changed(self) -> None:
        self._searches.forget()
        self._survey.changed()

    def _read_flash(self, request: Request) -> str:
        told, _, signature = request.cookies.get(_FLASH, "").partition(".")
        if not told or not secrets.compare_digest(self._guard.sign(told).encode(), signature.encode("utf-8", "replace")):
            return ""
        try:
            return base64.urlsafe_b64decode(told).decode()
        except (ValueError, binascii.Error):
            return ""

    async def _static(self, request: Request) -> Response:
        file = _STATIC / request.path_params["file"]
        if file.parent != _STATIC or not file.is_file():
            return Response("Not found", 404, HEADERS, "text/plain")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(file.read_bytes(), 200, {**HEADERS, "Cache-Control": "public, max-age=300"}, kind)


def _split(path: str, root: str) -> tuple[str, str]:
    """The path where the dashboard is mounted, and the requested page.

    Frameworks and proxies disagree: ``path`` may begin with all of ``root``, with the end of it, or without it, and end with a slash.
    """
    root = root.rstrip("/")
    while root and not f"{path}/".startswith(f"{root}/"):
        root = root[root.find("/", 1) :] if "/" in root[1:] else ""
    return root, path[len(root) :].strip("/")


async def _form(request: Request) -> Mapping[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise RefusedError(413, "The form is too large.")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100))
    except ValueError as error:
        raise RefusedError(413, "The form has too many fields.") from error


def _set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, httponly=True, samesite="strict", secure=request.url.scheme == "https")
