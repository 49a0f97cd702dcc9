-- name: replay_chosen
-- Retained events that an operator names, in the order of their writing. With a snapshot: those that were seen in it.
-- Only ever a part of the statements below.
SELECT id, bucket, seq, aggregatetype, created_at
FROM dovetail.outbox
WHERE (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s::uuid[]))
    AND (%(key)s::text IS NULL OR aggregateid = %(key)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
    AND (%(snapshot)s::pg_snapshot IS NULL OR pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot))
ORDER BY seq
LIMIT %(limit)s::bigint

-- name: replay_count
-- How many there are of each aggregate type, the first and the last, how many an inbox would no longer know, and the
-- snapshot in which the same are found again.
SELECT aggregatetype, count(*) AS events,
    min(lpad(seq::text, 19, '0') || id::text COLLATE "C") AS first,
    max(lpad(seq::text, 19, '0') || id::text COLLATE "C") AS last,
    count(*) FILTER (WHERE created_at < clock_timestamp() - make_interval(days => %(days)s)) AS too_old,
    pg_current_snapshot()::text AS snapshot
FROM ({chosen}) AS chosen
GROUP BY aggregatetype
ORDER BY aggregatetype

-- name: replay_ids
-- Their ids.
SELECT id::text AS id FROM ({chosen}) AS chosen ORDER BY seq

-- name: replay_found
-- Which of some ids are in the outbox at all.
SELECT DISTINCT id FROM dovetail.outbox WHERE id = ANY(%(ids)s::uuid[])

-- name: replay_list
-- What a command names, written by the server itself: it never passes through the operator's process.
INSERT INTO dovetail.command_event (command, n, event_id, bucket)
SELECT %(command)s, row_number() OVER (ORDER BY seq) - 1, id, bucket FROM ({chosen}) AS chosen
