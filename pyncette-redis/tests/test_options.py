"""Options, URLs, and what is said of those that are wrong. No message shows a password."""

import asyncio
import importlib.metadata
import shutil
import ssl
import subprocess
import traceback
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
import redis
from conftest import free_port, required
from native_errors import ERRORS
from redis.exceptions import ResponseError

from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError
from pyncette.redis import backend, redis_repository
from pyncette.repository import Fail, Key, Outcome, Registration, Target

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


async def opened(repository):
    async with repository as it:
        return await it.server_time()


async def used(repository):
    async with repository as it:
        await life(it)


async def life(repository):
    """All calls that there are."""
    key = Key("p", "a")
    await repository.register(NOW, [Registration(key, "{}", "s", Target(NOW, NOW))])
    [claimed] = (await repository.claim(NOW, "p", lease_duration=timedelta(minutes=1), limit=1)).claims
    assert (await repository.claim(NOW, "p", lease_duration=timedelta(minutes=1), limit=1, names=["b"])).missing == ["b"]
    assert await repository.settle(NOW, [Fail(claimed, "it broke")]) == [Outcome.APPLIED]
    assert (await repository.stats(NOW, "p")).failed == 1
    assert await repository.pause(NOW, [key]) == await repository.resume(NOW, [key]) == [True]
    assert [row.key for row in (await repository.list("p", limit=1)).rows] == [key]
    assert [row.key for row in await repository.get([key])] == [key]
    assert await repository.partitions() == ["p"]
    assert await repository.unregister(NOW, [key]) == [True]
    await repository.server_time()


def refused(kind, url_or_options, secret="s3cret"):
    """The message of the error that ends the attempt to open a repository."""
    with pytest.raises(kind) as caught:
        is_url = isinstance(url_or_options, str)
        asyncio.run(opened(from_url(url_or_options)() if is_url else redis_repository(**url_or_options)))
    assert type(caught.value) is kind
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestURLs:
    @pytest.mark.parametrize(
        "scheme",
        [
            *(f"{name}{kind}" for name in ("redis", "rediss", "valkey", "valkeys") for kind in ("", "+cluster", "+sentinel")),
            "redis+unix",
            "valkey+unix",
        ],
    )
    def test_of_all_schemes_reach_the_factory(self, scheme):
        [entry] = importlib.metadata.entry_points(group="pyncette.backends", name=scheme)
        assert entry.load() is backend
        made = from_url(f"{scheme}://user:pass%2Fword@host:1234")
        assert made.func is redis_repository
        assert made.keywords == {"redis_url": f"{scheme}://user:pass%2Fword@host:1234"}

    def test_take_the_options_of_the_factory(self):
        url = "redis://:pw@host:6379/5?namespace=my_app&timeout=2.5&max_connections=7&cluster=no&ssl_verify=false&sentinel_master=m"
        assert from_url(url).keywords == {
            "redis_url": "redis://:pw@host:6379/5",
            "redis_namespace": "my_app",
            "redis_timeout": 2.5,
            "redis_max_connections": 7,
            "redis_cluster": False,
            "redis_ssl_verify": False,
            "redis_sentinel_master": "m",
        }

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("redis://u:s3cret@host/x", "'/x' in the redis_url redis://u:***@host/x is not the number of a database"),
            (
                "redis+cluster://u:s3cret@host/1",
                "'/1' in the redis_url redis+cluster://u:***@host/1 is not the number of a database",
            ),
            (
                "redis://u:s3cret@one:1,two:2",
                "redis_url redis://u:***@one:1,two:2 has several hosts; write one, or redis+cluster://",
            ),
            ("redis://u:s3cret@host:port", "The redis:// URL has something other than HOST or HOST:PORT after its '//'"),
            (
                "redis+sentinel://host?cluster=1",
                "redis+sentinel://host is a Sentinel URL, not that of a cluster; leave out redis_cluster",
            ),
            (
                "redis://u:s3cret@host?namespaec=x",
                "Unknown option 'namespaec' in the URL redis://u:***@host; did you mean 'namespace'?",
            ),
            ("redis://host?timeout=soon", "The option timeout='soon' of the URL is not a number"),
            ("redis://host?timeout=0", "redis_timeout=0.0 is not a number of seconds above 0"),
            ("redis://host?max_connections=0", "redis_max_connections=0 is not a number above 0"),
            (
                "redis://host?ssl_verify=no",
                "The options redis_ssl_... are for TLS only; begin the redis_url redis://host with rediss or valkeys",
            ),
        ],
    )
    def test_that_make_no_sense_are_refused(self, url, message):
        assert message in refused(ConfigurationError, url)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://u:s3cret@host/db", "The redis_url postgresql://u:***@host/db is not a Redis URL; write for example"),
            ("redis+sqlite://host", "The redis_url redis+sqlite://host is not a Redis URL"),
            (
                "redis://u:s3cret@host/0?namespace=x&db=s3cret",
                "'redis://u:***@host/0' has options; pass them as redis_namespace, redis_db",
            ),
            ("localhost", "'localhost' is not a URL of a store"),
        ],
    )
    def test_of_the_factory_that_make_no_sense_are_refused(self, url, message):
        assert message in refused(ConfigurationError, {"redis_url": url})

    def test_with_several_hosts_are_asked_one_after_the_other(self, cluster_url):
        asyncio.run(opened(from_url(cluster_url.replace("://", f"://127.0.0.1:{free_port()},"))()))

    def test_of_a_node_and_redis_cluster_make_a_cluster(self, cluster_url):
        asyncio.run(opened(redis_repository(redis_url=cluster_url.replace("+cluster", ""), redis_cluster=True)))


