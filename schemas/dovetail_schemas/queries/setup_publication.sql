-- name: setup_publication
-- The shape of one publication: one row per table, or one row with a null table when it has none.
-- `identity` names the catalogue's rows that it is made of. Dropped and made again, or with a table taken out and put
-- back, it looks as before and is another: what was written in between does not stream.
SELECT concat_ws(' ', p.oid, (
           SELECT string_agg(member.oid::text, ' ' ORDER BY member.oid)
           FROM pg_catalog.pg_publication_rel AS member WHERE member.prpubid = p.oid
       )) AS identity,
       p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, p.puballtables,
       t.schemaname::text, t.tablename::text, t.attnames::text[] AS columns, t.rowfilter
FROM pg_catalog.pg_publication p
LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
WHERE p.pubname = %(publication)s;
