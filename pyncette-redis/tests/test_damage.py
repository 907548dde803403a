"""What Redis makes of damaged rows: the shared tests on a server and on a cluster, and what only Redis lets one do."""

import functools

import pytest

from pyncette.redis import redis_repository
from pyncette.repository import Key, State
from pyncette_conformance.builders import LEASE, T0, claim_one, poll, register, registration
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows, assert_unreadable, claim_all
from pyncette_conformance.store import all_rows, scenario
from pyncette_conformance.suite.base import Conformance

#: Where the fields of a row are in its text.
FIELDS = {
    "epoch": slice(0, 19),
    "occurrence": slice(19, 38),
    "execute_after": slice(38, 57),
    "attempt": slice(57, 76),
    "ready_at": slice(76, 95),
    "state": slice(76, 95),
    "revision": slice(95, 114),
    "lease": slice(114, 146),
    "locked_until": slice(146, 165),
}
TEXTS = ("schedule", "memo", "error")
INSTANT = "0063100000000000000"
SINCE_THE_YEAR_1 = 62135596800000000


@pytest.fixture
def repository_factory(url, namespace):
    return functools.partial(redis_repository, redis_url=url, redis_namespace=namespace)


@pytest.fixture
def client(url, raw):
    return raw(url)


@pytest.mark.parametrize("url", ["redis"], indirect=True)  # it is the script that judges, and there is one for all
class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self, client):
        def damage(repository, key, field, junk):
            index, rows, specs, _ = repository._keys.rows(key.partition)
            if field == INDEX:
                name = junk if isinstance(junk, bytes) else junk.encode()
                return client.zadd(index, {INSTANT.encode() + name: 0})
            if field == RECORD:
                client.hset(rows, key.name, junk)
                return True
            if field == "spec":
                client.hdel(specs, key.name) if junk in (None, MISSING) else client.hset(specs, key.name, junk)
                return False  # a registration brings others, and a settlement needs none
            row = client.hget(rows, key.name).encode(errors="surrogateescape")
            if type(junk) is int and field not in ("attempt", "state"):  # else it is a text of another length
                junk = f"{junk:019}" if field == "revision" else f"{junk + SINCE_THE_YEAR_1:019}"
            text = b"" if junk in (None, MISSING) else junk if isinstance(junk, bytes) else str(junk).encode()
            client.hset(rows, key.name, damaged(row, field, text))
            # What is no UTF-8 is seen where it is read, and not by the script; and an empty text is one.
            return not (field in TEXTS and (junk in (None, MISSING) or isinstance(junk, bytes)))

        return damage


def damaged(row, field, junk):
    if field in FIELDS:
        return row[: FIELDS[field].start] + junk + row[FIELDS[field].stop :]
    texts = row[165:].split(b"\xff")
    texts[TEXTS.index(field) :] = [junk, *texts[TEXTS.index(field) + 1 :]]
    return row[:165] + b"\xff".join(texts)


