-- Claims in a row that came to nothing: no pause, no end. Whoever held them died, or gave up.
ALTER TABLE executions ADD COLUMN claims BIGINT NOT NULL DEFAULT 0;
