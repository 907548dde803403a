"""What the base for stores that read rows and write them back makes of a batch of settlements: most need not be read."""

import asyncio
import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import lifecycle
from pyncette.errors import TransientRepositoryError
from pyncette.memory import MemoryRepository
from pyncette.repository import Commit, Extend, Fail, Key, Outcome, Registration, Release, State, Target
from pyncette.rowwise import RowwiseRepository
from pyncette_conformance import Capabilities
from pyncette_conformance.exhaustive import CONFIGURATIONS, explore
from pyncette_conformance.rules import Rules
from pyncette_conformance.suite import TestModel as Model
from pyncette_conformance.suite import TestSettle as Settle

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Plain(MemoryRepository, RowwiseRepository):
    """Rows in a dict, settled as the base does it."""

    settle = RowwiseRepository.settle

    def __init__(self):
        super().__init__()
        self.calls = []

    async def update(self, changes):
        self.calls.append(("update", [key.name for key, _ in changes]))
        return [self._change_one(key, change) for key, change in changes]

    def _change_one(self, key, change):
        row, answer = change(self._get(key))
        self._put(key, row)
        return answer


class EachGuarded(Plain):
    """A store that tells of each row whether it was written."""

    async def write_expected(self, expected):
        self.calls.append(("expected", [each.key.name for each in expected]))
        written = [each for each in expected if each.meets(self._get(each.key))]
        for each in written:
            self._put(each.key, each.applied(self._get(each.key)))
        return [each.key for each in written]


class AllOrNothing(EachGuarded):
    """A store that is told how many rows a statement has met, and rolls back unless it was all."""

    async def write_expected(self, expected):
        if not all(each.meets(self._get(each.key)) for each in expected):
            return []
        return await super().write_expected(expected)


STORES = {each.__name__: each for each in (Plain, EachGuarded, AllOrNothing)}
every_store = pytest.mark.parametrize("store", STORES.values(), ids=STORES)


async def claimed(repository, *names):
    """By name, the claims of rows of these names, which are registered first."""
    await repository.register(NOW, [Registration(Key("p", name), "{}", "s", Target(NOW, NOW)) for name in names])
    result = await repository.claim(NOW, "p", lease_duration=MINUTE, limit=100)
    return {each.key.name: each for each in result.claims}


def advance(claim, memo=None):
    return Commit(claim, Target(NOW + MINUTE, NOW + MINUTE), memo)


class TestExpected:
    @pytest.mark.parametrize("configuration", ["release", "pause", "once-off"])
    def test_what_is_written_unread_is_what_the_rules_say(self, configuration):  # I1 to I9
        def settle(row, now, settlement):
            answer = lifecycle.settle(row, now, settlement)
            expected = lifecycle.expected(settlement, now)
            if expected is not None and expected.meets(row):
                met.add((type(settlement), answer[0] is None))
                assert answer == (expected.applied(row), Outcome.APPLIED)
            return answer

        met = set()
        # One claim that is late and one that is not, before and after one change, are all there is to tell apart.
        bounds = dataclasses.replace(CONFIGURATIONS[configuration], claims=2, user_calls=1)
        assert explore(bounds, Rules(settle=settle)).violation is None
        releases = {(Release, False)} if configuration == "release" else set()
        assert met == {(Commit, configuration == "once-off")} | releases

    def test_a_memo_is_replaced_with_the_rest_and_otherwise_stays(self):
        async def test():
            repository = EachGuarded()
            claims = await claimed(repository, "a", "b")
            await repository.settle(NOW, [advance(claims["a"], "kept"), advance(claims["b"], "lost")])
            claims = (await repository.claim(NOW + MINUTE, "p", lease_duration=MINUTE, limit=9)).claims
            assert [each.memo for each in claims] == ["kept", "lost"]
            await repository.settle(NOW + MINUTE, [Release(claims[0], NOW), Release(claims[1], NOW, memo="new")])
            assert [row.memo for row in (await repository.list("p", limit=9)).rows] == ["kept", "new"]
            assert not [call for call in repository.calls if call[0] == "update"]

        asyncio.run(test())


