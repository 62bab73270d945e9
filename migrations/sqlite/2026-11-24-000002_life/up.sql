-- The whole life of executions and calls: cancelled and paused executions, deadlines, children; signals, callbacks and
-- per-call options; named workflows; kept snapshots. SQLite cannot change a CHECK, so the tables are made anew.

CREATE TABLE new_executions (
    id TEXT NOT NULL PRIMARY KEY,
    workflow TEXT NOT NULL,
    source_hash TEXT NOT NULL REFERENCES sources (hash),
    queue TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('scheduled', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled')),
    -- How often it has paused.
    suspension BIGINT NOT NULL DEFAULT 0,
    -- The fence: grows by one with each won claim, and every later write repeats it.
    epoch BIGINT NOT NULL DEFAULT 0,
    claimed_by TEXT,
    -- The process that runs it with a queue of its own in memory (durable run); its calls and timers
    -- are nobody else's. Null when workers serve it.
    runner TEXT,
    -- scheduled: the start is overdue; running: the claim has expired; waiting: groups are looked at again, or the
    -- deadline is over, or a cancellation is to be told.
    due_at BIGINT,
    snapshot BLOB,
    snapshot_format TEXT,
    output TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT,
    -- Somebody paused it: it is not claimed, or not again, until somebody lets it go on.
    held BOOLEAN NOT NULL DEFAULT FALSE,
    cancel_requested_at BIGINT,
    -- The request has become cancelled calls, which the workflow sees.
    cancel_told BOOLEAN NOT NULL DEFAULT FALSE,
    -- When it is cancelled if it has not ended.
    deadline_at BIGINT,
    -- The call that waits for it.
    parent_execution_id TEXT,
    parent_call_id BIGINT,
    -- What the workflow last said of itself: JSON.
    progress TEXT,
    CHECK ((status = 'running') = (claimed_by IS NOT NULL)),
    CHECK (status <> 'running' OR due_at IS NOT NULL),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((status = 'completed') = (output IS NOT NULL)),
    CHECK ((status IN ('failed', 'cancelled')) = (error IS NOT NULL)),
    CHECK (status <> 'waiting' OR snapshot IS NOT NULL),
    CHECK ((snapshot IS NULL) = (snapshot_format IS NULL)),
    CHECK (status <> 'paused' OR held),
    CHECK ((parent_execution_id IS NULL) = (parent_call_id IS NULL))
);
INSERT INTO new_executions (id, workflow, source_hash, queue, status, suspension, epoch, claimed_by, runner, due_at,
        snapshot, snapshot_format, output, error, created_at, started_at, updated_at, finished_at)
    SELECT id, workflow, source_hash, queue, status, suspension, epoch, claimed_by, runner, due_at,
        snapshot, snapshot_format, output, error, created_at, started_at, updated_at, finished_at FROM executions;

CREATE TABLE new_origins (
    execution_id TEXT NOT NULL PRIMARY KEY REFERENCES new_executions (id) ON DELETE CASCADE,
    inputs TEXT NOT NULL,
    -- JSON that whoever started it wants to find again when it is resumed.
    launch TEXT,
    -- The first state: dictionary of all later snapshots.
    base_snapshot BLOB,
    base_format TEXT,
    -- Makes the tokens of its callbacks unguessable.
    secret TEXT,
    -- The execution whose snapshot it was started from, and which.
    forked_from TEXT,
    forked_at BIGINT,
    -- The id of its first call: above those of the lives before it, if it began anew.
    first_call BIGINT NOT NULL DEFAULT 0,
    -- What it began anew with, if it did; whoever starts it once more gives the first inputs.
    inputs_anew TEXT,
    CHECK ((base_snapshot IS NULL) = (base_format IS NULL))
);
INSERT INTO new_origins (execution_id, inputs, launch, base_snapshot, base_format)
    SELECT execution_id, inputs, launch, base_snapshot, base_format FROM origins;

CREATE TABLE new_calls (
    execution_id TEXT NOT NULL REFERENCES new_executions (id) ON DELETE CASCADE,
    call_id BIGINT NOT NULL,
    -- The suspension at which it became pending.
    resume_group BIGINT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('function', 'timer', 'signal', 'callback', 'child')),
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
    -- timer: fires; signal, callback: is given up; pending function: is pushed (again); running: its worker is given up.
    due_at BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    -- Whether it was pushed since it became pending: when the queue has lost everything, such calls are pushed
    -- again at once, and retries that are not due are left alone.
    queued BOOLEAN NOT NULL DEFAULT FALSE,
    -- What the workflow asked for this call alone: JSON.
    options TEXT,
    -- When it fails if it has no outcome, whatever attempts are left.
    deadline_at BIGINT,
    -- Failed attempts that count no more, because somebody had the call run again.
    forgiven BIGINT NOT NULL DEFAULT 0,
    -- What its function last said of itself: JSON.
    progress TEXT,
    PRIMARY KEY (execution_id, call_id),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)),
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (due_at IS NULL OR status IN ('pending', 'running')),
    CHECK (due_at IS NOT NULL OR kind IN ('signal', 'callback', 'child') OR status NOT IN ('pending', 'running'))
);
INSERT INTO new_calls (execution_id, call_id, resume_group, kind, function, args, kwargs, line, queue, status, wake_group,
        attempt, worker, result, error, delivered_in, due_at, created_at, started_at, completed_at, queued)
    SELECT execution_id, call_id, resume_group, kind, function, args, kwargs, line, queue, status, wake_group,
        attempt, worker, result, error, delivered_in, due_at, created_at, started_at, completed_at, queued FROM calls;
