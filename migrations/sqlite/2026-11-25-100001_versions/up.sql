-- Code that executions ran before theirs was mended; the present is in `executions`.
CREATE TABLE versions (
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    -- From 1, in order.
    number BIGINT NOT NULL,
    -- The file name in tracebacks.
    workflow TEXT NOT NULL,
    source_hash TEXT NOT NULL REFERENCES sources (hash),
    -- What its states are compressed against.
    base_snapshot BLOB,
    base_format TEXT,
    -- The first pause whose state is another's.
    until_pause BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (execution_id, number)
);
