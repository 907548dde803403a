"""The pages that change something: confirmations, actions, and jobs in the background."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyncette import Client, ConfigurationError, RepositoryError, Undeclared
from pyncette.dashboard import actions, connection, words
from pyncette.dashboard.connection import Connection, StoreAwayError
from pyncette.dashboard.jobs import Job, Jobs
from pyncette.dashboard.pages import declared
from pyncette.dashboard.safety import HEADERS, Guard, RefusedError

__all__ = ["Acting"]

#: How long an action on many instances may take (seconds) to be shown as done at once.
_SMALL_JOB = 0.1


class Acting:
    """Handlers that ask for confirmation, act, and report the result."""

    _guard: Guard
    _connection: Connection
    _jobs: Jobs
    _read_only: bool

    def _render(self, request: Request, page: str, user: str, /, **values: Any) -> Response:
        raise NotImplementedError

    def _done(self, request: Request, where: str, text: str) -> Response:
        raise NotImplementedError

    def _changed(self) -> None:
        raise NotImplementedError

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
        action = actions.ACTIONS[do]
        asked = self._asked(client, user, do, values)
        now = client.clock.now().replace(microsecond=0, tzinfo=None)
        return self._render(
            request,
            "act.html",
            user,
            do=do,
            action=action,
            question=action.question.format(asked.what),
            cancel=asked.where,
            values=values,
            # In the address, where browsers keep names unchanged: in form fields they change line breaks.
            about={each: values.get(each, "") for each in ("do", "task", "name", "run", "kind", "state", "prefix")},
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
        asked = self._asked(client, user, do, form)
        try:
            if do == "backfill" and form.get("dry"):
                zone = form.get("zone", "")
                span = {each: actions.instant_of(form.get(each, ""), zone) for each in ("start", "end")}
                times = await self._connection.within(client.backfill_times(asked.task, asked.instance, **span))
                return await self._form_of(request, user, form, times=times)
        except (ConfigurationError, RepositoryError, StoreAwayError) as error:
            return await self._form_of(request, user, form, error=str(error))

        async def run(job: Job) -> None:
            try:
                if action.work is not None:
                    await action.work(asked, job)
                elif action.run is not None:
                    job.told = await action.run(asked)
            finally:
                self._changed()

        job = self._jobs.start(f"{action.label}: {asked.what}", user, client.clock.now(), run)
        await job.wait(_SMALL_JOB if action.run is None else connection.PATIENCE)
        if action.work is not None or job.state == "running":
            return RedirectResponse(words.link("job", id=job.id), 303, HEADERS)
        self._jobs.forget(job)
        if job.state != "done":
            return await self._form_of(request, user, form, error=job.error)
        gone = do == "unschedule" and not asked.extra_run
        return self._done(request, words.link("task", name=asked.task.name) if gone else asked.where, job.told)

    def _asked(self, client: Client, user: str, do: str, values: Mapping[str, str]) -> actions.Request:
        """The target of a form, or of a link to one; raises ConfigurationError if no task has that name."""
        undeclared = do == "discard-undeclared"
        target = (
            Undeclared(values.get("kind", ""), values.get("name", "")) if undeclared else declared(client, values.get("task", ""))
        )
        return actions.Request(client, target, user, values)

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
        return RedirectResponse(words.link("job", id=form.get("id", "")), 303, HEADERS)
