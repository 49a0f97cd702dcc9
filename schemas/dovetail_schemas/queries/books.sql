-- name: books_mark
-- The database at one moment: what the snapshot sees is committed at or below the position, which is read after it. And
-- the clock, in steps of ten seconds since 1970.
SELECT pg_current_snapshot()::text AS snapshot, pg_current_wal_insert_lsn()::text AS lsn,
    floor(extract(epoch FROM clock_timestamp()) / 10)::bigint AS at

-- name: books_sums
-- Events created in some time, ten seconds each, by aggregate type: how many, and the XOR of their ids, without those
-- that the relay passed over: by their time too, for an id may come again on another day. Settled is what the snapshot
-- sees. In three leaves: of the day, and its neighbours. IS TRUE keeps the planner away from the index by relay, which
-- seems as good as the one by id until the table is analysed, and took minutes beside a million parked rows.
SELECT floor(extract(epoch FROM created_at) / 10)::bigint AS at, aggregatetype,
    pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot) AS settled, count(*) AS events,
    bit_xor(('x' || replace(id::text, '-', ''))::bit(128))::text AS ids
FROM dovetail.outbox
WHERE created_at >= to_timestamp(%(start)s) AND created_at < to_timestamp(%(end)s)
    AND bucket = ANY(%(leaves)s::smallint[])
    AND NOT EXISTS (
        SELECT FROM dovetail.parked
        WHERE parked.id = outbox.id AND (parked.relay = %(relay)s) IS TRUE
            AND parked.created_us = (extract(epoch FROM created_at) * 1000000)::bigint - 946684800000000
            AND parked.state IN ('parked', 'discarded', 'dead_lettered')
    )
GROUP BY 1, 2, 3

-- name: books_known
-- The difference that the leader before has found.
SELECT books_difference FROM dovetail.relay WHERE name = %(relay)s AND books_difference IS NOT NULL

-- name: books_remember
-- The oldest difference that is known now; null where books and outbox agree.
UPDATE dovetail.relay SET books_difference = %(difference)s::jsonb WHERE name = %(relay)s
