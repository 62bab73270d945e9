-- Signals that workflows send, and waiting for the end of what was cancelled. SQLite cannot change a CHECK, so the
-- tables are made anew.

CREATE TABLE new_calls (
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    call_id BIGINT NOT NULL,
    -- The suspension at which it became pending.
    resume_group BIGINT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('function', 'timer', 'signal', 'callback', 'child', 'send', 'drain')),
    -- The function's name, the signal's, the child's workflow; in words for the others.
    function TEXT NOT NULL,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    line BIGINT,
    queue TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    -- null: any outcome wakes the execution; n: the last outcome of the group n, or a failure;
    -- 0: a failure only.
    wake_group BIGINT,
    -- The attempt that is to be made, is being made, or was the last; the fence of its writes.
    attempt BIGINT NOT NULL DEFAULT 1,
    worker TEXT,
    result TEXT,
    error TEXT,
    -- The epoch of the claim that handed the outcome to the workflow.
    delivered_in BIGINT,
    -- timer: fires; signal, callback: is given up; send, drain: is done; pending function: is pushed (again); running: its
    -- worker is given up.
    due_at BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    -- Whether it was pushed since it became pending: when the queue has lost everything, such calls are pushed
    -- again at once, and retries that are not due are left alone.
    queued BOOLEAN NOT NULL DEFAULT FALSE,
    -- What the workflow asked for this call alone: JSON.
    options TEXT,
    -- When it fails if it has no outcome, whatever attempts are left; a timer's instant.
    deadline_at BIGINT,
    -- Failed attempts that count no more, because somebody had the call run again.
    forgiven BIGINT NOT NULL DEFAULT 0,
    -- What its function last said of itself: JSON.
    progress TEXT,
    -- When no attempt of a cancelled function could run any more; null while one may.
    ended_at BIGINT,
    PRIMARY KEY (execution_id, call_id),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)),
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (due_at IS NULL OR status IN ('pending', 'running')),
    CHECK (due_at IS NOT NULL OR kind IN ('signal', 'callback', 'child') OR status NOT IN ('pending', 'running'))
);
INSERT INTO new_calls (execution_id, call_id, resume_group, kind, function, args, kwargs, line, queue, status, wake_group,
        attempt, worker, result, error, delivered_in, due_at, created_at, started_at, completed_at, queued, options,
        deadline_at, forgiven, progress)
    SELECT execution_id, call_id, resume_group, kind, function, args, kwargs, line, queue, status, wake_group,
        attempt, worker, result, error, delivered_in, due_at, created_at, started_at, completed_at, queued, options,
        deadline_at, forgiven, progress FROM calls;
-- What was cancelled before this was recorded is nobody's to wait for.
UPDATE new_calls SET ended_at = completed_at WHERE status = 'cancelled';

CREATE TABLE new_attempts (
    execution_id TEXT NOT NULL,
    call_id BIGINT NOT NULL,
    number BIGINT NOT NULL,
    worker TEXT,
    error TEXT NOT NULL,
    -- The worker was lost; the retry policy does not count such an attempt.
    lost BOOLEAN NOT NULL,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    PRIMARY KEY (execution_id, call_id, number),
    FOREIGN KEY (execution_id, call_id) REFERENCES new_calls (execution_id, call_id) ON DELETE CASCADE
);
INSERT INTO new_attempts SELECT execution_id, call_id, number, worker, error, lost, started_at, finished_at FROM attempts;

CREATE TABLE new_callbacks (
    token TEXT NOT NULL PRIMARY KEY,
    execution_id TEXT NOT NULL,
    call_id BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    FOREIGN KEY (execution_id, call_id) REFERENCES new_calls (execution_id, call_id) ON DELETE CASCADE
);
INSERT INTO new_callbacks SELECT token, execution_id, call_id, attempt, created_at FROM callbacks;

DROP TABLE callbacks;
DROP TABLE attempts;
DROP TABLE calls;
ALTER TABLE new_calls RENAME TO calls;
ALTER TABLE new_attempts RENAME TO attempts;
ALTER TABLE new_callbacks RENAME TO callbacks;

CREATE INDEX calls_unsettled ON calls (execution_id, wake_group) WHERE status IN ('pending', 'running');
CREATE INDEX calls_undelivered ON calls (execution_id, wake_group)
    WHERE delivered_in IS NULL AND status IN ('completed', 'failed', 'cancelled');
CREATE INDEX calls_by_worker ON calls (worker) WHERE status = 'running';
CREATE INDEX callbacks_by_call ON callbacks (execution_id, call_id);
-- What the clock settles, and what it pushes to a queue that may be full, are found apart: a backlog of
-- the latter must not hide the former.
CREATE INDEX calls_clocked ON calls (due_at)
    WHERE due_at IS NOT NULL AND NOT (status = 'pending' AND kind = 'function');
CREATE INDEX calls_to_push ON calls (queue, due_at, created_at) WHERE status = 'pending' AND kind = 'function';
-- What an execution waits for whose time may be over before the clock has come to it.
CREATE INDEX calls_overdue ON calls (execution_id, due_at)
    WHERE status = 'pending' AND kind IN ('timer', 'signal', 'callback');
-- Cancelled functions that may still run.
CREATE INDEX calls_ending ON calls (execution_id)
    WHERE status = 'cancelled' AND kind = 'function' AND ended_at IS NULL;
-- Signals that a call has taken.
CREATE INDEX signals_taken ON signals (execution_id, call_id) WHERE call_id IS NOT NULL;
