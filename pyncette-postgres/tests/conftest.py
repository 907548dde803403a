"""The server that the environment names. Each test has a table of its own there, which is dropped at the end."""

import asyncio
import os
import uuid

import asyncpg
import pytest


@pytest.fixture(scope="session")
def server_url():
    url = os.environ.get("PYNCETTE_TEST_POSTGRES_URL")
    if not url:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(
            "needs a PostgreSQL; set PYNCETTE_TEST_POSTGRES_URL, or run this by: python tools/servers.py postgres -- pytest ..."
        )
    return url


@pytest.fixture(scope="session")
def sql(server_url):
    """``sql(statement, *arguments)``: runs it behind Pyncette's back, and returns the rows."""

    async def run(statement, arguments):
        connection = await asyncpg.connect(server_url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    return lambda statement, *arguments: asyncio.run(run(statement, arguments))


@pytest.fixture
def table(sql):
    name = f"test_{uuid.uuid4().hex}"
    yield name
    sql(f"DROP TABLE IF EXISTS {name}, {name}_history")
