"""The statements: one for each call of the contract, whatever the size of its batch.

They restate the rules of :mod:`pyncette.lifecycle` for whole batches. Statements on several rows lock them in the order of their keys, so
that two statements never deadlock. ``greatest()`` ignores NULL, which the statements use for "not before".
"""

# ruff: noqa: S608 - nothing gets into a statement but the text here and a quoted identifier; values are parameters

from datetime import UTC, datetime

from pyncette.clock import to_microseconds
from pyncette.postgres.tables import FIELDS

__all__ = [
    "CLAIM",
    "CLAIM_NAMED",
    "COUNT",
    "ESTIMATES",
    "GET",
    "LIST",
    "PARTITIONS",
    "PAUSE",
    "REGISTER",
    "RESUME",
    "SETTLE",
    "SETTLE_EXPECTED",
    "UNREGISTER",
]

_FIELDS = ", ".join(f"t.{field}" for field in FIELDS)
_FIRST, _LAST = to_microseconds(datetime.min.replace(tzinfo=UTC)), to_microseconds(datetime.max.replace(tzinfo=UTC))
_LARGEST = 2**63 - 2

# What pyncette.codec.decode accepts as a row, as far as the column types don't already ensure it. A column may have lost its NOT NULL.
# Of an unreadable row, only ready_at is changed, because a later release may understand the rest.
_READABLE = f"""((t.state IN ('scheduled', 'paused', 'failed') AND (t.state = 'scheduled') = (t.ready_at IS NOT NULL)
    AND t.spec IS NOT NULL AND t.schedule IS NOT NULL
    AND t.occurrence BETWEEN {_FIRST} AND {_LAST} AND t.execute_after BETWEEN {_FIRST} AND {_LAST}
    AND coalesce(t.ready_at, 0) BETWEEN {_FIRST} AND {_LAST} AND coalesce(t.locked_until, 0) BETWEEN {_FIRST} AND {_LAST}
    AND t.epoch BETWEEN -{_LARGEST} AND {_LARGEST} AND t.revision BETWEEN 0 AND {_LARGEST}
    AND t.attempt BETWEEN 0 AND {_LARGEST}) IS TRUE)"""


# $1 now, $2 force, $3 keep_overdue, then one array for each column. Rows that need no change are not even locked.
REGISTER = f"""
INSERT INTO {{table}} AS t (partition, name, spec, schedule, occurrence, execute_after, ready_at, epoch, revision, attempt, state)
SELECT r.partition, r.name, r.spec, r.schedule, r.occurrence, r.execute_after, r.execute_after, $1, 0, 0, 'scheduled'
FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[])
    AS r (partition, name, spec, schedule, occurrence, execute_after)
WHERE $2 OR NOT EXISTS (
    SELECT FROM {{table}} AS t
    WHERE t.partition = r.partition AND t.name = r.name AND t.schedule = r.schedule AND t.spec = r.spec
)
ORDER BY r.partition COLLATE "C", r.name COLLATE "C"
ON CONFLICT (partition, name) DO UPDATE SET (
    spec, schedule, occurrence, execute_after, ready_at, lease, locked_until, epoch, revision, attempt, state, error, memo
) = (
    SELECT excluded.spec, excluded.schedule,
        CASE WHEN keeps THEN t.occurrence ELSE excluded.occurrence END,
        CASE WHEN keeps THEN t.execute_after ELSE excluded.execute_after END,
        CASE WHEN NOT changes THEN t.ready_at
            WHEN NOT readable OR t.state <> 'paused' THEN greatest(
                CASE WHEN keeps THEN t.execute_after ELSE excluded.execute_after END, CASE WHEN $2 THEN NULL ELSE t.locked_until END)
        END,
        CASE WHEN $2 THEN NULL ELSE t.lease END,
        CASE WHEN $2 THEN NULL ELSE t.locked_until END,
        CASE WHEN NOT readable THEN $1 WHEN $2 THEN greatest(t.epoch + 1, $1) ELSE t.epoch END,
        CASE WHEN readable THEN t.revision + changes::int ELSE 0 END,
        CASE WHEN changes THEN 0 ELSE t.attempt END,
        CASE WHEN NOT readable OR (changes AND t.state = 'failed') THEN 'scheduled' ELSE t.state END,
        CASE WHEN changes THEN NULL ELSE t.error END,
        CASE WHEN readable THEN t.memo ELSE '' END
    FROM (SELECT $2 OR t.schedule <> excluded.schedule AS changes) AS c,
        LATERAL (SELECT {_READABLE} AS readable) AS r,
        LATERAL (SELECT NOT changes OR ($3 AND readable AND t.execute_after <= $1) AS keeps) AS k
) WHERE $2 OR ({_READABLE} AND (t.schedule <> excluded.schedule OR t.spec <> excluded.spec))
"""

