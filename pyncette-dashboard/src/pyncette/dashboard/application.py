"""The ASGI application: its pages."""

import base64
import binascii
import json
import mimetypes
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pyncette import Client, ConfigurationError, Pyncette, PyncetteError, RepositoryError, Task
from pyncette.dashboard import actions, drawing, words
from pyncette.dashboard.connection import Connection, StoreAwayError
from pyncette.dashboard.jobs import Job, Jobs
from pyncette.dashboard.safety import HEADERS, Authorize, Guard, RefusedError
from pyncette.dashboard.survey import HOURS, Survey
from pyncette.dashboard.upcoming import MOST, Searches
from pyncette.errors import ScheduleError
from pyncette.tasks import StaticTask, Template

__all__ = ["Dashboard"]

_STATIC = Path(__file__).parent / "static"
_SESSION, _FLASH = "pyncette_dashboard", "pyncette_dashboard_done"
_MOST_BYTES = 64 * 1024
_LIMIT, _RUNS = 50, 20
_STATES = ("scheduled", "due", "running", "retrying", "lease over", "paused", "failed", "unreadable")

_Page = Callable[[Request, str], Awaitable[Response]]


class Dashboard:
    """A dashboard of ``app``, as an ASGI application: to be mounted in another one, or served by itself.

    It opens the store when it is first asked, and needs no process that runs tasks.

    :param authorize: told the request and what is asked for: "view", "arguments", or an action such as "pause". Returns the name of the
        user, for the audit log; True, for somebody without a name; or False, to refuse. May be asynchronous. Without it, user and
        password are those of ``PYNCETTE_DASHBOARD_USER`` and ``PYNCETTE_DASHBOARD_PASSWORD``; without these, only this machine may look.
    :param read_only: change nothing, whoever asks.
    :param show_arguments: whether the arguments of tasks can be looked at.
    :param user: who does things for whom there is no other name.

    Raises ConfigurationError if only one of user and password is in the environment.
    """

    def __init__(
        self,
        app: Pyncette,
        *,
        authorize: Authorize | None = None,
        read_only: bool = False,
        show_arguments: bool = False,
        user: str = "dashboard",
    ) -> None:
        self._guard = Guard(authorize, user)
        self._read_only, self._show_arguments = read_only, show_arguments
        self._connection = Connection(app)
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
            "at": words.instant,
            "schedule": words.schedule_text,
        }
        self._templates.globals |= {"link": _link, "actions": actions.ACTIONS}
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
            Route("/job", self._posted(self._stop), methods=["POST"]),
        ]
        routes.append(Route("/static/{file}", self._static))
        self._asgi = Starlette(routes=routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._asgi(scope, receive, send)

    async def close(self) -> None:
        """Close the store. Who serves the dashboard by itself need not: the end of the server does it."""
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
            except (ConfigurationError, RepositoryError) as error:
                return self._problem(request, 400, "That did not work", str(error))

        return endpoint

    def _posted(
        self, page: Callable[[Request, str, Mapping[str, str]], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request, viewer: str) -> Response:
            form = await _form(request)
            user = await self._guard.user(request, form.get("do", "") or "stop")
            self._guard.check_form(request, request.cookies.get(_SESSION), user, form.get("token", ""))
            if self._read_only:
                raise RefusedError(403, "The dashboard is read-only; nothing was changed.")
            return await page(request, user, form)

        return self._endpoint(checked)

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
        flash = self._read_flash(request)
        survey = self._survey
        values = {"refresh": 4000, **values}
        text = self._templates.get_template(page).render(
            user=user,
            token=self._guard.token(session, user),
            flash=flash,
            now=survey.now,
            survey=survey,
            silence=survey.silence,
            read_only=self._read_only,
            show_arguments=self._show_arguments,
            path=request.url.path.rpartition("/")[2],
            running=sum(job.state == "running" for job in self._jobs.all.values()),
            **values,
        )
        response = HTMLResponse(text, status, {**HEADERS, **(headers or {})})
        if request.cookies.get(_SESSION) != session:
            _set_cookie(request, response, _SESSION, session)
        if flash:
            response.delete_cookie(_FLASH)
        return response

    def _done(self, request: Request, where: str, text: str) -> Response:
        """Go on to a page that says what was done."""
        self._survey.changed()
        response = RedirectResponse(where, 303, HEADERS)
        told = base64.urlsafe_b64encode(text[:1000].encode()).decode()
        _set_cookie(request, response, _FLASH, f"{told}.{self._guard.sign(told)}")
        return response

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

    # --- pages ------------------------------------------------------------------------------------------------------------

    async def _overview(self, request: Request, user: str) -> Response:
        survey = self._survey
        await survey.look()
        client = await self._connection.client()
        now = client.clock.now()
        hours = [0] * HOURS
        for counts in survey.counts.values():
            hours = [one + other for one, other in zip(hours, counts.hours, strict=True)]
        for found in survey.static.values():
            for at in words.occurrences(found, HOURS):
                hour = (at - now) // timedelta(hours=1)
                if found.state_at(now) != "paused" and hour < HOURS:
                    hours[max(hour, 0)] += 1
        return self._render(
            request,
            "overview.html",
            user,
            tasks=[(task, isinstance(task, StaticTask)) for task in client.tasks],
            coming=drawing.coming(hours, now),
            past=drawing.past(survey.runs, now),
            runs=survey.runs[:8],
            alive=[worker for worker in survey.workers if worker.alive],
            states=_STATES,
            store=type(client.repository).__name__.lstrip("_").removesuffix("Repository"),
            clock=now,
        )

    async def _task(self, request: Request, user: str) -> Response:
        survey, query = self._survey, request.query_params
        await survey.look()
        client = await self._connection.client()
        task = _declared(client, query.get("name", ""))
        if isinstance(task, StaticTask):
            return RedirectResponse(_link("instance", task=task.name), 303, HEADERS)
        state, prefix, token = query.get("state", ""), query.get("prefix", ""), query.get("token") or None
        key = "list", task.name, state, prefix, token
        found, following, looked = await self._connection.ask(
            key, lambda client: actions.some_of(client, task, token, state, prefix, _LIMIT)
        )
        exact = None
        if prefix and token is None:
            exact = await self._connection.ask(("get", task.name, prefix), lambda client: _get(client, task, prefix))
        return self._render(
            request,
            "task.html",
            user,
            task=task,
            found=found,
            exact=exact,
            looked=looked,
            state=state,
            prefix=prefix,
            token_now=token,
            following=following,
            states=_STATES,
            counts=survey.counts.get(task.name),
            clock=client.clock.now(),
        )

    async def _instance(self, request: Request, user: str) -> Response:
        query = request.query_params
        await self._survey.look()
        client = await self._connection.client()
        task, name, token = _declared(client, query.get("task", "")), query.get("name", ""), query.get("token") or None
        instance = None if isinstance(task, StaticTask) else name
        found = await self._connection.ask(("get", task.name, instance), lambda client: client.get_task(task, instance))
        try:
            history = await self._connection.ask(
                ("runs", task.name, instance, token),
                lambda client: client.list_runs(task, instance, limit=_RUNS, continuation_token=token),
            )
        except StoreAwayError as error:
            if not isinstance(error.__cause__, RepositoryError):
                raise
            history = None
        arguments = None
        if query.get("arguments") == "1" and found is not None and self._show_arguments:
            await self._guard.user(request, "arguments")
            try:
                arguments = json.dumps(found.args, indent=2, ensure_ascii=False, default=str)
            except (ValueError, PyncetteError):
                arguments = found.row.spec
        schedule, zone = "", ""
        try:
            known = found.schedule if found is not None else task.schedule if isinstance(task, StaticTask) else None
            if known is not None:
                schedule, zone = words.schedule_in_words(known), known.timezone
        except ScheduleError as error:
            schedule = str(error)
        return self._render(
            request,
            "instance.html",
            user,
            task=task,
            name=instance or "",
            found=found,
            history=history,
            arguments=arguments,
            schedule=schedule,
            zone=zone,
            times=[] if found is None or found.state == "unreadable" else words.occurrences(found),
            template=isinstance(task, Template),
            clock=client.clock.now(),
        )

    async def _failed(self, request: Request, user: str) -> Response:
        await self._survey.look()
        client = await self._connection.client()
        now = client.clock.now()
        static = [
            found
            for found in self._survey.static.values()
            if found.state_at(now) in ("failed", "retrying", "lease over", "unreadable")
        ]
        return self._render(request, "failed.html", user, static=static, counts=self._survey.counts, clock=now)

    async def _workers(self, request: Request, user: str) -> Response:
        await self._survey.look()
        return self._render(request, "workers.html", user)

    async def _undeclared(self, request: Request, user: str) -> Response:
        await self._survey.look()
        return self._render(request, "undeclared.html", user)

    async def _upcoming(self, request: Request, user: str) -> Response:
        query = request.query_params
        await self._survey.look()
        client = await self._connection.client()
        now = client.clock.now().replace(second=0, microsecond=0)
        zone, task = query.get("zone", ""), query.get("task", "")
        start = actions.instant_of(query["from"], zone) if query.get("from") else now
        end = actions.instant_of(query["to"], zone) if query.get("to") else start + timedelta(days=1)
        if task:
            _declared(client, task)
        if end <= start:
            raise ConfigurationError(f"The end, {end}, is not after the start, {start}; exchange them")
        search = self._searches.get(client, start, end, task)
        await search.job.wait(0.15)
        found = sorted(search.found)
        return self._render(
            request,
            "upcoming.html",
            user,
            search=search.job,
            found=found[:MOST],
            more=len(found) > MOST,
            start=start,
            end=end,
            zone=zone,
            task=task,
            tasks=client.tasks,
            query=query,
            clock=client.clock.now(),
            refresh=1000 if search.job.state == "running" else 15000,
        )

    # --- actions ----------------------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, user: str) -> Response:
        return await self._form_of(request, user, request.query_params)

    async def _form_of(self, request: Request, user: str, values: Mapping[str, str], **more: Any) -> Response:
        client = await self._connection.client()
        do = values.get("do", "")
        if do not in actions.ACTIONS:
            raise ConfigurationError(f"There is no action {do!r}")
        if self._read_only:
            raise RefusedError(403, "The dashboard is read-only.")
        user = await self._guard.user(request, do)
        task = _declared(client, values.get("task", ""))
        action = actions.ACTIONS[do]
        asked = actions.Request(client, task, values.get("name", ""), user, values)
        now = client.clock.now().replace(microsecond=0, tzinfo=None)
        return self._render(
            request,
            "act.html",
            user,
            do=do,
            action=action,
            question=action.question.format(asked.what),
            task=task,
            values=values,
            start=(now - timedelta(days=1)).isoformat(timespec="minutes"),
            end=now.isoformat(timespec="minutes"),
            refresh=0,
            **{"times": None, "error": "", **more},
        )

    async def _act(self, request: Request, user: str, form: Mapping[str, str]) -> Response:
        client = await self._connection.client()
        do = form.get("do", "")
        action = actions.ACTIONS.get(do)
        if action is None:
            raise ConfigurationError(f"There is no action {do!r}")
        task, name = _declared(client, form.get("task", "")), form.get("name", "")
        asked = actions.Request(client, task, name, user, form)
        where = (
            _link("task", name=task.name)
            if isinstance(task, Template) and not name
            else _link("instance", task=task.name, name=name)
        )
        try:
            if do == "backfill" and form.get("dry"):
                zone = form.get("zone", "")
                span = {each: actions.instant_of(form.get(each, ""), zone) for each in ("start", "end")}
                times = await self._connection.within(client.backfill_times(task, asked.instance, **span))
                return await self._form_of(request, user, form, times=times)
            if action.work is not None:
                work = action.work

                async def run(job: Job) -> None:
                    try:
                        await work(asked, job)
                    finally:
                        self._survey.changed()

                title = f"{action.label}: {asked.what}"
                return RedirectResponse(_link("job", id=self._jobs.start(title, user, client.clock.now(), run).id), 303, HEADERS)
            assert action.run is not None
            text = await action.run(asked)
        except (ConfigurationError, RepositoryError, StoreAwayError) as error:
            return await self._form_of(request, user, form, error=str(error))
        if do == "unschedule":
            where = _link("task", name=task.name)
        return self._done(request, where, text)

    async def _job(self, request: Request, user: str) -> Response:
        job = self._jobs.all.get(request.query_params.get("id", ""))
        if job is None:
            raise ConfigurationError("There is no such job here; it may have ended long ago, or run in another process")
        return self._render(request, "job.html", user, job=job, refresh=700 if job.state == "running" else 0)

    async def _all_jobs(self, request: Request, user: str) -> Response:
        return self._render(request, "jobs.html", user, jobs=list(reversed(self._jobs.all.values())))

    async def _stop(self, request: Request, user: str, form: Mapping[str, str]) -> Response:
        job = self._jobs.all.get(form.get("id", ""))
        if job is not None:
            job.stop()
            await job.wait(0.5)
        return RedirectResponse(_link("job", id=form.get("id", "")), 303, HEADERS)


def _declared(client: Client, name: str) -> Task:
    for task in client.tasks:
        if task.name == name:
            return task
    raise ConfigurationError(f"The application declares no task {words.visible(name)[:300]!r}")


async def _get(client: Client, task: Task, name: str) -> Any:
    try:
        return await client.get_task(task, name)
    except ConfigurationError:  # no instance can have that name
        return None


async def _form(request: Request) -> Mapping[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise RefusedError(413, "The form is too large.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100))


def _link(page: str, **values: object) -> str:
    """A link to another page, relative: wherever the dashboard is mounted, all pages are beside each other."""
    query = urlencode({name: str(value) for name, value in values.items() if value not in (None, "")}, errors="surrogatepass")
    return f"{page}?{query}" if query else page


def _set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, httponly=True, samesite="strict", secure=request.url.scheme == "https")
