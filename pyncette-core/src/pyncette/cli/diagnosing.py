"""Problems that `pyncette check` finds without changing anything: mismatched versions, a missing URL, short leases."""

import importlib.metadata
from collections import Counter
from collections.abc import Sequence

from pyncette.app_context import PyncetteContext
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.policies import ExecutionMode
from pyncette.store import urls as backends
from pyncette.tasks import Task
from pyncette.values import shown
from pyncette.workers import Worker

__all__ = ["WITHOUT_URL", "differing_distributions", "differing_workers", "short_leases"]

WITHOUT_URL = (
    "the app's URL is None, as from an environment variable that is not set, so what it schedules is lost when its process ends; set the "
    "variable here too, or check another store with --url"
)
#: How many runs of a task are looked at, and how many tasks are checked, with one call to the store each.
_RUNS, _TASKS = 20, 200
#: A run that takes more of its lease than this is easily taken over when something is slow.
_MUCH = 0.8


def differing_distributions() -> str | None:
    """Pyncette's distributions from another release than pyncette-core; None if all match."""
    core = importlib.metadata.version("pyncette-core")
    installed = {offer.distribution: offer.version for offer in backends.offers() if offer.version and _is_ours(offer.distribution)}
    for name in ("pyncette-prometheus", "pyncette-dashboard"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    others = {name: version for name, version in installed.items() if _release(version) != _release(core)}
    if not others:
        return None
    told = ", ".join(f"{name} {version}" for name, version in sorted(others.items()))
    return f"pyncette-core is {core}, but {told}; run: pip install --upgrade pyncette-core {' '.join(sorted(others))}"


def _is_ours(distribution: str) -> bool:
    return distribution in backends.DISTRIBUTIONS.values()


def _release(version: str) -> Sequence[str]:
    return version.split(".")[:2]


def differing_workers(workers: Sequence[Worker]) -> str | None:
    """A warning if live workers run different versions; None if they don't."""
    versions = Counter(worker.version for worker in workers if worker.alive)
    if len(versions) < 2:
        return None
    told = ", ".join(f"{count} on {shown(version)}" for version, count in sorted(versions.items(), key=str))
    return f"workers run different versions of Pyncette ({told}); unless a deployment is in progress, restart the outdated ones"


async def short_leases(app_context: PyncetteContext) -> Sequence[str]:
    """Tasks whose usual run takes nearly as long as their lease, or longer, according to their history."""
    found = []
    for task in [task for task in app_context.tasks if _can_be_taken_over(task)][:_TASKS]:
        try:
            page = await app_context.list_runs(task, limit=_RUNS)
        except TransientRepositoryError:
            raise
        except RepositoryError:
            break  # the task keeps no history
        durations = [run.duration.total_seconds() for run in page.runs if run.duration is not None]
        if not durations:
            continue
        usual, lease = sorted(durations)[len(durations) // 2], task.lease_duration.total_seconds()
        if usual > _MUCH * lease:
            found.append(
                f"{task.name!r} usually takes {usual:.4g} s (the median of its last {len(durations)} runs), and its lease lasts "
                f"{lease:.4g} s; after that, another worker starts the occurrence again, unless the body calls "
                f"context.heartbeat(): call it, or raise lease_duration to {max(1, round(usual * 3))} s"
            )
    return found


def _can_be_taken_over(task: Task) -> bool:
    return task.history is not None and task.execution_mode is ExecutionMode.AT_LEAST_ONCE
