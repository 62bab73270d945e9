ALTER TABLE calls DROP COLUMN queued;
DROP INDEX calls_to_push;
DROP INDEX calls_clocked;
CREATE INDEX calls_due ON calls (due_at) WHERE due_at IS NOT NULL;
DROP TABLE callbacks;
DROP TABLE workers;
