"""TLS, sockets and logins, on servers of the tests' own."""

import asyncio
import ssl

import pytest
from own_server import Stripper

from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.mysql import mysql_repository
from pyncette.repository import Key

PASSWORDS = ["пароль€", "pässword", "密码 😀", "p:a/s?s@w#o%r+d", "x" * 200]


def run(options, statement="SHOW STATUS LIKE 'Ssl_cipher'"):
    """What a statement answers on a connection of a repository with ``options``."""

    async def run():
        async with mysql_repository(**options) as repository:
            await repository.get([Key("p", "a")])
            return await repository._fetch(statement)

    return asyncio.run(run())


def refused(options, kind=RepositoryError):
    with pytest.raises(kind) as caught:
        run(options)
    assert type(caught.value) is kind  # nothing that a retry would heal
    message = str(caught.value)
    assert "\n" not in message and "horse" not in message
    return message


class TestTLS:
    @pytest.mark.parametrize(
        ("more", "encrypted"),
        [
            ({}, False),
            ({"ssl_mode": "DISABLED"}, False),
            ({"ssl_ca": "ca.pem"}, True),
            ({"ssl": True, "ssl_ca": "ca.pem", "ssl_cert": "client.pem", "ssl_key": "client-key.pem"}, True),
            ({"ssl_mode": "required"}, True),
            ({"ssl_mode": "VERIFY_CA", "ssl_ca": "ca.pem", "host": "localhost"}, True),
            ({"ssl_mode": "VERIFY-IDENTITY", "ssl_ca": "ca.pem"}, True),
        ],
    )
    def test_options_say_whether_and_how(self, own, more, encrypted):
        [[_, cipher]] = run(own.options(**more))
        assert bool(cipher) is encrypted

    def test_a_context_says_it_in_code(self, own):
        context = ssl.create_default_context(cafile=str(own.folder / "ca.pem"))
        [[_, cipher]] = run(own.options(ssl_context=context))
        assert cipher

    @pytest.mark.parametrize("dash", "_-")
    def test_a_url_says_it(self, own, dash):
        async def test():
            options = own.options()
            address = f"{options['mysql_user']}:{options['mysql_password']}@127.0.0.1:{options['mysql_port']}/pyncette"
            url = f"mysql://{address}?ssl{dash}mode=VERIFY_IDENTITY&ssl{dash}ca={own.folder}/ca.pem&table_name={options['mysql_table_name']}"
            async with from_url(url)() as repository:
                [[_, cipher]] = await repository._fetch("SHOW STATUS LIKE 'Ssl_cipher'")
                assert cipher

        asyncio.run(test())

    def test_a_man_in_the_middle_gets_nothing(self, own):
        """He says that the server has no TLS: the driver alone would continue, and give away the login."""

        async def test():
            async with Stripper("127.0.0.1", own.options()["mysql_port"]) as stripper:
                with pytest.raises(RepositoryError) as caught:
                    async with mysql_repository(**own.options(ssl_ca="ca.pem", port=stripper.port)):
                        pass
                assert type(caught.value) is RepositoryError
                assert "offers no TLS, so nothing was sent" in str(caught.value)
                assert stripper.sent == b""
                # He does stand in between.
                async with mysql_repository(**own.options(port=stripper.port)):
                    assert b"pyncette" in stripper.sent

        asyncio.run(test())

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"ssl": True}, "could not agree on TLS"),
            ({"ssl_ca": "other-ca.pem"}, "could not agree on TLS"),
            ({"ssl_ca": "ca.pem", "host": "localhost"}, "certificate is not valid for 'localhost'"),
        ],
    )
    def test_what_does_not_fit_is_named(self, own, more, words):
        message = refused(own.options(**more))
        assert words in message
        assert message.endswith("; check mysql_ssl_ca and the other mysql_ssl options")

    def test_an_account_may_demand_tls_and_a_certificate(self, own):
        with own.account("REQUIRE X509") as account:
            assert "refused the login" in refused(own.options(**account))
            assert "refused the login" in refused(own.options(**account, ssl_ca="ca.pem"))
            run(own.options(**account, ssl_ca="ca.pem", ssl_cert="client.pem", ssl_key="client-key.pem"))

    def test_a_server_that_demands_tls_is_understood(self, own):
        own.sql("SET GLOBAL require_secure_transport = ON", ssl=True)
        try:
            message = refused(own.options())
            assert message.endswith(("requires encrypted connections; set mysql_ssl", "and whether it demands TLS"))
        finally:
            own.sql("SET GLOBAL require_secure_transport = OFF", ssl=True)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"ssl_mode": "PREFERRED"}, "gives no protection"),
            ({"ssl_mode": "on"}, "use one of DISABLED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"),
            ({"ssl_mode": "DISABLED", "ssl_ca": "ca.pem"}, "mysql_ssl_ca contradict each other"),
            ({"ssl": True, "ssl_mode": "DISABLED"}, "mysql_ssl contradict each other"),
            ({"ssl_context": ssl.create_default_context(), "ssl_ca": "ca.pem"}, "leave out mysql_ssl_ca"),
            ({"ssl_key": "client-key.pem"}, "without mysql_ssl_cert; pass both"),
            ({"ssl_ca": "nowhere.pem"}, "is not a file on this machine"),
            ({"ssl_ca": "client-key.pem"}, "they have to be PEM files"),
            ({"ssl_cert": "client.pem", "ssl_key": "server-key.pem"}, "they have to be PEM files"),
            ({"ssl_cert": "client.pem", "ssl_key": "locked-key.pem"}, "the key not encrypted"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, certificates, more, words):
        options = {
            f"mysql_{name}": str(certificates / value) if str(value).endswith(".pem") else value for name, value in more.items()
        }
        assert words in refused({"mysql_database": "db", **options}, ConfigurationError)


