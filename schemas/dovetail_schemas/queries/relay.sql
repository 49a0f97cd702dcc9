-- name: relay_server_facts
-- What the server says of itself and of the slot, in one snapshot.
SELECT
    current_database() AS database,
    pg_is_in_recovery() AS in_recovery,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS wal_lsn,
    slot.slot_name IS NOT NULL AS slot_found,
    slot.plugin,
    slot.database AS slot_database,
    coalesce(slot.wal_status = 'lost', false) AS slot_lost,
    coalesce(slot.temporary, false) AS slot_temporary,
    coalesce(slot.confirmed_flush_lsn, '0/0'::pg_lsn)::text AS confirmed_flush
FROM (SELECT 1) AS one
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = %(slot)s

-- name: relay_row
-- The row that init wrote for this relay.
SELECT name, slot, system_id, consistent_point::text, snapshot::text, epoch, publication_fingerprint,
    started_at IS NOT NULL AS started, partition_counts, recovery_horizon, recovery_command
FROM dovetail.relay
WHERE name = %(relay)s

-- name: relay_outbox_tables
-- The outbox table and its leaves: what its rows may stream as, and the columns that the publication takes of each, in
-- their order. By its number a table is known also where a transaction gave it another name for a while.
SELECT class.oid, namespace.nspname AS schema, class.relname AS name, taken.names, taken.types
FROM pg_class AS root
JOIN pg_namespace AS root_namespace ON root_namespace.oid = root.relnamespace
CROSS JOIN LATERAL (
    -- The tree of a table without partitions is empty.
    SELECT root.oid AS relid UNION SELECT relid::oid FROM pg_partition_tree(root.oid)
) AS tree
JOIN pg_class AS class ON class.oid = tree.relid
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(attribute.attname::text ORDER BY attribute.attnum), '{}') AS names,
        coalesce(array_agg(attribute.atttypid ORDER BY attribute.attnum), '{}') AS types
    FROM pg_attribute AS attribute
    JOIN pg_publication_tables AS published
        ON published.pubname = %(publication)s AND published.schemaname = root_namespace.nspname
        AND published.tablename = root.relname AND attribute.attname = ANY(published.attnames)
    WHERE attribute.attrelid = class.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
) AS taken
WHERE root_namespace.nspname = %(schema)s AND root.relname = %(table)s

-- name: relay_mark_started
-- From here on an empty checkpoint topic means that the checkpoint was lost.
UPDATE dovetail.relay SET started_at = now() WHERE name = %(relay)s AND started_at IS NULL

-- name: relay_try_lock
-- Never waits: a blocked waiter would pin xmin.
SELECT pg_try_advisory_lock(%(key)s::bigint) AS locked

-- name: relay_pulse
-- The leader's sign of life, and in one snapshot the horizon: each transaction below xmin is settled at this position.
SELECT
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
    pg_current_wal_insert_lsn()::text AS insert_lsn,
    slot.active,
    slot.wal_status,
    coalesce(slot.safe_wal_size, -1) AS safe_wal_size,
    coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), slot.restart_lsn), -1)::bigint AS retained_bytes,
    coalesce(slot.confirmed_flush_lsn, '0/0'::pg_lsn)::text AS confirmed_flush
FROM (SELECT 1) AS one
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = %(slot)s

-- name: relay_evict_frozen
-- End the session that holds the lead and has not touched it for longer than the lease, and its walsender.
WITH holder AS (
    SELECT activity.pid
    FROM pg_locks AS lock
    JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
    WHERE lock.locktype = 'advisory'
        AND lock.granted
        AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND lock.classid = (%(key)s::bigint >> 32 & 4294967295)::oid
        AND lock.objid = (%(key)s::bigint & 4294967295)::oid
        AND lock.objsubid = 1
        AND activity.state_change < clock_timestamp() - make_interval(secs => %(lease)s)
)
SELECT pg_terminate_backend(victim.pid) AS terminated, victim.pid
FROM (
    SELECT pid FROM holder
    UNION
    SELECT slot.active_pid
    FROM pg_replication_slots AS slot
    WHERE slot.slot_name = %(slot)s AND slot.active_pid IS NOT NULL AND EXISTS (SELECT FROM holder)
) AS victim

-- name: relay_lead_holder
-- Who holds the lead now, for standbys and for people.
SELECT activity.pid, activity.application_name, activity.client_addr::text AS client_addr,
    extract(epoch FROM clock_timestamp() - activity.state_change)::float8 AS idle_seconds
FROM pg_locks AS lock
JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.locktype = 'advisory'
    AND lock.granted
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND lock.classid = (%(key)s::bigint >> 32 & 4294967295)::oid
    AND lock.objid = (%(key)s::bigint & 4294967295)::oid
    AND lock.objsubid = 1

