"""The actions: their questions, their effects and their reports. All act through the client, with the user's name."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from pyncette import Client, ConfigurationError, Task, Template, Undeclared
from pyncette.dashboard.jobs import Job
from pyncette.dashboard.searching import matches
from pyncette.dashboard.words import link, visible

__all__ = ["ACTIONS", "Action", "Request", "instant_of"]

_DURATION = re.compile(r"(\d{1,9})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AT_ONCE = 20
_PAGE = 250


@dataclass
class Request:
    """A request for an action: its target and its user."""

    client: Client
    target: Task | Undeclared
    by: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        if isinstance(self.target, Undeclared):
            raise ConfigurationError(f"The application does not declare {visible(self.target.name)}")
        return self.target

    @property
    def undeclared(self) -> Undeclared:
        if not isinstance(self.target, Undeclared):
            raise ConfigurationError(f"The application declares {visible(self.target.name)}")
        return self.target

    @property
    def name(self) -> str:
        """The instance; empty for a static task, and for an action on many."""
        return self.values.get("name", "")

    @property
    def template(self) -> Template:
        """The task, typed as a template: the client refuses others."""
        return cast("Template", self.task)

    @property
    def what(self) -> str:
        if isinstance(self.target, Undeclared):
            return f"the {visible(self.target.kind)} {visible(self.target.name)}"
        name = f"{visible(self.name)} of {visible(self.task.name)}" if self.name else visible(self.task.name)
        return f"an extra run of {name}" if self.extra_run else name

    @property
    def where(self) -> str:
        """The page that shows the target."""
        if isinstance(self.target, Undeclared):
            return link("undeclared")
        if isinstance(self.task, Template) and not self.name:
            return link("task", name=self.task.name)
        return link("instance", task=self.task.name, name=self.name)

    @property
    def instance(self) -> str | None:
        return self.name or None

    @property
    def extra_run(self) -> str | None:
        """The single extra run that is meant; None: the task or instance itself."""
        return self.value("run") or None

    def value(self, name: str) -> str:
        return self.values.get(name, "").strip()


@dataclass(frozen=True)
class Action:
    """One of them."""

    label: str
    #: The question to confirm.
    question: str
    #: Performs the action, and returns a report.
    run: Callable[[Request], Awaitable[str]] | None = None
    #: Or performs it in the background.
    work: Callable[[Request, Job], Awaitable[None]] | None = None
    #: Further fields of the form: "note", "schedule", "span".
    form: str = ""
    danger: bool = False


def instant_of(text: str, zone: str) -> datetime:
    """The instant in a field: with an offset, or as wall time in ``zone``."""
    try:
        at = datetime.fromisoformat(text.strip())
        return at if at.tzinfo is not None else at.replace(tzinfo=ZoneInfo(zone.strip() or "UTC"))
    except (ValueError, OSError, KeyError) as error:  # unknown zones raise KeyError, and impossible file names other errors
        raise ConfigurationError(
            f"{text!r} in {zone or 'UTC'!r} is not an instant; write 2026-07-01T09:00 and a time zone"
        ) from error


async def _trigger(request: Request) -> str:
    found = await request.client.trigger_task(request.task, request.instance, by=request.by)
    return f"{request.what} runs again." if found else f"There is no {request.what} any more; nothing was done."


async def _pause(request: Request) -> str:
    note = request.value("note") or None
    found = await request.client.pause_task(request.task, request.instance, note=note, by=request.by)
    return f"{request.what} is paused." if found else f"There is no {request.what} in the store; nothing was done."


async def _resume(request: Request) -> str:
    found = await request.client.resume_task(request.task, request.instance, by=request.by)
    return f"{request.what} is resumed." if found else f"There is no {request.what} any more; nothing was done."


async def _retry(request: Request) -> str:
    found = await request.client.retry_task(request.task, request.instance, extra_run=request.extra_run, by=request.by)
    return f"{request.what} is retried." if found else f"{request.what} has not failed, or is gone; nothing was done."


async def _unschedule(request: Request) -> str:
    found = await request.client.unschedule_task(request.task, request.instance, extra_run=request.extra_run, by=request.by)
    return f"{request.what} is unscheduled." if found else f"There is no {request.what} any more; nothing was done."


async def _reschedule(request: Request) -> str:
    schedule, interval, at = (request.value(each) or None for each in ("schedule", "interval", "execute_at"))
    zone = request.value("zone") or None
    length = None
    if interval is not None:
        parts = _DURATION.fullmatch(interval)
        if parts is None:
            raise ConfigurationError(f"{interval!r} is not a duration; write 90s, 5m, 12h, 2d or 1w")
        length = timedelta(**{_UNITS[parts[2]]: int(parts[1])})
    found = await request.client.reschedule_task(
        request.template,
        request.instance,
        schedule=schedule,
        interval=length,
        execute_at=None if at is None else instant_of(at, zone or ""),
        timezone=zone,
        by=request.by,
    )
    return f"{request.what} has another schedule." if found else f"There is no {request.what} any more; nothing was done."


async def _backfill(request: Request) -> str:
    zone = request.value("zone")
    span = {each: instant_of(request.value(each), zone) for each in ("start", "end")}
    count = await request.client.backfill_task(
        request.task, request.instance, **span, again=request.value("again") == "yes", by=request.by
    )
    return f"{count} runs of {request.what} are added." if count else f"There was nothing to add for {request.what}."


async def _pause_template(request: Request) -> str:
    await request.client.pause_template(request.template, note=request.value("note") or None, by=request.by)
    return f"All of {request.what} is paused, in every process within ten seconds."


async def _resume_template(request: Request) -> str:
    found = await request.client.resume_template(request.template, by=request.by)
    return f"All of {request.what} is resumed." if found else f"{request.what} was not paused; nothing was done."


async def _retry_all(request: Request, job: Job) -> None:
    job.done = await request.client.retry_tasks(request.task, progress=lambda done: setattr(job, "done", done), by=request.by)


async def _discard_all(request: Request, job: Job) -> None:
    job.done = await request.client.discard_tasks(request.task, progress=lambda done: setattr(job, "done", done), by=request.by)


async def _discard_undeclared(request: Request, job: Job) -> None:
    asked = request.undeclared
    if not any((each.kind, each.name) == (asked.kind, asked.name) for each in await request.client.list_undeclared()):
        raise ConfigurationError(f"The store has no undeclared rows of {request.what} any more; nothing was done.")
    job.done = await request.client.discard_undeclared(asked, progress=lambda done: setattr(job, "done", done), by=request.by)


def _each(call: Callable[[Request, str], Awaitable[bool]]) -> Callable[[Request, Job], Awaitable[None]]:
    """Let ``call`` change all instances that match the filter of the form, page by page."""

    async def work(request: Request, job: Job) -> None:
        client, token = request.client, None
        state, prefix = request.value("state"), request.value("prefix")
        while True:
            page = await client.list_tasks(request.task, limit=_PAGE, continuation_token=token)
            now = client.clock.now()
            names = [found.name for found in page.tasks if matches(found, state, prefix, now)]
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                for done in await asyncio.gather(*(call(request, each) for each in some), return_exceptions=True):
                    if isinstance(done, BaseException):
                        job.failed += 1
                        job.error = str(done)
                    else:
                        job.done += bool(done)
            job.looked_at += len(page.tasks)
            token = page.continuation_token
            if token is None:
                return

    return work


async def _pause_one(request: Request, name: str) -> bool:
    return await request.client.pause_task(request.task, name, note=request.value("note") or None, by=request.by)


async def _resume_one(request: Request, name: str) -> bool:
    return await request.client.resume_task(request.task, name, by=request.by)


async def _retry_one(request: Request, name: str) -> bool:
    return await request.client.retry_task(request.task, name, by=request.by)


async def _unschedule_one(request: Request, name: str) -> bool:
    return await request.client.unschedule_task(request.task, name, by=request.by)


ACTIONS: Mapping[str, Action] = {
    "trigger": Action("Run now", "Run {} again, now? Its schedule does not change.", _trigger),
    "pause": Action("Pause", "Pause {}? A run in progress continues.", _pause, form="note"),
    "resume": Action("Resume", "Resume {}? Of the occurrences it missed, the latest runs at once.", _resume),
    "retry": Action("Retry", "Retry {}, at once and with all its attempts?", _retry),
    "reschedule": Action("Reschedule", "Give {} another schedule? Its arguments stay.", _reschedule, form="schedule"),
    "backfill": Action("Backfill", "Run {} for past times?", _backfill, form="span"),
    "unschedule": Action("Unschedule", "Remove {}? A run in progress continues to its end.", _unschedule, danger=True),
    "pause-template": Action("Pause all", "Pause all of {}, in every process?", _pause_template, form="note"),
    "resume-template": Action("Resume all", "Resume all of {}?", _resume_template),
    "retry-all": Action("Retry all", "Retry all failed instances of {}?", work=_retry_all),
    "discard-all": Action("Discard all", "Remove all of {} that failed?", work=_discard_all, danger=True),
    "discard-undeclared": Action(
        "Remove",
        "Remove all rows of {} from the store? If another application uses them, it loses them.",
        work=_discard_undeclared,
        danger=True,
    ),
    "pause-these": Action("Pause these", "Pause all instances of {} that match the filter?", work=_each(_pause_one), form="note"),
    "resume-these": Action("Resume these", "Resume all instances of {} that match the filter?", work=_each(_resume_one)),
    "retry-these": Action("Retry these", "Retry all failed instances of {} that match the filter?", work=_each(_retry_one)),
    "unschedule-these": Action(
        "Unschedule these", "Remove all instances of {} that match the filter?", work=_each(_unschedule_one), danger=True
    ),
}
