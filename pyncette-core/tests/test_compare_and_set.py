"""What the base for one-row stores adds to their methods, over a dict."""

import asyncio
import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import lifecycle
from pyncette.compare_and_set import CompareAndSetRepository, Stored
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.memory import MemoryRepository
from pyncette.repository import Commit, Extend, Fail, Key, Outcome, Page, Registration, Release, SupportsPause, Target
from pyncette.store.rivals import Rivals

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class DictRepository(CompareAndSetRepository):
    """Rows in a dict, where every call takes a while; ``before_write`` and ``after_write`` are called with the key."""

    def __init__(self):
        self.rows = {}
        self.versions = itertools.count(1)
        self.writes = []
        self.busy = self.busiest = 0
        self.before_read = self.before_write = self.after_write = lambda key: None

    async def read(self, key):
        await self._work()
        self.before_read(key)
        return self.rows.get(key)

    async def write(self, write):
        key, before, row = write
        expected = before and before.version
        await self._work()
        self.before_write(key)
        stored = self.rows.get(key)
        self.writes.append(key.name)
        if (stored and stored.version) != expected:
            return False
        if row is None:
            del self.rows[key]
        else:
            self.rows[key] = Stored(row, next(self.versions))
        answer = self.after_write(key)
        return True if answer is None else answer

    async def ready(self, partition, limit):
        await self._work()
        rows = [stored for key, stored in self.rows.items() if key.partition == partition and stored.row.ready_at]
        return sorted(rows, key=lambda stored: (stored.row.ready_at, stored.row.key))[:limit]

    async def list(self, partition, *, limit, token=None):
        names = sorted(key.name for key in self.rows if key.partition == partition and key.name >= (token or ""))
        return Page([self.rows[Key(partition, name)].row for name in names[:limit]], names[limit] if len(names) > limit else None)

    async def _work(self):
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            await asyncio.sleep(0)
        finally:
            self.busy -= 1

    def put(self, key, row):
        """What another process does."""
        self.rows[key] = Stored(row, next(self.versions))


def once(action):
    """``action`` at the first call, nothing later."""
    calls = itertools.count()
    return lambda key: action(key) if next(calls) == 0 else None


def failing(errors):
    """Raises what ``errors`` has for the name, as often as it is called."""

    def fail(key):
        if key.name in errors:
            raise errors[key.name]

    return fail


def registration(name, at=NOW, *, spec="{}", schedule="s"):
    return Registration(Key("p", name), spec, schedule, Target(at, at))


def claim(repository, now=NOW, *, limit=100, names=None):
    return repository.claim(now, "p", lease_duration=MINUTE, limit=limit, names=names)


def names_of(claims):
    return [each.key.name for each in claims]


def run(test, names=()):
    async def main():
        repository = DictRepository()
        await repository.register(NOW, [registration(name) for name in names])
        repository.writes.clear()
        await test(repository)

    asyncio.run(main())


