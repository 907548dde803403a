"""Layer 3 of RELIABILITY on any store that processes share: real processes, real faults, and an independent judge; and
before that, what happens to the connections of one repository.

    pytest --pyargs pyncette_conformance.faults.suite --pyncette-url "redis://localhost/0?namespace={unique}"

Each test has a store of its own: ``{unique}`` in the URL is another name each time. What is in them stays there.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pyncette.backends import from_url
from pyncette.errors import TransientRepositoryError
from pyncette.repository import Key, Repository
from pyncette_conformance.builders import T0, poll, register, registration
from pyncette_conformance.discovery import BackendUnderTest
from pyncette_conformance.faults import outages, scenarios
from pyncette_conformance.faults.checker import Cause, Report
from pyncette_conformance.faults.proxy import Proxy, proxied

__all__ = ["Play", "TestConnections", "TestOutages", "TestWorkers", "Through", "play", "through"]

pytestmark: pytest.MarkDecorator = pytest.mark.skipif(
    not hasattr(signal, "SIGSTOP"), reason="workers are paused and killed with the signals of POSIX"
)

#: Of a scenario and further options for it.
Play: TypeAlias = Callable[..., Report]

#: Of what is to be done with a repository, and with the proxy that its connections go through.
Through: TypeAlias = Callable[[Callable[[Proxy, Repository], Awaitable[None]]], None]

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


@pytest.fixture
def through(pyncette_backend: BackendUnderTest, tmp_path: Path) -> Through:
    """Open a repository on an empty store, through a proxy; whatever happened to it, closing it takes no more than seconds."""
    url = pyncette_backend.fresh(tmp_path)
    if url is None:
        pytest.fail(f"needs an empty store for each test: write {{unique}} into the URL of {pyncette_backend.name}")

    def through(what: Callable[[Proxy, Repository], Awaitable[None]]) -> None:
        async def run() -> None:
            async with proxied(url) as (proxy, url_through), contextlib.AsyncExitStack() as stack:
                repository = await stack.enter_async_context(from_url(url_through)())
                await what(proxy, repository)
                async with asyncio.timeout(5):
                    await stack.aclose()

        asyncio.run(run())

    return through


class TestConnections:
    """Cancelled calls, networks and servers break connections without notice."""

    KEYS = [Key("p", str(number)) for number in range(10)]

    def test_what_is_left_of_a_reply_is_no_answer_to_the_next_call(self, through: Through) -> None:
        """I14. Calls are cancelled amid their replies."""

        async def what(proxy: Proxy, repository: Repository) -> None:
            small = Key("p", "small")
            await repository.register(T0, [registration(small, spec="right")])
            await repository.register(T0, [registration(key, spec="x" * 150_000) for key in self.KEYS])
            for received in (0, 1, 5, 100, 1_000, 10_000, 100_000):
                await repository.get([small])  # there is an open connection, and it will be used again
                proxy.hold_replies(after=received)
                reading = asyncio.ensure_future(repository.get(self.KEYS))
                async with asyncio.timeout(60):
                    await proxy.holding.wait()
                for _ in range(10):  # what got through is read
                    await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                proxy.thaw()
                for _ in range(3):
                    assert [row and row.spec for row in await repository.get([small])] == ["right"]

        through(what)

    def test_a_call_that_is_cancelled_while_it_connects_ends(self, through: Through) -> None:
        """I14. Whichever step of connecting the cancellation interrupts: one that is lost makes a call wait forever."""

        async def what(proxy: Proxy, repository: Repository) -> None:
            for steps in range(30):
                proxy.drop()
                await asyncio.sleep(0.01)
                proxy.freeze_new = True
                connecting = asyncio.ensure_future(repository.get(self.KEYS))
                for _ in range(steps):
                    await asyncio.sleep(0)
                connecting.cancel()
                await asyncio.wait({connecting}, timeout=5)
                assert connecting.cancelled(), f"cancelled at step {steps}"
                proxy.thaw()

        through(what)

    def test_those_that_are_reset_are_replaced(self, through: Through) -> None:
        """I7. One call may find out, for all of them."""

        async def what(proxy: Proxy, repository: Repository) -> None:
            for _ in range(3):
                await asyncio.gather(*(register(repository, key) for key in self.KEYS))
                proxy.drop()
                failed = 0
                for _ in range(3):
                    try:
                        await poll(repository, "p")
                    except TransientRepositoryError:
                        failed += 1
                assert failed <= 1

        through(what)

    def test_those_that_are_dead_and_look_alive_are_given_up_all_at_once(self, through: Through) -> None:
        """I7. Else each of them would cost a timeout."""

        async def what(proxy: Proxy, repository: Repository) -> None:
            await asyncio.gather(*(register(repository, key) for key in self.KEYS))
            if proxy.open_connections < 2:
                pytest.skip("needs a server and a driver that keep connections open; moto, for one, closes them")
            proxy.freeze()
            async with asyncio.timeout(60):
                with pytest.raises(TransientRepositoryError):
                    await poll(repository, "p")
            async with asyncio.timeout(5):
                await asyncio.gather(*(repository.get([key]) for key in self.KEYS))

        through(what)

    def test_closing_waits_for_no_server_that_is_silent(self, through: Through) -> None:
        """I7."""

        async def what(proxy: Proxy, repository: Repository) -> None:
            await poll(repository, "p")
            proxy.freeze()

        through(what)


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
