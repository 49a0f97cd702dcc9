-- Dovetail 0001: roles, the outbox ring, schemas, inbox and the relay's own row.
-- Any client can apply this file; it is one transaction and safe to repeat only through `dovetail init`.

-- Three group roles without login. A login role becomes one by `GRANT dovetail_app TO shop`. The relay's login role
-- also needs the REPLICATION attribute, which is never inherited through membership.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['dovetail_app', 'dovetail_relay', 'dovetail_operator'] LOOP
        -- Where an administrator has made them, the owner needs no CREATEROLE.
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = wanted);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION
            -- Roles belong to the cluster: another database, or a neighbour racing us, may have made it.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;

CREATE SCHEMA dovetail;
GRANT USAGE ON SCHEMA dovetail TO dovetail_app, dovetail_relay, dovetail_operator;

CREATE TABLE dovetail.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Events waiting in the WAL; the rows stay for replay and recovery. Debezium's five columns come first, unchanged.
-- A fixed ring of nine day-leaves (seven days kept, today, and the next one ready): a leaf is emptied by TRUNCATE,
-- which a writer in another leaf does not block, and no insert ever finds its partition missing.
CREATE TABLE dovetail.outbox (
    id                 uuid NOT NULL,
    aggregatetype      text NOT NULL CHECK (octet_length(aggregatetype) BETWEEN 1 AND 200),
    aggregateid        text NOT NULL CHECK (octet_length(aggregateid) BETWEEN 1 AND 1024),
    type               text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 255),
    payload            bytea NOT NULL,
    schema_fingerprint bytea CHECK (octet_length(schema_fingerprint) = 16),
    encoding           text NOT NULL DEFAULT 'avro' CHECK (encoding IN ('avro', 'json')),
    headers            jsonb NOT NULL DEFAULT '{}',
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid                xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq                bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    bucket             smallint NOT NULL DEFAULT (floor(date_part('epoch', now()))::bigint / 86400 % 9)::smallint,
    PRIMARY KEY (id, bucket)
) PARTITION BY LIST (bucket);

-- The consumer's dedup rows: the same ring, by the day in the event's own `time` header, never by arrival.
CREATE TABLE dovetail.inbox (
    consumer    text NOT NULL CHECK (octet_length(consumer) BETWEEN 1 AND 200),
    event_id    uuid NOT NULL,
    event_day   smallint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, event_id, event_day)
) PARTITION BY LIST (event_day);

DO $$
BEGIN
    FOR leaf IN 0..8 LOOP
        EXECUTE format('CREATE TABLE dovetail.outbox_%s PARTITION OF dovetail.outbox FOR VALUES IN (%s)', leaf, leaf);
        EXECUTE format('CREATE TABLE dovetail.inbox_%s PARTITION OF dovetail.inbox FOR VALUES IN (%s)', leaf, leaf);
    END LOOP;
END
$$;

-- Avro schemas, pinned at write. The fingerprint is the first 16 bytes of the SHA-256 of the normalised schema;
-- schema_id is 31 bits of it, so that two databases never hand out one id for two schemas. Both are made sure of: any
-- service may insert here, and a wrong definition under another schema's fingerprint would change what its events say.
CREATE TABLE dovetail.event_schema (
    fingerprint bytea PRIMARY KEY,
    schema_id   integer NOT NULL UNIQUE,
    definition  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_schema_fingerprint
        CHECK (fingerprint = substring(sha256(convert_to(definition, 'UTF8')) FROM 1 FOR 16)),
    CONSTRAINT event_schema_id CHECK (
        schema_id = ((get_byte(fingerprint, 0) & 127) << 24) | (get_byte(fingerprint, 1) << 16)
            | (get_byte(fingerprint, 2) << 8) | get_byte(fingerprint, 3)
    )
);

CREATE TABLE dovetail.event_schema_version (
    subject     text NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 255),
    version     integer NOT NULL CHECK (version > 0),
    fingerprint bytea NOT NULL REFERENCES dovetail.event_schema,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (subject, version),
    UNIQUE (subject, fingerprint)
);

-- One row per relay: where its slot began, and what it found when it last checked its surroundings.
CREATE TABLE dovetail.relay (
    name                    text PRIMARY KEY,
    slot                    text NOT NULL,
    system_id               text NOT NULL,
    consistent_point        pg_lsn NOT NULL,
    snapshot                pg_snapshot,
    epoch                   integer NOT NULL DEFAULT 1 CHECK (epoch > 0),
    publication_fingerprint text NOT NULL,
    partition_counts        jsonb NOT NULL DEFAULT '{}',
    started_at              timestamptz,
    created_at              timestamptz NOT NULL DEFAULT now()
);

-- The right to insert into the outbox comes from `dovetail init`, with the relay that reads it: where the only relay
-- reads another table, an event in this one would go nowhere.
GRANT SELECT, INSERT ON dovetail.event_schema, dovetail.event_schema_version, dovetail.inbox TO dovetail_app;
GRANT SELECT ON ALL TABLES IN SCHEMA dovetail TO dovetail_relay, dovetail_operator;
GRANT INSERT, UPDATE ON dovetail.relay TO dovetail_relay;

-- Only inserts, under the root's name, and only what the relay reads: the bookkeeping columns stay out of the stream.
CREATE PUBLICATION dovetail FOR TABLE dovetail.outbox
    (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers, created_at)
    WITH (publish = 'insert', publish_via_partition_root = true);
