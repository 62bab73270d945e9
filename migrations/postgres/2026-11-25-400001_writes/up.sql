-- The last transaction of each process that writes, committed with it: who lost the answer to a COMMIT looks here.
CREATE TABLE writers (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL
);

-- What processes share and nobody else knows.
CREATE TABLE secrets (
    -- `jobs`: what makes jobs in Redis unforgeable.
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO secrets (name, value) VALUES ('jobs', gen_random_uuid()::text || gen_random_uuid()::text);
