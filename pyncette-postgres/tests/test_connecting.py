"""What a URL may say of the way to the server, on servers with settings of the tests' own: TLS, client certificates, sockets."""

import asyncio
import ssl

import asyncpg
import pytest
from own_server import own_server

from pyncette import Pyncette
from pyncette.backends import BackendURL, from_url
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.postgres import postgres_repository


@pytest.fixture(scope="module")
def secured():
    """TLS only; the database `postgres` to those only who have a certificate."""
    access = "hostssl postgres all all scram-sha-256 clientcert=verify-ca\nhostssl all all all scram-sha-256\nlocal all all trust\n"
    settings = {
        "ssl": "on",
        "ssl_cert_file": "../localhost.pem",
        "ssl_key_file": "../localhost-key.pem",
        "ssl_ca_file": "../ca.pem",
    }
    with own_server(settings, access) as place:
        yield place


def run(url, statement="SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", **options):
    """What a statement answers on a connection of a repository with ``options``."""

    async def run():
        async with postgres_repository(postgres_url=url, **options) as repository:
            return [tuple(row) for row in await repository._connections.fetch(statement)]

    return asyncio.run(run())


def refused(url, kind=RepositoryError, **options):
    with pytest.raises(kind) as caught:
        run(url, **options)
    assert type(caught.value) is kind, "nothing that a retry would heal"
    message = str(caught.value)
    assert "\n" not in message
    assert "pyncette:pyncette" not in message
    return message


class TestTLS:
    @pytest.mark.parametrize("mode", ["prefer", "require", "allow"])
    def test_without_a_look_at_the_certificate(self, secured, mode):
        assert run(secured.url(sslmode=mode)) == [(True,)]

    def test_is_the_default_where_there_is_any(self, secured):
        assert run(secured.url()) == [(True,)]

    @pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
    def test_with_a_certificate_of_an_authority(self, secured, mode):
        assert run(secured.url(sslmode=mode, sslrootcert=secured.file("ca"))) == [(True,)]

    def test_of_an_authority_that_this_machine_does_not_trust(self, secured):
        assert "can't be trusted: " in refused(secured.url(sslrootcert="system"))
        message = refused(secured.url(sslrootcert="system", sslmode="require"), ConfigurationError)
        assert message.startswith("sslrootcert='system' of the URL requires sslmode=verify-full, ")

    def test_what_asks_for_nothing_is_taken(self, secured):
        assert run(secured.url(sslmode="require", channel_binding="prefer", gssencmode="disable")) == [(True,)]

    def test_by_a_context(self, secured):
        context = ssl.create_default_context(cafile=secured.file("ca"))
        assert run(secured.url(), postgres_ssl=context) == [(True,)]

    def test_with_a_certificate_of_the_client(self, secured):
        options = {"sslmode": "verify-full", "sslrootcert": secured.file("ca")}
        mine = {"sslcert": secured.file("client"), "sslkey": secured.file("client-key")}
        assert run(secured.url(database="postgres", **options, **mine)) == [(True,)]

    def test_a_missing_certificate_of_the_client(self, secured):
        message = refused(secured.url(database="postgres", sslmode="require"))
        assert message.endswith("refused the login: connection requires a valid client certificate; give sslcert and sslkey")

    def test_the_wrong_authority(self, secured):
        message = refused(secured.url(sslmode="verify-full", sslrootcert=secured.file("other-ca")))
        assert "has a certificate that can't be trusted: " in message
        assert message.endswith(
            "pass the file of its certificate authority as sslrootcert, and write the host as the certificate names it"
        )

    def test_the_wrong_authority_of_a_context(self, secured):
        context = ssl.create_default_context(cafile=secured.file("other-ca"))
        assert "has a certificate that can't be trusted: " in refused(secured.url(), postgres_ssl=context)

    def test_another_name_of_the_host(self, secured):
        message = refused(secured.url("127.0.0.1", sslmode="verify-full", sslrootcert=secured.file("ca")))
        assert "can't be trusted: IP address mismatch" in message
        assert run(secured.url("127.0.0.1", sslmode="verify-ca", sslrootcert=secured.file("ca"))) == [(True,)]

    def test_without_where_the_server_wants_it(self, secured):
        message = refused(secured.url(sslmode="disable"))
        assert "refused the login: no pg_hba.conf entry" in message
        assert message.endswith("if the server requires TLS, use sslmode=require or verify-full")

    def test_where_the_server_has_none(self, server_url):
        message = refused(f"{server_url}?sslmode=require")
        assert message.endswith("offers no TLS; switch it on there, or use sslmode=disable if nobody can eavesdrop")

    def test_a_file_that_is_none(self, secured):
        junk = secured.folder / "access"
        message = refused(secured.url(sslmode="verify-full", sslrootcert=junk))
        assert "can't be used with these TLS settings: " in message


