"""``pyncette list`` and ``show``: what is declared, and what is stored."""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.filters import Filter, instance_of
from pyncette.cli.output import note, print_json, print_pairs, print_table
from pyncette.cli.remembered import last_of, remembered, shown, state_in_words, told
from pyncette.cli.stored import Budget, Group, count, describe_schedule, expressed, find, groups, locate, opened, state_of, when
from pyncette.cli.workers import note_nobody_alive, unpolled, workers_of
from pyncette.errors import ConfigurationError, PyncetteError
from pyncette.extra import is_extra
from pyncette.store.contract import Key, Row, State
from pyncette.tasks import PartitionedTask, StaticTask, Task, stored_arguments

__all__ = ["list_tasks", "show"]

#: The states that the line of a template counts, besides due.
_TOLD = ("scheduled", "running", "lease expired", "retrying", "paused", "failed", "unreadable")
#: How many instances are described between checks for Ctrl-C.
_BREATH = 1000


async def list_tasks(app: Pyncette, arguments: argparse.Namespace) -> int:
    """All tasks of an application and its store, or the instances of one template."""
    async with opened(app) as app_context:
        known = await groups(app_context)
        if arguments.template is not None:
            return await _list_instances(app_context, find(known, arguments.template, instances=not arguments.extra), arguments)
        if Filter.of(arguments).given:
            raise ConfigurationError("A filter is for the instances of a template; name one")
        budget = Budget()
        described = [await _describe(app_context, group, budget) for group in known]
        workers = await workers_of(app_context)
        if workers is not None:
            for group, values in zip(known, described, strict=True):
                if group.task is not None:
                    values["unpolled"] = unpolled(group.task, workers)
    if arguments.json:
        for values in described:
            print_json(values)
    else:
        if workers is None or not any(worker.alive for worker in workers):
            described = [{**values, "unpolled": None} for values in described]  # one line for all of them
        print_table(["task", "kind", "schedule", "next", "last", "state"], [_task_cells(each, arguments) for each in described])
        if workers is not None:
            note_nobody_alive(workers)
    return 0


async def _list_instances(app_context: PyncetteContext, group: Group, arguments: argparse.Namespace) -> int:
    cells: list[Sequence[object]] = []
    seen = 0
    # one more, to find out whether there are more
    async for row in Filter.of(arguments, extra=None).rows(app_context, group, arguments.limit and arguments.limit + 1):
        seen += 1
        if arguments.limit and seen > arguments.limit:
            break
        if seen % _BREATH == 0:
            await asyncio.sleep(0)
        values = _stored(row, app_context.clock.now())
        if arguments.json:
            print_json({"task": group.name, "instance": instance_of(row), "extra_run": is_extra(row), **values})
        else:
            cells.append((instance_of(row), *_row_cells(values, arguments)))
    if not arguments.json:
        print_table(["instance", "schedule", "next", "last", "state"], cells)
        if arguments.limit and seen > arguments.limit:
            note(f"there are more than these {arguments.limit}; list all with --limit 0")
        _note_mismatch(group)
        _note_paused(group)
    return 0


async def show(app: Pyncette, arguments: argparse.Namespace) -> int:
    """Show everything about a task, or an instance of a template."""
    async with opened(app) as app_context:
        known = await groups(app_context)
        group = find(known, arguments.name, instances=arguments.instance is not None)
        if arguments.instance is None:
            values = {
                **await _describe(app_context, group, Budget()),
                **_options(group.task),
                "arguments": _declared_arguments(group.task),
            }
        if arguments.instance is not None or group.kind == "static":
            if arguments.instance is None:
                found = [row for row in await app_context.repository.get([Key(group.partitions[0], group.name)]) if row is not None]
            else:
                found = list(await locate(app_context.repository, group, arguments.instance))
                if not found:
                    raise ConfigurationError(f"Task {group.name!r} has no instance {arguments.instance!r} in the store")
                described = {
                    "task": group.name,
                    "instance": found[0].key.name,
                    "kind": group.kind,
                    "declared": group.task is not None,
                }
                values = described | _stored(found[0], app_context.clock.now()) | _options(group.task)
            if found:
                values |= {"partition": found[0].key.partition, "arguments": _arguments(group.task, found[0])}
                if isinstance(group.task, StaticTask) and found[0].schedule != group.task.schedule.text:
                    values["from_next_start"] = group.task.schedule.text
    if arguments.json:
        print_json(values)
    else:
        if "last_run" in values:
            values |= {"state": state_in_words(values)} | told(values, found[0].schedule)
        values |= {name: shown(values[name]) for name in ("next", "ready", "locked_until", "oldest_due") if values.get(name)}
        if values["arguments"] is not None:
            values["arguments"] = json.dumps(values["arguments"], ensure_ascii=False)
        print_pairs({name.replace("_", " "): value for name, value in values.items()})
        _note_mismatch(group)
        _note_paused(group)
    return 0