class TestServers:
    def test_that_are_not_there(self):
        port = free_port()
        assert refused(TransientRepositoryError, f"redis://u:s3cret@127.0.0.1:{port}/0") == (
            f"Redis at redis://u:***@127.0.0.1:{port}/0 can't be reached (Error 111 connecting to 127.0.0.1:{port}. Connect call "
            f"failed ('127.0.0.1', {port})); check the address, and that the server runs"
        )
        assert refused(TransientRepositoryError, f"redis+cluster://:s3cret@127.0.0.1:{port}").startswith(
            f"Redis at redis+cluster://:***@127.0.0.1:{port} can't be reached (Error 111 connecting to 127.0.0.1:{port}."
        )
        assert refused(TransientRepositoryError, f"redis+sentinel://:s3cret@127.0.0.1:{port}").startswith(
            f"Redis at redis+sentinel://:***@127.0.0.1:{port} names no master 'mymaster'; check the sentinels' addresses"
        )
        message = refused(TransientRepositoryError, "redis://:s3cret@nowhere.invalid/0")
        assert message.startswith("Redis at redis://:***@nowhere.invalid/0 can't be reached (Error -")

    def test_that_want_another_password(self, servers):
        server = servers.start("--requirepass", "s3cret")
        where = f"127.0.0.1:{server.port}"
        asyncio.run(opened(from_url(f"redis://:s3cret@{where}")()))
        assert refused(RepositoryError, f"redis://:wrong@{where}", "wrong@") == (
            f"Redis at redis://:***@{where} refuses the user or the password "
            "(invalid username-password pair or user is disabled); check both in redis_url"
        )
        assert refused(RepositoryError, f"redis://{where}") == (
            f"Redis at redis://{where} refuses the user or the password (Authentication required); check both in redis_url"
        )

    def test_that_want_none(self, server_url):
        message = refused(RepositoryError, server_url.replace("://", "://:s3cret@"))
        assert "refuses the user or the password (AUTH <password> called without any password configured" in message

    def test_that_deny_a_command(self, servers, raw):
        server = servers.start()
        raw(server.url).execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", "~*", "+@all", "-evalsha")
        message = refused(RepositoryError, f"redis://worker:s3cret@127.0.0.1:{server.port}")
        assert message.startswith(
            f"Redis at redis://worker:***@127.0.0.1:{server.port} denies its user a command, a key or a channel ("
        )
        assert message.endswith("); allow it with ACL SETUSER")
        raw(server.url).execute_command("ACL", "SETUSER", "worker", "+evalsha", "-zadd")
        with pytest.raises(
            RepositoryError, match=r"denies its user a command, a key or a channel \(.*\); allow it with ACL SETUSER"
        ):
            asyncio.run(used(redis_repository(redis_url=f"redis://worker:s3cret@127.0.0.1:{server.port}")))

    def test_that_allow_no_more_than_is_needed_will_do(self, servers, raw):
        server = servers.start()
        commands = "EVALSHA EVAL SET GET SADD SREM SMEMBERS EXISTS HLEN HMGET HSET HDEL HSCAN ZADD ZREM ZREMRANGEBYRANK ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZLEXCOUNT TIME SELECT"
        allowed = [f"+{command}" for command in commands.split()]
        raw(server.url).execute_command("ACL", "SETUSER", "worker", "on", ">s3cret", "~mine:*", "-@all", *allowed)

        async def test():
            url = f"redis://worker:s3cret@127.0.0.1:{server.port}/3"
            async with redis_repository(redis_url=url, redis_namespace="mine") as repository:
                await life(repository)

        asyncio.run(test())

    def test_that_lack_the_database(self, server_url):
        message = refused(RepositoryError, server_url.rpartition("/")[0] + "/9999")
        assert message.endswith(
            "/9999 has no such database (DB index is out of range); choose a lower number, or raise its setting 'databases'"
        )

    def test_that_are_no_cluster_and_such_that_are(self, server_url, cluster_url, namespace):
        one = "redis+cluster://" + server_url.partition("://")[2].partition("/")[0]
        assert refused(RepositoryError, one) == (
            f"Redis at {one} is not a Redis Cluster (This instance has cluster support disabled); "
            "write redis:// or rediss://, and no redis_cluster=True"
        )
        node = cluster_url.replace("+cluster", "")
        messages = set()
        for i in range(30):  # some slots are on this very node
            try:
                asyncio.run(opened(redis_repository(redis_url=node, redis_namespace=f"{namespace}{i}")))
            except RepositoryError as error:
                messages.add(str(error).partition("(")[0])
                assert str(error).endswith("; write redis+cluster://, or pass redis_cluster=True")
        assert messages == {f"Redis at {node} is a node of a Redis Cluster "}

    def test_that_have_other_things_under_our_keys(self, server_url, namespace, raw):
        raw(server_url).rpush(f"{namespace}:pyncette:format", "x")
        message = refused(RepositoryError, {"redis_url": server_url, "redis_namespace": namespace})
        assert message.startswith(
            f"Redis at {server_url} has something else under Pyncette's keys (WRONGTYPE Operation against a key"
        )
        assert message.endswith("); choose another redis_namespace")

    @pytest.mark.parametrize("error", ERRORS, ids=str)
    def test_whose_errors_are_transient(self, server_url, monkeypatch, error):
        async def fail(*_, **__):
            return [error]

        monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", fail)
        said = str(error).rstrip(".")
        assert f"({said})" in refused(TransientRepositoryError, server_url)

    def test_whose_errors_are_unknown(self, server_url, monkeypatch):
        async def fail(*_, **__):
            return [ResponseError("ERR so be it\nor not")]

        monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", fail)
        assert refused(RepositoryError, server_url) == f"Redis at {server_url} refused a call (ERR so be it or not)"


