"""Rows that somebody or something else has damaged: a later release, an operator with a console, a disk.

The requirements are the same for all stores, but not how junk gets into a store. So the tests of a backend define how to write junk
natively, bypassing the repository, and derive from :class:`DamagedRows`::

    class TestDamagedRows(DamagedRows):
        @pytest.fixture
        def damage_row(self, path):
            def damage(repository, key, field, junk):
                ...  # replace what is stored as `field` of the row `key` by `junk`
                return True  # or False, if the store refuses it, or makes something else of it

            return damage

``damage`` may be a coroutine function, too.
"""

import enum
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias

import pytest

from pyncette.repository import Key, Outcome, Repository, Row, State, SupportsPartitions, SupportsPause, SupportsStats
from pyncette_conformance.builders import LEASE, T0, after, claim_one, commit, poll, register, registration, settle
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["INDEX", "MISSING", "RECORD", "DamagedRows", "Junk", "Writer"]


class Missing(enum.Enum):
    """The type of :data:`MISSING`."""

    MISSING = "nothing at all"


#: Instead of junk: remove the field.
MISSING: Final = Missing.MISSING
#: Instead of a field: everything stored for the row, if that is one value. The junk is bytes.
RECORD = "record"
#: Instead of a field: an entry of the index, due long ago, that leads nowhere. The junk is what stands for the name: another name,
#: that of no row, or bytes. Only where the index is an entry of its own.
INDEX = "index"

Junk: TypeAlias = str | bytes | int | float | Missing | None
#: Called with the repository, the key of a row, a field of :class:`~pyncette.repository.Row` (or RECORD, or INDEX) and the junk.
#: Whether the store keeps it as it is.
Writer: TypeAlias = Callable[[Repository, Key, str, Junk], bool | Awaitable[bool]]

_NO_UTF8 = b"\xff\xfe"
_NO_TEXT: Sequence[Junk] = (_NO_UTF8, None, MISSING)
_NO_NUMBER: Sequence[Junk] = ("junk", "", -(2**63), 2**63 - 1, 1.5, *_NO_TEXT)
_JUNK: dict[str, Sequence[Junk]] = {
    "spec": _NO_TEXT,
    "schedule": _NO_TEXT,
    "occurrence": _NO_NUMBER,
    "execute_after": _NO_NUMBER,
    "ready_at": _NO_NUMBER,
    "lease": (_NO_UTF8,),
    "locked_until": ("junk", "", -(2**63), 2**63 - 1, 1.5, _NO_UTF8),
    "epoch": _NO_NUMBER,
    "revision": (-1, *_NO_NUMBER),
    "attempt": (-1, *_NO_NUMBER),
    "state": ("archived", "unreadable", "", 7, *_NO_TEXT),
    "error": (_NO_UTF8,),
    "memo": (_NO_UTF8,),
    RECORD: (b"", b"\0", b"null", b"7", b"{", b"{}", b"[]", b"[[]]", b'"text"', b"[" * 100_000, b"9" * 5_000, _NO_UTF8),
    INDEX: ("no such row", "", _NO_UTF8, b"\0" * 32),
}
_Test: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def each_damage(test: _Test) -> Callable[..., None]:
    """Make a test of one kind of damage a test of each field, which tries one kind of junk after another, in rows of their own.

    To open the store for each would take most of the time.
    """

    async def with_each_junk(self: Any, store: Store, damage_row: Writer, field: str) -> None:
        for junk in _JUNK[field]:
            try:
                await test(self, store, damage_row, field, junk)
            except (Exception, pytest.fail.Exception) as error:
                shown = junk.value if isinstance(junk, Missing) else repr(junk)
                error.add_note(f"where {field} is {shown if len(shown) < 30 else shown[:20] + '...'}")
                raise

    functools.update_wrapper(with_each_junk, test)
    del with_each_junk.__wrapped__  # type: ignore[attr-defined]  # whose parameters pytest would ask for
    return pytest.mark.parametrize("field", _JUNK)(scenario()(with_each_junk))  # type: ignore[no-any-return]


