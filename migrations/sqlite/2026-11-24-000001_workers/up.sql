-- Processes that run functions; one row each, renewed by its heartbeat.
CREATE TABLE workers (
    name TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    -- JSON arrays of texts.
    queues TEXT NOT NULL,
    functions TEXT NOT NULL,
    concurrency BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    -- When it counts as gone, unless it says otherwise before.
    due_at BIGINT NOT NULL
);

-- What an outside service needs to complete a call later. The token is the right to do so, once.
CREATE TABLE callbacks (
    token TEXT NOT NULL PRIMARY KEY,
    execution_id TEXT NOT NULL,
    call_id BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    FOREIGN KEY (execution_id, call_id) REFERENCES calls (execution_id, call_id) ON DELETE CASCADE
);

CREATE INDEX callbacks_by_call ON callbacks (execution_id, call_id);

-- What the clock settles, and what it pushes to a queue that may be full, are found apart: a backlog of
-- the latter must not hide the former.
DROP INDEX calls_due;
CREATE INDEX calls_clocked ON calls (due_at)
    WHERE due_at IS NOT NULL AND NOT (status = 'pending' AND kind = 'function');
CREATE INDEX calls_to_push ON calls (queue, due_at, created_at) WHERE status = 'pending' AND kind = 'function';

-- Whether it was pushed since it became pending: when the queue has lost everything, such calls are pushed
-- again at once, and retries that are not due are left alone.
ALTER TABLE calls ADD COLUMN queued BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE calls SET queued = TRUE WHERE status = 'pending' AND kind = 'function' AND attempt = 1;
