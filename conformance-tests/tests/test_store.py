"""The helpers that the suite stands on."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from pyncette.repository import Key, Repository
from pyncette_conformance import Capabilities
from pyncette_conformance.builders import T0, register, registration
from pyncette_conformance.interruption import interrupt
from pyncette_conformance.store import Store, opened
from tiny_store import TinyStore


class TestIsolation:
    def test_what_a_test_stored_is_removed_and_nothing_else(self) -> None:
        tiny = TinyStore()

        @contextlib.asynccontextmanager
        async def factory() -> AsyncIterator[Repository]:
            yield tiny

        async def use() -> None:
            theirs = Key("theirs", "task")
            await register(tiny, theirs)
            async with Store(factory, Capabilities()) as store:
                keys = [store.key(), store.key(), Key(store.adopt(store.partition() + ":"), "task")]
                await register(store.repository, *keys)
                assert len({key.partition for key in keys}) == 3
            assert list(tiny.rows) == [theirs]
            with pytest.raises(ValueError, match="of the test"):
                async with Store(factory, Capabilities()) as store:
                    await register(store.repository, store.key())
                    raise ValueError("of the test")
            assert list(tiny.rows) == [theirs]

        asyncio.run(use())

    def test_a_store_that_cannot_be_cleaned_up_is_told_unless_the_test_failed(self) -> None:
        class Stuck(TinyStore):
            async def unregister(self, now: object, keys: object) -> list[bool]:
                raise ConnectionError("gone")

        async def use(error: Exception | None) -> None:
            async with Store(Stuck.open, Capabilities()) as store:
                await register(store.repository, store.key())
                if error is not None:
                    raise error

        with pytest.raises(ConnectionError):
            asyncio.run(use(None))
        with pytest.raises(ValueError, match="of the test"):
            asyncio.run(use(ValueError("of the test")))

    def test_workers_share_rows_or_are_one(self) -> None:
        async def count(shared: bool) -> int:
            async with Store(TinyStore.open, Capabilities(shared=shared)) as store:
                return len(set(map(id, await store.workers(3))))

        assert [asyncio.run(count(shared)) for shared in (True, False)] == [3, 1]


class TestSession:
    def test_it_is_opened_and_closed_in_one_task(self) -> None:
        tasks = []

        @contextlib.asynccontextmanager
        async def factory() -> AsyncIterator[Repository]:
            tasks.append(asyncio.current_task())
            yield TinyStore()
            tasks.append(asyncio.current_task())

        with opened(Store(factory, Capabilities(shared=True)), workers=2) as session:
            key = session.store.key()
            session.call(session.workers[1].register(T0, [registration(key)]))
            assert [row and row.key for row in session.call(session.workers[1].get([key]))] == [key]
        assert len(tasks) == 4
        assert len(set(tasks)) == 1

    def test_an_error_of_opening_is_raised(self) -> None:
        @contextlib.asynccontextmanager
        async def factory() -> AsyncIterator[Repository]:
            raise ConnectionError("refused")
            yield TinyStore()

        with pytest.raises(ConnectionError, match="refused"), opened(Store(factory, Capabilities()), workers=1):
            pass


class TestInterruption:
    @pytest.mark.parametrize("answered", [False, True])
    def test_each_await_is_interrupted_once(self, answered: bool) -> None:
        async def interrupted(at: int) -> tuple[list[str], bool, bool]:
            loop = asyncio.get_running_loop()
            seen: list[str] = []

            async def call() -> str:
                for name in "abc":
                    answer = loop.create_future()
                    loop.call_later(0, answer.set_result, name)
                    try:
                        await answer
                    except asyncio.CancelledError:
                        seen.append(f"{name} {'answered' if answer.done() and not answer.cancelled() else 'waiting'}")
                        raise
                    seen.append(name)
                return "done"

            ended = await interrupt(call(), at, answered=answered)
            assert (ended.result == "done") is (not ended.cancelled)
            return seen, ended.reached, ended.cancelled

        how = "answered" if answered else "waiting"
        assert [asyncio.run(interrupted(at)) for at in range(4)] == [
            ([f"a {how}"], True, True),
            (["a", f"b {how}"], True, True),
            (["a", "b", f"c {how}"], True, True),
            (["a", "b", "c"], False, False),
        ]

    def test_a_call_that_never_waits_runs_to_its_end(self) -> None:
        async def call() -> int:
            return 5

        ended = asyncio.run(interrupt(call(), 0, answered=False))
        assert (ended.reached, ended.cancelled, ended.result) == (False, False, 5)


class TestExhaustiveCommandLine:
    @pytest.mark.parametrize(
        ("options", "code", "text"),
        [
            (["--mutant", "late-extend"], 1, "I5: extend was applied after the claim was over"),
            (["--configuration", "release", "--claims", "1", "--end", "2"], 0, "states, no violation"),
        ],
    )
    def test_it_prints_what_was_found(self, options: list[str], code: int, text: str) -> None:
        command = [sys.executable, "-m", "pyncette_conformance.exhaustive", *options]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert run.returncode == code, run.stderr
        assert text in run.stdout
