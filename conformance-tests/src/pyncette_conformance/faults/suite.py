"""Layer 3 of RELIABILITY on any store that processes share: real processes, real faults, and an independent judge.

    pytest --pyargs pyncette_conformance.faults.suite --pyncette-url "redis://localhost/0?namespace={unique}"

Each test has a store of its own: ``{unique}`` in the URL is another name each time. What is in them stays there.
"""

import asyncio
import signal
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pyncette_conformance.discovery import BackendUnderTest
from pyncette_conformance.faults import outages, scenarios
from pyncette_conformance.faults.checker import Cause, Report

__all__ = ["Play", "TestOutages", "TestWorkers", "play"]

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="workers are paused and killed with the signals of POSIX")

#: Of a scenario and further options for it.
Play: TypeAlias = Callable[..., Report]

#: Where not every cause will do, what may explain that an occurrence ran twice.
_CAUSES: dict[str, Collection[Cause]] = {
    "three_processes": {Cause.KILLED},
    "paused_workers": {Cause.STOPPED, Cause.EXPIRED},
    "kill_loop": {Cause.KILLED, Cause.EXPIRED},
}


@pytest.fixture
def play(
    pyncette_backend: BackendUnderTest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> Play:
    """Play a scenario on an empty store, show its summary, and have it judged."""
    if not pyncette_backend.capabilities.shared:
        pytest.skip("the store can't be shared by processes")
    url = pyncette_backend.fresh(tmp_path)
    if url is None:
        pytest.fail(f"needs an empty store for each test: write {{unique}} into the URL of {pyncette_backend.name}")

    def play(scenario: Callable[..., Coroutine[Any, Any, Report]], **options: Any) -> Report:
        report = asyncio.run(scenario(url, tmp_path, **options))
        record_property("summary", report.summary())
        with capsys.disabled():
            print(f"\n  {pyncette_backend.name}: {report.summary()}")
        report.verify()
        assert set(report.extras) <= set(_CAUSES.get(scenario.__name__, Cause))
        return report

    return play


class TestWorkers:
    """Processes that are killed, paused and misled, and a store whose answers get lost."""

    @pytest.mark.parametrize("name", scenarios.SCENARIOS)
    def test_worker(self, play: Play, name: str) -> None:
        """I1 to I12; each scenario says which."""
        play(scenarios.SCENARIOS[name])


class TestOutages:
    """A server that is out of reach, slow or killed."""

    def test_black_hole(self, play: Play) -> None:
        """I7, I14."""
        play(outages.black_hole)

    def test_slow_network(self, play: Play) -> None:
        """I2, I4."""
        play(outages.slow_network)

    def test_restarted_server(self, play: Play, pyncette_backend: BackendUnderTest) -> None:
        """I3, I7."""
        if pyncette_backend.restart is None:
            pytest.skip("needs --pyncette-restart COMMAND")
        play(outages.restarted_server, restart=pyncette_backend.restart)
