"""How the instances of a template are laid out in the store: a fact that all processes have to agree on."""

import uuid
from datetime import UTC, datetime

from pyncette.clock import AlignedClock
from pyncette.errors import ConfigurationError
from pyncette.store.contract import Key, Registration, Repository, Target
from pyncette.tasks import PartitionedTask

__all__ = ["check_partition_count"]

#: Rows that are read from the store in one call.
_BULK = 1000
#: When a row that only remembers something would be due.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


async def check_partition_count(repository: Repository, clock: AlignedClock, template: PartitionedTask) -> None:
    """Refuse another partition count than the stored instances were spread by: they would be looked for elsewhere.

    A count is stored for good once a process had announced it and then saw no other announced. So of processes that start at
    once with different counts, those of one count at most go on.
    """
    partition, own = f"partitions:{template.name}", str(template.partition_count)
    names = await _names(repository, partition)
    if own in names:
        return
    others = {name for name in names if " " not in name}
    if not others:
        # Each process has an announcement of its own: one that gives way must not take away what another one relies on.
        announcement = Key(partition, f"{own} {uuid.uuid4().hex}")
        try:
            await _remember(repository, clock, announcement)
            # Twice, as a listing under way may miss both the announcement that goes and the count that comes instead.
            names = await _names(repository, partition) | await _names(repository, partition)
            others = {name.partition(" ")[0] for name in names} - {own}
            if not others:
                await _remember(repository, clock, Key(partition, own))
        finally:
            await repository.unregister(clock.now(), [announcement])
    if others:
        counts = ", ".join(sorted(others))
        raise ConfigurationError(
            f"Task {template.name!r} is declared with partition_count={own}, but its instances are stored with {counts}; "
            f"use partition_count={counts}, or schedule the instances anew under another task name"
        )


async def _names(repository: Repository, partition: str) -> set[str]:
    names: set[str] = set()
    token = None
    while True:
        page = await repository.list(partition, limit=_BULK, token=token)
        names.update(row.key.name for row in page.rows)
        token = page.token
        if token is None:
            return names


async def _remember(repository: Repository, clock: AlignedClock, key: Key) -> None:
    await repository.register(clock.now(), [Registration(key, "{}", "never", Target(_NEVER, _NEVER))])
