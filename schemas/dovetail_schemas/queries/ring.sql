-- name: ring_guard
-- The housekeeping must never disturb: nothing that it does waits long, or lasts long.
SELECT set_config('statement_timeout', '5s', false), set_config('lock_timeout', '100ms', false),
    set_config('idle_in_transaction_session_timeout', '5s', false)

-- name: ring_leaves
-- What day it is by the database's clock, how far into it we are, and which leaves hold rows.
SELECT floor(date_part('epoch', now()))::bigint / 86400 AS today,
    (date_part('epoch', now())::numeric % 86400)::float8 AS second_of_day,
    ARRAY(
        SELECT leaf.number
        FROM generate_series(0, 8) AS leaf (number)
        WHERE EXISTS (SELECT FROM dovetail.outbox WHERE bucket = leaf.number)
    ) AS used

-- name: ring_lock_closed
-- Granted at once or not at all. While it is held, each transaction that has ever written into the leaf is over.
LOCK TABLE ONLY {leaf} IN SHARE MODE NOWAIT

-- name: ring_close
-- Under that lock: all who wrote so far are below `above`. Other relays must have come to `lsn` too.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS above,
    pg_current_wal_insert_lsn()::text AS lsn,
    pg_relation_size(%(leaf)s::regclass) / current_setting('block_size')::bigint AS pages

-- name: ring_lock_empty
-- Granted at once or not at all: whoever writes into the leaf, or prepared a transaction that did, is waited for later.
LOCK TABLE ONLY {leaf} IN ACCESS EXCLUSIVE MODE NOWAIT

-- name: ring_quickly
-- For the one transaction that locks out others: it ends within a second, and looks only where something can be new.
SELECT set_config('statement_timeout', '1s', true), set_config('enable_seqscan', 'off', true)

-- name: ring_objections
-- What speaks against emptying a leaf, asked without a lock and once more under it, so it must be cheap. `late`: a row
-- that came after the leaf was closed, by the pages that were added since. `young`: a row that belongs to a later day,
-- by the BRIN index; a time further ahead than the ring is long is no time at all. `behind`: another relay of this
-- outbox that has not come as far.
SELECT
    EXISTS (SELECT FROM ONLY {leaf} WHERE ctid >= %(tail)s::text::tid AND xid >= %(above)s::text::xid8) AS late,
    EXISTS (
        SELECT FROM ONLY {leaf}
        WHERE created_at >= to_timestamp(%(young)s) AND created_at < to_timestamp(%(absurd)s)
    ) AS young,
    EXISTS (
        SELECT FROM dovetail.relay AS other
        JOIN pg_replication_slots AS slot ON slot.slot_name = other.slot
        WHERE other.name <> %(relay)s
            AND (other.started_at IS NULL OR slot.confirmed_flush_lsn < %(lsn)s::text::pg_lsn)
    ) AS behind

-- name: ring_empty
-- What decodes from the log is not touched by this, and the publication does not carry it.
TRUNCATE TABLE ONLY {leaf}

-- name: ring_forget_parked
-- Stuck messages that were settled by an operator, once their event's own row is gone. A piece at a time.
DELETE FROM dovetail.parked
WHERE seq = ANY (ARRAY(
    SELECT old.seq
    FROM dovetail.parked AS old
    WHERE old.relay = %(relay)s
        AND old.state IN ('discarded', 'dead_lettered')
        AND old.parked_at < to_timestamp(%(before)s)
        -- The leaf may not have been emptied yet: a recovery would take the event for one that is missing.
        AND NOT EXISTS (SELECT FROM dovetail.outbox AS event WHERE event.id = old.id)
    LIMIT %(most)s
))

-- name: ring_forget_command_events
-- The events that old settled commands named. A piece at a time.
DELETE FROM dovetail.command_event
WHERE ctid = ANY (ARRAY(
    SELECT event.ctid
    FROM dovetail.command AS old
    JOIN dovetail.command_event AS event ON event.command = old.id
    WHERE old.relay = %(relay)s
        AND old.state IN ('done', 'failed', 'withdrawn')
        AND old.settled_at < to_timestamp(%(before)s)
    LIMIT %(most)s
))

-- name: ring_forget_commands
-- Old settled commands; the audit log keeps what was done, for ever.
DELETE FROM dovetail.command AS old
WHERE old.relay = %(relay)s
    AND old.state IN ('done', 'failed', 'withdrawn')
    AND old.settled_at < to_timestamp(%(before)s)
    AND NOT EXISTS (SELECT FROM dovetail.command_event AS event WHERE event.command = old.id)