class DamagedRows(Conformance):
    """I10. Damage does not affect other rows; an unreadable row is listed, and can be removed."""

    @pytest.fixture
    def damage_row(self) -> Writer:
        """Writes junk into the store, bypassing the repository."""
        raise NotImplementedError("override the fixture damage_row: it returns a function that writes junk into your store")

    @each_damage
    async def test_the_others_are_claimed_and_settled_as_ever(
        self, store: Store, damage_row: Writer, field: str, junk: Junk
    ) -> None:
        """I10. The damaged row is due first, is reported, and then blocks nobody for as long as a lease."""
        keys, bad = await registered(store)
        kept = await write(damage_row, store, bad, field, junk)
        claims, unreadable = await claim_all(store.repository, bad.partition)
        good = [key for key in keys if key != bad]
        assert [key for key in claims if key != bad] == good
        assert {row.key for row in unreadable} <= {bad}
        assert_unreadable(unreadable)
        if kept and field != INDEX:
            assert bad not in claims
            # If it is the very time at which it is ready that is damaged, it may never be met.
            assert field == "ready_at" or len(unreadable) == 1
        again = await poll(store.repository, bad.partition)
        assert (again.claims, again.unreadable) == ([], ())
        assert again.next_ready_at in (None, T0 + LEASE)
        outcomes = await settle(store.repository, T0, *[commit(claims[key]) for key in good])
        assert outcomes == [Outcome.APPLIED] * len(good)
        claims, unreadable = await claim_all(store.repository, bad.partition, T0 + LEASE)
        assert [key for key in claims if key != bad] == good
        assert_unreadable(unreadable)
        if kept and field not in (INDEX, "ready_at"):
            assert [row.key for row in unreadable] == [bad]

    @each_damage
    async def test_it_is_shown_and_can_be_removed(self, store: Store, damage_row: Writer, field: str, junk: Junk) -> None:
        """I10, I15."""
        keys, bad = await registered(store)
        before = await store.rows(keys)
        kept = await write(damage_row, store, bad, field, junk)
        rows = dict(zip(keys, await store.rows(keys), strict=True))
        for key, row in zip(keys, before, strict=True):
            assert key == bad or rows[key] == row
        for limit in (1, 2, 100):
            listed = await all_rows(store.repository, bad.partition, limit)
            assert {row.key: shown(row) for row in listed} == {key: shown(row) for key, row in rows.items()}
        found = rows[bad]
        assert found is not None
        if field == INDEX:
            assert found.state is State.SCHEDULED
        elif kept:
            assert found.state is State.UNREADABLE
        assert_unreadable([found] if found.state is State.UNREADABLE else [])
        assert list(await store.repository.unregister(T0, [keys[0], bad])) == [True, True]
        assert await store.rows([keys[0], bad]) == [None, None]
        assert bad not in [row.key for row in await all_rows(store.repository, bad.partition)]
        await register(store.repository, bad)
        assert (await claim_one(store.repository, bad)).key == bad

    @each_damage
    async def test_calls_for_it_and_others_together_do_their_work_on_the_others(
        self, store: Store, damage_row: Writer, field: str, junk: Junk
    ) -> None:
        """I10. Its own worker has lost it, or has settled it without a look at what is damaged."""
        keys, bad = await registered(store)
        held = {claim.key: claim for claim in (await poll(store.repository, bad.partition)).claims}
        kept = await write(damage_row, store, bad, field, junk) and field != INDEX
        outcomes = dict(zip(keys, await settle(store.repository, T0, *[commit(held[key], -1) for key in keys]), strict=True))
        assert all(outcome is Outcome.APPLIED for key, outcome in outcomes.items() if key != bad)
        # What has to be as the claim left it is looked at in any case.
        guards = field in ("lease", "revision", "state", RECORD)
        assert not kept or outcomes[bad] in ([Outcome.LOST] if guards else [Outcome.LOST, Outcome.APPLIED])
        unread = kept and outcomes[bad] is Outcome.LOST
        await store.repository.register(T0, [registration(key, -1, schedule="another") for key in keys])
        row = await store.row(bad)
        assert row.state is State.UNREADABLE if unread else row.schedule == "another" or row.state is State.UNREADABLE
        if isinstance(store.repository, SupportsPause):
            assert list(await store.repository.pause(T0, keys)) == [True] * len(keys)
            assert list(await store.repository.resume(T0, keys)) == [True] * len(keys)
        if isinstance(store.repository, SupportsStats):
            stats = await store.repository.stats(T0, bad.partition)
            assert len(keys) - 1 <= stats.due <= stats.rows <= len(keys) + 1
        if isinstance(store.repository, SupportsPartitions):
            assert bad.partition in await store.repository.partitions()
        claims, unreadable = await claim_all(store.repository, bad.partition)
        assert [key for key in claims if key != bad] == [key for key in keys if key != bad]
        assert_unreadable(unreadable)

    @each_damage
    async def test_asked_for_by_name_it_costs_the_other_names_nothing(
        self, store: Store, damage_row: Writer, field: str, junk: Junk
    ) -> None:
        """I10. Static tasks are claimed so."""
        keys, bad = await registered(store)
        kept = await write(damage_row, store, bad, field, junk) and field != INDEX
        names = [key.name for key in keys]
        result = await poll(store.repository, bad.partition, names=names)
        assert {claim.key for claim in result.claims} | {bad} == set(keys)
        assert result.missing == []
        if kept:
            assert bad not in [claim.key for claim in result.claims]
            assert field == "ready_at" or [row.key for row in result.unreadable] == [bad]
        assert_unreadable(result.unreadable)
        again = await poll(store.repository, bad.partition, names=names)
        assert (again.claims, again.unreadable) == ([], ())

    @each_damage
    async def test_a_forced_registration_replaces_it(self, store: Store, damage_row: Writer, field: str, junk: Junk) -> None:
        """A plain one does not: it may be the row of a later release, which can read it."""
        keys, bad = await registered(store)
        await write(damage_row, store, bad, field, junk)
        await store.repository.register(T0, [registration(key, -50, schedule="new") for key in keys], force=True)
        rows = [row for row in await store.rows(keys) if row is not None]
        assert [(row.key, row.state, row.schedule, row.ready_at) for row in rows] == [
            (key, State.SCHEDULED, "new", after(-50)) for key in keys
        ]
        claims, unreadable = await claim_all(store.repository, bad.partition)
        assert (list(claims), unreadable) == (list(keys), [])
        assert await settle(store.repository, T0, *[commit(claims[key]) for key in keys]) == [Outcome.APPLIED] * len(keys)

    @scenario()
    async def test_a_plain_registration_leaves_it_as_it_is(self, store: Store, damage_row: Writer) -> None:
        """Also one that is sent alone, for which a store may have a way of its own. A later release may be able to read the row."""
        key = store.key()
        await store.repository.register(T0, [registration(key, spec='{"x": "' + "y" * 2_000 + '"}')])
        assert await write(damage_row, store, key, "state", "archived"), "an unknown state can at least be written"
        before = await store.row(key)
        assert before.state is State.UNREADABLE
        await store.repository.register(T0, [registration(key, 60, schedule="new", spec="{}")])
        assert await store.row(key) == before

    @scenario()
    async def test_what_replaces_it_remembers_nothing(self, store: Store, damage_row: Writer) -> None:
        """Nobody could tell what it had remembered."""
        damaged, other = store.keys(2)
        await register(store.repository, damaged, other)
        claims = [await claim_one(store.repository, key) for key in (damaged, other)]
        await settle(store.repository, T0, *[commit(claim, memo="old") for claim in claims])
        assert await write(damage_row, store, damaged, "state", "archived"), "an unknown state can at least be written"
        await store.repository.register(T0, [registration(key) for key in (damaged, other)], force=True)
        assert [row and (row.state, row.memo) for row in await store.rows([damaged, other])] == [
            (State.SCHEDULED, ""),
            (State.SCHEDULED, "old"),
        ]

    @scenario()
    async def test_many_of_them_starve_no_other(self, store: Store, damage_row: Writer) -> None:
        """I10, I11. More than a claim takes, all due before the row that makes sense."""
        *bad, good = store.keys(26)
        await register(store.repository, *bad, seconds=-100)
        await register(store.repository, good)
        for key in bad:
            assert await write(damage_row, store, key, "state", "archived"), "an unknown state can at least be written"
        claims, unreadable = await claim_all(store.repository, good.partition, limit=5)
        assert list(claims) == [good]
        assert {row.key for row in unreadable} == set(bad)