-- name: relay_free_slot
-- We lead, and a walsender still streams from our slot: it belongs to a zombie.
SELECT pg_terminate_backend(active_pid) AS terminated, active_pid AS pid
FROM pg_replication_slots
WHERE slot_name = %(slot)s AND active_pid IS NOT NULL

-- name: relay_slot_holder
-- Who streams from our slot, for a person who is to end it.
SELECT activity.pid, coalesce(activity.usename, 'nobody') AS role, activity.application_name AS application
FROM pg_replication_slots AS slot
JOIN pg_stat_activity AS activity ON activity.pid = slot.active_pid
WHERE slot.slot_name = %(slot)s

-- name: relay_backfill
-- Rows that were committed before the slot's consistent point and so never stream, in the order of their writing, as
-- the raw bytes that the stream would have sent. In a recovery without those that are in the topics already, or that the
-- parking answers for. For a server-side cursor. A large row comes without what is large.
SELECT seq, size,
    uuid_send(id), convert_to(aggregatetype, 'UTF8'), convert_to(aggregateid, 'UTF8'), convert_to(type, 'UTF8'),
    CASE WHEN size <= %(inline)s THEN payload END,
    schema_fingerprint, convert_to(encoding, 'UTF8'),
    CASE WHEN size <= %(inline)s THEN jsonb_send(headers) END,
    timestamptz_send(created_at)
FROM dovetail.unpublished(%(relay)s, %(horizon)s, %(snapshot)s::pg_snapshot)
CROSS JOIN LATERAL (SELECT octet_length(payload) + octet_length(jsonb_send(headers)) AS size) AS measured
WHERE seq >= %(next_seq)s
ORDER BY seq

-- name: relay_backfill_large
-- What the query before left out of one row.
SELECT payload, jsonb_send(headers)
FROM dovetail.outbox
WHERE id = encode(%(id)s::bytea, 'hex')::uuid AND seq = %(seq)s

-- name: relay_began
-- A new process leads and begins at one place: how often one has in a row, and at which row the last of them ended.
UPDATE dovetail.relay
SET starts = CASE WHEN starts_at = %(at)s THEN starts + 1 ELSE 1 END, starts_at = %(at)s
WHERE name = %(relay)s
RETURNING starts, suspect_lsn::text AS suspect_lsn, suspect_index, suspect_starts, suspect_lived, suspect_left

-- name: relay_suspects
-- The row that is taken in next: if the process ends now, it was this one.
UPDATE dovetail.relay
SET suspect_starts = CASE
        WHEN suspect_lsn = %(lsn)s::pg_lsn AND suspect_index = %(nth)s THEN suspect_starts + 1 ELSE 1
    END,
    suspect_lived = CASE
        WHEN suspect_lsn = %(lsn)s::pg_lsn AND suspect_index = %(nth)s THEN suspect_lived ELSE 0
    END,
    suspect_lsn = %(lsn)s::pg_lsn, suspect_index = %(nth)s, suspect_left = %(left)s
WHERE name = %(relay)s

-- name: relay_lived
-- The suspected row is in the hands of the Kafka client, and the process lives.
UPDATE dovetail.relay
SET suspect_lived = suspect_lived + 1
WHERE name = %(relay)s

-- name: relay_acquitted
-- Nothing ended the process.
UPDATE dovetail.relay
SET starts = 0, starts_at = NULL, suspect_lsn = NULL, suspect_index = NULL, suspect_starts = 0,
    suspect_lived = 0, suspect_left = NULL
WHERE name = %(relay)s AND (starts > 0 OR suspect_lsn IS NOT NULL)

-- name: relay_clock
-- By the clock that events are dated with.
SELECT floor(extract(epoch FROM clock_timestamp()))::bigint AS seconds

-- name: relay_dated_ahead
-- When the newest event is dated that is dated ahead, up to a day; 0 without one. By the BRIN index.
SELECT coalesce(floor(extract(epoch FROM max(created_at)))::bigint, 0) AS seconds
FROM dovetail.outbox
WHERE created_at > clock_timestamp() AND created_at < clock_timestamp() + interval '1 day'

-- name: session_durable
-- What this session commits survives a crash of the server, whatever the default of the role or the database is.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- name: session_impatient
-- A leader that waits for a table lock shows no sign of life, and would be taken for frozen without anyone saying why.
SELECT set_config('lock_timeout', '4s', false)

-- name: relay_table_holder
-- Who holds a table of ours in a way that the relay's statements have to wait for.
SELECT activity.pid, coalesce(activity.usename, 'nobody') AS role, activity.application_name AS application,
    lock.relation::regclass::text AS relation
FROM pg_locks AS lock
JOIN pg_class AS class ON class.oid = lock.relation
JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.granted
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND class.relnamespace = 'dovetail'::regnamespace
    AND lock.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND lock.pid <> pg_backend_pid()
ORDER BY lock.mode = 'AccessExclusiveLock' DESC, activity.xact_start
LIMIT 1
