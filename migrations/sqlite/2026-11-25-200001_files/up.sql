-- The files beside a workflow that its children run: a JSON object of their paths and the hashes of their texts in `sources`.
-- Null when there are none.
ALTER TABLE origins ADD COLUMN files TEXT;
ALTER TABLE workflows ADD COLUMN files TEXT;
-- Those of the code that ran before.
ALTER TABLE versions ADD COLUMN files TEXT;
