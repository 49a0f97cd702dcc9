-- name: registry_all_versions
-- Every version of every subject. Read before the schemas: a version's schema exists for as long as the version does.
SELECT subject, version, fingerprint
FROM dovetail.event_schema_version
ORDER BY subject, version;

-- name: registry_all_schemas
-- Every schema, for a registry that knows none yet.
SELECT fingerprint, schema_id, definition
FROM dovetail.event_schema;

-- name: registry_new_schemas
-- The schemas that a registry does not know yet, given the fingerprints that it knows. Not by created_at: a schema
-- whose transaction was long commits behind the ones that came after it.
SELECT fingerprint, schema_id, definition
FROM dovetail.event_schema
WHERE fingerprint <> ALL ($1::bytea[]);
