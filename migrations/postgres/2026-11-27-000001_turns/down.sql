ALTER TABLE executions DROP COLUMN claims;
