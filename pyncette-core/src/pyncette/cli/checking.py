"""``pyncette check`` and ``backends``: whether an installation and its store work."""

import argparse
import importlib.metadata
import json
import shlex
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from pyncette.app import Pyncette
from pyncette.app_context import PyncetteContext
from pyncette.cli.conflicts import conflict
from pyncette.cli.diagnosing import WITHOUT_URL, differing_distributions, differing_workers, short_leases
from pyncette.cli.output import flush, note, print_json, print_table, say
from pyncette.cli.stored import count, groups, rows
from pyncette.cli.workers import unpolled, workers_of
from pyncette.errors import BackendNotInstalledError, ConfigurationError, PyncetteError, RepositoryError, TransientRepositoryError
from pyncette.layout import agree_on_layouts
from pyncette.partitions import STATIC
from pyncette.schedules.text import parse
from pyncette.schedules.wording import has_seconds_unawares, in_words
from pyncette.store import urls as backends
from pyncette.store.contract import Commit, Key, Outcome, Registration, Row, State, SupportsServerTime, Target
from pyncette.tasks import StaticTask

__all__ = ["check", "list_backends"]

#: One partition for all checks, because a store may remember partitions forever.
_PARTITION = "check:round trip"


#: How many findings of a kind are listed.
_EXAMPLES = 10
#: How many rows are checked: enough to find problems, few enough for any store.
_LOOKED_AT = 100_000


class _Finding(NamedTuple):
    check: str
    result: str
    detail: str


async def check(app: Pyncette, arguments: argparse.Namespace) -> int:
    """Check installation, store and clock; the exit code is 1 if anything failed."""
    if arguments.app is None and arguments.url is None:
        raise ConfigurationError("There is no store to check; name an app, or pass a store with --url")
    ended_well = True
    async for finding in _findings(app):
        ended_well = ended_well and finding.result != "failed"
        if arguments.json:
            print_json(finding._asdict())
        else:
            say(f"{finding.check:12}{finding.result:9}{finding.detail}")
        flush()  # the next check may take long
    return 0 if ended_well else 1


async def _findings(app: Pyncette) -> AsyncIterator[_Finding]:
    found = conflict()
    version = importlib.metadata.version("pyncette-core")
    yield _Finding("packages", "failed" if found else "ok", found or f"pyncette-core {version}, and no Pyncette 1 beside it")
    differing = differing_distributions()
    if differing is not None:
        yield _Finding("packages", "warning", differing)
    for task in app.tasks:
        if isinstance(task, StaticTask) and has_seconds_unawares(task.schedule):
            yield _Finding("schedules", "warning", f"{task.name!r}: {in_words(task.schedule)}")
    if app.lacks_url:
        yield _Finding("store", "failed", WITHOUT_URL)
        return
    what, elapsed = "store", _stopwatch()
    try:
        async with app.create(fixtures=False, layouts="ignore") as app_context:
            yield _Finding(what, "ok", f"{type(app_context.repository).__name__} opened, with everything it needs, in {elapsed()}")
            what, elapsed = "round trip", _stopwatch()
            await _round_trip(app_context)
            yield _Finding(what, "ok", f"a test row was stored, claimed, settled and removed in {elapsed()}")
            yield _clock(app_context)
            what = "layouts"
            async for finding in _layouts(app_context):
                yield finding
            what = "rows"
            for finding in await _rows(app_context):
                yield finding
            what = "workers"
            async for finding in _workers(app_context):
                yield finding
            what = "leases"
            short = await short_leases(app_context)
            for finding in [_Finding(what, "warning", each) for each in short[:_EXAMPLES]]:
                yield finding
            if not short:
                yield _Finding(what, "ok", "no task is known to outlast its lease")
    except PyncetteError as error:
        yield _Finding(what, "failed", " ".join(str(error).split()))


async def _round_trip(app_context: PyncetteContext) -> None:
    """Store, claim, settle and remove a row, in a partition that no application polls."""
    repository, now = app_context.repository, app_context.clock.now
    key, begun = Key(_PARTITION, uuid.uuid4().hex), now()
    try:
        await repository.register(begun, [Registration(key, "{}", "never", Target(begun, begun))])
        claimed = await repository.claim(now(), key.partition, lease_duration=timedelta(seconds=60), limit=1, names=[key.name])
        if [claim.key for claim in claimed.claims] != [key]:
            raise RepositoryError(f"A row that was stored could not be claimed; the store gave {claimed.claims}")
        outcomes = await repository.settle(now(), [Commit(claimed.claims[0], None)])
        rows = await repository.get([key])
        if [*outcomes] != [Outcome.APPLIED] or [*rows] != [None]:
            raise RepositoryError(f"A row that was claimed could not be settled; the store answered {outcomes}, and has {rows}")
    finally:
        await repository.unregister(now(), [key])


def _clock(app_context: PyncetteContext) -> _Finding:
    if not isinstance(app_context.repository, SupportsServerTime):
        return _Finding("clock", "ok", "the store has no clock of its own; this machine's is used")
    clock = app_context.clock
    skew = clock.skew.total_seconds()
    measured = f"this machine's is {skew:+.3f} s off the store's, give or take {clock.error.total_seconds():.3f} s"
    if abs(clock.skew) > clock.WARN_ABOVE:
        return _Finding("clock", "warning", f"{measured}; the store's is used")
    return _Finding("clock", "ok", measured)


