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
