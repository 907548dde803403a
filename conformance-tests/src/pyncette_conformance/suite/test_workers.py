"""The row that a worker keeps about itself, by which others know that it is alive."""

from dataclasses import replace
from datetime import timedelta

from pyncette.partitions import WORKERS
from pyncette.repository import Key, Repository
from pyncette.workers import Worker, forget_dead, registration, stored_workers
from pyncette_conformance.builders import LEASE, T0, after
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestWorkers"]

#: What a host may be called, and then some.
_HOSTILE = "hé%_*: \"q\" 'q' \\ {} [a] \N{SNOWMAN} \N{GRINNING FACE} e\u0301 "


class TestWorkers(Conformance):
    @scenario()
    async def test_a_worker_is_listed_while_it_gives_signs_of_life_and_for_an_hour_after(self, store: Store) -> None:
        """An ordinary row does, in a partition that all share; whatever the worker is called, and however many tasks it polls."""
        repository, name = store.repository, store.partition()
        tasks = {f"{_HOSTILE}{number:05}": None if number % 2 else [number] for number in range(1000)}
        workers = [_worker(f"{name}:plain"), replace(_worker(f"{name}{_HOSTILE}"), host=_HOSTILE, polls=tasks)]
        ids = [worker.id for worker in workers]
        try:
            for seconds in (0, 10):
                seen = [replace(worker, seen=after(seconds), runs=seconds) for worker in workers]
                await repository.register(after(seconds), [registration(worker) for worker in seen])
            assert await _listed(repository, ids, 45) == {worker.id: worker for worker in seen}
            assert await _listed(repository, ids, 46) == {worker.id: replace(worker, alive=False) for worker in seen}
            claimed = await repository.claim(after(10**9), WORKERS, lease_duration=LEASE, limit=2, names=ids)
            assert not claimed.claims, "its time never comes"

            again = replace(seen[0], seen=after(3610), runs=1)
            await repository.register(after(3610), [registration(again)])
            await forget_dead(repository, after(3611))
            assert await _listed(repository, ids, 3611) == {again.id: again}
            assert await repository.unregister(after(3612), [Key(WORKERS, again.id)]) == [True]
            assert await _listed(repository, ids, 3612) == {}
        finally:
            await repository.unregister(after(3613), [Key(WORKERS, worker) for worker in ids])


async def _listed(repository: Repository, ids: list[str], seconds: float) -> dict[str, Worker]:
    """Of the workers with these ``ids``, those that are listed then."""
    return {worker.id: worker for worker in await stored_workers(repository, after(seconds)) if worker.id in ids}


def _worker(name: str) -> Worker:
    return Worker(
        id=name,
        host="host",
        pid=4711,
        version="2.0.0",
        started=T0,
        seen=T0,
        alive=True,
        stopping=False,
        slots=100,
        running=1,
        loop_lag=timedelta(milliseconds=3),
        runs=0,
        failures=0,
        polls={"task": None},
    )
