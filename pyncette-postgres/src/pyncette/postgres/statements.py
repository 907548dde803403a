"""The statements: one for each call of the contract, whatever the size of its batch.

The rules are those of :mod:`pyncette.lifecycle`, stated for whole batches. Statements that touch several rows lock them in the order
of their keys, so that two of them never wait for each other in a circle. ``greatest()`` ignores NULL, which is used for "not before".
"""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

import re

from pyncette.errors import ConfigurationError

__all__ = [
    "CLAIM",
    "CLAIM_NAMED",
    "CREATE",
    "FORMAT",
    "GET",
    "LIST",
    "PARTITIONS",
    "PAUSE",
    "REGISTER",
    "RESUME",
    "SETTLE",
    "STATS",
    "UNREGISTER",
    "literal",
    "quoted",
]

#: The version of the stored format, kept in the comment of the table. Raised whenever what is stored changes its meaning.
FORMAT = 1

# COLLATE "C": names are compared byte by byte, also in the index. Every run updates its row twice, each time with another ready_at,
# so there is no use in a fill factor for HOT updates; what counts is that dead versions at the head of the index are removed soon.
# One script, and so one transaction. IF NOT EXISTS is not safe against others who do the same: they queue up behind a lock.
CREATE = """
SELECT pg_advisory_xact_lock(hashtext('pyncette'), hashtext({literal}));
DO $pyncette$ BEGIN IF to_regclass({literal}) IS NULL THEN
    CREATE TABLE {table} (
        partition text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        spec text NOT NULL,
        schedule text COLLATE "C" NOT NULL,
        occurrence timestamptz NOT NULL,
        execute_after timestamptz NOT NULL,
        ready_at timestamptz,
        lease text,
        locked_until timestamptz,
        epoch bigint NOT NULL,
        revision bigint NOT NULL,
        attempt bigint NOT NULL,
        state text NOT NULL,
        error text,
        PRIMARY KEY (partition, name)
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX ON {table} (partition, ready_at) WHERE ready_at IS NOT NULL;
    COMMENT ON TABLE {table} IS '{comment}';
END IF; END $pyncette$;
"""

_FIELDS = """t.partition, t.name, t.spec, t.schedule, t.occurrence, t.execute_after, t.ready_at, t.lease, t.locked_until,
t.epoch, t.revision, t.attempt, t.state, t.error"""

_FIRST, _LAST = "'0001-01-01 00:00:00+00'::timestamptz", "'9999-12-31 23:59:59.999999+00'::timestamptz"
_LARGEST = 2**63 - 2


# What pyncette.codec.decode takes for a row, as far as the columns' types leave anything to be judged. A column may have lost its
# NOT NULL. What can't be read is not touched, but for its ready_at: a later release may understand it.
def _readable(t: str) -> str:
    return f"""(({t}.state IN ('scheduled', 'paused', 'failed') AND ({t}.state = 'scheduled') = ({t}.ready_at IS NOT NULL)
    AND {t}.spec IS NOT NULL AND {t}.schedule IS NOT NULL
    AND {t}.occurrence BETWEEN {_FIRST} AND {_LAST} AND {t}.execute_after BETWEEN {_FIRST} AND {_LAST}
    AND coalesce({t}.ready_at, {_FIRST}) BETWEEN {_FIRST} AND {_LAST}
    AND coalesce({t}.locked_until, {_FIRST}) BETWEEN {_FIRST} AND {_LAST}
    AND {t}.epoch BETWEEN -{_LARGEST} AND {_LARGEST} AND {t}.revision BETWEEN 0 AND {_LARGEST}
    AND {t}.attempt BETWEEN 0 AND {_LARGEST}) IS TRUE)"""


