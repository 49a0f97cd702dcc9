-- Dovetail 0003: stuck messages, the operator's commands, the audit log, recovery and the housekeeping of the ring.

-- Stuck messages, and the events of the same key that wait behind them. The relay writes a row before the Kafka
-- transaction that passes over it commits, with its position: a row beyond the checkpoint belongs to a batch that never
-- committed and is dropped by the next leader. The queue of a key is its rows in the order of `seq`.
CREATE TABLE dovetail.parked (
    seq                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relay              text NOT NULL,
    epoch              integer NOT NULL,
    commit_lsn         pg_lsn NOT NULL,
    index              bigint NOT NULL,
    -- What is held: events of one key in one topic. An event that has no topic is held under '?' and its aggregate type.
    hold_topic         text NOT NULL,
    hold_key           bytea NOT NULL,
    -- 'behind' for an event that is well and waits for the one before it.
    reason             text NOT NULL,
    message            text NOT NULL,
    -- halting: its policy halts the relay, which stands before it. condemned: an operator said to discard it there.
    state              text NOT NULL CHECK (state IN ('parked', 'halting', 'condemned', 'discarded', 'dead_lettered')),
    id                 uuid NOT NULL,
    aggregatetype      text NOT NULL,
    aggregateid        text NOT NULL,
    type               text NOT NULL,
    payload            bytea,
    schema_fingerprint bytea,
    encoding           text NOT NULL,
    -- As the stream carries them: jsonb would refuse what a logical message may hold, and the relay could not go on.
    headers            bytea NOT NULL,
    -- timestamptz as the stream carries it: µs since 2000-01-01. As a number it also holds what is no date.
    created_us         bigint NOT NULL,
    parked_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Before this position of the log nothing of the row was there: a checkpoint that knows of it lies behind.
    written_lsn        pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
    -- The step of a command that lets it go; it has gone once the checkpoint says that this step was committed.
    command            bigint,
    step               bigint,
    -- Whether that step discards it instead of publishing it.
    discard            boolean NOT NULL DEFAULT false,
    UNIQUE (relay, epoch, commit_lsn, index)
);
CREATE INDEX parked_queue ON dovetail.parked (relay, hold_topic, hold_key, seq) WHERE state = 'parked';
CREATE INDEX parked_standing ON dovetail.parked (relay) WHERE state IN ('halting', 'condemned');
CREATE INDEX parked_event ON dovetail.parked (id);

-- What an operator wants of a relay. Rows and not messages in the log: anyone who may connect could forge those, they
-- would wait behind the very record that they are to free, and they would be lost with the slot.
CREATE TABLE dovetail.command (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relay      text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('release', 'discard', 'replay', 'recover', 'accept')),
    arguments  jsonb NOT NULL DEFAULT '{}',
    reason     text CHECK (octet_length(reason) BETWEEN 1 AND 1000),
    actor      text NOT NULL DEFAULT session_user,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- What the operator wants of it, and what has become of it: the operator writes the first, the relay the second.
    wanted     text NOT NULL DEFAULT 'run' CHECK (wanted IN ('run', 'pause', 'withdraw')),
    state      text NOT NULL DEFAULT 'pending'
               CHECK (state IN ('pending', 'running', 'paused', 'done', 'failed', 'withdrawn')),
    progress   jsonb NOT NULL DEFAULT '{}',
    outcome    text,
    settled_at timestamptz
);
-- One operator at a time; a relay that is halted must still be told to recover, and one that recovers may halt once
-- more, for what only `accept` cures.
CREATE UNIQUE INDEX command_one_at_a_time
    ON dovetail.command (relay, (CASE WHEN kind IN ('recover', 'accept') THEN kind ELSE 'desk' END))
    WHERE state IN ('pending', 'running', 'paused');

-- The events that a command names, in its order; their content is never the operator's to give.
CREATE TABLE dovetail.command_event (
    command  bigint NOT NULL REFERENCES dovetail.command,
    n        bigint NOT NULL CHECK (n >= 0),
    event_id uuid NOT NULL,
    bucket   smallint NOT NULL,
    PRIMARY KEY (command, n)
);

-- The actor is who is logged in, whatever the row says; and the relay is woken.
CREATE FUNCTION dovetail.command_written() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.actor := session_user;
        NEW.created_at := clock_timestamp();
        NEW.wanted := 'run';
        NEW.state := 'pending';
        NEW.progress := '{}';
        NEW.outcome := NULL;
        NEW.settled_at := NULL;
    ELSIF NEW.wanted = 'withdraw' AND OLD.state = 'pending' THEN
        -- Here and now: there may be no relay that could.
        NEW.state := 'withdrawn';
        NEW.outcome := 'withdrawn by ' || session_user;
        NEW.settled_at := clock_timestamp();
    END IF;
    PERFORM pg_notify('dovetail_command', '');
    RETURN NEW;
