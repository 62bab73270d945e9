-- The whole life of executions and calls: cancelled and paused executions, deadlines, children; signals, callbacks and
-- per-call options; named workflows; kept snapshots.

ALTER TABLE executions
    -- Somebody paused it: it is not claimed, or not again, until somebody lets it go on.
    ADD COLUMN held BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN cancel_requested_at BIGINT,
    -- The request has become cancelled calls, which the workflow sees.
    ADD COLUMN cancel_told BOOLEAN NOT NULL DEFAULT FALSE,
    -- When it is cancelled if it has not ended.
    ADD COLUMN deadline_at BIGINT,
    -- The call that waits for it.
    ADD COLUMN parent_execution_id TEXT,
    ADD COLUMN parent_call_id BIGINT,
    -- What the workflow last said of itself: JSON.
    ADD COLUMN progress TEXT,
    DROP CONSTRAINT executions_status_check,
    DROP CONSTRAINT executions_check2,
    DROP CONSTRAINT executions_check4,
    ADD CHECK (status IN ('scheduled', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled')),
    ADD CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    ADD CHECK ((status IN ('failed', 'cancelled')) = (error IS NOT NULL)),
    ADD CHECK (status <> 'paused' OR held),
    ADD CHECK ((parent_execution_id IS NULL) = (parent_call_id IS NULL));

CREATE INDEX executions_by_runner ON executions (runner, due_at) WHERE runner IS NOT NULL;
CREATE INDEX executions_by_parent ON executions (parent_execution_id) WHERE parent_execution_id IS NOT NULL;

ALTER TABLE origins
    -- Makes the tokens of its callbacks unguessable.
    ADD COLUMN secret TEXT,
    -- The execution whose snapshot it was started from, and which.
    ADD COLUMN forked_from TEXT,
    ADD COLUMN forked_at BIGINT,
    -- The id of its first call: above those of the lives before it, if it began anew.
    ADD COLUMN first_call BIGINT NOT NULL DEFAULT 0,
    -- What it began anew with, if it did; whoever starts it once more gives the first inputs.
    ADD COLUMN inputs_anew TEXT;

ALTER TABLE calls
    -- What the workflow asked for this call alone: JSON.
    ADD COLUMN options TEXT,
    -- When it fails if it has no outcome, whatever attempts are left.
    ADD COLUMN deadline_at BIGINT,
    -- Failed attempts that count no more, because somebody had the call run again.
    ADD COLUMN forgiven BIGINT NOT NULL DEFAULT 0,
    -- What its function last said of itself: JSON.
    ADD COLUMN progress TEXT,
    DROP CONSTRAINT calls_kind_check,
    DROP CONSTRAINT calls_check3,
    ADD CHECK (kind IN ('function', 'timer', 'signal', 'callback', 'child')),
    ADD CHECK (due_at IS NULL OR status IN ('pending', 'running')),
    ADD CHECK (due_at IS NOT NULL OR kind IN ('signal', 'callback', 'child') OR status NOT IN ('pending', 'running'));

-- What an ended execution no longer waited for is nobody's to deliver.
UPDATE calls SET delivered_in = 0 WHERE status = 'cancelled' AND delivered_in IS NULL;
DROP INDEX calls_undelivered;
CREATE INDEX calls_undelivered ON calls (execution_id, wake_group)
    WHERE delivered_in IS NULL AND status IN ('completed', 'failed', 'cancelled');

-- What was sent to executions, in order; kept until a call takes it.
CREATE TABLE signals (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    payload TEXT NOT NULL,
    -- The sender's: the same key is the same signal.
    dedupe_key TEXT,
    sent_at BIGINT NOT NULL,
    -- The call that took it.
    call_id BIGINT,
    UNIQUE (execution_id, dedupe_key)
);
CREATE INDEX signals_kept ON signals (execution_id, name, id) WHERE call_id IS NULL;

-- Named workflows; the highest version is what new executions get.
CREATE TABLE workflows (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    -- The file name in tracebacks.
    file TEXT NOT NULL,
    source_hash TEXT NOT NULL REFERENCES sources (hash),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);

-- Earlier states, where they are kept.
CREATE TABLE snapshots (
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    suspension BIGINT NOT NULL,
    -- The claim under which it was saved.
    epoch BIGINT NOT NULL,
    snapshot BYTEA NOT NULL,
    snapshot_format TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (execution_id, suspension)
);
CREATE INDEX snapshots_by_age ON snapshots (created_at);
