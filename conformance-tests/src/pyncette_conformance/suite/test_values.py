"""What is stored comes back exactly: arguments, texts, instants, and integers beyond what a double can hold."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pyncette.errors import RepositoryError
from pyncette.repository import Claim, Extend, Fail, Registration, Release, Target
from pyncette_conformance.builders import (
    LEASE,
    SCHEDULE,
    T0,
    TICK,
    advanced,
    after,
    claim_one,
    poll,
    register,
    registration,
    settle,
)
from pyncette_conformance.store import Store, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestValues"]

#: Every character that JSON escapes, or may leave as it is, and what looks like an escape but is none.
TEXT = (
    "".join(map(chr, range(1, 0x180)))
    + '\0\u2028\u2029\ufeff\ufffe\uffff\U0001f600\U0010ffff \\u0041 \\n " \\\\ </script> %s {} ${x} é'
)
SPECS = {
    "nothing": "{}",
    "escaped": json.dumps({"text": TEXT}),
    "not escaped": json.dumps({"text": TEXT.replace("\0", "")}, ensure_ascii=False),
    "a key of every character": json.dumps({TEXT: TEXT}),
    "blanks": '\n { "a" :\t[ 1 , 2 ] }\r\n ',
    "order and repetition": '{"b": 1, "a": 2, "b": 3}',
    "numbers": '{"big": 123456789012345678901234567890, "small": 1e-400, "float": 1.10, "exponent": 1E5, "zero": -0.0}',
    "not an object": "null",
    "deep": "[" * 200 + "]" * 200,
    "not JSON": "an old format, or a newer one: \u00e9 '",
}
INSTANTS = {
    "microseconds": datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "one microsecond": datetime(2031, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    "no microseconds": datetime(2031, 1, 1, tzinfo=UTC),
    "within a fold of clocks": datetime(2031, 10, 26, 1, 30, 0, 123457, tzinfo=UTC),
    "beyond 32 bits": datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=UTC),
    "beyond 32 bits, unsigned": datetime(2106, 2, 7, 6, 28, 16, 3, tzinfo=UTC),
    "beyond 53 bits": datetime(2255, 6, 5, 23, 47, 34, 740993, tzinfo=UTC),
    "year 9000": datetime(9000, 2, 28, 12, 34, 56, 789013, tzinfo=UTC),
    "the last": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "1970": datetime(1970, 1, 1, tzinfo=UTC),
    "after 1970": datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    "before 1970": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "year 1900": datetime(1900, 1, 1, 0, 0, 0, 7, tzinfo=UTC),
}
#: After which every integer of microseconds needs more than the 53 bits of a double.
LATE = datetime(8000, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


class TestValues(Conformance):
    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    @scenario()
    async def test_a_spec_is_not_looked_into(self, store: Store, spec: str) -> None:
        """I9. Text for text, as a new row, in place of another spec, and in a claim."""
        key, other = store.keys(2)
        await store.repository.register(T0, [registration(key, spec=spec), registration(other, spec='{"old": 1}')])
        await store.repository.register(T0, [registration(other, spec=spec)])
        assert [(await store.row(each)).spec for each in (key, other)] == [spec, spec]
        assert [(await claim_one(store.repository, each)).spec for each in (key, other)] == [spec, spec]

    @scenario()
    async def test_a_spec_may_be_large(self, store: Store) -> None:
        limit = store.capabilities.max_spec_bytes
        assert limit is None or limit >= 65_536, "the contract wants 64 KiB"
        size = min(200_000, limit or 200_000)
        spec = json.dumps({"text": "é🙂\n" * size}, ensure_ascii=False).encode()[: size - 8].decode(errors="ignore") + '"}'
        key, small = store.keys(2)
        await store.repository.register(T0, [registration(key, spec=spec), registration(small)])
        assert (await store.row(key)).spec == spec
        claims = {claim.key: claim for claim in (await poll(store.repository, key.partition)).claims}
        assert (claims[key].spec, claims[small].spec) == (spec, "{}")

    @scenario()
    async def test_a_limit_of_specs_is_not_declared_in_vain(self, store: Store) -> None:
        limit = store.capabilities.max_spec_bytes
        if limit is None or limit >= 200_000:
            return
        with pytest.raises(RepositoryError):
            await store.repository.register(T0, [registration(store.key(), spec="x" * 200_000)])

    @scenario()
    async def test_a_page_and_a_claim_may_be_larger_than_a_megabyte(self, store: Store) -> None:
        """I15. Some stores cut there; then there is another page, and another claim."""
        keys = store.keys(30)
        spec = json.dumps("x" * 60_000)
        await store.repository.register(T0, [registration(key, spec=spec) for key in keys])
        listed, token = [], None
        for _ in range(100):
            page = await store.repository.list(keys[0].partition, limit=100, token=token)
            listed += [row.key for row in page.rows if row.spec == spec]
            token = page.token
            if token is None:
                break
        assert sorted(listed) == list(keys)
        claims: list[Claim] = []
        while len(claims) < 30 and (found := (await poll(store.repository, keys[0].partition)).claims):
            claims += found
        assert sorted(claim.key for claim in claims) == list(keys)

    @scenario()
    async def test_texts_are_not_looked_into(self, store: Store) -> None:
        """A schedule's text and an error are opaque, too."""
        text = TEXT.replace("\0", "") * 4
        key = store.key()
        await store.repository.register(T0, [registration(key, schedule=text)])
        assert (await store.row(key)).schedule == text
        claim = await claim_one(store.repository, key)
        assert claim.schedule == text
        await store.repository.register(T0, [registration(key, 5, spec="[]", schedule=text)])
        assert (await store.row(key)).revision == 0, "the same schedule was taken for another one"
        await settle(store.repository, T0, Fail(claim, text * 10))
        assert (await store.row(key)).error == text * 10

    @pytest.mark.parametrize(
        ("one", "other"), [("a", "A"), ("a", "a "), ("\u00e9", "e\u0301"), ("1", "1.0"), ("a", "á"), ("", " ")], ids=repr
    )
    @scenario()
    async def test_schedules_are_compared_byte_by_byte(self, store: Store, one: str, other: str) -> None:
        """I9."""
        key = store.key()
        await store.repository.register(T0, [registration(key, schedule=one)])
        await store.repository.register(T0, [registration(key, 5, schedule=other)])
        row = await store.row(key)
        assert (row.schedule, row.revision, row.occurrence) == (other, 1, after(5))

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS)
    @scenario()
    async def test_instants_are_exact_to_the_microsecond(self, store: Store, instant: datetime) -> None:
        """I4, I9."""
        key = store.key()
        await store.repository.register(T0, [Registration(key, "{}", SCHEDULE, Target(T0 + TICK, instant))])
        row = await store.row(key)
        assert (row.occurrence, row.execute_after, row.ready_at) == (T0 + TICK, instant, instant)
        await store.repository.register(T0, [Registration(key, "{}", "other", Target(instant, instant))])
        assert (await store.row(key)).occurrence == instant
        result = await poll(store.repository, key.partition, instant - TICK)
        assert (result.claims, result.next_ready_at) == ([], instant)
        claim = await claim_one(store.repository, key, instant, lease_duration=timedelta())
        assert (claim.occurrence, claim.execute_after) == (instant, instant)
        assert (await store.row(key)).locked_until == instant

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS)
    @scenario()
    async def test_instants_of_settlements_are_exact_to_the_microsecond(self, store: Store, instant: datetime) -> None:
        """I2, I7."""
        extended, released = store.keys(2)
        early = datetime(1899, 1, 1, tzinfo=UTC)
        await store.repository.register(
            T0, [Registration(key, "{}", SCHEDULE, Target(early, early)) for key in (extended, released)]
        )
        claims = [await claim_one(store.repository, key, early) for key in (extended, released)]
        await settle(store.repository, T0, Extend(claims[0], instant), Release(claims[1], instant))
        assert (await store.row(extended)).locked_until == instant
        assert (await store.row(released)).ready_at == instant

    @scenario()
    async def test_instants_of_other_zones_are_stored_in_utc(self, store: Store) -> None:
        key = store.key()
        zone = timezone(timedelta(hours=5, minutes=45))
        await store.repository.register(
            T0.astimezone(zone), [Registration(key, "{}", SCHEDULE, Target(T0.astimezone(zone), T0.astimezone(zone)))]
        )
        row = await store.row(key)
        assert (row.occurrence, row.ready_at) == (T0, T0)
        await claim_one(store.repository, key, T0.astimezone(zone))
        assert (await store.row(key)).locked_until == T0 + LEASE

    @scenario()
    async def test_rows_a_microsecond_apart_are_in_order(self, store: Store) -> None:
        """I11. Also where their times differ by less than a double can tell."""
        for start in (T0, LATE):
            keys = store.keys(8)
            shuffled = [keys[number] for number in (3, 0, 7, 5, 1, 6, 2, 4)]
            await store.repository.register(
                T0, [Registration(key, "{}", SCHEDULE, Target(start, start + keys.index(key) * TICK)) for key in shuffled]
            )
            now = start + 7 * TICK
            assert [(await poll(store.repository, keys[0].partition, now, limit=1)).claims[0].key for _ in keys] == list(keys)

    @scenario()
    async def test_epochs_are_exact_beyond_53_bits(self, store: Store) -> None:
        """I1. The greatest there are: microseconds of late instants, and one more at each claim."""
        key = store.key()
        await store.repository.register(LATE, [registration(key)])
        assert (await store.row(key)).epoch == advanced(0, LATE)
        epoch = (await store.row(key)).epoch
        for _ in range(5):
            claim = await claim_one(store.repository, key, LATE, lease_duration=timedelta())
            epoch += 1
            assert (claim.epoch, (await store.row(key)).epoch) == (epoch, epoch)
        last = datetime.max.replace(tzinfo=UTC)
        claim = await claim_one(store.repository, key, last, lease_duration=timedelta())
        assert claim.epoch == advanced(0, last)
        assert (await claim_one(store.repository, key, last, lease_duration=timedelta())).epoch == claim.epoch + 1

    @scenario()
    async def test_revisions_and_attempts_count_on(self, store: Store) -> None:
        key = store.key()
        for revision in range(20):
            await store.repository.register(T0, [registration(key, schedule=str(revision))])
        assert (await store.row(key)).revision == 19
        await register(store.repository, key)
        for attempt in range(1, 21):
            assert (await claim_one(store.repository, key, lease_duration=timedelta())).attempt == attempt
