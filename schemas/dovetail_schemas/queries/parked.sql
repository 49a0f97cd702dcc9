-- name: parked_write
-- Rows that a batch passes over, before its Kafka transaction commits. Written again after a batch came to nothing. A
-- row that halted the relay, or that an operator condemned, is there already and becomes what the batch makes of it.
INSERT INTO dovetail.parked (
    relay, epoch, commit_lsn, index, hold_topic, hold_key, reason, message, state,
    id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers, created_us
)
VALUES (
    %(relay)s, %(epoch)s, %(commit_lsn)s::pg_lsn, %(index)s, %(hold_topic)s, %(hold_key)s, %(reason)s, %(message)s,
    %(state)s, %(id)s, %(aggregatetype)s, %(aggregateid)s, %(type)s, %(payload)s, %(schema_fingerprint)s, %(encoding)s,
    %(headers)s, %(created_us)s
)
ON CONFLICT (relay, epoch, commit_lsn, index) DO UPDATE
SET state = excluded.state, reason = excluded.reason, message = excluded.message, written_lsn = excluded.written_lsn
WHERE parked.state IN ('halting', 'condemned')

-- name: parked_written_at
-- The log's position after the last write: what a promoted server must have.
SELECT pg_current_wal_insert_lsn()::text AS lsn

-- name: parked_drop_beyond
-- Rows of a batch that never committed: they stream again, and may go out this time. Their place tells it; or, where the
-- same place was published since by another batch, and a failover has brought them back, when they were written. A row
-- that an operator discarded is condemned still, unless they have withdrawn it: then the relay stands before it again.
WITH beyond AS (
    SELECT seq, command, state = 'discarded' AND command IS NOT NULL AS condemned
    FROM dovetail.parked
    WHERE relay = %(relay)s AND state IN ('parked', 'discarded', 'dead_lettered')
        AND NOT (
            epoch < %(epoch)s
            OR epoch = %(epoch)s AND written_lsn < %(parked_lsn)s::pg_lsn AND CASE
                WHEN commit_lsn = '0/0' THEN %(backfill)s::bigint IS NULL OR index < %(backfill)s
                ELSE commit_lsn < %(end_lsn)s::pg_lsn
                    OR commit_lsn = %(part_lsn)s::pg_lsn AND index < %(part_index)s
            END
        )
), condemned AS (
    UPDATE dovetail.parked
    SET state = CASE WHEN withdrawn THEN 'halting' ELSE 'condemned' END, command = CASE WHEN NOT withdrawn THEN parked.command END
    FROM beyond CROSS JOIN LATERAL (
        SELECT EXISTS (SELECT FROM dovetail.command WHERE command.id = beyond.command AND command.state = 'withdrawn') AS withdrawn
    ) AS told
    WHERE parked.seq = beyond.seq AND beyond.condemned
    RETURNING parked.seq
)
DELETE FROM dovetail.parked USING beyond WHERE parked.seq = beyond.seq AND NOT beyond.condemned

-- name: parked_drop_passed
-- Rows that halted the relay, or were condemned, and that the checkpoint has passed in another way. Those of an earlier
-- epoch are passed once the recovery that ended it is over: no stream comes by them again.
DELETE FROM dovetail.parked
WHERE relay = %(relay)s AND state IN ('halting', 'condemned')
    AND (
        epoch < %(epoch)s AND %(backfill)s::bigint IS NULL
        OR epoch = %(epoch)s AND CASE
            WHEN commit_lsn = '0/0' THEN %(backfill)s::bigint IS NULL OR index < %(backfill)s
            ELSE commit_lsn < %(end_lsn)s::pg_lsn
        END
    )

-- name: parked_held
-- The keys that are held.
SELECT DISTINCT hold_topic, hold_key FROM dovetail.parked WHERE relay = %(relay)s AND state = 'parked'

-- name: parked_standing
-- The rows that the relay stands before: those that it passes over because an operator said so, and those that have ended
-- its process and are not tried again.
SELECT commit_lsn::text AS commit_lsn, index, state = 'condemned' AS condemned, reason = 'crash' AS feared
FROM dovetail.parked
WHERE relay = %(relay)s AND state IN ('halting', 'condemned')

-- name: parked_counts
-- For the metrics: how many messages wait, how many keys are held, and before how many the relay stands. It is the
-- leader's own connection: of a queue of millions only so many are counted as take no time.
WITH waiting AS MATERIALIZED (
    SELECT hold_topic, hold_key FROM dovetail.parked WHERE relay = %(relay)s AND state = 'parked' LIMIT %(most)s
), standing AS (
    SELECT count(*) AS messages FROM dovetail.parked WHERE relay = %(relay)s AND state IN ('halting', 'condemned')
)
SELECT (SELECT count(*) FROM waiting) + standing.messages AS messages,
    (SELECT count(DISTINCT (hold_topic, hold_key)) FROM waiting) AS keys,
    standing.messages AS standing_before
FROM standing

-- name: parked_topics
-- Where the types of the rows that wait were to go when they were parked.
SELECT DISTINCT hold_topic, aggregatetype FROM dovetail.parked WHERE relay = %(relay)s AND state = 'parked'

-- name: parked_follow
-- Rows whose type goes to another topic now: they are before what will go there.
UPDATE dovetail.parked SET hold_topic = %(to)s
WHERE relay = %(relay)s AND state = 'parked' AND hold_topic = %(from)s AND aggregatetype = %(aggregatetype)s