END
$$;
CREATE TRIGGER command_written BEFORE INSERT OR UPDATE OF wanted ON dovetail.command
    FOR EACH ROW EXECUTE FUNCTION dovetail.command_written();

-- What operators did: each entry carries the hash of the one before it. Whoever owns the database can compute the chain
-- anew, so its head also travels in the relay's checkpoint, in Kafka.
CREATE TABLE dovetail.audit_log (
    seq       bigint PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,
    action    text NOT NULL CHECK (octet_length(action) BETWEEN 1 AND 100),
    target    text NOT NULL,
    reason    text,
    before    jsonb,
    after     jsonb,
    prev_hash bytea NOT NULL,
    hash      bytea NOT NULL CHECK (octet_length(hash) = 32)
);

-- The bytes that are hashed: each field with its length in UTF-8 before it, so that none can pass for a part of its
-- neighbour.
CREATE FUNCTION dovetail.audit_bytes(entry dovetail.audit_log) RETURNS bytea
LANGUAGE sql IMMUTABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT convert_to(
        string_agg(coalesce(octet_length(convert_to(field, 'UTF8'))::text || ':' || field, '-'), ',' ORDER BY n), 'UTF8'
    )
    FROM unnest(ARRAY[
        entry.seq::text, (extract(epoch FROM entry.at) * 1000000)::bigint::text, entry.actor, entry.action,
        entry.target, entry.reason, entry.before::text, entry.after::text, encode(entry.prev_hash, 'hex')
    ]) WITH ORDINALITY AS fields (field, n)
$$;

-- Everything but action, target, reason, before and after is set here, whatever the row says.
CREATE FUNCTION dovetail.audit_chained() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last dovetail.audit_log;
BEGIN
    -- One writer at a time, until its transaction ends: the chain has no forks.
    PERFORM pg_advisory_xact_lock(hashtextextended('dovetail.audit_log', 0));
    SELECT * INTO last FROM dovetail.audit_log ORDER BY seq DESC LIMIT 1;
    NEW.seq := coalesce(last.seq, 0) + 1;
    NEW.at := clock_timestamp();
    NEW.actor := session_user;
    NEW.prev_hash := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    NEW.hash := sha256(dovetail.audit_bytes(NEW));
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION dovetail.audit_chained() FROM PUBLIC;
CREATE TRIGGER audit_chained BEFORE INSERT ON dovetail.audit_log
    FOR EACH ROW EXECUTE FUNCTION dovetail.audit_chained();

CREATE FUNCTION dovetail.audit_kept() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'dovetail.audit_log: entries are never changed'
        USING ERRCODE = 'insufficient_privilege', HINT = 'Write a new entry that corrects the old one.';
END
$$;
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON dovetail.audit_log
    FOR EACH ROW EXECUTE FUNCTION dovetail.audit_kept();
CREATE TRIGGER audit_not_emptied BEFORE TRUNCATE ON dovetail.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION dovetail.audit_kept();

-- A row that ends the relay's process is found by counting: how often a leader began at one place and came nowhere, and
-- which row it was about to take in when it looked at them one by one.
ALTER TABLE dovetail.relay
    ADD COLUMN starts            integer NOT NULL DEFAULT 0,
    ADD COLUMN starts_at         text,
    ADD COLUMN suspect_lsn       pg_lsn,
    ADD COLUMN suspect_index     bigint,
    ADD COLUMN suspect_starts    integer NOT NULL DEFAULT 0,
    -- How often a process lived until that row was in the Kafka client's hands.
    ADD COLUMN suspect_lived     integer NOT NULL DEFAULT 0,
    -- How many rows are still to be looked at one by one.
    ADD COLUMN suspect_left      bigint,
    -- A recovery that has begun: from which transaction on rows may be missing, and the command that asked for it.
    ADD COLUMN recovery_horizon  bigint,
    ADD COLUMN recovery_command  bigint,
    -- The oldest difference between the outbox and the books that is known; null where they agree. Only told, never
    -- computed with: the next leader says it from its first look on.
    ADD COLUMN books_difference  jsonb;

-- The newest day, since 1970, whose rows stand in a leaf of the ring.
CREATE FUNCTION dovetail.day_of(bucket smallint) RETURNS bigint
LANGUAGE sql STABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT today - (today % 9 - bucket + 9) % 9
    FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint / 86400 AS today) AS clock