class TestTLS:
    @pytest.fixture
    def files(self, tmp_path):
        """A key and a certificate of localhost."""
        if shutil.which("openssl") is None:
            required("openssl", "install it")
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=localhost"
        subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
        return str(key), str(certificate)

    @pytest.fixture
    def secure(self, servers, files):
        """``secure(...)``: the port of a server with this certificate, which wants to see another one."""

        def start(*options):
            key, certificate = files
            port = free_port()
            tls = f"--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {certificate}"
            servers.start(*tls.split(), *options)
            return port

        return start

    def test_certificates_are_shown_and_checked(self, secure, files):
        key, certificate = files
        port = secure()
        both = {"redis_ssl_certfile": certificate, "redis_ssl_keyfile": key}
        for scheme in ("rediss", "valkeys"):
            url = f"{scheme}://127.0.0.1:{port}/0"
            asyncio.run(opened(redis_repository(redis_url=url, redis_ssl_ca_certs=certificate, **both)))
        asyncio.run(opened(redis_repository(redis_url=url, redis_ssl_verify=False, **both)))

    def test_a_context_of_ones_own_will_do(self, secure, files):
        key, certificate = files
        port = secure()
        context = ssl.create_default_context(cafile=certificate)
        context.load_cert_chain(certificate, key)
        url = f"rediss://127.0.0.1:{port}/0"
        asyncio.run(opened(redis_repository(redis_url=url, redis_ssl_context=context)))
        message = refused(RepositoryError, {"redis_url": url, "redis_ssl_context": ssl.create_default_context()})
        assert "can't agree on TLS" in message

    def test_a_sentinel_and_its_master_are_spoken_to_over_it(self, servers, secure, files):
        key, certificate = files
        master = secure("--tls-auth-clients", "no")
        sentinel = free_port()
        servers.start(
            "--sentinel",
            *f"--tls-port {sentinel} --tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {certificate}".split(),
            *"--tls-auth-clients no --tls-replication yes".split(),
            config=f"sentinel monitor mymaster 127.0.0.1 {master} 1\n",
        )
        context = ssl.create_default_context(cafile=certificate)
        for options in ({"redis_ssl_context": context}, {"redis_ssl_ca_certs": certificate}):
            asyncio.run(opened(redis_repository(redis_url=f"rediss+sentinel://127.0.0.1:{sentinel}", **options)))

    def test_what_is_wrong_with_it_is_said_and_not_tried_again(self, secure, files, tmp_path):
        key, certificate = files
        port = secure()
        url = f"rediss://127.0.0.1:{port}/0"
        both = {"redis_ssl_certfile": certificate, "redis_ssl_keyfile": key}
        trusting = {"redis_ssl_ca_certs": certificate}
        for options, problem in (
            (both, "CERTIFICATE_VERIFY_FAILED"),
            ({**both, "redis_ssl_ca_certs": str(tmp_path / "none.pem")}, "No such file"),
            ({**trusting, "redis_ssl_certfile": key, "redis_ssl_keyfile": key}, "PEM"),
        ):
            message = refused(RepositoryError, {"redis_url": url, **options})
            assert message.startswith(f"Redis at {options.get('redis_url', url)} and this program can't agree on TLS (")
            assert problem in message
            assert message.endswith("); check the options redis_ssl_...")

    def test_a_server_without_it_is_reported(self, servers):
        # It waits for what it could understand.
        server = servers.start()
        message = refused(TransientRepositoryError, f"rediss://127.0.0.1:{server.port}/0?timeout=2")
        assert message.endswith("check the address, and that the server runs, uses TLS, and accepts your certificate")

    @pytest.mark.parametrize("scheme", ["redis", "redis+unix"])
    def test_options_and_contexts_are_for_nothing_else(self, scheme):
        url = {"redis": "redis://host", "redis+unix": "redis+unix:///run/redis.sock"}[scheme]
        for option in ({"redis_ssl_context": ssl.create_default_context()}, {"redis_ssl_verify": False}):
            message = refused(ConfigurationError, {"redis_url": url, **option})
            assert message == f"The options redis_ssl_... are for TLS only; begin the redis_url {url} with rediss or valkeys"
        both = {"redis_url": "rediss://host", "redis_ssl_context": ssl.create_default_context(), "redis_ssl_ca_certs": "x"}
        assert refused(ConfigurationError, both) == (
            "redis_ssl_context replaces the other options redis_ssl_...; pass either it or them"
        )


