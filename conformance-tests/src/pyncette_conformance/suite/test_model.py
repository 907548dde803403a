"""Random histories, compared with the reference store. See :mod:`pyncette_conformance.machine`."""

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from pyncette_conformance.machine import WORKERS, RepositoryMachine
from pyncette_conformance.store import Store, excusable, opened
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestModel"]

#: A few seconds for a store on the same machine.
EXAMPLES, FEW_EXAMPLES = 50, 5
STEPS = 40


class TestModel(Conformance):
    def test_any_history_agrees_with_the_reference(self, store: Store, request: pytest.FixtureRequest) -> None:
        """I1 to I9, I13, I15. Deeper with ``--pyncette-examples=N`` or ``--hypothesis-profile``; ``--hypothesis-seed`` repeats."""
        chosen = settings_of(request.config)
        given = request.config.getoption("--hypothesis-seed", None)
        number = random.SystemRandom().getrandbits(32) if given is None and not chosen.derandomize else None
        with excusable(store, "TestModel.test_any_history_agrees_with_the_reference"), opened(store, workers=WORKERS) as session:
            machine = type("Machine", (RepositoryMachine,), {"session": session})
            try:
                run_state_machine_as_test(machine if number is None else seed(number)(machine), settings=chosen)
            except Exception as error:
                if number is not None:
                    error.add_note(f"Repeat with --hypothesis-seed={number}")
                raise


def settings_of(config: pytest.Config) -> settings:
    """Ours, unless the run chose a profile of Hypothesis; the same histories each time in CI."""
    profile_chosen = config.getoption("--hypothesis-profile", None) is not None
    examples = config.getoption("--pyncette-examples")
    usual = FEW_EXAMPLES if config.getoption("--pyncette-quick") else EXAMPLES
    default = settings.default
    assert default is not None
    return settings(
        max_examples=examples or (default.max_examples if profile_chosen else usual),
        stateful_step_count=default.stateful_step_count if profile_chosen else STEPS,
        # Tracing every line of failing examples takes longer than finding them.
        phases=[phase for phase in default.phases if phase is not Phase.explain],
        derandomize=default.derandomize or bool(os.environ.get("CI")),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
