"""The conformance suite on this backend, and what is its own: options, errors, the stored format, several processes."""

import asyncio
import functools
import hashlib
import json
import multiprocessing
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lmdb
import pytest
from acme_pyncette_lmdb import lmdb_repository

from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import Commit, Key, Outcome, Registration, Target
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows
from pyncette_conformance.suite import *  # noqa: F403

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tasks.lmdb")


@pytest.fixture
def repository_factory(path):
    """Opens a repository; all that it opens are on one store."""
    return functools.partial(lmdb_repository, lmdb_path=path)


def registration(name, spec="{}"):
    return Registration(Key("p", name), spec, "s", Target(NOW, NOW))


def open_and_close(**options):
    async def run():
        async with lmdb_repository(**options):
            pass

    asyncio.run(run())


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self):
        def damage(repository, key, field, junk):
            partition, name = (hashlib.sha256(text.encode()).digest() for text in key)
            with repository._environment.begin(write=True) as txn:
                if field == INDEX:
                    digest = hashlib.sha256(junk.encode()).digest() if isinstance(junk, str) else junk
                    return txn.put(b"r" + partition + bytes(8) + digest, b"")
                plain = txn.get(b"t" + partition + name).partition(b"\0")[2]
                if field == RECORD:
                    plain = junk
                elif field == "ready_at":  # which is in the index, too
                    return False
                else:
                    values = json.loads(plain)
                    del values[field]
                    plain = json.dumps(values).encode()
                    if isinstance(junk, bytes):
                        plain = plain[:-1] + b', "%s": "%s"}' % (field.encode(), junk)
                    elif junk is not MISSING:
                        plain = json.dumps({**values, field: junk}).encode()
                return txn.put(b"t" + partition + name, key.name.encode() + b"\0" + plain)

        return damage

    def test_one_whose_name_is_damaged_too_goes_by_another(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                await repository.register(NOW, [registration("a"), registration("b")])
                p, a = (hashlib.sha256(text).digest() for text in (b"p", b"a"))
                with repository._environment.begin(write=True) as txn:
                    txn.put(b"t" + p + a, b"\xff")
                result = await repository.claim(NOW, "p", lease_duration=MINUTE, limit=9)
                assert [claim.key.name for claim in result.claims] == ["b"]
                [unreadable] = result.unreadable
                assert {row.key for row in (await repository.list("p", limit=9)).rows} == {Key("p", "b"), unreadable.key}
                assert await repository.unregister(NOW, [unreadable.key]) == [True]
                assert [row.key.name for row in (await repository.list("p", limit=9)).rows] == ["b"]
                await repository.register(NOW, [registration("a")])

        asyncio.run(run())


class TestSeveralProcesses:
    def test_each_occurrence_is_committed_by_one(self, repository_factory, path):
        async def prepare():
            async with repository_factory() as repository:
                await repository.register(NOW, [registration(f"task {number}") for number in range(100)])

        asyncio.run(prepare())
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            applied = Counter(key for part in pool.map(work, [path] * 3) for key in part)
        assert applied == {f"task {number} at {occurrence}": 1 for number in range(100) for occurrence in range(3)}


def work(path):
    """In a process of its own: run three occurrences of whatever there is, each at its minute."""

    async def run():
        applied = []
        async with lmdb_repository(lmdb_path=path) as repository:
            while True:
                result = await repository.claim(NOW + 2 * MINUTE, "p", lease_duration=MINUTE, limit=7)
                if not result.claims and (result.next_ready_at is None or result.next_ready_at > NOW + 2 * MINUTE):
                    return applied
                settlements = []
                for claim in result.claims:
                    occurrence = claim.occurrence + MINUTE
                    settlements.append(Commit(claim, Target(occurrence, occurrence)))
                outcomes = await repository.settle(NOW + 2 * MINUTE, settlements)
                for claim, outcome in zip(result.claims, outcomes, strict=True):
                    assert outcome is Outcome.APPLIED
                    applied.append(f"{claim.key.name} at {(claim.occurrence - NOW) // MINUTE}")

    return asyncio.run(run())


class TestOptions:
    def test_of_a_url(self, path):
        async def run():
            async with from_url(f"lmdb:///{path}?map_size=2000000&timeout=5")() as one, lmdb_repository(lmdb_path=path) as other:
                await one.register(NOW, [registration("a")])
                assert [row.key.name for row in (await other.list("p", limit=10)).rows] == ["a"]

        asyncio.run(run())

    @pytest.mark.parametrize("url", ["lmdb://", "lmdb:///", "lmdb://host/path", "lmdb:///x?map_size=many", "lmdb:///x?mapsize=1"])
    def test_of_a_wrong_url(self, url):
        with pytest.raises(ConfigurationError):
            from_url(url)

    @pytest.mark.parametrize("options", [{"lmdb_path": ""}, {"lmdb_map_size": 1}, {"lmdb_timeout": 0.0}], ids=str)
    def test_that_make_no_sense(self, path, options):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            open_and_close(**{"lmdb_path": path, **options})


class TestErrors:
    def test_who_only_looks_creates_nothing(self, path):
        with pytest.raises(StoreMissingError, match="There is no LMDB environment .* yet"):
            open_and_close(lmdb_path=path, lmdb_skip_table_create=True)
        assert not Path(path).exists()
        open_and_close(lmdb_path=path)
        open_and_close(lmdb_path=path, lmdb_skip_table_create=True)

    def test_a_directory_that_can_not_be_made(self, path):
        with pytest.raises(RepositoryError, match="can't be opened .* check lmdb_path"):
            open_and_close(lmdb_path=f"{path}/no/such")

    def test_no_room_left_is_transient(self, path):
        async def run():
            async with lmdb_repository(lmdb_path=path, lmdb_map_size=2**20) as repository:
                with pytest.raises(TransientRepositoryError, match="raise lmdb_map_size"):
                    await repository.register(NOW, [registration("large", spec="x" * 2**20)])
                await repository.register(NOW, [registration("small")])

        asyncio.run(run())

    def test_one_who_holds_the_lock_is_waited_for_until_the_timeout(self, path):
        async def run():
            async with lmdb_repository(lmdb_path=path, lmdb_timeout=0.2) as repository:
                with repository._environment.begin(write=True):
                    with pytest.raises(TransientRepositoryError, match=r"was busy for 0\.2 s"):
                        await repository.register(NOW, [registration("late")])
                await repository.register(NOW, [registration("a")])

        asyncio.run(run())

    def test_after_the_end(self, repository_factory):
        async def run():
            async with repository_factory() as repository:
                pass
            with pytest.raises(RepositoryError, match="is closed"):
                await repository.get([])

        asyncio.run(run())


class TestStored:
    def test_what_is_stored_is_pinned(self, repository_factory, path):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def run():
            async with repository_factory() as repository:
                await repository.register(NOW, [registration("a", spec='{"x": 1}')])

        asyncio.run(run())
        p, a = (hashlib.sha256(text).digest() for text in (b"p", b"a"))
        at = 1772366400123457
        with lmdb.open(path) as environment, environment.begin() as txn:
            stored = dict(txn.cursor())
        row = stored.pop(b"t" + p + a)
        name, _, rest = row.partition(b"\0")
        assert name == b"a"
        times = {"occurrence": at, "execute_after": at, "ready_at": at, "locked_until": None}
        others = {"lease": None, "epoch": at, "revision": 0, "attempt": 0, "state": "scheduled", "error": None, "memo": ""}
        assert json.loads(rest) == {"spec": '{"x": 1}', "schedule": "s", **times, **others}
        assert stored == {b"format": b"1", b"r" + p + bytes.fromhex("80064bf535b0f241") + a: b""}

    @pytest.mark.parametrize(
        ("found", "says"), [(b"2", "stored format 2, .* upgrade acme-pyncette-lmdb"), (b"x", "not one of Pyncette's")]
    )
    def test_another_format_is_refused(self, path, found, says):
        open_and_close(lmdb_path=path)
        with lmdb.open(path) as environment, environment.begin(write=True) as txn:
            txn.put(b"format", found)
        with pytest.raises(RepositoryError, match=says):
            open_and_close(lmdb_path=path)

    def test_what_is_not_ours_is_refused(self, path):
        with lmdb.open(path) as environment, environment.begin(write=True) as txn:
            txn.put(b"something", b"else")
        with pytest.raises(RepositoryError, match="not one of Pyncette's"):
            open_and_close(lmdb_path=path)
