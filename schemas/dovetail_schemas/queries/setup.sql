-- name: setup_has_schema
-- Whether the first migration has ever run here, for a role that may not be allowed to look into the schema.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'dovetail' AND c.relname = 'migration'
) AS found;

-- name: setup_applied_migrations
-- What was applied, with the checksum it had then.
SELECT version, name, checksum FROM dovetail.migration ORDER BY version;

-- name: setup_record_migration
-- Written in the transaction of the migration itself.
INSERT INTO dovetail.migration (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: setup_try_lock
-- One init at a time; asked again instead of waited for, because a blocked waiter pins xmin.
SELECT pg_catalog.pg_try_advisory_lock(%(key)s::bigint) AS taken;

-- name: setup_unlock
-- The other half of setup_try_lock.
SELECT pg_catalog.pg_advisory_unlock(%(key)s::bigint) AS released;

-- name: setup_session
-- Who we are and on what.
SELECT session_user::text AS role, r.rolsuper, current_database()::text AS database,
       current_setting('server_version_num')::int AS version, pg_catalog.pg_is_in_recovery() AS in_recovery,
       current_setting('wal_level') AS wal_level, current_setting('server_encoding') AS encoding
FROM pg_catalog.pg_roles r WHERE r.rolname = session_user;

-- name: setup_role
-- One login role: its attributes, and whether it is a direct or indirect member of a group role.
SELECT r.rolname::text, r.rolsuper, r.rolreplication, r.rolcanlogin, r.rolinherit,
       (WITH RECURSIVE up AS (
            SELECT m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid
            UNION
            SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN up ON m.member = up.roleid
        ) SELECT count(*) > 0 FROM up JOIN pg_catalog.pg_roles g ON g.oid = up.roleid
          WHERE g.rolname = %(group)s) AS member,
       (WITH RECURSIVE up AS (
            SELECT m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid
            UNION
            SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN up ON m.member = up.roleid
        ) SELECT count(*) > 0 FROM up JOIN pg_catalog.pg_roles g ON g.oid = up.roleid
          WHERE g.rolname = 'rds_replication') AS managed_replication
FROM pg_catalog.pg_roles r WHERE r.rolname = %(login)s;

-- name: setup_columns
-- The columns of one table with their types, in the table's order.
SELECT a.attname::text AS name, a.atttypid::bigint AS type_oid,
       pg_catalog.format_type(a.atttypid, NULL) AS type, c.oid::int AS relation, c.relkind::text AS kind
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: setup_slot
-- One replication slot. A row as JSON, because newer servers have more columns.
SELECT to_jsonb(s) || jsonb_build_object(
           'retained_bytes', CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
                             ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn) END
       ) AS slot
FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %(slot)s;

-- name: setup_relay_row
-- The row of this relay, and of any other one that claims its slot.
SELECT name, slot, system_id, consistent_point::text, snapshot::text, epoch, publication_fingerprint,
       partition_counts, started_at IS NOT NULL AS started
FROM dovetail.relay WHERE name = %(relay)s OR slot = %(slot)s;

-- name: setup_store_relay
-- Written once, by the relay's own role, right after its slot was made.
INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, snapshot, publication_fingerprint, partition_counts)
VALUES (%(relay)s, %(slot)s, %(system_id)s, %(consistent_point)s::pg_lsn, %(snapshot)s::pg_snapshot,
        %(fingerprint)s, %(partitions)s::jsonb);

-- name: setup_add_partitions
-- Topics that came later; what is recorded already stays as it is.
UPDATE dovetail.relay SET partition_counts = %(partitions)s::jsonb || partition_counts WHERE name = %(relay)s;

-- name: setup_snapshot
-- The imported snapshot as text, for the rows that were committed before the slot began.
SELECT pg_catalog.pg_current_snapshot()::text AS snapshot;

-- name: setup_blockers
-- Whom the making of a slot waits for: open transactions and, with pid 0, prepared ones. No query text.
SELECT b.pid, coalesce(a.usename::text, '?') AS role, coalesce(a.application_name, '') AS application,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_seconds
FROM unnest(pg_catalog.pg_blocking_pids(%(pid)s)) AS b (pid)
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid;

-- name: setup_prepared
-- Prepared transactions of the whole cluster: one of them left open holds back WAL, vacuum and the making of slots.
SELECT gid, owner::text, database::text,
       extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::float8 AS age_seconds
FROM pg_catalog.pg_prepared_xacts ORDER BY prepared;

-- name: setup_old_transactions
-- Sessions whose snapshot or transaction id is old: they hold back vacuum and the horizon.
SELECT pid, coalesce(usename::text, '?') AS role, coalesce(application_name, '') AS application,
       coalesce(state, '') AS state,
       extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::float8 AS age_seconds
