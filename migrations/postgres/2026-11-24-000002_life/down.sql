DROP TABLE snapshots;
DROP TABLE workflows;
DROP TABLE signals;
DROP INDEX calls_undelivered;
CREATE INDEX calls_undelivered ON calls (execution_id, wake_group)
    WHERE delivered_in IS NULL AND status IN ('completed', 'failed');
ALTER TABLE calls DROP COLUMN options, DROP COLUMN deadline_at, DROP COLUMN forgiven, DROP COLUMN progress;
ALTER TABLE origins DROP COLUMN secret, DROP COLUMN forked_from, DROP COLUMN forked_at;
DROP INDEX executions_by_parent;
DROP INDEX executions_by_runner;
-- The wider CHECKs stay: rows that need them may be there.
ALTER TABLE executions DROP COLUMN cancel_requested_at, DROP COLUMN cancel_told, DROP COLUMN deadline_at, DROP COLUMN progress;
