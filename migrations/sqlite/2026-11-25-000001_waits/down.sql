DROP INDEX signals_taken;
DROP INDEX calls_ending;
DROP INDEX calls_overdue;
-- Columns and the wider CHECK stay: rows that need them may be there.
