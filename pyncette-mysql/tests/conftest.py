"""The servers that the environment names. Each test has a table of its own there, which is dropped in the end."""

import asyncio
import contextlib
import os
import uuid
import warnings

import aiomysql
import pytest

from pyncette.backends import BackendURL


@pytest.fixture(scope="session", params=["MYSQL", "MARIADB"])
def server_url(request):
    url = os.environ.get(f"PYNCETTE_TEST_{request.param}_URL")
    if not url:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        server = request.param.lower()
        give_up(f"set PYNCETTE_TEST_{request.param}_URL, or run this by: python tools/servers.py {server} -- pytest ...")
    return url


@pytest.fixture
def server(server_url):
    """The options that name the server."""
    url = BackendURL.parse(server_url)
    return {
        "mysql_host": url.hostname(),
        "mysql_port": url.port(3306),
        "mysql_user": url.username,
        "mysql_password": url.password or "",
        "mysql_database": url.path[1:],
    }


@pytest.fixture
def connect(server):
    """``async with connect() as run``, and then ``await run(statement, *arguments)`` behind Pyncette's back, which returns the rows."""

    @contextlib.asynccontextmanager
    async def connected():
        warnings.simplefilter("ignore")  # the driver passes on that a table to be dropped is gone already
        names = {name.replace("mysql_database", "mysql_db").removeprefix("mysql_"): value for name, value in server.items()}
        connection = await aiomysql.connect(**names, charset="utf8mb4", autocommit=True)

        async def run(statement, *arguments):
            async with connection.cursor() as cursor:
                await cursor.execute(statement, arguments or None)
                return list(await cursor.fetchall())

        try:
            yield run
        finally:
            connection.close()

    return connected


@pytest.fixture
def sql(connect):
    """``sql(statement, *arguments)``: the same, where there is no event loop."""

    async def run(statement, arguments):
        async with connect() as connected:
            return await connected(statement, *arguments)

    return lambda statement, *arguments: asyncio.run(run(statement, arguments))


@pytest.fixture
def table(sql):
    name = f"test_{uuid.uuid4().hex}"
    yield name
    sql(f"DROP TABLE IF EXISTS {name}")
