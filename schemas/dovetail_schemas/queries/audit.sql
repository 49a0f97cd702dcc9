-- name: audit_list
-- Entries from the newest back. An action is asked for by its full name, or by the command's.
SELECT seq, at, actor, action, target, reason, before, after
FROM dovetail.audit_log
WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s::timestamptz)
    AND (%(action)s::text IS NULL OR %(action)s IN (action, split_part(action, '.', 1)))
    AND (%(actor)s::text IS NULL OR actor = %(actor)s)
ORDER BY seq DESC
LIMIT %(most)s

-- name: audit_chain
-- The whole chain as the text that is hashed, in its order. For a server-side cursor.
SELECT seq, (extract(epoch FROM at) * 1000000)::bigint::text AS at_us, actor, action, target, reason,
    before::text AS before, after::text AS after, encode(prev_hash, 'hex') AS prev_hash, encode(hash, 'hex') AS hash
FROM dovetail.audit_log
ORDER BY seq

-- name: audit_head
-- The newest entry, and the hash that an older one has now: the head that was seen last must still be in the chain.
SELECT head.seq, encode(head.hash, 'hex') AS hash,
    (SELECT encode(hash, 'hex') FROM dovetail.audit_log WHERE seq = %(known)s) AS known_hash
FROM dovetail.audit_log AS head
ORDER BY head.seq DESC
LIMIT 1
