"""What DynamoDB makes of damaged items: the shared tests, and what only DynamoDB lets one do."""

import pytest

from pyncette.repository import State
from pyncette_conformance.builders import LEASE, T0, registration
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows, claim_all
from pyncette_conformance.store import scenario


@pytest.fixture
def repository_factory(opened):
    return opened


@pytest.fixture
def item(raw, table):
    """``item(key)``: the item, and a function that puts another in its place."""

    def of(key):
        where = {"partition_id": {"S": ":" + key.partition}, "task_id": {"S": key.name}}
        return raw.get_item(TableName=table, Key=where, ConsistentRead=True)["Item"], lambda item: raw.put_item(
            TableName=table, Item=item
        )

    return of


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self, raw, item):
        def damage(repository, key, field, junk):
            if field in (RECORD, INDEX):
                return False
            found, put = item(key)
            kind = {bytes: "B", str: "S", int: "N", float: "N"}.get(type(junk), "NULL")
            found.pop(field, None)
            if junk is not MISSING:
                found[field] = {kind: True if kind == "NULL" else junk if kind in "BS" else str(junk)}
            try:
                put(found)
            except raw.exceptions.ClientError:
                return False  # the index takes texts only
            return field != "ready_at" or junk is not None

        return damage

    @pytest.mark.parametrize("version", [None, {"N": "7"}, {"B": b"\xff"}, {"L": []}, {"NULL": True}])
    @scenario()
    async def test_whatever_its_version_it_is_put_off_and_replaced(self, store, item, version):
        """I10."""
        bad, good = store.keys(2)
        await store.repository.register(T0, [registration(bad, -20), registration(good, -10)])
        found, put = item(bad)
        found.pop("version")
        put({**found, "state": {"S": "archived"}, **({"version": version} if version else {})})
        for now in (T0, T0 + LEASE):
            claims, unreadable = await claim_all(store.repository, bad.partition, now)
            assert (list(claims), [row.key for row in unreadable]) == ([good], [bad])
        after, _ = item(bad)
        assert {**after, "version": 0, "ready_at": 0} == {**found, "state": {"S": "archived"}, "version": 0, "ready_at": 0}
        await store.repository.register(T0, [registration(bad, -20)], force=True)
        assert (await store.row(bad)).state is State.SCHEDULED

    @pytest.mark.parametrize("ready_at", ["!", "0", "2026", "2026-13-45T00:00:00Z", "2026-01-01T00:00:00", "~"])
    @scenario()
    async def test_junk_among_the_times_of_the_index_is_in_nobodys_way(self, store, item, ready_at):
        """I10, I11."""
        *bad, good = store.keys(8)
        await store.repository.register(T0, [registration(key, -10) for key in (*bad, good)])
        for key in bad:
            found, put = item(key)
            put({**found, "ready_at": {"S": ready_at}})
        claims, unreadable = await claim_all(store.repository, good.partition, limit=2)
        assert list(claims) == [good]
        assert len(unreadable) == (0 if ready_at == "~" else len(bad))
