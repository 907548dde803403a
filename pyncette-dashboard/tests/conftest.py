import asyncio
import inspect
from datetime import timedelta

import pytest

from pyncette import Pyncette
from pyncette.dashboard import connection, survey


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True, scope="session")
def patience():
    """However busy the machine is, a page waits for the store, and for the first scan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "PATIENCE", 60.0)
        patch.setattr(survey, "_FIRST_LOOK", 60.0)
        yield


@pytest.fixture
def app(tmp_path):
    app = Pyncette(f"sqlite:///{tmp_path}/shop.db")

    @app.task(schedule="0 2 * * *", timezone="Europe/Berlin")
    async def nightly(context): ...

    @app.dynamic_task(history=timedelta(days=1))
    async def deliver(context): ...

    app.deliver, app.nightly = deliver, nightly
    return app
