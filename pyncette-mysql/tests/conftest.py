"""The servers that the environment names. Each test has a table of its own there, which is dropped at the end."""

import asyncio
import contextlib
import os
import uuid
import warnings
from ssl import create_default_context

import aiomysql
import pytest
from own_server import make_certificates, own_server

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
    sql(f"DROP TABLE IF EXISTS {name}, {name}_history")


class Own:
    """A server with TLS and accounts of the tests' own."""

    def __init__(self, url, folder):
        self._url, self.folder = url, folder
        self.table = f"test_{uuid.uuid4().hex}"

    def options(self, **more):
        """Those of a repository, with ``more`` without their prefix; files are in the folder."""
        here = ("ssl_ca", "ssl_cert", "ssl_key", "unix_socket")
        defaults = {
            "host": self._url.hostname(),
            "port": self._url.port(0),
            "user": self._url.username,
            "password": self._url.password,
            "database": self._url.path[1:],
            "table_name": self.table,
        }
        given = {name: str(self.folder / value) if name in here else value for name, value in more.items()}
        return {f"mysql_{name}": value for name, value in {**defaults, **given}.items()}

    def sql(self, *statements, ssl=False):
        async def run():
            warnings.simplefilter("ignore")
            names = {"host": "127.0.0.1", "port": self._url.port(0), "user": self._url.username, "password": self._url.password}
            context = create_default_context(cafile=self.folder / "ca.pem") if ssl else None
            connection = await aiomysql.connect(**names, db=self._url.path[1:], charset="utf8mb4", autocommit=True, ssl=context)
            try:
                async with connection.cursor() as cursor:
                    for statement in statements:
                        await cursor.execute(statement)
                    return list(await cursor.fetchall())
            finally:
                connection.close()

        return asyncio.run(run())

    @contextlib.contextmanager
    def account(self, require="", password="battery-horse", grant="ALL ON *.*"):
        """An account of its own; the options to log in with it."""
        name = f"u{uuid.uuid4().hex[:20]}"
        quoted = password.replace("\\", "\\\\").replace("'", "''")
        self.sql(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{quoted}' {require}", f"GRANT {grant} TO '{name}'@'%'")
        try:
            yield {"user": name, "password": password}
        finally:
            self.sql(f"DROP USER '{name}'@'%'")


@pytest.fixture(scope="session", params=["mysql", "mariadb"])
def own_address(request):
    with own_server(request.param) as found:
        yield found


@pytest.fixture
def own(own_address):
    own = Own(*own_address)
    yield own
    own.sql(f"DROP TABLE IF EXISTS {own.table}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder
