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

-- name: setup_unstreamed
-- Tables whose rows are read as rows of these, and which no publication sends: one that is not logged, one of another
-- server, and one that inherits without being a partition and joined after the publication was made. The catalogue
-- shows nothing of it in the publication, and the server sends such rows nowhere without a word.
WITH RECURSIVE tree AS (
    SELECT root.oid, NULL::oid AS parent
    FROM pg_catalog.pg_class AS root
    JOIN pg_catalog.pg_namespace AS space ON space.oid = root.relnamespace
    WHERE (space.nspname, root.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(tables)s::text[]))
    UNION
    SELECT child.inhrelid, child.inhparent
    FROM tree JOIN pg_catalog.pg_inherits AS child ON child.inhparent = tree.oid
)
SELECT space.nspname::text AS schema, leaf.relname::text AS table,
       above.nspname::text AS parent_schema, parent.relname::text AS parent,
       CASE WHEN parent.oid IS NOT NULL AND NOT leaf.relispartition THEN 'inherits'
            WHEN leaf.relkind = 'f' THEN 'foreign'
            ELSE 'unlogged' END AS reason
FROM tree
JOIN pg_catalog.pg_class AS leaf ON leaf.oid = tree.oid
JOIN pg_catalog.pg_namespace AS space ON space.oid = leaf.relnamespace
LEFT JOIN pg_catalog.pg_class AS parent ON parent.oid = tree.parent
LEFT JOIN pg_catalog.pg_namespace AS above ON above.oid = parent.relnamespace
WHERE parent.oid IS NOT NULL AND NOT leaf.relispartition
   OR leaf.relkind = 'f'
   OR leaf.relkind = 'r' AND leaf.relpersistence <> 'p'
ORDER BY 1, 2, 3, 4;