class TestSettling:
    def test_a_batch_that_nobody_has_touched_is_one_call_and_reads_nothing(self):
        async def test():
            repository = EachGuarded()
            claims = await claimed(repository, "a", "b", "c")
            batch = [advance(claims["a"]), Release(claims["b"], NOW), Commit(claims["c"], None)]
            assert await repository.settle(NOW, batch) == [Outcome.APPLIED] * 3
            assert repository.calls == [("expected", ["a", "b", "c"])]

        asyncio.run(test())

    @every_store
    def test_the_outcomes_are_in_the_order_of_the_batch_whichever_way_each_went(self, store):  # I5
        async def test():
            repository = store()
            names = ["gone", "kept", "failed", "removed", "extended", "paused", "released", "again", "replaced", "taken"]
            claims = await claimed(repository, *names)
            await repository.unregister(NOW, [Key("p", "gone")])
            await repository.pause(NOW, [Key("p", "paused")], {Key("p", "paused"): "why"})
            await repository.settle(NOW, [advance(claims["again"])])
            other = Registration(Key("p", "replaced"), "{}", "another", Target(NOW, NOW))
            forced = Registration(Key("p", "taken"), "{}", "s", Target(NOW, NOW))
            await repository.register(NOW, [other])
            await repository.register(NOW, [forced], force=True)
            batch = [advance(claims[name], "ran") for name in names]
            batch[2] = Fail(claims["failed"], "it broke")
            batch[3] = Commit(claims["removed"], None)
            batch[4] = Extend(claims["extended"], NOW + 2 * MINUTE)
            batch[6] = Release(claims["released"], NOW + MINUTE, started=False)
            assert dict(zip(names, await repository.settle(NOW, batch), strict=True)) == {
                "gone": Outcome.GONE,
                "kept": Outcome.APPLIED,
                "failed": Outcome.APPLIED,
                "removed": Outcome.APPLIED,
                "extended": Outcome.APPLIED,
                "paused": Outcome.APPLIED,
                "released": Outcome.APPLIED,
                "again": Outcome.ALREADY,
                "replaced": Outcome.SUPERSEDED,
                "taken": Outcome.LOST,
            }
            rows = {row.key.name: row for row in (await repository.list("p", limit=99)).rows}
            assert rows["paused"].state is State.PAUSED
            assert (rows["paused"].occurrence, rows["paused"].memo) == (NOW + MINUTE, "why")
            assert (rows["kept"].ready_at, rows["kept"].attempt, rows["kept"].memo) == (NOW + MINUTE, 0, "ran")
            assert (rows["released"].ready_at, rows["released"].attempt) == (NOW + MINUTE, 0)
            assert rows["extended"].locked_until == NOW + 2 * MINUTE
            assert {"removed", "gone"}.isdisjoint(rows)

        asyncio.run(test())

    @pytest.mark.parametrize("store", [EachGuarded, AllOrNothing])
    def test_only_what_was_not_written_is_read(self, store):
        async def test():
            repository = store()
            claims = await claimed(repository, "a", "gone", "c", "extended")
            await repository.unregister(NOW, [Key("p", "gone")])
            batch = [advance(claims[name]) for name in ("a", "gone", "c")]
            await repository.settle(NOW, [*batch, Extend(claims["extended"], NOW + MINUTE)])
            left = ["gone", "extended"] if store is EachGuarded else ["a", "gone", "c", "extended"]
            assert repository.calls[-1] == ("update", left)

        asyncio.run(test())

    @every_store
    def test_a_batch_that_failed_half_way_is_settled_by_sending_it_again(self, store):  # I5
        class Fails(store):
            fails = True

            async def update(self, changes):
                if self.fails:
                    raise TransientRepositoryError("not now")
                return await super().update(changes)

        async def test():
            repository = Fails()
            claims = await claimed(repository, "a", "b", "c")
            batch = [advance(claims["a"]), Commit(claims["b"], None), Extend(claims["c"], NOW + MINUTE)]
            with pytest.raises(TransientRepositoryError):
                await repository.settle(NOW, batch)
            repository.fails = False
            again = await repository.settle(NOW, batch)
            before = [Outcome.APPLIED, Outcome.APPLIED] if store is Plain else [Outcome.ALREADY, Outcome.GONE]
            assert again == [*before, Outcome.APPLIED]
            rows = (await repository.list("p", limit=9)).rows
            assert [(row.key.name, row.occurrence) for row in rows] == [("a", NOW + MINUTE), ("c", NOW)]

        asyncio.run(test())

    def test_an_empty_batch_costs_nothing(self):
        async def test():
            repository = EachGuarded()
            assert await repository.settle(NOW, []) == []
            assert repository.calls == []

        asyncio.run(test())


class OnEachStore:
    @pytest.fixture(params=STORES)
    def repository_factory(self, request):
        @contextlib.asynccontextmanager
        async def opened():
            yield STORES[request.param]()

        return opened

    @pytest.fixture
    def repository_capabilities(self):
        return Capabilities(durable=False, shared=False)


class TestSettle(OnEachStore, Settle):
    pass


class TestModel(OnEachStore, Model):
    pass
