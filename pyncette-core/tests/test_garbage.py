"""How often the garbage collector looks while a worker runs."""

import asyncio
import gc

import pytest

from pyncette import Pyncette


@pytest.fixture(autouse=True)
def threshold():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def thresholds(*, meanwhile=None):
    """What is set while a worker runs, and after it."""
    seen = []

    async def run():
        app = Pyncette()

        async with app.create() as app_context:

            async def look():
                await asyncio.sleep(0)
                seen.append(gc.get_threshold())
                if meanwhile is not None:
                    gc.set_threshold(*meanwhile)
                app_context.shutdown()

            await asyncio.gather(app_context.run(), look())

    asyncio.run(run())
    return *seen, gc.get_threshold()


def test_it_looks_seldom_and_afterwards_as_before():
    gc.set_threshold(700, 10, 10)
    assert thresholds() == ((10_000, 10, 10), (700, 10, 10))


@pytest.mark.parametrize("own", [(50_000, 20, 20), (0, 10, 10)])
def test_who_has_it_look_even_less_is_obeyed(own):
    gc.set_threshold(*own)
    assert thresholds() == (own, own)


def test_what_is_set_meanwhile_stays():
    gc.set_threshold(700, 10, 10)
    assert thresholds(meanwhile=(900, 5, 5))[1] == (900, 5, 5)
