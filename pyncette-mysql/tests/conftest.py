"""The servers that the environment names. Each test has a table of its own there, which is dropped in the end."""

import asyncio
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
def sql(server):
    """``sql(statement, *arguments)``: runs it behind Pyncette's back, and returns the rows."""

    async def run(statement, arguments):
        warnings.simplefilter("ignore")  # the driver passes on that a table to be dropped is gone already
        names = {name.replace("mysql_database", "mysql_db").removeprefix("mysql_"): value for name, value in server.items()}
        connection = await aiomysql.connect(**names, charset="utf8mb4", autocommit=True)
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(statement, arguments or None)
                return list(await cursor.fetchall())
        finally:
            connection.close()

    return lambda statement, *arguments: asyncio.run(run(statement, arguments))


@pytest.fixture
def table(sql):
    name = f"test_{uuid.uuid4().hex}"
    yield name
    sql(f"DROP TABLE IF EXISTS {name}")
