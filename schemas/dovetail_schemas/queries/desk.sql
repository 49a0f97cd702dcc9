-- name: desk_queue
-- The queues of the keys that a command names, oldest row first, from behind `after`; `chosen` says which rows it names
-- itself, `kept` whether the outbox holds it. A queue that an earlier step began is known by its next row, which carries
-- the command. As the raw bytes that the stream would have sent. A discard names its events one by one: a filter would
-- also find what the command itself has given another reason, and not what was parked anew meanwhile.
WITH keys AS MATERIALIZED (
    SELECT DISTINCT hold_topic, hold_key
    FROM dovetail.parked
    WHERE relay = %(relay)s AND state = 'parked' AND (
        command = %(command)s
        OR CASE WHEN %(named)s THEN id IN (SELECT event_id FROM dovetail.command_event AS named WHERE named.command = %(command)s)
            ELSE seq <= %(upto)s
                AND (%(id)s::uuid IS NULL OR id = %(id)s)
                AND (%(key)s::text IS NULL OR aggregateid = %(key)s)
                AND (%(type)s::text IS NULL OR type = %(type)s)
                AND (%(class)s::text IS NULL OR parked.reason = %(class)s)
                AND (%(since)s::timestamptz IS NULL OR parked_at >= %(since)s)
                AND (%(until)s::timestamptz IS NULL OR parked_at < %(until)s)
        END
    )
)
SELECT seq, epoch, commit_lsn::text AS commit_lsn, index, hold_topic, hold_key,
    %(named)s AND id IN (SELECT event_id FROM dovetail.command_event AS named WHERE named.command = %(command)s) AS chosen,
    EXISTS (SELECT FROM dovetail.outbox WHERE outbox.id = parked.id) AS kept,
    uuid_send(id) AS id, convert_to(aggregatetype, 'UTF8') AS aggregatetype,
    convert_to(aggregateid, 'UTF8') AS aggregateid, convert_to(type, 'UTF8') AS type, payload, schema_fingerprint,
    convert_to(encoding, 'UTF8') AS encoding, headers, int8send(created_us) AS created_us
FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) - size AS bytes_before
    FROM (
        SELECT seq, coalesce(octet_length(payload), 0) AS size
        FROM dovetail.parked JOIN keys USING (hold_topic, hold_key)
        WHERE relay = %(relay)s AND state = 'parked' AND seq > %(after)s
        ORDER BY seq
        LIMIT %(most)s
    ) AS sized
) AS measured JOIN dovetail.parked USING (seq)
WHERE bytes_before < %(most_bytes)s
ORDER BY seq

-- name: desk_mark
-- The rows that a step lets go, before its Kafka transaction commits; and the next one of each of their keys, without a
-- step: the rows that the command names may all be gone by then, and what is behind them goes with the command still.
WITH gone AS (
    UPDATE dovetail.parked SET command = %(command)s, step = %(step)s, discard = seq = ANY(%(discarded)s)
    WHERE seq = ANY(%(rows)s)
    RETURNING seq, hold_topic, hold_key
), last AS (
    SELECT hold_topic, hold_key, max(seq) AS seq FROM gone GROUP BY hold_topic, hold_key
)
UPDATE dovetail.parked SET command = %(command)s, step = NULL, discard = false
FROM last CROSS JOIN LATERAL (
    SELECT behind.seq
    FROM dovetail.parked AS behind
    WHERE behind.relay = %(relay)s AND behind.state = 'parked' AND behind.hold_topic = last.hold_topic
        AND behind.hold_key = last.hold_key AND behind.seq > last.seq
    ORDER BY behind.seq
    LIMIT 1
) AS next
WHERE parked.seq = next.seq

-- name: desk_unmark
-- Steps that never committed: their rows wait as before, in the queues that their command has begun. Where a recovery is
-- still to read the topics, the checkpoint may have been lost, and recovery_doubt settles it by them.
UPDATE dovetail.parked SET step = NULL, discard = false
WHERE relay = %(relay)s AND state = 'parked' AND step IS NOT NULL
    AND NOT (command = %(command)s AND step <= %(step)s)
    AND NOT (
        %(backfill)s AND EXISTS (SELECT FROM dovetail.relay WHERE name = %(relay)s AND recovery_horizon IS NOT NULL)
    )

-- name: desk_let_go
-- A step was committed: what it published is no longer parked, and what it discarded is kept as that.
WITH discarded AS (
    UPDATE dovetail.parked SET state = 'discarded', reason = 'discarded', message = 'discarded by an operator'
    WHERE relay = %(relay)s AND state = 'parked' AND command = %(command)s AND step <= %(step)s AND discard
)
DELETE FROM dovetail.parked
WHERE relay = %(relay)s AND state = 'parked' AND command = %(command)s AND step <= %(step)s AND NOT discard

