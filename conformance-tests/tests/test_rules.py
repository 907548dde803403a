"""The rules that the reference store applies, explored exhaustively. See :mod:`pyncette_conformance.exhaustive`."""

import pytest

from pyncette_conformance.broken_rules import MUTANTS
from pyncette_conformance.exhaustive import CONFIGURATIONS, explore


class TestRules:
    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_no_history_of_a_row_violates_an_invariant(self, configuration: str) -> None:
        """I1 to I9. Every order of claims, settlements, registrations and the clock, with messages late, doubled and lost."""
        report = explore(CONFIGURATIONS[configuration])
        print(f"{configuration}: {report}")
        assert report.violation is None, str(report)
        assert report.states > 10_000, "the space has shrunk; something can't happen any more that could"

    @pytest.mark.parametrize("mutant", MUTANTS)
    def test_a_mistake_in_the_rules_is_found(self, mutant: str) -> None:
        """The exploration sees what it looks for."""
        broken = MUTANTS[mutant]
        report = explore(CONFIGURATIONS[broken.configuration], broken.rules)
        assert report.violation is not None
        assert report.violation.startswith(broken.breaks), str(report)