class TestContract:
    @pytest.mark.parametrize("seed", range(30))
    def test_every_call_answers_as_the_reference_store(self, seed):
        chance = random.Random(seed)
        names = list("abcdef")

        def known(row):
            return row and row._replace(lease=row.lease and "some")

        async def test(one):
            other, now, claims = MemoryRepository(), NOW, []

            def some():
                return sorted(chance.sample(names, chance.randint(0, 4)))  # of equal times, both stores take the first names

            def target():
                at = now + chance.randint(-2, 3) * MINUTE
                return Target(at, at + chance.randint(0, 1) * MINUTE / 2)

            def settlement(each):
                kind = chance.choice([Commit, Commit, Release, Fail, Extend])
                if kind is Commit:
                    return kind, (chance.choice([None, target()]),)
                return kind, ("broken",) if kind is Fail else (now + MINUTE,)

            for _ in range(60):
                now += chance.choice([0, 0, 1, 2]) * MINUTE / 4
                call = chance.choice(["register", "claim", "claim", "settle", "settle", "unregister", "pause", "resume"])
                if call == "register":
                    batch = [
                        Registration(Key("p", n), chance.choice("12"), chance.choice("ss t".split()), target()) for n in some()
                    ]
                    force = chance.random() < 0.2
                    assert await one.register(now, batch, force=force) == await other.register(now, batch, force=force)
                elif call == "claim":
                    asked = chance.choice([None, some()])
                    limit = chance.randint(1, 4)
                    mine, its = [await claim(each, now, limit=limit, names=asked) for each in (one, other)]
                    assert sorted(names_of(mine.claims)) == sorted(names_of(its.claims))
                    assert (mine.next_ready_at, list(mine.missing)) == (its.next_ready_at, list(its.missing))
                    by_name = {each.key: each for each in its.claims}
                    claims += [(each, by_name[each.key]) for each in mine.claims]
                elif call == "settle":
                    chosen = {pair[0].key: pair for pair in chance.sample(claims, min(len(claims), 3))}.values()
                    plans = [(pair, settlement(pair[0])) for pair in chosen]
                    mine, its = [
                        await each.settle(now, [kind(pair[i], *arguments) for pair, (kind, arguments) in plans])
                        for i, each in enumerate((one, other))
                    ]
                    assert mine == its
                else:
                    keys = [Key("p", name) for name in some()]
                    assert await getattr(one, call)(now, keys) == await getattr(other, call)(now, keys)
                keys = [Key("p", name) for name in names]
                assert list(map(known, await one.get(keys))) == list(map(known, await other.get(keys)))

        run(test)

    def test_it_supports_pausing(self):
        assert isinstance(DictRepository(), SupportsPause)

    def test_what_changes_nothing_writes_nothing(self):  # I5
        async def test(repository):
            await repository.register(NOW, [registration("a")])
            await repository.unregister(NOW, [Key("p", "absent")])
            await repository.resume(NOW, [Key("p", "a"), Key("p", "absent")])
            await claim(repository, NOW - MINUTE)
            assert repository.writes == []
            claims = (await claim(repository)).claims
            release = [Release(each, NOW + MINUTE) for each in claims]
            assert await repository.settle(NOW, release) == [Outcome.APPLIED]
            assert await repository.settle(NOW, release) == [Outcome.ALREADY]
            assert repository.writes == ["a", "a"]

        run(test, ["a"])


class TestConflicts:
    def test_a_row_that_was_changed_since_it_was_read_is_read_again(self):  # I3
        async def test(repository):
            claims = (await claim(repository)).claims
            row = repository.rows[Key("p", "a")].row
            repository.before_write = once(lambda key: repository.put(key, row._replace(schedule="other", revision=1)))
            assert await repository.settle(NOW, [Commit(claims[0], None)]) == [Outcome.SUPERSEDED]
            assert (await repository.get([row.key]))[0].schedule == "other"

        run(test, ["a"])

    def test_two_that_claim_at_the_same_time_never_get_the_same_row(self):  # I2
        async def test(repository):
            results = await asyncio.gather(*(claim(repository, limit=7) for _ in range(6)))
            claimed = [name for result in results for name in names_of(result.claims)]
            assert len(claimed) == len(set(claimed)) > 0
            for result in results:  # whoever met another gets to know that there is more
                assert len(result.claims) == 7 or result.next_ready_at is not None

        run(test, [f"{i:02}" for i in range(40)])

    def test_a_row_that_changes_for_ever_is_a_transient_error_in_the_end(self):
        async def test(repository):
            repository.before_write = lambda key: repository.put(key, repository.rows[key].row)
            with pytest.raises(TransientRepositoryError, match="changed by others 30 times in a row"):
                await repository.register(NOW, [registration("a", schedule="t")])

        run(test, ["a"])

    def test_a_first_insert_that_was_raced_becomes_an_update(self):
        async def test(repository):
            calls = [repository.register(NOW, [registration("new", spec=str(i))]) for i in range(10)]
            await asyncio.gather(*calls)
            row = repository.rows[Key("p", "new")].row
            assert (row.revision, row.schedule) == (0, "s")

        run(test)


