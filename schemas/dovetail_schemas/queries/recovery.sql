-- name: recovery_drop_slot
-- The slot that was lost goes before a new one is made under its name.
SELECT pg_drop_replication_slot(%(slot)s)

-- name: recovery_rebase
-- The new beginning, in one statement: from here on the relay's row says that a recovery is under way. The epoch comes
-- after every one that the row or the checkpoint has known, so positions only grow. Where no checkpoint tells which of
-- the rows that wait were parked by a batch that committed, they are judged again among all that may be missing: what
-- stands before them in their key would come to stand behind. A queue stays as it is where any of its rows does: one that
-- is being discarded, that has ended the relay's process, or that no row of the outbox stands for. Else what was before
-- that row would come to stand behind it.
WITH stay AS MATERIALIZED (
    SELECT DISTINCT hold_topic, hold_key
    FROM dovetail.parked
    WHERE %(judge_again)s AND relay = %(relay)s AND state = 'parked' AND (
        reason = 'crash' OR discard OR NOT EXISTS (SELECT FROM dovetail.outbox AS event WHERE event.id = parked.id)
    )
), judged_again AS (
    DELETE FROM dovetail.parked USING dovetail.outbox
    WHERE %(judge_again)s AND parked.relay = %(relay)s AND parked.state = 'parked' AND NOT parked.discard
        AND outbox.id = parked.id AND outbox.xid >= %(horizon)s::text::xid8
        AND (
            pg_visible_in_snapshot(outbox.xid, %(snapshot)s::pg_snapshot)
            OR (pg_snapshot_xmin(%(snapshot)s::pg_snapshot)::text::bigint - outbox.xmin::text::bigint & 4294967295)
                BETWEEN 1 AND 2147483647
        )
        AND (parked.hold_topic, parked.hold_key) NOT IN (SELECT hold_topic, hold_key FROM stay)
)
UPDATE dovetail.relay
SET system_id = %(system_id)s, consistent_point = %(consistent_point)s::pg_lsn, snapshot = %(snapshot)s::pg_snapshot,
    epoch = greatest(epoch, %(known_epoch)s) + 1, recovery_horizon = %(horizon)s, recovery_command = %(command)s
WHERE name = %(relay)s
RETURNING epoch

-- name: recovery_stuck
-- Rows that a recovery has met and could not publish: those from before the slot have a place of their own.
SELECT count(*) FROM dovetail.parked
WHERE relay = %(relay)s AND epoch = %(epoch)s AND commit_lsn = '0/0' AND state <> 'discarded'

-- name: recovery_over
-- The checkpoint says that everything from before the slot is published.
UPDATE dovetail.relay SET recovery_horizon = NULL, recovery_command = NULL WHERE name = %(relay)s

-- name: recovery_accept
-- The publication and the partitions as they are now, seen and accepted by an operator.
UPDATE dovetail.relay
SET publication_fingerprint = %(fingerprint)s, partition_counts = partition_counts || %(partitions)s::jsonb
WHERE name = %(relay)s

-- name: recovery_candidates
-- Before anything is read back: since when rows may be missing, as Unix seconds, and what kinds of them there are. When a
-- row was made is its service's word; on which day it was written, its leaf knows.
-- Rows of a step that may have been committed are looked for as well: they were parked before it.
WITH candidates AS (
    SELECT true AS missing, aggregatetype, extract(epoch FROM created_at) AS created, dovetail.day_of(bucket) * 86400 AS day
    FROM dovetail.unpublished(%(relay)s, %(horizon)s, %(snapshot)s::pg_snapshot)
    UNION ALL
    SELECT false, aggregatetype, created_us / 1e6 + 946684800, floor(extract(epoch FROM parked_at))
    FROM dovetail.parked
    WHERE relay = %(relay)s AND state = 'parked' AND step IS NOT NULL
)
SELECT count(*) FILTER (WHERE missing) AS rows, count(*) AS sought, array_agg(DISTINCT aggregatetype) AS aggregatetypes,
    least(greatest(min(created), 0), extract(epoch FROM clock_timestamp()), min(day))::float8 AS since