-- name: desk_still_held
-- Which of these keys are held still.
SELECT DISTINCT hold_topic, hold_key
FROM dovetail.parked
JOIN unnest(%(topics)s::text[], %(keys)s::bytea[]) AS wanted (topic, key) ON (topic, key) = (hold_topic, hold_key)
WHERE relay = %(relay)s AND state = 'parked'

-- name: desk_still_stuck
-- Why a row could not go out this time. How large one was that was never taken in is known from when it came by only.
UPDATE dovetail.parked SET reason = %(reason)s,
    message = CASE WHEN reason = 'too_large' AND %(reason)s = 'too_large' THEN message ELSE %(message)s END
WHERE seq = %(seq)s
RETURNING id::text AS id

-- name: desk_condemn
-- Rows before which the relay stands, and that it is to pass over.
UPDATE dovetail.parked SET state = 'condemned', command = %(command)s
WHERE relay = %(relay)s AND state = 'halting'
    AND id IN (SELECT event_id FROM dovetail.command_event AS named WHERE named.command = %(command)s)

-- name: desk_absent
-- How many events a discard names, and how many of them the parking does not know: they have gone out, or were parked by
-- a batch that never committed and are on their way to be parked again.
SELECT count(*) AS named, count(*) FILTER (
        WHERE NOT EXISTS (SELECT FROM dovetail.parked WHERE parked.relay = %(relay)s AND parked.id = named.event_id)
    ) AS absent
FROM dovetail.command_event AS named
WHERE named.command = %(command)s

-- name: desk_condemned
-- How many rows of a command the relay has not passed over yet, and how many it has.
SELECT count(*) FILTER (WHERE state = 'condemned') AS ahead,
    count(*) FILTER (WHERE state = 'discarded' AND step IS NULL) AS passed
FROM dovetail.parked WHERE relay = %(relay)s AND command = %(command)s

-- name: desk_standing
-- Rows that a release names and before which the relay stands: it tries them again by itself, and no release can.
SELECT id::text AS id
FROM dovetail.parked
WHERE relay = %(relay)s AND state = 'halting' AND seq <= %(upto)s
    AND (%(id)s::uuid IS NULL OR id = %(id)s)
    AND (%(key)s::text IS NULL OR aggregateid = %(key)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(class)s::text IS NULL OR reason = %(class)s)
    AND (%(since)s::timestamptz IS NULL OR parked_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR parked_at < %(until)s)
ORDER BY seq

-- name: desk_replayed
-- Events that a command names, from `after` on, with their rows as the stream would have sent them. A row that is gone
-- from the ring, or that is parked, has no id. Their payloads are measured first, which reads none of them.
WITH measured AS (
    SELECT n, event_id, bucket, sum(size) OVER (ORDER BY n) - size AS bytes_before
    FROM (
        SELECT n, event_id, event.bucket, coalesce(octet_length(payload), 0) AS size
        FROM dovetail.command_event AS event
        LEFT JOIN dovetail.outbox ON outbox.id = event_id AND outbox.bucket = event.bucket
        WHERE command = %(command)s AND n >= %(after)s
        ORDER BY n
        LIMIT %(most)s
    ) AS sized
)
SELECT event.n, outbox.seq, uuid_send(outbox.id) AS id, convert_to(outbox.aggregatetype, 'UTF8') AS aggregatetype,
    convert_to(outbox.aggregateid, 'UTF8') AS aggregateid, convert_to(outbox.type, 'UTF8') AS type, outbox.payload,
    outbox.schema_fingerprint, convert_to(outbox.encoding, 'UTF8') AS encoding, jsonb_send(outbox.headers) AS headers,
    timestamptz_send(outbox.created_at) AS created_us
FROM measured AS event
LEFT JOIN dovetail.outbox ON outbox.id = event.event_id AND outbox.bucket = event.bucket
    AND NOT EXISTS (
        SELECT FROM dovetail.parked
        WHERE parked.id = outbox.id AND parked.relay = %(relay)s AND state IN ('parked', 'halting', 'condemned')
    )
WHERE event.bytes_before < %(most_bytes)s
ORDER BY event.n

-- name: desk_wanted
-- A command that an operator paused or let run again; the leader says so.
UPDATE dovetail.command SET state = %(state)s WHERE id = %(id)s AND state IN ('pending', 'running', 'paused')

-- name: desk_spare
-- Rows that a withdrawn command would have had the relay pass over: it stands before them again.
UPDATE dovetail.parked SET state = 'halting', command = NULL
WHERE relay = %(relay)s AND command = %(command)s AND state = 'condemned'
