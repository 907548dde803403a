"""Layer 2: the real engine on a virtual clock, with faults at every call of the store. A failing seed is named, and replays."""

from collections.abc import Callable
from typing import Any

import pytest

from simulation import mutants
from simulation.checker import check
from simulation.scenario import simulate

SEEDS = 40

#: Mistakes, each with a seed that finds it.
FOUND_BY: dict[Callable[[], Any], int] = {
    mutants.one_now_for_a_pass: 0,
    mutants.claims_without_a_slot: 14,
    mutants.commits_any_revision: 0,
    mutants.extends_after_the_commit: 8,
    mutants.releases_any_lease: 0,
    mutants.takes_superseded_for_applied: 5,
}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_fails_every_promise_is_kept(seed: int) -> None:
    """I1 to I12. ``pytest -k "kept[17]"`` replays seed 17."""
    simulation = simulate(seed)
    assert check(simulation.events, simulation.rules) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("mutant", "seed"), FOUND_BY.items(), ids=[mutant.__name__ for mutant in FOUND_BY])
def test_the_simulation_finds_mistakes(mutant: Callable[[], Any], seed: int) -> None:
    with mutant():
        simulation = simulate(seed)
    assert check(simulation.events, simulation.rules)