# $1 now, $2 now in microseconds, $3 force, $4 keep_overdue, then one array for each column
REGISTER = f"""
INSERT INTO {{table}} AS t (partition, name, spec, schedule, occurrence, execute_after, ready_at, epoch, revision, attempt, state)
SELECT r.partition, r.name, r.spec, r.schedule, r.occurrence, r.execute_after, r.execute_after, $2, 0, 0, 'scheduled'
FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::timestamptz[])
    AS r (partition, name, spec, schedule, occurrence, execute_after)
ORDER BY r.partition COLLATE "C", r.name COLLATE "C"
ON CONFLICT (partition, name) DO UPDATE SET (
    spec, schedule, occurrence, execute_after, ready_at, lease, locked_until, epoch, revision, attempt, state, error
) = (
    SELECT excluded.spec, excluded.schedule,
        CASE WHEN keeps THEN t.occurrence ELSE excluded.occurrence END,
        CASE WHEN keeps THEN t.execute_after ELSE excluded.execute_after END,
        CASE WHEN NOT changes THEN t.ready_at
            WHEN NOT readable OR t.state <> 'paused' THEN greatest(
                CASE WHEN keeps THEN t.execute_after ELSE excluded.execute_after END, CASE WHEN $3 THEN NULL ELSE t.locked_until END)
        END,
        CASE WHEN $3 THEN NULL ELSE t.lease END,
        CASE WHEN $3 THEN NULL ELSE t.locked_until END,
        CASE WHEN NOT readable THEN $2 WHEN $3 THEN greatest(t.epoch + 1, $2) ELSE t.epoch END,
        CASE WHEN readable THEN t.revision + changes::int ELSE 0 END,
        CASE WHEN changes THEN 0 ELSE t.attempt END,
        CASE WHEN NOT readable OR (changes AND t.state = 'failed') THEN 'scheduled' ELSE t.state END,
        CASE WHEN changes THEN NULL ELSE t.error END
    FROM (SELECT $3 OR t.schedule <> excluded.schedule AS changes) AS c,
        LATERAL (SELECT {_readable("t")} AS readable) AS r,
        LATERAL (SELECT NOT changes OR ($4 AND readable AND t.execute_after <= $1) AS keeps) AS k
) WHERE $3 OR {_readable("t")}
"""

UNREGISTER = """
WITH k AS MATERIALIZED (
    SELECT t.partition, t.name FROM {table} AS t
    JOIN unnest($1::text[], $2::text[]) AS k (partition, name) ON t.partition = k.partition AND t.name = k.name
    ORDER BY t.partition, t.name FOR UPDATE OF t
)
DELETE FROM {table} AS t USING k WHERE t.partition = k.partition AND t.name = k.name RETURNING t.partition, t.name
"""

# The CTE is materialised: a plain subquery with LIMIT and SKIP LOCKED may be run more than once, and lock more than it returns.
# What others hold locked at this moment is passed over, but counts for next_ready_at: it may become free without being claimed.
_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT t.partition, t.name, t.ready_at, {readable} AS readable FROM {{table}} AS t
    WHERE t.partition = $1 AND t.ready_at <= $2 {among} ORDER BY t.ready_at LIMIT $3 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {{table}} AS t
    SET ready_at = $5,
        lease = CASE WHEN readable THEN $4 ELSE t.lease END,
        locked_until = CASE WHEN readable THEN $5 ELSE t.locked_until END,
        epoch = CASE WHEN readable THEN greatest(t.epoch + 1, $6) ELSE t.epoch END,
        attempt = CASE WHEN readable THEN t.attempt + 1 ELSE t.attempt END
    FROM due WHERE t.partition = due.partition AND t.name = due.name
    RETURNING t.name, t.spec, t.schedule, t.occurrence, t.execute_after, t.epoch, t.attempt, t.revision, due.ready_at, readable,
        t.locked_until, t.state
)
SELECT n.ready_at, m.names, c.name, c.spec, c.schedule, c.occurrence, c.execute_after, c.epoch, c.attempt, c.revision,
    CASE WHEN NOT c.readable THEN coalesce(c.state, '') END, CASE WHEN NOT c.readable THEN c.locked_until END
