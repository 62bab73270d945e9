-- Signals that workflows send, and waiting for the end of what was cancelled.

ALTER TABLE calls
    -- When no attempt of a cancelled function could run any more; null while one may.
    ADD COLUMN ended_at BIGINT,
    DROP CONSTRAINT calls_kind_check,
    ADD CHECK (kind IN ('function', 'timer', 'signal', 'callback', 'child', 'send', 'drain'));

-- What was cancelled before this was recorded is nobody's to wait for.
UPDATE calls SET ended_at = completed_at WHERE status = 'cancelled';

-- What an execution waits for whose time may be over before the clock has come to it.
CREATE INDEX calls_overdue ON calls (execution_id, due_at)
    WHERE status = 'pending' AND kind IN ('timer', 'signal', 'callback');
-- Cancelled functions that may still run.
CREATE INDEX calls_ending ON calls (execution_id)
    WHERE status = 'cancelled' AND kind = 'function' AND ended_at IS NULL;
-- Signals that a call has taken.
CREATE INDEX signals_taken ON signals (execution_id, call_id) WHERE call_id IS NOT NULL;
