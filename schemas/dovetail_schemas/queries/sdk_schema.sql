-- name: schema_lasting
-- Whether a schema is registered, and whether for good: a row that this very transaction (or one begun after it got
-- its id) wrote may still be rolled back. Savepoints have ids above their transaction's, so they count as ours too.
SELECT coalesce(age(xmin) > age(pg_current_xact_id_if_assigned()::xid), true) AS lasting
FROM dovetail.event_schema
WHERE fingerprint = $1;

-- name: schema_version_exists
-- Whether a subject already has this schema as one of its versions.
SELECT version
FROM dovetail.event_schema_version
WHERE subject = $1 AND fingerprint = $2;

-- name: schema_insert
-- Store a schema once; a row already there, or another schema with the same id, leaves the table as it is.
INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING;

-- name: schema_version_insert
-- Give a subject its next version; no row when a neighbour took the number or the schema first.
INSERT INTO dovetail.event_schema_version (subject, version, fingerprint)
SELECT $1::text, coalesce(max(version), 0) + 1, $2
FROM dovetail.event_schema_version
WHERE subject = $1
ON CONFLICT DO NOTHING
RETURNING version;

-- name: schema_definition
-- The text of a schema by the id that Kafka values carry.
SELECT definition
FROM dovetail.event_schema
WHERE schema_id = $1;