FROM pg_catalog.pg_stat_activity
WHERE xact_start < pg_catalog.clock_timestamp() - make_interval(secs => %(seconds)s)
  AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 5;

-- name: setup_settings
-- Server settings by name; those that this server does not have are left out.
SELECT name, setting, unit FROM pg_catalog.pg_settings WHERE name = ANY(%(names)s);

-- name: setup_slots_in_use
-- How many slots and walsenders are taken.
SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS slots,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walsender') AS walsenders;

-- name: setup_rights
-- Which of the wanted rights the current role lacks on one relation; no row when the relation does not exist. INSERT
-- may be a right on some columns only: a service sets no xid of its own.
SELECT has_schema_privilege(n.oid, 'USAGE') AS can_use_schema,
       ARRAY(SELECT wanted FROM unnest(%(rights)s::text[]) AS wanted
             WHERE NOT CASE wanted WHEN 'INSERT' THEN has_any_column_privilege(c.oid, wanted)
                                   ELSE has_table_privilege(c.oid, wanted) END) AS lacking
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s;

-- name: setup_clock
-- The server's time, now.
SELECT pg_catalog.clock_timestamp() AS now;

-- name: setup_physical_slots
-- Slots of standbys: those that could be promoted.
SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1;

-- name: setup_tls
-- Whether this session is encrypted.
SELECT ssl, version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid();

-- name: setup_messages
-- Whether the writers were told that messages are read. By way of JSON, because an older database has no such column.
SELECT coalesce((to_jsonb(relay) ->> 'messages')::boolean, false) AS messages
FROM dovetail.relay AS relay WHERE name = %(relay)s;

-- name: setup_store_messages
-- Tell the writers whether this relay reads messages.
UPDATE dovetail.relay SET messages = %(messages)s WHERE name = %(relay)s;

-- name: setup_updates
-- How many rows of the outbox, its leaves included, were updated since the statistics began. No update is published.
SELECT coalesce(sum(stat.n_tup_upd), 0)::bigint AS updated
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stat_all_tables stat
    ON stat.relid = c.oid OR stat.relid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))
WHERE n.nspname = %(schema)s AND c.relname = %(table)s;

-- name: setup_partitioned
-- By what a table is partitioned; no row where it is not. An UPDATE that moves a row to another partition is decoded as
-- a DELETE and an INSERT, and the INSERT is published.
SELECT pg_catalog.pg_get_partkeydef(c.oid) AS by
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind = 'p';

-- name: setup_forgers
-- Roles that may set what only the database should of the outbox and its leaves. The owner may anyway.
WITH found AS (
    SELECT c.relowner, granted.grantee
    FROM pg_catalog.pg_partition_tree(to_regclass('dovetail.outbox')) AS tree
    JOIN pg_catalog.pg_class AS c ON c.oid = tree.relid
    CROSS JOIN pg_catalog.aclexplode(c.relacl) AS granted
    WHERE granted.privilege_type = 'INSERT'
    UNION
    SELECT c.relowner, granted.grantee
    FROM pg_catalog.pg_partition_tree(to_regclass('dovetail.outbox')) AS tree
    JOIN pg_catalog.pg_class AS c ON c.oid = tree.relid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname IN ('xid', 'seq', 'bucket')
    CROSS JOIN pg_catalog.aclexplode(a.attacl) AS granted
    WHERE granted.privilege_type = 'INSERT'
)
SELECT DISTINCT CASE found.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(found.grantee)::text END AS name
FROM found WHERE found.grantee <> found.relowner
ORDER BY name;

-- name: setup_publishing
-- Which columns of the outbox services may set and cannot yet. Not xid, seq and bucket: by them a recovery knows what
-- the slot has not seen, a replay its order, and the ring its day.
SELECT array_agg(a.attname::text ORDER BY a.attnum) AS lacking
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = 'dovetail.outbox'::regclass AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attname NOT IN ('xid', 'seq', 'bucket')
    AND NOT has_column_privilege('dovetail_app', a.attrelid, a.attnum, 'INSERT');

-- name: setup_unread
-- Dovetail's own outbox where this relay reads another table: whether services may publish into it, whether it holds
-- anything, and whether another relay reads it. Only such a one has a snapshot of what was there before its slot.
SELECT has_any_column_privilege('dovetail_app', 'dovetail.outbox', 'INSERT') AS may_publish,
       EXISTS (SELECT FROM dovetail.outbox) AS holds_rows,
       EXISTS (SELECT FROM dovetail.relay WHERE snapshot IS NOT NULL) AS read;