async def registered(store: Store) -> tuple[Sequence[Key], Key]:
    """Rows that are due, and the one among them that is to be damaged: it has been due longest."""
    keys = store.keys(5)
    await register(store.repository, *keys[:2], *keys[3:], seconds=-10)
    await register(store.repository, keys[2], seconds=-100)
    return keys, keys[2]


def shown(row: Row | None) -> Row | None:
    """A row without what a listing need not know: only the index may say when an unreadable row is to be met."""
    return row._replace(ready_at=None) if row is not None and row.state is State.UNREADABLE else row


async def write(writer: Writer, store: Store, key: Key, field: str, junk: Junk) -> bool:
    kept = writer(store.repository, key, field, junk)
    return await kept if inspect.isawaitable(kept) else kept


async def claim_all(
    repository: Repository, partition: str, now: Any = T0, *, limit: int = 2
) -> tuple[dict[Key, Any], Sequence[Row]]:
    """What is due, claimed a few at a time as a worker does, by key and in the order of the keys; and what could not be read."""
    claims: dict[Key, Any] = {}
    unreadable: list[Row] = []
    for _ in range(50):
        result = await repository.claim(now, partition, lease_duration=LEASE, limit=limit)
        for claim in result.claims:
            assert claim.key not in claims, f"{claim.key} was claimed twice"
            claims[claim.key] = claim
        unreadable += result.unreadable
        assert len(result.claims) <= limit
        if result.next_ready_at is None or result.next_ready_at > now:
            return dict(sorted(claims.items())), unreadable
    raise AssertionError("claiming what is due does not end")


def assert_unreadable(rows: Sequence[Row]) -> None:
    for row in rows:
        assert row.state is State.UNREADABLE
        assert row.error, "it is not said why"
        assert row.error.isprintable(), "what is said may be anything: it is shown to operators"
        assert row.ready_at is None or row.ready_at > T0 - timedelta(days=1) or row.ready_at.year < 1970
