-- name: command_submit
-- An operator's wish, as the operator. The trigger sets who and when; a second one of its class violates the index.
INSERT INTO dovetail.command (relay, kind, arguments, reason)
VALUES (%(relay)s, %(kind)s, %(arguments)s::jsonb, %(reason)s)
RETURNING id, actor, created_at

-- name: command_active
-- The commands of some kinds that are not settled, oldest first. At most one per class.
SELECT id, kind, arguments, reason, actor, created_at, wanted, state, progress, outcome, settled_at
FROM dovetail.command
WHERE relay = %(relay)s AND kind = ANY(%(kinds)s) AND state IN ('pending', 'running', 'paused')
ORDER BY id

-- name: command_last
-- The newest command of a kind.
SELECT id, kind, arguments, reason, actor, created_at, wanted, state, progress, outcome, settled_at
FROM dovetail.command
WHERE relay = %(relay)s AND kind = %(kind)s
ORDER BY id DESC
LIMIT 1

-- name: command_row
-- One command as it is now.
SELECT id, kind, arguments, reason, actor, created_at, wanted, state, progress, outcome, settled_at
FROM dovetail.command
WHERE id = %(id)s

-- name: command_want
-- What an operator wants of a command that is not settled. A pending one is withdrawn by the trigger at once.
UPDATE dovetail.command SET wanted = %(wanted)s
WHERE id = %(id)s AND state IN ('pending', 'running', 'paused')
RETURNING state

-- name: command_take
-- The leader begins; no row where it was withdrawn or is settled. One that runs already is taken again after a crash.
UPDATE dovetail.command SET state = 'running'
WHERE id = %(id)s AND state IN ('pending', 'running', 'paused') AND (wanted = 'run' OR state = 'running')
RETURNING id

-- name: command_progress
-- How far the leader has come; keys that are not named stay.
UPDATE dovetail.command SET progress = progress || %(progress)s::jsonb
WHERE id = %(id)s AND state = 'running'

-- name: command_settle
-- The end of a command, once; no row where it was settled before.
UPDATE dovetail.command
SET state = %(state)s, outcome = %(outcome)s, settled_at = clock_timestamp(), progress = progress || %(progress)s::jsonb
WHERE id = %(id)s AND state IN ('pending', 'running', 'paused')
RETURNING kind, actor, reason, progress

-- name: command_audit
-- One entry of the audit log. Number, time, actor and hashes are set by the trigger.
INSERT INTO dovetail.audit_log (action, target, reason, before, after)
VALUES (%(action)s, %(target)s, %(reason)s, %(before)s::jsonb, %(after)s::jsonb)

-- name: command_patience
-- Whoever writes into the audit log waits for the writer before; a leader cannot wait for somebody who sleeps.
SELECT set_config('lock_timeout', '1000', true)
