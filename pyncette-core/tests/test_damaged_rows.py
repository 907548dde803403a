"""Damaged rows in the stores whose rules are core's own: the reference, and the base for stores with conditional writes."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from test_compare_and_set import DictRepository

from pyncette import lifecycle
from pyncette.clock import to_microseconds
from pyncette.codec import decode, from_json, to_json, unreadable
from pyncette.memory import MemoryRepository
from pyncette.repository import Commit, Key, Outcome, Registration, State, Target
from pyncette_conformance import Capabilities
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY = Key("p", "a")
FIELDS = ("spec", "schedule", "occurrence", "execute_after", "ready_at", "lease", "locked_until", "epoch", "revision", "attempt")
FIELDS += ("state", "error")


def damaged(row, field, junk):
    """The row as a store's codec would read it, with junk in a field."""
    values = row._asdict() | {field: junk}
    plain = [to_microseconds(values[each]) if isinstance(values[each], datetime) else values[each] for each in FIELDS]
    return decode(row.key, *plain)


@pytest.fixture(params=[MemoryRepository, DictRepository])
def repository(request):
    return request.param()


@pytest.fixture
def repository_factory(repository):
    return lambda: contextlib.nullcontext(repository)


@pytest.fixture
def repository_capabilities():
    return Capabilities(shared=False, durable=False)


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self):
        async def damage(repository, key, field, junk):
            if field in (RECORD, INDEX) or junk is MISSING:
                return False
            [row] = await repository.get([key])
            row = damaged(row, field, junk)
            put = repository.put if isinstance(repository, DictRepository) else repository._put
            put(key, row)
            return row.state is State.UNREADABLE

        return damage


class TestRules:
    """What :mod:`pyncette.lifecycle` makes of a row that can't be read."""

    row = unreadable(KEY, "it is rotten", to_microseconds(NOW))

    def test_it_is_not_claimed_but_put_off_once(self):  # I10
        assert lifecycle.claim(self.row, NOW, MINUTE, "lease") is None
        off = lifecycle.put_off(self.row, NOW, MINUTE)
        assert off == self.row._replace(ready_at=NOW + MINUTE)
        assert lifecycle.put_off(off, NOW, MINUTE) is off
        assert lifecycle.put_off(off, NOW + MINUTE, MINUTE).ready_at == NOW + 2 * MINUTE
        assert lifecycle.take([self.row], NOW, MINUTE) == ([], [], [off])

    def test_its_worker_has_lost_it(self):  # I1
        row = lifecycle.register(None, NOW, Registration(KEY, "{}", "s", Target(NOW, NOW)))
        _, claim = lifecycle.claim(row, NOW, MINUTE, "lease")
        assert lifecycle.settle(self.row, NOW, Commit(claim, None)) == (self.row, Outcome.LOST)

    def test_pausing_resuming_and_registering_leave_it_alone(self):
        registration = Registration(KEY, "{}", "s", Target(NOW, NOW))
        assert lifecycle.pause(self.row) is lifecycle.resume(self.row) is self.row
        assert lifecycle.register(self.row, NOW, registration) is self.row

    def test_force_makes_a_new_row(self):
        registration = Registration(KEY, "{}", "s", Target(NOW, NOW))
        assert lifecycle.register(self.row, NOW, registration, force=True) == lifecycle.register(None, NOW, registration)

    @pytest.mark.parametrize("change", [{"state": "paused"}, {"ready_at": None}, {"epoch": True}, {"spec": b"{}"}, {"state": []}])
    def test_what_no_call_ever_stores_is_unreadable(self, change):
        row = lifecycle.register(None, NOW, Registration(KEY, "{}", "s", Target(NOW, NOW)))
        [(field, junk)] = change.items()
        assert damaged(row, "spec", "{}") == row
        assert damaged(row, field, junk).state is State.UNREADABLE

    def test_what_is_said_of_it_shows_no_arguments(self):
        row = lifecycle.register(None, NOW, Registration(KEY, "{}", "s", Target(NOW, NOW)))
        assert "secret" not in damaged(row, "spec", b'{"password": "secret"}').error


class TestJSON:
    ROW = lifecycle.register(None, NOW, Registration(KEY, '{"x": "é😀"}', "s", Target(NOW, NOW + MINUTE)))

    def test_of_a_row_is_that_row(self):
        held, _ = lifecycle.claim(self.ROW, NOW + MINUTE, MINUTE, "lease")
        failed = held._replace(state=State.FAILED, ready_at=None, error="it broke", memo="a\nnote")
        for row in (self.ROW, held, failed, lifecycle.pause(held)):
            assert from_json(KEY, to_json(row)) == row == from_json(KEY, to_json(row).encode())

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "7", "null", "NaN", "[" * 100_000, "9" * 5000, b"\xff", "{}", '{"state": {}}', '{"epoch": NaN}']
    )
    def test_of_junk_is_an_unreadable_row(self, text):  # I10
        assert from_json(KEY, text).state is State.UNREADABLE
        assert from_json(KEY, text).key == KEY

    def test_of_a_later_release_is_read_as_far_as_it_is_known(self):
        assert from_json(KEY, to_json(self.ROW)[:-1] + ',"more":[1]}') == self.ROW
