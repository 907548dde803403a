"""The pages that only read."""

import contextlib
import json
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyncette import Client, ConfigurationError, PyncetteError, RepositoryError, Task, Template
from pyncette.dashboard import actions, drawing, words
from pyncette.dashboard.connection import Connection
from pyncette.dashboard.safety import HEADERS, Guard
from pyncette.dashboard.searching import Finding, Reader, Search, Searches
from pyncette.dashboard.survey import HOURS, Survey
from pyncette.dashboard.upcoming import MOST, Upcoming
from pyncette.errors import ScheduleError
from pyncette.schedule import Schedule
from pyncette.tasks import StaticTask

__all__ = ["STATES", "Pages", "declared"]

_S = TypeVar("_S", bound=Search)

_LIMIT, _RUNS = 50, 20
#: How long a page waits for a search (seconds) before it shows partial results, and updates later.
_PATIENCE = 0.05
STATES = ("scheduled", "due", "running", "retrying", "lease expired", "paused", "failed", "unreadable")


class Pages:
    """Handlers that read shared results, or query the store once for all viewers."""

    _guard: Guard
    _connection: Connection
    _survey: Survey
    _searches: Searches
    _show_arguments: bool

    def _render(self, request: Request, page: str, user: str, /, **values: Any) -> Response:
        raise NotImplementedError

    def _look_for(self, key: Hashable, make: Callable[[Client, Reader], _S], client: Client) -> _S:
        reader = self._connection.reader
        return cast(_S, self._searches.get(key, lambda: make(client, reader)))

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
            states=STATES,
            store=type(client.repository).__name__.lstrip("_").removesuffix("Repository"),
            clock=now,
        )

    async def _task(self, request: Request, user: str) -> Response:
        survey, query = self._survey, request.query_params
        await survey.look()
        client = await self._connection.client()
        task = declared(client, query.get("name", ""))
        if isinstance(task, StaticTask):
            return RedirectResponse(words.link("instance", task=task.name), 303, HEADERS)
        state, prefix, token = query.get("state", ""), query.get("prefix", ""), query.get("token") or None
        search: Finding | None = None
        if state or prefix:
            search = self._look_for(
                ("list", task.name, state, prefix, token),
                lambda client, reader: Finding(client, reader, task, token, state, prefix, _LIMIT),
                client,
            )
            await search.job.wait(_PATIENCE)
            found, following = search.found, search.following
        else:
            page = await self._connection.ask(
                ("list", task.name, token),
                lambda client: client.list_tasks(task, limit=_LIMIT, continuation_token=token, extra_runs=True),
            )
            found, following = list(page.tasks), page.continuation_token
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
            search=search,
            state=state,
            prefix=prefix,
            token_now=token,
            following=following,
            states=STATES,
            counts=survey.counts.get(task.name),
            stats=survey.stats.get(task.name),
            **({"refresh": 1000} if search and search.job.state == "running" else {}),
            clock=client.clock.now(),
        )

    async def _instance(self, request: Request, user: str) -> Response:
        query = request.query_params
        await self._survey.look()
        client = await self._connection.client()
        task, name, token = declared(client, query.get("task", "")), query.get("name", ""), query.get("token") or None
        instance = None if isinstance(task, StaticTask) else name
        found = await self._connection.ask(("get", task.name, instance), lambda client: client.get_task(task, instance))
        try:
            history = await self._connection.ask(
                ("runs", task.name, instance, token),
                lambda client: client.list_runs(task, instance, limit=_RUNS, continuation_token=token),
            )
        except RepositoryError:  # a store without a history
            history = None
        arguments = None
        if query.get("arguments") == "1" and found is not None and self._show_arguments:
            await self._guard.user(request, "arguments")
            try:
                arguments = json.dumps(found.args, indent=2, ensure_ascii=False, default=str)
            except (ValueError, PyncetteError):
                arguments = found.row.spec
        known: Schedule | None = task.schedule if found is None and isinstance(task, StaticTask) else None
        with contextlib.suppress(ScheduleError):
            known = found.schedule if found is not None else known
        return self._render(
            request,
            "instance.html",
            user,
            task=task,
            name=instance or "",
            found=found,
            history=history,
            arguments=arguments,
            schedule="" if found is None else found.schedule_in_words,
            zone="" if known is None else known.timezone,
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
            if found.state_at(now) in ("failed", "retrying", "lease expired", "unreadable")
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
            declared(client, task)
        if end <= start:
            raise ConfigurationError(f"The end, {end}, is not after the start, {start}; swap them")
        search = self._look_for((start, end, task), lambda client, reader: Upcoming(client, reader, start, end, task), client)
        await search.job.wait(_PATIENCE)
        found = sorted(search.found)
        return self._render(
            request,
            "upcoming.html",
            user,
            search=search,
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


def declared(client: Client, name: str) -> Task:
    for task in client.tasks:
        if task.name == name:
            return task
    raise ConfigurationError(f"The application declares no task {words.visible(name)[:300]!r}")


async def _get(client: Client, task: Task, name: str) -> Any:
    try:
        return await client.get_task(task, name)
    except ConfigurationError:  # no instance can have that name
        return None