class TestSockets:
    def test_are_named_by_their_path(self, servers, tmp_path):
        path = tmp_path / "it is.sock"
        server = servers.start("--unixsocket", str(path))
        for scheme in ("redis+unix", "valkey+unix"):
            url = f"{scheme}://{urllib.parse.quote(str(path))}?db=3&namespace=x"
            asyncio.run(opened(from_url(url)()))

        async def test():
            async with from_url(url)() as repository:
                await life(repository)
                await repository.register(NOW, [Registration(Key("p", "a"), "{}", "s", Target(NOW, NOW))])

        asyncio.run(test())
        with redis.Redis(port=server.port, db=3) as client:
            assert client.exists("x:pyncette:format")
        server.stop()
        message = refused(TransientRepositoryError, url)
        assert message.startswith(f"Redis at {scheme}://{path} can't be reached (Error ")

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (
                "redis+unix://",
                "The redis_url redis+unix:// has no path of a socket; write for example redis+unix:///run/redis.sock",
            ),
            ("redis+unix://run/redis.sock", "The redis_url redis+unix://run/redis.sock has no path of a socket"),
            ("redis://host/1?db=2", "The redis_url redis://host/1 has a different database from redis_db=2; write one of them"),
            ("redis+cluster://host?db=2", "redis_db=2 in the redis_url redis+cluster://host is not the number of a database"),
            ("redis://host?db=-1", "redis_db=-1 is not a number of a database"),
        ],
    )
    def test_and_databases_that_make_no_sense_are_refused(self, url, message):
        assert message in refused(ConfigurationError, url)
