-- Times are microseconds since 1970-01-01 UTC. JSON is text. Enums are text with a CHECK.
-- `due_at`, on both tables: when the clock has to look at the row again; null when it need not.

CREATE TABLE sources (
    hash TEXT NOT NULL PRIMARY KEY,
    code TEXT NOT NULL
);

CREATE TABLE executions (
    id TEXT NOT NULL PRIMARY KEY,
    workflow TEXT NOT NULL,
    source_hash TEXT NOT NULL REFERENCES sources (hash),
    queue TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('scheduled', 'running', 'waiting', 'completed', 'failed')),
    -- How often it has paused.
    suspension BIGINT NOT NULL DEFAULT 0,
    -- The fence: grows by one with each won claim, and every later write repeats it.
    epoch BIGINT NOT NULL DEFAULT 0,
    claimed_by TEXT,
    -- The process that runs it with a queue of its own in memory (durable run); its calls and timers
    -- are nobody else's. Null when workers serve it.
    runner TEXT,
    -- scheduled: the start is overdue; running: the claim has expired; waiting: groups are looked at again.
    due_at BIGINT,
    snapshot BYTEA,
    snapshot_format TEXT,
    output TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT,
    CHECK ((status = 'running') = (claimed_by IS NOT NULL)),
    CHECK (status <> 'running' OR due_at IS NOT NULL),
    CHECK ((status IN ('completed', 'failed')) = (finished_at IS NOT NULL)),
    CHECK ((status = 'completed') = (output IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (status <> 'waiting' OR snapshot IS NOT NULL),
    CHECK ((snapshot IS NULL) = (snapshot_format IS NULL))
);

CREATE INDEX executions_due ON executions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX executions_by_age ON executions (created_at, id);

-- What an execution began with. Apart from the hot row, because it is written once and may be large.
CREATE TABLE origins (
    execution_id TEXT NOT NULL PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE,
    inputs TEXT NOT NULL,
    -- JSON that whoever started it wants to find again when it is resumed.
    launch TEXT,
    -- The first state: dictionary of all later snapshots.
    base_snapshot BYTEA,
    base_format TEXT,
    CHECK ((base_snapshot IS NULL) = (base_format IS NULL))
);

CREATE TABLE calls (
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    call_id BIGINT NOT NULL,
    -- The suspension at which it became pending.
    resume_group BIGINT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('function', 'timer')),
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
    -- timer: fires; pending function: is pushed (again); running: its worker is given up.
    due_at BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    PRIMARY KEY (execution_id, call_id),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)),
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK ((status IN ('pending', 'running')) = (due_at IS NOT NULL))
);

CREATE INDEX calls_due ON calls (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX calls_unsettled ON calls (execution_id, wake_group) WHERE status IN ('pending', 'running');
CREATE INDEX calls_undelivered ON calls (execution_id, wake_group)
    WHERE delivered_in IS NULL AND status IN ('completed', 'failed');
CREATE INDEX calls_by_worker ON calls (worker) WHERE status = 'running';

-- One row per attempt that failed and was, or will be, followed by another or by the call's failure.
CREATE TABLE attempts (
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
    FOREIGN KEY (execution_id, call_id) REFERENCES calls (execution_id, call_id) ON DELETE CASCADE
);

-- What workflows and functions wrote.
CREATE TABLE logs (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    call_id BIGINT,
    attempt BIGINT,
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    text TEXT NOT NULL,
    at BIGINT NOT NULL
);

CREATE INDEX logs_by_execution ON logs (execution_id, id);
