-- What processes share and nobody else knows.
CREATE TABLE secrets (
    -- `jobs`: what makes jobs in Redis unforgeable.
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO secrets (name, value) VALUES ('jobs', hex(randomblob(32)));