class TestRivals:
    """Several processes on one partition."""

    def test_each_has_rows_of_its_own_once_they_know_of_each_other(self):
        names = [str(number) for number in range(3000)]
        tags = ["0000000a", "1234abcd", "fedcba98"]
        mine = []
        for me in tags:
            rivals = Rivals(me)
            rivals.ended([row_of(other) for other in tags if other != me], quiet=False)
            mine.append({names[place] for place in rivals.mine(names, 3000)})
        assert sum(map(len, mine)) == len(set().union(*mine)) == 3000
        assert min(map(len, mine)) > 700

    def test_the_longest_ready_come_first_while_nobody_is_met(self):  # I11
        assert [*Rivals("0000000a").mine(["b", "c", "a"], 2)] == [0, 1]

    def test_what_others_leave_is_taken_after_some_looks(self):
        rivals = Rivals("0000000a")
        rivals.ended([row_of("fedcba98")], quiet=False)
        theirs = next(name for name in map(str, range(99)) if not rivals.mine([name], 9))
        looks = next(number for number in range(99) if rivals.mine([theirs], 9))
        assert looks < 10

    def test_one_that_is_not_met_again_is_forgotten(self):
        rivals = Rivals("0000000a")
        rivals.ended([row_of("fedcba98")], quiet=False)
        assert rivals.reading == 2
        for _ in range(100):
            rivals.ended([], quiet=True)
        assert rivals.reading == 1

    def test_leases_of_others_are_no_tags_whatever_they_are(self):
        rivals = Rivals("0000000a")
        rivals.ended([None, *map(row_of, [None, "", "x", "ＡＢＣＤ1234", "0000000a"])], quiet=False)
        assert rivals.reading == 1


def row_of(tag):
    row = lifecycle.register(None, NOW, registration("a"))
    return row._replace(lease=tag and tag + "0" * 24)


class TestClaiming:
    def test_what_comes_next_is_known_beyond_the_limit(self):
        async def test(repository):
            await repository.register(NOW, [registration("later", NOW + MINUTE)])
            first = await claim(repository, limit=2)
            assert (names_of(first.claims), first.next_ready_at) == (["a", "b"], NOW)
            second = await claim(repository, limit=2)
            assert (names_of(second.claims), second.next_ready_at) == (["c"], NOW + MINUTE)

        run(test, ["a", "b", "c"])

    def test_the_limit_holds_for_names_too_and_the_longest_ready_come_first(self):  # I11
        async def test(repository):
            ages = {"a": 1, "b": 3, "c": 2}
            await repository.register(NOW, [registration(name, NOW - age * MINUTE) for name, age in ages.items()])
            result = await claim(repository, limit=2, names=["a", "missing", "b", "c", "gone"])
            assert names_of(result.claims) == ["b", "c"]
            assert result.next_ready_at == NOW - MINUTE
            assert result.missing == ["missing", "gone"]

        run(test)

    def test_who_asks_for_one_name_gets_it_whoever_else_was_met(self):
        async def test(repository):
            await claim(repository, names=["a"])  # which makes its rivals
            for rivals in [repository._rivals_in("p", named=named) for named in (False, True)]:
                rivals.ended([row_of(f"{tag:08x}") for tag in range(1, 40)], quiet=False)
            for name in ("b", "c", "d"):
                assert names_of((await claim(repository, names=[name])).claims) == [name]

        run(test, ["a", "b", "c", "d"])

    def test_a_row_that_another_took_counts_with_its_new_time(self):
        async def test(repository):
            row = repository.rows[Key("p", "a")].row
            lost = row._replace(lease="another", locked_until=NOW + 2 * MINUTE, ready_at=NOW + 2 * MINUTE)
            repository.before_write = once(lambda key: repository.put(key, lost))
            result = await claim(repository)
            assert (result.claims, result.next_ready_at) == ([], NOW + 2 * MINUTE)

        run(test, ["a"])

    def test_a_row_that_was_removed_meanwhile_is_missing(self):
        async def test(repository):
            repository.before_write = once(lambda key: repository.rows.clear())
            result = await claim(repository, names=["a"])
            assert (result.claims, result.next_ready_at, result.missing) == ([], None, ["a"])

        run(test, ["a"])

    def test_a_row_that_was_rescheduled_meanwhile_and_is_due_is_claimed_as_it_is_now(self):  # I9
        async def test(repository):
            row = repository.rows[Key("p", "a")].row
            repository.before_write = once(lambda key: repository.put(key, row._replace(spec="new", schedule="t", revision=1)))
            [each] = (await claim(repository)).claims
            assert (each.spec, each.schedule, each.revision) == ("new", "t", 1)

        run(test, ["a"])

    def test_a_claim_that_was_written_although_the_write_said_no_is_kept(self):
        async def test(repository):
            repository.after_write = once(lambda key: False)
            [each] = (await claim(repository)).claims
            assert repository.rows[each.key].row.lease == each.lease
            assert repository.rows[each.key].row.attempt == each.attempt == 1
            assert repository.writes == ["a"]

        run(test, ["a"])

    def test_a_claim_that_was_written_and_rescheduled_before_that_was_known_is_not_the_new_occurrence(self):  # I4
        async def test(repository):
            def reschedule(key):
                row = repository.rows[key].row
                repository.put(key, row._replace(occurrence=NOW + MINUTE, execute_after=NOW + MINUTE, revision=1))
                return False

            repository.after_write = once(reschedule)
            [each] = (await claim(repository)).claims
            assert (each.occurrence, each.revision) == (NOW, 0)
            assert await repository.settle(NOW, [Commit(each, None)]) == [Outcome.SUPERSEDED]

        run(test, ["a"])

    def test_a_row_that_fails_costs_the_others_nothing_and_is_surfaced(self, caplog):  # I10
        async def test(repository):
            repository.before_write = failing({"b": RepositoryError("b is broken")})
            result = await claim(repository)
            assert (names_of(result.claims), result.next_ready_at) == (["a", "c"], NOW)
            assert "Some rows of the partition 'p' could not be claimed: b is broken" in caplog.text
            with pytest.raises(RepositoryError, match="b is broken"):
                await claim(repository)

        run(test, ["a", "b", "c"])

    def test_a_name_that_cannot_be_read_is_not_missing(self):  # I10
        async def test(repository):
            repository.before_read = failing({"b": RepositoryError("b is broken")})
            result = await claim(repository, names=["a", "b", "absent"])
            assert (names_of(result.claims), result.missing) == (["a"], ["absent"])
            with pytest.raises(RepositoryError, match="b is broken"):
                await claim(repository, names=["a", "b"])

        run(test, ["a", "b"])


