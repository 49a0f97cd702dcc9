-- name: observe_guard
-- Whoever looks must not disturb: nothing is written, and no statement or wait for a lock lasts.
SELECT set_config('default_transaction_read_only', 'on', false),
    set_config('statement_timeout', %(statement_ms)s::text, false),
    set_config('lock_timeout', '1000', false)

-- name: observe_server
-- Where the server's WAL is, on a standby too.
SELECT current_database() AS database,
    (floor(date_part('epoch', now()))::bigint / 86400)::int AS today,
    pg_is_in_recovery() AS in_recovery,
    -- A standby may not be asked for the name of its WAL file.
    CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    END AS timeline,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS wal_lsn

-- name: observe_awaited_standbys
-- For which physical slots the walsender waits before it sends anything from ours, a failover slot (17 and newer).
SELECT btrim(awaited.name, ' "') AS name, slot.slot_name IS NOT NULL AS exists, coalesce(slot.active, false) AS active
FROM string_to_table(current_setting('synchronized_standby_slots', true), ',') AS awaited (name)
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = btrim(awaited.name, ' "') AND slot.slot_type = 'physical'
WHERE btrim(awaited.name) <> '' AND EXISTS (
    SELECT FROM pg_replication_slots AS ours WHERE ours.slot_name = %(slot)s AND to_jsonb(ours) ->> 'failover' = 'true'
)

-- name: observe_slot
-- The slot as a person asks about it: is it alive, how much WAL does it keep, how much may come before it is lost.
SELECT slot.slot_name,
    slot.active,
    slot.active_pid,
    slot.wal_status,
    slot.safe_wal_size,
    slot.confirmed_flush_lsn::text AS confirmed_flush,
    pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, slot.restart_lsn
    )::bigint AS retained_bytes
FROM pg_replication_slots AS slot
WHERE slot.slot_name = %(slot)s

-- name: observe_lag
-- Rows of one leaf whose transaction is not known to be settled: never fewer than are unpublished, but some may be
-- published by now. Stops counting at a limit. And whether the leaf has any row at all.
SELECT count(*) AS events,
    extract(epoch FROM clock_timestamp() - min(found.created_at))::float8 AS oldest_seconds,
    EXISTS (SELECT FROM {outbox} WHERE bucket = %(bucket)s::smallint) AS used
FROM (
    SELECT created_at
    FROM {outbox}
    WHERE bucket = %(bucket)s::smallint AND xid >= %(horizon)s::text::xid8
    LIMIT %(most)s
) AS found

-- name: observe_event
-- One row of a table of any shape by its id, without its payload. A column that the table lacks is the one of `absent`,
-- by the rules of scope; one that has our name and another type is the user's own, and says nothing.
SELECT found.*
FROM (VALUES (NULL::timestamptz, NULL::smallint, NULL::xid8)) AS absent({created_at}, bucket, xid)
CROSS JOIN LATERAL (
    SELECT {id} AS id, {aggregatetype} AS aggregatetype, {aggregateid} AS aggregateid, {type} AS type,
        CASE pg_typeof({created_at}) WHEN 'timestamptz'::regtype THEN {created_at}::text::timestamptz END AS created_at,
        octet_length({payload}{as_text}) AS payload_bytes,
        CASE pg_typeof(bucket) WHEN 'smallint'::regtype THEN bucket::text END AS bucket,
        CASE pg_typeof(xid) WHEN 'xid8'::regtype THEN xid::text END AS xid
    FROM {outbox}
    WHERE {id} = %(id)s::uuid
) AS found

-- name: observe_event_ours
-- The same from a table of our own shape, where the row has a bucket and a transaction id and need not become JSON.
SELECT id, aggregatetype, aggregateid, type, created_at, octet_length(payload) AS payload_bytes, bucket,
    xid::text AS xid
FROM {outbox}
WHERE id = %(id)s::uuid

-- name: observe_halting
-- The message before which the relay stands.
SELECT id::text AS halting, reason FROM dovetail.parked
WHERE relay = %(relay)s AND state = 'halting'
ORDER BY seq
LIMIT 1

-- name: observe_held
-- What the parking knows of an event: why it waits, what is first in its queue, and who gave it up.
SELECT one.state, one.reason, one.message, one.hold_topic AS topic, one.parked_at,
    octet_length(one.payload) AS payload_bytes, head.id::text AS head, head.reason AS head_reason,
    command.id AS command, command.actor, command.reason AS why
FROM dovetail.parked AS one
LEFT JOIN LATERAL (
    SELECT before.id, before.reason
    FROM dovetail.parked AS before
    WHERE before.relay = one.relay AND before.state = 'parked' AND before.seq < one.seq
        AND (before.hold_topic, before.hold_key) = (one.hold_topic, one.hold_key)
    ORDER BY before.seq
    LIMIT 1
) AS head ON one.state = 'parked'
LEFT JOIN dovetail.command ON command.id = one.command AND one.state IN ('condemned', 'discarded')
WHERE one.relay = %(relay)s AND one.id = %(id)s::uuid
ORDER BY one.seq DESC
LIMIT 1

-- name: observe_commands
-- Operators' commands that are not settled; a paused one keeps others of its class from beginning.
SELECT id, kind, actor, state, created_at FROM dovetail.command
WHERE relay = %(relay)s AND state IN ('pending', 'running', 'paused')
ORDER BY id

-- name: observe_consumed
-- Which consumers have the event in their inbox here. Walks the primary key from consumer to consumer, because nothing
-- is indexed by the event alone.
WITH RECURSIVE known AS (
    (SELECT consumer FROM dovetail.inbox ORDER BY consumer LIMIT 1)
    UNION ALL
    SELECT (SELECT inbox.consumer FROM dovetail.inbox WHERE inbox.consumer > known.consumer ORDER BY 1 LIMIT 1)
    FROM known
    WHERE known.consumer IS NOT NULL
)
SELECT known.consumer, taken.received_at
FROM known
JOIN dovetail.inbox AS taken ON taken.consumer = known.consumer AND taken.event_id = %(id)s::uuid
ORDER BY taken.received_at, known.consumer

-- name: observe_schema
-- The text of a schema by the id that Kafka values carry.
SELECT definition
FROM dovetail.event_schema
WHERE schema_id = %(id)s
