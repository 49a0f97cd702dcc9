-- name: outbox_insert
-- Write one event; ids come from the client, because the application's role may insert here and not read.
INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, headers)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: outbox_insert_many
-- Write many events in their order with one prepared statement, whatever their number.
INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, headers)
SELECT id, aggregatetype, aggregateid, type, payload, schema_fingerprint, headers::jsonb
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::text[])
    AS event (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, headers);

-- name: outbox_emit
-- Write one event into the WAL alone, as part of the transaction. The empty message behind it keeps its order: logical
-- decoding knows a message by where its record ends and a row by where it begins, so a row that follows at once in
-- another subtransaction would tie with it, and come first.
SELECT pg_catalog.pg_logical_emit_message(true, 'dovetail', $1::bytea),
    pg_catalog.pg_logical_emit_message(true, 'dovetail.pad', '');

-- name: outbox_emit_many
-- Write many events into the WAL alone, in their order, and what `outbox_emit` writes behind one.
SELECT sent.events, pg_catalog.pg_logical_emit_message(true, 'dovetail.pad', '')
FROM (
    SELECT count(pg_catalog.pg_logical_emit_message(true, 'dovetail', content)) AS events
    FROM unnest($1::bytea[]) AS event (content)
) AS sent;

-- name: outbox_messages_read
-- Whether a relay of this database reads messages: it wrote so once it did, with [outbox] messages = true.
SELECT coalesce(bool_or(messages), false) AS read
FROM dovetail.relay;