-- What an ended execution no longer waited for is nobody's to deliver.
UPDATE new_calls SET delivered_in = 0 WHERE status = 'cancelled' AND delivered_in IS NULL;

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

CREATE TABLE new_logs (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL REFERENCES new_executions (id) ON DELETE CASCADE,
    call_id BIGINT,
    attempt BIGINT,
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    text TEXT NOT NULL,
    at BIGINT NOT NULL
);
INSERT INTO new_logs SELECT id, execution_id, call_id, attempt, stream, text, at FROM logs;

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
DROP TABLE logs;
DROP TABLE attempts;
DROP TABLE calls;
DROP TABLE origins;
DROP TABLE executions;
ALTER TABLE new_executions RENAME TO executions;
ALTER TABLE new_origins RENAME TO origins;
ALTER TABLE new_calls RENAME TO calls;
ALTER TABLE new_attempts RENAME TO attempts;
ALTER TABLE new_logs RENAME TO logs;
ALTER TABLE new_callbacks RENAME TO callbacks;

CREATE INDEX executions_due ON executions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX executions_by_age ON executions (created_at, id);
CREATE INDEX executions_by_runner ON executions (runner, due_at) WHERE runner IS NOT NULL;
CREATE INDEX executions_by_parent ON executions (parent_execution_id) WHERE parent_execution_id IS NOT NULL;
CREATE INDEX calls_unsettled ON calls (execution_id, wake_group) WHERE status IN ('pending', 'running');
CREATE INDEX calls_undelivered ON calls (execution_id, wake_group)
    WHERE delivered_in IS NULL AND status IN ('completed', 'failed', 'cancelled');
CREATE INDEX calls_by_worker ON calls (worker) WHERE status = 'running';
CREATE INDEX logs_by_execution ON logs (execution_id, id);
CREATE INDEX callbacks_by_call ON callbacks (execution_id, call_id);
-- What the clock settles, and what it pushes to a queue that may be full, are found apart: a backlog of
-- the latter must not hide the former.
CREATE INDEX calls_clocked ON calls (due_at)
    WHERE due_at IS NOT NULL AND NOT (status = 'pending' AND kind = 'function');
CREATE INDEX calls_to_push ON calls (queue, due_at, created_at) WHERE status = 'pending' AND kind = 'function';

-- What was sent to executions, in order; kept until a call takes it.
CREATE TABLE signals (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
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
    snapshot BLOB NOT NULL,
    snapshot_format TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (execution_id, suspension)
);
CREATE INDEX snapshots_by_age ON snapshots (created_at);
