"""What SQLite makes of damaged rows: the shared tests, and what only SQLite lets one do."""

import contextlib
import functools
import sqlite3

import pytest

from pyncette.sqlite import sqlite_repository
from pyncette_conformance.damage import INDEX, MISSING, RECORD, DamagedRows


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
