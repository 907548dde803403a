"""The table: its columns, its name, and how to recognise a table of Pyncette."""

import re
from collections.abc import Iterable

from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.repository import table_of_history

__all__ = ["CREATE", "FIELDS", "FORMAT", "check", "history_of", "literal", "quoted", "schema"]

#: The version of the stored format. Raised when the meaning of stored data changes.
FORMAT = 1

#: In the order of :func:`pyncette.codec.decode`.
FIELDS = (
    *("partition", "name", "spec", "schedule", "occurrence", "execute_after", "ready_at"),
    *("lease", "locked_until", "epoch", "revision", "attempt", "state", "error", "memo"),
)
#: Columns of the table of Pyncette 1.
_OF_PYNCETTE_1 = {"name", "parent_name", "locked_by", "task_spec"}

# COLLATE "C" compares names byte by byte, including in the index. Every run updates its row twice, so dead versions at the head of the index
# must be removed soon. A constraint that is always satisfied holds the format: unlike a comment, every dump includes it.
_TABLE = """CREATE TABLE {table} (
    partition text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    spec text COLLATE "C" NOT NULL,
    schedule text COLLATE "C" NOT NULL,
    occurrence bigint NOT NULL,
    execute_after bigint NOT NULL,
    ready_at bigint,
    lease text COLLATE "C",
    locked_until bigint,
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    attempt bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    error text,
    memo text NOT NULL DEFAULT '',
    PRIMARY KEY (partition, name),
    CONSTRAINT {marker} CHECK (true)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"""
_READY = "CREATE INDEX ON {table} (partition, ready_at) WHERE ready_at IS NOT NULL"
_FAILED = "CREATE INDEX ON {table} (partition) WHERE state = 'failed'"
# entries are never updated, so no room is left for that
_HISTORY = """CREATE TABLE {history} (
    partition text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (partition, at, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05)"""
_HISTORY_OF_KEYS = "CREATE INDEX ON {history} (partition, name, at, id)"
_HISTORY_EXPIRY = "CREATE INDEX ON {history} (expires_at)"

# One script, and so one transaction. IF NOT EXISTS alone is not safe when others do the same, so all queue up for a lock.
CREATE = """
SELECT pg_advisory_xact_lock(hashtext('pyncette'), hashtext({literal}));
DO $pyncette$ BEGIN IF to_regclass({literal}) IS NULL THEN {statements}; END IF; END $pyncette$;
"""

_MARKER = "pyncette_format_"
_MAX_IDENTIFIER_BYTES = 63


def schema(table: str = "pyncette_tasks") -> str:
    """The statements that create the table ``table`` and its history table, for use with ``postgres_skip_table_create``.

    Raises :class:`ConfigurationError` if a table can't have that name.
    """
    name = quoted(table)
    return "".join(f"{statement};\n" for statement in [*_statements(name), *_statements_of_history(name)])


def creation(table: str) -> str:
    """The script that creates the table with this quoted name unless it exists."""
    return CREATE.format(literal=literal(table), statements="; ".join(_statements(table)))


def _statements(table: str) -> list[str]:
    return [each.format(table=table, marker=f"{_MARKER}{FORMAT}") for each in (_TABLE, _READY, _FAILED)]


def creation_of_history(table: str) -> str:
    """The script that creates the history table for the table with this quoted name unless it exists."""
    return CREATE.format(literal=literal(history_of(table)), statements="; ".join(_statements_of_history(table)))


def _statements_of_history(table: str) -> list[str]:
    return [each.replace("{history}", history_of(table)) for each in (_HISTORY, _HISTORY_OF_KEYS, _HISTORY_EXPIRY)]


def history_of(table: str) -> str:
    """The quoted name of the history table for the table with this quoted name."""
    schema, name = re.fullmatch(r'((?:"(?:[^"]|"")+"\.)?)"((?:[^"]|"")+)"', table).groups()  # type: ignore[union-attr]
    return schema + _quote(table_of_history(name.replace('""', '"'), _MAX_IDENTIFIER_BYTES))


def check(what: str, columns: Iterable[str], constraints: Iterable[str]) -> None:
    """Raise a :class:`RepositoryError` unless ``what``, a table with these columns and constraints, can be used."""
    versions = [name.removeprefix(_MARKER) for name in constraints if name.startswith(_MARKER)]
    if _OF_PYNCETTE_1.issubset(columns):
        raise RepositoryError(
            f"{what} belongs to Pyncette 1, whose tasks can't be read; choose another postgres_table_name, and schedule them again"
        )
    if len(versions) != 1 or not versions[0].isdecimal() or not {*FIELDS}.issubset(columns):
        raise RepositoryError(f"{what} is not one of Pyncette's; choose another postgres_table_name")
    if int(versions[0]) > FORMAT:
        raise RepositoryError(
            f"{what} has the stored format {versions[0]}, but this Pyncette knows only {FORMAT}; upgrade pyncette-postgres"
        )


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """The name as SQL has it, quoted: a table, or a schema and a table with a dot between. A part may come quoted already."""
    parts = re.fullmatch(r'(?:("(?:[^"]|"")+"|[^".][^.]*)\.)?("(?:[^"]|"")+"|[^".][^.]*)', name)
    if parts is None or "\0" in name:
        raise ConfigurationError(f"postgres_table_name={name!r} is not the name of a table; write TABLE or SCHEMA.TABLE")
    plain = [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts.groups() if part is not None]
    for part in plain:
        if len(part.encode()) > _MAX_IDENTIFIER_BYTES:
            raise ConfigurationError(f"postgres_table_name={name!r} is too long; PostgreSQL takes {_MAX_IDENTIFIER_BYTES} bytes")
    return ".".join(map(_quote, plain))


def _quote(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'
