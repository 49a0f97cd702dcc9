-- name: setup_publication
-- The shape of one publication: one row per table, or one row with a null table when it has none.
SELECT p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
       t.schemaname::text, t.tablename::text, t.attnames::text[] AS columns, t.rowfilter
FROM pg_catalog.pg_publication p
LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
WHERE p.pubname = %(publication)s;