FROM (SELECT (
    SELECT (extract(epoch FROM greatest(t.ready_at, {first})) * 1000000)::bigint FROM {{table}} AS t
    WHERE t.partition = $1 AND t.ready_at <= {last} {among} AND t.name NOT IN (SELECT name FROM due)
    ORDER BY t.ready_at LIMIT 1
) AS ready_at) AS n CROSS JOIN (SELECT {missing} AS names) AS m LEFT JOIN claimed AS c ON true
ORDER BY c.ready_at
"""
_JUDGED = {"readable": _readable("t"), "first": _FIRST, "last": _LAST}
CLAIM = _CLAIM.format(among="", missing="NULL::text[]", **_JUDGED)
CLAIM_NAMED = _CLAIM.format(
    among="AND t.name = ANY($7::text[])",
    missing="""ARRAY(SELECT asked.name FROM unnest($7::text[]) AS asked (name)
        WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.partition = $1 AND t.name = asked.name))""",
    **_JUDGED,
)

# $1 now, then one array for each field of a settlement. `at` is retry_at of a Release and until of an Extend.
SETTLE = f"""
WITH s AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::timestamptz[], $8::timestamptz[],
        $9::timestamptz[], $10::bool[], $11::text[])
        WITH ORDINALITY AS s (partition, name, lease, revision, kind, occurrence, execute_after, at, started, error, position)
), r AS MATERIALIZED (
    SELECT t.*, {_readable("t")} AS readable FROM {{table}} AS t JOIN s ON t.partition = s.partition AND t.name = s.name
    ORDER BY t.partition, t.name FOR UPDATE OF t
), w AS MATERIALIZED (
    SELECT s.*,
        r.readable AND r.lease = s.lease AND r.locked_until IS NOT NULL AS writes,
        s.kind = 'extend' OR r.revision = s.revision AS same,
        CASE
            WHEN r.name IS NULL THEN 'gone'
            WHEN NOT r.readable OR r.lease IS DISTINCT FROM s.lease OR (r.locked_until IS NULL AND s.kind = 'extend') THEN 'lost'
            WHEN r.revision <> s.revision AND s.kind <> 'extend' THEN 'superseded'
            WHEN r.locked_until IS NULL THEN 'already'
            ELSE 'applied'
        END AS outcome
    FROM s LEFT JOIN r ON r.partition = s.partition AND r.name = s.name
), removed AS (
    DELETE FROM {{table}} AS t USING w
    WHERE t.partition = w.partition AND t.name = w.name AND w.writes AND w.same AND w.kind = 'commit' AND w.occurrence IS NULL
), changed AS (
    UPDATE {{table}} AS t SET (occurrence, execute_after, ready_at, locked_until, attempt, state, error) = (
        SELECT
            CASE WHEN commits THEN w.occurrence ELSE t.occurrence END,
            CASE WHEN commits THEN w.execute_after ELSE t.execute_after END,
            CASE WHEN t.state = 'scheduled' AND NOT fails THEN greatest(
                CASE WHEN commits THEN w.execute_after ELSE t.execute_after END,
                CASE WHEN NOT w.same OR commits THEN $1 WHEN w.kind = 'release' THEN w.at ELSE greatest(t.locked_until, w.at) END)
            END,
            CASE WHEN w.kind = 'extend' THEN greatest(t.locked_until, w.at) END,
            CASE WHEN commits THEN 0 WHEN w.same AND w.kind = 'release' AND NOT w.started THEN t.attempt - 1 ELSE t.attempt END,
            CASE WHEN fails THEN 'failed' ELSE t.state END,
            CASE WHEN fails THEN w.error ELSE t.error END
        FROM (SELECT w.same AND w.kind = 'commit' AS commits, w.same AND w.kind = 'fail' AS fails) AS k
    )
    FROM w
    WHERE t.partition = w.partition AND t.name = w.name AND w.writes
        AND NOT (w.same AND w.kind = 'commit' AND w.occurrence IS NULL)
)
SELECT outcome FROM w ORDER BY position
"""

GET = f"""
SELECT {_FIELDS} FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (partition, name, position)
LEFT JOIN {{table}} AS t ON t.partition = k.partition AND t.name = k.name ORDER BY k.position
"""

LIST = f"SELECT {_FIELDS} FROM {{table}} AS t WHERE t.partition = $1 AND t.name >= $2 ORDER BY t.name LIMIT $3"

STATS = """
SELECT (SELECT count(*) FROM {table} WHERE partition = $1),
    (SELECT count(*) FROM {table} WHERE partition = $1 AND ready_at <= $2),
    (SELECT min(ready_at) FROM {table} WHERE partition = $1 AND ready_at <= $2),
    (SELECT count(*) FROM {table} WHERE partition = $1 AND state = 'failed')
"""

# One search in the index for each partition; DISTINCT would read every row.
PARTITIONS = """
WITH RECURSIVE p (partition) AS (
    (SELECT partition FROM {table} ORDER BY partition LIMIT 1)
    UNION ALL SELECT (SELECT t.partition FROM {table} AS t WHERE t.partition > p.partition ORDER BY t.partition LIMIT 1)
    FROM p WHERE p.partition IS NOT NULL
)
SELECT partition FROM p WHERE partition IS NOT NULL
"""

_CHANGE = """
WITH k AS MATERIALIZED (
    SELECT t.partition, t.name, {readable} AS readable FROM {{table}} AS t
    JOIN unnest($1::text[], $2::text[]) AS k (partition, name) ON t.partition = k.partition AND t.name = k.name
    ORDER BY t.partition, t.name FOR UPDATE OF t
), changed AS (
    UPDATE {{table}} AS t SET {change} FROM k WHERE t.partition = k.partition AND t.name = k.name AND readable
)
SELECT partition, name FROM k
"""
_REVIVED = "error = NULL, attempt = CASE WHEN t.state = 'failed' THEN 0 ELSE t.attempt END"
PAUSE = _CHANGE.format(change=f"state = 'paused', ready_at = NULL, {_REVIVED}", readable=_readable("t"))
RESUME = _CHANGE.format(
    change=f"""state = 'scheduled', {_REVIVED},
    ready_at = CASE WHEN t.state = 'scheduled' THEN t.ready_at ELSE greatest(t.execute_after, t.locked_until) END""",
    readable=_readable("t"),
)

_MAX_IDENTIFIER_BYTES = 63


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
    return ".".join('"' + part.replace('"', '""') + '"' for part in plain)
