"""What SQLite makes of damaged rows: the shared tests, and what only SQLite lets one do."""

import asyncio
import contextlib
import functools
import sqlite3

import pytest

from pyncette.repository import Key, State
from pyncette.sqlite import sqlite_repository
from pyncette_conformance.builders import T0, poll, registration
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows
from pyncette_conformance.store import all_rows


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tasks.db")


@pytest.fixture
def repository_factory(path):
    return functools.partial(sqlite_repository, sqlite_database=path)


class TestDamagedRows(DamagedRows):
    @pytest.fixture
    def damage_row(self, path):
        def damage(repository, key, field, junk):
            if field in (RECORD, INDEX) or junk is MISSING:
                return False
            # Bytes are what SQLite takes for a text, of whatever it consists.
            value = "CAST(? AS TEXT)" if isinstance(junk, bytes) else "?"
            with contextlib.closing(sqlite3.connect(path)) as db, db, contextlib.suppress(sqlite3.IntegrityError):
                db.text_factory = bytes
                db.execute(f"UPDATE pyncette_tasks SET {field} = {value} WHERE (partition, name) = (?, ?)", (junk, *key))
                [[found]] = db.execute(f"SELECT {field} FROM pyncette_tasks WHERE (partition, name) = (?, ?)", key)
                return found == (junk.encode() if isinstance(junk, str) else junk)
            return False

        return damage


class TestDamagedNames:
    NAMES = ("x'ff00'", "CAST(x'6162ff' AS TEXT)", "CAST(x'eda080' AS TEXT)", "CAST(x'610062' AS TEXT)", "CAST(x'' AS BLOB)")

    @pytest.mark.parametrize("limit", [1, 2, 9])
    def test_a_row_whose_name_is_no_text_goes_by_its_bytes(self, path, limit):  # I10, I15
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                keys = [Key("p", name) for name in ("a", "b", "c", "d", "e", "f", "x'ff00'")]
                await repository.register(T0, [registration(key, -10) for key in keys])
                with contextlib.closing(sqlite3.connect(path)) as db, db:
                    for key, name in zip(keys, self.NAMES, strict=False):
                        db.execute(f"UPDATE pyncette_tasks SET name = {name} WHERE name = ?", (key.name,))
                rows = await all_rows(repository, "p", limit)
                shown = {"x'ff00'", "x'6162ff'", "x'eda080'", "x'610062'", "x''"}
                assert {row.key.name for row in rows if row.state is State.UNREADABLE} == shown
                assert len(rows) == 7
                claimed, unreadable = [], []
                while (result := await poll(repository, "p", limit=limit)).claims or result.unreadable:
                    claimed += [claim.key.name for claim in result.claims]
                    unreadable += [row.key.name for row in result.unreadable]
                assert (sorted(claimed), sorted(unreadable)) == (["f", "x'ff00'"], sorted(shown))
                # The task that is really called so goes first.
                assert all(await repository.unregister(T0, [Key("p", name) for name in shown]))
                assert [(row.key.name, row.state) for row in await all_rows(repository, "p")] == [
                    ("f", State.SCHEDULED),
                    ("x'ff00'", State.UNREADABLE),
                ]
                assert await repository.unregister(T0, [Key("p", "x'ff00'")]) == [True]
                assert [row.key.name for row in await all_rows(repository, "p")] == ["f"]

        asyncio.run(test())