async def _layouts(app_context: PyncetteContext) -> AsyncIterator[_Finding]:
    """Templates whose stored layout differs from the declared one, which keeps the application from starting."""
    well = True
    for task in app_context.tasks:
        try:
            await agree_on_layouts(app_context.repository, app_context.clock, [task], write=False)
        except TransientRepositoryError:
            raise
        except (ConfigurationError, RepositoryError) as error:
            well = False
            yield _Finding("layouts", "failed", str(error))
    if well:
        yield _Finding("layouts", "ok", "stored layouts match the declared ones")


async def _rows(app_context: PyncetteContext) -> Sequence[_Finding]:
    """Rows that nobody runs: those that the application does not declare, and those that can't be read."""
    repository = app_context.repository
    known = await groups(app_context)
    found = []
    # The application is empty if a store is checked by its URL.
    undeclared = [group for group in known if group.task is None] if app_context.tasks else []
    for group in undeclared[:_EXAMPLES]:
        totals = None if group.kind == "static" else await count(app_context, group)
        what = f"{group.name!r} ({group.kind}{'' if totals is None else f', rows: {totals.instances}'})"
        found.append(
            f"{what} is stored but not declared by the app; declare it, or see: pyncette move --help, pyncette unschedule --help"
        )
    if len(undeclared) > _EXAMPLES:
        found.append(f"{len(undeclared) - _EXAMPLES} more names are stored but not declared by the app; see: pyncette list")
    found += [
        f"{group.name!r} is {group.pause}; nobody runs its instances until: pyncette resume APP {shlex.quote(group.name)}"
        for group in known
        if group.paused is not None
    ]
    owners = {partition: group.name for group in known for partition in group.partitions}
    unreadable: list[str] = []
    async for row in rows(repository, owners, _LOOKED_AT):
        problem = _problem(row)
        if problem is not None:
            owner = row.key.name if row.key.partition == STATIC else owners[row.key.partition]
            unreadable.append(f"{row.key.name!r} of {owner!r} can't be read: {problem}; remove it with: pyncette unschedule")
    found += unreadable[:_EXAMPLES]
    if len(unreadable) > _EXAMPLES:
        found.append(f"{len(unreadable) - _EXAMPLES} more rows can't be read; see: pyncette unschedule --help")
    return [_Finding("rows", "warning", each) for each in found] or [_Finding("rows", "ok", "all rows are readable and declared")]


async def _workers(app_context: PyncetteContext) -> AsyncIterator[_Finding]:
    """Whether live workers poll everything that the application declares, and whether their versions match."""
    workers = await workers_of(app_context)
    if workers is None:
        yield _Finding("workers", "ok", "only one process uses this store")
        return
    alive = sum(worker.alive for worker in workers)
    gone = f", {len(workers) - alive} stopped responding within the last hour" if len(workers) > alive else ""
    lacking = {task.name: why for task in app_context.tasks if (why := unpolled(task, workers)) is not None}
    if not alive:
        start = "; nothing runs until you start one: pyncette run APP" if lacking else ""
        yield _Finding("workers", "warning" if lacking else "ok", f"none is alive{gone}{start}")
        return
    told = "; ".join(f"{name!r}: {why}" for name, why in [*lacking.items()][:_EXAMPLES])
    if len(lacking) > _EXAMPLES:
        told += f"; and {len(lacking) - _EXAMPLES} more"
    yield _Finding("workers", "warning" if lacking else "ok", f"{alive} alive{gone}" + (f"; {told}" if told else ""))
    differing = differing_workers(workers)
    if differing is not None:
        yield _Finding("workers", "warning", differing)


def _problem(row: Row) -> str | None:
    if row.state is State.UNREADABLE:
        return (row.error or "").removeprefix("can't be read: ")
    try:
        parse(row.schedule)
        json.loads(row.spec)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _stopwatch() -> Callable[[], str]:
    begun = time.perf_counter()
    return lambda: f"{(time.perf_counter() - begun) * 1000:.1f} ms"


def list_backends(arguments: argparse.Namespace) -> int:
    """Print every known URL scheme, and whether its backend can be used."""
    rows = []
    for offer in backends.offers():
        error = None
        try:
            backends.load(offer.scheme)
            status = "ready"
        except BackendNotInstalledError:
            status = "not installed"
        except PyncetteError as caught:
            status, error = "broken", str(caught)
        rows.append((offer, status, error))
    if arguments.json:
        for offer, status, error in rows:
            print_json(
                {
                    "scheme": offer.scheme,
                    "package": offer.distribution,
                    "version": offer.version,
                    "status": status,
                    "error": error,
                }
            )
        return 0
    print_table(
        ["scheme", "package", "version", "status"], [(o.scheme, o.distribution, o.version, status) for o, status, _ in rows]
    )
    for error in dict.fromkeys(error for *_, error in rows if error is not None):
        note(error)
    missing = sorted({offer.distribution for offer, status, _ in rows if status == "not installed"})
    if missing:
        note(f"install the missing packages with: pip install {' '.join(missing)}")
    return 0