class TestOnlyHere(Conformance):
    @scenario()
    async def test_what_is_no_text_is_shown_and_put_off_and_can_be_replaced(self, store, client):
        """I10."""
        for field in ("schedule", "lease", "memo"):
            key = store.key()
            await register(store.repository, key, seconds=-10)
            _, rows, _, _ = store.repository._keys.rows(key.partition)
            row = client.hget(rows, key.name).encode(errors="surrogateescape")
            client.hset(rows, key.name, damaged(row, field, b"\xfe" * 32))
            row = await store.row(key)
            assert (row.state, row.ready_at is None) == (State.UNREADABLE, False), field
            assert [row.state for row in await all_rows(store.repository, key.partition) if row.key == key] == [State.UNREADABLE]
            await store.repository.register(T0, [registration(key)], force=True)
            assert (await claim_one(store.repository, key)).key == key

    @scenario()
    async def test_arguments_that_are_no_text_or_gone_are_put_off(self, store, client):
        """I10."""
        [*bad, good] = store.keys(3)
        await register(store.repository, *bad, good, seconds=-10)
        _, _, specs, _ = store.repository._keys.rows(good.partition)
        client.hset(specs, bad[0].name, b"\xff")
        client.hdel(specs, bad[1].name)
        for now in (T0, T0 + LEASE):
            claims, unreadable = await claim_all(store.repository, good.partition, now)
            assert list(claims) == [good]
            assert {row.key for row in unreadable} == set(bad)
            assert_unreadable(unreadable)
        assert [row.state for row in await store.rows(bad)] == [State.UNREADABLE] * 2

    @scenario()
    async def test_a_name_that_is_no_text_goes_by_another(self, store, client):
        """I10, I15."""
        key = store.key()
        await register(store.repository, key)
        index, rows, specs, _ = store.repository._keys.rows(key.partition)
        good = client.hget(rows, key.name)
        ready_at = good[FIELDS["ready_at"]]
        for name, row in ((b"\xff1", good), (b"\xff2", b"junk")):
            client.hset(rows, name, row)
            client.hset(specs, name, "{}")
            client.zadd(index, {ready_at.encode() + name: 0})
        names = {"x'ff31'", "x'ff32'"}
        claims, unreadable = await claim_all(store.repository, key.partition)
        assert list(claims) == [key]
        assert {row.key.name for row in unreadable} == names
        assert (await poll(store.repository, key.partition)).unreadable == ()
        listed = await all_rows(store.repository, key.partition)
        assert {row.key.name for row in listed if row.state is State.UNREADABLE} == names
        keys = [Key(key.partition, name) for name in (*names, "x'ff33'", "x'no'")]
        assert await store.repository.unregister(T0, keys) == [True, True, False, False]
        assert [row.key for row in await all_rows(store.repository, key.partition)] == [key]

    @pytest.mark.parametrize("score", ["-inf", "-1", "1e-300", "1e300", "+inf"])
    @scenario()
    async def test_entries_of_another_score_are_put_in_order(self, store, client, score):
        """I11. A row behind all others would never be claimed."""
        bad, good, later = store.keys(3)
        await register(store.repository, bad, good, seconds=-10)
        await register(store.repository, later, seconds=3600)
        index, _, _, _ = store.repository._keys.rows(bad.partition)
        [entry] = [entry for entry in client.zrange(index, 0, -1) if entry.endswith(bad.name)]
        client.zadd(index, {entry: score})
        claims, unreadable = await claim_all(store.repository, bad.partition, limit=1)
        assert (set(claims), unreadable) == ({bad, good}, [])

    @pytest.mark.parametrize(
        "entry",
        [b"", b"\0", b"!", b"0", b"063\xff", b"0" * 19, b"9" * 19 + b"x", b"9", b"\xff", b"failed", b"paused\0", b"unheard of"],
    )
    @scenario()
    async def test_entries_that_are_none_cost_nothing(self, store, client, entry):
        """I10."""
        good, later = store.keys(2)
        await register(store.repository, good, seconds=-10)
        await register(store.repository, later, seconds=3600)
        index, _, _, _ = store.repository._keys.rows(good.partition)
        client.zadd(index, {entry: 0})
        stats = await store.repository.stats(T0, good.partition)
        assert (stats.rows, stats.oldest_due is None) == (2, False)
        claims, unreadable = await claim_all(store.repository, good.partition)
        assert (list(claims), unreadable) == ([good], [])
        result = await poll(store.repository, good.partition)
        assert result.next_ready_at == T0 + LEASE
        result = await poll(store.repository, good.partition, names=[good.name, later.name])
        assert (result.claims, result.missing, result.next_ready_at) == ([], [], T0 + LEASE)

    @scenario()
    async def test_partitions_that_are_no_text_are_passed_over(self, store, client):
        key = store.key()
        await register(store.repository, key)
        *_, known = store.repository._keys.rows(key.partition)
        client.sadd(known, b"\xff", "none", "")
        assert await store.repository.partitions() == [key.partition]
