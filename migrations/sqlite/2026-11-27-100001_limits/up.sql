-- What executions have used of their limits, fair turns for children, and what is forgotten when nobody refers to it any more.

-- JSON: calls and children of this life, queues, how far ahead of the clock its lives and timers are. Null: nothing.
ALTER TABLE executions ADD COLUMN used TEXT;
-- How many parents are above it.
ALTER TABLE executions ADD COLUMN depth BIGINT NOT NULL DEFAULT 0;
-- The execution at the top of its tree; null for that itself.
ALTER TABLE executions ADD COLUMN root TEXT;
-- How much it has written to its log.
ALTER TABLE executions ADD COLUMN log_bytes BIGINT NOT NULL DEFAULT 0;
-- How many of its attempts ended with the loss of their worker; of those that failed, only some are kept.
ALTER TABLE calls ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
UPDATE calls SET lost = (SELECT count(*) FROM attempts
        WHERE attempts.execution_id = calls.execution_id AND attempts.call_id = calls.call_id AND attempts.lost)
    WHERE attempt > 1;

-- Children that wait for their first turn are taken up by trees, so that the many of one do not hide the few of another.
DROP INDEX executions_due;
CREATE INDEX executions_due ON executions (due_at)
    WHERE due_at IS NOT NULL AND NOT (status = 'scheduled' AND root IS NOT NULL AND runner IS NULL);
CREATE INDEX executions_to_begin ON executions (root, due_at)
    WHERE status = 'scheduled' AND root IS NOT NULL AND runner IS NULL;
CREATE INDEX executions_begin_next ON executions (due_at)
    WHERE status = 'scheduled' AND root IS NOT NULL AND runner IS NULL;
CREATE INDEX executions_of_tree ON executions (root) WHERE root IS NOT NULL AND finished_at IS NULL;

-- What is found when it is to be forgotten.
CREATE INDEX executions_ended ON executions (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX executions_by_source ON executions (source_hash);
CREATE INDEX workflows_by_source ON workflows (source_hash);
CREATE INDEX versions_by_source ON versions (source_hash);
-- Since when a text is kept; 0: since before this was recorded.
ALTER TABLE sources ADD COLUMN kept_at BIGINT NOT NULL DEFAULT 0;
-- Which texts belong together: those of a set of files, and those that run with it (`uses`). The former are kept while one of
-- the latter is.
CREATE TABLE bundles (
    -- Identifies the set.
    id TEXT NOT NULL,
    hash TEXT NOT NULL REFERENCES sources (hash) ON DELETE CASCADE,
    uses BOOLEAN NOT NULL,
    PRIMARY KEY (id, hash, uses)
);
CREATE INDEX bundles_by_hash ON bundles (hash);
INSERT INTO bundles (id, hash, uses)
    SELECT files, file.value, FALSE FROM
        (SELECT files FROM origins UNION SELECT files FROM workflows UNION SELECT files FROM versions) AS sets,
        json_each(files) AS file
    WHERE files IS NOT NULL
    UNION SELECT files, source_hash, TRUE FROM
        (SELECT origins.files, executions.source_hash FROM origins JOIN executions ON executions.id = origins.execution_id
        UNION SELECT files, source_hash FROM workflows UNION SELECT files, source_hash FROM versions) AS users
    WHERE files IS NOT NULL;
