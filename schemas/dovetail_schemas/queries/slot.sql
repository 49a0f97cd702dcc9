-- name: slot_drop
-- Gone for good, with the place that it kept; the server refuses while somebody streams from it.
SELECT pg_catalog.pg_drop_replication_slot(%(slot)s)