UNREGISTER = """
WITH k AS MATERIALIZED (
    SELECT t.partition, t.name FROM {table} AS t
    JOIN unnest($1::text[], $2::text[]) AS k (partition, name) ON t.partition = k.partition AND t.name = k.name
    ORDER BY t.partition, t.name FOR UPDATE OF t
)
DELETE FROM {table} AS t USING k WHERE t.partition = k.partition AND t.name = k.name RETURNING t.partition, t.name
"""

# $1 partition, $2 now, $3 limit, $4 lease, $5 its end, $6 and $7 the range of times to scan, see pyncette.looks.
# The CTE is materialised: a plain subquery with LIMIT and SKIP LOCKED may be run more than once, and lock more than it returns.
# Rows that others have locked are skipped, but count for next_ready_at, because they may become free without being claimed.
# The result includes the time it took to reach the first row, past dead rows that an old snapshot keeps.
# A row that changes between being read and being locked has another ctid, and is left to the next claim.
_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT t.ctid AS place, t.name, t.ready_at, {_READABLE} AS readable, clock_timestamp() AS reached FROM {{table}} AS t
    WHERE t.partition = $1 AND t.ready_at BETWEEN $6 AND $2 {{among}} ORDER BY t.ready_at LIMIT $3 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {{table}} AS t
    SET ready_at = $5, lease = $4, locked_until = $5, epoch = greatest(t.epoch + 1, $2), attempt = t.attempt + 1
    FROM due WHERE t.ctid = due.place AND due.readable
    RETURNING due.ready_at AS since, t.name, t.spec, t.schedule, t.occurrence, t.execute_after, t.epoch, t.attempt, t.revision,
        t.memo, NULL::text AS state, NULL::bigint AS locked_until
), put_off AS (
    UPDATE {{table}} AS t SET ready_at = $5 FROM due WHERE t.ctid = due.place AND NOT due.readable
    RETURNING due.ready_at, t.name, t.spec, t.schedule, t.occurrence, t.execute_after, t.epoch, t.attempt, t.revision,
        t.memo, coalesce(t.state, ''), t.locked_until
), taken AS (
    SELECT * FROM claimed UNION ALL SELECT * FROM put_off
)
SELECT (
    SELECT t.ready_at FROM {{table}} AS t
    WHERE t.partition = $1 AND t.ready_at BETWEEN $6 AND $7 {{among}} AND t.name NOT IN (SELECT name FROM taken)
    ORDER BY t.ready_at LIMIT 1
), extract(epoch FROM coalesce((SELECT reached FROM due LIMIT 1), clock_timestamp()) - statement_timestamp())::float8, {{missing}}, taken.*
FROM (SELECT) AS always LEFT JOIN taken ON true ORDER BY taken.since
"""
CLAIM = _CLAIM.replace("{among}", "").replace("{missing}", "NULL")
CLAIM_NAMED = _CLAIM.replace("{among}", "AND t.name = ANY($8::text[])").replace(
    "{missing}",
    """ARRAY(SELECT asked.name FROM unnest($8::text[]) AS asked (name)
        WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.partition = $1 AND t.name = asked.name))""",
)

# Writes what pyncette.lifecycle.expected() says to rows that their claims left unchanged; returns the positions of these.
SETTLE_EXPECTED = """
WITH changed AS (
    UPDATE {table} AS t
    SET occurrence = s.occurrence, execute_after = s.execute_after, ready_at = s.ready_at, locked_until = NULL,
        attempt = s.attempt, memo = coalesce(s.memo, t.memo)
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::text[])
        AS s (position, partition, name, lease, revision, occurrence, execute_after, ready_at, attempt, memo)
    WHERE t.partition = s.partition AND t.name = s.name
        AND t.lease = s.lease AND t.revision = s.revision AND t.locked_until IS NOT NULL AND t.state = 'scheduled'
    RETURNING s.position
), removed AS (
    DELETE FROM {table} AS t
    USING unnest($11::bigint[], $12::text[], $13::text[], $14::text[], $15::bigint[])
        AS s (position, partition, name, lease, revision)
    WHERE t.partition = s.partition AND t.name = s.name
        AND t.lease = s.lease AND t.revision = s.revision AND t.locked_until IS NOT NULL AND t.state = 'scheduled'
    RETURNING s.position
)
SELECT ARRAY(SELECT position FROM changed UNION ALL SELECT position FROM removed)
"""

# $1 now, then one array for each field of a settlement. `at` is retry_at of a Release and until of an Extend.
SETTLE = f"""
WITH s AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bool[], $11::text[], $12::text[])
        WITH ORDINALITY AS s (partition, name, lease, revision, kind, occurrence, execute_after, at, started, error, memo, position)
), r AS MATERIALIZED (
    SELECT t.*, {_READABLE} AS readable FROM {{table}} AS t JOIN s ON t.partition = s.partition AND t.name = s.name
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
    UPDATE {{table}} AS t SET (occurrence, execute_after, ready_at, locked_until, attempt, state, error, memo) = (
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
            CASE WHEN fails THEN w.error ELSE t.error END,
            CASE WHEN t.state = 'paused' THEN t.memo ELSE coalesce(w.memo, t.memo) END
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

# $1 partition, $2 now, $3 the maximum number of rows that are counted
COUNT = """
SELECT (SELECT count(*) FROM (SELECT FROM {table} WHERE partition = $1 LIMIT $3) AS counted),
    (SELECT count(*) FROM (SELECT FROM {table} WHERE partition = $1 AND ready_at <= $2 LIMIT $3) AS counted),
    (SELECT min(ready_at) FROM {table} WHERE partition = $1 AND ready_at <= $2),
    (SELECT count(*) FROM (SELECT FROM {table} WHERE partition = $1 AND state = 'failed' LIMIT $3) AS counted)
"""
#: The planner's estimates for tables with more rows than are counted, in the order of the counts.
ESTIMATES = (
    "EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE partition = $1",
    "EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE partition = $1 AND ready_at <= $2",
    "EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE partition = $1 AND state = 'failed'",
)

# one index search for each partition; DISTINCT would read every row
PARTITIONS = """
WITH RECURSIVE p (partition) AS (
    (SELECT partition FROM {table} ORDER BY partition LIMIT 1)
    UNION ALL SELECT (SELECT t.partition FROM {table} AS t WHERE t.partition > p.partition ORDER BY t.partition LIMIT 1)
    FROM p WHERE p.partition IS NOT NULL
)
SELECT partition FROM p WHERE partition IS NOT NULL
"""

_CHANGE = f"""
WITH k AS MATERIALIZED (
    SELECT t.partition, t.name, k.memo, {_READABLE} AS readable FROM {{table}} AS t
    JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (partition, name, memo) ON t.partition = k.partition AND t.name = k.name
    ORDER BY t.partition, t.name FOR UPDATE OF t
), changed AS (
    UPDATE {{table}} AS t
    SET {{change}}, memo = coalesce(k.memo, t.memo), error = NULL, attempt = CASE WHEN t.state = 'failed' THEN 0 ELSE t.attempt END
    FROM k WHERE t.partition = k.partition AND t.name = k.name AND readable
)
SELECT partition, name FROM k
"""
PAUSE = _CHANGE.replace("{change}", "state = 'paused', ready_at = NULL")
RESUME = _CHANGE.replace(
    "{change}",
    """state = 'scheduled',
    ready_at = CASE WHEN t.state = 'scheduled' THEN t.ready_at ELSE greatest(t.execute_after, t.locked_until) END""",
)