class TestBatches:
    def test_rows_go_side_by_side_but_not_all_at_once(self):
        async def test(repository):
            await repository.register(NOW, [registration(str(i)) for i in range(100)])
            assert repository.busiest == repository.concurrency == 16
            assert len(repository.rows) == 100

        run(test)

    def test_one_that_fails_lets_all_others_finish_first(self):  # I10
        async def test(repository):
            repository.before_write = failing({"5": RepositoryError("5 is broken")})
            with pytest.raises(RepositoryError, match="5 is broken"):
                await repository.register(NOW, [registration(str(i)) for i in range(50)])
            assert sorted(key.name for key in repository.rows) == sorted(str(i) for i in range(50) if i != 5)
            assert repository.busy == 0

        run(test)

    def test_a_transient_error_wins_since_then_repeating_is_of_use(self):
        async def test(repository):
            repository.before_write = failing({"1": RepositoryError("broken"), "2": TransientRepositoryError("throttled")})
            with pytest.raises(TransientRepositoryError, match="throttled"):
                await repository.register(NOW, [registration(str(i)) for i in range(4)])

        run(test)

    def test_a_write_of_unknown_outcome_is_not_sent_again(self):  # I6
        async def test(repository):
            claims = (await claim(repository)).claims
            repository.writes.clear()
            commit = [Commit(claims[0], Target(NOW + MINUTE, NOW + MINUTE))]
            repository.after_write = once(lambda key: failing({"a": TransientRepositoryError("no reply")})(key))
            with pytest.raises(TransientRepositoryError, match="no reply"):
                await repository.settle(NOW, commit)
            assert repository.writes == ["a"]
            assert await repository.settle(NOW, commit) == [Outcome.ALREADY]  # I5

        run(test, ["a"])

    def test_cancelling_leaves_nothing_running(self):  # I14
        async def test(repository):
            for steps in range(1, 12):
                batch = [registration(str(i), spec=str(steps)) for i in range(100)]
                task = asyncio.create_task(repository.register(NOW, batch))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert repository.busy == 0
            await repository.register(NOW, batch)
            assert len(repository.rows) == 100

        run(test)
