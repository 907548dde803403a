"""Layer 2 of RELIABILITY.md: the real engine on a virtual clock, several workers over one store, with faults at every call of it.

A seed that fails is named, and replays exactly: ``PYNCETTE_SEEDS=17 pytest pyncette-core/tests/test_simulation.py``. Further
seeds are run with ``PYNCETTE_SEEDS=1000-1999``.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyncette.repository import Claim
from simulation import log
from simulation.checker import check
from simulation.mutants import MUTANTS
from simulation.scenario import simulate

#: How many are run each time, and how many of them by one test.
SEEDS, AT_ONCE = 100, 20
#: The first ones, which are counted as well as judged.
COUNTED = 60


def _chosen() -> Sequence[range]:
    first, _, last = os.environ.get("PYNCETTE_SEEDS", f"{COUNTED}-{SEEDS - 1}").partition("-")
    seeds = range(int(first), int(last or first) + 1)
    return [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]


@pytest.mark.parametrize("seeds", _chosen(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_whatever_fails_every_promise_is_kept(seeds: Sequence[int]) -> None:
    # I1 to I12
    for seed in seeds:
        _judged(seed)


def _judged(seed: int) -> Sequence[log.Event]:
    """What happens in the simulation of ``seed``, where every promise is kept."""
    simulation = simulate(seed)
    violations = check(simulation.events, simulation.rules)
    assert not violations, "\n".join([f"PYNCETTE_SEEDS={seed} replays this", *map(str, violations)])
    return simulation.events


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("mutant", "known"), MUTANTS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_mistakes_in_the_engine_are_found(mutant: Callable[[], Any], known: Sequence[int]) -> None:
    # Changes of the engine may make another seed find it; then it takes longer.
    for seed in (*known, *range(SEEDS)):
        with mutant():
            simulation = simulate(seed)
        if check(simulation.events, simulation.rules):
            if seed not in known:
                print(f"{mutant.__name__} is found by seed {seed} now, not by any of {known}")
            return
    pytest.fail(f"no seed finds that the engine {mutant.__name__}")


@pytest.mark.parametrize("seed", [1, 16, 52])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert _anonymous(first.events) == _anonymous(second.events)
    assert first.rules == second.rules


def test_the_simulations_have_something_to_say() -> None:
    """Every promise is kept, and everything that is judged happens, and often: a checker of quiet logs would prove nothing."""
    seen = Counter(_what(event) for seed in range(COUNTED) for event in _judged(seed))
    for what, at_least in {
        "claim": 3000,
        "applied Commit": 2000,
        "already Commit": 5,
        "superseded Commit": 10,
        "lost Commit": 10,
        "gone Commit": 5,
        "applied Release": 15,
        "applied Extend": 50,
        "lost Extend": 3,
        "applied Fail": 3,
        "register": 200,
        "force": 20,
        "unregister": 50,
        "pause": 30,
        "resume": 30,
        "poison": 20,
        "Ended returned": 2000,
        "Ended raised": 50,
        "Ended cancelled": 5,
        "Down killed": 30,
        "Down ended": 100,
        "Frozen": 50,
        "Thawed": 30,
        "lost claim": 20,
        "late claim": 5,
        "doubled claim": 10,
        "lost settle": 20,
        "late settle": 5,
        "doubled settle": 5,
        "part settle": 5,
        "hung settle": 3,
        "refused settle": 20,
        "slow settle": 5,
    }.items():
        assert seen[what] >= at_least, (what, sorted(seen.items()))


def _what(event: log.Event) -> str:
    match event:
        case log.Changed(settlement=settlement, outcome=outcome) if settlement is not None and outcome is not None:
            return f"{outcome.value} {type(settlement).__name__}"
        case log.Changed():
            return event.operation
        case log.Failed():
            return f"{event.fault} {event.method}"
        case log.Ended() | log.Down():
            return f"{type(event).__name__} {event.how}"
        case _:
            return type(event).__name__


def _anonymous(events: Sequence[log.Event]) -> list[str]:
    """The events as text, with leases, which are random, by their order."""
    text = "\n".join(map(repr, events))
    leases: dict[str, None] = {}
    for event in events:
        if isinstance(event, log.Changed) and event.operation == "claim" and event.after is not None and event.after.lease:
            leases.setdefault(event.after.lease)
        if isinstance(event, log.Delivered):
            leases.update(dict.fromkeys(each.lease for each in event.claims if isinstance(each, Claim)))
    for number, lease in enumerate(leases):
        text = text.replace(lease, f"lease {number}")
    return text.split("\n")
