-- name: reconcile_guard
-- Whoever compares must not disturb: nothing is written, each statement reads an hour at most, and none waits long.
SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', '10min', false),
    set_config('lock_timeout', '10s', false)

-- name: reconcile_now
-- The database's clock, by which events are created, in seconds since 1970.
SELECT extract(epoch FROM clock_timestamp())::float8 AS now

-- name: reconcile_sums
-- How many rows were created in each minute, and the XOR of their ids, by aggregate type. Settled are those of which the
-- checkpoint says that they were published; of the others it says nothing.
SELECT floor(extract(epoch FROM created_at) / 60)::bigint AS minute, aggregatetype,
    xid < %(horizon)s::text::xid8 AS settled, count(*) AS events,
    bit_xor(('x' || replace(id::text, '-', ''))::bit(128))::text AS ids
FROM dovetail.outbox
WHERE created_at >= to_timestamp(%(start)s) AND created_at < to_timestamp(%(end)s)
GROUP BY 1, 2, 3

-- name: reconcile_parked_sums
-- The same of the rows that the relay passed over: they are held, or an operator has settled them.
SELECT floor((parked.created_us / 1000000 + 946684800) / 60.0)::bigint AS minute, parked.aggregatetype, parked.state,
    count(*) AS events, bit_xor(('x' || replace(parked.id::text, '-', ''))::bit(128))::text AS ids
FROM dovetail.parked
WHERE parked.relay = %(relay)s
    AND parked.created_us >= (%(start)s::bigint - 946684800) * 1000000
    AND parked.created_us < (%(end)s::bigint - 946684800) * 1000000
    AND EXISTS (SELECT FROM dovetail.outbox AS event WHERE event.id = parked.id)
GROUP BY 1, 2, 3

-- name: reconcile_parked
-- Who they are, in the order in which they were passed over.
SELECT id, aggregatetype, type, state, to_timestamp(created_us / 1000000.0 + 946684800) AS created_at
FROM dovetail.parked
WHERE relay = %(relay)s
    AND created_us >= (%(start)s::bigint - 946684800) * 1000000
    AND created_us < (%(end)s::bigint - 946684800) * 1000000
    AND EXISTS (SELECT FROM dovetail.outbox AS event WHERE event.id = parked.id)
ORDER BY seq
LIMIT %(most)s

-- name: reconcile_ids
-- The rows of some minutes by id. For a server-side cursor.
SELECT uuid_send(id) AS id, aggregatetype, xid < %(horizon)s::text::xid8 AS settled
FROM dovetail.outbox
WHERE created_at >= to_timestamp(%(start)s) AND created_at < to_timestamp(%(end)s)

-- name: reconcile_rows
-- What is known of some events, whether they are kept by now or not.
SELECT wanted.id, event.aggregatetype, event.aggregateid, event.type, event.created_at,
    event.id IS NOT NULL AS found, parked.state
FROM unnest(%(ids)s::uuid[]) AS wanted (id)
LEFT JOIN dovetail.outbox AS event ON event.id = wanted.id
LEFT JOIN LATERAL (
    SELECT parked.state FROM dovetail.parked
    WHERE parked.id = wanted.id AND (parked.relay = %(relay)s) IS TRUE
    ORDER BY parked.seq DESC LIMIT 1
) AS parked ON true