$$;
REVOKE ALL ON FUNCTION dovetail.day_of(smallint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dovetail.day_of(smallint) TO dovetail_relay, dovetail_operator;

-- What a recovery has read back from the topics. Not logged: it is read again after a crash.
CREATE UNLOGGED TABLE dovetail.recovery_seen (
    relay    text NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (relay, event_id)
);

-- Keys of compacted topics of which a recovery publishes a row, with the first such row: what is behind it in the key goes
-- out again too, or the older event would be the newest, and the only one that stays. Kept until the recovery is over,
-- for what it has published already is in the topics when it is begun again.
CREATE TABLE dovetail.recovery_key (
    relay         text NOT NULL,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    seq           bigint NOT NULL,
    PRIMARY KEY (relay, aggregatetype, aggregateid)
);

-- Rows of transactions from a horizon on that were committed before a snapshot, and that are neither in the topics, dead
-- letters included, as far as they were read back, nor answered for by the parking. A row's own xid tells when it was
-- written, unless it was copied from another cluster, whose ids mean nothing here: then the tuple's does, which is never
-- newer in a row of our own.
CREATE FUNCTION dovetail.unpublished(relay text, horizon bigint, snapshot pg_snapshot) RETURNS SETOF dovetail.outbox
LANGUAGE sql STABLE SECURITY INVOKER
AS $$
    SELECT event.*
    FROM dovetail.outbox AS event
    WHERE event.xid >= unpublished.horizon::text::xid8
        AND (
            pg_visible_in_snapshot(event.xid, unpublished.snapshot)
            -- 32 bits in a circle: older than every transaction that the snapshot saw running.
            OR (pg_snapshot_xmin(unpublished.snapshot)::text::bigint - event.xmin::text::bigint & 4294967295)
                BETWEEN 1 AND 2147483647
        )
        AND NOT EXISTS (
            SELECT FROM dovetail.recovery_seen AS seen
            WHERE seen.relay = unpublished.relay AND seen.event_id = event.id
        )
        AND NOT EXISTS (
            SELECT FROM dovetail.parked
            -- IS TRUE: not by the index of the relay's rows, which seems good until the table is analysed.
            WHERE (parked.relay = unpublished.relay) IS TRUE AND parked.id = event.id
                AND parked.state IN ('parked', 'discarded')
        )
$$;
REVOKE ALL ON FUNCTION dovetail.unpublished(text, bigint, pg_snapshot) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dovetail.unpublished(text, bigint, pg_snapshot) TO dovetail_relay;

-- For the books and the recovery: finds the rows of an hour without a scan, and costs an insert next to nothing.
CREATE INDEX outbox_created ON dovetail.outbox USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

GRANT SELECT, INSERT, UPDATE, DELETE ON dovetail.parked TO dovetail_relay;
GRANT SELECT, UPDATE (state, progress, outcome, settled_at) ON dovetail.command TO dovetail_relay;
GRANT SELECT ON dovetail.command_event TO dovetail_relay;
GRANT SELECT, INSERT ON dovetail.audit_log TO dovetail_relay, dovetail_operator;
GRANT SELECT, INSERT, DELETE, TRUNCATE ON dovetail.recovery_seen TO dovetail_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON dovetail.recovery_key TO dovetail_relay;
GRANT SELECT ON dovetail.parked, dovetail.command, dovetail.command_event TO dovetail_operator;
GRANT INSERT (relay, kind, arguments, reason), UPDATE (wanted) ON dovetail.command TO dovetail_operator;
GRANT INSERT ON dovetail.command_event TO dovetail_operator;

-- What was settled longer ago than the outbox is kept goes too; the audit log stays.
GRANT DELETE ON dovetail.command, dovetail.command_event TO dovetail_relay;

-- An update is not published, but one that moves a row between leaves streams as a new row: the event would go out twice.
CREATE FUNCTION dovetail.outbox_stays() RETURNS trigger
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'dovetail.outbox: a row stays in its leaf, or its event would be published again'
        USING ERRCODE = 'integrity_constraint_violation', HINT = 'To publish an event again: dovetail replay --id.';
END
$$;
CREATE TRIGGER outbox_stays BEFORE UPDATE OF bucket ON dovetail.outbox
    FOR EACH ROW WHEN (NEW.bucket <> OLD.bucket) EXECUTE FUNCTION dovetail.outbox_stays();

-- The relay empties leaves of the ring, and can do nothing else to their rows.
DO $$
BEGIN
    FOR leaf IN 0..8 LOOP
        EXECUTE format('GRANT TRUNCATE ON dovetail.outbox_%s TO dovetail_relay', leaf);
    END LOOP;
END
$$;