class TestWays:
    def test_a_socket(self, secured):
        url = f"postgresql://pyncette@/pyncette?host={secured.folder}&port={secured.port}"
        assert run(url) == [(False,)]

    def test_of_several_hosts_the_one_that_has_what_is_asked_for(self, secured):
        hosts = f"localhost:1,localhost:{secured.port}"
        assert run(f"postgresql://pyncette:pyncette@{hosts}/pyncette?target_session_attrs=read-write") == [(True,)]
        message = refused(secured.url(target_session_attrs="standby"), TransientRepositoryError)
        assert message.startswith(f"PostgreSQL at localhost:{secured.port}/pyncette can't be used now: None of the hosts match")

    def test_what_it_is_called_there(self, server_url):
        name = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        assert run(server_url, name) == [("pyncette",)]
        assert run(f"{server_url}?application_name=shop", name) == [("shop",)]

    def test_a_password_with_any_characters(self, server_url):
        password = "p:a/s?s@w#o%r+d пароль€ 😀"
        url = BackendURL.parse(server_url)

        async def test():
            admin = await asyncpg.connect(server_url)
            await admin.execute(f"DROP ROLE IF EXISTS odd; CREATE ROLE odd LOGIN SUPERUSER PASSWORD '{password}'")
            try:
                opener = from_url(BackendURL(url.scheme, url.hosts, url.path, "odd", password, {}).unparse())
                async with opener() as repository:
                    return (await repository._connections.fetch("SELECT current_user"))[0][0]
            finally:
                await admin.execute("DROP ROLE odd")
                await admin.close()

        assert asyncio.run(test()) == "odd"


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("query", "words"),
        [
            (
                "sslmode=on",
                "The option sslmode='on' of the URL is not one of disable, allow, prefer, require, verify-ca, verify-full",
            ),
            ("target_session_attrs=master", "The option target_session_attrs='master' of the URL is not one of any, primary,"),
            ("sslrootcert=/nowhere.pem", "The file sslrootcert='/nowhere.pem' of the URL can't be read: No such file or directory"),
            ("port=x", "The option port='x' of the URL is not a number from 1 to 65535, nor several separated by commas"),
            (
                "host=/tmp",
                "The URL postgresql://u:***@h/d has a host after its '//' and another in its options; leave out one of them",
            ),
            ("channel_binding=require", "channel_binding='require' of the URL is not supported by asyncpg; leave it out, and use"),
            (
                "connect_timout=3",
                "Unknown option 'connect_timout' in the URL postgresql://u:***@h/d; use one of application_name, ",
            ),
        ],
    )
    def test_are_one_line_before_anything_is_sent(self, query, words):
        assert refused(f"postgresql://u:horse@h/d?{query}", ConfigurationError).startswith(words)

    def test_so_are_those_of_an_application(self):
        async def start():
            async with Pyncette("postgresql://u:horse@h/d?sslmode=on").create():
                pass

        with pytest.raises(ConfigurationError, match="The option sslmode='on' of the URL is not one of disable"):
            asyncio.run(start())
        with pytest.raises(ConfigurationError, match="Unknown option 'ssl_mode' .* did you mean 'sslmode'?"):
            Pyncette("postgresql://u:horse@h/d?ssl_mode=require")

    def test_a_context_and_options_for_tls(self):
        message = refused("postgresql://h/d?sslmode=require", ConfigurationError, postgres_ssl=ssl.create_default_context())
        assert message == "postgres_ssl and 'sslmode' of the URL are both given; leave out one of them"
        assert "pass an ssl.SSLContext" in refused("postgresql://h/d", ConfigurationError, postgres_ssl="require")
