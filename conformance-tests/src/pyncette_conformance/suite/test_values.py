"""What is stored comes back exactly: arguments, texts, instants, and integers beyond what a double can hold."""

import json
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pyncette.errors import RepositoryError
from pyncette.repository import Claim, Extend, Fail, Outcome, Registration, Release, State, SupportsStats, Target
from pyncette_conformance.builders import (
    LEASE,
    SCHEDULE,
    T0,
    TICK,
    advanced,
    after,
    claim_one,
    commit,
    poll,
    refused,
    register,
    registration,
    settle,
)
from pyncette_conformance.comparison import assert_has
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
#: In the order of time. Where text or numbers go wrong: signs, numbers of digits, times without a fraction, 32 and 53 bits.
EPOCHS: Sequence[datetime] = [
    datetime(1900, 1, 1, 0, 0, 0, 7, tzinfo=UTC),
    datetime(1901, 12, 13, 20, 45, 51, tzinfo=UTC),
    datetime(1938, 4, 24, 22, 13, 20, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 0, 2, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 0, 10, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2001, 9, 9, 1, 46, 39, 999999, tzinfo=UTC),
    datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 7, 999999, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC),
    datetime(2255, 6, 5, 23, 47, 34, 740992, tzinfo=UTC),
    datetime(2255, 6, 5, 23, 47, 34, 740993, tzinfo=UTC),
    datetime(2286, 11, 20, 17, 46, 39, tzinfo=UTC),
    datetime(2286, 11, 20, 17, 46, 40, tzinfo=UTC),
    datetime(2300, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
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
        for each in (key, other):
            assert_has(await store.row(each), spec=spec)
            assert_has(await claim_one(store.repository, each), spec=spec)

    @scenario()
    async def test_a_spec_may_be_large(self, store: Store) -> None:
        limit = store.capabilities.max_spec_bytes
        assert limit is None or limit >= 65_536, "the contract requires 64 KiB"
        size = min(200_000, limit or 200_000)
        spec = json.dumps({"text": "é🙂\n" * size}, ensure_ascii=False).encode()[: size - 8].decode(errors="ignore") + '"}'
        key, small = store.keys(2)
        await store.repository.register(T0, [registration(key, spec=spec), registration(small)])
        assert_has(await store.row(key), spec=spec)
        claims = {claim.key: claim for claim in (await poll(store.repository, key.partition)).claims}
        assert_has(claims[key], spec=spec)
        assert_has(claims[small], spec="{}")

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
        assert_has(await store.row(key), schedule=text)
        claim = await claim_one(store.repository, key)
        assert_has(claim, schedule=text)
        await store.repository.register(T0, [registration(key, 5, spec="[]", schedule=text)])
        assert (await store.row(key)).revision == 0, "an unchanged schedule was taken for a new one"
        await settle(store.repository, T0, Fail(claim, text * 10))
        assert_has(await store.row(key), error=text * 10)

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
        assert_has(row, schedule=other, revision=1, occurrence=after(5))

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS)
    @scenario()
    async def test_instants_are_exact_to_the_microsecond(self, store: Store, instant: datetime) -> None:
        """I4, I9."""
        key = store.key()
        await store.repository.register(T0, [Registration(key, "{}", SCHEDULE, Target(T0 + TICK, instant))])
        row = await store.row(key)
        assert_has(row, occurrence=T0 + TICK, execute_after=instant, ready_at=instant)
        await store.repository.register(T0, [Registration(key, "{}", "other", Target(instant, instant))])
        assert (await store.row(key)).occurrence == instant
        result = await poll(store.repository, key.partition, instant - TICK)
        assert (result.claims, result.next_ready_at) == ([], instant)
        claim = await claim_one(store.repository, key, instant, lease_duration=timedelta())
        assert_has(claim, occurrence=instant, execute_after=instant)
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
        assert_has(row, occurrence=T0, ready_at=T0)
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

    @pytest.mark.parametrize("by_name", [False, True], ids=["all", "named"])
    @scenario()
    async def test_rows_are_ready_in_the_order_of_time(self, store: Store, by_name: bool) -> None:
        """I4, I11. Over centuries: whatever is stored, text or number, signed or not, seconds or less, is in this order."""
        keys = store.keys(len(EPOCHS))
        partition = keys[0].partition
        names = [key.name for key in keys] if by_name else None
        places = [place * 7 % len(EPOCHS) for place in range(len(EPOCHS))]
        assert len(set(places)) == len(EPOCHS)
        begin = datetime(1899, 1, 1, tzinfo=UTC)
        # One after another, so that the order of their coming can't be taken for that of time.
        for key, place in zip(keys, places, strict=True):
            await store.repository.register(begin, [Registration(key, "{}", SCHEDULE, Target(EPOCHS[place], EPOCHS[place]))])
        assert (await poll(store.repository, partition, begin, names=names)).next_ready_at == EPOCHS[0]
        found = []
        for now, following in zip(EPOCHS, [*EPOCHS[1:], None], strict=True):
            early = await poll(store.repository, partition, now - TICK, names=names)
            assert (early.claims, early.next_ready_at) == ([], now)
            if isinstance(store.repository, SupportsStats):
                counts = [await store.repository.stats(at, partition) for at in (now - TICK, now)]
                assert [(count.due, count.oldest_due) for count in counts] == [(0, None), (1, now)]
            result = await poll(store.repository, partition, now, names=names, limit=5)
            assert ([claim.execute_after for claim in result.claims], result.next_ready_at) == ([now], following)
            found += [claim.key for claim in result.claims]
            await store.repository.unregister(now, found[-1:])
        assert [places[keys.index(key)] for key in found] == list(range(len(EPOCHS)))

    @scenario()
    async def test_a_backlog_of_centuries_is_claimed_in_the_order_of_time(self, store: Store) -> None:
        """I11."""
        keys = store.keys(len(EPOCHS))
        await store.repository.register(
            EPOCHS[0],
            [Registration(key, "{}", SCHEDULE, Target(at, at)) for key, at in zip(keys[::-1], EPOCHS, strict=True)],
        )
        found: list[datetime] = []
        for _ in range(0, len(EPOCHS), 4):
            found += [each.execute_after for each in (await poll(store.repository, keys[0].partition, EPOCHS[-2], limit=4)).claims]
        assert found == EPOCHS[:-1]

    @scenario()
    async def test_empty_texts_are_not_nothing(self, store: Store) -> None:
        key = store.key()
        await store.repository.register(T0, [registration(key, spec="", schedule="")])
        claim = await claim_one(store.repository, key)
        assert_has(claim, spec="", schedule="")
        await settle(store.repository, T0, Fail(claim, ""))
        assert_has(await store.row(key), spec="", schedule="", state=State.FAILED, error="")

    @pytest.mark.parametrize("size", [256, 4_001, 65_537], ids="{:,} bytes".format)
    @scenario()
    async def test_long_texts_are_kept_whole(self, store: Store, size: int) -> None:
        """I9. A schedule may be a calendar's rule, an error a message with all that it is about."""
        key = store.key()
        text = "é🙂" * (size // 6) + "x" * (size % 6)
        schedule = text[:2000]
        await store.repository.register(T0, [registration(key, spec=text, schedule=schedule)])
        await store.repository.register(T0, [registration(key, 5, spec=text, schedule=f"{schedule}!")])
        claim = await claim_one(store.repository, key, after(5))
        assert_has(claim, spec=text, schedule=f"{schedule}!", revision=1)
        await settle(store.repository, after(5), Fail(claim, schedule))
        assert_has(await store.row(key), spec=text, schedule=f"{schedule}!", error=schedule)

    @pytest.mark.parametrize("field", ["spec", "schedule", "error"])
    @scenario()
    async def test_what_can_not_be_encoded_is_refused_or_kept(self, store: Store, field: str) -> None:
        """I10. Half a surrogate pair: one of Pyncette's errors, and nothing stored that can't be read back; or the very same text."""
        good, bad = store.keys(2)
        text = "a\ud83d"
        await register(store.repository, good, bad)
        claims = [await claim_one(store.repository, key) for key in (good, bad)]
        before = await store.row(bad)
        if field == "error":
            call: Coroutine[Any, Any, object] = settle(store.repository, T0, Fail(claims[1], text))
        else:
            changed = replace(registration(bad), **{field: text})  # type: ignore[arg-type]
            call = store.repository.register(T0, [changed])
        if await refused(call):
            assert await store.row(bad) == before
        else:
            assert_has(await store.row(bad), **{field: text})
        assert await settle(store.repository, T0, commit(claims[0])) == [Outcome.APPLIED]

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