def _note_paused(group: Group) -> None:
    if group.pause is not None:
        note(f"{group.name!r} is {group.pause}; see: pyncette resume --help")


def _note_mismatch(group: Group) -> None:
    if group.mismatch is not None:
        note(f"{group.name!r} is stored as {group.mismatch}, but the app declares it differently; see: pyncette move --help")


# --- what is known of a task --------------------------------------------------------------------------------------------


async def _describe(app_context: PyncetteContext, group: Group, budget: Budget) -> dict[str, Any]:
    task = group.task
    described: dict[str, Any] = {"task": group.name, "kind": group.kind, "declared": task is not None}
    if task is not None:
        described["enabled"] = task.enabled
    if group.kind == "static":
        [row] = await app_context.repository.get([Key(group.partitions[0], group.name)])
        if row is not None:
            return described | _stored(row, app_context.clock.now())
        declared = expressed(task.schedule) if isinstance(task, StaticTask) else {"schedule": None, "timezone": None}
        return described | declared | {"state": "not stored"}
    totals = await count(app_context, group, budget)
    if totals is not None:
        oldest_due = when(totals.ready) if totals.due else None
        described |= {"instances": totals.instances, "due": totals.due, "oldest_due": oldest_due, "failed": totals.failed}
        described |= {"next": when(totals.ready), "states": totals.states, "extra_runs": totals.extra}
    return described | {
        "paused": group.pause,
        "layout": None if group.layout is None else str(group.layout),
        "layout_differs": group.mismatch is not None,
    }


def _task_cells(described: Mapping[str, Any], arguments: argparse.Namespace) -> Sequence[object]:
    schedule = following = last = None
    remarks: list[str] = []
    if "state" in described:
        schedule, following, last, state = _row_cells(described, arguments)
        remarks.append(str(state))
    elif described.get("instances") or described["layout"] is not None:
        counts = []
        if described.get("instances") is not None:
            following = shown(described["next"])
            counts.append(f"{described['instances']} instance{'' if described['instances'] == 1 else 's'}")
            if described["due"]:
                counts.append(f"{described['due']} due since {following}")
            states = described["states"] or {"failed": described["failed"]}
            if set(states) != {"scheduled"}:
                counts += [f"{states[state]} {state}" for state in _TOLD if states.get(state)]
            if described["extra_runs"]:
                counts.append(f"{described['extra_runs']} extra run{'' if described['extra_runs'] == 1 else 's'}")
        remarks.append(", ".join(counts))
    elif described["declared"]:
        remarks.append("not stored")
    if not described["declared"]:
        remarks.append("not declared here")
    elif not described["enabled"]:
        remarks.append("disabled")
    if described.get("paused"):
        remarks.append(described["paused"])
    if described.get("unpolled"):
        remarks.append(described["unpolled"])
    if described.get("layout_differs"):
        remarks.append(f"stored as {described['layout']}")
    return described["task"], described["kind"], schedule, following, last, "; ".join(remark for remark in remarks if remark)


def _options(task: Task | None) -> dict[str, Any]:
    if task is None:
        return {}
    options = {
        "execution_mode": task.execution_mode.name,
        "failure_mode": task.failure_mode.name,
        "lease_duration": str(task.lease_duration),
        "catch_up": task.catch_up.name,
        "catch_up_window": None if task.catch_up_window is None else str(task.catch_up_window),
        "max_attempts": task.attempts,
        "retry_delay": None if task.retry_delay is None else str(task.retry_delay),
        "retry": None if task.retry is None else str(task.retry),
        "max_running": task.max_running,
        "timeout": None if task.timeout is None else str(task.timeout),
        "in_thread": task.in_thread or None,
    }
    return options | ({"partition_count": task.partition_count} if isinstance(task, PartitionedTask) else {})


def _declared_arguments(task: Task | None) -> dict[str, Any] | None:
    return None if task is None else dict(task.args)


def _arguments(task: Task | None, row: Row) -> Any:
    if row.state is State.UNREADABLE:
        return None
    try:
        arguments = json.loads(row.spec) if task is None else task.arguments(stored_arguments(row.spec))
        json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError, PyncetteError):
        return row.spec
    return arguments


# --- what is known of a row ---------------------------------------------------------------------------------------------


def _stored(row: Row, now: datetime) -> dict[str, Any]:
    return describe_schedule(row) | {
        "ready": when(row.ready_at),
        "state": state_of(row, now),
        "locked_until": when(row.locked_until),
        "attempt": row.attempt,
        "error": row.error,
        **remembered(row),
    }


def _row_cells(values: Mapping[str, Any], arguments: argparse.Namespace) -> Sequence[object]:
    zone, schedule = values["timezone"], values["schedule"]
    if arguments.words and "in_words" in values:
        schedule = values["in_words"]
    elif zone not in (None, "UTC"):
        schedule = f"{schedule} {zone}"
    state = state_in_words(values) if "last_run" in values else values["state"]
    return schedule, shown(values.get("next")), last_of(values), state
