-- name: stuck_list
-- What waits, oldest first: the first of each queue and every stuck message, and with `behind` also what is well and
-- waits behind them. The first of a queue may be well: a release that ended early has let go what it waited behind.
WITH heads AS MATERIALIZED (
    SELECT DISTINCT ON (hold_topic, hold_key) seq FROM dovetail.parked
    WHERE relay = %(relay)s AND state = 'parked'
    ORDER BY hold_topic, hold_key, seq
)
SELECT id::text AS id, aggregateid AS key, type, hold_topic AS topic, reason, state,
    CASE WHEN reason = 'behind' AND heads.seq IS NOT NULL THEN 'nothing is before it any more: it can go out' ELSE message END AS message,
    parked_at, epoch || '/' || commit_lsn::text || '/' || index AS position, parked.seq, heads.seq IS NOT NULL AS leads
FROM dovetail.parked LEFT JOIN heads ON heads.seq = parked.seq
WHERE relay = %(relay)s AND state = ANY(%(states)s) AND (%(behind)s OR reason <> 'behind' OR heads.seq IS NOT NULL)
    AND (%(id)s::uuid IS NULL OR id = %(id)s)
    AND (%(key)s::text IS NULL OR aggregateid = %(key)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(class)s::text IS NULL OR reason = %(class)s)
    AND (%(since)s::timestamptz IS NULL OR parked_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR parked_at < %(until)s)
ORDER BY parked.seq
LIMIT %(most)s

-- name: stuck_first
-- The message to look at first: the one before which the relay stands, since it holds up everything; else the oldest,
-- which waits behind nothing.
SELECT id
FROM dovetail.parked
WHERE relay = %(relay)s AND state IN ('parked', 'halting', 'condemned')
ORDER BY state <> 'halting', seq
LIMIT 1

-- name: stuck_behind
-- How many messages wait in the queue of each key that one of these events belongs to.
SELECT hold_topic AS topic, aggregateid AS key, count(*) AS waiting
FROM dovetail.parked
WHERE relay = %(relay)s AND state = 'parked' AND reason = 'behind'
GROUP BY hold_topic, aggregateid

-- name: stuck_show
-- All that is known of one event, but for its payload.
SELECT id::text AS id, state, reason, message, hold_topic AS topic, aggregatetype, aggregateid AS key, type,
    epoch || '/' || commit_lsn::text || '/' || index AS position,
    parked_at::text AS parked_at, octet_length(payload) AS payload_bytes, encode(schema_fingerprint, 'hex') AS schema_fingerprint, encoding,
    (SELECT count(*) FROM dovetail.parked AS other
     WHERE other.relay = one.relay AND other.state = 'parked'
         AND (other.hold_topic, other.hold_key) = (one.hold_topic, one.hold_key) AND other.seq < one.seq) AS before_it,
    (SELECT count(*) FROM dovetail.parked AS other
     WHERE other.relay = one.relay AND other.state = 'parked'
         AND (other.hold_topic, other.hold_key) = (one.hold_topic, one.hold_key) AND other.seq > one.seq) AS behind_it,
    (SELECT other.id::text FROM dovetail.parked AS other
     WHERE other.relay = one.relay AND other.state = 'parked'
         AND (other.hold_topic, other.hold_key) = (one.hold_topic, one.hold_key) AND other.seq < one.seq
     ORDER BY other.seq LIMIT 1) AS head,
    EXISTS (SELECT FROM dovetail.outbox WHERE outbox.id = one.id) AS kept
FROM dovetail.parked AS one
WHERE relay = %(relay)s AND id = %(id)s
ORDER BY seq DESC
LIMIT 1

-- name: stuck_named
-- The events that a discard names, with its command.
INSERT INTO dovetail.command_event (command, n, event_id, bucket)
SELECT %(command)s, n - 1, event_id, 0 FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS named (event_id, n)

-- name: stuck_chosen
-- What a release or a discard would take up now: the rows that it names, and those in the queues of their keys.
WITH chosen AS MATERIALIZED (
    SELECT seq, hold_topic, hold_key
    FROM dovetail.parked
    WHERE relay = %(relay)s AND state IN ('parked', 'halting')
        AND (%(id)s::uuid IS NULL OR id = %(id)s)
        AND (%(key)s::text IS NULL OR aggregateid = %(key)s)
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(class)s::text IS NULL OR reason = %(class)s)
        AND (%(since)s::timestamptz IS NULL OR parked_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR parked_at < %(until)s)
)
SELECT parked.id::text AS id, parked.hold_topic AS topic, parked.aggregateid AS key, parked.reason, parked.state, parked.seq,
    parked.seq IN (SELECT seq FROM chosen) AS chosen
FROM dovetail.parked
WHERE relay = %(relay)s AND state IN ('parked', 'halting')
    AND (hold_topic, hold_key) IN (SELECT hold_topic, hold_key FROM chosen)
ORDER BY seq
