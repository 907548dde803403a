"""``pyncette list``, ``show`` and ``unschedule``: what is declared, and what the store has of it."""

import argparse
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.checks import did_you_mean
from pyncette.cli.output import note, print_json, print_pairs, print_table
from pyncette.errors import ConfigurationError, PyncetteError, ScheduleError
from pyncette.scheduled import ScheduledTask
from pyncette.schedules.kinds import Cron, Interval, Schedule
from pyncette.store.contract import Key, State, SupportsPartitions, SupportsStats
from pyncette.tasks import STATIC_PARTITION, PartitionedTask, StaticTask, Task, Template

__all__ = ["find_task", "list_tasks", "opened", "show", "stored_instances", "unschedule"]

_PAGE = 1000
#: Beginnings of partitions that have no tasks: core's notes, and what `pyncette check` leaves where it is killed.
_NO_TASKS = ("layouts", "check:")


@contextlib.asynccontextmanager
async def opened(app: Pyncette) -> AsyncIterator[PyncetteContext]:
    """The application with its store open, and nothing run or set up."""
    async with app.create(fixtures=False, layouts="compare") as app_context:
        if not app_context.repository.shared:
            note("the app keeps its tasks in memory, where only the process that runs it sees them; --url names another store")
        yield app_context


def find_task(app: Pyncette, name: str) -> Task:
    """The task that is declared as ``name``."""
    tasks = {task.name: task for task in app.tasks}
    if name not in tasks:
        close = did_you_mean(name, tasks)
        hint = f"did you mean {close!r}?" if close else f"its tasks are {', '.join(tasks)}" if tasks else "nor any other"
        raise ConfigurationError(f"The app has no task {name!r}; {hint}")
    return tasks[name]


async def stored_instances(app_context: PyncetteContext, template: Task, limit: int = 0) -> AsyncIterator[ScheduledTask]:
    """The stored instances of ``template``, the first ``limit`` of them unless that is 0."""
    left, token = limit, None
    while True:
        page = await app_context.list_tasks(template, limit=min(left, _PAGE) if limit else _PAGE, continuation_token=token)
        for instance in page.tasks:
            yield instance
        left, token = left - len(page.tasks), page.continuation_token
        if token is None or (limit and left <= 0):
            return


# --- list ---------------------------------------------------------------------------------------------------------------


async def list_tasks(app: Pyncette, arguments: argparse.Namespace) -> int:
    """All tasks of an application, or the instances of one template."""
    async with opened(app) as app_context:
        if arguments.template is None:
            described = [await _describe_task(app_context, task) for task in app.tasks]
            described += [{"task": name, "kind": "not declared here"} for name in await _undeclared(app, app_context)]
            if arguments.json:
                _print_all(described)
            else:
                print_table(["task", "kind", "schedule", "next", "state"], map(_task_cells, described))
            return 0
        template = find_task(app, arguments.template)
        if arguments.json:
            async for instance in stored_instances(app_context, template, arguments.limit):
                print_json({"task": template.name, "instance": instance.name, **_stored(instance, app_context.clock.now())})
            return 0
        # One more, to know whether there are more.
        found = [each async for each in stored_instances(app_context, template, arguments.limit and arguments.limit + 1)]
        shown = found[: arguments.limit or None]
        cells = ((instance.name, *_stored_cells(_stored(instance, app_context.clock.now()))) for instance in shown)
        print_table(["instance", "schedule", "next", "state"], cells)
        if len(shown) < len(found):
            note(f"there are more than these {arguments.limit}; --limit 0 lists all")
    return 0


async def _describe_task(app_context: PyncetteContext, task: Task) -> Mapping[str, Any]:
    described = {"task": task.name, "kind": _kind(task), "enabled": task.enabled}
    now = app_context.clock.now()
    if isinstance(task, StaticTask):
        stored = await app_context.get_task(task)
        return described | (_declared(task.schedule) | {"state": "not stored"} if stored is None else _stored(stored, now))
    repository = app_context.repository
    if not isinstance(task, Template) or not isinstance(repository, SupportsStats):
        return described
    stats = [await repository.stats(now, partition) for partition in task.all_partitions()]
    oldest = min((each.oldest_due for each in stats if each.oldest_due is not None), default=None)
    return described | {
        "instances": sum(each.rows for each in stats),
        "due": sum(each.due for each in stats),
        "oldest_due": _iso(oldest),
        "failed": sum(each.failed for each in stats),
    }


def _task_cells(described: Mapping[str, Any]) -> Sequence[object]:
    cells: Sequence[object] = (None, None, None)
    if described.get("instances") is not None:
        counts = [f"{described['instances']} instance{'' if described['instances'] == 1 else 's'}"]
        if described["due"]:
            counts.append(f"{described['due']} due since {_shown(described['oldest_due'])}")
        if described["failed"]:
            counts.append(f"{described['failed']} failed")
        cells = (None, None, ", ".join(counts))
    elif "state" in described:
        cells = _stored_cells(described)
    *most, state = cells
    if not described.get("enabled", True):
        state = "disabled" if state is None else f"{state}; disabled"
    return (described["task"], described["kind"], *most, state)


