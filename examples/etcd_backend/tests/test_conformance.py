"""The conformance suite on this backend, and what is its own: the stored format, options and errors.

The server is the one that PYNCETTE_TEST_ETCD_URL names; each test has a prefix of its own there.
"""

import asyncio
import base64
import functools
import json
import os
import uuid
from datetime import UTC, datetime

import pytest
from acme_pyncette_etcd import etcd_repository

from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import Key, Registration, Target
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows
from pyncette_conformance.suite import *  # noqa: F403

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


@pytest.fixture
def endpoint():
    url = os.environ.get("PYNCETTE_TEST_ETCD_URL")
    if not url:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("needs an etcd; set PYNCETTE_TEST_ETCD_URL=etcd://HOST:PORT")
    return url.replace("etcd://", "http://")


@pytest.fixture
def prefix():
    return f"test {uuid.uuid4().hex}"


@pytest.fixture
def repository_factory(endpoint, prefix):
    """Opens a repository; all that it opens are on one store."""
    return functools.partial(etcd_repository, etcd_endpoint=endpoint, etcd_prefix=prefix)


def registration(name, spec="{}"):
    return Registration(Key("p/1", name), spec, "s", Target(NOW, NOW))


def text(raw):
    return base64.b64encode(raw).decode()


async def everything(repository):
    """All that is stored, without the prefix."""
    start = repository._prefix
    found = await repository._call("range", {"key": text(start), "range_end": text(start[:-1] + b"0")})
    return {base64.b64decode(kv["key"]).removeprefix(start): base64.b64decode(kv.get("value", "")) for kv in found.get("kvs", ())}


async def put(repository, key, value):
    operation = {"request_put": {"key": text(repository._prefix + key), "value": text(value)}}
    await repository._call("txn", {"success": [operation]})


def error_of(kind, **options):
    async def start():
        async with etcd_repository(**options):
            pass

    with pytest.raises(kind) as caught:
        asyncio.run(start())
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self):
        async def damage(repository, key, field, junk):
            stored = await everything(repository)
            row = repository._row(key).removeprefix(repository._prefix)
            if field == INDEX:
                name = junk.encode() if isinstance(junk, str) else junk
                entry = repository._partition("ready", key.partition).removeprefix(repository._prefix)
                await put(repository, entry + b"0" * 20 + b"/" + name, b"")
                return True
            if field == "ready_at":  # which is in the index, too
                return False
            time, plain = stored[row][:20], stored[row][20:]
            if field == RECORD:
                plain = junk
            else:
                values = json.loads(plain)
                del values[field]
                plain = json.dumps(values).encode()
                if isinstance(junk, bytes):
                    plain = plain[:-1] + b', "%s": "%s"}' % (field.encode(), junk)
                elif junk is not MISSING:
                    plain = json.dumps({**values, field: junk}).encode()
            await put(repository, row, time + plain)
            return True

        return damage


class TestStored:
    def test_what_is_stored_is_pinned(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                await repository.register(NOW, [registration("a/b", '{"x": "é"}')])
                return await everything(repository)

        stored = asyncio.run(run())
        time = b"10001772366400123457"
        assert stored.keys() == {b"format", b"rows/p%2F1/a/b", b"ready/p%2F1/" + time + b"/a/b"}
        assert (stored[b"format"], stored[b"rows/p%2F1/a/b"][:20]) == (b"1", time)
        assert json.loads(stored[b"rows/p%2F1/a/b"][20:])["spec"] == '{"x": "é"}'

    def test_a_batch_takes_as_many_requests_as_a_row(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                calls = []
                call = repository._call

                async def counted(what, body):
                    calls.append(what)
                    return await call(what, body)

                repository._call = counted
                counts = []
                for size in (1, 50):
                    calls.clear()
                    await repository.register(NOW, [registration(f"{size}.{number}") for number in range(size)])
                    counts.append(len(calls))
                return counts

        assert asyncio.run(run()) == [2, 2]

    def test_a_newer_format_is_refused(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                await put(repository, b"format", b"2")
            async with repository_factory():
                pass

        with pytest.raises(RepositoryError, match=r"stored format 2.*upgrade acme-pyncette-etcd"):
            asyncio.run(run())


class TestOptions:
    def test_a_url_reaches_the_factory(self):
        assert from_url("etcd://there:99/shop?tls=true&timeout=3").keywords == {
            "etcd_endpoint": "https://there:99",
            "etcd_prefix": "shop",
            "etcd_timeout": 3.0,
        }

    def test_that_make_no_sense_are_refused(self):
        assert "etcd_endpoint='there'" in error_of(ConfigurationError, etcd_endpoint="there")
        assert "etcd_timeout=0" in error_of(ConfigurationError, etcd_timeout=0)
        for url in ("etcd://ada:secret@there", "etcd://there?tls=perhaps", "etcd://there?tsl=true"):
            with pytest.raises(ConfigurationError) as caught:
                from_url(url)
            assert "secret" not in str(caught.value)


class TestErrors:
    def test_nobody_listens(self):
        assert "is it running?" in error_of(TransientRepositoryError, etcd_endpoint="http://127.0.0.1:9")

    def test_nothing_is_there_yet(self, repository_factory):
        assert "nothing" in error_of(StoreMissingError, **repository_factory.keywords, etcd_skip_table_create=True)

    def test_a_row_that_is_too_large_fails_alone_and_for_good(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                large = registration("large", '{"x": "' + "y" * 3_000_000 + '"}')
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration("small"), large])
                assert not isinstance(caught.value, TransientRepositoryError)
                small, absent = await repository.get([Key("p/1", "small"), large.key])
                assert small is not None
                assert absent is None

        asyncio.run(run())