class TestLogins:
    def test_by_a_socket(self, own):
        [[port]] = run(own.options(unix_socket="mysql.sock", host="nowhere.invalid"), "SELECT @@port")
        assert port == own.options()["mysql_port"]

    def test_a_socket_that_is_not_there(self, own):
        async def test():
            with pytest.raises(RepositoryError, match=r"MySQL at /nowhere.sock/pyncette can't be reached .*No such file"):
                async with mysql_repository(**{**own.options(), "mysql_unix_socket": "/nowhere.sock"}):
                    pass

        asyncio.run(test())

    @pytest.mark.parametrize("password", PASSWORDS)
    @pytest.mark.parametrize("encrypted", [False, True])
    def test_passwords_may_be_in_any_script(self, own, password, encrypted):
        with own.account(password=password) as account:
            for _ in range(2):  # the second time the server remembers it
                run(own.options(**account, **({"ssl_ca": "ca.pem"} if encrypted else {})))
            message = refused(own.options(**{**account, "password": password + "€"}))
            assert "refused the login" in message and password not in message

    @pytest.mark.parametrize("password", ["horse\ud800", "horse\0"])
    def test_what_can_be_no_password_is_not_shown(self, password):
        options = {"mysql_database": "db", "mysql_user": "user", "mysql_password": password}
        with pytest.raises(ConfigurationError, match="mysql_password is not text") as caught:
            run(options)
        error = caught.value
        while error is not None:
            assert "horse" not in repr(error)
            error = error.__cause__ or error.__context__

    def test_a_server_reads_no_files_of_ours(self, own, tmp_path):
        """LOAD DATA LOCAL: a server, or who plays one, may ask for any file in answer to any statement."""
        secret = tmp_path / "secret"
        secret.write_text("battery-horse")

        async def test():
            async with mysql_repository(**own.options()) as repository:
                with pytest.raises(RepositoryError):
                    await repository._fetch(f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE {{table}}")

        own.sql("SET GLOBAL local_infile = ON")
        asyncio.run(test())


class TestNoMySQL:
    @pytest.mark.parametrize(
        "greeting", [b"220 mail.example ESMTP\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\0\0\0\x0a8.0", b"\0\0\0\0"]
    )
    def test_somebody_else_listens(self, greeting):
        async def greet(_, writer):
            writer.write(greeting)
            writer.close()

        async def test():
            async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(RepositoryError) as caught:
                    async with mysql_repository(mysql_host="127.0.0.1", mysql_port=port, mysql_database="db", mysql_timeout=2.0):
                        pass
                assert f"MySQL at 127.0.0.1:{port}/db" in str(caught.value)

        asyncio.run(test())