FROM candidates

-- name: recovery_doubt
-- Rows of a step of which no checkpoint says whether it was committed: what is in the topics waits no longer.
WITH published AS (
    DELETE FROM dovetail.parked USING dovetail.recovery_seen AS seen
    WHERE parked.relay = %(relay)s AND parked.state = 'parked' AND parked.step IS NOT NULL
        AND seen.relay = parked.relay AND seen.event_id = parked.id
    RETURNING parked.seq
)
UPDATE dovetail.parked SET step = NULL, discard = false
WHERE relay = %(relay)s AND state = 'parked' AND step IS NOT NULL AND seq NOT IN (SELECT seq FROM published)

-- name: recovery_keys
-- The keys of one compacted topic, to which events of these types go, of which a row is to be published.
INSERT INTO dovetail.recovery_key (relay, aggregatetype, aggregateid, seq)
SELECT %(relay)s, kind, aggregateid, min(seq)
FROM dovetail.unpublished(%(relay)s, %(horizon)s, %(snapshot)s::pg_snapshot)
CROSS JOIN unnest(%(aggregatetypes)s::text[]) AS kind
WHERE aggregatetype = ANY(%(aggregatetypes)s)
GROUP BY kind, aggregateid
ON CONFLICT (relay, aggregatetype, aggregateid) DO UPDATE SET seq = least(recovery_key.seq, excluded.seq)

-- name: recovery_again
-- What is behind them in their keys, and in the topics, goes out again. A dead letter was no event of its key.
DELETE FROM dovetail.recovery_seen AS seen
USING dovetail.outbox AS event, dovetail.recovery_key AS first
WHERE seen.relay = %(relay)s AND event.id = seen.event_id AND first.relay = seen.relay
    AND (first.aggregatetype, first.aggregateid) = (event.aggregatetype, event.aggregateid) AND first.seq < event.seq
    AND NOT EXISTS (
        SELECT FROM dovetail.parked
        WHERE (parked.relay = %(relay)s) IS TRUE AND parked.id = event.id AND parked.state = 'dead_lettered'
    )

-- name: recovery_keys_over
-- The recovery is over.
DELETE FROM dovetail.recovery_key WHERE relay = %(relay)s

-- name: recovery_forget
-- What an earlier attempt has read back.
DELETE FROM dovetail.recovery_seen WHERE relay = %(relay)s

-- name: recovery_note
-- Ids that are in the topics. Where strays are asked for: those of them that no row of the outbox has.
WITH noted AS (
    INSERT INTO dovetail.recovery_seen (relay, event_id)
    SELECT %(relay)s, event_id FROM unnest(%(ids)s::uuid[]) AS read (event_id)
    ON CONFLICT DO NOTHING
    RETURNING event_id
)
SELECT event_id::text
FROM noted
WHERE %(strays)s AND NOT EXISTS (SELECT FROM dovetail.outbox WHERE outbox.id = noted.event_id)

-- name: recovery_missing
-- How many rows are to be published.
SELECT count(*) AS missing FROM dovetail.unpublished(%(relay)s, %(horizon)s, %(snapshot)s::pg_snapshot)

-- name: recovery_server
-- What an operator may ask the server itself: admission asks the same over a replication connection.
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
    ('x' || lpad(substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), 8, '0'))::bit(32)::int AS timeline

-- name: recovery_rows
-- Rows that may be missing, in the order of their writing, for a look that changes nothing. For a server-side cursor.
SELECT id, aggregatetype, aggregateid, extract(epoch FROM created_at)::float8 AS created,
    least(extract(epoch FROM created_at), dovetail.day_of(bucket) * 86400)::float8 AS since
FROM dovetail.outbox
WHERE xid >= %(horizon)s::text::xid8
ORDER BY seq

-- name: recovery_parked
-- Which of the events that may be missing the parking answers for.
SELECT id, state
FROM dovetail.parked
WHERE relay = %(relay)s AND state IN ('parked', 'discarded', 'dead_lettered')
