-- name: inbox_claim
-- Take one event for one consumer: one row when it is new, none when it was taken before (never an error).
INSERT INTO dovetail.inbox (consumer, event_id, event_day)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING;
