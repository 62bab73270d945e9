DROP TABLE snapshots;
DROP TABLE workflows;
DROP TABLE signals;
-- Columns and the wider CHECKs stay: rows that need them may be there.
