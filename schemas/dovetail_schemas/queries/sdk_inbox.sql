-- name: inbox_claim
-- Take one event for one consumer: one row when it is new, none when it was taken before (never an error).
-- A consumer tells Kafka afterwards that it is done, so the commit must survive a crash, whatever the default is.
INSERT INTO dovetail.inbox (consumer, event_id, event_day)
SELECT $1::text, $2::uuid, $3::smallint
WHERE CASE WHEN current_setting('synchronous_commit') = 'off'
    THEN set_config('synchronous_commit', 'on', true) IS NOT NULL ELSE true
END
ON CONFLICT DO NOTHING;

-- name: inbox_patience
-- A consumer that froze inside a transaction holds its receipts, and the partition's new owner waits for them: after so
-- many milliseconds the server ends it. Only where nothing stricter is set; for this transaction.
SELECT set_config('idle_in_transaction_session_timeout', $1::text, true)
WHERE current_setting('idle_in_transaction_session_timeout') = '0';