async def _undeclared(app: Pyncette, app_context: PyncetteContext) -> Sequence[str]:
    """What the store has besides: static tasks by name, the rest by partition. Renamed, removed, or another application's."""
    static = {task.name for task in app.tasks if isinstance(task, StaticTask)}
    names, token = [], None
    while True:
        page = await app_context.repository.list(STATIC_PARTITION, limit=_PAGE, token=token)
        names += [row.key.name for row in page.rows if row.key.name not in static]
        token = page.token
        if token is None:
            break
    if isinstance(app_context.repository, SupportsPartitions):
        known = {STATIC_PARTITION}
        known.update(partition for task in app.tasks for partition in _all_partitions(task))
        stored = await app_context.repository.partitions()
        names += [partition for partition in sorted(stored) if partition not in known and not partition.startswith(_NO_TASKS)]
    return names


def _all_partitions(task: Task) -> Sequence[str]:
    return task.all_partitions() if isinstance(task, Template) else task.partitions()


# --- show ---------------------------------------------------------------------------------------------------------------


async def show(app: Pyncette, arguments: argparse.Namespace) -> int:
    """All about one task, or one instance of a template."""
    async with opened(app) as app_context:
        task = find_task(app, arguments.name)
        if arguments.instance is None:
            values = {**await _describe_task(app_context, task), **_options(task), "arguments": dict(task.args)}
        if arguments.instance is not None or isinstance(task, StaticTask):
            stored = await app_context.get_task(task, arguments.instance)
            if arguments.instance is not None:
                if stored is None:
                    raise ConfigurationError(f"Task {task.name!r} has no instance {arguments.instance!r} in the store")
                now = app_context.clock.now()
                values = {"task": task.name, "instance": stored.name, "kind": _kind(task), **_stored(stored, now), **_options(task)}
            if stored is not None:
                values |= {"partition": stored.row.key.partition, "arguments": _arguments(stored)}
            if stored is not None and isinstance(task, StaticTask) and stored.row.schedule != task.schedule.text:
                values["declared"] = f"{task.schedule.text}; in force from the next start"
        if arguments.json:
            print_json(values)
        else:
            values |= {name: _shown(values[name]) for name in ("next", "ready", "locked_until", "oldest_due") if values.get(name)}
            values["arguments"] = json.dumps(values["arguments"], ensure_ascii=False)
            print_pairs({name.replace("_", " "): value for name, value in values.items()})
    return 0


def _kind(task: Task) -> str:
    return type(task).__name__.removesuffix("Task").lower()


def _options(task: Task) -> dict[str, Any]:
    options = {
        "execution_mode": task.execution_mode.name,
        "failure_mode": task.failure_mode.name,
        "lease_duration": str(task.lease_duration),
        "fast_forward": task.fast_forward,
        "max_attempts": task.max_attempts,
        "retry_delay": None if task.retry_delay is None else str(task.retry_delay),
    }
    return options | ({"partition_count": task.partition_count} if isinstance(task, PartitionedTask) else {})


def _arguments(stored: ScheduledTask) -> Any:
    try:
        return stored.args
    except (ValueError, PyncetteError):
        return stored.row.spec


def _declared(schedule: Schedule) -> dict[str, Any]:
    if isinstance(schedule, Cron):
        text = schedule.expression
    else:
        text = f"every {schedule.duration}" if isinstance(schedule, Interval) else "once"
    return {"schedule": text, "timezone": schedule.timezone}


def _stored(stored: ScheduledTask, now: datetime) -> dict[str, Any]:
    row = stored.row
    try:
        schedule = _declared(stored.schedule)
    except ScheduleError:
        schedule = {"schedule": row.schedule, "timezone": None}  # that of a release to come, perhaps
    return schedule | {
        "next": _iso(stored.scheduled_at),
        "ready": _iso(row.ready_at),
        "state": _state(stored, now),
        "locked_until": _iso(row.locked_until),
        "attempt": row.attempt,
        "error": row.error,
    }


def _state(stored: ScheduledTask, now: datetime) -> str:
    row = stored.row
    if row.state is not State.SCHEDULED:
        return row.state.value
    if row.locked_until is not None:
        return "running" if row.locked_until > now else "lease over"
    return "due" if row.ready_at is not None and row.ready_at <= now else "scheduled"


def _stored_cells(values: Mapping[str, Any]) -> Sequence[object]:
    zone = values["timezone"]
    schedule = values["schedule"] + (f" {zone}" if zone not in (None, "UTC") else "")
    return schedule, _shown(values.get("next")), values["state"]


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _shown(instant: str | None) -> str | None:
    return None if instant is None else datetime.fromisoformat(instant).isoformat(sep=" ", timespec="seconds")


def _print_all(described: Sequence[Mapping[str, Any]]) -> None:
    for values in described:
        print_json(values)


# --- unschedule ---------------------------------------------------------------------------------------------------------


async def unschedule(app: Pyncette, arguments: argparse.Namespace) -> int:
    """Remove an instance, or a static task that the application does not declare any more."""
    async with opened(app) as app_context:
        if arguments.instance is not None:
            removed = await app_context.unschedule_task(find_task(app, arguments.name), arguments.instance)
            what = f"{arguments.instance!r} of {arguments.name!r}"
        else:
            if any(task.name == arguments.name for task in app.tasks):
                raise ConfigurationError(
                    f"{arguments.name!r} is declared by the app: take it out there if it is static, or name an instance of it"
                )
            key = Key(STATIC_PARTITION, arguments.name)
            removed = (await app_context.repository.unregister(app_context.clock.now(), [key]))[0]
            what = f"{arguments.name!r}"
        if not removed:
            raise ConfigurationError(f"The store has no {what}; nothing is changed")
        if arguments.json:
            print_json({"task": arguments.name, "instance": arguments.instance, "unscheduled": True})
        else:
            note(f"{what} is unscheduled")
    return 0
